"""What activities are given: the staging container, readers, senders, budgets, the clock. Built once, in function_app.

Invariant: an activity reads nothing from the environment and builds no client; all that it touches comes in here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from contracts import Cancelled, Run, Stop
from sentinel.ingestion import Budget, Door, Sender
from sentinel.tables import RELATIONSHIPS
from sources.model import Derived, Source, Stream
from sources.reader import Reader
from sources.registry import SOURCES
from staging import Names, Staging


@dataclass(frozen=True, slots=True)
class Budgets:
    """Sizes and times that bound one activity. A segment ends with the page that reaches `segment_bytes` or after `export_s` seconds.

    `compressed`: whether `body_limit_bytes` is about the compressed body (wire mode) or the body itself (raw mode). Whatever the mode, rows are staged in bodies that
    are within it themselves.
    `lanes`, `page_records`: instead of the source's own numbers; 0 takes those.
    """

    segment_bytes: int
    export_s: float
    upload_s: float
    body_limit_bytes: int
    pack_bytes: int
    lanes: int
    compressed: bool = False
    page_records: int = 0


@dataclass(frozen=True, slots=True)
class Destination:
    """A named place to send rows to: one or more DCRs with the same streams, which share the load, and the stream for each table."""

    name: str
    doors: tuple[Door, ...]
    streams: dict[str, str]


@dataclass(frozen=True, slots=True)
class Deps:
    """Everything that activities depend on. `reader` raises Stop when the source's settings are missing.

    `desks`: whoever transforms a segment, or cuts and compresses a pack, holds one. Such work takes a core and several times a row group's bytes, and done more often
    at once than there are cores it only takes longer (docs/adr/0024-one-desk.md); fetching, waiting and sending need none.
    `without_relations`: sources whose relations nobody wants.
    """

    staging: Staging
    reader: Callable[[str], Reader]
    destinations: tuple[Destination, ...]
    budgets: Budgets
    sending: Budget
    desks: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(1))
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    without_relations: frozenset[str] = frozenset()

    def names(self, run: Run) -> Names:
        """The run's blob names."""
        return Names(run.source, run.run_id)

    def check_cancelled(self, run: Run) -> None:
        """Raises Cancelled when somebody asked the run to stop."""
        if self.staging.exists(self.names(run).cancel):
            raise Cancelled("the run was cancelled")

    def stream(self, run: Run, name: str) -> Stream:
        """The stream's declaration, with the page size of the settings where they have one."""
        stream = source_of(run.source).stream(name)
        records = self.budgets.page_records
        return replace(stream, paging=stream.paging.sized(records)) if records else stream

    def derived(self, source: Source, stream: str) -> list[Derived]:
        """The streams that are made of the stream's records, without those that are left out."""
        out = self.left_out(source)
        return [derived for derived in source.derived if derived.parent == stream and derived.name not in out]

    def left_out(self, source: Source) -> list[str]:
        """The source's derived streams that the settings leave out."""
        unwanted = source.name in self.without_relations
        return [derived.name for derived in source.derived if unwanted and derived.table == RELATIONSHIPS.name]

    def sender(self, destination: Destination, table: str, run: Run) -> Sender:
        """A sender of a table's rows to a destination, which asks between requests whether the run was cancelled."""
        pause = CancelWatch(self, run)
        return Sender(
            destination.doors,
            destination.streams[table],
            self.sending,
            cancelled=pause.due,
            clock=self.clock,
        )


class CancelWatch:
    """Asks for the cancel marker at most once in `every_s` seconds, so that a check between two requests costs nothing."""

    def __init__(self, deps: Deps, run: Run, every_s: float = 1.0) -> None:
        self._deps, self._run, self._every_s = deps, run, every_s
        self._next = 0.0
        self._due = False

    def due(self) -> bool:
        """Whether the run is to stop."""
        now = self._deps.clock()
        if not self._due and now >= self._next:
            self._next = now + self._every_s
            self._due = self._deps.staging.exists(self._deps.names(self._run).cancel)
        return self._due

    def check(self) -> None:
        """Raises Cancelled when the run is to stop."""
        if self.due():
            raise Cancelled("the run was cancelled")


def source_of(name: str) -> Source:
    """The source of that name; raises Stop with the names that there are."""
    if name not in SOURCES:
        raise Stop(f"there is no source {name!r}", f"use one of {', '.join(sorted(SOURCES))}")
    return SOURCES[name]
