"""Rows to NDJSON by the kernel."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Final

import polars as pl
import pyarrow as pa

from native import kernel

_MORE_ROOM: Final = 1

_SPARE: Final = 512 * 1024
"""Room for what is escaped, and for the longest field, were each of its bytes. What is never written takes no memory; where it is too little, the room is doubled."""

_STREAM: Final = b"arrow_array_stream"
"""What a capsule of the Arrow PyCapsule interface is called."""


@cache
def _functions() -> ctypes.CDLL | None:
    library = kernel()
    if library is not None:
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        library.lines_open.argtypes, library.lines_open.restype = [pointer, ctypes.c_int32, ctypes.c_int32], pointer
        library.lines_close.argtypes, library.lines_close.restype = [pointer], None
        library.lines_size.argtypes, library.lines_size.restype = [pointer], number
        library.lines_write.argtypes = [pointer, pointer, number, *[pointer] * 4]
        library.lines_write.restype = ctypes.c_int32
    return library


@cache
def _pointer_of() -> Callable[[object, bytes], int]:
    # A prototype of its own: what is set on `ctypes.pythonapi` itself is set for everybody.
    return ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi)
    )


def encode(
    rows: pl.DataFrame, first: int, pool: pa.MemoryPool, *, in_order: bool
) -> tuple[pa.Buffer, pl.Series, pl.Series] | None:
    """The rows as `sentinel.ndjson.encoded` gives them: content, ends, heads. None where the kernel is missing, or leaves a type or a value to the libraries.

    There must be a row, and the first column must never be null.
    """
    library = _functions()
    if library is None:
        return None
    stream = rows.rechunk().__arrow_c_stream__()
    lines = library.lines_open(_pointer_of()(stream, _STREAM), first, in_order)
    if lines is None:
        return None
    try:
        content = pa.allocate_buffer(library.lines_size(lines) + _SPARE, pool, resizable=True)
        ends, heads = pa.allocate_buffer(8 * (rows.height + 1)), pa.allocate_buffer(8 * rows.height)
        row, used = ctypes.c_int64(0), ctypes.c_int64(0)
        places = ends.address, heads.address, ctypes.addressof(row), ctypes.addressof(used)
        while said := library.lines_write(lines, content.address, content.size, *places):
            if said != _MORE_ROOM:
                return None
            content.resize(2 * content.size)
    finally:
        library.lines_close(lines)
    return content.slice(0, used.value), _numbers(ends), _numbers(heads)


def _numbers(buffer: pa.Buffer) -> pl.Series:
    return pl.Series(pa.Array.from_buffers(pa.int64(), buffer.size // 8, [None, buffer]))
