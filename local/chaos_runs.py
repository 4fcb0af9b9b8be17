"""`python -m local.chaos_runs --runs 200`: whole loads of synthetic inventories under chaos, each compared with the truth.

Invariant: a run passes only when it ended complete, every id of the inventory is in the emulator and no other, every row that is there more than once is
in a chunk that the receipts name as possibly repeated, and the ledger counts at least as many. A seed does the same again, as far as threads
and clocks allow.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import polars as pl
from azure.storage.blob import ContainerClient

from local.load import run_load
from local.products.synthetic import Inventory
from local.sentinel.query import Workspace
from local.stack import LOCAL_SETTINGS, Stack
from sentinel import packing, receipts
from sources.registry import SOURCES
from staging import Names, Staging

JsonDict = dict[str, Any]

KINDS: Final = {
    "cycognito": ("cycognito", {"domains": "domain", "web_apps": "webapp", "ip_ranges": "iprange", "issues": "issues"}),
    "device42": ("device42", {"devices": ""}),
    "tenable": ("tenable_io", {"assets": "", "vulnerabilities": "vulns"}),
}
"""The name of each source in the inventory, and of its streams' kinds there, without what says whether they are assets or findings."""

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

SINK_FAULTS: Final = {"rate": 0.08, "kinds": ["drop-before", "drop-after", "429", "503"], "retry_after_s": 1}
"""What the emulator does in every second run. A request that is dropped after it was accepted is one more way to send a row twice."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One run: what was done to it and what came of it. `repeated`: ids with more rows than one, `named`: rows that the ledger calls possibly repeated."""

    seed: int
    source: str
    run_id: str
    wall_s: float
    rows: int
    repeated: int
    named: int
    pages: int
    pages_again: int
    chaos: dict[str, int]
    problems: list[str] = field(default_factory=list)


class Ground:
    """A stack whose app is started anew for every run, with a journal and a seed of its own."""

    def __init__(self, directory: Path, *, assets: int, findings: int) -> None:
        """Nothing runs before the block is entered."""
        self._truth = Inventory(assets, findings, seed=1)
        self._ids: dict[tuple[str, str], set[str]] = {}
        simulator = ["--assets", str(assets), "--findings", str(findings), "--seed", "1"]
        self.stack = Stack(directory, simulator, app_settings=SETTINGS)
        self.stack.app_arguments = ["--chaos-rates", json.dumps(RATES)]

    def __enter__(self) -> Self:
        self.stack.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.stop()

    def run(self, seed: int, source: str) -> Verdict:
        """Load a source under that seed's chaos and compare."""
        stack = self.stack
        stack.parts["app"].stop()  # before its simulators forget their jobs
        stack.journal, stack.chaos = stack.directory / f"journal-{source}-{seed}.db", seed
        stack.most_restarts, stack.restarts = MOST_KILLS, 0
        self._control("products", "reset", {})
        self._control("sentinel", "faults", {"seed": seed, **SINK_FAULTS} if seed % 2 else {})
        stack.start_app()
        outcome = run_load(stack, source, "full", lambda _: None)
        self._control("sentinel", "flush", {})
        problems = [] if outcome.status == "complete" else [f"{outcome.status}: {'; '.join(outcome.reasons)}"]
        rows = repeated = named = 0
        for stream, ledger in outcome.streams.items():
            counts = self._rows(outcome.run_id, source, stream)
            twice = {key for key, count in counts.items() if count > 1}
            rows, repeated, named = rows + counts.total(), repeated + len(twice), named + ledger["possibly_repeated"]
            problems += self._wrong(source, stream, set(counts))
            unnamed = twice - self._named(outcome.run_id, source, stream) if twice else set()
            if unnamed:
                problems.append(
                    f"{stream}: {len(unnamed)} rows are repeated and in no chunk that is named, as {min(unnamed)}"
                )
            if len(twice) > ledger["possibly_repeated"]:
                problems.append(
                    f"{stream}: {len(twice)} rows are repeated, the ledger names {ledger['possibly_repeated']}"
                )
        served = stack.call("GET", f"{stack.parts['products'].url}/_control/stats")[1]["pages"]
        times = [count for pages in served.values() for count in pages.values()]
        return Verdict(
            seed,
            source,
            outcome.run_id,
            round(outcome.wall_s, 2),
            rows,
            repeated,
            named,
            sum(times),
            sum(times) - len(times),
            outcome.chaos or {},
            problems,
        )

    def _control(self, part: str, what: str, settings: JsonDict) -> None:
        self.stack.call("POST", f"{self.stack.parts[part].url}/_control/{what}", settings)

    def _rows(self, run_id: str, source: str, stream: str) -> Counter[str]:
        """How often each original id of the stream is in its table."""
        table = SOURCES[source].stream(stream).table
        kql = f"{table} | where EntitySnapshotId == '{run_id}' | summarize rows = count() by EntityOriginalId"
        # Streams of one source share a table; an id belongs to the stream whose inventory has it.
        others = set().union(
            *(
                self._expected(source, other.name)
                for other in SOURCES[source].streams
                if other.name != stream and other.table == table
            )
        )
        answer = Workspace(self.stack.directory / "sentinel").query(kql)
        return Counter({str(key): int(count) for key, count in answer.rows if str(key) not in others})

    def _named(self, run_id: str, source: str, stream: str) -> set[str]:
        """The ids of the rows in chunks that the receipts call possibly repeated."""
        names, ids = Names(source, run_id), set[str]()
        with ContainerClient.from_connection_string(
            self.stack.connection_string, LOCAL_SETTINGS["STAGING_CONTAINER"]
        ) as container:
            staging = Staging(container)
            for blob in staging.list(f"{names.prefix}receipts/{stream}/"):
                lane, pack = blob.name.removesuffix(".jsonl").split("/")[-2:]
                first, last = (int(number) for number in pack.split("-"))
                blobs = (staging.read(names.rows(stream, int(lane), n)) for n in range(first, last + 1))
                frame = pl.concat([pl.read_parquet(io.BytesIO(content)) for content in blobs])
                lines = packing.encode(frame.drop("_record"))
                for low, high in receipts.Receipts.of(staging.log(blob.name)).ambiguous:
                    at = lines.count(b"\n", 0, low)
                    ids.update(frame["EntityOriginalId"][at : at + receipts.rows_in(lines, (low, high))])
        return ids

    def _wrong(self, source: str, stream: str, found: set[str]) -> list[str]:
        expected = self._expected(source, stream)
        missing, strange = expected - found, found - expected
        problems = [f"{stream}: {len(missing)} of {len(expected)} are missing, as {min(missing)}"] if missing else []
        return problems + ([f"{stream}: {len(strange)} should not be there, as {min(strange)}"] if strange else [])

    def _expected(self, source: str, stream: str) -> set[str]:
        if (source, stream) not in self._ids:
            product, kinds = KINDS[source]
            what = "findings" if SOURCES[source].stream(stream).table == "CAASM_Findings_CL" else "assets"
            kind = "_".join(part for part in (what, kinds[stream]) if part)
            # The transform folds the case of a port's protocol, the last part of a Tenable finding's key; other ids have none.
            ids = (key.rpartition("/") for key in self._truth.ids(product, kind))
            self._ids[source, stream] = {head + slash + (end.lower() if slash else end) for head, slash, end in ids}
        return self._ids[source, stream]


