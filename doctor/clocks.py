"""Clocks compared by the Date header of an answer: HTTP gives whole seconds, and the way takes some more, so small differences say nothing."""

from __future__ import annotations

from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Final

from doctor.findings import Finding, doubt, fine, wrong

TOLERATED_S: Final = 60.0

REFUSED_S: Final = 300.0
"""Entra ID and Azure Storage refuse tokens and requests whose times are off by some 5 to 15 minutes."""

OVERLAP_S: Final = 3600.0
"""A delta asks a product for what has changed from an hour before the last run on."""


def ahead_s(date: str, now: float) -> float | None:
    """By how many seconds our clock is ahead of the one that wrote the header; None when it wrote none that can be read."""
    try:
        return now - parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None


def our_clock(subject: str, date: str, now: float) -> Iterator[Finding]:
    """Our clock against a service of Azure, whose clock is right."""
    by_s = ahead_s(date, now)
    if by_s is None:
        return
    seen = f"{abs(by_s):.0f} s {'ahead of' if by_s > 0 else 'behind'} {subject}"
    if abs(by_s) <= TOLERATED_S:
        yield fine("clock.ours", subject, "our clock agrees")
    else:
        yield (wrong if abs(by_s) >= REFUSED_S else doubt)("clock.ours", subject, f"our clock is {seen}")


def product_clock(subject: str, date: str, now: float) -> Iterator[Finding]:
    """A product's clock against ours; deltas by its own filter lose what it dates further back than the overlap."""
    by_s = ahead_s(date, now)
    if by_s is None or abs(by_s) <= REFUSED_S:
        return
    seen = f"its clock is {abs(by_s):.0f} s {'behind' if by_s > 0 else 'ahead of'} ours"
    yield (wrong if by_s >= OVERLAP_S else doubt)("product.clock", subject, seen)
