"""Exporting a segment: budgets, the blob that is written once, pages that cannot be read, trouble half-way, cancelling."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts import Cancelled, ExportResult, Stop, TryAgain
from local.products.faults import BrokenPage, Faults
from local.products.synthetic import Inventory, SyntheticStream
from sources import registry
from sources.paging import ExportJob

INVENTORY = Inventory(assets=60, findings=90, big_output_share=0.0)
STREAMS = INVENTORY.streams()


def made_by(product: str, kind: str) -> SyntheticStream:
    """A stream of the inventory."""
    return STREAMS[product, kind]


START = {"at": 0}


def records(run: Any, stream: str, segments: int, lane: int = 0) -> list[bytes]:
    """What the lane's raw segments hold, in order."""
    found: list[bytes] = []
    for segment in range(segments):
        found += run.table(run.names.raw(stream, lane, segment))["record"].to_pylist()
    return found


def truth(kind: str, product: str = "cycognito") -> list[bytes]:
    made = made_by(product, kind)
    return [made.record(i) for i in range(made.count)]


def test_a_segment_ends_with_the_page_that_reaches_its_bytes(bench: Any) -> None:
    """Pages are never split, and the next segment goes on behind the last page."""
    run = bench("cycognito", INVENTORY, segment_bytes=1)
    run.simulator.page_cap = 20
    first = run.export("issues", 0, START)
    assert (first.records, first.pages, first.staged, first.exhausted) == (20, 1, True, False)
    assert first.bytes == sum(map(len, records(run, "issues", 1)))
    results = [first]
    while not results[-1].exhausted:
        results.append(run.export("issues", len(results), results[-1].cursor))
    assert all(result.pages == 1 and result.records <= 20 for result in results[:-1])
    assert records(run, "issues", len(results)) == truth("findings_issues")
    table = run.table(run.names.raw("issues", 0, 1))
    assert table["page"].to_pylist() == [1] * results[1].records
    assert table["ordinal"].to_pylist() == list(range(results[1].records))


