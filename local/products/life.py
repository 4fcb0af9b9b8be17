"""The life of a synthetic stream: which records exist on day D, and when each was last changed and last touched.

What befalls a record on a day depends only on (seed, stream, number, day), and a day's state follows from the day
before: so everybody who asks for day D gets the same inventory, and the difference of two days is known exactly.

On each day a record that exists is deleted, changed, touched or left alone. A tenth of the deleted ones come back one
to three days later with their old id, changed. New records stand behind all others. A finding goes with its asset and
comes back with it, changed, except for one in twenty, which stays behind as an orphan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from local.products.columns import Age, field, key_of, mix64, numbers, u64

LAST_DAY: Final = 7000
_BLOCK = 65_536
_SCALE = 1 << 24
_RETURNING = round(65536 * 0.1)
_KEPT_ORPHANS = round(65536 * 0.05)
_LONGEST_ABSENCE = 3


@dataclass(frozen=True)
class Rates:
    """Shares of a day: `created` of the first day's count, the others of the records that exist."""

    created: float = 0.01
    changed: float = 0.02
    deleted: float = 0.01
    touched: float = 0.3

    def __post_init__(self) -> None:
        shares = (self.created, self.changed, self.deleted, self.touched)
        if not all(0 <= share <= 1 for share in shares) or sum(shares[1:]) > 1:
            raise ValueError(f"{self!r}: shares are from 0 to 1, and changed + deleted + touched are at most 1")


@dataclass(frozen=True)
class State:
    """All records that there ever were up to a day, by position: about six bytes each.

    `alive` does not regard what a record hangs on, `shown` does; `back`: the day of a deleted record's return, or 0;
    `version`: the day of the last change, 0 for a record as it was first; `touched`: the day on which its times last
    moved, or 0.
    """

    alive: Any
    shown: Any
    back: Any
    version: Any
    touched: Any

    def part(self, first: int, count: int) -> State:
        """The state of the positions first .. first + count - 1, as far as there are any."""
        columns = (self.alive, self.shown, self.back, self.version, self.touched)
        return State(*(column.slice(first, count) for column in columns))


@dataclass(frozen=True)
class View:
    """The records of one day in the order of export: numbers, versions, last touches (eight bytes a record).

    `births`: the days on which the records numbered from `first_new` were created.
    """

    numbers: Any
    version: Any
    touched: Any
    first_new: int
    births: Any

    def at(self, places: Any, epoch: int) -> tuple[Any, Age]:
        """Numbers and ages of the records at these places of the day's inventory."""
        number = pc.cast(pc.take(self.numbers, places), pa.uint64())
        return number, Age(pc.take(self.version, places), pc.take(self.touched, places), self._born(number), epoch)

    def _born(self, number: Any) -> Any:
        newest = pc.max(number).as_py()
        if newest is None or newest < self.first_new:
            return None
        is_new = pc.greater_equal(number, u64(self.first_new))
        order = pc.if_else(is_new, pc.subtract(number, u64(self.first_new)), u64(0))
        return pc.if_else(is_new, pc.take(self.births, order), _u16(0))


class Differences(NamedTuple):
    """Numbers of the records that differ between two days, in order; each is in one column at most."""

    created: Any
    changed: Any
    deleted: Any
    touched: Any


def _u16(value: int) -> Any:
    return pa.scalar(value, pa.uint16())


def _flags(count: int, value: bool) -> Any:
    return pa.repeat(pa.scalar(value), count)


def _spans(stop: int) -> Iterator[tuple[int, int]]:
    """First position and length of each block."""
    return ((first, min(_BLOCK, stop - first)) for first in range(0, stop, _BLOCK))


def _joined(blocks: list[Any], kind: Any) -> Any:
    return pa.concat_arrays(blocks) if blocks else pa.array([], kind)


