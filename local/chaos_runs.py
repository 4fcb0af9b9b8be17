"""`python -m local.chaos_runs --runs 200`: whole loads of synthetic inventories under chaos, each compared with the truth (local/truth.py).

Invariant: a run passes only when each of its loads ended complete, the rows that it sent are those of the ids that it had to send and of no other, every row that is
there more than once is in a chunk that the receipts name as possibly repeated, the ledger counts at least as many, and the view (the shipped functions)
has each living id once, in the row of the load that sent it last. A seed has staging, tables and journals of its own, and does the same
again, as far as threads and clocks allow.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import polars as pl
from azure.storage.blob import ContainerClient

from activities.rows import Staged, in_order, read_rows
from contracts import TOMBSTONE_LANE
from local.load import run_load
from local.outcome import Outcome
from local.products.synthetic import Inventory
from local.sentinel.query import Workspace
from local.stack import Stack
from local.truth import KINDS, Expected, Sent
from sentinel import receipts
from sources.registry import SOURCES
from staging import Names, Staging

JsonDict = dict[str, Any]

SETTINGS: Final = {
    "EXPORT_SEGMENT_BYTES": "1048576",
    "UPLOAD_PACK_BYTES": "1048576",
    "UPLOAD_BODY_LIMIT_BYTES": "131072",
    "FIRST_TURN_SECONDS": "0.3",
    "LONGEST_TURN_SECONDS": "3",
    "FIRST_WAIT_SECONDS": "0.05",
    "LONGEST_WAIT_SECONDS": "0.5",
}
"""Small segments, packs and requests: a short load has many activities to disturb, and an upload many requests to be killed between."""

RATES: Final = {
    "repeat": 0.12,
    "twins": 0.15,
    "lose": 0.06,
    "kill": 0.10,
    "delay_s": [0.0, 0.7],
    "visibility_s": [0.3, 1.0],
    "kill_s": [0.005, 0.5],
}
"""Of chaos: more and shorter than on the command line."""

MOST_KILLS: Final = 8
FLUSH_S: Final = 600.0
"""How long the emulator may take to decode what a load has sent."""

SINK_FAULTS: Final = {"rate": 0.08, "kinds": ["drop-before", "drop-after", "429", "503"], "retry_after_s": 1}
"""What the emulator does in every second run. A request that is dropped after it was accepted is one more way to send a row twice."""


AFTERWARDS: Final = {
    "cycognito": (("delta", 1), ("delta", 1)),
    "device42": (("delta", 1),),
    "tenable": (("delta", 1), ("full", 1)),
}
"""What is loaded in a run over days after the full load of its first day, as mode and days later: as often as it takes until what was deleted is gone."""

OVER_DAYS: Final = (0, 3)
"""Seeds with these remainders by 5 are runs over days."""

WHAT: Final = (
    "Loads synthetic inventories while activities run again, twice at once and late, answers get lost and the app is killed; every second seed the ingestion endpoint "
    "fails too. Three runs of five are one full load. The others load a day (half of them calmly), then, under chaos, deltas of the next day until what was "
    "deleted is gone (Tenable: a delta and a full load). After each load the rows that it sent, every repeated row and the view are compared with the inventory."
)

VIEWS: Final = {
    name: name.removesuffix("_CL") for name in ("CAASM_Assets_CL", "CAASM_Findings_CL", "CAASM_Relationships_CL")
}


@dataclass(slots=True)
class Verdict:
    """One run: what was done to it and what came of it. `repeated`: ids with more rows than one in a load, `named`: rows that the ledger calls possibly
    repeated, `pages_again`: pages that were served to one load more than once.
    """

    seed: int
    source: str
    loads: list[str] = field(default_factory=list)
    wall_s: float = 0.0
    rows: int = 0
    repeated: int = 0
    named: int = 0
    pages: int = 0
    pages_again: int = 0
    chaos: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def to_json(self) -> JsonDict:
        """The object that `--json` writes."""
        # asdict makes a Counter of pairs of what was one.
        return asdict(replace(self, chaos=Counter())) | {"chaos": dict(self.chaos)}


class Ground:
    """A stack whose app is started anew for every load, with a journal and a seed of its own."""

    def __init__(self, directory: Path, *, assets: int, findings: int) -> None:
        """Nothing runs before the block is entered."""
        # From today on, so that what a later day changes is later than the loads that went before.
        epoch = datetime.now(UTC).date()
        self._truth = Inventory(assets, findings, seed=1, epoch=epoch)
        simulator = ["--assets", str(assets), "--findings", str(findings), "--seed", "1", "--epoch", epoch.isoformat()]
        self.stack = Stack(directory, simulator, app_settings=dict(SETTINGS))
        self.stack.app_arguments = ["--chaos-rates", json.dumps(RATES)]
        self._last = ""

    def __enter__(self) -> Self:
        self.stack.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.stop()

    def run(self, seed: int, source: str) -> Verdict:
        """A full load under that seed's chaos."""
        return self._loads(seed, source, [("full", 0, True)])

    def run_days(self, seed: int, source: str) -> Verdict:
        """A full load of some day, calm or not, and then under chaos the loads after which the view is the inventory of the next day."""
        first = seed % 5
        later = [(mode, first + days, True) for mode, days in AFTERWARDS[source]]
        verdict = self._loads(seed, source, [("full", first, seed // 5 % 2 == 0), *later])
        if not verdict.problems:
            for stream in self._expected:
                last = self._expected[stream]
                if last.view.keys() != last.there(later[-1][1]):
                    verdict.problems.append(f"{stream}: the last view is not the inventory")
        return verdict

    def _loads(self, seed: int, source: str, loads: Sequence[tuple[str, int, bool]]) -> Verdict:
        """Loads in their order, as mode, day and whether there is chaos; after the first that does not end complete no more."""
        self._expected = {stream: Expected(self._truth, source, stream) for stream in SOURCES[source].tables}
        self._set_aside(f"{source}-{seed}")
        verdict = Verdict(seed, source)
        for step, (mode, day, chaos) in enumerate(loads):
            outcome = self._load(step, seed, source, mode, day, chaos=chaos)
            verdict.loads.append(outcome.run_id)
            verdict.wall_s += round(outcome.wall_s, 2)
            verdict.chaos.update({name: count for name, count in (outcome.chaos or {}).items() if name != "seed"})
            served = self.stack.call("GET", f"{self.stack.parts['products'].url}/_control/stats")[1]["pages"]
            times = [count for pages in served.values() for count in pages.values()]
            verdict.pages, verdict.pages_again = (
                verdict.pages + sum(times),
                verdict.pages_again + sum(times) - len(times),
            )
            if (outcome.status, outcome.mode) != ("complete", mode):
                verdict.problems.append(f"load {step}, {outcome.mode}: {outcome.status}: {'; '.join(outcome.reasons)}")
                break
            self._judge(f"load {step}, {mode}", outcome, day, verdict)
        return verdict

    def _load(self, step: int, seed: int, source: str, mode: str, day: int, *, chaos: bool) -> Outcome:
        """One load by an app of its own."""
        stack = self.stack
        stack.parts["app"].stop()  # before its simulators forget their jobs
        stack.journal = stack.directory / f"journal-{source}-{seed}-{step}.db"
        stack.chaos = seed + 100_000 * step if chaos else None
        stack.most_restarts, stack.restarts = MOST_KILLS if chaos else 0, 0
        self._control("products", "reset", {})
        self._control("products", "day", {"day": day})
        self._control("sentinel", "faults", {"seed": seed, **SINK_FAULTS} if chaos and seed % 2 else {})
        stack.start_app()
        outcome = run_load(stack, source, mode, lambda _: None)
        self._control("sentinel", "flush", {})
        return outcome

    def _set_aside(self, container: str) -> None:
        """Begin with empty tables and an empty container; the tables of the run before stay, for `query --keep DIR/runs/NAME`."""
        tables = self.stack.directory / "sentinel"
        for table in tables.glob("*_CL"):
            aside = self.stack.directory / "runs" / self._last / "sentinel"
            aside.mkdir(parents=True, exist_ok=True)
            table.rename(aside / table.name)
        self._last = self.stack.app_settings["STAGING_CONTAINER"] = container

    def _judge(self, load: str, outcome: Outcome, day: int, verdict: Verdict) -> None:
        """Compare what one load left in the tables with what it should have."""
        for stream, ledger in outcome.streams.items():
            expected = self._expected[stream]
            sent = expected.load(outcome.run_id, outcome.mode, day)
            counts = self._rows(outcome.run_id, stream, outcome.source)
            twice = {key for key, count in counts.items() if count > 1}
            verdict.rows += counts.total()
            verdict.repeated += len(twice)
            verdict.named += ledger["possibly_repeated"]
            problems = _differences(set(counts), sent)
            unnamed = twice - self._named(outcome, stream) if twice else set()
            if unnamed:
                problems.append(f"{len(unnamed)} rows are repeated and in no chunk that is named, as {min(unnamed)}")
            if len(twice) > ledger["possibly_repeated"]:
                problems.append(f"{len(twice)} rows are repeated, the ledger names {ledger['possibly_repeated']}")
            problems += self._view(outcome.source, stream, expected.view)
            verdict.problems += [f"{load}, {stream}: {problem}" for problem in problems]

    def _control(self, part: str, what: str, settings: JsonDict) -> None:
        url = f"{self.stack.parts[part].url}/_control/{what}"
        code, answer = self.stack.call("POST", url, settings, timeout_s=FLUSH_S)
        if code != 200:
            raise RuntimeError(f"{part} answered {code} to {what}: {answer!r}")

    def _ask(self, kql: str) -> list[Any]:
        rows: list[Any] = Workspace(self.stack.directory / "sentinel").query(kql).rows
        return rows

    def _rows(self, run_id: str, stream: str, source: str) -> Counter[str]:
        """How often each original id of the stream is in the rows of the run."""
        table = SOURCES[source].tables[stream]
        kql = f"{table} | where EntitySnapshotId == '{run_id}' and SourceStream == '{stream}' | summarize rows = count() by EntityOriginalId"
        return Counter({str(key): int(count) for key, count in self._ask(kql)})

    def _view(self, source: str, stream: str, expected: dict[str, str]) -> list[str]:
        """What is wrong with the view of the stream: each living id once, in the row of the run that sent it last."""
        view = VIEWS[SOURCES[source].tables[stream]]
        kql = f"{view} | where SourceStream == '{stream}' | project EntityOriginalId, EntitySnapshotId"
        rows = [(str(key), str(run_id)) for key, run_id in self._ask(kql)]
        found = dict(rows)
        stale = {key for key in found.keys() & expected.keys() if found[key] != expected[key]}
        wrong = {
            "ids are twice in the view": {key for key, count in Counter(key for key, _ in rows).items() if count > 1},
            "ids are missing in the view": expected.keys() - found.keys(),
            "ids should not be in the view": found.keys() - expected.keys(),
            "ids are in the view in the row of another load": stale,
        }
        return [f"{len(ids)} {what}, as {min(ids)}" for what, ids in wrong.items() if ids]

    def _named(self, outcome: Outcome, stream: str) -> set[str]:
        """The ids of the rows in chunks that the receipts call possibly repeated."""
        names, ids = Names(outcome.source, outcome.run_id), set[str]()
        with ContainerClient.from_connection_string(self.stack.connection_string, self._last) as container:
            staging = Staging(container)
            verdicts = _verdicts(staging, f"{names.prefix}verdicts/{stream}/") if outcome.mode == "delta" else None
            for blob in staging.list(f"{names.prefix}receipts/{stream}/"):
                lane, pack = blob.name.removesuffix(".jsonl").split("/")[-2:]
                first, last = (int(number) for number in pack.split("-"))
                lines = _packed(staging, names, (stream, int(lane), first, last), verdicts)
                for low, high in receipts.Receipts.of(staging.log(blob.name)).ambiguous:
                    ids.update(json.loads(row)["EntityOriginalId"] for row in lines[low:high].splitlines())
        return ids


def _differences(found: set[str], sent: Sent) -> list[str]:
    expected = sent.rows | sent.tombstones
    wrong = {"were not sent": expected - found, "should not have been sent": found - expected}
    return [f"{len(ids)} of {len(expected)} {what}, as {min(ids)}" for what, ids in wrong.items() if ids]


def _verdicts(staging: Staging, prefix: str) -> pl.DataFrame:
    """Lane, segment and row of everything that a delta sends of a stream."""
    return pl.concat([pl.read_parquet(io.BytesIO(staging.read(blob.name))) for blob in staging.list(prefix)])


def _packed(staging: Staging, names: Names, pack: tuple[str, int, int, int], verdicts: pl.DataFrame | None) -> bytes:
    """The NDJSON of a pack (stream, lane, first and last segment)."""
    stream, lane, first, last = pack
    staged: list[tuple[int, Staged]] = []
    for segment in range(first, last + 1):
        rows = None
        if verdicts is not None and lane != TOMBSTONE_LANE:
            rows = verdicts.filter(lane=lane, segment=segment)["row"].sort().to_list()
        if rows != []:
            content = staging.read(names.rows(stream, lane, segment))
            staged += [(segment, one) for one in read_rows(content, rows)]
    ready_bytes = json.loads(staging.read(names.pack(*pack)))["ready_bytes"]
    return b"".join(one.lines()[0] for _, one, _ in in_order(staged, ready_bytes))


def summary(verdicts: Sequence[Verdict]) -> str:
    """All runs in a few lines."""
    chaos: Counter[str] = Counter()
    for verdict in verdicts:
        chaos.update(verdict.chaos)
    total = {
        name: sum(getattr(v, name) for v in verdicts) for name in ("rows", "repeated", "named", "pages", "pages_again")
    }
    bad = [verdict for verdict in verdicts if verdict.problems]
    said = ", ".join(f"{count} {name}" for name, count in chaos.items())
    loads = sum(len(verdict.loads) for verdict in verdicts)
    return (
        f"{len(verdicts)} runs, {loads} loads, {len(bad)} with problems; {said}\n"
        f"{total['rows']} rows, {total['repeated']} ids more than once, {total['named']} named as possibly repeated; "
        f"{total['pages']} pages served, {total['pages_again']} of them again"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Do the runs, a line each; 0 when every one of them passed."""
    parser = argparse.ArgumentParser(prog="python -m local.chaos_runs", description=WHAT)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--first", type=int, default=1, metavar="SEED", help="seeds from this one on (default 1)")
    parser.add_argument("--source", nargs="+", choices=list(KINDS), default=list(KINDS), help="in turn (default: all)")
    parser.add_argument("--assets", type=int, default=1500)
    parser.add_argument("--findings", type=int, default=1500)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep everything there (default: a scratch folder)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the verdicts")
    options = parser.parse_args(arguments)
    verdicts: list[Verdict] = []
    with tempfile.TemporaryDirectory() as scratch:
        directory = (options.keep or Path(scratch)).resolve()
        with Ground(directory, assets=options.assets, findings=options.findings) as ground:
            for number in range(options.runs):
                seed, source = options.first + number, options.source[number % len(options.source)]
                verdict = (ground.run_days if seed % 5 in OVER_DAYS else ground.run)(seed, source)
                verdicts.append(verdict)
                print(_line(verdict), flush=True)
    print(summary(verdicts))
    if options.json:
        options.json.write_text(json.dumps([verdict.to_json() for verdict in verdicts], indent=1))
    return 1 if any(verdict.problems for verdict in verdicts) else 0


def _line(verdict: Verdict) -> str:
    return (
        f"seed {verdict.seed:4} {verdict.source:<9} {len(verdict.loads)} loads {verdict.wall_s:5.1f} s  {verdict.chaos['kills']:2} kills, "
        f"{verdict.chaos['repeats']:2} repeats  {verdict.rows} rows, {verdict.repeated} repeated of {verdict.named} named  "
        f"{verdict.pages_again} of {verdict.pages} pages again" + "".join(f"\n  ✗ {what}" for what in verdict.problems)
    )


if __name__ == "__main__":
    sys.exit(main())
