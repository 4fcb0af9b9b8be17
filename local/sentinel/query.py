"""KQL over a store directory, with or without a process that serves it: `Workspace(dir).query("CAASM_Assets_CL | count")`.

Every table of the contract, and every table of Sentinel's own that our content reads, exists with all its columns, rows or no rows. A string is never null (KQL has no null string), a dynamic column is
JSON (what duckdb-kql takes for dynamic: `has`, `mv-expand`, `set_has_element` and `tostring` all work on it), a time is UTC.
The functions of sentinel/content are known as they are in the checkout, beside those that were saved with the workspace.
What duckdb-kql cannot run it refuses; it never approximates.
"""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from local.sentinel.foreign import foreign_tables
from local.sentinel.timespan import Interval
from sentinel.content import functions
from sentinel.tables import TABLES, Table

if TYPE_CHECKING:
    import duckdb

SQL_TYPES: Final = {
    "string": "VARCHAR",
    "int": "INTEGER",
    "long": "BIGINT",
    "real": "DOUBLE",
    "boolean": "BOOLEAN",
    "datetime": "TIMESTAMP",
    "dynamic": "JSON",
}
"""DuckDB type of a column of each declared type, as queries see it."""

_RECEIVED: Final = "_TimeReceived"


class QueryColumn(NamedTuple):
    """A column of a result: its name and its KQL type (string, int, long, real, bool, datetime, timespan, dynamic, guid, decimal)."""

    name: str
    type: str


class QueryResult(NamedTuple):
    """Columns and rows. Values: str, int, float, bool, UTC datetime, timedelta, whatever JSON holds for dynamic, None for null."""

    columns: list[QueryColumn]
    rows: list[list[Any]]


