"""What was accepted and is not in a table yet: bodies as they came, in files, until they are decoded into the store.

As in the service, acceptance and ingestion are two things: a body is checked for what a request is refused for, kept, and answered; its rows are decoded
when somebody asks, or when nothing has come for long. So an emulator takes bodies as fast as a service would and leaves a load the cores, and what it has
accepted outlives its being killed. Invariant: a file of the spool becomes files of the store under names made from its own number, and goes when those are complete; one that
is decoded again after a kill replaces what it had left.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile
from pathlib import Path
from typing import Final

import msgspec
import pyarrow as pa

from local.sentinel.answers import Refusal, bad_payload
from local.sentinel.decode import Received, decode
from local.sentinel.flows import Flow, flows
from local.sentinel.store import Store
from local.sentinel.wire import plain_body
from sentinel.tables import TABLES, Table

FILE_BYTES: Final = 32 * 1024 * 1024
"""Uncompressed bytes of one file of the spool, and so about the rows that are held while it is decoded."""

_ROWS: Final = msgspec.json.Decoder(list[msgspec.Raw])


class _Row(msgspec.Struct, gc=False):
    """Any object: what is in it is read over."""


_OBJECTS: Final = msgspec.json.Decoder(list[_Row])


@dataclass(frozen=True, slots=True)
class Kept:
    """An accepted body: the stream that it was sent to, when it came (naive, UTC), how it is encoded, its bytes on the wire."""

    stream: str
    received_at: datetime
    encoding: str
    wire: bytes


def rows_in(body: bytes) -> int:
    """How many rows a body has; raises Refusal (400) when it is not a JSON array of objects."""
    with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        check_utf8(body)
        return len(_OBJECTS.decode(body))
    # What is wrong with it is found, and said, by taking it apart.
    try:
        body.decode()
        rows = _ROWS.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise bad_payload(str(error)) from error
    if not all(bytes(memoryview(row)[:1]) == b"{" for row in rows):
        raise bad_payload("an element of the array is not an object")
    return len(rows)


def check_utf8(body: bytes) -> None:
    """Raises UnicodeDecodeError unless the bytes are UTF-8; twenty times as fast as decoding them, where they are."""
    offsets = struct.pack("=qq", 0, len(body))
    text = pa.Array.from_buffers(pa.large_string(), 1, [None, pa.py_buffer(offsets), pa.py_buffer(body)])
    try:
        text.validate(full=True)
    except pa.ArrowInvalid:
        body.decode()


class Spool:
    """The spool of a store directory; one process at a time has it, another one gets BlockingIOError. `decoded` is told what came of each body (None: it could not be decoded after all), from any thread."""

    def __init__(
        self,
        store: Store,
        streams: Mapping[str, Flow],
        decoded: Callable[[Flow, Received | None], None] = lambda _flow, _received: None,
        *,
        file_bytes: int = FILE_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._streams, self._decoded, self._limit, self._clock = store, streams, decoded, file_bytes, clock
        self._directory = store.directory / "spool"
        self._directory.mkdir(parents=True, exist_ok=True)
        self._owner = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._lock = threading.Lock()
        self._draining = threading.Lock()
        self._file = -1
        self._held = 0
        self._last_add = clock()
        self._next = store.next_number(int(path.stem) for path in self._directory.glob("*.bodies"))

    def add(self, kept: Kept, body_bytes: int) -> None:
        """Keep a body; when this returns it is in the file."""
        head = {
            "stream": kept.stream,
            "at": kept.received_at.isoformat(),
            "encoding": kept.encoding,
            "bytes": len(kept.wire),
        }
        frame = json.dumps(head).encode() + b"\n" + kept.wire
        with self._lock:
            if self._file < 0:
                name = self._directory / f"{self._next:08d}.bodies"
                self._file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                self._next += 1
            os.writev(self._file, [frame])
            self._held += body_bytes
            self._last_add = self._clock()
            if self._held >= self._limit:
                self._close_file()

    def close(self, within_s: float = math.inf) -> None:
        """Decode what waits, begin no file after so many seconds, and let the directory go; what is left is there for `recover`."""
        until = self._clock() + within_s
        self.drain(lambda: self._clock() < until)
        os.close(self._owner)

    def _close_file(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file, self._held = -1, 0

    def idle_s(self) -> float | None:
        """Seconds since the last body came, or None when none waits to be decoded."""
        with self._lock:
            return self._clock() - self._last_add if any(self._directory.glob("*.bodies")) else None

    def drain(self, going_on: Callable[[], bool] = lambda: True) -> None:
        """Decode what waits; when this returns, everything that was added before the call is in the store's files.

        With `going_on`, which is asked before each file: only what was decoded until it said no.
        """
        with self._draining:
            with self._lock:
                self._close_file()
                waiting = sorted(self._directory.glob("*.bodies"))
                waiting = [path for path in waiting if int(path.stem) < self._next]
            with ThreadPoolExecutor(2, "decode") as pool:
                for path in takewhile(lambda _: going_on(), waiting):
                    batches = [found for found in pool.map(self._decode, _frames(path)) if found is not None]
                    self._store.write(path.stem, batches)
                    path.unlink()

    def _decode(self, kept: Kept) -> tuple[str, pa.RecordBatch] | None:
        flow = self._streams[kept.stream]
        apply = flow.transform.apply if flow.transform is not None else None
        body = plain_body(kept.wire, kept.encoding, "wire")
        try:
            received = decode(body, flow.declared, kept.received_at, apply)
        except Refusal:
            # Rows that were accepted and could not be ingested: the service writes those to a log of its own.
            self._decoded(flow, None)
            return None
        self._decoded(flow, received)
        return flow.table.name, received.batch


def recover(directory: Path, tables: Sequence[Table] = TABLES) -> None:
    """Decode what an emulator that was killed has left in its store directory; nothing while one is at work there."""
    if any(directory.glob("spool/*.bodies")):
        with suppress(BlockingIOError):
            Spool(Store(directory), flows(tables)).close()


def _frames(path: Path) -> Iterator[Kept]:
    """The bodies of a file; one that was being written when its process was killed was never accepted."""
    with path.open("rb") as file:
        while line := file.readline():
            try:
                head = json.loads(line)
            except ValueError:
                return
            wire = file.read(head["bytes"])
            if len(wire) < head["bytes"]:
                return
            yield Kept(head["stream"], datetime.fromisoformat(head["at"]), head["encoding"], wire)
