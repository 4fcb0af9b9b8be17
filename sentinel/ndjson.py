"""Rows to NDJSON without an object per row: by the kernel (native/lines.c), or where that cannot, the values of a column become JSON together and the lines are joined of them.

Invariant: a line is one row as a JSON object of the columns that have a value there, in the frame's order, ended by a newline, which stands nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Final, TypeAlias

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from polars import selectors

from native import lines

_TEXT: Final = pa.large_string()
_TEXTS: Final = pa.large_list(_TEXT)
_NOTHING: Final = pa.scalar("", _TEXT)
_END: Final = "}\n"

_FIRST, _LAST = -62_135_596_800_000_000, 253_402_300_799_999_999
"""The years that have four digits, in microseconds."""

Piece: TypeAlias = str | pa.LargeStringArray
"""A part of the lines: the same text in all, or a text for each (null: none)."""

Value: TypeAlias = tuple[str, pa.LargeStringArray, str]
"""A column's values as JSON: what stands before each, their texts, what stands behind each."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Rows as NDJSON, each line ended by a newline. `ends`: where in `content` the rows begin, and behind them where the last one ends; `heads`: how many
    bytes of each row the columns take that were to stand first, brace and comma included."""

    content: pa.Buffer
    ends: pl.Series
    heads: pl.Series

    def tails(self) -> pl.Series:
        """Of each row what stands behind its head, without the brace and the newline that end it: as binary, where it lies in the content."""
        stops = self.ends[1:] - len(_END)
        begins = pl.select(pl.min_horizontal(self.ends[:-1] + self.heads, stops)).to_series()
        # An Arrow array over the content: of each row its head, its tail, and what ends it.
        cuts = pl.concat([self.ends, begins, stops]).sort()
        parts = pa.Array.from_buffers(
            pa.large_binary(), len(cuts) - 1, [None, cuts.to_arrow().buffers()[1], self.content]
        )
        return pl.Series(parts, dtype=pl.Binary).gather_every(3, 1)


def encode(rows: pl.DataFrame) -> bytes:
    """The rows as NDJSON, UTF-8, each line ended by a newline; fields that are null are left out."""
    return bytes(encoded(rows).content)


def encoded(rows: pl.DataFrame, first: int = 1, *, in_order: bool = False) -> Encoded:
    """As `encode`, with where what is; `first`: how many columns the heads are of; `in_order`: with the elements of each list in order.

    Datetimes become ISO 8601 UTC with six decimals and a Z, which every table plan accepts. The first column must never be null (it is
    TimeGenerated), so that a row never begins with a comma: raises ValueError when it is.
    """
    made = by_kernel(rows, first, in_order=in_order)
    return made or _by_libraries(with_lists_in_order(rows) if in_order else rows, first)


def by_kernel(rows: pl.DataFrame, first: int = 1, *, in_order: bool = False) -> Encoded | None:
    """As `encoded`; None where the kernel is missing, or leaves a value to the libraries: of reals minus zero, those of more than 15 digits, very large and very small ones."""
    if not rows.height:
        return Encoded(pa.py_buffer(b""), pl.Series([0]), pl.Series(dtype=pl.Int64))
    leader = rows.columns[0]
    if nulls := rows[leader].null_count():
        raise ValueError(f"{leader!r} is the first column and null in {nulls} rows: it must never be")
    made = lines.encode(rows, first, in_order=in_order)
    return Encoded(*made) if made else None


def _by_libraries(rows: pl.DataFrame, first: int) -> Encoded:
    table = rows.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    columns = {name: column.chunk(0) for name, column in zip(table.column_names, table.columns, strict=True)}
    leader = rows.columns[0]
    given = {name: column for name, column in columns.items() if column.null_count < rows.height}
    for name in _constant(rows, given):
        given[name] = given[name][:1]
    values = {name: _value(column) for name, column in given.items()}
    others = _as_json(rows, [name for name, value in values.items() if value is None])
    pieces = {
        name: _pieces(f',"{name}":', value or others[name], constant=len(given[name]) == 1)
        for name, value in values.items()
    }
    pieces[leader][0] = "{" + pieces[leader][0].removeprefix(",")
    head = _joined(chain(*(pieces.pop(name, []) for name in rows.columns[:first])), rows.height)
    _, offsets, content = _joined([head, *chain(*pieces.values()), _END], rows.height).buffers()
    ends = pl.Series(pa.Array.from_buffers(pa.int64(), rows.height + 1, [None, offsets]))
    heads = pl.Series(pc.binary_length(head)) + (1 if pieces else 0)
    return Encoded(content[: ends[-1]], ends, heads)


def with_lists_in_order(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows with the elements of each list in order: products give lists in any order, and one that was only shuffled says nothing new."""
    lists = [name for name, kind in rows.schema.items() if isinstance(kind, pl.List)]
    longest = rows.select(pl.col(lists).list.len().max()).row(0, named=True) if lists else {}
    return rows.with_columns(_sorted(rows[name]) for name, most in longest.items() if (most or 0) > 1)


def _sorted(lists: pl.Series) -> pl.Series:
    # Most lists are in order, and sorting is dear.
    some = _out_of_order(lists)
    if some.is_empty():
        return lists
    place = pl.arange(len(lists), eager=True, dtype=pl.UInt32)
    place = place.scatter(some, pl.arange(len(lists), len(lists) + len(some), eager=True, dtype=pl.UInt32))
    return pl.concat([lists, lists.gather(some).list.sort()], rechunk=True).gather(place).alias(lists.name)


