"""Rows to request bodies: NDJSON cut by exact byte offsets into JSON arrays that never exceed the limit.

Invariant: a body is `[` + whole rows joined by `,` + `]`, its exact length (raw mode), or that of its gzip (wire mode), is at most `limit`; the rows of
all bodies and of the oversize list are the rows that came in, in order, each once. Cutting needs no parse and no object per row: NDJSON has a raw
newline only between rows (inside a JSON string it is escaped), so the last newline before the limit is the last row that fits.
"""

from __future__ import annotations

import re
import struct
import sys
import threading
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final


class Anew:
    """NDJSON that is made when somebody looks into it: it was cut and compressed as it came, and is only needed whole for a body that is halved, or a dead letter."""

    def __init__(self, make: Callable[[], bytes | bytearray]) -> None:
        self._make, self._lock = make, threading.Lock()
        self._made: bytes | bytearray | None = None

    def _lines(self) -> bytes | bytearray:
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made

    def __len__(self) -> int:
        return len(self._lines())

    def __getitem__(self, part: slice) -> bytes | bytearray:
        return self._lines()[part]

    def find(self, what: bytes, *part: int) -> int:
        """As of bytes."""
        return self._lines().find(what, *part)

    def rfind(self, what: bytes, *part: int) -> int:
        """As of bytes."""
        return self._lines().rfind(what, *part)

    def count(self, what: bytes, *part: int) -> int:
        """As of bytes."""
        return self._lines().count(what, *part)


Lines = bytes | bytearray | Anew
"""NDJSON, every row ended by a newline."""

BODY_LIMIT_BYTES: Final = 1_048_576
"""The service's "Maximum allowed content length" (413 ContentLengthLimitExceeded); documented as 1 MB, compressed and uncompressed."""

WIRE_BODY_LIMIT_BYTES: Final = 48 * 1024 * 1024
"""The longest uncompressed body in wire mode: below the 50 MiB that a check behind the gateway was seen to refuse."""

COMPRESSION_LEVEL: Final = 1

BLOCK_BYTES: Final = 64 * 1024
"""Rows that are compressed together in wire mode. The compressor is flushed behind each block, so that the exact length is known: 1 to 2 % more bytes."""

_GZIP_HEADER: Final = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_LAST_BLOCK: Final = b"\x01\x01\x00\xfe\xff]"
"""A deflate block that is the last one, stored: one byte, its complement's length, and the bracket that ends the array."""

_COMMA: Final = ord(",")

