"""A sample of a stream: its first pages through the real reader, how long they took, and how many records there are in all.

Invariant: an export job that was begun for it is cancelled, unless a load has adopted it; one that the sample adopted is somebody else's and goes on, and what
that holds is not taken for everything.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from activities.deps import Deps
from activities.open_run import start_of
from contracts import JsonDict, Run
from sources.extent import extent
from sources.model import Stream
from sources.reader import Page, Paused, Reader
from staging import current_name

SAMPLE_PAGES, SAMPLE_RECORDS = 3, 1_500
SAMPLE_S: Final = 5.0
"""A stream's sample ends with so many pages and records, or when they took so long: from a few hundred records, what every request and query costs would count for each."""

LONGEST_WAIT_S: Final = 60.0
"""How long a sample waits for an export job."""


@dataclass(slots=True)
class Sample:
    """The first pages of a stream's first lane, of `lanes`; the seconds that their requests took; how many records the stream has,
    None if nobody knows, `approximate` if the product does not say it."""

    pages: list[Page] = field(default_factory=list)
    fetched_s: float = 0.0
    records: int | None = None
    lanes: int = 1
    approximate: bool = False

    def enough(self) -> bool:
        """Whether no further page is needed."""
        records = sum(len(page.records) for page in self.pages)
        many = len(self.pages) >= SAMPLE_PAGES and records >= SAMPLE_RECORDS
        return many or (bool(self.pages) and self.fetched_s >= SAMPLE_S)

    def take(self, page: Page, took_s: float) -> None:
        """Add a page, unless it could not be read."""
        self.fetched_s += took_s
        self.records = page.total if page.total is not None else self.records
        self.pages += [] if page.problem else [page]


def sampled(name: str, stream: Stream, deps: Deps, known: int | None) -> Sample:
    """A sample of the source's stream; `known`: how many records it had in the last run, for products that do not say it.

    Raises Stop when the source refuses, TryAgain when it is out.
    """
    run = Run("estimate", name, "full", deps.now().isoformat(timespec="microseconds"))
    stream = deps.stream(run, stream.name)
    start = start_of(stream, deps.budgets.lanes or stream.lanes, run, deps)
    sample = Sample(records=start.total, lanes=len(start.cursors))
    reader = deps.reader(name)
    loading = deps.staging.find_json(current_name(name))
    give_up = time.monotonic() + LONGEST_WAIT_S

    def patient(wait_s: float) -> bool:
        if time.monotonic() + wait_s > give_up:
            return False
        reader.sleep(wait_s)
        return True

    cursor, ended = _walk(reader, stream, start.cursors[0], sample, patient)
    if ended and sample.lanes == 1 and not cursor.get("adopted"):
        sample.records = sum(len(page.records) for page in sample.pages)
        return sample
    try:
        if sample.records is None:
            sample.records = known
        if sample.records is None and sample.pages:
            seen = [len(page.records) for page in sample.pages]
            sample.approximate = True
            sample.records = extent(reader, stream, cursor, seen, patient)
    finally:
        # A load that was opened meanwhile has adopted the job.
        if not ended and not cursor.get("adopted") and deps.staging.find_json(current_name(name)) == loading:
            reader.close(stream, cursor)
    return sample


def _walk(
    reader: Reader, stream: Stream, cursor: JsonDict, sample: Sample, patient: Callable[[float], bool]
) -> tuple[JsonDict, bool]:
    """Take pages until there are enough; the cursor behind them, and whether they are all of the lane."""
    first = True
    while not sample.enough():
        began = time.monotonic()
        for item in reader.walk(stream, cursor, first_contact=first):
            cursor, first = item.cursor, False
            if isinstance(item, Page):
                sample.take(item, time.monotonic() - began)
                began = time.monotonic()
                if sample.enough():
                    break
            elif not isinstance(item, Paused):
                return cursor, True
            elif not patient(item.wait_s):
                return cursor, False
    return cursor, False
