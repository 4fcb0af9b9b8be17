"""Paging kinds as pure planners against a model of a server: any inventory, page size, cap and number of lanes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts import JsonDict
from sources.authentication import Headers
from sources.model import Paging, Request, Source, Stream
from sources.paging import ExportJob, OffsetLimit, PageNumber, count, joined, resting, within
from sources.reader import Ended, Page, Paused, Reader

counts = st.integers(0, 120)
sizes = st.integers(1, 40)
lane_counts = st.integers(1, 9)


@dataclass(slots=True)
class Model(Reader):
    """A reader whose answers come from a function."""

    serve: Callable[[Request], tuple[int, Any]] = field(kw_only=True)
    asked: int = 0

    def fetch(self, request: Request, *, first_contact: bool = False) -> tuple[int, bytes]:
        """The function's answer as JSON."""
        self.asked += 1
        assert self.asked < 2_000, "the walk does not end"
        status, value = self.serve(request)
        return status, json.dumps(value).encode()


def loaded(
    paging: Paging, lanes: int, serve: Callable[[Request], tuple[int, Any]], cut: int = 10_000
) -> tuple[list[int], list[str]]:
    """All lanes in turn, `cut` pages at a time: the ids that came, and what the lanes complained of."""
    stream = Stream("records", "CAASM_Assets_CL", paging)
    source = Source("acme", "Acme", "Acme", "", (), Headers({}), (stream,))
    reader = Model(source, "http://127.0.0.1:9", {}, sleep=lambda _: None, serve=serve)
    ids: list[int] = []
    problems: list[str] = []
    answers: list[bytes] = []
    while (probe := paging.probe(lanes, answers)) is not None:
        answers.append(reader.fetch(probe)[1])
    waiting = list(paging.start(answers, lanes, None).cursors)
    assert 1 <= len(waiting) <= lanes
    while waiting:
        # One lane a little, then the next: lanes know nothing of each other.
        cursor = json.loads(json.dumps(waiting.pop(0)))
        for pages, item in enumerate(reader.walk(stream, cursor), 1):
            if isinstance(item, Ended):
                problems += [item.problem] if item.problem else []
                break
            if isinstance(item, Page):
                ids += [json.loads(bytes(record)) for record in item.records]
                problems += [item.problem] if item.problem else []
            if isinstance(item, Paused) or pages >= cut:
                waiting.append(resting(item.cursor))
                break
    return ids, problems


@given(total=counts, size=sizes, cap=sizes, lanes=lane_counts, cut=st.integers(1, 6))
@settings(max_examples=150, deadline=None)
def test_numbered_pages_give_a_still_inventory_once(total: int, size: int, cap: int, lanes: int, cut: int) -> None:
    """Whatever the server makes of the page size."""

    def serve(request: Request) -> tuple[int, Any]:
        per_page = min(cap, int(request.query["per_page"]))
        first = per_page * int(request.query["page"])
        return 200, list(range(first, min(total, first + per_page)))

    ids, problems = loaded(PageNumber("/records", size), lanes, serve, cut)
    assert sorted(ids) == list(range(total))
    assert problems == []


@given(
    total=counts,
    size=sizes,
    cap=sizes,
    ignores_limit=st.booleans(),
    lie=st.one_of(st.none(), st.integers(-50, 300)),
    lanes=lane_counts,
    cut=st.integers(1, 6),
)
@settings(max_examples=300, deadline=None)
def test_offsets_give_a_still_inventory_once(
    total: int, size: int, cap: int, ignores_limit: bool, lie: int | None, lanes: int, cut: int
) -> None:
    """Whatever the server makes of the limit, whatever total it names."""

    def serve(request: Request) -> tuple[int, Any]:
        offset, limit = int(request.query["offset"]), int(request.query["limit"])
        last = min(total, offset + (cap if ignores_limit else min(cap, limit)))
        return 200, {"total": total if lie is None else lie, "items": list(range(offset, last))}

    paging = OffsetLimit("/records", size, records_key="items", total_key="total")
    ids, problems = loaded(paging, lanes, serve, cut)
    assert sorted(ids) == list(range(total))
    assert problems == []


@given(start=counts, steps=st.lists(st.integers(-15, 15), max_size=30), size=sizes, lanes=lane_counts)
@settings(max_examples=200, deadline=None)
def test_offsets_over_a_moving_inventory_end(start: int, steps: list[int], size: int, lanes: int) -> None:
    """Records come and go at the end between any two requests: what was there throughout comes, and the walk ends."""
    left = list(steps)
    now = [start]
    least = [start]

    def serve(request: Request) -> tuple[int, Any]:
        now[0] = max(0, now[0] + (left.pop(0) if left else 0))
        least[0] = min(least[0], now[0])
        offset, limit = int(request.query["offset"]), int(request.query["limit"])
        return 200, {"total": now[0], "items": list(range(offset, min(now[0], offset + limit)))}

    ids, _ = loaded(OffsetLimit("/records", size, records_key="items", total_key="total"), lanes, serve)
    assert set(range(least[0])) <= set(ids)
    assert len(set(ids)) == len(ids)