_FRAME_BYTES: Final = len(_GZIP_HEADER) + len(_LAST_BLOCK) + 8


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows `start` to `end` (bytes of the NDJSON, the last newline not included): one request body of `rows` rows."""

    start: int
    end: int
    rows: int

    @property
    def body_bytes(self) -> int:
        """Length of the body in bytes: the rows, a comma where a newline was, two brackets."""
        return self.end - self.start + 2


def cut(lines: Lines, limit: int = BODY_LIMIT_BYTES) -> tuple[list[Chunk], list[Chunk]]:
    """Cut NDJSON into chunks whose bodies are as full as whole rows allow; the second list holds the rows too long for any body.

    Greedy in order is optimal in the number of bodies for rows that keep their order.
    """
    chunks: list[Chunk] = []
    oversize: list[Chunk] = []
    start, size = 0, len(lines)
    while start < size:
        end = _fitting(lines, start, size, limit)
        if end == -1:
            end = lines.find(b"\n", start)
            oversize.append(Chunk(start, end, 1))
        else:
            chunks.append(Chunk(start, end, lines.count(b"\n", start, end) + 1))
        start = end + 1
    return chunks, oversize


def _fitting(lines: Lines, start: int, size: int, limit: int) -> int:
    """Where the newline is that ends the last row which fits into the body that begins at `start`; -1 when the first does not."""
    # A newline at offset p ends a row; the body up to it has p - start + 2 bytes.
    return size - 1 if size - 1 - start + 2 <= limit else lines.rfind(b"\n", start, start + limit - 1)


def cut_wire(
    lines: Lines, limit: int = BODY_LIMIT_BYTES, body_limit: int = WIRE_BODY_LIMIT_BYTES
) -> tuple[list[Chunk], list[Chunk], list[bytes]]:
    """As `cut`, for bodies whose gzip stays within `limit` and whose own length within `body_limit`; the third list holds the gzipped bodies.

    Greedy by blocks of whole rows: a body is short of the limit by less than what one more block would have added.
    """
    press = WirePress(limit, body_limit=body_limit)
    press.add(lines[:])
    press.finish()
    return press.chunks, press.oversize, [press.wires[chunk.start][1] for chunk in press.chunks]


Range = tuple[int, int]
"""Rows of the NDJSON: where the first begins, and the newline that ends the last."""

Wires = dict[int, tuple[int, bytes]]
"""Gzipped bodies by where their chunk starts, with where it ends."""


@dataclass(slots=True)
class Press:
    """Cuts NDJSON as it comes: of a chunk it keeps the gzipped body and the digest.

    For bodies whose own length stays within `limit` (see `cut`). The rows are copied once, to where they stand in the body, in memory that is the same for all bodies.
    """

    limit: int = BODY_LIMIT_BYTES
    taken: int = field(default=0, init=False)
    chunks: list[Chunk] = field(default_factory=list, init=False)
    oversize: list[Chunk] = field(default_factory=list, init=False)
    digests: dict[Range, str] = field(default_factory=dict, init=False)
    wires: Wires = field(default_factory=dict, init=False)
    _room: bytearray = field(default_factory=bytearray, init=False)
    _filled: int = field(default=1, init=False)
    """Bytes of the body so far, its bracket included; a newline stands where a comma will."""
    _newlines: list[int] = field(default_factory=list, init=False)
    """Where in the body."""

    def add(self, piece: bytes | bytearray | memoryview, ends: Sequence[int] | None = None) -> None:
        """More of the NDJSON, whole rows; `ends`: where in it the newlines are, for whoever knows: to look for them costs as much as a third of the compression."""
        found = [match.start() for match in re.finditer(b"\n", piece)] if ends is None else ends
        self._add(memoryview(piece), found)

    def _add(self, piece: memoryview, ends: Sequence[int]) -> None:
        row = start = 0
        while row < len(ends):
            # The newline of the last row becomes the bracket.
            behind = bisect_right(ends, start + self.limit - self._filled - 1, row)
            if behind > row:
                self._newlines += map((self._filled - start).__add__, ends[row:behind])
                self._fill(piece[start : ends[behind - 1] + 1])
            elif self._newlines:
                self._take()
                continue
            else:
                behind = row + 1
                self._set_aside(piece[start : ends[row]])
            row, start = behind, ends[behind - 1] + 1

    def take(self, wire: bytes, size: int, rows: int, digest: str) -> None:
        """The body that comes next, as it was cut and compressed before, of so many bytes of NDJSON; before anything is added."""
        chunk = Chunk(self.taken, self.taken + size - 1, rows)
        self.chunks.append(chunk)
        self.digests[chunk.start, chunk.end] = digest
        self.wires[chunk.start] = (chunk.end, wire)
        self.taken += size

    def finish(self) -> None:
        """There is no more."""
        if self._newlines:
            self._take()

    @property
    def identity(self) -> list[str]:
        """The digests of the chunks, then of the rows that were set aside."""
        return [self.digests[chunk.start, chunk.end] for chunk in (*self.chunks, *self.oversize)]

    def _fill(self, rows: memoryview) -> None:
        """Rows that fit into the body."""
        if not self._room:
            self._room = bytearray(self.limit)
        self._room[self._filled : self._filled + len(rows)] = rows
        self._filled += len(rows)
        self.taken += len(rows)

    def _take(self) -> None:
        """The body is as full as it gets."""
        chunk = Chunk(self.taken - self._filled + 1, self.taken - 1, len(self._newlines))
        room, last = self._room, self._newlines.pop()
        self._enter(self.chunks, chunk, memoryview(room)[1:last])
        for at in self._newlines:
            room[at] = _COMMA
        room[0], room[last] = b"[]"
        self.wires[chunk.start] = (chunk.end, compress(memoryview(room)[: self._filled]))
        self._filled = 1
        self._newlines.clear()

    def _set_aside(self, row: memoryview) -> None:
        """A row that fits into no body."""
        self._enter(self.oversize, Chunk(self.taken, self.taken + len(row), 1), row)
        self.taken += len(row) + 1

    def _enter(self, among: list[Chunk], chunk: Chunk, rows: memoryview) -> None:
        among.append(chunk)
        self.digests[chunk.start, chunk.end] = digest(rows)


@dataclass(slots=True)
class StagingPress(Press):
    """For rows that are sent later, maybe with others: `open` tells whether more of them would fit into the last body. A row that fits into none is one by itself."""

    open: bool = field(default=False, init=False)

    def finish(self) -> None:
        """There is no more."""
        self.open = bool(self._newlines)
        Press.finish(self)

    def _set_aside(self, row: memoryview) -> None:
        self._fill(row)
        self._fill(memoryview(b"\n"))
        self._newlines.append(len(row) + 1)
        self._take()
        # It has grown.
        self._room = bytearray()


@dataclass(slots=True)
class _GatheringPress(Press):
    """Holds the NDJSON until it is cut: for bodies that are longer than `limit`, or whose length is not known before."""

    _rest: bytearray = field(default_factory=bytearray, init=False)
    _ends: list[int] = field(default_factory=list, init=False)
    """Where the newlines of the rest are, in all of the NDJSON."""
    _at: int = field(default=0, init=False)
    """Where the rest begins."""

    def take(self, wire: bytes, size: int, rows: int, digest: str) -> None:
        """As `Press.take`."""
        Press.take(self, wire, size, rows, digest)
        self._at = self.taken

    def _add(self, piece: memoryview, ends: Sequence[int]) -> None:
        self._ends += map(self.taken.__add__, ends)
        self._rest += piece
        self.taken += len(piece)
        self._cut(last=False)

    def finish(self) -> None:
        """There is no more."""
        self._cut(last=True)

    def _cut(self, *, last: bool) -> None:
        raise NotImplementedError

    def _here(self, chunk: Chunk) -> memoryview:
        """The rows of a chunk; released by who asks: whoever still held it (a debugger does) would keep what is cut from being dropped."""
        return memoryview(self._rest)[chunk.start - self._at : chunk.end - self._at]

    def _drop(self, rows: int, until: int) -> None:
        """Let go of so many rows, which end there."""
        del self._ends[:rows]
        del self._rest[: until - self._at]
        self._at = until


@dataclass(slots=True)
class StandingPress(_GatheringPress):
    """Cuts where it was cut before: a gzip's length depends on the compressor, so what was cut once is never cut again."""

    standing: Sequence[Chunk] = ()
    set_aside: Sequence[Chunk] = ()
    _parts: list[tuple[Chunk, bool]] = field(init=False)

    def __post_init__(self) -> None:
        parts = [*((chunk, False) for chunk in self.standing), *((chunk, True) for chunk in self.set_aside)]
        self._parts = sorted(parts, key=lambda part: part[0].start, reverse=True)

    def take(self, wire: bytes, size: int, rows: int, digest: str) -> None:
        """As `Press.take`, of what stands there; anything else shows in the chunks."""
        _GatheringPress.take(self, wire, size, rows, digest)
        if self._parts and self._parts[-1][0] == self.chunks[-1]:
            self._parts.pop()

    def _cut(self, *, last: bool) -> None:  # noqa: ARG002 - where to cut is known, whatever follows
        until = self._at
        while self._parts and self._parts[-1][0].end < self.taken:
            part, aside = self._parts.pop()
            with self._here(part) as rows:
                self._enter(self.oversize if aside else self.chunks, part, rows)
            if not aside:
                here = Chunk(part.start - self._at, part.end - self._at, part.rows)
                self.wires[part.start] = (part.end, wire(self._rest, here))
            until = part.end + 1
        self._drop(bisect_left(self._ends, until), until)


