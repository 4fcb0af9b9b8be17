"""The command killed with SIGKILL at chosen points and started again: the same run ends complete, and no page that was staged is fetched again."""

from __future__ import annotations

import fcntl
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from azure.storage.blob import ContainerClient

from local.azurite import Azurite
from local.load import run_load
from local.products.synthetic import Inventory
from local.sentinel.query import Workspace
from local.truth import KINDS, ids_of
from sources.registry import SOURCES

ROOT = Path(__file__).resolve().parents[2]

ASSETS, FINDINGS = 4000, 4000

SMALL = {"EXPORT_SEGMENT_BYTES": "1048576", "UPLOAD_PACK_BYTES": "1048576"}

PAGES = {
    "domains": "/v1/assets/domain",
    "web_apps": "/v1/assets/webapp",
    "ip_ranges": "/v1/assets/iprange",
    "issues": "/v1/issues",
    "devices": "/api/1.0/devices/all/",
    "assets": "/assets/export/chunks",
    "vulnerabilities": "/vulns/export/chunks",
}
"""Where the pages of a stream are served, as the simulators' log says it."""


@dataclass
class Kept:
    """A directory that commands are run on, one after the other, and what was seen of it whenever one of them was killed."""

    directory: Path
    journal: bool = True
    kills: list[tuple[datetime, int]] = field(default_factory=list)
    """Per kill its time and how many pages had been served until then."""

    def run(self, *options: str, source: str) -> subprocess.CompletedProcess[str]:
        """The command, to its end."""
        size = ["--assets", str(ASSETS), "--findings", str(FINDINGS)]
        kept = ["--keep", str(self.directory), "--json", str(self.outcome), *(["--journal"] if self.journal else [])]
        return subprocess.run(
            [sys.executable, "-m", "local", "run", "--source", source, *size, *kept, *options],
            env={**os.environ, **SMALL},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=240,  # of a machine that is busy with other things
            check=False,
        )

    def killed(self, point: str, *options: str, source: str) -> None:
        """The command, killed at that point."""
        ended = self.run("--kill-at", point, *options, source=source)
        assert ended.returncode == -signal.SIGKILL, f"{point} was not met:\n{ended.stdout}{ended.stderr}"
        self.kills.append((datetime.now(UTC), len(self.served)))
        # The command and the app are dead; storage and emulator end by themselves, and write what they hold.
        with (self.directory / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)

    def completed(self, *options: str, source: str) -> Any:
        """The command, which ends complete; what it wrote."""
        ended = self.run(*options, source=source)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return json.loads(self.outcome.read_text())

    @property
    def outcome(self) -> Path:
        return self.directory / "outcome.json"

    @property
    def served(self) -> list[tuple[str, int]]:
        """Path and number of each page that was served, by any process, in order; of an export its number within the job."""
        with suppress(FileNotFoundError):
            lines = [json.loads(line) for line in (self.directory / "logs" / "pages.jsonl").read_text().splitlines()]
            return [(line["path"], int(line["page"].rpartition("/")[2].partition(" ")[0])) for line in lines]
        return []

    def jobs(self) -> set[str]:
        """The export jobs of which pages were served."""
        lines = [json.loads(line) for line in (self.directory / "logs" / "pages.jsonl").read_text().splitlines()]
        return {line["page"].rpartition("/")[0] for line in lines} - {""}

    def staged(self, source: str) -> list[tuple[str, str, set[int], datetime]]:
        """Every raw segment: its run, where its pages were served, which they are, when it was written."""
        found = []
        with (
            Azurite(self.directory / "blobs") as azurite,
            ContainerClient.from_connection_string(azurite.connection_string, "caasm") as container,
        ):
            for blob in container.list_blobs(name_starts_with=f"runs/{source}/"):
                _, _, run, part, *rest = blob.name.split("/")
                if part == "raw":
                    content = container.download_blob(blob.name).readall()
                    pages = set(pl.read_parquet(io.BytesIO(content), columns=["page"])["page"])
                    found.append((run, PAGES[rest[0]], pages, blob.creation_time))
        return found

    def assert_none_again(self, source: str, run_id: str) -> None:
        """No page that the run staged was served after a kill before which it had been staged."""
        served, early = self.served, 0
        for run, path, pages, written_at in self.staged(source):
            if run != run_id:
                continue
            for killed_at, before in self.kills:
                # Times of blobs are whole seconds; the next command needs more than one to begin.
                if written_at <= killed_at:
                    again = {number for where, number in served[before:] if where == path}
                    assert not pages & again, f"{path} was fetched again"
                    early += len(pages)
        assert early, "nothing had been staged when the command was killed: the test shows nothing"

    def sent(self, source: str) -> set[str]:
        """The runs of which rows are in the tables."""
        kql = f"union CAASM_Assets_CL, CAASM_Findings_CL | where EntitySnapshotId startswith '{source}' | distinct EntitySnapshotId"
        return {str(row[0]) for row in Workspace(self.directory / "sentinel").query(kql).rows}

    def assert_all_there(self, outcome: Any) -> None:
        """Each id of the inventory is in the run's rows, no other, and no more rows are there twice than the ledger says."""
        manifest = json.loads((self.directory / "ledger" / f"{outcome['run_id']}.json").read_text())
        inventory = Inventory(ASSETS, FINDINGS, seed=1)
        for stream in KINDS[outcome["source"]][1]:
            table = SOURCES[outcome["source"]].stream(stream).table
            kql = f"{table} | where EntitySnapshotId == '{outcome['run_id']}' and SourceStream == '{stream}' | project EntityOriginalId"
            ids = [str(row[0]) for row in Workspace(self.directory / "sentinel").query(kql).rows]
            assert set(ids) == ids_of(inventory, outcome["source"], stream)
            assert len(ids) - len(set(ids)) <= manifest["streams"][stream]["possibly_repeated"]


