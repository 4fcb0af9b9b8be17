"""Whole runs on sources and sinks that misbehave for good: clear reasons in the ledger, the rest loaded, never a silent loss."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from local.products.synthetic import Inventory
from sources.cycognito import PAGE_SIZE

ASSETS, FINDINGS, SEED = 3000, 2000, 5

TRUTH = Inventory(ASSETS, FINDINGS, seed=SEED)


@pytest.fixture(scope="module")
def stack(stack_of: Callable[..., Any]) -> Any:
    return stack_of(
        "--assets",
        str(ASSETS),
        "--findings",
        str(FINDINGS),
        "--seed",
        str(SEED),
        EXPORT_SEGMENT_BYTES="1048576",
        UPLOAD_PACK_BYTES="2097152",
    )


@pytest.fixture
def runs(stack: Any) -> Iterator[Any]:
    yield stack
    stack.faults("products", {})
    stack.faults("sentinel", {})


@pytest.mark.parametrize("kind", ["html-200", "not-json"])
def test_a_page_that_is_no_json_is_set_aside_and_the_rest_loaded(runs: Any, kind: str) -> None:
    """The run is incomplete, names the page and the reason, and has everything else."""
    runs.faults("products", {"break_page": [{"path": "/v1/issues", "page": 1, "kind": kind}]})
    outcome = runs.load("cycognito")
    assert outcome.status == "incomplete"
    ledger = outcome.streams["issues"]
    assert ledger["failed_pages"] == 1
    # A page overlaps the one before by some records.
    assert FINDINGS - PAGE_SIZE <= ledger["accepted"] < FINDINGS - PAGE_SIZE + 20
    assert any(reason.startswith("page 1: the page is not the JSON it should be") for reason in ledger["reasons"])
    assert any("issues: 1 pages could not be read" in reason for reason in outcome.reasons)
    assert len(runs.ids(outcome.run_id, "CAASM_Assets_CL")) == ASSETS


@pytest.mark.parametrize("page", [0, 1], ids=["first", "last"])
def test_records_that_cannot_be_rows_are_rejected_with_their_reasons(runs: Any, page: int) -> None:
    """No key, no object: counted by reason once, kept aside, everything else arrives and the run is complete."""
    garbage = [5, None, "text", {"no": "key"}, [1]]
    runs.faults("products", {"records": [{"path": "/v1/assets/domain", "page": page, "insert": garbage}]})
    outcome = runs.load("cycognito")
    ledger = outcome.streams["domains"]
    assert (outcome.status, ledger["rejected"], ledger["exported"]) == ("complete", 5, ledger["flattened"] + 5)
    assert not any("moved" in note for note in outcome.manifest["notes"]), "what cannot be a row moves nothing"
    assert ledger["reasons"] == {
        "not a JSON object but a number": 1,
        "not a JSON object but null": 1,
        "not a JSON object but a text": 1,
        "not a JSON object but an array": 1,
        "no identifier: the record cannot be told apart": 1,
    }
    assert len(runs.ids(outcome.run_id, "CAASM_Assets_CL")) == ASSETS


def test_a_source_that_refuses_the_key_fails_the_run_at_once(runs: Any) -> None:
    """401: failed within seconds, and the message names the setting."""
    runs.faults("products", {"unauthorized": True})
    for source, setting in (
        ("cycognito", "CYCOGNITO_API_KEY"),
        ("device42", "DEVICE42_PASSWORD"),
        ("tenable", "TENABLE_SECRET_KEY"),
    ):
        outcome = runs.load(source)
        assert outcome.status == "failed"
        assert outcome.wall_s < 15
        assert any("401" in reason and setting in reason for reason in outcome.reasons), outcome.reasons


def test_an_export_job_that_ends_in_error_makes_the_run_incomplete(runs: Any) -> None:
    """What was there is loaded; the reason says how far it came."""
    runs.faults("products", {"status_error": "tenable vulns"})
    outcome = runs.load("tenable")
    assert outcome.status == "incomplete"
    assert any("ended as ERROR" in reason for reason in outcome.streams["vulnerabilities"]["reasons"])
    assert outcome.streams["assets"]["accepted"] == ASSETS


def test_a_total_that_moves_is_noted_and_loses_nothing(runs: Any) -> None:
    """Device42's total shrinks with every request; every device arrives all the same."""
    runs.faults("products", {"total_drift": -7})
    outcome = runs.load("device42")
    assert runs.ids(outcome.run_id, "CAASM_Assets_CL") == sorted(TRUTH.ids("device42", "assets"))
    assert any("total" in note for note in outcome.manifest["notes"])


