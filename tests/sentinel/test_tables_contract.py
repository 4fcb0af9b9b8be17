"""The table contract holds the service's rules, and the transforms hold to the contract."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import cast, get_args

import polars as pl
import pytest

from sentinel.contract import STREAM_LIMIT, fits, problems, rule_problems, stream_problems
from sentinel.tables import (
    ASSETS,
    BY_NAME,
    BY_STREAM,
    EVENT_SEVERITY,
    FINDING_REPORTS,
    FINDINGS,
    RELATIONSHIPS,
    RUNS,
    SEVERITIES,
    STREAMS,
    TABLES,
    Column,
    ColumnType,
    Stream,
    Table,
)
from transforms.decode import RECORD, decode
from transforms.registry import TRANSFORMS
from transforms.rows import TYPES, Envelope, flatten, schema

ASIM = {
    "EntityFeedType", "EntitySnapshotId", "EntityIsDeleted", "EntityVendor", "EntityProduct", "EntityOriginalId",
    "AssetType", "AssetOriginalType", "AssetRiskLevel", "AssetOriginalRiskLevel",
    "DvcHostname", "DvcDomain", "DvcFQDN", "DvcIpAddr", "DvcMacAddr", "DvcOs", "DvcOsVersion", "DvcZone", "DvcId", "DvcScopeId", "DeviceType",
    "Username", "EventSeverity", "EventOriginalSeverity",
}  # fmt: skip
"""Fields of ASIM's asset envelope, device and user entities and common fields that the contract borrows (normalization-schema-asset,
normalization-entity-device, normalization-entity-user, normalization-common-fields)."""

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
        (replace(ASSETS, columns=()), "first column is TimeGenerated"),
        (replace(ASSETS, name="CAASM-Assets_CL"), "ends in _CL"),
        (replace(ASSETS, retention_days=3), "kept for 3 days"),
        (replace(ASSETS, retention_days=731), "kept for 731 days"),
        (_with(Column("Of", cast("ColumnType", "guid"), "A type of tables only.", "x")), "is no type of a stream"),
        (_with(Column("Without", "string", "No example.")), "its example None is no string"),
        (_with(Column("Small", "int", "Over 32 bits.", 2**31)), "is no int"),
        (_with(Column("Whole", "real", "An integer.", 1)), "is no real"),
        (_with(Column("Truth", "long", "A boolean.", True)), "is no long"),
        (_with(Column("Late", "datetime", "Without decimals.", "2026-11-20T02:00:00Z")), "is no datetime"),
        (_with(Column("Never", "datetime", "No such day.", "2026-02-30T02:00:00.000000Z")), "is no datetime"),
        (_with(Column("List", "dynamic", "Not of texts.", ())), "is no dynamic"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_broken_rule_is_found(table: Table, words: str) -> None:
    """problems() names each mistake that is put into a good declaration."""
    assert any(words in problem for problem in problems(table))


def test_streams_of_others_and_the_whole_rule_break_no_rule() -> None:
    """One data collection rule can take all of them."""
    assert [stream_problems(stream, TABLES) for stream in STREAMS] == [[]] * len(STREAMS)
    assert rule_problems(TABLES, STREAMS) == []


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        (replace(FINDING_REPORTS, name="CAASM_FindingReports"), "begins with Custom-"),
        (replace(FINDING_REPORTS, table="Findings_CL"), "there is no table 'Findings_CL'"),
        (replace(FINDING_REPORTS, columns=(Column("Title", "string", "Reserved.", "x"),)), "reserved"),
    ],
    ids=["name", "table", "column"],
)
def test_a_broken_rule_of_a_stream_is_found(stream: Stream, words: str) -> None:
    """Its own name, its table, its columns."""
    assert any(words in problem for problem in stream_problems(stream, TABLES))


def test_a_rule_takes_ten_streams_each_of_its_own_name() -> None:
    """What the service refuses at deployment is refused here."""
    many = [replace(FINDING_REPORTS, name=f"Custom-S{at}") for at in range(STREAM_LIMIT)]
    assert any("10 at most" in problem for problem in rule_problems(TABLES, many))
    assert rule_problems(TABLES, [replace(FINDING_REPORTS, name=ASSETS.stream)]) == [
        "Custom-CAASM_Assets: declared twice"
    ]


def test_examples_of_all_tables_belong_together() -> None:
    """The finding is on the asset, the relation starts at it, the run sent the rows."""
    asset = ASSETS.column("AssetId").example
    assert FINDINGS.column("AssetId").example == RELATIONSHIPS.column("FromId").example == asset
    runs = {table.column("EntitySnapshotId").example for table in (ASSETS, FINDINGS, RELATIONSHIPS)}
    assert runs == {RUNS.column("RunId").example}
    severity = FINDINGS.column("Severity").example
    assert FINDINGS.column("EventSeverity").example == EVENT_SEVERITY[str(severity)]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_column_follows_asim_under_asims_own_name(table: Table) -> None:
    """A counterpart is a field that ASIM has, and a column of ASIM's name has ASIM's meaning."""
    named = {column.name: column.asim for column in table.columns if column.asim}
    assert set(named.values()) <= ASIM
    assert {name for name in table.names if name in ASIM - {"AssetType"}} <= {
        name for name, asim in named.items() if name == asim
    }


@pytest.mark.parametrize("kind", get_args(ColumnType))
def test_examples_of_a_type_fit_no_other_but_wider_ones(kind: ColumnType) -> None:
    """An int fits a long and a time is a text; nothing else is two things."""
    example = next(column.example for table in TABLES for column in table.columns if column.type == kind)
    wider = {"int": {"long"}, "long": {"int"}, "datetime": {"string"}}.get(kind, set())
    assert {other for other in get_args(ColumnType) if fits(example, other)} <= {kind} | wider
    assert fits(example, kind)


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
        decode(pl.Series([b"{}"], dtype=pl.Binary), transform.fields)
        .frame.lazy()
        .pipe(transform.flatten)
        .collect_schema()
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
        rows = flatten(transform, pl.Series(records, dtype=pl.Binary), ENVELOPE).rows
        assert dict(rows.drop(RECORD).schema) == schema(transform.table)
        assert rows.columns == [*transform.table.names, RECORD]
