"""Faults on demand: random ones that depend only on (seed, request number), and permanent ones named one by one.

The number of a request is its place among the product requests since the faults were set, so a sequential client meets
the same faults on every run.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

KINDS = frozenset(
    {
        "429",
        "429-no-retry-after",
        "500",
        "502",
        "503",
        "timeout",
        "drop",
        "drop-mid-body",
        "expired-token",
        "html-200",
        "not-json",
    }
)
BROKEN_BODIES = frozenset({"html-200", "not-json", "null"})


class BrokenPage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A page that never answers well."""

    path: str
    page: int
    kind: str


class ExtraRecords(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Elements that stand behind the records of one page."""

    path: str
    page: int
    insert: list[Any]


class Faults(msgspec.Struct, forbid_unknown_fields=True):
    """The settings, as JSON gives them; all absent means none.

    `path` of a page is the request's path; of a Tenable chunk `/vulns/export/chunks` or `/assets/export/chunks`.
    `page` counts from 0 (Tenable chunks from 1); of Device42 it is offset divided by the limit that the answer names.
    `forbidden`: beginnings of paths that the API user may not read. `clock_off_s`: by how much the Date header is ahead.
    """

    seed: int = 0
    rate: float = 0.0
    kinds: list[str] = []
    retry_after_s: int = 0
    slow_s: float = 1.0
    break_page: list[BrokenPage] = []
    records: list[ExtraRecords] = []
    total_drift: int = 0
    unauthorized: bool = False
    page_cap: int | None = None
    status_error: str | None = None
    shuffle_chunks: bool = False
    fail_next: list[int] = []
    forbidden: list[str] = []
    clock_off_s: float = 0.0

    def __post_init__(self) -> None:
        unknown = set(self.kinds) - KINDS
        if unknown:
            raise ValueError(f"unknown fault kinds {sorted(unknown)!r}; known are {sorted(KINDS)!r}")
        bad = {page.kind for page in self.break_page} - BROKEN_BODIES
        if bad:
            raise ValueError(f"break_page kinds {sorted(bad)!r} are not among {sorted(BROKEN_BODIES)!r}")
        if self.rate > 0 and not self.kinds:
            raise ValueError("a rate needs kinds, such as ['503']")

    def random_kind(self, request_number: int) -> str | None:
        """The random fault of that request, or None."""
        if self.rate <= 0:
            return None
        digest = hashlib.blake2b(f"{self.seed}/{request_number}".encode(), digest_size=16).digest()
        if int.from_bytes(digest[:8], "big") / 2**64 >= self.rate:
            return None
        return self.kinds[int.from_bytes(digest[8:], "big") % len(self.kinds)]

    def broken(self, path: str, page: int) -> str | None:
        """How that page is broken, or None."""
        return next((broken.kind for broken in self.break_page if (broken.path, broken.page) == (path, page)), None)

    def inserted(self, path: str, page: int) -> list[Any]:
        """What is put behind the records of that page."""
        return [element for more in self.records if (more.path, more.page) == (path, page) for element in more.insert]


def parse(text: bytes | str) -> Faults:
    """Settings from JSON. Raises msgspec.ValidationError or msgspec.DecodeError with what is wrong."""
    return msgspec.json.decode(text, type=Faults)