class QueryError(Exception):
    """A query that is refused; `code` says by whom: SyntaxError, SemanticError, or NotInEmulator when the real service may well run it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Workspace:
    """A store directory as a Log Analytics workspace. Safe to use from several threads; queries run one after the other."""

    def __init__(self, directory: Path | str, *, tables: Sequence[Table] = TABLES) -> None:
        self.directory = Path(directory)
        own = {table.name for table in tables}
        self._tables = (*tables, *(table for table in foreign_tables() if table.name not in own))
        self._lock = threading.Lock()
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._shapes: dict[Path, tuple[frozenset[str], frozenset[str]]] = {}
        self._viewed: object = None
        self._content = {function.name: function.declaration for function in functions()}
        self._functions: dict[str, str] = {}
        self._parsed: dict[None, Any] | None = None
        saved = self._functions_path
        if saved.exists():
            for name, text in json.loads(saved.read_text()).items():
                self._functions[name] = text

    @property
    def _functions_path(self) -> Path:
        return self.directory / "functions.json"

    def add_function(self, name: str, parameters: str, body: str) -> None:
        """Save a stored function with the workspace, `name(parameters) { body }`; one of the same name is replaced.

        The parameters are written as in KQL (`since:datetime, limit:long = 5`), without brackets. Raises QueryError when it does not parse.
        """
        from duckdb_kql.errors import KqlError

        text = f"function {name}({parameters}) {{\n{body}\n}}"
        try:
            _parsed(text)
        except (KqlError, ValueError) as error:
            raise QueryError("SyntaxError", str(error)) from error
        with self._lock:
            self._functions[name] = text
            self._parsed = None
            self.directory.mkdir(parents=True, exist_ok=True)
            unfinished = self._functions_path.with_suffix(".tmp")
            unfinished.write_text(json.dumps(self._functions, indent=1))
            unfinished.rename(self._functions_path)

    def query(self, kql: str, *, now: datetime | None = None, timespan: Interval | None = None) -> QueryResult:
        """Run a query over everything that is in files at this moment.

        `now` is what now() and ago() see (default: the clock); `timespan` restricts TimeGenerated of every table, both ends included, as the
        query API's parameter does. Raises QueryError.
        """
        import duckdb
        import duckdb_kql
        from duckdb_kql.errors import KqlSyntaxError, KqlUnsupportedError

        with self._lock:
            connection = self._connect()
            self._create_views(connection, timespan)
            try:
                relation = duckdb_kql.query(
                    connection,
                    kql,
                    query_now=now or datetime.now(UTC),
                    allow_write=False,
                    functions=self._parse_functions(),
                )
                if relation is None:
                    raise QueryError("SyntaxError", "the query gives no table")
                kinds = [str(kind) for kind in relation.types]
                names = list(relation.columns)
                rows = relation.fetchall()
            except KqlSyntaxError as error:
                raise QueryError("SyntaxError", str(error)) from error
            except KqlUnsupportedError as error:
                raise QueryError("NotInEmulator", f"duckdb-kql does not run this: {error}") from error
            except (duckdb_kql.KqlError, duckdb.Error, ValueError) as error:
                raise QueryError("SemanticError", str(error)) from error
        return _result(names, kinds, rows)

    def _parse_functions(self) -> dict[None, Any]:
        """Every function; those saved with the workspace go before ours."""
        if self._parsed is None:
            texts = (self._content | self._functions).values()
            self._parsed = {None: {name: function for text in texts for name, function in _parsed(text).items()}}
        return self._parsed

    def _connect(self) -> duckdb.DuckDBPyConnection:
        if self._connection is None:
            import duckdb_kql

            self._connection = duckdb_kql.connect()
            # A type that DuckDB lacks here is a defect of ours, not a reason to fetch an extension from the network.
            self._connection.execute("SET autoinstall_known_extensions = false")
        return self._connection

    def _create_views(self, connection: duckdb.DuckDBPyConnection, timespan: Interval | None) -> None:
        files = {table.name: sorted((self.directory / table.name).glob("*.parquet")) for table in self._tables}
        wanted = (tuple(tuple(paths) for paths in files.values()), timespan)
        if self._viewed == wanted:
            return
        self._learn_shapes(connection, [path for paths in files.values() for path in paths])
        for table in self._tables:
            connection.execute(
                f'CREATE OR REPLACE VIEW "{table.name}" AS {self._view(table, files[table.name], timespan)}'
            )
        self._viewed = wanted

    def _learn_shapes(self, connection: duckdb.DuckDBPyConnection, paths: Iterable[Path]) -> None:
        """For each file not seen before, which columns it has, and which of them are lists."""
        new = [path for path in paths if path not in self._shapes]
        if not new:
            return
        rows = connection.execute(
            "SELECT file_name, name, num_children FROM parquet_schema($files)", {"files": [str(path) for path in new]}
        ).fetchall()
        columns: dict[str, set[str]] = defaultdict(set)
        lists: dict[str, set[str]] = defaultdict(set)
        for file, name, children in rows:
            columns[file].add(name)
            if children:
                lists[file].add(name)
        for path in new:
            self._shapes[path] = (frozenset(columns[str(path)]), frozenset(lists[str(path)]))

    def _view(self, table: Table, files: Sequence[Path], timespan: Interval | None) -> str:
        """One SELECT per shape of file, over all files of that shape."""
        groups: dict[tuple[frozenset[str], frozenset[str]], list[Path]] = defaultdict(list)
        for path in files:
            groups[self._shapes[path]].append(path)
        condition = "" if timespan is None else f" WHERE {timespan.sql('TimeGenerated')}"
        selects = []
        for (columns, lists), paths in groups.items():
            expressions = ", ".join(_expression(name, kind, columns, lists) for name, kind in _columns(table))
            names = ", ".join("'" + str(path).replace("'", "''") + "'" for path in paths)
            source = f"read_parquet([{names}], union_by_name=true)"
            # Names are those of the table contract and of our own files, both quoted.
            selects.append(f"SELECT {expressions} FROM {source}{condition}")  # noqa: S608 - see above
        if not selects:
            empty = ", ".join(f'NULL::{SQL_TYPES[kind]} AS "{name}"' for name, kind in _columns(table))
            selects.append(f"SELECT {empty} WHERE false")
        return " UNION ALL ".join(selects)


@lru_cache(maxsize=256)
def _parsed(text: str) -> dict[str, Any]:
    """A function by its name. Parsing all of ours takes longer than most queries, so a process does it once, for all workspaces."""
    from duckdb_kql.stored_functions import parse_functions

    found: dict[None, dict[str, Any]] = parse_functions([text])
    return found[None]


def _columns(table: Table) -> list[tuple[str, str]]:
    return [*((column.name, column.type) for column in table.columns), (_RECEIVED, "datetime")]


def _expression(name: str, kind: str, columns: frozenset[str], lists: frozenset[str]) -> str:
    source = f'"{name}"' if name in columns else f"NULL::{SQL_TYPES[kind]}"
    if kind == "string":
        source = f"coalesce({source}, '')"
    elif kind == "dynamic":
        source = f"to_json({source})::JSON" if name in lists else f"{source}::JSON"
    return f'{source} AS "{name}"'


def _result(names: Sequence[str], kinds: Sequence[str], rows: Iterable[Sequence[Any]]) -> QueryResult:
    from duckdb_kql.types import kusto_type

    columns = [QueryColumn(name, kusto_type(kind)) for name, kind in zip(names, kinds, strict=True)]
    converters = [_CONVERTERS.get(column.type, _as_is) for column in columns]
    return QueryResult(
        columns, [[convert(value) for convert, value in zip(converters, row, strict=True)] for row in rows]
    )


def _as_is(value: Any) -> Any:
    return value


def _text(value: Any) -> Any:
    return "" if value is None else value


def _moment(value: Any) -> Any:
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) and value.tzinfo is None else value


def _document(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def _guid(value: Any) -> Any:
    return None if value is None else str(value)


_CONVERTERS: Final = {"string": _text, "datetime": _moment, "dynamic": _document, "guid": _guid}
