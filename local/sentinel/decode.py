"""A body of the Logs Ingestion API to an Arrow batch of the table: a fast path for bodies that conform, `rules` for all others.

The fast path takes a body only when the exact path would change nothing in it but a TimeGenerated, so both give the same batch.

A dynamic column of a batch is `list<string>` when all its values are arrays of strings, which is all that our own rows ever have; when one
value is of another shape the column of that batch is JSON text (`string`). Times are naive and UTC.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from local.sentinel.answers import bad_payload
from local.sentinel.rules import Counts, JsonText, columns_of
from sentinel.tables import FIELD_LIMIT_BYTES, Stream, Table

TIME: Final = pa.timestamp("us")
STRINGS: Final = pa.list_(pa.string())
TYPES: Final = {
    "string": pa.string(),
    "int": pa.int32(),
    "long": pa.int64(),
    "real": pa.float64(),
    "boolean": pa.bool_(),
    "datetime": TIME,
    "dynamic": STRINGS,
}
"""Arrow type of a column of each declared type."""

Declared = Table | Stream
"""What has the columns that a body's rows are read by."""

Transform = Callable[[pa.RecordBatch], pa.RecordBatch]

OLDEST: Final = timedelta(days=2)
NEWEST: Final = timedelta(days=1)
"""TimeGenerated further back or ahead of the receipt is replaced by it (Azure Monitor, data ingestion time)."""

_FIRST: Final = pa.scalar(datetime(1, 1, 1), TIME)  # noqa: DTZ001 - stored times are naive and UTC
_LAST: Final = pa.scalar(datetime(9999, 12, 31, 23, 59, 59, 999_999), TIME)  # noqa: DTZ001 - as above


@dataclass(frozen=True, slots=True)
class Received:
    """The rows of one body as they are stored (the table's columns and `_TimeReceived`), and what the rule changed."""

    batch: pa.RecordBatch
    counts: Counts
    fast: bool


def decode(body: bytes, table: Declared, received_at: datetime, transform: Transform | None = None) -> Received:
    """The rows of a body, received at that naive UTC time; raises Refusal (400) when it is not a JSON array of objects.

    With a transformation: what it makes of them.
    """
    batch = fast_batch(body, table)
    if batch is not None:
        return _settle(batch, Counts(), received_at, transform, fast=True)
    return decode_exactly(body, table, received_at, transform)


def decode_exactly(body: bytes, table: Declared, received_at: datetime, transform: Transform | None = None) -> Received:
    """The same as `decode`, always by the exact path."""
    try:
        objects = msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise bad_payload(str(error)) from error
    if not isinstance(objects, list):
        raise bad_payload("the body is not an array")
    if not all(isinstance(item, dict) for item in objects):
        raise bad_payload("an element of the array is not an object")
    columns, counts = columns_of(objects, table)
    arrays = [
        _dynamic_array(columns[column.name])
        if column.type == "dynamic"
        else pa.array(columns[column.name], TYPES[column.type])
        for column in table.columns
    ]
    batch = pa.RecordBatch.from_arrays(arrays, names=list(table.names))
    return _settle(batch, counts, received_at, transform, fast=False)


def _dynamic_array(values: list[Any]) -> pa.Array:
    if not any(isinstance(value, JsonText) for value in values):
        return pa.array(values, STRINGS)
    texts = [
        value.text if isinstance(value, JsonText) else None if value is None else msgspec.json.encode(value).decode()
        for value in values
    ]
    return pa.array(texts, pa.string())


def _settle(
    batch: pa.RecordBatch, counts: Counts, received_at: datetime, transform: Transform | None, *, fast: bool
) -> Received:
    """Transform the rows, replace missing and unbelievable times, and add the time of receipt."""
    if transform is not None:
        received = batch.num_rows
        batch = transform(batch)
        counts.filtered += received - batch.num_rows
    now = pa.scalar(received_at, TIME)
    times = batch.column("TimeGenerated")
    bounds = pc.min_max(times)
    within = (
        times.null_count == 0
        and len(times) > 0
        and bounds["min"].as_py() >= received_at - OLDEST
        and bounds["max"].as_py() <= received_at + NEWEST
    )
    if not within and len(times):
        kept = pc.and_(
            pc.greater_equal(times, pa.scalar(received_at - OLDEST, TIME)),
            pc.less_equal(times, pa.scalar(received_at + NEWEST, TIME)),
        ).fill_null(fill_value=False)
        counts.time_replaced += len(times) - pc.sum(kept).as_py()
        place = batch.schema.get_field_index("TimeGenerated")
        batch = batch.set_column(place, "TimeGenerated", pc.if_else(kept, times, now))
    return Received(batch.append_column("_TimeReceived", pa.repeat(now, batch.num_rows)), counts, fast)


