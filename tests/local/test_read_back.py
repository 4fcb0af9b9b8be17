"""The ledger against the tables: every verdict, the wait for rows that show late, and the real client on a workspace that was filled by hand."""

from __future__ import annotations

import gzip
import json
import os
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from azure.monitor.query import LogsQueryClient

from local.read_back import Counted, LogAnalytics, ReadBackError, manifest_of, read_back, until_right
from local.sentinel.process import LoopbackCredential, Server


def manifest(run_id: str = "tenable-1", **accepted: int) -> dict[str, Any]:
    """A manifest of Tenable's two streams: 3 assets, 1 of them gone; 5 vulnerabilities of which 2 may be there twice."""
    streams = {
        "assets": {"accepted": 2, "deleted": 1, "possibly_repeated": 0},
        "vulnerabilities": {"accepted": 5, "deleted": 0, "possibly_repeated": 2},
    }
    started = datetime.now(UTC).isoformat()
    return {"run_id": run_id, "source": "tenable", "started_at": started, "streams": streams}


class Tables:
    """A workspace with as many rows as it is told, the next number with each time that it is asked; then as the last."""

    def __init__(self, assets: Sequence[int], vulnerabilities: int, ledger: int = 2) -> None:
        self.assets, self.vulnerabilities, self.ledger = list(assets), vulnerabilities, ledger
        self.asked: list[str] = []

    def rows(self, query: str, since: datetime, until: datetime) -> list[list[Any]]:
        assert since < datetime.now(UTC) < until
        self.asked.append(query)
        if query.startswith("CAASM_Runs_CL"):
            return [[self.ledger]]
        if query.startswith("CAASM_Assets_CL"):
            rows = self.assets.pop(0) if len(self.assets) > 1 else self.assets[0]
            return [["assets", rows]] if rows else []
        return [["vulnerabilities", self.vulnerabilities]]


@pytest.mark.parametrize(
    ("found", "verdict", "right"),
    [(4, "missing", False), (5, "equal", True), (6, "repeated", True), (7, "repeated", True), (8, "surplus", False)],
)
def test_a_stream_s_verdict(found: int, verdict: str, right: bool) -> None:
    """More than was accepted is right up to what may be there twice."""
    counted = Counted("vulnerabilities", "CAASM_Findings_CL", 5, 2, found)
    assert (counted.verdict, counted.right) == (verdict, right)


def test_a_stream_that_is_left_out_has_a_row_in_the_ledger_and_none_elsewhere() -> None:
    """Its row is not a surplus."""
    left_out = {**manifest(), "left_out": ["relations"]}
    assert all(one.right for one in read_back(left_out, Tables([3], 5, ledger=3)))
    assert read_back(left_out, Tables([3], 5))[-1].verdict == "missing"


def test_tombstones_are_rows_too() -> None:
    """What was accepted and what was deleted are both in the table."""
    assets, vulnerabilities, ledger = read_back(manifest(), Tables([3], 5))
    assert (assets.accepted, assets.found, assets.verdict) == (3, 3, "equal")
    assert (vulnerabilities.table, vulnerabilities.verdict) == ("CAASM_Findings_CL", "equal")
    assert (ledger.table, ledger.accepted, ledger.verdict) == ("CAASM_Runs_CL", 2, "equal")


def test_rows_that_show_late_are_waited_for() -> None:
    """With growing waits, until nothing is missing."""
    waits: list[float] = []
    tables = Tables([0, 1, 3], 5)
    counted = until_right(manifest(), tables, 900, clock=lambda: 0.0, sleep=waits.append)
    assert all(stream.right for stream in counted)
    assert waits == [5.0, 10.0]


def test_the_wait_has_an_end() -> None:
    """What is missing then is told as missing."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    counted = until_right(manifest(), Tables([2], 5), 100, clock=lambda: now[0], sleep=sleep)
    assert [stream.verdict for stream in counted] == ["missing", "equal", "equal"]
    assert now[0] == 100


def test_a_surplus_is_not_waited_for() -> None:
    """It will not go away."""
    counted = until_right(manifest(), Tables([4], 5), 900, sleep=lambda _: pytest.fail("it waited"))
    assert counted[0].verdict == "surplus"


def test_a_lost_ledger_row_is_missing() -> None:
    """Detection content relies on it."""
    assert read_back(manifest(), Tables([3], 5, ledger=1))[-1].verdict == "missing"


def fill(emulator: Server, run_id: str, assets: int, findings: int) -> None:
    """Rows of that run, as they would be sent."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    common = {"TimeGenerated": now, "EntitySnapshotId": run_id}
    bodies = {
        "Custom-CAASM_Assets": [{**common, "SourceStream": "assets"} for _ in range(assets)],
        "Custom-CAASM_Findings": [{**common, "SourceStream": "vulnerabilities"} for _ in range(findings)],
        "Custom-CAASM_Runs": [
            {"TimeGenerated": now, "RunId": run_id, "RunStreamId": f"{run_id}/{name}"} for name in "ab"
        ],
    }
    for stream, rows in bodies.items():
        body = gzip.compress(json.dumps(rows).encode())
        assert emulator.ingest(body, stream=stream, Content_Encoding="gzip").status == 204


def test_the_real_client_reads_the_emulator_back(emulator: Server) -> None:
    """Through azure-monitor-query, over plain http on loopback; another run's rows are not counted."""
    run_id = f"tenable-{uuid.uuid4().hex}"
    fill(emulator, run_id, 3, 7)
    fill(emulator, f"{run_id}-other", 1, 1)
    with LogsQueryClient(LoopbackCredential(), endpoint=emulator.url) as client:
        counted = read_back(manifest(run_id), LogAnalytics(client, "local", enforce_https=False))
    assert [(stream.found, stream.verdict) for stream in counted] == [(3, "equal"), (7, "repeated"), (2, "equal")]


def test_a_workspace_that_cannot_be_asked_is_told(listen: Any, reply: Any) -> None:
    """With the role that is wanting."""
    denied = listen(lambda _: reply(b'{"error": {"code": "InsufficientAccessError", "message": "no"}}', 403))
    with LogsQueryClient(LoopbackCredential(), endpoint=denied.url, retry_total=0) as client:
        workspace = LogAnalytics(client, "local", enforce_https=False)
        with pytest.raises(ReadBackError, match="Log Analytics Reader"):
            read_back(manifest(), workspace)


def test_a_manifest_is_found_by_file_by_run_or_as_the_last(tmp_path: Path) -> None:
    """As the command line names it."""
    for age, run_id in ((20, "tenable-1"), (10, "tenable-2")):
        path = tmp_path / f"{run_id}.json"
        path.write_text(json.dumps(manifest(run_id)))
        os.utime(path, (1_000_000 - age, 1_000_000 - age))
    assert manifest_of(None, lambda: tmp_path)["run_id"] == "tenable-2"
    assert manifest_of("tenable-1", lambda: tmp_path)["run_id"] == "tenable-1"
    assert manifest_of(str(tmp_path / "tenable-1.json"), lambda: tmp_path / "none")["run_id"] == "tenable-1"
    (tmp_path / "running.json").write_text('{"run_id": "x", "status": "running"}')
    for run in ("tenable-3", str(tmp_path / "running.json")):
        with pytest.raises(ReadBackError, match="no manifest"):
            manifest_of(run, lambda: tmp_path)
