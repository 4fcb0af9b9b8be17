"""A page's body to its records, undecoded, by the kernel: `native/pages.c`.

Invariant: no object is made for a record that nobody looks at: the records are places in the body, and leave it one behind the other in one buffer. What is said of them
here goes for a list of records as well, which is what a page is where the kernel does not split it.
"""

from __future__ import annotations

import ctypes
import itertools
from array import array
from collections.abc import Callable, Sequence
from functools import cache
from typing import Final, overload

import msgspec

from native import kernel

_BYTES_A_RECORD: Final = 128
"""There is room at first for as many records as a body has if they are so long; of shorter ones the kernel says how many they are, and is asked again."""


class Records(Sequence[msgspec.Raw]):
    """The records of a page, or some of them that stand side by side: where in its body each begins, and where it would if they stood one behind the other."""

    __slots__ = ("body", "offsets", "starts")

    def __init__(self, body: bytes, starts: array[int], offsets: array[int]) -> None:
        self.body, self.starts, self.offsets = body, starts, offsets

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> msgspec.Raw: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[msgspec.Raw]: ...
    def __getitem__(self, index: int | slice) -> msgspec.Raw | Sequence[msgspec.Raw]:
        places = range(len(self.starts))[index]
        if isinstance(places, int):
            start = self.starts[places]
            return msgspec.Raw(self.body[start : start + self.offsets[places + 1] - self.offsets[places]])
        if places.step != 1:
            return [self[place] for place in places]
        high = max(places.start, places.stop)
        return Records(self.body, self.starts[places.start : high], self.offsets[places.start : high + 1])


def split(body: bytes, key: str | None, total_key: str | None) -> tuple[Records, bytes] | None:
    """The records of the body, which is their array, or has it under `key`; and the JSON of what it has under `total_key`, empty without it.

    None where the kernel is missing, and for whatever is not plainly such a page: no JSON, no array, a key that comes twice or is written with an escape,
    half a surrogate pair, more than 64 brackets open, a number of more than 300 characters, more than 2 GiB.
    """
    library = _functions()
    if library is None or (key is not None and key == total_key):
        return None
    names = [name if name is None else name.encode() for name in (key, total_key or None)]
    given = [of for name in names for of in (name, len(name or b""))]
    total = array("i", (0, 0))
    room = len(body) // _BYTES_A_RECORD
    while True:
        starts, offsets = array("i", bytes(4 * room)), array("i", bytes(4 * room + 4))
        at = starts.buffer_info()[0], offsets.buffer_info()[0], room, total.buffer_info()[0]
        count = library.pages_split(body, len(body), *given, *at)
        if count < 0:
            return None
        if count <= room:
            break
        room = count
    del starts[count:], offsets[count + 1 :]
    return Records(body, starts, offsets), body[total[0] : total[1]]


def offsets_of(records: Sequence[msgspec.Raw]) -> array[int]:
    """Where each record would begin and the last one end, if they stood one behind the other; the first at any number."""
    if isinstance(records, Records):
        return records.offsets
    return array("i", itertools.accumulate(map(len, records), initial=0))


def bytes_of(records: Sequence[msgspec.Raw]) -> int:
    """How many bytes the records have together."""
    if isinstance(records, Records):
        return records.offsets[-1] - records.offsets[0]
    return sum(map(len, records))


def write(records: Sequence[msgspec.Raw], to: memoryview, at: int) -> array[int]:
    """Write the records into `to` (bytes), one behind the other from `at` on; where in it each of them ends. Raises ValueError when there is no room for all."""
    if not isinstance(records, Records):
        texts = b"".join(records)
        to[at : at + len(texts)] = texts
        return array("i", itertools.accumulate(map(len, records), initial=at))[1:]
    ends = array("i", bytes(4 * len(records)))
    size = bytes_of(records)
    if not 0 <= at <= len(to) - size:
        raise ValueError(f"{size} bytes do not fit into {len(to)} from {at} on")
    if size:
        places = records.starts.buffer_info()[0], records.offsets.buffer_info()[0], len(records)
        _join()(records.body, *places, ctypes.byref(ctypes.c_char.from_buffer(to, at)), ends.buffer_info()[0], at)
    return ends


@cache
def _functions() -> ctypes.CDLL | None:
    library = kernel()
    if library is not None:
        text, pointer, number = ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int64
        library.pages_split.argtypes = [*[text, number] * 3, pointer, pointer, number, pointer]
        library.pages_split.restype = number
    return library


@cache
def _join() -> Callable[..., None]:
    # Copying takes less than giving the interpreter's lock away and waiting for it: a prototype that keeps it.
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    kept = ctypes.PYFUNCTYPE(None, ctypes.c_char_p, pointer, pointer, number, pointer, pointer, ctypes.c_int32)
    return kept(("pages_join", _functions()))
