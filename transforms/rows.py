"""Flattened records to exactly the columns and types of their table, and the rejects among them.

Invariant: the result has the table's columns in the table's order and `_record` last; every decoded record is one row or one reject;
no text is longer than the service's field limit, and a row whose text was cut says in which columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import blake2b
from typing import Any, Final

import polars as pl

from sentinel.tables import FIELD_LIMIT_BYTES, ColumnType, Table
from transforms.decode import RECORD, Decoded, Fields, Reject, decode

TYPES: Final[dict[ColumnType, pl.DataType]] = {
    "string": pl.String(),
    "int": pl.Int32(),
    "long": pl.Int64(),
    "real": pl.Float64(),
    "boolean": pl.Boolean(),
    "dynamic": pl.List(pl.String()),
    "datetime": pl.Datetime("us", "UTC"),
}
"""DCR stream types as polars types."""

Flatten = Callable[[pl.LazyFrame], pl.LazyFrame]


def _as_decoded(frame: pl.LazyFrame) -> pl.LazyFrame:
    return frame


@dataclass(frozen=True, slots=True)
class Transform:
    """How a stream's records become rows of a table.

    `fields`: what is decoded. `columns`: prepared frame to a frame with the table's columns (those that it leaves out are null) and `_record`;
    it must give EntityOriginalId, whose absence rejects the record, and the table's key. `prepare`: decoded frame to one with what several
    columns are made of; a stream and those derived of it have the same, which is done once for all of them.
    """

    source: str
    stream: str
    vendor: str
    product: str
    table: Table
    fields: Fields
    columns: Flatten
    prepare: Flatten = _as_decoded

    def flatten(self, decoded: pl.LazyFrame) -> pl.LazyFrame:
        """The table's columns of a decoded frame."""
        return decoded.pipe(self.prepare).pipe(self.columns)


@dataclass(frozen=True, slots=True)
class Envelope:
    """What a run writes into every row: its id, its time (TimeGenerated), Snapshot or Changefeed."""

    run_id: str
    started_at: datetime
    feed_type: str


BYTES_AT_ONCE: Final = 16 * 1024 * 1024

DERIVED_AT_ONCE: Final = 2_500
"""Records that a derived stream is made of at once, as long as nobody knows how many rows they give: each may give ten and more."""

ROWS_AT_ONCE: Final = 20_000
"""About as many rows a derived stream then gives at once: each query costs the same, and of 7,000 assets of Tenable's one makes 180 relations."""

FEWEST_AT_ONCE: Final = 100
"""Records that a derived stream is made of at once, however many rows they give."""


@dataclass(frozen=True, slots=True)
class Flattened:
    """The rows, the rejects in record order, how many records took the lenient path, how many rows had a text cut."""

    rows: pl.DataFrame
    rejects: list[Reject]
    lenient: int
    truncated: int


def schema(table: Table) -> dict[str, pl.DataType]:
    """The polars schema of the table's rows."""
    return {column.name: TYPES[column.type] for column in table.columns}


def flatten(
    transform: Transform,
    records: pl.Series,
    envelope: Envelope,
    *,
    fast: bool = True,
    bytes_at_once: int = BYTES_AT_ONCE,
) -> Flattened:
    """Decode, flatten and conform the raw records of one segment. Pure: the same records and envelope give the same rows.

    What it takes beside the rows is ten times what is worked on at once, so that is `bytes_at_once`, however long the segment is.
    """
    return flatten_together([transform], records, envelope, fast=fast, bytes_at_once=bytes_at_once)[0]


def flatten_together(
    transforms: Sequence[Transform],
    records: pl.Series,
    envelope: Envelope,
    *,
    fast: bool = True,
    bytes_at_once: int = BYTES_AT_ONCE,
) -> list[Flattened]:
    """As `flatten`, by several transforms that read the same fields (a stream's and those derived of it): the records are decoded once."""
    parts: list[list[Flattened]] = [[] for _ in transforms]
    for of, part in flatten_in_turn(transforms, records, envelope, fast=fast, bytes_at_once=bytes_at_once):
        parts[of].append(part)
    return [_joined(done) for done in parts]


