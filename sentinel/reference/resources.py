"""The contract as JSON for what deploys and checks it: table resources, stream declarations, data flows, the schema that KQL is checked against.

Invariant: Bicep takes each file as it is (`loadJsonContent`), with the types in the spelling of the API that it goes to: a table says `dateTime`, a
stream `datetime`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from sentinel.content import LEAN_TRANSFORMS_DIRECTORY, transforms
from sentinel.tables import STREAMS, TABLES, Column, Table

_IDENTITY: Final = "source"
_TABLE_TYPES: Final = {"datetime": "dateTime"}
_KQL_TYPES: Final = {"boolean": "bool"}
_CONTENT_TYPES: Final = {"boolean": "Bool", "datetime": "DateTime"}


def table_resources() -> str:
    """`{table: {description, plan, retentionInDays, columns: [{name, type, description}]}}`, for workspaces/tables."""
    return _text(
        {
            table.name: {
                "description": table.description,
                # Rules read two of the tables at a time, which only this plan allows.
                "plan": "Analytics",
                "retentionInDays": table.retention_days,
                "columns": [
                    {"name": c.name, "type": _TABLE_TYPES.get(c.type, c.type), "description": c.description}
                    for c in table.columns
                ],
            }
            for table in TABLES
        }
    )


def streams() -> str:
    """`{stream: {columns: [{name, type}]}}`, for a rule's streamDeclarations."""
    return _text({name: {"columns": _declared(columns)} for name, _, columns in _all_streams()})


def dataflows(*, lean: bool = False) -> str:
    """`[{streams, outputStream, transformKql}]`, for a rule's dataFlows, to which a deployment adds its destinations.

    `lean`: with the transformations that drop what a SIEM seldom reads.
    """
    bodies = {stream: transform.body for stream, transform in transforms().items()}
    if lean:
        bodies |= {stream: transform.body for stream, transform in transforms(LEAN_TRANSFORMS_DIRECTORY).items()}
    return _text(
        [
            {"streams": [name], "outputStream": f"Custom-{table}", "transformKql": bodies.get(name, _IDENTITY)}
            for name, table, _ in _all_streams()
        ]
    )


def kql_schema() -> str:
    """`{tables: {table: {column: type}}, streams: {stream: {column: type}}}` with KQL's own type names."""
    return _text(
        {
            "tables": {table.name: _kql(table.columns) for table in TABLES},
            "streams": {name: _kql(columns) for name, _, columns in _all_streams()},
        }
    )


def custom_table(table: Table) -> str:
    """The table in the form in which the community's repository declares it to its own KQL check (CustomTables)."""
    types = ((column.name, _CONTENT_TYPES.get(column.type, column.type.capitalize())) for column in table.columns)
    return _text({"Name": table.name, "Properties": [{"Name": name, "Type": kind} for name, kind in types]})


def _all_streams() -> list[tuple[str, str, Sequence[Column]]]:
    """Stream, the table that it goes to, its columns."""
    own = [(table.stream, table.name, table.columns) for table in TABLES]
    return [*own, *((stream.name, stream.table, stream.columns) for stream in STREAMS)]


def _declared(columns: Sequence[Column]) -> list[dict[str, str]]:
    return [{"name": column.name, "type": column.type} for column in columns]


def _kql(columns: Sequence[Column]) -> dict[str, str]:
    return {column.name: _KQL_TYPES.get(column.type, column.type) for column in columns}


def _text(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
