"""Breaks records, and pages of them, for the kernel built with the address and undefined-behaviour sanitizers: `python tests/native/sanitized.py [seconds]`.

Invariant: each record, each page and what is written of it has memory of exactly its size, so that a byte read behind it stops the process with a report, as does memory that is freed
twice; every block that the kernel takes is counted, also where it does not get the next one. Not part of the tests: it needs gcc's sanitizers, and
finds more the longer it runs. FLAGS=-U__SSE2__ is for machines without SSE2.
"""

from __future__ import annotations

import ctypes
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
KINDS = {
    ("cycognito", "issues"): "findings_issues",
    ("cycognito", "domains"): "assets_domain",
    ("device42", "devices"): "assets",
    ("tenable", "assets"): "assets",
    ("tenable", "vulnerabilities"): "findings_vulns",
}
SNIPPETS = [b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\", b"\\u", b"\\ud83d", b"-", b"1e", b"0.1", b"1" * 40, b"null", b"tru", b"[" * 99, b'{"a":' * 99, b"\0", b"\xff", b" "]  # fmt: skip

COUNTED = """
#include <stdlib.h>
extern int blocks, refuse_after;
static inline int refused(void) { return refuse_after >= 0 && refuse_after-- == 0; }
static inline void *counted(void *block) { return blocks += block != NULL, block; }
static inline void *malloc_(size_t size) { return refused() ? NULL : counted(malloc(size)); }
static inline void *calloc_(size_t count, size_t size) { return refused() ? NULL : counted(calloc(count, size)); }
static inline void *realloc_(void *block, size_t size) { return refused() ? NULL : block ? realloc(block, size) : counted(malloc(size)); }
static inline void free_(void *block) { blocks -= block != NULL, free(block); }
#define malloc malloc_
#define calloc calloc_
#define realloc realloc_
#define free free_
"""
"""What stands before the kernel's files."""

COUNTS = '__attribute__((visibility("default"))) int blocks = 0, refuse_after = -1;'


def _begin(seconds: str) -> int:
    with tempfile.TemporaryDirectory() as directory:
        library = Path(directory) / "kernel.so"
        (Path(directory) / "counted.h").write_text(COUNTED)
        (Path(directory) / "counts.c").write_text(COUNTS)
        files = [*map(str, ROOT.glob("native/*.c")), f"{directory}/counts.c", "-include", f"{directory}/counted.h"]
        flags = ["-std=c11", "-g", "-O1", "-fPIC", "-shared", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", *os.environ.get("FLAGS", "").split()]  # fmt: skip
        subprocess.run(["gcc", *flags, *files, "-o", str(library)], check=True)
        preload = [subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip() for name in ("libasan.so", "libubsan.so")]  # fmt: skip
        # Python itself leaves memory behind.
        environment = os.environ | {
            "LD_PRELOAD": " ".join(preload),
            "ASAN_OPTIONS": "detect_leaks=0",
            "PYTHONPATH": str(ROOT),
        }
        return subprocess.run(
            [sys.executable, __file__, seconds, str(library)], env=environment, check=False
        ).returncode


def _broken(record: bytes, chance: random.Random) -> bytes:
    broken = bytearray(record)
    for _ in range(chance.choice([0, 1, 1, 2, 5])):
        at = chance.randrange(len(broken) + 1)
        size = chance.choice([0, 1, 2, 8, 30])
        match chance.randrange(4):
            case 0:
                broken[at : at + size] = chance.choice(SNIPPETS)
            case 1:
                del broken[at : at + size]
            case 2:
                del broken[at:]
            case _:
                other = chance.randrange(len(broken) + 1)
                broken[at:at] = broken[other : other + size]
    return bytes(broken)


class _Memory:
    """Memory of the C library's, each piece of exactly its size."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None)
        self._libc.malloc.restype = ctypes.c_void_p
        self._libc.free.argtypes = [ctypes.c_void_p]
        self._held: list[int] = []

    def copied(self, data: bytes) -> int:
        place: int = self._libc.malloc(ctypes.c_size_t(len(data)))
        ctypes.memmove(place, data, len(data))
        self._held.append(place)
        return place

    def free(self) -> None:
        for place in self._held:
            self._libc.free(place)


class _Views:
    """Records as binary views, each longer one in a buffer of its own and of its size."""

    def __init__(self, records: list[bytes]) -> None:
        self._memory = _Memory()
        views = bytearray()
        held: list[int] = []
        for record in records:
            views += len(record).to_bytes(4, "little")
            if len(record) <= 12:
                views += record.ljust(12, b"\0")
            else:
                views += record[:4] + len(held).to_bytes(4, "little") + bytes(4)
                held.append(self._memory.copied(record))
        self.buffers = (ctypes.c_void_p * max(1, len(held)))(*held)
        self.views = self._memory.copied(bytes(views))

    def free(self) -> None:
        self._memory.free()


def _split(library: ctypes.CDLL, chance: random.Random, texts: list[bytes]) -> bool:
    """Split a page of the records, mostly broken; whether the kernel did. What it gives has to be what msgspec does."""
    import msgspec

    fields = [("r", list[msgspec.Raw]), ("t", msgspec.Raw, msgspec.Raw(b""))]
    page = msgspec.defstruct("page", fields)
    key, total = chance.choice([(None, None), (b"r", None), (b"r", b"t")])
    body = b"[" + chance.choice([b",", b" , "]).join(texts) + b"]"
    if key is not None:
        members = [b'"%s":%s' % (key, body), b'"t":7', b'"o":' + chance.choice([*SNIPPETS, b"{}"])]
        body = b"{" + b",".join(chance.choices(members, k=chance.choice([1, 2, 3]))) + b"}"
    if chance.random() < 0.7:
        body = _broken(body, chance)
    memory, room = _Memory(), chance.choice([0, 1, len(texts), 40])
    at = memory.copied(body)
    starts, offsets, span = (memory.copied(bytes(size)) for size in (4 * room, 4 * room + 4, 8))
    names = [value for name in (key, total) for value in (name and ctypes.c_void_p(memory.copied(name)), ctypes.c_int64(len(name or b"")))]  # fmt: skip
    places = [ctypes.c_void_p(starts), ctypes.c_void_p(offsets)]
    library.pages_split.restype = ctypes.c_int64
    count: int = library.pages_split(ctypes.c_void_p(at), ctypes.c_int64(len(body)), *names, *places, ctypes.c_int64(room), ctypes.c_void_p(span))  # fmt: skip
    if count >= 0:
        listed = msgspec.json.decode(body, type=list[msgspec.Raw] if key is None else page)
        low, high = (int.from_bytes(ctypes.string_at(span + place, 4), "little") for place in (0, 4))
        if key is not None:
            assert total is None or body[low:high] == bytes(listed.t)
            listed = listed.r
        assert count == len(listed)
        if count <= room:
            first = chance.randrange(count + 1)
            whole = b"".join(listed[first:])
            to, ends = memory.copied(bytes(len(whole))), memory.copied(bytes(4 * (count - first)))
            from_here = [ctypes.c_void_p(place + 4 * first) for place in (starts, offsets)]
            library.pages_join(ctypes.c_void_p(at), *from_here, ctypes.c_int64(count - first), ctypes.c_void_p(to), ctypes.c_void_p(ends), ctypes.c_int32(5))  # fmt: skip
            assert ctypes.string_at(to, len(whole)) == whole
            if count > first:
                assert int.from_bytes(ctypes.string_at(ends + 4 * (count - first - 1), 4), "little") == 5 + len(whole)
    memory.free()
    return count >= 0


def _run(seconds: float, path: str) -> None:
    import pyarrow as pa

    from local.products.synthetic import Inventory
    from native.records import _plan
    from transforms.decode import arrow_schema
    from transforms.registry import TRANSFORMS

    library = ctypes.CDLL(path)
    blocks, refuse_after = (ctypes.c_int.in_dll(library, name) for name in ("blocks", "refuse_after"))
    seed = random.SystemRandom().randrange(2**32)
    chance = random.Random(seed)
    shapes = []
    for (source, stream), kind in KINDS.items():
        of = Inventory(200, 200).stream("tenable_io" if source == "tenable" else source, kind)
        texts = [bytes(text)[:-1] for text in of.records(pa.array(range(of.count), pa.uint64())).to_pylist()]
        shapes.append((arrow_schema(TRANSFORMS[source, stream].fields), texts))
    calls = read = pages = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        schema, texts = chance.choice(shapes)
        few = chance.choices(texts, k=chance.choice([0, 1, 1, 3, 20]))
        if few and chance.random() < 0.9:
            few[-1] = _broken(few[-1], chance)
        given = _Views(few)
        arrays = ctypes.create_string_buffer(80 * len(schema))
        plan = _plan(schema)
        refuse_after.value = chance.choice([-1, -1, chance.randrange(300)])
        good = library.records_decode(plan, ctypes.c_int64(len(plan)), ctypes.c_void_p(given.views), given.buffers, ctypes.c_int64(len(few)), arrays)  # fmt: skip
        refuse_after.value = chance.choice([-1, -1, 0])
        pages += _split(library, chance, few)
        refuse_after.value = -1
        given.free()
        if good:
            at = ctypes.addressof(arrays)
            columns = [pa.Array._import_from_c(at + 80 * place, field.type) for place, field in enumerate(schema)]
            chance.shuffle(columns)
            while columns:
                # What is no UTF-8 was given so.
                with suppress(UnicodeDecodeError):
                    columns.pop().to_pylist()
        assert blocks.value == 0, f"seed {seed}: {blocks.value} blocks are left"
        calls, read = calls + 1, read + good
    print(f"seed {seed}: {calls} calls, {read} of them read, {pages} pages split, nothing found")  # noqa: T201 - a command's answer


if __name__ == "__main__":
    if len(sys.argv) > 2:
        _run(float(sys.argv[1]), sys.argv[2])
    else:
        sys.exit(_begin(sys.argv[1] if len(sys.argv) > 1 else "30"))