def flatten_in_turn(
    transforms: Sequence[Transform],
    records: pl.Series,
    envelope: Envelope,
    *,
    first: int = 0,
    fast: bool = True,
    bytes_at_once: int = BYTES_AT_ONCE,
    portions: dict[str, int] | None = None,
) -> Iterator[tuple[int, Flattened]]:
    """As `flatten_together`, a part at a time, with the number of the transform that made it: whoever takes it away at once never holds two.

    `first`: the position of the first record in its segment. `portions`: of how many records each derived stream is made at once, as far as is known; who has more
    records of the segment passes it again.
    """
    portions = {} if portions is None else portions
    at_once = max(1, len(records) * bytes_at_once // max(1, int(records.estimated_size())))
    for at in range(0, max(1, len(records)), at_once):
        decoded = decode(records.slice(at, at_once), transforms[0].fields, fast=fast)
        if len(transforms) == 1:
            # In one query, which keeps no more than it needs: a tenth less than in two (7,500 issues).
            part = _flattened(transforms[0], transforms[0].flatten, decoded, envelope, first + at)
            # Or it would be held as long as the part is worked on.
            del decoded
            yield 0, part
            del part
            continue
        prepared = _prepared(transforms[0], decoded)
        yield 0, _flattened(transforms[0], transforms[0].columns, prepared, envelope, first + at)
        for number, transform in enumerate(transforms[1:], 1):
            for part in _derived(transform, prepared, envelope, first + at, portions):
                yield number, part
                del part


def _prepared(transform: Transform, decoded: Decoded) -> Decoded:
    return replace(decoded, frame=decoded.frame.lazy().pipe(transform.prepare).collect())


def _derived(
    transform: Transform, decoded: Decoded, envelope: Envelope, first: int, portions: dict[str, int]
) -> Iterator[Flattened]:
    """So many records at a time as give some ROWS_AT_ONCE; what was refused comes with the first."""
    frame, at = decoded.frame, 0
    while not at or at < frame.height:
        at_once = portions.get(transform.stream, DERIVED_AT_ONCE)
        portion = Decoded(frame.slice(at, at_once)) if at else replace(decoded, frame=frame.slice(0, at_once))
        part = _flattened(transform, transform.columns, portion, envelope, first)
        at += at_once
        # At most doubled: those that follow may give more than these did.
        some = ROWS_AT_ONCE * portion.frame.height // max(1, part.rows.height)
        portions[transform.stream] = max(FEWEST_AT_ONCE, min(2 * at_once, some))
        yield part
        del part


def _joined(parts: list[Flattened]) -> Flattened:
    if len(parts) == 1:
        return parts[0]
    return Flattened(
        pl.concat([part.rows for part in parts]),
        [reject for part in parts for reject in part.rejects],
        sum(part.lenient for part in parts),
        sum(part.truncated for part in parts),
    )


def _flattened(transform: Transform, how: Flatten, decoded: Decoded, envelope: Envelope, first: int) -> Flattened:
    """Some of a segment's records, of which the first has that position."""
    frame = decoded.frame.lazy().pipe(how).collect()
    part = conform(frame, transform, envelope, decoded)
    if not first:
        return part
    rows = part.rows.with_columns(pl.col(RECORD) + pl.lit(first, part.rows.schema[RECORD]))
    return replace(part, rows=rows, rejects=[replace(reject, record=reject.record + first) for reject in part.rejects])


def conform(frame: pl.DataFrame, transform: Transform, envelope: Envelope, decoded: Decoded) -> Flattened:
    """The flattened frame as the table's rows, with the rejects of both steps."""
    table = transform.table
    unknown = set(frame.columns) - set(table.names) - {RECORD}
    assert not unknown, (
        f"{transform.source}/{transform.stream} gives columns that {table.name} lacks: {sorted(unknown)}"
    )
    rejects = list(decoded.rejects)
    if frame["EntityOriginalId"].null_count() or frame[table.key].null_count():
        keyless = pl.col("EntityOriginalId").is_null() | pl.col(table.key).is_null()
        rejects += (
            Reject(at, "no identifier: the record cannot be told apart") for at in frame.filter(keyless)[RECORD]
        )
        frame = frame.filter(~keyless)
    constants = {
        "TimeGenerated": pl.lit(envelope.started_at, TYPES["datetime"]),
        "EntityFeedType": pl.lit(envelope.feed_type),
        "EntitySnapshotId": pl.lit(envelope.run_id),
        "EntityVendor": pl.lit(transform.vendor),
        "EntityProduct": pl.lit(transform.product),
        "SourceStream": pl.lit(transform.stream),
    }
    kinds, found = schema(table), frame.schema
    given = {name: kinds[name] for name in found if name != RECORD and name not in constants}
    frame = frame.with_columns(
        pl.col(name).cast(kind, strict=False) for name, kind in given.items() if found[name] != kind
    )
    unclean, suspects = _measured(frame, given)
    expressions = []
    for name, kind in kinds.items():
        if name in constants:
            expression = constants[name]
        elif name == "EntityIsDeleted":
            expression = pl.col(name).fill_null(value=False) if name in given else _FALSE
        elif name in given:
            expression = _clean(pl.col(name), kind) if name in unclean else pl.col(name)
        else:
            expression = _NULLS[kind]
        expressions.append(expression.alias(name))
    rows, truncated = _cut(frame.select(*expressions, RECORD), suspects)
    return Flattened(rows, sorted(rejects, key=lambda reject: reject.record), decoded.lenient, truncated)


_FALSE: Final = pl.lit(value=False)
_NULLS: Final = {kind: pl.lit(None, kind) for kind in TYPES.values()}


def _measured(frame: pl.DataFrame, given: dict[str, pl.DataType]) -> tuple[set[str], list[str]]:
    """The columns in which `_clean` would change something, and the texts and lists that might be over the field limit.

    Nearly all columns are neither, and an expression costs 20 µs and more whatever the frame: to clean and to size each column was a sixth
    of what flattening took (4 of 26 ms for 3,600 devices).
    """
    texts, lists, reals = (
        [name for name, kind in given.items() if kind == TYPES[of]] for of in ("string", "dynamic", "real")
    )
    inner = pl.col(lists).explode(empty_as_null=False, keep_nulls=False)
    measures = {
        "shortest": pl.col(texts).str.len_bytes().min(),
        "longest": pl.col(texts).str.len_bytes().max(),
        "fewest": pl.col(lists).list.len().min(),
        "most": pl.col(lists).list.len().max(),
        "nulls": inner.null_count(),
        "widest": inner.str.len_bytes().max(),
        "finite": pl.col(reals).is_finite().all(),
    }
    found = frame.select(measure.name.suffix(f" {what}") for what, measure in measures.items()).row(0, named=True)
    unclean = {
        *(name for name in texts if found[f"{name} shortest"] == 0),
        *(name for name in lists if found[f"{name} fewest"] == 0 or found[f"{name} nulls"]),
        *(name for name in reals if not found[f"{name} finite"]),
    }
    longest = {name: found[f"{name} longest"] or 0 for name in texts} | {
        name: (found[f"{name} most"] or 0) * ((found[f"{name} widest"] or 0) + 3) + 2 for name in lists
    }
    return unclean, [name for name, size in longest.items() if size > FIELD_LIMIT_BYTES]


def _clean(column: pl.Expr, kind: pl.DataType) -> pl.Expr:
    if kind == pl.Float64:
        # JSON has no NaN and no infinity.
        return pl.when(column.is_finite()).then(column)
    if isinstance(kind, pl.List):
        kept = column.list.filter(pl.element().is_not_null())
        return pl.when(kept.list.len() > 0).then(kept)
    # Nothing is said by an empty text, and one absent form is enough for whoever asks.
    return pl.when(column != "").then(column)


def _cut(rows: pl.DataFrame, suspects: Sequence[str]) -> tuple[pl.DataFrame, int]:
    """Cut texts and lists that are over the field limit, and name their columns in FieldsTruncated; frames without such pass untouched."""
    sizes = {
        name: pl.col(name).str.len_bytes() if kind == pl.String else _list_bytes(name)
        for name, kind in rows.schema.items()
        if name in suspects
    }
    largest = rows.select(**{name: size.max() for name, size in sizes.items()}).row(0, named=True) if sizes else {}
    over = [name for name, size in largest.items() if size is not None and size > FIELD_LIMIT_BYTES]
    if not over:
        return rows, 0
    flags = pl.concat_list([pl.when(sizes[name] > FIELD_LIMIT_BYTES).then(pl.lit(name)) for name in over]).list.filter(
        pl.element().is_not_null()
    )
    cut = rows.with_columns(
        FieldsTruncated=pl.when(flags.list.len() > 0).then(flags),
        **{name: _shortened(rows, name, sizes[name]) for name in over},
    )
    return cut, cut["FieldsTruncated"].count()


def _list_bytes(name: str) -> pl.Expr:
    # Two quotes and a comma an element, two brackets.
    return pl.col(name).list.eval(pl.element().str.len_bytes()).list.sum() + 3 * pl.col(name).list.len() + 2


def _shortened(rows: pl.DataFrame, name: str, size: pl.Expr) -> pl.Expr:
    shorten: Callable[[Any], Any] = _shorten_text if rows.schema[name] == pl.String else _shorten_list
    if name.endswith("Id"):
        shorten = _shorten_identifier
    long = pl.when(size > FIELD_LIMIT_BYTES).then(pl.col(name))
    shortened = long.map_elements(shorten, return_dtype=rows.schema[name], skip_nulls=True)
    return pl.when(size > FIELD_LIMIT_BYTES).then(shortened).otherwise(pl.col(name))


def _shorten_text(value: str) -> str:
    return value.encode()[:FIELD_LIMIT_BYTES].decode(errors="ignore")


def _shorten_identifier(value: str) -> str:
    """The beginning and a digest of the whole: identifiers that differ still do, and those that join still do."""
    digest = blake2b(value.encode(), digest_size=16).hexdigest()
    return value.encode()[: FIELD_LIMIT_BYTES - len(digest)].decode(errors="ignore") + digest


def _shorten_list(value: pl.Series) -> list[str]:
    kept, size = [], 2
    for element in value:
        size += len(element.encode()) + 3
        if size > FIELD_LIMIT_BYTES:
            break
        kept.append(element)
    return kept