def _out_of_order(lists: pl.Series) -> pl.Series:
    """Which lists hold an element that is smaller than the one before it, or a null."""
    array = lists.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    of = pc.list_parent_indices(array)
    # Not flattened, which leaves out what may stand where a list is null.
    element = array.values[array.offsets[0].as_py() :][: len(of)]
    falls = pc.and_(pc.equal(of[1:], of[:-1]), pc.less(element[1:], element[:-1]).fill_null(True))
    return pl.Series(pc.unique(of[1:].filter(falls)), dtype=pl.UInt32)


def _pool() -> pa.MemoryPool:
    # Lines are several MiB, which the C library fetches from the system each time: three quarters of what joining them took was fresh pages.
    try:
        return pa.mimalloc_memory_pool()
    except NotImplementedError:
        return pa.default_memory_pool()


def _constant(rows: pl.DataFrame, columns: dict[str, pa.Array]) -> list[str]:
    """The columns that say the same in every row."""
    # Most others are told by their ends.
    last = rows.height - 1
    names = [
        name
        for name, column in columns.items()
        if not column.null_count and not pa.types.is_nested(column.type) and column[0] == column[last]
    ]
    found = rows.select((pl.col(names) == pl.col(names).first()).all()).row(0, named=True) if names else {}
    return [name for name, same in found.items() if same]


def _value(column: pa.Array) -> Value | None:
    """The column's values; None for those that polars writes (`_as_json`): reals, nested ones, texts with characters that JSON escapes."""
    kind = column.type
    if kind == _TEXT:
        return ('"', column, '"') if _plain(column) else None
    if pa.types.is_timestamp(kind):
        stamps = _stamps(column)
        return stamps and ('"', stamps, 'Z"')
    if kind == _TEXTS:
        joined = _lists(column)
        return joined and ('["', joined, '"]')
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return "", column.cast(_TEXT), ""
    return None


def _plain(texts: pa.LargeStringArray) -> bool:
    """Whether no text has a character that JSON escapes: looked for in all of them at once."""
    _, offsets, content = texts.buffers()
    ends = memoryview(offsets).cast("q")
    low, high = ends[texts.offset], ends[texts.offset + len(texts)]
    if low == high:
        return True
    if pc.min(pa.Array.from_buffers(pa.uint8(), high - low, [None, content], offset=low)).as_py() < ord(" "):
        return False
    whole = bytes(memoryview(content)[low:high])
    return b'"' not in whole and b"\\" not in whole


def _lists(lists: pa.LargeListArray) -> pa.LargeStringArray | None:
    """The texts of each list with what stands between them; None when a list is empty, or holds a null or a text that JSON escapes."""
    texts = lists.flatten()
    if texts.null_count or pc.min(pc.list_value_length(lists)).as_py() == 0 or not _plain(texts):
        return None
    return pc.binary_join(lists.cast(pa.list_(_TEXT)), pa.scalar('","', _TEXT))


def _stamps(times: pa.TimestampArray) -> pa.LargeStringArray | None:
    """The times with six decimals, without their zone; None when a year has not four digits."""
    bare = times.cast(pa.timestamp("us", times.type.tz), safe=False).cast(pa.timestamp("us"))
    span = pc.min_max(bare)
    if span["min"].value < _FIRST or span["max"].value > _LAST:
        return None
    # In a third of the time that polars' strftime takes.
    texts = bare.cast(_TEXT)
    valid, offsets, content = texts.buffers()
    with_t = pa.py_buffer(bytes(content).replace(b" ", b"T"))
    return pa.Array.from_buffers(_TEXT, len(texts), [valid, offsets, with_t], texts.null_count, texts.offset)


def _as_json(rows: pl.DataFrame, names: list[str]) -> dict[str, Value]:
    """The columns' values as polars writes them."""
    if not names:
        return {}
    zoneless = selectors.datetime().dt.replace_time_zone(None).dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
    values = (
        rows.lazy()
        .select(names)
        .with_columns(zoneless)
        .select(
            pl.when(pl.col(name).is_not_null())
            .then(pl.struct(pl.col(name).alias("")).struct.json_encode().str.slice(len('{"":')).str.head(-1))
            .alias(name)
            for name in names
        )
    )
    texts = values.collect().to_arrow(compat_level=pl.CompatLevel.oldest())
    return {name: ("", texts[name].combine_chunks(), "") for name in names}


def _pieces(before: str, value: Value, *, constant: bool) -> list[Piece]:
    """A column as what all lines have, or as what stands before, in and behind its members; where some have none, in one."""
    opening, texts, closing = value
    if constant:
        return [f"{before}{opening}{texts[0].as_py()}{closing}"]
    if not texts.null_count:
        return [before + opening, texts, closing]
    return [pc.binary_join_element_wise(pa.scalar(before + opening, _TEXT), texts, pa.scalar(closing, _TEXT), _NOTHING)]


def _joined(pieces: Iterable[Piece], height: int) -> pa.LargeStringArray:
    """What the pieces are together, row by row."""
    parts: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, str) and parts and isinstance(parts[-1], str):
            parts[-1] += piece
        else:
            parts.append(piece)
    if isinstance(parts[0], str) and len(parts) == 1:
        return pa.repeat(pa.scalar(parts[0], _TEXT), height)
    scalars = [pa.scalar(part, _TEXT) if isinstance(part, str) else part for part in parts]
    return pc.binary_join_element_wise(*scalars, _NOTHING, null_handling="skip", memory_pool=_pool())