def test_a_server_that_caps_the_page_size_loses_nothing(runs: Any) -> None:
    """The offset moves by what came, not by what was asked for."""
    runs.faults("products", {"page_cap": 170})
    outcome = runs.load("device42")
    assert runs.ids(outcome.run_id, "CAASM_Assets_CL") == sorted(TRUTH.ids("device42", "assets"))
    assert outcome.status == "complete"


def test_a_second_start_of_a_running_load_is_refused(runs: Any) -> None:
    """409, with the run that is going on; another source may start meanwhile; the status shows progress while it runs."""
    runs.faults("products", {"seed": 1, "rate": 1.0, "kinds": ["timeout"], "slow_s": 0.4})
    code, first = runs.api("POST", "/api/loads", {"source": "cycognito", "mode": "full"})
    assert code == 202
    assert first["statusQueryGetUri"].startswith(runs.stack.parts["app"].url)
    again, refusal = runs.api("POST", "/api/loads", {"source": "cycognito", "mode": "full"})
    assert again == 409
    assert refusal["run_id"] in {first["run_id"], None}
    assert "being loaded already" in refusal["error"]
    seen = []
    while True:
        code, state = runs.api("GET", "/runtime/webhooks/durabletask/instances/load-cycognito")
        if state["customStatus"]:
            streams = state["customStatus"]["streams"]
            seen.append(sum(streams[name]["exported"] for name in streams if not name.endswith("_relations")))
        if code == 200:
            break
        time.sleep(0.1)
    assert any(0 < exported < ASSETS + FINDINGS for exported in seen), "no progress was shown while it ran"
    code, manifest = runs.api("GET", f"/api/loads/{first['run_id']}")
    assert (code, manifest["status"]) == (200, "complete")
    code, listed = runs.api("GET", "/api/loads?source=cycognito")
    assert listed["runs"][0]["run_id"] == first["run_id"]


def test_a_cancelled_run_stops_within_seconds_and_closes_its_ledger(runs: Any) -> None:
    """Cancel is a request of its own; the manifest says cancelled, and the source can be loaded again."""
    runs.faults("products", {"seed": 1, "rate": 1.0, "kinds": ["timeout"], "slow_s": 0.4})
    _, started = runs.api("POST", "/api/loads", {"source": "cycognito", "mode": "full"})
    code, _ = runs.api("POST", f"/api/loads/{started['run_id']}/cancel")
    while code == 404:
        code, _ = runs.api("POST", f"/api/loads/{started['run_id']}/cancel")
    assert code == 202
    deadline = time.monotonic() + 10
    while runs.api("GET", f"/api/loads/{started['run_id']}")[1].get("status") == "running":
        assert time.monotonic() < deadline, "still running 10 s after it was cancelled"
        time.sleep(0.1)
    code, manifest = runs.api("GET", f"/api/loads/{started['run_id']}")
    assert (code, manifest["cancelled"], manifest["status"]) == (200, True, "failed")
    runs.faults("products", {})
    assert runs.load("cycognito").status == "complete"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"source": "nonesuch"}, "there is no source"),
        ({"source": "tenable", "mode": "sideways"}, "there is no mode"),
        ({"source": "tenable", "streams": ["plugins"]}, "no such streams"),
        (["tenable"], "no JSON object"),
    ],
    ids=["source", "mode", "streams", "shape"],
)
def test_a_bad_request_is_refused_with_a_remedy(runs: Any, body: object, says: str) -> None:
    """400, with what is wrong and what to send instead."""
    code, answer = runs.api("POST", "/api/loads", body)
    assert code == 400
    assert says in answer["error"]
    assert answer["remedy"]


def test_timers_start_the_scheduled_sources(stack_of: Callable[..., Any]) -> None:
    """The timer for full loads starts every scheduled source; the one for deltas finds it running or starts it."""
    runs = stack_of("--assets", "50", "--findings", "50", SCHEDULED_SOURCES="device42")
    assert runs.api("GET", "/api/loads") == (200, {"running": [], "runs": []}), "before the first load there are none"
    assert runs.api("POST", "/admin/functions/full_schedule", {})[0] == 202
    deadline = time.monotonic() + 20
    while not (listed := runs.api("GET", "/api/loads?source=device42")[1]["runs"]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert (listed[0]["status"], listed[0]["totals"]["exported"]) == ("complete", 50)