def summary(verdicts: Sequence[Verdict]) -> str:
    """All runs in a few lines."""
    chaos: Counter[str] = Counter()
    for verdict in verdicts:
        chaos.update({name: count for name, count in verdict.chaos.items() if name != "seed"})
    total = {
        name: sum(getattr(v, name) for v in verdicts) for name in ("rows", "repeated", "named", "pages", "pages_again")
    }
    bad = [verdict for verdict in verdicts if verdict.problems]
    said = ", ".join(f"{count} {name}" for name, count in chaos.items())
    return (
        f"{len(verdicts)} runs, {len(bad)} with problems; {said}\n"
        f"{total['rows']} rows, {total['repeated']} ids more than once, {total['named']} named as possibly repeated; "
        f"{total['pages']} pages served, {total['pages_again']} of them again"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Do the runs, a line each; 0 when every one of them passed."""
    parser = argparse.ArgumentParser(prog="python -m local.chaos_runs", description="Loads under chaos, checked.")
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
                verdict = ground.run(seed, source)
                verdicts.append(verdict)
                print(_line(verdict), flush=True)
    print(summary(verdicts))
    if options.json:
        options.json.write_text(json.dumps([asdict(verdict) for verdict in verdicts], indent=1))
    return 1 if any(verdict.problems for verdict in verdicts) else 0


def _line(verdict: Verdict) -> str:
    return (
        f"seed {verdict.seed:4} {verdict.source:<9} {verdict.wall_s:5.1f} s  {verdict.chaos.get('kills', 0)} kills, "
        f"{verdict.chaos.get('repeats', 0):2} repeats  {verdict.rows} rows, {verdict.repeated} repeated of {verdict.named} named  "
        f"{verdict.pages_again} of {verdict.pages} pages again" + "".join(f"\n  ✗ {what}" for what in verdict.problems)
    )


if __name__ == "__main__":
    sys.exit(main())
