"""Synthetic inventories: streams of which record i depends only on (seed, i, day), rendered a page at a time.

Nothing is stored but templates, and for a day after the first some 20 bytes a record: any page can be served on demand,
in any order, by any process, with identical bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from functools import lru_cache
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from local.products.columns import DAYS, FIRST_DAY, Age, numbers
from local.products.layout import Layouts
from local.products.life import LAST_DAY, Life, Rates, View

EPOCH: Final = FIRST_DAY + timedelta(days=DAYS - 1)
"""Day 0, 2025-10-20: no record of the first inventory has a later time; day D begins at midnight UTC, D days later."""
_BLOCK = 65_536
_AHEAD = 4_000
"""Records that are rendered together when a page follows on another: 1,000 at a time cost up to twice as much a record."""
_WALKS = 8
"""Places at which a stream is read at once."""


@dataclass(frozen=True)
class Rendering:
    """What a stream's columns are for some record numbers: the template of each record and the slots' texts."""

    template: Any
    slots: Mapping[str, Any]


@dataclass(frozen=True)
class Hanging:
    """What a stream's records are found on: other streams of the product, and the place of each record's there.

    `links`: record numbers to places in the first inventories of those streams, one behind the other; null for none.
    """

    kinds: tuple[str, ...]
    links: Callable[[Any], Any]


@dataclass(frozen=True, eq=False)
class _Walk:
    """Rendered records from one place to before another, of which a page was served; the next begins among them, as pages may overlap, or behind them."""

    first: int
    stop: int
    records: Any


@dataclass(frozen=True)
class SyntheticStream:
    """One stream of a product on one day: `count` records. A record's place is its number, unless the day is later.

    A record keeps its number for good; its place among the records of a day moves as others vanish.
    """

    product: str
    kind: str
    count: int
    layouts: Layouts
    render: Callable[[Any, Age | None], Rendering]
    """Record numbers and ages (None: as first) to columns."""
    key: Callable[[Any], Any]
    """Record numbers to the texts that identify the records: the wire ids where a record has one."""
    facts: Callable[[Any, Age | None], Mapping[str, Any]] | None = None
    """Record numbers and ages to what the product's filters ask for, in the filters' units."""
    states: frozenset[str] = frozenset()
    """The states that any of the records are in, where the product has states."""
    hangs: Hanging | None = None
    timed: bool = True
    """Whether a record tells when it was last seen."""
    first_new: int | None = None
    """The number of the first record that is created after day 0, where it is not `count`."""
    view: View | None = field(default=None, repr=False)
    """The records of a day after the first."""
    epoch: int = DAYS - 1
    _walks: list[_Walk] = field(default_factory=list, init=False, repr=False, compare=False)
    """The last to be used stands last."""

    def at(self, places: Any) -> tuple[Any, Age | None]:
        """Numbers and ages of the records at these places."""
        return (places, None) if self.view is None else self.view.at(places, self.epoch)

    def records(self, places: Any) -> Any:
        """The records' JSON texts as one large_binary array, each with a comma behind it."""
        return self._rendered(*self.at(places))

    def _rendered(self, number: Any, age: Age | None) -> Any:
        rendering = self.render(number, age)
        layout = self.layouts.first if age is None else self.layouts.lived
        return layout.render(rendering.template, rendering.slots)

    def body(self, places: Any) -> memoryview:
        """The records' JSON texts with commas between them: an array without its brackets."""
        return _body(self.records(places)) if len(places) else memoryview(b"")

    def slice(self, first: int, count: int) -> memoryview:
        """The body of records first .. first + count - 1, cut at the stream's end; of a walk through the pages the next ones are rendered ahead."""
        count = max(0, min(count, self.count - first))
        if not 100 <= count <= _AHEAD // 2:
            return self.body(numbers(first, count))
        walk = near = next((walk for walk in self._walks if walk.first <= first <= walk.stop), None)
        if walk is None or first + count > walk.stop:
            stop = first + count if near is None else min(first + _AHEAD, self.count)
            walk = _Walk(first, stop, self.records(numbers(first, stop - first)))
        self._walks[:] = [*(other for other in self._walks if other is not near), walk][-_WALKS:]
        return _body(walk.records.slice(first - walk.first, count))

    def numbered(self, number: Any) -> memoryview:
        """The body of records by their numbers, as they are first, whether the day has them or not."""
        return _body(self._rendered(number, None)) if len(number) else memoryview(b"")

    def record(self, place: int, version: int | None = None) -> bytes:
        """The JSON text of one record; with a version, of the record of that number as it was changed on that day."""
        if version is None:
            return bytes(self.body(numbers(place, 1)))
        day = pa.array([version], pa.uint16())
        return bytes(_body(self._rendered(numbers(place, 1), Age(day, day, epoch=self.epoch))))

    def ids_of(self, number: Any) -> list[str]:
        """The ids of records by their numbers."""
        texts: list[str] = pc.cast(self.key(number), pa.large_string()).to_pylist() if len(number) else []
        return texts

    def ids(self, first: int = 0, count: int | None = None) -> Iterator[str]:
        """The ids of the records, in their order: the truth that a load is compared with."""
        stop = self.count if count is None else min(self.count, first + count)
        for start in range(first, stop, _BLOCK):
            yield from self.ids_of(self.at(numbers(start, min(_BLOCK, stop - start)))[0])

    def matching(self, keep: Callable[[Mapping[str, Any]], Any]) -> Any:
        """The places of the records whose facts `keep` (facts to a boolean column) accepts, in order."""
        if self.facts is None:
            raise ValueError(f"{self.product} {self.kind} has no facts to filter by")
        blocks = []
        for start in range(0, self.count, _BLOCK):
            places = numbers(start, min(_BLOCK, self.count - start))
            blocks.append(pc.filter(places, keep(self.facts(*self.at(places)))))
        return pa.concat_arrays(blocks) if blocks else numbers(0, 0)


