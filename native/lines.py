"""Rows to NDJSON by the kernel."""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Final

import polars as pl
import pyarrow as pa

from native import kernel

_DONE, _MORE_ROOM = 0, 1

_SPARE_BYTES: Final = 512 * 1024
"""Room for what is escaped, and for the longest field, were each of its bytes. Where it is too little, the lines are written anew into twice the room."""

_STEP_BYTES: Final = 1024 * 1024
"""Rooms have a multiple of so many bytes: the next lines need a little more or less."""

_KEPT_BYTES: Final = 16 * 1024 * 1024
"""A larger room is not kept: it was for a record of many MB, and the next one may be an hour away."""

_rooms: Final[deque[pa.Buffer]] = deque(maxlen=2)
"""Memory that nobody uses, for the next lines: from the system it would come as fresh pages, which cost half as much again as writing them. One is written while another is read."""

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
        library.lines_write.argtypes = [pointer, pointer, number, *[pointer] * 3]
        library.lines_write.restype = ctypes.c_int32
    return library


@cache
def _pointer_of() -> Callable[[object, bytes], int]:
    # A prototype of its own: what is set on `ctypes.pythonapi` itself is set for everybody.
    return ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi)
    )


class _Room:
    """Memory for lines; when the last who reads them lets go of it, it is there for others."""

    def __init__(self, size: int) -> None:
        self._memory = None
        with suppress(IndexError):
            self._memory = _rooms.pop()
        if self._memory is None or self._memory.size < size:
            self._memory = pa.allocate_buffer(-(-size // _STEP_BYTES) * _STEP_BYTES)
        self.address, self.size = self._memory.address, self._memory.size

    def __del__(self) -> None:
        if self._memory is not None and self._memory.size <= _KEPT_BYTES:
            _rooms.append(self._memory)

    def first(self, size: int) -> pa.Buffer:
        """What is written there."""
        return pa.foreign_buffer(self.address, size, base=self)


def encode(rows: pl.DataFrame, first: int, *, in_order: bool) -> tuple[pa.Buffer, pl.Series, pl.Series] | None:
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
        size = library.lines_size(lines) + _SPARE_BYTES
        ends, heads = pa.allocate_buffer(8 * (rows.height + 1)), pa.allocate_buffer(8 * rows.height)
        while True:
            room, used = _Room(size), ctypes.c_int64(0)
            said = library.lines_write(lines, room.address, room.size, ends.address, heads.address, ctypes.byref(used))
            if said != _MORE_ROOM:
                break
            size = 2 * room.size
    finally:
        library.lines_close(lines)
    return (room.first(used.value), _numbers(ends), _numbers(heads)) if said == _DONE else None


def _numbers(buffer: pa.Buffer) -> pl.Series:
    return pl.Series(pa.Array.from_buffers(pa.int64(), buffer.size // 8, [None, buffer]))
