"""What synthetic inventories put into the tables: the ids of a day, and after load upon load which run's row the view has of each.

Invariant: nothing here looks at what a load did. It follows from the inventory and from the promises of README.md alone: a full load sends everything, a delta what is
new or has changed, and what is gone goes at once, when a second complete load has not seen it either, or (where only changes are exported) with the next full load.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from local.products.synthetic import Inventory
from local.relations import of_inventory
from sources.registry import SOURCES

KINDS: Final = {
    "cycognito": ("cycognito", {"domains": "domain", "web_apps": "webapp", "ip_ranges": "iprange", "issues": "issues"}),
    "device42": ("device42", {"devices": ""}),
    "tenable": ("tenable_io", {"assets": "", "vulnerabilities": "vulns"}),
}
"""The name of each source in the inventory, and of its streams' kinds there, without what says whether they are assets or findings."""

ABSENCES: Final = {"cycognito": 2, "device42": 1, "tenable": 1}
"""Complete loads in a row that must not have seen a record before it is deleted: pages by number prove nothing, a total or an export job does."""

FILTERED: Final = frozenset({"tenable"})
"""Sources whose deltas export only what has changed, and so cannot see what is gone."""


def kind_of(source: str, stream: str) -> tuple[str, str]:
    """Product and kind of a stream in the inventory."""
    product, kinds = KINDS[source]
    what = "findings" if SOURCES[source].stream(stream).table == "CAASM_Findings_CL" else "assets"
    return product, "_".join(part for part in (what, kinds[stream]) if part)


def as_sent(ids: Iterable[str]) -> set[str]:
    """Ids as the transforms write them: they fold the case of a port's protocol, the last part of a Tenable finding's key; other ids have none."""
    parts = (key.rpartition("/") for key in ids)
    return {head + slash + (end.lower() if slash else end) for head, slash, end in parts}


def ids_of(inventory: Inventory, source: str, stream: str) -> set[str]:
    """The ids of a stream on the inventory's day."""
    return as_sent(inventory.ids(*kind_of(source, stream)))


@dataclass(slots=True)
class Sent:
    """What a load has to send of one stream: the ids of its rows, and of its tombstones."""

    rows: set[str]
    tombstones: set[str]


@dataclass(slots=True)
class Expected:
    """What the view has of one stream after each load: id → the run whose row it is. Loads must be told in their order."""

    inventory: Inventory
    source: str
    stream: str
    view: dict[str, str] = field(default_factory=dict)
    _absent: dict[str, int] = field(default_factory=dict)
    _day: int = 0

    def load(self, run_id: str, mode: str, day: int) -> Sent:
        """A load ended complete: what it has sent, when it did what it should. `day` is not before that of the last load."""
        there = self.there(day)
        rows = there if mode == "full" else (there - self.view.keys()) | (self._changed(day) & there)
        gone = set() if mode == "delta" and self.source in FILTERED else self.view.keys() - there
        self._absent = {key: self._absent.get(key, 0) + 1 for key in gone}
        tombstones = {key for key, times in self._absent.items() if times >= ABSENCES[self.source]}
        for key in tombstones:
            del self.view[key], self._absent[key]
        self.view.update(dict.fromkeys(rows, run_id))
        self._day = day
        return Sent(rows, tombstones)

    def there(self, day: int) -> set[str]:
        """The ids of the day."""
        if self.stream in SOURCES[self.source].parents:
            return set(of_inventory(self.inventory.on(day), self.source, self.stream))
        return ids_of(self.inventory.on(day), self.source, self.stream)

    def _changed(self, day: int) -> set[str]:
        if self.stream in SOURCES[self.source].parents:
            before, now = (of_inventory(self.inventory.on(of), self.source, self.stream) for of in (self._day, day))
            return {key for key in before.keys() & now.keys() if before[key] != now[key]}
        return as_sent(self.inventory.changes(self._day, day, *kind_of(self.source, self.stream)).changed)