def test_a_page_larger_than_a_row_group_is_staged_in_several(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a page of a hundred megabytes is never copied whole; the records' places in the page go on."""
    monkeypatch.setattr("activities.export.GROUP_BYTES", 5_000)
    run = bench("cycognito", INVENTORY)
    run.simulator.page_cap = 50
    result = run.export("issues", 0, START)
    assert records(run, "issues", 1) == truth("findings_issues")
    assert result.bytes == sum(map(len, truth("findings_issues")))
    table = run.table(run.names.raw("issues", 0, 0))
    assert table["ordinal"].to_pylist() == [*range(50), *range(result.records - 50)]
    blob = pq.ParquetFile(pa.BufferReader(run.staging.read(run.names.raw("issues", 0, 0))))
    groups = [blob.read_row_group(group)["record"].to_pylist() for group in range(blob.num_row_groups)]
    longest = max(map(len, truth("findings_issues")))
    assert len(groups) > 10
    assert all(sum(map(len, group)) <= 2 * 5_000 + longest for group in groups)


def test_a_record_larger_than_a_row_group_stands_alone(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no reason to lose it."""
    monkeypatch.setattr("activities.export.GROUP_BYTES", 10)
    run = bench("cycognito", INVENTORY)
    run.export("issues", 0, START)
    assert records(run, "issues", 1) == truth("findings_issues")


def test_a_segment_ends_when_its_time_is_used_up(bench: Any) -> None:
    """The page that is there is staged; the clock is the one that is given."""
    run = bench("cycognito", INVENTORY, export_s=10.0)
    run.simulator.page_cap = 20
    ticks = iter(range(0, 1000, 4))
    run.deps = replace(run.deps, clock=lambda: float(next(ticks)))
    result = run.export("issues", 0, START)
    assert result.staged
    assert not result.exhausted
    assert 1 <= result.pages <= 3


def test_a_second_call_gives_the_first_s_answer_and_fetches_nothing(bench: Any) -> None:
    """Also when budgets and cursor differ by then: the blob decides."""
    run = bench("cycognito", INVENTORY, segment_bytes=1)
    run.simulator.page_cap = 20
    first = run.export("issues", 0, START)
    asked = run.simulator.stats.requests
    run.budget(segment_bytes=1_000_000)
    assert run.export("issues", 0, {"at": 1500}) == first
    assert run.simulator.stats.requests == asked


def test_two_at_once_leave_one_blob_and_answer_alike(bench: Any, listen: Any, reply: Any) -> None:
    """The source changes between their reads: the first to finish wins, with its records, counts and cursor."""
    both = threading.Barrier(2)
    page_of: dict[int, int] = {}

    def answer(asked: Any) -> Any:
        copy = page_of.setdefault(threading.get_ident(), len(page_of))
        if asked.query["offset"] == "0":
            both.wait(10)
            return reply(json.dumps([{"id": f"{copy}-{n}"} for n in range(3 + copy)]).encode())
        return reply(b"[]")

    run = bench("cycognito", url=listen(answer).url)
    answers: list[ExportResult] = []
    copies = [threading.Thread(target=lambda: answers.append(run.export("issues", 0, START))) for _ in range(2)]
    for copy in copies:
        copy.start()
    for copy in copies:
        copy.join(20)
    assert len(answers) == 2
    assert answers[0] == answers[1]
    found = [json.loads(record)["id"] for record in records(run, "issues", 1)]
    assert len(found) == answers[0].records
    assert len({name.partition("-")[0] for name in found}) == 1, "half of one version, half of another"


def test_a_page_that_cannot_be_read_is_kept_with_its_reason_and_body(bench: Any) -> None:
    """The others are staged; the summary has the reason for the ledger, the message has not."""
    run = bench("cycognito", INVENTORY)
    run.simulator.page_cap = 20
    run.simulator.set_faults(Faults(break_page=[BrokenPage("/v1/issues", 1, "html-200")]))
    result = run.export("issues", 0, START)
    assert (result.records, result.pages, result.failed_pages, result.exhausted) == (76, 8, 1, True)
    assert records(run, "issues", 1) == truth("findings_issues")[:20] + truth("findings_issues")[34:]
    [aside] = run.table(run.names.failed_pages("issues", 0, 0)).to_pylist()
    assert aside["page"] == 1
    assert aside["body"].startswith(b"<!DOCTYPE html>")
    assert "not the JSON" in aside["reason"]
    summary = run.staging.summary(run.names.raw("issues", 0, 0))
    assert summary["cut_short"] is False
    [(reason, times)] = summary["reasons"].items()
    assert reason.startswith("page 1: ")
    assert times == 1
    assert "reasons" not in result.to_wire()
    assert len(json.dumps(result.to_wire())) < 1_000


def test_summaries_of_the_ugliest_pages_still_fit_their_blob(bench: Any, listen: Any, reply: Any) -> None:
    """Binary rubbish and emoji as bodies: the reasons are cut, the export is not stopped by its own report."""

    def answer(asked: Any) -> Any:
        page = int(asked.query["offset"])
        if page % 2:
            return reply(("😀" * 5000 if page % 4 == 1 else "\x01\x7f" * 9000).encode() + bytes([page, 0xFF]))
        return reply(b'[{"id":"%d"}]' % page if page < 40 else b"[]")

    run = bench("cycognito", url=listen(answer).url)
    result = run.export("issues", 0, START)
    assert (result.records, result.failed_pages, result.exhausted) == (20, 20, True)


def test_what_was_read_is_staged_when_trouble_comes(bench: Any, listen: Any, reply: Any) -> None:
    """An outage behind page 2: its two pages are kept, the next call meets the trouble and raises it."""
    out = [True]

    def answer(asked: Any) -> Any:
        page = int(asked.query["offset"])
        if page == 2 and out[0]:
            return reply(status=429, headers={"Retry-After": "1800"})
        return reply(b'[{"id":"%d"}]' % page if page < 3 else b"[]")

    run = bench("cycognito", url=listen(answer).url)
    first = run.export("issues", 0, START)
    assert (first.staged, first.exhausted, first.records) == (True, False, 2)
    with pytest.raises(TryAgain) as caught:
        run.export("issues", 1, first.cursor)
    assert caught.value.retry_after_s == 1800
    assert not run.staging.exists(run.names.raw("issues", 0, 1))
    out[0] = False
    second = run.export("issues", 1, first.cursor)
    assert (second.records, second.exhausted) == (1, True)
    assert records(run, "issues", 2) == [b'{"id":"0"}', b'{"id":"1"}', b'{"id":"2"}']


def test_a_refusal_half_way_keeps_what_was_read(bench: Any, listen: Any, reply: Any) -> None:
    """403 on page 1 is Stop, but not for page 0."""
    server = listen(lambda asked: reply(b'[{"id":"0"}]') if asked.query["offset"] == "0" else reply(status=403))
    run = bench("cycognito", url=server.url)
    first = run.export("issues", 0, START)
    assert first.records == 1
    with pytest.raises(Stop, match="403"):
        run.export("issues", 1, first.cursor)


def test_a_lane_that_ends_before_its_data_is_cut_short_in_the_summary(bench: Any, listen: Any, reply: Any) -> None:
    """A page parameter that is ignored: the reason is in the summary, and the lane does not count as finished."""
    run = bench("cycognito", url=listen(lambda _: reply(b'[{"id":"0"}]')).url)
    result = run.export("issues", 0, START)
    assert (result.records, result.exhausted) == (1, True)
    summary = run.staging.summary(run.names.raw("issues", 0, 0))
    assert summary["cut_short"] is True
    assert any("does not follow the page parameter" in reason for reason in summary["reasons"])


def test_an_empty_stream_is_a_segment_without_records(bench: Any) -> None:
    """Staged, exhausted, nothing in it, with the one schema."""
    run = bench("cycognito", Inventory(assets=0, findings=0))
    result = run.export("issues", 0, START)
    assert (result.staged, result.exhausted, result.records) == (True, True, 0)
    table = run.table(run.names.raw("issues", 0, 0))
    assert table.num_rows == 0
    assert table.column_names == ["page", "ordinal", "record"]
    assert run.transform("issues").records == 0


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tenable's asset chunks as small as the test's inventory needs them."""
    source = registry.SOURCES["tenable"]
    paging = source.stream("assets").paging
    assert isinstance(paging, ExportJob)
    small = replace(source.stream("assets"), paging=replace(paging, body={"chunk_size": 10}))
    changed = replace(source, streams=(small, source.stream("vulnerabilities")))
    monkeypatch.setitem(registry.SOURCES, "tenable", changed)


@pytest.mark.usefixtures("small_chunks")
def test_a_job_that_is_not_ready_uses_up_no_segment(bench: Any) -> None:
    """The cursor has the job, the wait is said, and the segments that follow have every chunk once, one to a segment."""
    run = bench("tenable", INVENTORY, segment_bytes=1)
    waiting = run.export("assets", 0, {"since": None})
    assert (waiting.staged, waiting.exhausted, waiting.records) == (False, False, 0)
    assert waiting.wait_s > 0
    assert waiting.cursor["job"]
    assert not run.staging.exists(run.names.raw("assets", 0, 0))
    results = run.lane("assets", 0, waiting.cursor)
    assert [result.records for result in results if result.records] == [10] * 6
    assert sorted(records(run, "assets", len(results))) == sorted(truth("assets", "tenable_io"))
    assert set(run.simulator.stats.pages["/assets/export/chunks"].values()) == {1}


@pytest.mark.usefixtures("small_chunks")
def test_cancelling_between_pages_closes_the_job(bench: Any) -> None:
    """The product is told, the segment is not staged, and the marker is seen before the next page."""
    run = bench("tenable", INVENTORY)
    cursor = run.export("assets", 0, {"since": None}).cursor
    ticks = iter(range(0, 10_000, 2))
    run.deps = replace(run.deps, clock=lambda: float(next(ticks)))
    fetch = run.deps.reader("tenable").pool.urlopen

    def cancelled_by_the_first_chunk(method: str, url: str, **options: Any) -> Any:
        if "/chunks/" in url:
            run.staging.put_json(run.names.cancel, {}, {})
        return fetch(method, url, **options)

    run.deps.reader("tenable").pool.urlopen = cancelled_by_the_first_chunk
    with pytest.raises(Cancelled):
        run.export("assets", 0, cursor)
    job = cursor["job"]
    assert run.simulator.stats.by_path[f"/assets/export/{job}/cancel"] == 1
    assert sum(n for path, n in run.simulator.stats.by_path.items() if "/chunks/" in path) == 1
    assert not run.staging.exists(run.names.raw("assets", 0, 0))


def test_a_cancelled_run_exports_nothing_more(bench: Any) -> None:
    """The marker is looked for before the first page; the job of an earlier wait is closed."""
    run = bench("tenable", INVENTORY)
    cursor = run.export("assets", 0, {"since": None}).cursor
    run.staging.put_json(run.names.cancel, {}, {})
    with pytest.raises(Cancelled):
        run.export("assets", 0, cursor)
    assert run.simulator.stats.by_path[f"/assets/export/{cursor['job']}/cancel"] == 1


@pytest.mark.usefixtures("small_chunks")
def test_an_outage_while_a_job_is_waited_for_is_no_wrong_setting(bench: Any) -> None:
    """The first segment again, by a worker that has never reached the source: TryAgain, not Stop."""
    run = bench("tenable", INVENTORY)
    cursor = run.export("assets", 0, {"since": None}).cursor
    elsewhere = bench("tenable", url="http://127.0.0.1:9")
    elsewhere.run = run.run
    with pytest.raises(TryAgain, match="cannot be reached"):
        elsewhere.export("assets", 0, cursor)
    with pytest.raises(Stop, match="check TENABLE_URL"):
        elsewhere.export("assets", 0, {"since": None})