@given(lanes=lane_counts, size=sizes, stamp=st.booleans(), data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_page_that_repeats_never_loops(lanes: int, size: int, stamp: bool, data: st.DataObject) -> None:
    """From some page on the server gives the same records for ever."""
    stuck = data.draw(st.integers(0, 5))
    asked = [0]

    def serve(request: Request) -> tuple[int, Any]:
        asked[0] += 1
        page = min(stuck, int(request.query["page"]))
        return 200, {"now": asked[0] if stamp else 0, "items": list(range(page * size, page * size + size))}

    ids, problems = loaded(PageNumber("/records", size, records_key="items"), lanes, serve)
    assert set(ids) == set(range((stuck + 1) * size))
    assert problems


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_an_export_job_s_chunks_come_once_in_whatever_order_they_are_listed(data: st.DataObject) -> None:
    """A list that grows, shrinks and is shuffled; ends FINISHED, ERROR or CANCELLED; cut behind any page; numbers with gaps."""
    numbers = data.draw(st.lists(st.integers(0, 60), unique=True, max_size=25))
    listings = data.draw(
        st.lists(st.lists(st.sampled_from(numbers), unique=True), max_size=5) if numbers else st.just([])
    )
    last = data.draw(st.permutations(numbers))
    state = data.draw(st.sampled_from(["FINISHED", "ERROR", "CANCELLED"]))
    cut = data.draw(st.integers(1, 30))
    adopted = data.draw(st.booleans())
    polls = [0]
    fetched: list[int] = []

    def serve(request: Request) -> tuple[int, Any]:
        if request.method == "POST":
            return (409, {"active_job_id": "j"}) if adopted else (200, {"export_uuid": "j"})
        if request.path.endswith("/status"):
            polls[0] += 1
            done = polls[0] > len(listings)
            listed = last if done else listings[polls[0] - 1]
            return 200, {"status": state if done else "PROCESSING", "chunks_available": listed}
        found = re.search(r"/chunks/(\d+)$", request.path)
        assert found
        fetched.append(int(found.group(1)))
        return 200, [fetched[-1] * 2, fetched[-1] * 2 + 1]

    ids, problems = loaded(ExportJob("/export", {}), 3, serve, cut)
    assert sorted(fetched) == sorted(numbers)
    assert sorted(ids) == sorted(n for number in numbers for n in (number * 2, number * 2 + 1))
    assert bool(problems) == (state != "FINISHED")


@given(st.lists(st.integers(0, 40), max_size=60))
def test_ranges_are_a_set_of_numbers(numbers: list[int]) -> None:
    """Joining in any order gives what a set gives, as few ranges as can be, and leaves its argument alone."""
    ranges: list[list[int]] = []
    for number in numbers:
        before = json.dumps(ranges)
        following = joined(ranges, number)
        assert json.dumps(ranges) == before
        ranges = following
    assert {n for n in range(-2, 45) if within(ranges, n)} == set(numbers)
    assert count(ranges) == len(set(numbers))
    assert all(low <= high for low, high in ranges)
    assert all(first[1] + 1 < second[0] for first, second in pairwise(ranges))


def test_a_cursor_stays_small_after_a_thousand_chunks() -> None:
    """In the orchestrator's history, whatever part of the list is done."""
    job = ExportJob("/export", {})
    cursor: JsonDict = {"since": "2026-11-20T10:00:00+00:00", "job": "0f8fad5b-d9cb-469f-a165-70867728950e"}
    listing = json.dumps({"status": "PROCESSING", "chunks_available": list(range(1, 1_501))}).encode()
    step: Any = job.step(cursor)
    cursor = job.parse(cursor, step, 200, listing).cursor
    for _ in range(1_000):
        step = job.step(cursor)
        cursor = job.parse(cursor, step, 200, b"[]").cursor
    assert len(json.dumps(resting(cursor))) < 200
    step = job.step(resting(cursor))
    assert step.request.path.endswith("/status"), "the rest of the list is asked for again"


@pytest.mark.parametrize(("asked", "given"), [(16, 50), (50, 50), (700, 700), (9_000, 5_000)])
def test_a_jobs_chunks_are_as_large_as_the_product_allows(asked: int, given: int) -> None:
    """PAGE_RECORDS is the remedy for chunks that are too large; nothing else of the job changes."""
    job = ExportJob("/export", {"num_assets": 100, "other": 1}, size_key="num_assets", sizes=(50, 5_000))
    assert job.sized(asked) == replace(job, body={"num_assets": given, "other": 1})
    fixed = ExportJob("/export", {"other": 1})
    assert fixed.sized(asked) == fixed
