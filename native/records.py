"""JSON records to Arrow columns by the kernel: `native/records.c`."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Final

import polars as pl
import pyarrow as pa

from native import kernel

_SCALARS: Final = {pa.string_view(): b"s", pa.int64(): b"i", pa.float64(): b"f", pa.bool_(): b"b"}


_ARRAY_BYTES: Final = 80
"""What the C data interface's ArrowArray has."""


def decode(records: pl.Series, schema: pa.Schema) -> pa.RecordBatch | None:
    """The fields of the schema of `records` (binary, one JSON object each, UTF-8), its texts as string views.

    None where the kernel is missing, and where any record is refused: it is no JSON object, a value is not of its field's type, a field comes twice or
    its key may be written with an escape, half a surrogate pair stands in a text, a number has more than 300 characters.
    """
    library = kernel()
    if library is None or records.null_count():
        return None
    array = records.rechunk().to_arrow(compat_level=pl.CompatLevel.newest())
    _, views, *texts = array.buffers()
    addresses = (ctypes.c_void_p * max(1, len(texts)))(*(text.address for text in texts))
    plan = _plan(schema)
    arrays = ctypes.create_string_buffer(_ARRAY_BYTES * len(schema))
    decoded = library.records_decode(
        plan,
        ctypes.c_int64(len(plan)),
        ctypes.c_void_p(views.address + 16 * array.offset if len(array) else None),
        addresses,
        ctypes.c_int64(len(array)),
        arrays,
    )
    if not decoded:
        return None
    at = ctypes.addressof(arrays)
    columns = [pa.Array._import_from_c(at + _ARRAY_BYTES * place, field.type) for place, field in enumerate(schema)]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


@cache
def _plan(schema: pa.Schema) -> bytes:
    """The schema as the kernel reads it: a letter a type, then a list's items, or the number of an object's fields and each with its name before it."""
    return _planned(pa.struct(schema))


def _planned(kind: pa.DataType) -> bytes:
    if pa.types.is_list(kind):
        return b"l" + _planned(kind.value_type)
    if pa.types.is_struct(kind):
        return b"o" + _number(kind.num_fields) + b"".join(_named(field.name.encode()) + _planned(field.type) for field in kind)
    return _SCALARS[kind]


def _named(name: bytes) -> bytes:
    return _number(len(name)) + name


def _number(value: int) -> bytes:
    return value.to_bytes(4, "little")
