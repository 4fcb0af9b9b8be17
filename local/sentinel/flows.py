"""The data flows of the rule: for each stream the columns that it takes, the table that its rows go to, and the transformation on the way.

Invariant: a stream without a transformation, or with `source`, costs nothing; of another, KQL is translated once, when the rule is made, and its result
has only columns of the table, of their types, or the rule is refused as the service refuses it at deployment.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from local.sentinel.query import SQL_TYPES
from sentinel.content import LEAN_TRANSFORMS_DIRECTORY, transforms
from sentinel.tables import STREAMS, Stream, Table

if TYPE_CHECKING:
    import duckdb

ARROW_TYPES: Final = {
    "string": pa.string(),
    "int": pa.int32(),
    "long": pa.int64(),
    "real": pa.float64(),
    "boolean": pa.bool_(),
    "datetime": pa.timestamp("us"),
    "dynamic": pa.string(),
}
"""Arrow types of a transformation's result; a dynamic is its JSON text."""

_KQL_TYPES: Final = {"boolean": "bool"}


class RuleError(ValueError):
    """A transformation that the rule cannot have; the message says why."""


@dataclass(frozen=True, slots=True)
class Flow:
    """How rows of a stream come into their table."""

    declared: Table | Stream
    table: Table
    transform: RowTransform | None = None


def flows(tables: Sequence[Table], *, lean: bool = False) -> dict[str, Flow]:
    """Every stream of the rule, by name: those of the tables, and those of other senders to them. Raises RuleError.

    `lean`: with the transformations that drop what a SIEM seldom reads, instead of none.
    """
    bodies = {name: one.body for name, one in transforms().items()}
    if lean:
        bodies |= {name: one.body for name, one in transforms(LEAN_TRANSFORMS_DIRECTORY).items()}
    by_name = {table.name: table for table in tables}
    found = {table.stream: _flow(table, table, bodies.get(table.stream)) for table in tables}
    for stream in STREAMS:
        if stream.table in by_name:
            found[stream.name] = _flow(stream, by_name[stream.table], bodies.get(stream.name))
    return found


def _flow(declared: Table | Stream, table: Table, body: str | None) -> Flow:
    if body is None or body.strip() == "source":
        return Flow(declared, table)
    return Flow(declared, table, RowTransform(declared, table, body))


class RowTransform:
    """A transformation of batches, for several threads at a time. Raises RuleError when it does not run or does not fit the table."""

    def __init__(self, declared: Table | Stream, table: Table, body: str) -> None:
        import duckdb
        import duckdb_kql

        self._declared = declared
        self._table = table
        self._local = threading.local()
        try:
            self._sql = str(duckdb_kql.to_sql(body, allow_write=False))
            given = self._given(self._run(_empty(declared)))
        except (duckdb_kql.KqlError, duckdb.Error) as error:
            raise RuleError(f"{declared.name}: the transformation does not run: {error}") from error
        problems = _misfits(given, table)
        if problems:
            raise RuleError(f"{declared.name}: {'; '.join(problems)}")
        self._select = ", ".join(_output(column.name, column.type, given) for column in table.columns)

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows of the table that the transformation makes of received rows of the stream, in their order."""
        relation = self._run(batch).project(self._select)
        schema = pa.schema([(column.name, ARROW_TYPES[column.type]) for column in self._table.columns])
        rows = relation.to_arrow_table().cast(schema).combine_chunks()
        batches = rows.to_batches()
        return batches[0] if batches else pa.RecordBatch.from_pylist([], schema)

    def _run(self, batch: pa.RecordBatch) -> duckdb.DuckDBPyRelation:
        connection = self._connection()
        connection.register("_received", pa.Table.from_batches([batch]))
        inputs = ", ".join(_input(column.name, column.type, batch) for column in self._declared.columns)
        connection.execute(f"CREATE OR REPLACE TEMP VIEW source AS SELECT {inputs} FROM _received")  # noqa: S608 - names of the contract
        return connection.sql(self._sql)

    def _connection(self) -> duckdb.DuckDBPyConnection:
        """One a thread: what is received by one is not seen by another."""
        found: duckdb.DuckDBPyConnection | None = getattr(self._local, "connection", None)
        if found is None:
            import duckdb_kql

            found = duckdb_kql.connect()
            found.execute("SET threads = 1")
            found.execute("SET autoinstall_known_extensions = false")
            self._local.connection = found
        return found

    @staticmethod
    def _given(relation: duckdb.DuckDBPyRelation) -> dict[str, str]:
        from duckdb_kql.types import kusto_type

        kinds = zip(relation.columns, relation.types, strict=True)
        return {name: kusto_type(str(kind)) for name, kind in kinds}


def _empty(declared: Table | Stream) -> pa.RecordBatch:
    kinds = {column.name: ARROW_TYPES[column.type] for column in declared.columns}
    return pa.RecordBatch.from_pylist([], pa.schema(list(kinds.items())))


def _misfits(given: Mapping[str, str], table: Table) -> list[str]:
    wanted = {column.name: _KQL_TYPES.get(column.type, column.type) for column in table.columns}
    found = [f"{table.name} has no column {name}" for name in given if name not in wanted]
    found += [
        f"{name} is {kind}, in {table.name} it is {wanted[name]}"
        for name, kind in given.items()
        if name in wanted and kind != wanted[name]
    ]
    return found if "TimeGenerated" in given else [*found, "the result has no TimeGenerated"]


def _input(name: str, kind: str, batch: pa.RecordBatch) -> str:
    """As a query sees it: texts are never null, a dynamic is JSON."""
    if kind == "string":
        return f'coalesce("{name}", \'\') AS "{name}"'
    if kind == "dynamic":
        listed = pa.types.is_list(batch.schema.field(name).type)
        return f'to_json("{name}")::JSON AS "{name}"' if listed else f'"{name}"::JSON AS "{name}"'
    return f'"{name}"'


def _output(name: str, kind: str, given: Mapping[str, Any]) -> str:
    sql_type = "VARCHAR" if kind == "dynamic" else SQL_TYPES[kind]
    return f'"{name}"::{sql_type} AS "{name}"' if name in given else f'NULL::{sql_type} AS "{name}"'
