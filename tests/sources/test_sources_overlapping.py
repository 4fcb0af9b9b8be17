"""Pages that overlap, over inventories that move between any two requests: nothing that was there all along is missing, or the lane says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from contracts import JsonDict
from sources.authentication import Headers
from sources.model import Request, Source, Stream
from sources.overlapping import ANCHORS, Overlapping
from sources.paging import resting
from sources.reader import Ended, Page, Reader

OFFSETS = Overlapping("/records", 16, key="id", records_key="items", total_key="total")
PAGES = Overlapping("/records", 16, key="id", numbered=True, position_parameter="page", size_parameter="per_page")
kinds = pytest.mark.parametrize("paging", [OFFSETS, PAGES], ids=["offsets", "page numbers"])


def records(first: int, count: int) -> list[JsonDict]:
    """Records whose ids are those numbers."""
    return [{"id": n, "seen": n % 7} for n in range(first, first + count)]


@dataclass(slots=True)
class Server(Reader):
    """A reader of a list in memory; `move` changes the list before a request. `cap`: no page has more; `requests` made so far."""

    items: list[JsonDict] = field(kw_only=True)
    move: Callable[[list[JsonDict], int], None] = field(kw_only=True, default=lambda _items, _number: None)
    cap: int = 1000
    requests: int = 0

    def fetch(self, request: Request, *, first_contact: bool = False) -> tuple[int, bytes]:
        """What is there at this moment."""
        self.move(self.items, self.requests)
        self.requests += 1
        assert self.requests < 2_000, "the walk does not end"
        query = {name: int(value) for name, value in request.query.items()}
        size = min(self.cap, query.get("limit", query.get("per_page", 0)))
        first = query["offset"] if "offset" in query else query["page"] * size
        page = self.items[first : first + size]
        value: Any = {"total": len(self.items), "items": page} if "offset" in query else page
        return 200, json.dumps(value).encode()


def server(paging: Overlapping, items: list[JsonDict], **more: Any) -> tuple[Server, Stream]:
    """A server of the records and the stream that reads it."""
    stream = Stream("records", "CAASM_Assets_CL", paging)
    source = Source("acme", "Acme", "Acme", "", (), Headers({}), (stream,))
    return Server(source, "http://127.0.0.1:9", {}, sleep=lambda _: None, items=items, **more), stream


@dataclass
class Walked:
    """What the lanes of a stream came to. `moved`: how often places were found elsewhere."""

    ids: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    moved: int = 0


def walk(reader: Server, stream: Stream, lanes: int = 1, turn: int = 3) -> Walked:
    """All lanes in turn, some pages at a time, each from its cursor as JSON."""
    answers: list[bytes] = []
    while (probe := stream.paging.probe(lanes, answers)) is not None:
        answers.append(reader.fetch(probe)[1])
    waiting = stream.paging.start(answers, lanes, None).cursors
    found = Walked()
    while waiting:
        cursor = json.loads(json.dumps(resting(waiting.pop(0))))
        assert len(json.dumps(cursor)) < 700
        for pages, item in enumerate(reader.walk(stream, cursor), 1):
            if isinstance(item, Ended):
                found.problems += [item.problem] if item.problem else []
                found.moved += item.cursor.get("moved", 0)
                break
            assert isinstance(item, Page)
            values = [json.loads(bytes(record)) for record in item.records]
            found.ids += [value["id"] if "id" in value else value["nameless"] for value in values]
            found.problems += [item.problem] if item.problem else []
            if pages >= turn:
                waiting.append(item.cursor)
                break
    return found


@kinds
@given(
    total=st.integers(0, 130),
    size=st.integers(16, 40),
    cap=st.integers(16, 50),
    lanes=st.integers(1, 5),
    data=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_a_still_inventory_comes_once(
    paging: Overlapping, total: int, size: int, cap: int, lanes: int, data: st.DataObject
) -> None:
    """At any page size, capped or not, cut anywhere; and nothing is said against it."""
    from dataclasses import replace

    reader, stream = server(replace(paging, size=size), records(0, total), cap=cap)
    found = walk(reader, stream, lanes, data.draw(st.integers(1, 5)))
    assert sorted(found.ids) == list(range(total))
    assert (found.problems, found.moved) == ([], 0)


@kinds
@given(
    total=st.integers(0, 200),
    size=st.integers(40, 80),
    runs=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 3)), max_size=4),
    lanes=st.integers(1, 3),
)
@example(total=50, size=40, runs=[(1.0, 3), (1.0, 3)], lanes=1)
@example(total=40, size=40, runs=[(1.0, 1)], lanes=1)
@example(total=0, size=40, runs=[(1.0, 3)], lanes=1)
@settings(max_examples=400, deadline=None)
def test_a_few_records_without_a_key_come_once_wherever_they_stand(
    paging: Overlapping, total: int, size: int, runs: list[tuple[float, int]], lanes: int
) -> None:
    """Also as the last of all: what stands behind the last key that is known is known."""
    from dataclasses import replace

    items = records(0, total)
    numbers = iter(range(1000, 2000))
    for where, count in runs:
        at = round(where * len(items))
        items[at:at] = [{"nameless": next(numbers)} for _ in range(count)]
    reader, stream = server(replace(paging, size=size), items)
    found = walk(reader, stream, lanes)
    assert sorted(found.ids) == sorted(item.get("id", item.get("nameless")) for item in items)
    assert (found.problems, found.moved) == ([], 0)


@kinds
def test_records_beyond_the_size_that_was_asked_for_move_nothing(paging: Overlapping) -> None:
    """Garbage behind a full page is taken, and the next page finds its place all the same."""
    reader, stream = server(paging, records(0, 40))
    extra = [{"nameless": 1000 + n} for n in range(5)]

    def with_garbage(request: Request, *, first_contact: bool = False) -> tuple[int, bytes]:
        status, body = Server.fetch(reader, request, first_contact=first_contact)
        value = json.loads(body)
        if {"offset": "0", "page": "0"}.items() & request.query.items():
            (value["items"] if isinstance(value, dict) else value).extend(extra)
        return status, json.dumps(value).encode()

    found = walk(_Fixed(reader, with_garbage), stream)
    assert sorted(found.ids) == [*range(40), *range(1000, 1005)]
    assert (found.problems, found.moved) == ([], 0)


moves = st.lists(st.tuples(st.booleans(), st.floats(0, 1), st.integers(1, 4)), max_size=3)


@kinds
@given(total=st.integers(0, 90), size=st.integers(16, 24), steps=st.lists(moves, max_size=25), lanes=st.integers(1, 3))
@settings(max_examples=400, deadline=None)
def test_what_was_there_all_along_comes_or_the_lane_says_that_it_may_not(
    paging: Overlapping, total: int, size: int, steps: list[Any], lanes: int
) -> None:
    """Between any two requests records are put in and taken out anywhere, several at a time; the others keep their order."""
    from dataclasses import replace

    fresh = iter(range(10_000, 20_000))

    def move(items: list[JsonDict], number: int) -> None:
        for inserts, where, count in steps[number] if number < len(steps) else []:
            at = round(where * len(items))
            items[at : at if inserts else at + count] = records(next(fresh), 1) * inserts

    reader, stream = server(replace(paging, size=size), records(0, total), move=move)
    found = walk(reader, stream, lanes)
    throughout = {item["id"] for item in reader.items} & set(range(total))
    assert found.problems or throughout <= set(found.ids)


@kinds
def test_records_that_come_and_go_in_front_cost_nothing(paging: Overlapping) -> None:
    """One or a few at a time, as inventories move: all that stayed is there, once, and the lane only notes that it moved."""
    fresh = iter(range(10_000, 20_000))

    def move(items: list[JsonDict], number: int) -> None:
        if number % 2 == 1:
            items[0:0] = records(next(fresh), 1)
        elif number:
            del items[:2]

    reader, stream = server(paging, records(0, 100), move=move)
    found = walk(reader, stream)
    throughout = [item["id"] for item in reader.items if item["id"] < 100]
    assert set(throughout) <= set(found.ids)
    assert len(found.ids) == len(set(found.ids))
    assert (found.problems, found.moved > 3) == ([], True)


@kinds
def test_a_record_that_goes_while_another_comes_behind_is_noticed(paging: Overlapping) -> None:
    """The total stays the same, nothing comes twice: only the overlap shows it."""

    def move(items: list[JsonDict], number: int) -> None:
        if number == 1:
            items[:] = [*items[1:], {"id": 777}]

    reader, stream = server(paging, records(0, 40), move=move)
    found = walk(reader, stream)
    assert set(range(1, 40)) <= set(found.ids)
    # With totals that do not explain the shift, records may as well have changed places.
    assert (found.moved, len(found.problems)) == (1, 1 if paging.total_key else 0)


@kinds
@pytest.mark.parametrize(("gone", "lost"), [(ANCHORS - 1, False), (ANCHORS, True)])
def test_a_place_whose_anchors_are_all_gone_is_lost_and_said(paging: Overlapping, gone: int, lost: bool) -> None:
    """Up to all but one of the last records read may go at once; the rest is read in any case."""

    def move(items: list[JsonDict], number: int) -> None:
        if number == 1:
            del items[16 - gone : 16]

    reader, stream = server(paging, records(0, 40), move=move)
    found = walk(reader, stream)
    assert bool(found.problems) == lost
    assert lost or set(range(40)) == set(found.ids)
    assert not lost or "records may be missing" in found.problems[0]


def test_lanes_meet_where_the_next_one_began_also_when_that_has_moved() -> None:
    """Records come in front of the first lane, which reads on to where the second began: none between is missing, none comes twice."""

    def move(items: list[JsonDict], number: int) -> None:
        if number in {2, 3}:
            items[0:0] = records(1000 + number, 1)

    reader, stream = server(OFFSETS, records(0, 40), move=move)
    found = walk(reader, stream, lanes=2, turn=100)
    assert sorted(n for n in found.ids if n < 1000) == list(range(40))


def test_a_server_that_ignores_the_page_number_ends_the_lane_with_a_reason() -> None:
    """It gives its first records for ever: they come once."""
    items = records(0, 50)
    reader, stream = server(PAGES, items)

    def always_the_first(request: Request, *, first_contact: bool = False) -> tuple[int, bytes]:
        reader.requests += 1
        return 200, json.dumps(items[: int(request.query["per_page"])]).encode()

    found = walk(_Fixed(reader, always_the_first), stream)
    assert sorted(set(found.ids)) == list(range(16))
    assert found.problems


class _Fixed(Server):
    """A server whose answers come from a function."""

    def __init__(self, like: Server, answer: Any) -> None:
        super().__init__(like.source, like.url, {}, sleep=lambda _: None, items=[])
        self.answer = answer

    def fetch(self, request: Request, *, first_contact: bool = False) -> tuple[int, bytes]:
        """The function's answer."""
        found: tuple[int, bytes] = self.answer(request, first_contact=first_contact)
        return found


def test_a_record_without_a_key_is_its_own_anchor() -> None:
    """A walk needs no key to go on; what has none is told apart by its whole text."""
    reader, stream = server(OFFSETS, [{"name": n, "id2": n} for n in range(25)])
    answers = [item for item in reader.walk(stream, {"at": 0}) if isinstance(item, Page)]
    assert [json.loads(bytes(record))["name"] for page in answers for record in page.records] == list(range(25))
