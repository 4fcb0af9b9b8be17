"""The contract that every registered source keeps, walked against its simulator: every record once, wherever the walk is cut."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from contracts import JsonDict
from local.products.faults import Faults
from local.products.simulator import Simulator
from local.products.synthetic import Inventory
from sources.model import Stream
from sources.overlapping import Overlapping
from sources.paging import ExportJob, resting
from sources.reader import Ended, Page, Paused, Reader
from sources.registry import SOURCES

INVENTORY = Inventory(assets=400, findings=150, big_output_share=0.0, fixed_share=0.2)
MADE = INVENTORY.streams()

KINDS = {
    ("cycognito", "domains"): ("cycognito", "assets_domain"),
    ("cycognito", "web_apps"): ("cycognito", "assets_webapp"),
    ("cycognito", "ip_ranges"): ("cycognito", "assets_iprange"),
    ("cycognito", "issues"): ("cycognito", "findings_issues"),
    ("device42", "devices"): ("device42", "assets"),
    ("tenable", "assets"): ("tenable_io", "assets"),
    ("tenable", "vulnerabilities"): ("tenable_io", "findings_vulns"),
}
STREAMS = [(source, stream) for source in SOURCES.values() for stream in source.streams]
every_stream = pytest.mark.parametrize(
    ("source", "stream"), STREAMS, ids=[f"{source.name}-{stream.name}" for source, stream in STREAMS]
)


@cache
def truth(source: str, stream: str) -> list[bytes]:
    """The records that the product has, as it writes them, in their order."""
    made = MADE[KINDS[source, stream]]
    return [made.record(i) for i in range(made.count)]


def sized(stream: Stream, size: int) -> Stream:
    """The stream with another page size."""
    paging = stream.paging
    if isinstance(paging, ExportJob):
        key = "chunk_size" if "chunk_size" in paging.body else "num_assets"
        return replace(stream, paging=replace(paging, body={**paging.body, key: size}))
    assert isinstance(paging, Overlapping)
    return replace(stream, paging=replace(paging, size=size))


def begin(reader: Reader, stream: Stream, lanes: int) -> tuple[list[JsonDict], int | None]:
    """The lanes' first cursors and the total that the source names."""
    answers: list[bytes] = []
    while (probe := stream.paging.probe(lanes, answers)) is not None:
        answers.append(reader.fetch(probe, first_contact=True)[1])
    start = stream.paging.start(answers, lanes, None)
    return start.cursors, start.total


def kept(cursor: JsonDict) -> JsonDict:
    """A cursor after its way through an orchestrator's history."""
    text = json.dumps(resting(cursor))
    assert len(text) < 1_500, text
    found: JsonDict = json.loads(text)
    return found


def walk(
    reader: Reader, stream: Stream, cursor: JsonDict, most: int = 10_000
) -> tuple[list[bytes], JsonDict, Ended | None]:
    """Up to `most` pages from `cursor` on, through every pause: the records, the cursor behind them, the end if it was reached."""
    records: list[bytes] = []
    pages = 0
    for _ in range(50):
        for item in reader.walk(stream, cursor):
            if isinstance(item, Ended):
                return records, item.cursor, item
            cursor = item.cursor
            if isinstance(item, Paused):
                cursor = kept(cursor)
                break
            assert isinstance(item, Page)
            assert not item.problem, item.problem
            records += [bytes(record) for record in item.records]
            pages += 1
            if pages == most:
                return records, cursor, None
    raise AssertionError("the source is never ready")


def all_of(reader: Reader, stream: Stream, cursors: list[JsonDict]) -> list[bytes]:
    """The records of all lanes, each of which has ended without a complaint."""
    found: list[bytes] = []
    for cursor in cursors:
        records, _, ended = walk(reader, stream, cursor)
        assert ended is not None
        assert ended.problem == ""
        found += records
    return found


@pytest.fixture
def product(simulate: Callable[[Simulator], str]) -> tuple[Simulator, str]:
    """A simulator of the inventory, and its URL."""
    simulator = Simulator(dict(MADE))
    return simulator, simulate(simulator)


def test_every_registered_stream_is_simulated() -> None:
    """A new stream cannot stay outside this kit."""
    assert set(KINDS) == {(source.name, stream.name) for source, stream in STREAMS}


@every_stream
@pytest.mark.parametrize("lanes", [1, 2, 3, 7])
def test_every_record_comes_exactly_once(
    source: Any, stream: Stream, lanes: int, product: tuple[Simulator, str], reader_of: Any
) -> None:
    """At every page size, capped by the server or not, in any number of lanes; and each lane ends without a complaint."""
    simulator, url = product
    expected = sorted(truth(source.name, stream.name))
    for size, cap in ((17, None), (40, 16), (1000, None)):
        simulator.reset()
        simulator.page_cap = cap
        reader = reader_of(source, url)
        asked = sized(stream, size)
        cursors, total = begin(reader, asked, lanes)
        assert total in {None, len(expected)}
        assert sorted(all_of(reader, asked, cursors)) == expected, f"size {size}, cap {cap}, {len(cursors)} lanes"
        repeated = {key: n for pages in simulator.stats.pages.values() for key, n in pages.items() if n > 1}
        if isinstance(stream.paging, ExportJob):
            assert not repeated, "a chunk was fetched twice"


