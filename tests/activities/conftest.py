"""Dependencies of activities over real Azurite, simulators and the emulator, and the steps of a run in short."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from azure.monitor.ingestion import LogsIngestionClient

from activities.close_run import close_run
from activities.deps import Budgets, Deps, Destination, source_of
from activities.diff import diff
from activities.export import export
from activities.open_run import open_run
from activities.transform import transform
from activities.upload import upload
from contracts import (
    TOMBSTONE_LANE,
    CloseRequest,
    DiffRequest,
    DiffResult,
    ExportRequest,
    ExportResult,
    JsonDict,
    LoadRequest,
    Plan,
    Policy,
    Run,
    TransformRequest,
    TransformResult,
    UploadRequest,
    UploadResult,
)
from local import products
from local.products.simulator import Simulator
from local.products.synthetic import Inventory, SyntheticStream
from local.sentinel.answers import DEFAULT_DCR
from local.sentinel.process import LoopbackCredential, Server
from sentinel.ingestion import Answer, Budget, Door, LogsIngestionSink, Sink, policies
from sentinel.packing import BODY_LIMIT_BYTES
from sentinel.tables import TABLES
from sources.reader import Patience, Reader
from staging import Names, Staging

SECRETS = {
    "cycognito": {"api_key": products.CYCOGNITO_KEY},
    "device42": {"username": products.DEVICE42_USER, "password": products.DEVICE42_PASSWORD},
    "tenable": {"access_key": products.TENABLE_ACCESS_KEY, "secret_key": products.TENABLE_SECRET_KEY},
}
POLICY = Policy(1_000_000, 2, 0.01, 0.1, 1.0, 1.0, 10.0)
STREAMS = {table.name: table.stream for table in TABLES}


@cache
def streams_of(inventory: Inventory) -> Mapping[tuple[str, str], SyntheticStream]:
    """The inventory's streams, whose templates take a while to make."""
    return inventory.streams()


@dataclass
class Recorded:
    """A sink before the real one: what was posted, and faults. `refuse(body)` gives an answer instead, or None."""

    sink: Sink
    refuse: Callable[[bytes], Answer | None] = lambda _: None
    posted: list[bytes] = field(default_factory=list)
    accepted: list[bytes] = field(default_factory=list)
    wired: list[bytes] = field(default_factory=list)

    def post(self, stream: str, body: bytes) -> Answer:
        """As the real one, written down."""
        import gzip

        plain = gzip.decompress(body)
        self.posted.append(plain)
        self.wired.append(body)
        answer = self.refuse(plain) or self.sink.post(stream, body)
        if answer.status == 204:
            self.accepted.append(plain)
        return answer


class Accepting:
    """A sink that takes everything."""

    def post(self, stream: str, body: bytes) -> Answer:
        """204."""
        return Answer(204)


