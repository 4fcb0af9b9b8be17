"""Whole stacks for whole runs: the app, blob storage, the emulator and the simulators, each in its own process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from local.load import run_load
from local.outcome import Outcome
from local.sentinel.query import Workspace
from local.stack import DCR, Stack

JsonDict = dict[str, Any]

RECORDINGS = Path(__file__).resolve().parents[3] / "shared" / "data"

SMALL = {
    "FIRST_TURN_SECONDS": "0.2",
    "LONGEST_TURN_SECONDS": "2",
    "FIRST_WAIT_SECONDS": "0.05",
    "LONGEST_WAIT_SECONDS": "0.5",
}


class Runs:
    """Runs loads on a stack and asks what came of them."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.progress: list[JsonDict] = []

    def load(self, source: str, mode: str = "full") -> Outcome:
        self.progress = []
        return run_load(self.stack, source, mode, self.progress.append)

    def faults(self, part: str, faults: JsonDict) -> None:
        code, answer = self.stack.call("POST", f"{self.stack.parts[part].url}/_control/faults", faults)
        assert code == 200, answer

    def stats(self, part: str) -> JsonDict:
        stats: JsonDict = self.stack.call("GET", f"{self.stack.parts[part].url}/_control/stats")[1]
        return stats

    def api(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        return self.stack.call(method, self.stack.parts["app"].url + path, body)

    def query(self, kql: str) -> list[tuple[Any, ...]]:
        self.stack.call("POST", f"{self.stack.parts['sentinel'].url}/_control/flush")
        return [tuple(row) for row in Workspace(self.stack.directory / "sentinel").query(kql).rows]

    def ids(self, run_id: str, table: str) -> list[str]:
        """The original ids that a run left in a table, sorted, with repeats."""
        rows = self.query(f"{table} | where EntitySnapshotId == '{run_id}' | project EntityOriginalId")
        return sorted(str(row[0]) for row in rows)


@pytest.fixture(scope="module")
def stack_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Runs]]:
    """Start stacks; they are stopped when the module is done."""
    started: list[Stack] = []

    def start(*simulator: str, dcr: str = DCR, **settings: str) -> Runs:
        stack = Stack(tmp_path_factory.mktemp("stack"), list(simulator), dcr=dcr, app_settings={**SMALL, **settings})
        started.append(stack)
        try:
            return Runs(stack.start())
        except BaseException:
            stack.stop()
            raise

    yield start
    for stack in started:
        stack.stop()


@pytest.fixture(scope="module")
def recordings() -> Path:
    """The recorded responses of real products, which are not in this repository."""
    if not RECORDINGS.is_dir():
        pytest.skip(f"no recorded responses at {RECORDINGS}")
    return RECORDINGS