class Life:
    """One stream's life: `count` records on day 0; those that are created later are numbered from `first_new`.

    `timed`: the records tell when they were last seen; without that there is nothing to touch.
    """

    def __init__(self, seed: int, name: str, count: int, rates: Rates, first_new: int, timed: bool) -> None:
        self.seed, self.name = seed, name
        self.count, self.rates, self.first_new = count, rates, first_new
        deleted, changed = round(rates.deleted * _SCALE), round(rates.changed * _SCALE)
        self._limits = deleted, deleted + changed, deleted + changed + timed * round(rates.touched * _SCALE)
        self._parents: list[Life] = []
        self._links: Callable[[Any], Any] | None = None
        self._known_links: dict[int, Any] = {}
        self._last: tuple[int, State] | None = None
        self._shown: dict[int, Any] = {0: _flags(count, value=True)}

    def hang(self, parents: list[Life], links: Callable[[Any], Any]) -> None:
        """Let records exist only while what they hang on does.

        `links`: record numbers to positions in the first records of the parents, one behind the other; null for none.
        """
        self._parents, self._links = parents, links

    def total(self, day: int) -> int:
        """How many records there ever were up to that day."""
        return self.count + int(self.rates.created * self.count * day + 1e-9)

    def shown(self, day: int) -> Any:
        """Which of all records exist on that day, by position; kept for each day, a bit a record."""
        if day not in self._shown:
            self.state(day)
        return self._shown[day]

    def view(self, day: int) -> View:
        """The records of that day."""
        state, blocks = self.state(day), []
        for first, count in _spans(len(state.shown)):
            number = pc.cast(self._numbers(first, count), pa.uint32())
            blocks.append(pc.filter(number, state.shown.slice(first, count)))
        births = [pa.repeat(_u16(d), self.total(d) - self.total(d - 1)) for d in range(1, day + 1)]
        return View(
            _joined(blocks, pa.uint32()),
            pc.filter(state.version, state.shown),
            pc.filter(state.touched, state.shown),
            self.first_new,
            _joined(births, pa.uint16()),
        )

    def differences(self, from_day: int, to_day: int) -> Differences:
        """What differs between two days: a record that came and went in between is in none."""
        old, new = self.state(from_day), self.state(to_day)
        columns: tuple[list[Any], ...] = ([], [], [], [])
        for first, count in _spans(max(len(old.shown), len(new.shown))):
            a, b = _filled(old.part(first, count), count), _filled(new.part(first, count), count)
            both = pc.and_(a.shown, b.shown)
            changed = pc.and_(both, pc.not_equal(a.version, b.version))
            touched = pc.and_not(pc.and_(both, pc.not_equal(a.touched, b.touched)), changed)
            flags = pc.and_not(b.shown, a.shown), changed, pc.and_not(a.shown, b.shown), touched
            number = self._numbers(first, count)
            for column, flag in zip(columns, flags, strict=True):
                column.append(pc.filter(number, flag))
        return Differences(*(_joined(column, pa.uint64()) for column in columns))

    def state(self, day: int) -> State:
        """The state of a day. The last one is kept: going on to a later day costs the days in between."""
        if not 0 <= day <= LAST_DAY:
            raise ValueError(f"day {day!r} is not from 0 to {LAST_DAY}")
        if self._last is None or self._last[0] > day:
            there, zeros = _flags(self.count, value=True), pa.repeat(_u16(0), self.count)
            self._last = 0, State(there, there, zeros, zeros, zeros)
        done, state = self._last
        while done < day:
            done += 1
            state = self._next(state, done)
            self._last, self._shown[done] = (done, state), state.shown
        return state

    def _numbers(self, first: int, count: int) -> Any:
        """The record numbers at positions first .. first + count - 1."""
        position = numbers(first, count)
        if first + count <= self.count or self.first_new == self.count:
            return position
        later = pc.add(position, u64(self.first_new - self.count))
        return pc.if_else(pc.less(position, u64(self.count)), position, later)

    def _next(self, before: State, day: int) -> State:
        parents = [life.shown(day).slice(0, life.count) for life in self._parents]
        standing = pa.concat_arrays(parents) if parents else None
        blocks = [
            self._next_block(before.part(first, count), first, day, standing)
            for first, count in _spans(len(before.alive))
        ]
        new = self.total(day) - len(before.alive)
        if new:
            first, zeros = len(before.alive), pa.repeat(_u16(0), new)
            alive, today = _flags(new, value=True), pa.repeat(_u16(day), new)
            blocks.append(State(alive, self._with_parents(alive, first, standing), zeros, zeros, today))
        if not blocks:
            return before
        names = ("alive", "shown", "back", "version", "touched")
        return State(*(pa.concat_arrays([getattr(block, name) for block in blocks]) for name in names))

    def _next_block(self, before: State, first: int, day: int, standing: Any) -> State:
        number = self._numbers(first, len(before.alive))
        h = mix64(number, key_of(self.seed, f"{self.name}/life/{day}"))
        lot, today = field(h, 40, _SCALE, 24), _u16(day)
        below = [pc.less(lot, u64(limit)) for limit in self._limits]
        deleted = pc.and_(before.alive, below[0])
        changed = pc.and_(before.alive, pc.and_not(below[1], below[0]))
        touched = pc.and_(before.alive, pc.and_not(below[2], below[1]))
        returned = pc.equal(before.back, today)
        away = pc.cast(pc.add(field(h, 16, _LONGEST_ABSENCE), u64(day + 1)), pa.uint16())
        back = pc.if_else(pc.less(field(h, 0, 65536), u64(_RETURNING)), away, _u16(0))
        back = pc.if_else(deleted, back, pc.if_else(returned, _u16(0), before.back))
        alive = pc.or_(pc.and_not(before.alive, deleted), returned)
        shown = self._with_parents(alive, first, standing)
        fresh = pc.or_(pc.or_(changed, returned), pc.and_not(shown, before.shown))
        return State(
            alive,
            shown,
            back,
            pc.if_else(fresh, today, before.version),
            pc.if_else(pc.or_(fresh, touched), today, before.touched),
        )

    def _with_parents(self, alive: Any, first: int, standing: Any) -> Any:
        """Which records exist: of the living those whose parent stands, that have none, or that may do without."""
        if self._links is None or standing is None:
            return alive
        links = self._known_links.get(first)
        if links is None or len(links) != len(alive):
            number = self._numbers(first, len(alive))
            h = mix64(number, key_of(self.seed, f"{self.name}/orphans"))
            kept = pc.less(field(h, 0, 65536), u64(_KEPT_ORPHANS))
            links = pc.if_else(kept, pa.scalar(None, pa.uint32()), pc.cast(self._links(number), pa.uint32()))
            self._known_links[first] = links
        return pc.and_(alive, pc.fill_null(pc.take(standing, links), fill_value=True))


def _filled(state: State, count: int) -> State:
    """The state with records that did not exist yet behind it."""
    missing = count - len(state.shown)
    if missing <= 0:
        return state
    absent, zeros = _flags(missing, value=False), pa.repeat(_u16(0), missing)
    columns = (state.alive, state.shown, state.back, state.version, state.touched)
    return State(*map(lambda a, b: pa.concat_arrays([a, b]), columns, (absent, absent, zeros, zeros, zeros)))
