"""CAASM_Runs_CL: no run's ledger is lost while the destination is out, none keeps a run from ending, and repeats have the same key."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from activities.announce import announce
from contracts import JsonDict
from local.products.synthetic import Inventory
from sentinel.ingestion import Answer, Budget

INVENTORY = Inventory(assets=5, findings=5, big_output_share=0.0)


def told(run: Any) -> list[str]:
    """The run and stream of every row of CAASM_Runs_CL that was accepted."""
    bodies = [json.loads(body) for body in run.sink.accepted]
    return [row["RunStreamId"] for body in bodies for row in body if "RunStreamId" in row]


def of(*runs: Any) -> list[str]:
    """What is to be told of complete runs."""
    return [f"{run.run.run_id}/{stream}" for run in runs for stream in ("devices", "relations")]


def waiting(run: Any) -> list[str]:
    """The runs that still have to be announced."""
    return [blob.name.split("/")[-1].removesuffix(".json") for blob in run.staging.list("announce/")]


def refusing(run: Any, status: int) -> None:
    """Let the destination refuse rows of CAASM_Runs_CL only."""
    run.deps = replace(run.deps, sending=Budget(in_flight=1, attempts=2, first_wait_s=0.001, longest_wait_s=0.002))
    run.sink.refuse = lambda body: Answer(status, "out") if b"RunStreamId" in body else None


@pytest.mark.parametrize("status", [403, 429, 500, 400], ids=["no right", "busy", "out", "row refused"])
def test_a_run_ends_though_it_cannot_be_announced(bench: Any, status: int) -> None:
    """It is complete, its manifest says what is missing, and it waits."""
    run = bench("device42", INVENTORY)
    refusing(run, status)
    manifest = run.load()
    assert manifest["status"] == "complete"
    assert [note for note in manifest["notes"] if "CAASM_Runs_CL does not have run" in note]
    assert run.staging.find_json(run.names.manifest) == manifest
    assert waiting(run) == [run.run.run_id]
    assert told(run) == []


def test_two_runs_that_wait_are_sent_by_the_third(bench: Any) -> None:
    """Every run is in the table once, with its own status; nothing waits any more."""
    runs = []
    for day in (20, 21):
        run = bench("device42", INVENTORY, started_at=f"2026-11-{day}T10:00:00.000000+00:00")
        refusing(run, 403)
        run.load()
        runs.append(run)
    assert sorted(waiting(runs[0])) == sorted(run.run.run_id for run in runs)
    last = bench("device42", INVENTORY, started_at="2026-11-22T10:00:00.000000+00:00")
    manifest = last.load()
    assert sorted(told(last)) == sorted(of(*runs, last))
    assert waiting(last) == []
    assert not [note for note in manifest["notes"] if "CAASM_Runs_CL" in note]


def test_a_failed_run_is_announced_too(bench: Any) -> None:
    """One that could not even be opened has a row without a stream."""
    run = bench("device42")
    run.close(failed=True, reasons=["403 from device42: renew the password"])
    [row] = json.loads(run.sink.accepted[0])
    assert (row["RunStatus"], row["Reasons"]) == ("failed", ["403 from device42: renew the password"])
    assert row["RunStreamId"] == f"{run.run.run_id}/"
    assert "SourceStream" not in row


def test_announcing_again_gives_the_same_keys(bench: Any) -> None:
    """A close that runs twice writes its rows twice; whoever reads takes one of each key."""
    run = bench("device42", INVENTORY)
    run.load()
    run.close()
    assert told(run) == of(run, run)


def test_a_marker_without_a_manifest_holds_nobody_up(bench: Any) -> None:
    """A lifecycle rule took the manifest of a run that was waiting: the marker goes, the others are sent."""
    run = bench("device42", INVENTORY)
    run.staging.put_json("announce/device42/forgotten.json", {}, {})
    run.load()
    assert waiting(run) == []
    assert told(run) == of(run)


def test_a_run_that_cannot_be_sent_does_not_hide_behind_another(bench: Any) -> None:
    """One old run's rows are refused: it waits on, and the run that is closed now is announced all the same."""
    old = bench("device42", INVENTORY)
    refusing(old, 400)
    old.load()
    run = bench("device42", INVENTORY, started_at="2026-11-21T10:00:00.000000+00:00")
    bad = old.run.run_id.encode()
    run.sink.refuse = lambda body: Answer(400, "no such column") if bad in body and b"RunStreamId" in body else None
    manifest = run.load()
    assert told(run) == of(run)
    assert waiting(run) == [old.run.run_id]
    assert any(old.run.run_id in note for note in manifest["notes"])


def test_a_cancelled_run_is_announced(bench: Any) -> None:
    """The cancel marker stops uploads, not the ledger."""
    run = bench("device42", INVENTORY)
    run.open()
    run.staging.put_json(run.names.cancel, {}, {})
    manifest: JsonDict = run.close(failed=True, cancelled=True)
    announce(manifest, run.deps)
    assert told(run) == of(run, run)
