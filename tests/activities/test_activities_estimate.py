"""Estimates against what loads really came to: from a sample, from the last run, for a delta; nothing staged, nothing sent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from activities.deps import source_of
from activities.estimate import Terms, estimate
from activities.sampling import SAMPLE_PAGES, Sample
from local.products.synthetic import Inventory
from sources.extent import extent
from sources.model import Fetch
from sources.reader import Page

TERMS = Terms(12_000, 2e9, 2.5)
RECORDS = 4000


def hurried(bench: Any, inventory: Inventory) -> Any:
    """Tenable, whose jobs move by polls and not by the clock."""
    run = bench("tenable", inventory)
    run.readers["tenable"].sleep = lambda _: None
    return run


def test_a_sample_is_close_to_what_the_load_comes_to_and_leaves_nothing_behind(bench: Any) -> None:
    """Rows of devices exact, because the product tells its total; their relations, bytes and wire bytes within a few per cent; money from them."""
    run = bench("device42", Inventory(RECORDS, 0))
    found = estimate("device42", "full", run.deps, TERMS)
    assert list(run.staging.list("")) == []
    assert run.sink.posted == []
    assert found["based_on"].startswith("a sample of ")
    manifest = run.load()
    assert found["streams"]["devices"]["rows"] == manifest["streams"]["devices"]["rows"] == RECORDS
    assert found["streams"]["relations"]["rows"] == pytest.approx(manifest["streams"]["relations"]["rows"], rel=0.05)
    assert found["rows"] == pytest.approx(manifest["totals"]["rows"], rel=0.05)
    sent = manifest["bytes_sent"] - sum(len(body) for body in run.sink.posted if b"RunStatus" in body)
    assert found["gb"] * 1e9 == pytest.approx(sent, rel=0.05)
    assert found["gb_wire"] * 1e9 == pytest.approx(manifest["bytes_wire"], rel=0.15)
    assert found["requests"]["raw"] == pytest.approx(manifest["requests"], abs=1)
    assert 3 * found["requests"]["wire"] <= found["requests"]["raw"]
    assert found["money"] == {"amount": pytest.approx(found["gb"] * 2.5, abs=1e-3), "price_per_gb": 2.5}


def test_the_last_run_is_better_than_a_sample(bench: Any) -> None:
    """Its very figures, and how long it took; a sample only when asked for."""
    run = bench("device42", Inventory(500, 0))
    manifest = run.load()
    found = estimate("device42", "full", run.deps, TERMS)
    assert found["based_on"] == f"run {run.run.run_id}"
    sent = sum(stream["bytes_sent"] for stream in manifest["streams"].values())
    assert (found["rows"], found["gb"]) == (manifest["totals"]["rows"], round(sent / 1e9, 6))
    assert found["streams"]["devices"]["rows"] == 500
    assert found["duration_s"] is not None
    assert estimate("device42", "full", run.deps, TERMS, sample=True)["based_on"].startswith("a sample")


@pytest.mark.parametrize("sample", [False, True], ids=["the last run", "a sample"])
def test_relations_that_are_left_out_cost_nothing(bench: Any, sample: bool) -> None:
    """Whether or not the last run had them; one that had not says nothing of a load that is to have them."""
    run = bench("device42", Inventory(500, 0))
    wanted, without = run.deps, replace(run.deps, without_relations=frozenset({"device42"}))
    assert len(run.load()["streams"]) == 2
    found = estimate("device42", "full", without, TERMS, sample=sample)
    assert ([*found["streams"]], found["rows"]) == (["devices"], 500)
    run = bench("device42", started_at="2026-11-21T10:00:00.000000+00:00")
    run.deps = without
    assert len(run.load()["streams"]) == 1
    found = estimate("device42", "full", wanted, TERMS, sample=sample)
    assert [*found["streams"]] == ["devices", "relations"]
    assert found["based_on"].startswith("a sample")


def test_a_delta_is_at_most_the_full_load_until_there_is_something_to_go_by(bench: Any) -> None:
    """First it is a full load; after one it is at most that; after a delta it is that delta."""
    run = bench("device42", Inventory(500, 0))
    first = estimate("device42", "delta", run.deps, TERMS)
    assert (first["mode"], first["streams"]["devices"]["rows"]) == ("full", 500)
    full = run.load()
    bound = estimate("device42", "delta", run.deps, TERMS)
    assert (bound["mode"], bound["based_on"]) == ("delta", f"full run {full['run_id']}")
    assert bound["streams"]["devices"]["rows"] == 500
    assert any("at most" in note for note in bound["notes"])
    sampled = estimate("device42", "delta", run.deps, TERMS, sample=True)
    assert (sampled["streams"]["devices"]["rows"], sampled["notes"]) == (500, bound["notes"])


def test_a_delta_is_as_much_as_two_full_loads_differ_and_then_as_the_last_deltas(bench: Any) -> None:
    """What changed from one day to the next; of a sample as many rows as that."""
    days = [
        bench(
            "device42",
            Inventory(500, 0, day=day, changed=0.1, deleted=0.0),
            started_at=f"2026-11-2{day}T10:00:00.000000+00:00",
        )
        for day in range(3)
    ]
    days[0].load()
    ledgers = days[1].load()["streams"]
    found = estimate("device42", "delta", days[1].deps, TERMS)
    for stream, ledger in ledgers.items():
        assert 0 < found["streams"][stream]["rows"] == ledger["created"] + ledger["updated"] < 300
    assert "the share of change" in found["based_on"]
    sampled = estimate("device42", "delta", days[1].deps, TERMS, sample=True)
    assert sampled["rows"] == found["rows"]
    assert sampled["gb"] == pytest.approx(found["gb"], rel=0.2)
    delta = days[2].load("delta")["totals"]
    after = estimate("device42", "delta", days[2].deps, TERMS)
    assert (after["based_on"], after["rows"]) == ("the last delta load", delta["accepted"] + delta["deleted"])


def test_no_price_is_no_money_but_how_to_set_it(bench: Any) -> None:
    """Prices differ by region and contract: none is assumed."""
    run = bench("device42", Inventory(50, 0))
    found = estimate("device42", "full", run.deps, Terms(0, 0))
    assert found["money"] is None
    assert "INGESTION_PRICE_PER_GB" in found["remedy"]


def test_where_the_product_names_no_total_the_end_is_looked_for(bench: Any) -> None:
    """CyCognito: within two per cent, with a few small requests."""
    run = bench("cycognito", Inventory(9000, 30_000))
    found = estimate("cycognito", "full", run.deps, TERMS)["streams"]
    assert found["issues"]["rows"] == pytest.approx(30_000, rel=0.02)
    assert sum(found[name]["rows"] for name in ("domains", "web_apps", "ip_ranges")) == pytest.approx(9000, rel=0.02)
    assert max(run.simulator.stats.by_path.values()) <= SAMPLE_PAGES + 25


def test_a_server_that_ignores_the_page_size_is_counted_in_its_own_pages() -> None:
    """2,300 records, 100 a page whatever is asked for: the end is found by its pages."""
    stream = source_of("cycognito").stream("issues")
    records = [b'{"id":"%d"}' % number for number in range(2300)]

    class Stubborn:
        def fetch(self, request: Any) -> tuple[int, bytes]:
            first = int(request.query["offset"]) * 100
            return 200, b"[" + b",".join(records[first : first + 100]) + b"]"

    found = extent(Stubborn(), stream, {}, [100, 100, 100], lambda _: False)  # type: ignore[arg-type]  # what it asks of a reader
    assert found == pytest.approx(2300, rel=0.05)


def test_an_export_job_is_counted_by_its_chunks(bench: Any) -> None:
    """Tenable: the list of chunks is awaited, none but the sample's is fetched, and the job is not left running."""
    run = hurried(bench, Inventory(6000, 5000))
    found = estimate("tenable", "full", run.deps, TERMS)["streams"]
    assert found["assets"]["rows"] == pytest.approx(6000, rel=0.1)
    assert found["vulnerabilities"]["rows"] == pytest.approx(5000, rel=0.1)
    assert found["assets"]["sampled"] < 6000


