"""The alerts' KQL on the ledger as the emulator stores it: they fire on what they are for, and on nothing else."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from infra.check import ROOT
from local.sentinel.decode import decode
from local.sentinel.query import Workspace
from local.sentinel.store import Store
from sentinel.tables import RUNS

NOW = datetime(2026, 11, 2, 12, tzinfo=UTC)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A ledger with a complete, a failed and an incomplete run, one of two streams each."""
    rows = [
        {
            "TimeGenerated": "2026-11-02T11:30:00Z",
            "RunStreamId": f"{source}-1/{stream}",
            "RunId": f"{source}-1",
            "SourceName": source,
            "SourceStream": stream,
            "RunMode": "delta",
            "RunStatus": status,
            "Reasons": [] if status == "complete" else ["a lane gave up"],
        }
        for source, status in (("tenable", "complete"), ("device42", "failed"), ("cycognito", "incomplete"))
        for stream in ("assets", "findings")
    ]
    store = Store(tmp_path)
    store.add(RUNS.name, decode(json.dumps(rows).encode(), RUNS, NOW.replace(tzinfo=None)).batch)
    store.flush()
    return Workspace(tmp_path)


def fired(workspace: Workspace, alert: str, sources: str = "") -> list[str]:
    """The sources that an alert names, as its dimension SourceName."""
    kql = (ROOT / "infra" / "alerts" / f"{alert}.kql").read_text().replace('"$SOURCES"', sources)
    answer = workspace.query(kql, now=NOW)
    place = [column.name for column in answer.columns].index("SourceName")
    return sorted(str(row[place]) for row in answer.rows)


def test_a_failed_run_fires_once_however_many_streams(workspace: Workspace) -> None:
    assert fired(workspace, "failed") == ["device42"]


def test_an_incomplete_run_fires_once_however_many_streams(workspace: Workspace) -> None:
    assert fired(workspace, "incomplete") == ["cycognito"]


def test_a_product_without_a_complete_run_is_stale(workspace: Workspace) -> None:
    """Also one that has never run, of which the ledger knows nothing."""
    assert fired(workspace, "stale", '"tenable", "device42", "never-run"') == ["device42", "never-run"]
    assert fired(workspace, "stale", '"tenable"') == []
