"""Whole runs that are disturbed on purpose: nothing missing, and whatever is there twice is named by the ledger."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

import local.stack
from local.chaos_runs import AFTERWARDS, Ground, Verdict
from local.products.synthetic import Inventory
from local.sentinel.query import Workspace
from local.stack import Stack, StackError

ROOT = Path(__file__).resolve().parents[2]

SEEDS = {"cycognito": 113, "device42": 50, "tenable": 11}
"""All of them kill the app while it opens the run, and then by chance. With an odd seed the emulator fails too: connections dropped after the rows
were taken, throttling, 503."""


OVER_DAYS = {"cycognito": 10, "device42": 8, "tenable": 3}
"""Seeds under which each source's first load is calm or not, and a later one is killed."""


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with Ground(tmp_path_factory.mktemp("chaos"), assets=1500, findings=1500) as ground:
        yield ground


@pytest.mark.parametrize(("source", "seed"), SEEDS.items())
def test_a_run_under_chaos_ends_complete_and_right(ground: Ground, source: str, seed: int) -> None:
    """Every id of the inventory arrives, no other, and each repeated row is in a chunk that is named."""
    verdict = ground.run(seed, source)
    assert verdict.problems == []
    assert verdict.chaos["kills"] == ground.stack.restarts > 0
    assert verdict.chaos["repeats"] > 0


@pytest.mark.parametrize(("source", "seed"), OVER_DAYS.items())
def test_loads_over_days_under_chaos_end_with_the_inventory_in_the_view(ground: Ground, source: str, seed: int) -> None:
    """A full load, then what it takes until what the next day deleted is gone; each load sends exactly what it has to."""
    verdict = ground.run_days(seed, source)
    assert verdict.problems == []
    assert len(verdict.loads) == 1 + len(AFTERWARDS[source])
    assert verdict.chaos["kills"] > 0


def test_a_directory_that_is_in_use_is_refused(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two stacks on one directory would write over each other's blobs and journal."""
    monkeypatch.setattr(local.stack, "WAIT_S", 0.2)
    second = Stack(ground.stack.directory, None, source_url="http://127.0.0.1:1")
    with pytest.raises(StackError, match="in use by another command"), second:
        pytest.fail("it started")


def test_the_command_goes_on_after_it_was_killed(tmp_path: Path) -> None:
    """SIGKILL to its whole process group while it loads; the same command again ends that very run, complete."""
    slow = json.dumps({"seed": 1, "rate": 1.0, "kinds": ["timeout"], "slow_s": 0.2})
    kept, outcome = tmp_path / "kept", tmp_path / "outcome.json"
    command = [sys.executable, "-m", "local", "run", "--source", "cycognito", "--assets", "3000", "--findings", "3000"]
    command += ["--faults", slow, "--keep", str(kept), "--journal", "--json", str(outcome)]
    small = {"EXPORT_SEGMENT_BYTES": "1048576", "UPLOAD_PACK_BYTES": "1048576"}
    pipes = {"env": {**os.environ, **small}, "cwd": ROOT, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes, start_new_session=True) as first:  # type: ignore[call-overload]  # pipes is a dict of Any
        for line in first.stdout:
            if re.search(r"loading .* [1-9][\d,]*→", line):
                break
        else:
            pytest.fail("the first command ended before it had loaded anything")
        os.killpg(first.pid, signal.SIGKILL)
    killed_at = datetime.now(UTC).isoformat()
    again = subprocess.run(command, **pipes, stderr=subprocess.STDOUT, timeout=240, check=False)  # type: ignore[call-overload]
    assert again.returncode == 0, again.stdout
    ended = json.loads(outcome.read_text())
    assert (ended["status"], ended["reasons"]) == ("complete", [])
    manifest = json.loads((kept / "ledger" / f"{ended['run_id']}.json").read_text())
    assert manifest["started_at"] < killed_at
    kql = f"CAASM_Assets_CL | where EntitySnapshotId == '{ended['run_id']}' | project EntityOriginalId"
    ids = [str(row[0]) for row in Workspace(kept / "sentinel").query(kql).rows]
    inventory = Inventory(3000, 3000, seed=1)
    assert set(ids) == {
        i for kind in ("domain", "webapp", "iprange") for i in inventory.ids("cycognito", f"assets_{kind}")
    }
    assert len(ids) - len(set(ids)) <= manifest["totals"]["possibly_repeated"]


def test_a_verdict_is_written_with_what_was_done_to_the_run() -> None:
    """Its counts by name, as JSON takes them."""
    written = json.loads(json.dumps(Verdict(7, "tenable", chaos=Counter(kills=2, twins=1)).to_json()))
    assert (written["seed"], written["chaos"]) == (7, {"kills": 2, "twins": 1})
