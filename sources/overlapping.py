"""Pages that overlap: offset or page number over an inventory that moves, without losing a record that was there all along.

Invariant: each page begins before the end of the one before, and only what stands behind the last records known (the anchors) is taken. The server
cuts a page at one moment, so whatever stood behind an anchor then is still behind it now: as long as records keep their order among each other, none is
skipped, however many come and go. An anchor that stands elsewhere shows that the inventory moved; one that is not found again in the page
before either is a lost place, and the lane says at its end that records may be missing (docs/adr/0010). A record without a key is no anchor; how many stand behind the
last one (`tail`) is known.

A page number only counts pages of the size that is asked for, so an overlap takes another size: page 1 of 497 overlaps page 0 of 500 by three. There is such a size
for every place when pages have 16 records or more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec

from contracts import JsonDict
from sources.model import Done, Fetch, Parsed, Request, Start, Wait
from sources.paging import behind, counted_records_of, page_of, same_again

OVERLAP: Final = 3
"""Records that a page repeats of the one before."""

ANCHORS: Final = 8
"""Last records whose keys a cursor keeps: so many may vanish at once before the place is looked for a page further back."""


class _Window(NamedTuple):
    """The records to ask for: `first` is the position of the first of them."""

    first: int
    size: int

    @property
    def end(self) -> int:
        """The position behind the last record that is asked for."""
        return self.first + self.size


@lru_cache(maxsize=16)
def _identity(name: str) -> msgspec.json.Decoder[Any]:
    struct = msgspec.defstruct("Identity", [("key", msgspec.Raw)], rename={"key": name})
    return msgspec.json.Decoder(struct)


def _key(record: msgspec.Raw, name: str) -> str:
    """A short text that stands for the record's key; empty where it has none."""
    try:
        identity = bytes(_identity(name).decode(record).key)
    except msgspec.DecodeError:
        return ""
    return hashlib.blake2b(identity, digest_size=6).hexdigest()


