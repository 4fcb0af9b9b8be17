"""Estimates against what loads really came to: from a sample, from the last run, for a delta; nothing staged, nothing sent."""

from __future__ import annotations

from typing import Any

import pytest

from activities.deps import source_of
from activities.estimate import Terms, estimate
from local.products.synthetic import Inventory

TERMS = Terms(12_000, 2e9, 2.5)
RECORDS = 4000


def test_a_sample_is_close_to_what_the_load_comes_to_and_leaves_nothing_behind(bench: Any) -> None:
    """Rows exact, because the product tells its total; bytes and wire bytes within a few per cent; money from them."""
    run = bench("device42", Inventory(RECORDS, 0))
    found = estimate("device42", "full", run.deps, TERMS)
    assert list(run.staging.list("")) == []
    assert run.sink.posted == []
    assert found["based_on"].startswith("a sample of ")
    manifest = run.load()
    assert found["rows"] == manifest["totals"]["rows"] == RECORDS
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
    assert (found["rows"], found["gb"]) == (500, round(manifest["streams"]["devices"]["bytes_sent"] / 1e9, 6))
    assert found["duration_s"] is not None
    assert estimate("device42", "full", run.deps, TERMS, sample=True)["based_on"].startswith("a sample")


def test_a_delta_is_at_most_the_full_load_until_there_is_something_to_go_by(bench: Any) -> None:
    """First it is a full load; after one it is at most that; after a delta it is that delta."""
    run = bench("device42", Inventory(500, 0))
    first = estimate("device42", "delta", run.deps, TERMS)
    assert (first["mode"], first["rows"]) == ("full", 500)
    full = run.load()
    bound = estimate("device42", "delta", run.deps, TERMS)
    assert (bound["mode"], bound["based_on"], bound["rows"]) == ("delta", f"full run {full['run_id']}", 500)
    assert any("at most" in note for note in bound["notes"])


def test_no_price_is_no_money_but_how_to_set_it(bench: Any) -> None:
    """Prices differ by region and contract: none is assumed."""
    run = bench("device42", Inventory(50, 0))
    found = estimate("device42", "full", run.deps, Terms(0, 0))
    assert found["money"] is None
    assert "INGESTION_PRICE_PER_GB" in found["remedy"]


def test_what_nobody_tells_is_not_guessed(bench: Any) -> None:
    """CyCognito names no total: the stream's figures are absent with a note, unless the caller knows how many there are."""
    run = bench("cycognito", Inventory(9000, 9000))
    found = estimate("cycognito", "full", run.deps, TERMS)
    assert found["streams"]["issues"]["rows"] is None
    assert any(note.startswith("issues: the product does not say") for note in found["notes"])
    told = estimate("cycognito", "full", run.deps, TERMS, records=9000)
    assert told["streams"]["issues"]["rows"] == 9000


def test_a_sampled_export_job_is_cancelled(bench: Any) -> None:
    """Tenable prepares an export for the sample: it is not left running."""
    run = bench("tenable", Inventory(6000, 0))
    found = estimate("tenable", "full", run.deps, TERMS, records=6000)
    assert found["streams"]["assets"]["sampled"] > 0
    cancels = {path: count for path, count in run.simulator.stats.by_path.items() if "cancel" in path}
    assert sum(cancels.values()) >= 1, run.simulator.stats.by_path


def test_a_job_that_somebody_else_runs_is_not_cancelled_nor_taken_for_everything(bench: Any) -> None:
    """A load of the same product is going on: the sample reads of its job and leaves it to it."""
    run = bench("tenable", Inventory(600, 0))
    stream = source_of("tenable").stream("assets")
    reader = run.deps.reader("tenable")
    step = stream.paging.step({"since": None})
    reader.fetch(step.request)
    found = estimate("tenable", "full", run.deps, TERMS)
    assert found["streams"]["assets"]["sampled"] > 0
    assert found["streams"]["assets"]["rows"] is None
    assert not any("assets" in path and "cancel" in path for path in run.simulator.stats.by_path)
