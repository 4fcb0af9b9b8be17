"""Blob storage or the ingestion endpoint gone for a while: the run waits on durable timers and completes, or fails, says so, and is taken up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

ASSETS = 1200


@pytest.fixture
def runs(stack_of: Callable[..., Any], request: pytest.FixtureRequest) -> Any:
    # An outage that ends has to be over before a run gives up, however slowly a busy machine starts what was gone.
    give_up_after_s = getattr(request, "param", 60)
    return stack_of(
        "--assets", str(ASSETS), "--findings", "100", GIVE_UP_AFTER_SECONDS=str(give_up_after_s), LONGEST_WAIT_SECONDS="0.5"
    )  # fmt: skip


def _always(kind: str, **more: Any) -> dict[str, Any]:
    return {"seed": 1, "rate": 1.0, "kinds": [kind], **more}


def _ended(runs: Any, source: str, within_s: float = 40.0) -> None:
    deadline = time.monotonic() + within_s
    while runs.api("GET", f"/runtime/webhooks/durabletask/instances/load-{source}")[0] == 202:
        assert time.monotonic() < deadline, f"{source} is still being loaded after {within_s} s"
        time.sleep(0.1)


def test_a_sink_that_comes_back_gets_everything_once(runs: Any) -> None:
    """429 to everything for two seconds: the run waits and completes without a repeated row."""
    runs.faults("sentinel", _always("429"))
    back = threading.Timer(2.0, lambda: runs.faults("sentinel", {}))
    back.start()
    outcome = runs.load("device42")
    back.join()
    assert (outcome.status, outcome.streams["devices"]["accepted"]) == ("complete", ASSETS)
    assert len(runs.ids(outcome.run_id, "CAASM_Assets_CL")) == ASSETS
    assert outcome.streams["devices"]["possibly_repeated"] == 0


@pytest.mark.parametrize("runs", [6], indirect=True, ids=["for longer than configured"])
def test_a_sink_that_stays_away_fails_the_run_and_the_next_load_takes_it_up(runs: Any) -> None:
    """Gone for longer than configured: failed with the reason; the next load fetches nothing again and sends what is left."""
    runs.faults("sentinel", _always("429"))
    outcome = runs.load("device42")
    assert outcome.status == "failed"
    assert any("429" in reason for reason in outcome.reasons)
    fetched = runs.stats("products")["requests"]
    runs.faults("sentinel", {})
    again = runs.load("device42")
    assert (again.status, again.run_id) == ("complete", outcome.run_id)
    assert runs.stats("products")["requests"] == fetched
    assert len(runs.ids(again.run_id, "CAASM_Assets_CL")) == again.streams["devices"]["accepted"] == ASSETS


def test_blob_storage_that_comes_back_loses_nothing(runs: Any) -> None:
    """Azurite is stopped while the run is going on and started again on its data: the run goes on where it was."""
    azurite = runs.stack._azurite
    port = int(azurite.url.rsplit(":", 1)[1])
    runs.faults("products", _always("timeout", slow_s=0.3))
    code, started = runs.api("POST", "/api/loads", {"source": "cycognito", "mode": "full"})
    assert code == 202
    while not runs.stats("products")["requests"]:
        time.sleep(0.02)
    azurite.stop()
    time.sleep(1.5)  # the outage itself
    azurite._port = port
    azurite.start()
    runs.faults("products", {})
    _ended(runs, "cycognito")
    _, manifest = runs.api("GET", f"/api/loads/{started['run_id']}")
    assert (manifest["status"], manifest["totals"]["exported"]) == ("complete", ASSETS + 100), manifest["reasons"]


def test_a_cancelled_run_is_taken_up_where_it_stood(runs: Any) -> None:
    """Cancel, then load: the same run goes on, and a load while the cancel is going on is refused like any second one."""
    runs.faults("products", _always("timeout", slow_s=0.4))
    _, started = runs.api("POST", "/api/loads", {"source": "cycognito", "mode": "full"})
    while runs.api("POST", f"/api/loads/{started['run_id']}/cancel")[0] != 202:
        time.sleep(0.02)
    assert runs.api("POST", "/api/loads", {"source": "cycognito", "mode": "full"})[0] == 409
    _ended(runs, "cycognito")
    runs.faults("products", {})
    outcome = runs.load("cycognito")
    assert (outcome.run_id, outcome.status) == (started["run_id"], "complete")
    ids = runs.ids(outcome.run_id, "CAASM_Assets_CL")
    assert len(set(ids)) == len(ids) == ASSETS


def test_two_starts_at_the_same_moment_give_one_load(runs: Any) -> None:
    """Whoever is later is refused; the inventory is loaded once."""
    runs.faults("products", _always("timeout", slow_s=0.3))
    answers: list[int] = []
    body = {"source": "device42", "mode": "full"}
    starts = [
        threading.Thread(target=lambda: answers.append(runs.api("POST", "/api/loads", body)[0])) for _ in range(4)
    ]
    for start in starts:
        start.start()
    for start in starts:
        start.join()
    assert sorted(answers) == [202, 409, 409, 409]
    _ended(runs, "device42")
    runs.faults("products", {})


def test_a_clock_that_jumped_back_hides_no_row(runs: Any) -> None:
    """A run that starts before the last complete one's time is moved behind it, so that its rows are the newest."""
    import json
    from datetime import UTC, datetime, timedelta

    from azure.storage.blob import BlobClient

    assert runs.load("device42").status == "complete"
    mark = BlobClient.from_connection_string(runs.stack.connection_string, "caasm", "state/device42/watermark.json")
    watermark = json.loads(mark.download_blob().readall())
    ahead = (datetime.now(UTC) + timedelta(hours=2)).isoformat(timespec="microseconds")
    mark.upload_blob(json.dumps({**watermark, "up_to": ahead}), overwrite=True)
    outcome = runs.load("device42")
    assert outcome.status == "complete"
    assert outcome.manifest["started_at"] > ahead
    assert json.loads(mark.download_blob().readall())["run_id"] == outcome.run_id