def _body(out: Any) -> memoryview:
    ends = memoryview(out.buffers()[1]).cast("B").cast("q")[out.offset :]
    return memoryview(out.buffers()[2])[ends[0] : ends[len(out)] - 1]


@dataclass(frozen=True)
class Changes:
    """The ids of the records that differ between two days; each is in one list at most.

    Created: only there on the later day (for the first time, or again). Deleted: only there on the earlier one. Changed:
    there on both, with other content. Touched: there on both, and only last-seen and updated times have moved.
    """

    created: list[str]
    changed: list[str]
    deleted: list[str]
    touched: list[str]


@dataclass(frozen=True)
class Inventory:
    """What the synthetic products hold on day `day`: on day 0 `assets` and `findings` records of each product.

    Shares of findings: `orphan_share` (CyCognito) and `tenable_orphan_share` point at assets that are not exported,
    `big_output_share` has a plugin output of half a megabyte, `fixed_share` is in the state FIXED. Shares of a day:
    `created`, `changed`, `deleted`, `touched`, see `life`. Whatever happens on day D moves a record's times into that
    day, which begins at `epoch` + D days, midnight UTC.
    """

    assets: int
    findings: int
    seed: int = 1
    orphan_share: float = 0.3
    tenable_orphan_share: float = 0.005
    big_output_share: float = 0.001
    fixed_share: float = 0.0
    day: int = 0
    created: float = Rates.created
    changed: float = Rates.changed
    deleted: float = Rates.deleted
    touched: float = Rates.touched
    epoch: date = EPOCH

    def __post_init__(self) -> None:
        Rates(self.created, self.changed, self.deleted, self.touched)
        if not 0 <= self.day <= LAST_DAY:
            raise ValueError(f"day {self.day!r} is not from 0 to {LAST_DAY}")
        if self.epoch < EPOCH:
            raise ValueError(f"epoch {self.epoch!r}: the records of day 0 have times up to {EPOCH!r}")

    def on(self, day: int) -> Inventory:
        """The same inventory on another day."""
        return replace(self, day=day)

    def streams(self) -> dict[tuple[str, str], SyntheticStream]:
        """All streams, by product and kind (the names of the recorded files)."""
        first, lives = _family(self.on(0))
        if self.day == 0:
            return dict(first)
        return {key: self._aged(stream, lives[key]) for key, stream in first.items()}

    def _aged(self, stream: SyntheticStream, life: Life) -> SyntheticStream:
        view = life.view(self.day)
        return replace(stream, count=len(view.numbers), view=view, epoch=(self.epoch - FIRST_DAY).days)

    def stream(self, product: str, kind: str) -> SyntheticStream:
        """One stream, e.g. ("cycognito", "assets_domain"), ("tenable_io", "findings_vulns")."""
        first, lives = _family(self.on(0))
        stream = first[product, kind]
        return stream if self.day == 0 else self._aged(stream, lives[product, kind])

    def ids(self, product: str, kind: str) -> list[str]:
        """The exact ids of all records of a stream, in the order of export."""
        return list(self.stream(product, kind).ids())

    def count(self, product: str, kind: str) -> int:
        """The number of records of a stream."""
        return self.stream(product, kind).count

    def changes(self, from_day: int, to_day: int, product: str, kind: str) -> Changes:
        """What differs between the inventories of two days, exactly; this inventory's own day does not matter.

        Raises ValueError when `to_day` is before `from_day`.
        """
        if to_day < from_day:
            raise ValueError(f"day {to_day!r} is before day {from_day!r}")
        first, lives = _family(self.on(0))
        stream = first[product, kind]
        return Changes(*(stream.ids_of(column) for column in lives[product, kind].differences(from_day, to_day)))


@lru_cache(maxsize=4)
def _family(
    inventory: Inventory,
) -> tuple[dict[tuple[str, str], SyntheticStream], dict[tuple[str, str], Life]]:
    """The streams of day 0, and their lives, which remember the day that was last asked for."""
    from local.products import synthetic_cycognito, synthetic_device42, synthetic_tenable, synthetic_tenable_vulns

    made = [
        *synthetic_cycognito.streams(inventory.assets, inventory.findings, inventory.seed, inventory.orphan_share),
        synthetic_device42.stream(inventory.assets, inventory.seed),
        synthetic_tenable.stream(inventory.assets, inventory.seed),
        synthetic_tenable_vulns.stream(inventory),
    ]
    streams = {(stream.product, stream.kind): stream for stream in made}
    rates = Rates(inventory.created, inventory.changed, inventory.deleted, inventory.touched)
    lives = {
        key: Life(
            inventory.seed,
            "/".join(key),
            stream.count,
            rates,
            stream.count if stream.first_new is None else stream.first_new,
            stream.timed,
        )
        for key, stream in streams.items()
    }
    for key, stream in streams.items():
        if stream.hangs is not None:
            lives[key].hang([lives[stream.product, kind] for kind in stream.hangs.kinds], stream.hangs.links)
    return streams, lives
