"""Tables of a Sentinel workspace that this app does not fill and its content reads (SecurityAlert, …): they exist in the emulator, and can be given rows.

Invariant: a table's columns are those of local/kqlcheck/workspace.json, so what the KQL check knows is what queries find.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Final, cast

from local.kqlcheck import workspace
from sentinel.tables import Column, ColumnType, Table

ALERTS: Final = "SecurityAlert"

_KEYS: Final = {ALERTS: "SystemAlertId", "SecurityIncident": "IncidentName"}


@cache
def foreign_tables() -> tuple[Table, ...]:
    """Each of them as a declaration without a stream: no data collection rule feeds it."""
    declared, _ = workspace()
    return tuple(
        Table(name, "", _KEYS[name], "A table of the workspace's own.", _columns(columns))
        for name, columns in declared.items()
    )


def _columns(columns: Mapping[str, str]) -> tuple[Column, ...]:
    kinds = {"bool": "boolean"}
    return tuple(Column(name, cast("ColumnType", kinds.get(kind, kind)), "") for name, kind in columns.items())


def put_rows(directory: Path, name: str, rows: Iterable[Mapping[str, Any]]) -> int:
    """Make these the rows of the table in a store directory, instead of those that it had; gives their number.

    Columns that the table lacks are left out, as at ingestion; an array or object in a text column becomes its JSON text.
    """
    import pyarrow as pa

    from local.sentinel.decode import TYPES
    from local.sentinel.rules import columns_of
    from local.sentinel.store import Store

    (declared,) = (one for one in foreign_tables() if one.name == name)
    # A dynamic is kept as JSON text, which is a text.
    table = replace(
        declared, columns=tuple(replace(c, type="string") if c.type == "dynamic" else c for c in declared.columns)
    )
    shutil.rmtree(directory / name, ignore_errors=True)
    objects = [_flat(row) for row in rows]
    columns, _ = columns_of(objects, table)
    kinds = {**TYPES, "dynamic": pa.string()}
    arrays = [pa.array(columns[column.name], kinds[column.type]) for column in declared.columns]
    store = Store(directory)
    store.add(name, pa.RecordBatch.from_arrays(arrays, names=list(declared.names)))
    store.flush()
    return len(objects)


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: json.dumps(value) if isinstance(value, list | dict) else value for name, value in row.items()}