@dataclass
class Bench:
    """A run of one source with its dependencies; change `deps`, `sink.refuse` or the simulator's faults and go on."""

    staging: Staging
    deps: Deps
    run: Run
    sink: Recorded
    simulator: Simulator | None
    readers: dict[str, Reader]
    diffs: dict[str, JsonDict] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> Names:
        return self.deps.names(self.run)

    def budget(self, **changes: Any) -> None:
        """Change budgets."""
        self.deps = replace(self.deps, budgets=replace(self.deps.budgets, **changes))

    def open(self, mode: str = "full", streams: list[str] | None = None) -> Any:
        request = LoadRequest(self.run.run_id, self.run.source, mode, self.run.started_at, streams or [])
        plan = open_run(request, self.deps, POLICY)
        self.run = Run.from_wire(plan.run)
        self.parents = {name: of["parent"] for name, of in plan.streams.items() if "parent" in of}
        return plan

    def export(self, stream: str, segment: int, cursor: JsonDict, lane: int = 0) -> ExportResult:
        return export(ExportRequest(self.run.to_wire(), stream, lane, segment, cursor), self.deps)

    def transform(self, stream: str, segment: int = 0, lane: int = 0) -> TransformResult:
        derived = [name for name, parent in self.parents.items() if parent == stream]
        return transform(TransformRequest(self.run.to_wire(), stream, lane, segment, derived), self.deps)

    def upload(
        self, stream: str, first: int = 0, last: int = 0, lane: int = 0, *, verdicts: bool = False
    ) -> UploadResult:
        return upload(UploadRequest(self.run.to_wire(), stream, lane, first, last, verdicts), self.deps)

    def diff(
        self, stream: str, part: int = 0, parts: int = 1, *, whole: bool = True, proven: bool = True
    ) -> DiffResult:
        return diff(DiffRequest(self.run.to_wire(), stream, part, parts, whole, proven), self.deps)

    def compare(self, plan: Plan, parts: int = 1, rule: str | None = None) -> None:
        """Compare every stream, as orchestrator/compare.py does when there is no doubt, or with the rule that is given."""
        for name, of in plan.streams.items():
            proven = of["stability"] != "none"
            results = [
                self.diff(name, part, parts, whole=of["whole"], proven=proven).to_wire() for part in range(parts)
            ]
            sums = {key: sum(result[key] for result in results) for key in results[0] if key != "v"}
            usual = "kept" if not of["whole"] else "dropped" if proven else "suspects"
            self.diffs[name] = {**sums, "parts": parts, "gone_rule": rule or usual}

    def bury(self) -> None:
        """Send the tombstones that the comparison decided on."""
        for name, of in self.diffs.items():
            if of["tombstones"] and of["gone_rule"] != "kept":
                self.upload(name, 0, of["parts"] - 1, TOMBSTONE_LANE)

    def close(self, counts: Any = None, **more: Any) -> JsonDict:
        given = {"reasons": [], "failed": False, "cancelled": False, "diffs": self.diffs, **more}
        return close_run(CloseRequest(self.run.to_wire(), counts or {}, **given), self.deps)

    def lane(self, stream: str, lane: int, cursor: JsonDict) -> list[ExportResult]:
        """Export a lane to its end and transform its segments; what each export answered."""
        results: list[ExportResult] = []
        for _ in range(60):
            result = self.export(stream, len(results), cursor, lane)
            cursor = result.cursor
            if result.staged:
                self.transform(stream, len(results), lane)
                results.append(result)
            if result.exhausted:
                return results
        raise AssertionError("the lane does not end")

    def load(
        self, mode: str = "full", streams: list[str] | None = None, *, parts: int = 1, rule: str | None = None
    ) -> JsonDict:
        """A whole run; its manifest."""
        plan = self.open(mode, streams)
        self.ship(plan, parts=parts, rule=rule)
        return self.close(expected=plan.expected)

    def ship(self, plan: Plan, *, parts: int = 1, rule: str | None = None) -> None:
        """All of a run between its opening and its closing."""
        segments = [len(self.lane(lane["stream"], lane["lane"], lane["cursor"])) for lane in plan.lanes]
        self.compare(plan, parts, rule)
        for lane, count in zip(plan.lanes, segments, strict=True):
            for stream in (lane["stream"], *lane["derived"]):
                self.upload(stream, 0, count - 1, lane["lane"], verdicts=self.run.mode == "delta")
        self.bury()

    def stage(self, stream: str, records: list[bytes], segment: int = 0, *, exhausted: bool = True) -> None:
        """A raw segment as an export would have staged it."""
        from activities import parquet
        from activities.export import RAW_SCHEMA

        table = pa.Table.from_pydict(
            {"page": [0] * len(records), "ordinal": list(range(len(records))), "record": records}, RAW_SCHEMA
        )
        size = sum(map(len, records))
        result = ExportResult({}, staged=True, exhausted=exhausted, records=len(records), pages=1, bytes=size)
        self.staging.create(self.names.raw(stream, 0, segment), parquet.of_table(table), result.to_wire())

    def table(self, name: str) -> pa.Table:
        """A staged Parquet blob."""
        return pq.read_table(pa.BufferReader(self.staging.read(name)))

    def rows(self, stream: str, segment: int = 0, lane: int = 0) -> pl.DataFrame:
        """A staged rows segment, as a frame of the table's columns and `_record`."""
        return self.rows_of(self.staging.read(self.names.rows(stream, lane, segment)), stream)

    def rows_of(self, content: bytes, stream: str) -> pl.DataFrame:
        """The rows in a blob of that stream."""
        from activities.deps import source_of
        from activities.rows import read_rows
        from sentinel.tables import BY_NAME
        from transforms.rows import schema

        table = BY_NAME[source_of(self.run.source).tables[stream]]
        parts = [*read_rows(content)]
        values = [
            dict.fromkeys(table.names) | json.loads(line)
            for part in parts
            for line in bytes(part.lines()[0]).splitlines()
        ]
        times = [column.name for column in table.columns if column.type == "datetime"]
        for row in values:
            row.update({name: datetime.fromisoformat(row[name]) for name in times if row[name] is not None})
        records = [number for part in parts for number in part.records]
        return pl.DataFrame(values, schema=schema(table)).with_columns(_record=pl.Series(records, dtype=pl.Int32))


@pytest.fixture
def bench(staging: Staging, simulate: Callable[[Simulator], str]) -> Iterator[Callable[..., Bench]]:
    """A function that makes a Bench of a source: over a simulated inventory, or over `url`; sending to `sink`, which takes all by default."""
    pools: list[Any] = []

    def make(
        source: str,
        inventory: Inventory | None = None,
        *,
        url: str = "http://127.0.0.1:9",
        sink: Sink | None = None,
        started_at: str = "2026-11-20T10:00:00.000000+00:00",
        **budgets: Any,
    ) -> Bench:
        simulator = None if inventory is None else Simulator(dict(streams_of(inventory)))
        where = url if simulator is None else simulate(simulator)
        patience = Patience(attempts=3, first_wait_s=0.001, longest_wait_s=0.01, timeout_s=5.0)
        readers = {source: Reader(source_of(source), where, SECRETS[source], patience)}
        pools.append(readers[source].pool)
        recorded = Recorded(sink or Accepting())
        limits = {
            "segment_bytes": 1_000_000,
            "export_s": 60.0,
            "upload_s": 60.0,
            "body_limit_bytes": BODY_LIMIT_BYTES,
            "pack_bytes": 10_000_000,
            "lanes": 0,
            **budgets,
        }
        deps = Deps(
            staging,
            readers.__getitem__,
            (Destination("sentinel", (Door(recorded),), STREAMS),),
            Budgets(**limits),
            Budget(in_flight=2, attempts=3, first_wait_s=0.001, longest_wait_s=0.01),
        )
        run = Run(uuid.uuid4().hex, source, "full", started_at)
        return Bench(staging, deps, run, recorded, simulator, readers)

    yield make
    for pool in pools:
        pool.clear()


@pytest.fixture
def ingestion(emulator: Server) -> Iterator[Sink]:
    """The emulator behind the SDK's client."""
    identity = LoopbackCredential()
    client = LogsIngestionClient(
        emulator.url, identity, policies=policies(identity, "https://monitor.azure.com/.default")
    )
    yield LogsIngestionSink(client, DEFAULT_DCR, enforce_https=False)
    client.close()


@pytest.fixture
def answer() -> type[Answer]:
    """What a sink answers."""
    return Answer