@every_stream
def test_the_walk_goes_on_from_any_cursor(
    source: Any, stream: Stream, product: tuple[Simulator, str], reader_of: Any
) -> None:
    """A walk that is cut behind any page gives the rest, once, from the cursor as JSON, by a reader that knows nothing else."""
    simulator, url = product
    expected = truth(source.name, stream.name)
    asked = sized(stream, max(16, len(expected) // 7))
    for cut in range(1, 40):
        simulator.reset()
        [start], _ = begin(reader_of(source, url), asked, 1)
        first, cursor, ended = walk(reader_of(source, url), asked, start, most=cut)
        if ended is not None:
            assert cut > 3, "too few pages for a test of cuts"
            return
        rest, _, ended = walk(reader_of(source, url), asked, kept(cursor))
        assert ended is not None
        assert sorted(first + rest) == sorted(expected), f"cut behind page {cut}"
    raise AssertionError("the walk does not end")


@every_stream
def test_faults_that_pass_lose_and_repeat_nothing(
    source: Any, stream: Stream, product: tuple[Simulator, str], reader_of: Any
) -> None:
    """A third of the answers fail in every way that products fail; the records are the same."""
    simulator, url = product
    kinds = ["429", "429-no-retry-after", "500", "502", "503", "drop", "drop-mid-body", "html-200", "not-json"]
    asked = sized(stream, max(16, len(truth(source.name, stream.name)) // 7))
    cursors, _ = begin(reader_of(source, url), asked, 2)
    simulator.set_faults(Faults(seed=4, rate=0.4, kinds=kinds))
    reader = reader_of(source, url, attempts=12, unreadable_attempts=8, first_wait_s=0.001)
    expected = truth(source.name, stream.name)
    assert sorted(all_of(reader, asked, cursors)) == sorted(expected)
    assert sum(n for status, n in simulator.stats.statuses.items() if status != "200") > 1


def test_the_totals_of_a_page_are_the_product_s(product: tuple[Simulator, str], reader_of: Any) -> None:
    """Device42 names its total on every page, and a moving one is given as it stood."""
    simulator, url = product
    stream = sized(SOURCES["device42"].stream("devices"), 20)
    reader = reader_of("device42", url)
    simulator.set_faults(Faults(total_drift=3))
    totals = [item.total for item in reader.walk(stream, {"at": 0}) if isinstance(item, Page)]
    assert totals == list(range(403, 403 + 3 * len(totals), 3))


def test_a_chunk_list_out_of_order_and_growing_is_walked_once(product: tuple[Simulator, str], reader_of: Any) -> None:
    """The list comes shuffled and in parts; each chunk is fetched once, and cursors stay small."""
    simulator, url = product
    simulator.set_faults(Faults(shuffle_chunks=True))
    stream = sized(SOURCES["tenable"].stream("assets"), 2)
    records, _, ended = walk(reader_of("tenable", url), stream, {"since": None})
    assert ended is not None
    assert ended.problem == ""
    assert sorted(records) == sorted(truth("tenable", "assets"))
    assert set(simulator.stats.pages["/assets/export/chunks"].values()) == {1}


def test_since_reaches_the_product_s_filter(product: tuple[Simulator, str], reader_of: Any) -> None:
    """A delta asks with the export's own filter, in Unix seconds."""
    _, url = product
    stream = SOURCES["tenable"].stream("vulnerabilities")
    early, late = "2000-01-01T00:00:00+00:00", "2100-01-01T00:00:00+00:00"
    assert len(walk(reader_of("tenable", url), stream, {"since": early})[0]) == 150
    assert walk(reader_of("tenable", url), stream, {"since": late})[0] == []


def test_a_job_that_ends_as_error_gives_what_it_had_and_says_so(product: tuple[Simulator, str], reader_of: Any) -> None:
    """The chunks that were done are walked; the end has the reason."""
    simulator, url = product
    simulator.set_faults(Faults(status_error="tenable vulns"))
    stream = sized(SOURCES["tenable"].stream("vulnerabilities"), 5)
    records, _, ended = walk(reader_of("tenable", url), stream, {"since": None})
    assert ended is not None
    assert "ended as ERROR" in ended.problem
    assert 0 < len(records) < 150
    assert set(records) <= set(truth("tenable", "vulnerabilities"))