def test_a_sampled_export_job_is_cancelled(bench: Any) -> None:
    """Tenable prepares an export for the sample: it is not left running."""
    run = hurried(bench, Inventory(6000, 0))
    found = estimate("tenable", "full", run.deps, TERMS, records=6000)
    assert found["streams"]["assets"]["sampled"] > 0
    cancels = {path: count for path, count in run.simulator.stats.by_path.items() if "cancel" in path}
    assert sum(cancels.values()) >= 1, run.simulator.stats.by_path


def test_a_load_that_begins_meanwhile_keeps_the_job_that_it_adopted(bench: Any) -> None:
    """Both ask for the same export: the sample's end is not the load's."""
    run = hurried(bench, Inventory(6000, 0))
    run.readers["tenable"].sleep = lambda _: run.staging.put_json("state/tenable/current.json", {"run_id": "r"}, {})
    estimate("tenable", "full", run.deps, TERMS)
    assert not any("cancel" in path for path in run.simulator.stats.by_path)


def test_a_job_that_somebody_else_runs_is_not_cancelled_nor_taken_for_everything(bench: Any) -> None:
    """A load of the same product is going on: the sample reads of its job and leaves it to it."""
    run = hurried(bench, Inventory(600, 0))
    stream = source_of("tenable").stream("assets")
    reader = run.deps.reader("tenable")
    step = stream.paging.step({"since": None})
    assert isinstance(step, Fetch)
    reader.fetch(step.request)
    found = estimate("tenable", "full", run.deps, TERMS)
    assert found["streams"]["assets"]["sampled"] > 0
    assert found["streams"]["assets"]["rows"] is None
    assert any(note.startswith("assets: nothing shows") for note in found["notes"])
    told = estimate("tenable", "full", run.deps, TERMS, records=600)
    assert told["streams"]["assets"]["rows"] == 600
    assert not any("assets" in path and "cancel" in path for path in run.simulator.stats.by_path)


@pytest.mark.parametrize(("size", "pages"), [(1_000, 3), (500, 3), (100, 15)])
def test_small_pages_make_no_small_sample(size: int, pages: int) -> None:
    """A duration that is scaled up from 300 records counts what every request and query costs a thousand times."""
    sample = Sample()
    while not sample.enough():
        sample.take(Page(len(sample.pages), [msgspec.Raw(b"{}")] * size, {}), 0.01)
    assert len(sample.pages) == pages
    slow = Sample()
    slow.take(Page(0, [msgspec.Raw(b"{}")], {}), 6.0)
    assert slow.enough()
