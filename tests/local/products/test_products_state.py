"""A simulator that was killed and started again: its export jobs go on, and the pages of both processes are counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from local.products.simulator import Simulator
from local.products.state import PageLog, StateFile
from local.products.synthetic import Inventory

LIVES = Inventory(3000, 1200, seed=5, changed=0.2)


def simulator(path: Path, *, of: str = "it", inventory: Inventory = LIVES) -> Simulator:
    """A simulator that goes on with what is in the file."""
    return Simulator(inventory.streams(), inventory=inventory, state=StateFile(path, of))


@pytest.mark.parametrize(("kind", "filters"), [("assets", {}), ("vulns", {"state": ["open"]})])
def test_a_job_goes_on_in_the_next_process(serve: Any, tmp_path: Path, kind: str, filters: dict[str, Any]) -> None:
    """With the chunks that it had, at the poll that it stood at, on the day that it began on."""
    first = serve(simulator(tmp_path / "state.json"))
    first.control("day", {"day": 2})
    job = first.tenable_start(kind, {"filters": filters, "chunk_size" if kind == "assets" else "num_assets": 500})
    first.tenable_status(kind, job)
    stood = first.tenable_status(kind, job)
    assert stood["status"] == "PROCESSING"
    second = serve(simulator(tmp_path / "state.json"))
    assert second.tenable_chunk(kind, job, 1).data == first.tenable_chunk(kind, job, 1).data
    assert second.tenable_status(kind, job) == first.tenable_status(kind, job)
    answer = second.send(
        "POST", f"/{kind}/export", {"X-ApiKeys": "accessKey=local-access;secretKey=local-secret"}, {"filters": filters}
    )
    assert (answer.status, answer.json()["active_job_id"]) == (409, job)


def test_a_cancelled_job_and_the_count_of_jobs_are_kept(serve: Any, tmp_path: Path) -> None:
    """A new job of the next process has an id of its own."""
    first = serve(simulator(tmp_path / "state.json"))
    job = first.tenable_start("assets", {})
    first.send("POST", f"/assets/export/{job}/cancel", {"X-ApiKeys": "accessKey=local-access;secretKey=local-secret"})
    second = serve(simulator(tmp_path / "state.json"))
    assert second.tenable_status("assets", job)["status"] == "CANCELLED"
    assert second.tenable_start("assets", {}) != job


@pytest.mark.parametrize("how", ["reset", "another inventory"])
def test_jobs_are_forgotten(serve: Any, tmp_path: Path, how: str) -> None:
    """By a reset, and when the next process serves something else."""
    first = serve(simulator(tmp_path / "state.json"))
    job = first.tenable_start("assets", {})
    if how == "reset":
        first.control("reset")
    second = serve(simulator(tmp_path / "state.json", of="it" if how == "reset" else "another"))
    assert second.tenable_chunk("assets", job, 1).status == 404
    assert second.tenable_status("assets", job)["error"] == "not_found"


def test_pages_are_logged_over_processes(serve: Any, tmp_path: Path) -> None:
    """One line for each page that was answered whole."""
    log = tmp_path / "pages.jsonl"
    for _ in range(2):
        served = Simulator(LIVES.streams(), page_log=PageLog(log))
        client = serve(served)
        client.control("faults", {"fail_next": [503]})
        assert client.device42_page(100, 0).status == 503
        client.device42_page(100, 200)
        assert served.page_log is not None
        served.page_log.close()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(lines) == 2
    assert lines[0] == lines[1]
    assert lines[0]["page"] == "200"