@pytest.mark.parametrize(
    ("source", "points"),
    [
        ("cycognito", ["export:5:end", "transform:2", "upload:1:end", "diff:2", "close_run:1:end"]),
        ("tenable", ["export:4", "upload:1", "diff:1:end", "close_run:1"]),
    ],
    ids=["cycognito", "tenable"],
)
def test_a_command_that_is_killed_in_every_stage_ends_its_run(tmp_path: Path, source: str, points: list[str]) -> None:
    """Killed in one stage, started again and killed in the next, before a step or before anybody knows that it is done: one run, complete, every staged page
    fetched once.
    """
    kept = Kept(tmp_path)
    for point in points:
        kept.killed(point, source=source)
    outcome = kept.completed(source=source)
    assert (outcome["status"], outcome["reasons"]) == ("complete", [])
    assert kept.sent(source) == {outcome["run_id"]}
    kept.assert_none_again(source, outcome["run_id"])
    assert len(kept.jobs()) == (2 if source == "tenable" else 0)
    kept.assert_all_there(outcome)


def test_without_its_journal_a_run_is_adopted_unless_a_fresh_one_is_wanted(tmp_path: Path) -> None:
    """What the durable host knew is lost: the next load of the source takes the last run up under its name, from what is staged and sent."""
    kept = Kept(tmp_path, journal=False)
    kept.killed("upload:2:end", source="tenable")
    (first,) = kept.sent("tenable")
    kept.killed("upload:2:end", "--fresh", source="tenable")
    (second,) = kept.sent("tenable") - {first}
    outcome = kept.completed(source="tenable")
    assert outcome["run_id"] == second
    kept.assert_none_again("tenable", second)
    kept.assert_all_there(outcome)


def test_sources_that_were_loaded_before_the_kill_are_not_loaded_again(tmp_path: Path) -> None:
    """Of `--source all`, killed in its third source: the first two are reported as they ended; when all is done, the next command loads all anew."""
    kept = Kept(tmp_path)
    compared = sum(len(SOURCES[name].tables) for name in ("cycognito", "device42"))
    kept.killed(f"diff:{compared + 1}", source="all")
    outcomes = kept.completed(source="all")
    assert [outcome["status"] for outcome in outcomes] == ["complete"] * 3
    assert len(kept.served) == kept.kills[0][1], "something was fetched after the kill: everything was staged before it"
    for outcome in outcomes:
        kept.assert_all_there(outcome)
    assert not (tmp_path / "command.json").exists()


def test_a_load_that_ended_while_nobody_looked_is_taken_as_it_ended(stack_of: Callable[..., Any]) -> None:
    """The app that went on may have ended the load before the command asks for it: it asked before, so that is its load. One that it did not ask for is not."""
    runs = stack_of("--assets", "200", "--findings", "100")
    asked_at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    outcome = runs.load("device42")
    fetched = runs.stats("products")["requests"]
    again = run_load(runs.stack, "device42", "full", lambda _: None, asked_at=asked_at)
    assert (again.run_id, again.status, again.manifest) == (outcome.run_id, "complete", outcome.manifest)
    assert runs.stats("products")["requests"] == fetched
    later = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert run_load(runs.stack, "device42", "full", lambda _: None, asked_at=later).run_id != outcome.run_id
