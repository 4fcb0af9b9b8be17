"""Raw records to a frame of the fields that a stream declares: a fast path that never makes a Python object per record, and a lenient one.

Invariant: each record either is one row of the frame, in order, with its position under `_record`, or is a reject with its reason; both paths give
the same row for a record that both can read. The fast path is the kernel (native/records.c), or where that is missing pyarrow's JSON reader with the
declared schema. When it refuses a block (a type that flips, text that is no JSON), the block is halved until the records at fault stand in a block
small enough to be read leniently.

Fields are declared as `str`, `int`, `float`, `bool`, `[T]` for a list, `{"name": T}` for an object.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from native import kernel
from native import records as by_kernel

Kind = Any
"""`str | int | float | bool | [Kind] | {name: Kind}`: a declaration, not a value."""

Fields = Mapping[str, Kind]

RECORD: Final = "_record"
"""Column that holds a record's position in its raw segment."""

BLOCK_BYTES: Final = 2 * 1024 * 1024
"""What pyarrow's reader is given at once: it takes five times as much. The kernel takes no more than its result."""

LENIENT_BLOCK: Final = 64

_SCALARS: Final = {str: pa.string_view(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that cannot become a row, and why."""

    record: int
    reason: str


@dataclass(frozen=True, slots=True)
class Decoded:
    """The decoded records, the rejects, and how many records took the lenient path."""

    frame: pl.DataFrame
    rejects: list[Reject] = field(default_factory=list)
    lenient: int = 0


def arrow_type(kind: Kind) -> pa.DataType:
    """The Arrow type of a declaration."""
    if isinstance(kind, list):
        return pa.list_(arrow_type(kind[0]))
    if isinstance(kind, dict):
        return pa.struct([pa.field(name, arrow_type(inner)) for name, inner in kind.items()])
    return _SCALARS[kind]


def arrow_schema(fields: Fields) -> pa.Schema:
    """The Arrow schema of a stream's declared fields."""
    return pa.schema([pa.field(name, arrow_type(kind)) for name, kind in fields.items()])


def decode(records: pl.Series, fields: Fields, *, fast: bool = True) -> Decoded:
    """Decode the declared fields of `records` (binary, one JSON text each); everything else in them is left alone.

    `fast` False takes the lenient path for all of them: tests hold the two against each other.
    """
    schema = arrow_schema(fields)
    tables: list[pa.Table] = []
    positions: list[pa.Array] = []
    rejects: list[Reject] = []
    lenient = 0
    # A stack instead of recursion; blocks come off it in order.
    at_once = max(1, len(records) if kernel() else len(records) * BLOCK_BYTES // max(1, int(records.estimated_size())))
    blocks = [(low, min(low + at_once, len(records))) for low in range(0, len(records), at_once)][::-1]
    while blocks:
        low, high = blocks.pop()
        table = _fast(records.slice(low, high - low), schema) if fast else None
        if table is not None:
            tables.append(table)
            positions.append(pa.arange(low, high).cast(pa.int32()))
        elif high - low > LENIENT_BLOCK:
            middle = (low + high) // 2
            blocks += [(middle, high), (low, middle)]
        else:
            rows, at, refused = _lenient(records, low, high, fields)
            tables.append(pa.Table.from_pylist(rows, schema))
            positions.append(pa.array(at, pa.int32()))
            rejects += refused
            lenient += high - low
    whole = pa.concat_tables(tables) if tables else schema.empty_table()
    order = pa.chunked_array(positions, pa.int32())
    frame = pl.from_arrow(whole.append_column(RECORD, order))
    assert isinstance(frame, pl.DataFrame)
    return Decoded(frame, rejects, lenient)


def _fast(records: pl.Series, schema: pa.Schema) -> pa.Table | None:
    """The records as a table, or None when the reader refuses any of them."""
    try:
        texts = records.cast(pl.String)
    except pl.exceptions.ComputeError:
        # They are no UTF-8, which neither reader would mind.
        return None
    if kernel() is None:
        return _by_libraries(texts, schema)
    batch = by_kernel.decode(records, schema)
    return None if batch is None else pa.Table.from_batches([batch])


def _by_libraries(texts: pl.Series, schema: pa.Schema) -> pa.Table | None:
    # A record `null` passes pyarrow's reader as a row of nulls, and crashes the process when it comes alone (26.0.1, measured). Records
    # that begin and end as objects and have a raw line break between them, which no string may hold, cannot run into one another.
    if not (texts.str.starts_with("{") & texts.str.ends_with("}")).all():
        return None
    lines = texts.str.join("\n").to_arrow(compat_level=pl.CompatLevel.newest())[0].as_buffer()
    try:
        # One block, so that line breaks between a record's own tokens do no harm.
        table = pj.read_json(
            pa.BufferReader(lines),
            read_options=pj.ReadOptions(use_threads=False, block_size=lines.size + 1),
            parse_options=pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
        # The reader takes escapes that are no character, and NaN and Infinity, which are no JSON and would be above every threshold.
        table.validate(full=True)
    except pa.ArrowInvalid:
        return None
    if table.num_rows != len(texts) or not all(
        pc.all(pc.is_finite(real)).as_py() is not False for real in _reals(table.columns)
    ):
        return None
    return table.select(schema.names)


def _reals(columns: Iterable[pa.ChunkedArray]) -> Iterator[pa.ChunkedArray]:
    for column in columns:
        if pa.types.is_floating(column.type):
            yield column
        elif pa.types.is_struct(column.type):
            yield from _reals(column.flatten())
        elif pa.types.is_list(column.type) and not pa.types.is_string_view(column.type.value_type):
            yield from _reals([pc.list_flatten(column)])


def _lenient(
    records: pl.Series, low: int, high: int, fields: Fields
) -> tuple[list[dict[str, Any]], list[int], list[Reject]]:
    rows: list[dict[str, Any]] = []
    at: list[int] = []
    rejects: list[Reject] = []
    for position in range(low, high):
        try:
            value = json.loads(_unicode(records[position]))
        except RecursionError:
            rejects.append(Reject(position, "not JSON that can be read: nested too deeply"))
            continue
        except ValueError as error:
            rejects.append(Reject(position, f"not JSON ({type(error).__name__})"))
            continue
        if not isinstance(value, dict):
            rejects.append(Reject(position, f"not a JSON object but {_json_name(value)}"))
            continue
        rows.append({name: coerce(value.get(name), kind) for name, kind in fields.items()})
        at.append(position)
    return rows, at, rejects


def _unicode(raw: bytes) -> str:
    # Bytes that are no UTF-8 become U+FFFD: better a row with a broken text than an asset that is missing.
    return raw.decode("utf-8-sig", "replace")


def _json_name(value: object) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a text", list: "an array"}
    return names.get(type(value), "an object")


_TRUE: Final = frozenset({"true", "yes", "1"})
_FALSE: Final = frozenset({"false", "no", "0"})


def coerce(value: Any, kind: Kind) -> Any:
    """A JSON value as the declared kind, keeping what it says where the product's type flips; null where it says nothing of that kind.

    A number or boolean becomes the text that JSON writes; an object or list where a text is declared becomes its JSON; a single
    value where a list is declared becomes a list of one; "" where an object or list is declared is null.
    """
    if value is None:
        return None
    if isinstance(kind, list):
        if isinstance(value, list):
            return [coerce(item, kind[0]) for item in value]
        inner = None if value == "" else coerce(value, kind[0])
        return None if inner is None else [inner]
    if isinstance(kind, dict):
        if not isinstance(value, dict):
            return None
        return {name: coerce(value.get(name), inner) for name, inner in kind.items()}
    return _SCALAR_COERCIONS[kind](value)


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    # A lone surrogate is valid JSON and no valid UTF-8.
    return text.encode("utf-8", "replace").decode()


def _real(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _integer(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        try:
            return _integer(int(value))
        except ValueError:
            number = _real(value)
            return None if number is None else _integer(number)
    if isinstance(value, float):
        if not value.is_integer():
            return None
        value = int(value)
    return value if isinstance(value, int) and -(2**63) <= value < 2**63 else None


def _boolean(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower() if isinstance(value, str | int) else ""
    return True if text in _TRUE else False if text in _FALSE else None


_SCALAR_COERCIONS: Final = {str: _text, float: _real, int: _integer, bool: _boolean}