@dataclass(slots=True)
class WirePress(_GatheringPress):
    """As `Press`, for bodies whose gzip stays within `limit` (see `cut_wire`)."""

    body_limit: int = WIRE_BODY_LIMIT_BYTES
    _gzip: _Gzip | None = field(default=None, init=False)
    _first: int = field(default=0, init=False)
    _rows: int = field(default=0, init=False)

    def _cut(self, *, last: bool) -> None:
        # Under small limits small blocks, so that the first one of several rows always fits.
        block = min(BLOCK_BYTES, self.limit // 4, self.body_limit // 4)
        ends, row, start = self._ends, 0, self._at
        while row < len(ends) and (last or self.taken - start >= block):
            # As many rows as a block takes, at least one.
            behind = max(row + 1, bisect_left(ends, start + block, row))
            stop = ends[behind - 1]
            if self._gzip is None:
                self._gzip, self._first, self._rows = _Gzip(self.limit, self.body_limit), start, 0
            if self._gzip.add(self._rest, start - self._at, stop - self._at):
                self._rows += behind - row
            elif self._rows:
                self._close(start - 1)
                continue
            else:
                # The block that did not fit is one row.
                self._gzip = None
                row_alone = Chunk(start, stop, 1)
                with self._here(row_alone) as rows:
                    self._enter(self.oversize, row_alone, rows)
            row, start = behind, stop + 1
        if last and self._rows:
            self._close(start - 1)
        self._drop(row, start)

    def _close(self, end: int) -> None:
        assert self._gzip is not None
        chunk = Chunk(self._first, end, self._rows)
        self.chunks.append(chunk)
        self.digests[chunk.start, chunk.end] = self._gzip.digest()
        self.wires[chunk.start] = (end, self._gzip.finish())
        self._gzip, self._rows = None, 0


def _block_end(lines: Lines, start: int, most: int) -> int:
    """Where the newline is that ends the block: as many rows as `most` bytes take, at least one."""
    at = lines.rfind(b"\n", start, start + most)
    return at if at != -1 else lines.find(b"\n", start)


class _Gzip:
    """Gzips a body block by block and takes no block that would carry it over a limit."""

    def __init__(self, limit: int, body_limit: int) -> None:
        from isal import isal_zlib
        from xxhash import xxh3_128

        self._zlib = isal_zlib
        self._deflate = isal_zlib.compressobj(COMPRESSION_LEVEL, wbits=-15)
        self._parts = [_GZIP_HEADER]
        self._room, self._body_room = limit - _FRAME_BYTES, body_limit - 1
        self._crc, self._length = 0, 0
        self._digest = xxh3_128()

    def add(self, lines: Lines, start: int, end: int) -> bool:
        """Add the rows from `start` to `end`; whether they fitted. After a no, nothing can be added."""
        block = (b"," if self._length else b"[") + lines[start:end].replace(b"\n", b",")
        part = self._deflate.compress(block) + self._deflate.flush(self._zlib.Z_SYNC_FLUSH)
        if len(part) > self._room or len(block) > self._body_room:
            return False
        self._digest.update(lines[start:end] if not self._length else b"\n" + lines[start:end])
        self._room -= len(part)
        self._body_room -= len(block)
        self._crc = self._zlib.crc32(block, self._crc)
        self._length += len(block)
        self._parts.append(part)
        return True

    def digest(self) -> str:
        """See `digest`, of what was added."""
        return self._digest.hexdigest()

    def finish(self) -> bytes:
        """The gzipped body. Behind a flush the stream stands at a byte, so it can be ended without the compressor, which has seen the block that was refused."""
        crc = self._zlib.crc32(b"]", self._crc)
        trailer = struct.pack("<II", crc, (self._length + 1) & 0xFFFFFFFF)
        return b"".join([*self._parts, _LAST_BLOCK, trailer])


def wire(lines: Lines, chunk: Chunk) -> bytes:
    """The chunk's body gzipped; one that is longer than a raw one is never held uncompressed."""
    if chunk.body_bytes <= BODY_LIMIT_BYTES:
        return compress(body(lines, chunk))
    press = _Gzip(sys.maxsize, sys.maxsize)
    at = chunk.start
    while at < chunk.end:
        stop = min(_block_end(lines, at, BLOCK_BYTES), chunk.end)
        press.add(lines, at, stop)
        at = stop + 1
    return press.finish()


def halve(lines: Lines, chunk: Chunk) -> tuple[Chunk, Chunk]:
    """The chunk as two, cut at the first row boundary from its middle on (the last before it if there is none); it must have at least two rows."""
    middle = (chunk.start + chunk.end) // 2
    at = lines.find(b"\n", middle, chunk.end)
    if at == -1:
        at = lines.rfind(b"\n", chunk.start, middle)
    first = lines.count(b"\n", chunk.start, at) + 1
    return Chunk(chunk.start, at, first), Chunk(at + 1, chunk.end, chunk.rows - first)


def body(lines: Lines, chunk: Chunk) -> bytes:
    """The chunk's request body, uncompressed: a JSON array, exactly `chunk.body_bytes` long."""
    return b"".join((b"[", lines[chunk.start : chunk.end].replace(b"\n", b","), b"]"))


def digest(content: bytes | bytearray | memoryview) -> str:
    """Identity of rows in memberships and receipts: their XXH3, 128 bits, in hex."""
    from xxhash import xxh3_128_hexdigest

    return xxh3_128_hexdigest(content)


def compress(content: bytes | memoryview) -> bytes:
    """The body gzipped by ISA-L at level 1: ten times as fast as zlib at level 6 for 16 % more bytes (measured). The same rows give the same bytes whenever they are sent."""
    from isal import isal_zlib

    # Its `igzip.compress` takes a sixth longer for the same.
    compressed: bytes = isal_zlib.compress(content, COMPRESSION_LEVEL, wbits=zlib.MAX_WBITS | 16)
    return compressed


def decompress(content: bytes, about: int) -> bytes:
    """What was gzipped, of so many bytes."""
    from isal import isal_zlib

    decompressed: bytes = isal_zlib.decompress(content, zlib.MAX_WBITS | 16, about)
    return decompressed


def fewest_requests(chunks: list[Chunk], limit: int = BODY_LIMIT_BYTES) -> int:
    """The fewest bodies that could carry the same bytes if rows could be split: a lower bound for measuring how full requests are."""
    payload = sum(chunk.end - chunk.start + 1 for chunk in chunks)
    return -(-payload // (limit - 1)) if payload else 0


def rows_of(lines: Lines, chunk: Chunk) -> Iterator[bytes]:
    """The chunk's rows as JSON texts."""
    return iter(bytes(lines[chunk.start : chunk.end]).split(b"\n"))
