"""An inventory that changes between the pages of one walk: records come and go at its front, so that all others shift.

Only the number of page requests moves it, never the clock; what came and what went stays known by id.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec
import pyarrow as pa

from local.products.columns import numbers
from local.products.synthetic import SyntheticStream

_FIRST_ARRIVAL = (1 << 27) + (1 << 23)
"""Arrivals are numbered from here: apart from all records, also where addresses are made of a number's low 24 bits."""


class Moves(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a control request asks for.

    `day`: the day to go to (what had moved is forgotten). `move_while_paging`: begin or stop to move; what has moved
    stays so. Every `every` page requests of a stream, before the next page, one record is inserted or removed at the
    front, or in turns, until `most` have been moved.
    """

    day: int | None = None
    move_while_paging: bool | None = None
    every: int = 3
    how: Literal["insert", "remove", "both"] = "both"
    most: int | None = None

    def __post_init__(self) -> None:
        if self.every < 1 or (self.day is not None and self.day < 0) or (self.most is not None and self.most < 0):
            raise ValueError("every must be at least 1; day and most count from 0")


@dataclass
class MovingStream:
    """A stream with arrivals in front, the newest first, and without the first records of the day."""

    stream: SyntheticStream
    requests: int = 0
    moved: int = 0
    inserted: int = 0
    removed: int = 0

    @property
    def count(self) -> int:
        return self.inserted + self.stream.count - self.removed

    def requested(self, moves: Moves) -> None:
        """Take note of a page request, and move if it is time to."""
        due = self.requests > 0 and self.requests % moves.every == 0
        self.requests += 1
        if not due or (moves.most is not None and self.moved >= moves.most):
            return
        if moves.how == "insert" or (moves.how == "both" and self.moved % 2 == 0):
            self.inserted += 1
        elif self.removed < self.stream.count:
            self.removed += 1
        else:
            return
        self.moved += 1

    def slice(self, first: int, count: int) -> bytes:
        """The records' texts with commas between them, cut at the stream's end."""
        arrivals = self._arrivals(first, first + count)
        rest = count - len(arrivals)
        start = max(0, first - self.inserted) + self.removed
        parts = (self.stream.numbered(arrivals), self.stream.slice(start, rest))
        return b",".join(bytes(part) for part in parts if len(part))

    def _arrivals(self, first: int, stop: int) -> pa.Array:
        """The numbers of the arrivals at those places: the last to come stands first."""
        first, stop = min(first, self.inserted), min(stop, self.inserted)
        return pa.array(
            range(_FIRST_ARRIVAL + self.inserted - 1 - first, _FIRST_ARRIVAL + self.inserted - 1 - stop, -1),
            pa.uint64(),
        )

    def inserted_ids(self) -> list[str]:
        """The ids that have come since the day began, the newest first."""
        return self.stream.ids_of(self._arrivals(0, self.inserted))

    def removed_ids(self) -> list[str]:
        """The ids that have gone since."""
        return self.stream.ids_of(self.stream.at(numbers(0, self.removed))[0])

    def ids(self) -> list[str]:
        """The ids that are there now, in order."""
        return [*self.inserted_ids(), *self.stream.ids(self.removed)]
