"""What a run's ledger says that was accepted, against what the workspace has of it: `python -m local verify`.

Invariant: nothing is judged missing before the deadline, as rows show minutes after they were accepted; rows beyond those accepted are right only as far
as the ledger says that they may be there twice. It is asked by a person's identity, since the app's may write and not read (docs/adr/0014).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from contracts import CaasmError, JsonDict
from local.sentinel.process import LoopbackCredential, start_server
from sentinel.tables import RUNS
from sources.registry import SOURCES

if TYPE_CHECKING:
    from azure.monitor.query import LogsQueryClient

FIRST_WAIT_S: Final = 5.0
LONGEST_WAIT_S: Final = 60.0

ARRIVAL: Final = timedelta(days=2)
"""TimeGenerated is the run's start, or the time of arrival where that is too far from it; a run ends within this."""


class ReadBackError(CaasmError):
    """There is no manifest, or the workspace does not answer the query, or not whole."""


class Asks(Protocol):
    """A workspace that answers KQL."""

    def rows(self, query: str, since: datetime, until: datetime) -> Sequence[Sequence[Any]]:
        """The rows of the answer over that time. Raises ReadBackError."""


@dataclass(frozen=True, slots=True)
class Counted:
    """Rows of one stream. `accepted` with the tombstones; `found`: in the table; `verdict`: equal, repeated, missing, surplus."""

    stream: str
    table: str
    accepted: int
    possibly_repeated: int
    found: int

    @property
    def verdict(self) -> str:
        """equal; repeated: more, as the ledger allows; missing; surplus: more than it allows."""
        if self.found == self.accepted:
            return "equal"
        if self.found < self.accepted:
            return "missing"
        return "repeated" if self.found <= self.accepted + self.possibly_repeated else "surplus"

    @property
    def right(self) -> bool:
        """Whether the table has what the ledger says."""
        return self.verdict in {"equal", "repeated"}


def read_back(manifest: JsonDict, workspace: Asks) -> list[Counted]:
    """What the ledger says and what the tables have, per stream, and of the ledger's own rows. Raises ReadBackError."""
    run_id, begun = manifest["run_id"], datetime.fromisoformat(manifest["started_at"])
    span = (begun - timedelta(hours=1), begun + ARRIVAL)
    tables = SOURCES[manifest["source"]].tables
    found: dict[tuple[str, str], int] = {}
    for table in sorted({tables[stream] for stream in manifest["streams"]}):
        query = f"{table} | where EntitySnapshotId == '{run_id}' | summarize Rows = count() by SourceStream"
        found |= {(table, str(stream)): int(rows) for stream, rows in workspace.rows(query, *span)}
    counted = [
        Counted(
            stream,
            tables[stream],
            ledger["accepted"] + ledger["deleted"],
            ledger["possibly_repeated"],
            found.get((tables[stream], stream), 0),
        )
        for stream, ledger in manifest["streams"].items()
    ]
    query = f"{RUNS.name} | where RunId == '{run_id}' | distinct RunStreamId | count"
    ((rows,),) = workspace.rows(query, *span)
    announced = max(1, len(counted)) + len(manifest.get("left_out", []))
    return [*counted, Counted("ledger", RUNS.name, announced, 0, int(rows))]


def until_right(
    manifest: JsonDict,
    workspace: Asks,
    patience_s: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Counted]:
    """`read_back`, again and again until nothing is missing or so many seconds are over. Raises ReadBackError."""
    deadline = clock() + patience_s
    wait_s = FIRST_WAIT_S
    while True:
        counted = read_back(manifest, workspace)
        left_s = deadline - clock()
        if left_s <= 0 or all(stream.verdict != "missing" for stream in counted):
            return counted
        sleep(min(wait_s, left_s))
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)


@dataclass(frozen=True, slots=True)
class LogAnalytics:
    """A workspace behind azure-monitor-query, by its customer id (a GUID)."""

    client: LogsQueryClient
    workspace_id: str
    enforce_https: bool = True

    def rows(self, query: str, since: datetime, until: datetime) -> Sequence[Sequence[Any]]:
        """The rows of the only table of the answer. Raises ReadBackError."""
        from azure.core.exceptions import AzureError
        from azure.monitor.query import LogsQueryResult

        try:
            answer = self.client.query_workspace(
                self.workspace_id, query, timespan=(since, until), enforce_https=self.enforce_https
            )
        except AzureError as error:
            remedy = "give yourself Log Analytics Reader on the workspace, and name it by its workspace id"
            raise ReadBackError(
                f"the workspace does not answer ({getattr(error, 'message', error)})", remedy
            ) from error
        if not isinstance(answer, LogsQueryResult):
            raise ReadBackError("the workspace answers a part only", "ask again later")
        return [list(row) for row in answer.tables[0].rows]


def manifest_of(run: str | None, ledgers: Callable[[], Path]) -> JsonDict:
    """The manifest in the file of that name, of the run of that id in the folder of ledgers, or of the last one there. Raises ReadBackError."""
    if run is not None and Path(run).is_file():
        kept = [Path(run)]
    else:
        kept = sorted(ledgers().glob("*.json"), key=lambda path: path.stat().st_mtime)
        kept = [path for path in kept if run in {None, path.stem}]
    try:
        manifest: JsonDict = json.loads(kept[-1].read_text(encoding="utf-8"))
        manifest["streams"].items()
    except (IndexError, ValueError, KeyError, TypeError, AttributeError) as error:
        remedy = "name the file of one, as GET /api/loads/{run_id} gives it when the run has ended"
        raise ReadBackError("there is no manifest of this run", remedy) from error
    return manifest


@contextmanager
def workspace_of(workspace_id: str | None, endpoint: str, store: Callable[[], Path]) -> Iterator[LogAnalytics]:
    """A workspace in Azure, by its id, as whoever is signed in; without one an emulator on a store, for as long as the block lasts."""
    from azure.identity import DefaultAzureCredential
    from azure.monitor.query import LogsQueryClient

    if workspace_id is not None:
        with LogsQueryClient(DefaultAzureCredential(), endpoint=endpoint) as client:
            yield LogAnalytics(client, workspace_id)
        return
    server = start_server(store())
    try:
        with LogsQueryClient(LoopbackCredential(), endpoint=server.url) as client:
            yield LogAnalytics(client, "local", enforce_https=False)
    finally:
        server.stop()
