"""The table contract holds the service's rules, and the transforms hold to the contract."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import get_args

import polars as pl
import pyarrow as pa
import pytest

from sentinel.tables import (
    ASSETS,
    BY_NAME,
    BY_STREAM,
    EVENT_SEVERITY,
    SEVERITIES,
    TABLES,
    Column,
    ColumnType,
    Table,
    problems,
)
from transforms.decode import RECORD, decode
from transforms.registry import TRANSFORMS
from transforms.rows import TYPES, Envelope, flatten, schema

ENVELOPE = Envelope("run", datetime(2025, 1, 1, tzinfo=UTC), "Snapshot")


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_table_breaks_no_rule(table: Table) -> None:
    """problems() finds nothing in what is declared."""
    assert problems(table) == []


def _with(*columns: Column) -> Table:
    return replace(ASSETS, columns=(*ASSETS.columns, *columns))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (replace(ASSETS, name="CAASM_Assets"), "ends in _CL"),
        (replace(ASSETS, stream="CAASM_Assets"), "begins with Custom-"),
        (_with(Column("assetid", "string", "Again.")), "twice"),
        (_with(Column("Type", "string", "Reserved.")), "reserved"),
        (_with(Column("1st", "string", "A digit first.")), "a letter first"),
        (_with(Column("A" * 46, "string", "Too long.")), "2 to 45 characters"),
        (_with(Column("A-b", "string", "A dash.")), "a letter first"),
        (_with(Column("Größe", "string", "No ASCII.")), "a letter first"),
        (_with(Column("Wordless", "string", "")), "needs a description"),
        (_with(*(Column(f"C{at}", "string", "One of many.") for at in range(500))), "at most 500"),
        (replace(ASSETS, columns=ASSETS.columns[::-1]), "first column is TimeGenerated"),
        (replace(ASSETS, key="Nothing"), "is no column"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_broken_rule_is_found(table: Table, words: str) -> None:
    """problems() names each mistake that is put into a good declaration."""
    assert any(words in problem for problem in problems(table))


def test_every_declared_type_has_a_polars_type() -> None:
    """Neither more nor fewer."""
    assert set(TYPES) == set(get_args(ColumnType))


def test_tables_are_found_by_their_names() -> None:
    """By table and by stream, each once; a column by its name."""
    assert [*BY_NAME.values()] == [*BY_STREAM.values()] == [*TABLES]
    assert ASSETS.column("AssetId").type == "string"
    with pytest.raises(KeyError, match="no column 'Nothing'"):
        ASSETS.column("Nothing")


def test_each_severity_has_a_level_of_asim() -> None:
    """The five levels and Unknown, each on one of ASIM's four."""
    assert set(EVENT_SEVERITY) == set(SEVERITIES)
    assert set(EVENT_SEVERITY.values()) == {"High", "Medium", "Low", "Informational"}


@pytest.mark.parametrize("name", TRANSFORMS, ids="/".join)
def test_a_transform_gives_only_columns_of_its_table(name: tuple[str, str]) -> None:
    """What flatten gives exists in the table, casts to its type, and leaves the envelope to the run."""
    transform = TRANSFORMS[name]
    given = (
        decode(pa.array([b"{}"], pa.binary()), transform.fields).frame.lazy().pipe(transform.flatten).collect_schema()
    )
    columns = set(given) - {RECORD}
    assert columns <= set(transform.table.names)
    assert {"EntityOriginalId", transform.table.key} <= columns
    assert not columns & {
        "TimeGenerated",
        "EntityFeedType",
        "EntitySnapshotId",
        "EntityVendor",
        "EntityProduct",
        "SourceStream",
    }
    lists = {column.name for column in transform.table.columns if column.type == "dynamic"} & columns
    assert {column for column in columns if isinstance(given[column], pl.List)} == lists


@pytest.mark.parametrize("name", TRANSFORMS, ids="/".join)
def test_rows_have_exactly_the_columns_and_types_of_the_table(name: tuple[str, str]) -> None:
    """In the table's order, also when no record is a row."""
    transform = TRANSFORMS[name]
    for records in ([], [b"{}"], [b'{"id":"1","finding_id":"1"}']):
        rows = flatten(transform, pa.array(records, pa.binary()), ENVELOPE).rows
        assert dict(rows.drop(RECORD).schema) == schema(transform.table)
        assert rows.columns == [*transform.table.names, RECORD]