@lru_cache(maxsize=64)
def _reaching_furthest(at: int, tail: int, most: int, numbered: bool) -> _Window | None:
    """The window that begins a few records before the last anchor, behind which `tail` others are known, and reaches furthest behind the place; None when pages are too small."""
    known = at - tail
    overlap = min(OVERLAP, max(1, (most - 1) // 2), known)
    if overlap + tail >= most:
        return None
    if not numbered:
        return _Window(known - overlap, most)
    # Sizes near the largest lose least; smaller ones are for the first pages and for small pages.
    for low in (max(overlap + tail + 1, most - most // 8), overlap + tail + 1):
        end, count = max(((known - overlap) // count * count + count, count) for count in range(low, most + 1))
        if end > at:
            return _Window(end - count, count)
    return None


@dataclass(frozen=True, slots=True)
class Overlapping:
    """Offset and limit, or with `numbered` page number and size; `key` is the field that identifies a record and never changes.

    With a total (`total_key`) the offsets are cut into lanes: a lane begins at anchors that `start` reads, and the lane before it ends there.
    """

    path: str
    size: int
    key: str
    position_parameter: str = "offset"
    size_parameter: str = "limit"
    numbered: bool = False
    records_key: str | None = None
    total_key: str | None = None
    method: str = "GET"
    json: object = None
    query: Mapping[str, str] = field(default_factory=dict)

    @property
    def stability(self) -> str:
        """The total before and after shows what came and went; without one, nothing does."""
        return "counted" if self.total_key else "none"

    @property
    def _boundary(self) -> int:
        """Records that are read before each lane but the first."""
        return min(ANCHORS, self.size)

    def probe(self, lanes: int, answers: Sequence[bytes] = ()) -> Request | None:
        """First the total, then the last records before each lane but the first."""
        if lanes == 1 or self.total_key is None:
            return None
        if not answers:
            return self._request(_Window(0, 1))
        starts = self._starts(answers[0], lanes)
        self._counted(answers[-1])
        if len(answers) >= len(starts):
            return None
        return self._request(_Window(starts[len(answers)] - self._boundary, self._boundary))

    def start(self, answers: Sequence[bytes], lanes: int, since: str | None) -> Start:  # noqa: ARG002 - the protocol's
        """Ranges of equal length, whole pages each; the last goes on to the end of the data."""
        if not answers:
            return Start([{"at": 0}])
        cursors: list[JsonDict] = [{"at": 0}]
        for start, answer in zip(self._starts(answers[0], lanes)[1:], answers[1:], strict=True):
            records, total = self._counted(answer)
            keys = [_key(record, self.key) for record in records]
            anchors = [key for key in keys if key]
            if not anchors:
                break
            # Behind the last anchor: a server that caps pages gave fewer records, and what has no key is no anchor.
            boundary = start - self._boundary + len(keys) - keys[::-1].index(anchors[-1])
            cursors[-1] |= {"end": boundary, "until": anchors}
            cursors.append({"at": boundary, "anchors": anchors, "total": total})
        return Start(cursors, self._counted(answers[0])[1])

    def step(self, cursor: JsonDict) -> Fetch | Wait | Done:
        """The next page; at the end, what the lane has to say against it."""
        if cursor.get("ended"):
            lost = cursor.get("lost", 0)
            return Done(
                f"the inventory moved while it was read, and the place was lost {lost} times: records may be missing"
                if lost
                else ""
            )
        window = self._window(cursor)
        return Fetch(self._request(window), window.first // window.size if self.numbered else window.first)

    def parse(self, cursor: JsonDict, fetch: Fetch, status: int, body: bytes) -> Parsed:  # noqa: ARG002 - the protocol's
        """What stands behind the anchors.

        A page whose anchors are missing gives nothing, and the page before it is read next; a page behind the end must be empty.
        """
        records, total = page_of(status, body, self.records_key, self.total_key)
        window = self._window(cursor)
        bare = not cursor.get("anchors") or self._is_bare(cursor)
        found = self._find(cursor, window, records)
        tail = cursor.get("tail", 0)
        in_place = found == (cursor["at"] - 1 - tail - window.first, True)
        # At the end two windows may hold the same few records, each where it should be.
        digest = cursor.get("last", "") if in_place else same_again(cursor, body, records)
        now = {**cursor, "last": digest, "total": total}
        now.pop("skipped", None)
        if bare and found is None:
            if not records:
                return Parsed((), {**now, "ended": True}, total)
            if cursor.get("anchors") and not cursor.get("confirm"):
                # Numbered pages of less than 16 records do not overlap everywhere.
                now["lost"] = cursor.get("lost", 0) + 1
            return self._taken(now, window, records, 0, total)
        if found is None:
            if window.first == 0 or cursor.get("back"):
                lost = {"lost": cursor.get("lost", 0) + 1, "anchors": [], "back": False}
                return Parsed((), {**now, **lost}, total)
            return Parsed((), {**now, "back": True, "total": cursor.get("total")}, total)
        place, exact = found
        shift = window.first + place - (cursor["at"] - 1 - tail)
        if not in_place:
            now["moved"] = cursor.get("moved", 0) + 1
            before = cursor.get("total")
            if exact and total is not None and before is not None and shift != total - before:
                # Nothing has come or gone that explains it: records have changed places.
                now["lost"] = cursor.get("lost", 0) + 1
        first = place + 1
        while first <= place + tail and first < len(records) and not _key(records[first], self.key):
            first += 1
        return self._taken(now, window, records, first, total)

    def skip(self, cursor: JsonDict, fetch: Fetch) -> JsonDict | None:  # noqa: ARG002 - the protocol's
        """Behind the page, with no anchors: the ledger names the page, and the run is not complete."""
        window = self._window(cursor)
        kept: JsonDict = {
            name: cursor[name] for name in ("end", "until", "met", "moved", "lost", "most") if name in cursor
        }
        return behind(cursor, {**kept, "at": window.end})

    def sized(self, records: int) -> Overlapping:
        """With pages of so many records."""
        return replace(self, size=records)

    def close(self, cursor: JsonDict) -> Request | None:  # noqa: ARG002 - the protocol's
        """Nothing to close."""
        return None

    # -------------------------------------------------------------------------------------------- windows

    def _request(self, window: _Window) -> Request:
        position = window.first // window.size if self.numbered else window.first
        query = {**self.query, self.size_parameter: str(window.size), self.position_parameter: str(position)}
        return Request(self.method, self.path, query, self.json)

    def _counted(self, body: bytes) -> tuple[Sequence[msgspec.Raw], int | None]:
        return counted_records_of(body, self.records_key, self.total_key)

    def _starts(self, answer: bytes, lanes: int) -> list[int]:
        """Where the lanes begin, from the answer that names the total."""
        pages = -(-(self._counted(answer)[1] or 0) // self.size)
        lanes = max(1, min(lanes, pages))
        share = -(-pages // lanes) * self.size
        return [start for start in range(0, share * lanes, share or 1) if start < pages * self.size] or [0]

    def _is_bare(self, cursor: JsonDict) -> bool:
        """Whether the page begins at the place itself: to see that nothing is behind it, or because no window overlaps."""
        return bool(cursor.get("confirm")) or self._overlapping(cursor) is None

    def _window(self, cursor: JsonDict) -> _Window:
        at, most = cursor["at"], cursor.get("most", self.size)
        window = None if not cursor.get("anchors") or cursor.get("confirm") else self._overlapping(cursor)
        if window is None:
            count = most if not self.numbered else next(c for c in range(most, 0, -1) if at % c == 0)
            return _Window(at, count)
        if not cursor.get("back"):
            return window
        return _Window(max(0, window.first - window.size), window.size)

    def _overlapping(self, cursor: JsonDict) -> _Window | None:
        return _reaching_furthest(cursor["at"], cursor.get("tail", 0), cursor.get("most", self.size), self.numbered)

    # -------------------------------------------------------------------------------------------- anchors

    def _find(self, cursor: JsonDict, window: _Window, records: Sequence[msgspec.Raw]) -> tuple[int, bool] | None:
        """The place of the last anchor that is on the page, and whether that is the last anchor of all."""
        anchors: list[str] = cursor.get("anchors", [])
        if not anchors:
            return None
        expected = cursor["at"] - 1 - cursor.get("tail", 0) - window.first
        if 0 <= expected < len(records) and _key(records[expected], self.key) == anchors[-1]:
            return expected, True
        keys = {_key(record, self.key): place for place, record in enumerate(records)}
        for anchor in reversed(anchors):
            if anchor in keys:
                return keys[anchor], anchor == anchors[-1]
        return None

    def _taken(
        self, now: JsonDict, window: _Window, records: Sequence[msgspec.Raw], first: int, total: int | None
    ) -> Parsed:
        """The records from `first` on, and the cursor behind them."""
        # What a page has beyond its size is no part of the list's order.
        behind_page = window.first + min(len(records), window.size)
        following = {**now, "back": False, "confirm": False}
        if len(records) < window.size and first == 0:
            # The server caps the size, or this was all: a page number counts pages of what it really gives.
            following["most"] = len(records)
        taken, met = self._up_to_the_next_lane(now, window, records[first:])
        if met == "ended":
            return Parsed(taken, {**following, "ended": True}, total)
        if taken:
            keys, tail = self._last(taken)
            tail += 0 if keys else now.get("tail", 0)
            following |= {"anchors": [*now.get("anchors", []), *keys][-ANCHORS:], "at": behind_page}
        else:
            tail = min(now.get("tail", 0), self._last(records)[1])
            # A page that is full of what is known goes on; one that is not was the last: what is behind it must be empty.
            following |= {"at": behind_page, "confirm": len(records) < window.size}
        following["tail"] = max(0, tail - max(0, len(records) - window.size))
        return Parsed(taken, {**following, **({"met": True} if met else {})}, total)

    def _last(self, records: Sequence[msgspec.Raw]) -> tuple[list[str], int]:
        """The keys of the last records that have one, and how many stand behind these: what has no key is no anchor, it may be anywhere."""
        keys: list[str] = []
        tail = 0
        for record in reversed(records):
            key = _key(record, self.key)
            if key:
                keys.insert(0, key)
            elif not keys:
                tail += 1
            if len(keys) == ANCHORS:
                break
        return keys, tail

    def _up_to_the_next_lane(
        self, now: JsonDict, window: _Window, taken: Sequence[msgspec.Raw]
    ) -> tuple[Sequence[msgspec.Raw], str]:
        """What belongs to this lane: up to the anchors that the next one began at. Also `met`, `ended` or an empty text."""
        until: list[str] = now.get("until", [])
        if not until or window.end < now["end"] - self.size:
            return taken, ""
        keys = {_key(record, self.key): place for place, record in enumerate(taken)}
        if until[-1] in keys:
            return taken[: keys[until[-1]] + 1], "ended"
        if any(key in keys for key in until):
            return taken, "met"
        # They were on the page before, but for the last, which is gone by now.
        return ((), "ended") if now.get("met") and taken else (taken, "")