@cache
def _parse_options(table: Declared) -> pj.ParseOptions:
    row = pa.struct([(column.name, TYPES[column.type]) for column in table.columns])
    return pj.ParseOptions(
        explicit_schema=pa.schema([("rows", pa.list_(row))]),
        unexpected_field_behavior="error",
        newlines_in_values=True,
    )


def fast_batch(body: bytes, table: Declared) -> pa.RecordBatch | None:
    """The batch of a body that the exact path would leave as it is, TimeGenerated aside; None for any other body.

    Arrow reads newline-delimited JSON, so the array is wrapped as the one field of one object. It is more lenient than the rules in a few
    places, each checked here: several documents, null rows, bytes that are not UTF-8, NaN and infinities, years outside 1 to 9999.
    """
    wrapped = b"".join((b'{"rows":', body, b"}\n"))
    try:
        parsed = pj.read_json(
            pa.BufferReader(wrapped),
            read_options=pj.ReadOptions(use_threads=False, block_size=len(wrapped) + 64),
            parse_options=_parse_options(table),
        )
        if parsed.num_rows != 1 or parsed.column(0).num_chunks != 1:
            return None
        lists = parsed.column(0).chunk(0)
        rows = lists.values
        if lists.null_count or rows.null_count:
            return None
        rows.validate(full=True)
    except pa.ArrowInvalid:
        return None
    batch = pa.RecordBatch.from_struct_array(rows)
    checks = {"string": _string_fits, "dynamic": _dynamic_fits, "real": _real_fits, "datetime": _datetime_fits}
    for column, values in zip(table.columns, batch.columns, strict=True):
        check = checks.get(column.type)
        if check is not None and not check(values):
            return None
    return batch


def _real_fits(values: pa.Array) -> bool:
    return pc.all(pc.is_finite(values)).as_py() is not False


def _datetime_fits(values: pa.Array) -> bool:
    if values.null_count == len(values):
        return True
    bounds = pc.min_max(values)
    return bool(pc.greater_equal(bounds["min"], _FIRST).as_py() and pc.less_equal(bounds["max"], _LAST).as_py())


def _string_fits(values: pa.Array) -> bool:
    data = values.buffers()[2]
    if data is None or data.size <= FIELD_LIMIT_BYTES:
        return True
    longest = pc.max(pc.binary_length(values)).as_py()
    return longest is None or longest <= FIELD_LIMIT_BYTES


def _dynamic_fits(values: pa.Array) -> bool:
    """Whether no row's JSON text is over the field limit: bytes of the strings, quotes, commas and brackets, and escapes if there are any."""
    items = values.values
    data = items.buffers()[2]
    if data is None or data.size * 6 + len(items) * 6 + 2 <= FIELD_LIMIT_BYTES:
        return True
    ends = pa.Array.from_buffers(pa.int32(), len(items) + 1, [None, items.buffers()[1]])
    ends = pc.take(ends, values.offsets)
    text_bytes = pc.subtract(ends.slice(1), ends.slice(0, len(values)))
    lengths = pc.subtract(values.offsets.slice(1), values.offsets.slice(0, len(values)))
    sizes = pc.add(text_bytes, pc.multiply(lengths, 3))
    if pc.max(sizes).as_py() * 6 <= FIELD_LIMIT_BYTES:
        return True
    if items.null_count or pc.any(pc.match_substring_regex(items, r'["\\\x00-\x1f\x7f]')).as_py():
        return False
    return bool(pc.max(sizes).as_py() + 1 <= FIELD_LIMIT_BYTES)
