"""How the worker's allocators behave: large buffers are kept for the next segment instead of being given back and fetched again.

A load allocates the same few large buffers over and over. Given back to the system, each comes again as fresh pages, and a page fault costs as much as
the work on the page: a third of the app's CPU time before this (docs/adr/0012-memory.md). Invariant: nothing here changes a result; what cannot be
set is left as it is.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Final

ENVIRONMENT: Final = {
    # Two threads of polars beside our own activity threads cost up to 1.7 times the CPU (measured).
    "POLARS_MAX_THREADS": "1",
    # Its streaming engine wakes and awaits threads for every small frame: 3 to 8 ms a query (polars 2.1, measured).
    "POLARS_ENGINE_AFFINITY": "in-memory",
    # Arrow's buffers come from the same heap as Python's, so that either reuses what the other has freed.
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    # The pool of the lines (`sentinel.ndjson`) gives back what is free in it at once: kept, each thread that encodes keeps its own (30 to 60 MB, measured).
    "MIMALLOC_PURGE_DELAY": "0",
    # Polars' allocator: one arena, and freed pages stay for some seconds.
    "_RJEM_MALLOC_CONF": "narenas:1,dirty_decay_ms:5000,muzzy_decay_ms:0,thp:always",
    # Huge pages for the heap: a fault brings 2 MiB. The C library reads it before the process begins, so it has to be an app setting.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
"""Environment variables that the libraries read when they are loaded; an app setting of the same name wins."""

_MALLOPT: Final = {
    -8: 1,  # M_ARENA_MAX: freed memory is of use to every thread
    # M_MMAP_THRESHOLD: smaller buffers come from the heap. Larger ones, as pages of records of half a megabyte, would leave holes in it (490 instead of 410 MB, measured).
    -3: 4 * 1024 * 1024,
    -1: 256 * 1024 * 1024,  # M_TRIM_THRESHOLD: that much stays free at the heap's end
}
"""glibc's mallopt(3)."""


_GC_THRESHOLDS: Final = (20_000, 20, 20)
"""A page of records and a query of polars make thousands of objects that form no cycle: looked through every 700, they cost 3 % of the CPU time (measured)."""


def settle(environment: MutableMapping[str, str]) -> None:
    """Set what is not set yet, before the libraries are loaded that read it."""
    for name, value in ENVIRONMENT.items():
        environment.setdefault(name, value)
    gc.set_threshold(*_GC_THRESHOLDS)
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library has no mallopt
            mallopt = ctypes.CDLL(None).mallopt
            for option, size in _MALLOPT.items():
                mallopt(option, size)


def give_back() -> None:
    """Give what the C library's heap holds free back to the system: between two phases of which the second needs other buffers than the first."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
