"""Blobs of the pipeline: raw and row segments, rejects, packs, receipts, manifests, the watermark.

Invariant: a blob's name follows from the request alone and its content is written once (`If-None-Match: *`): of two copies of an activity the first
to finish wins, and the other returns what that one wrote, because the summary (counts, next cursor) travels in the blob's own metadata. Receipts
are append blobs, so that two copies of an upload see each other's tries. The watermark is the only blob that is replaced, conditionally. A summary that is too large for metadata lies in a blob beside it.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from contracts import JsonDict, Stop, TryAgain, let_go

if TYPE_CHECKING:
    from azure.core.exceptions import AzureError
    from azure.storage.blob import ContainerClient

SUMMARY: Final = "summary"
"""Metadata key that holds a blob's summary as ASCII JSON; Azure allows 8 KB of metadata per blob."""

SUMMARY_LIMIT_BYTES: Final = 7_000

WHOLE: Final = "whole"
"""Stands in a summary that is too large for metadata (a cursor of thousands of ranges, reasons in escaped letters): the blob that holds it."""

INDEX: Final = "index/"
"""Snapshot indexes, by source and run; the watermark says which run's counts."""

MANIFESTS: Final = "manifests/"
"""Every run's manifest is below it, by source and run id."""


@dataclass(frozen=True, slots=True)
class Names:
    """Blob names of one run."""

    source: str
    run_id: str

    @property
    def prefix(self) -> str:
        """Everything of the run is below it."""
        return f"runs/{self.source}/{self.run_id}/"

    def raw(self, stream: str, lane: int, segment: int) -> str:
        """A raw segment: records as received."""
        return f"{self.prefix}raw/{stream}/{lane:03d}/{segment:06d}.parquet"

    def rows(self, stream: str, lane: int, segment: int) -> str:
        """A rows segment: gzipped bodies of rows, and of each row the length and the position of its record in the raw segment (`activities.rows`)."""
        return f"{self.prefix}rows/{stream}/{lane:03d}/{segment:06d}.arrows"

    def keys(self, stream: str, lane: int, segment: int) -> str:
        """Key, part and hash of each row of a rows segment."""
        return f"{self.prefix}keys/{stream}/{lane:03d}/{segment:06d}.parquet"

    def verdicts(self, stream: str, part: int) -> str:
        """The rows of a part that a delta sends: lane, segment, row."""
        return f"{self.prefix}verdicts/{stream}/{part:04d}.parquet"

    def index(self, stream: str, part: int) -> str:
        """The keys and hashes of a part, of what this run found."""
        return f"{INDEX}{self.source}/{self.run_id}/{stream}/{part:04d}.parquet"

    def gone(self, stream: str, part: int) -> str:
        """The keys of a part that the base had and this run did not find."""
        return f"{INDEX}{self.source}/{self.run_id}/{stream}/{part:04d}-gone.parquet"

    def rejects(self, stream: str, lane: int, segment: int) -> str:
        """Records that could not become rows, with their reasons."""
        return f"{self.prefix}rejects/{stream}/{lane:03d}/{segment:06d}.parquet"

    def failed_pages(self, stream: str, lane: int, segment: int) -> str:
        """Pages that could not be read, with their reasons."""
        return f"{self.prefix}rejects/{stream}/{lane:03d}/{segment:06d}-pages.parquet"

    def pack(self, stream: str, lane: int, first: int, last: int) -> str:
        """Membership of a pack's chunks, written before the first send."""
        return f"{self.prefix}packs/{stream}/{lane:03d}/{first:06d}-{last:06d}.json"

    def receipts(self, stream: str, lane: int, first: int, last: int) -> str:
        """What was tried and answered, chunk by chunk (JSON lines)."""
        return f"{self.prefix}receipts/{stream}/{lane:03d}/{first:06d}-{last:06d}.jsonl"

    def dead_letters(self, stream: str, lane: int, first: int, last: int) -> str:
        """Rows that the destination refused, with the raw record and the reason."""
        return f"{self.prefix}dead-letters/{stream}/{lane:03d}/{first:06d}-{last:06d}.parquet"

    @property
    def plan(self) -> str:
        """What open_run decided."""
        return f"{self.prefix}plan.json"

    @property
    def manifest(self) -> str:
        """The ledger of the run, written when it is closed. Apart from the run's data, which a lifecycle rule may delete earlier."""
        return f"{MANIFESTS}{self.source}/{self.run_id}.json"

    @property
    def cancel(self) -> str:
        """Present when somebody asked the run to stop."""
        return f"{self.prefix}cancel.json"


def watermark_name(source: str) -> str:
    """The source's watermark: the last complete run and the time up to which it holds."""
    return f"state/{source}/watermark.json"


def current_name(source: str) -> str:
    """The run of the source that was opened last, and whether it still can be taken up."""
    return f"state/{source}/current.json"


def unsettled_name(source: str) -> str:
    """The runs of the source that may have sent rows and are in no committed index: {"runs": {run id: commits since}, "dropped": more of them than are kept, since the last commit}."""
    return f"state/{source}/unsettled.json"


@dataclass(frozen=True, slots=True)
class Listed:
    """One blob of a listing: its name, its size in bytes, its summary (empty when it has none)."""

    name: str
    bytes: int
    summary: JsonDict


@contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Azure storage's exceptions as ours: an outage is TryAgain, a missing right or container is Stop with its remedy.

    That a blob is not there, or is there already, or was replaced, stays the SDK's exception: whoever asked for it answers it, outside of this context,
    which lets go of what an exception holds.
    """
    from azure.core.exceptions import AzureError, ResourceExistsError, ResourceModifiedError, ResourceNotFoundError

    try:
        yield
    except AzureError as error:
        let_go(error)
        absent = isinstance(error, ResourceNotFoundError) and getattr(error, "error_code", None) != "ContainerNotFound"
        if absent or isinstance(error, ResourceExistsError | ResourceModifiedError):
            raise
        raise _meaning(error, what) from error


def _meaning(error: AzureError, what: str) -> TryAgain | Stop:
    from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError

    if isinstance(error, ResourceNotFoundError):
        return Stop(
            f"the staging container is not there to {what}",
            "was it deleted while the run was going on? the next run makes it again",
        )
    if isinstance(error, ClientAuthenticationError):
        return Stop(
            f"blob storage refuses to {what} ({getattr(error, 'error_code', None) or type(error).__name__})",
            "give the identity Storage Blob Data Contributor on the storage account; a new assignment takes some minutes",
        )
    if not isinstance(error, HttpResponseError) or error.status_code is None:
        return TryAgain(f"blob storage cannot be reached to {what} ({type(error).__name__})")
    status = error.status_code
    if status in {408, 409, 412, 429} or status >= 500:
        return TryAgain(f"blob storage answered {status} to {what}")
    return Stop(
        f"blob storage answered {status} to {what}",
        "check the account's network rules, and Storage Blob Data Contributor on it",
    )


class _Kept:
    """What was written last, as much as may be kept, each for one reader."""

    def __init__(self, most_bytes: int) -> None:
        self._most, self._bytes = most_bytes, 0
        self._contents: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def add(self, name: str, content: bytes) -> None:
        """Keep it, if need be instead of the oldest."""
        with self._lock:
            self._bytes += len(content) - len(self._contents.pop(name, b""))
            self._contents[name] = content
            while self._bytes > self._most:
                self._bytes -= len(self._contents.pop(next(iter(self._contents))))

    def take(self, name: str) -> bytes | None:
        """What was kept under the name, once."""
        with self._lock:
            content = self._contents.pop(name, None)
            self._bytes -= len(content or b"")
            return content

    def clear(self) -> None:
        """Keep nothing."""
        with self._lock:
            self._contents.clear()
            self._bytes = 0


class Staging:
    """The container that a pipeline stages in. Every method may be called twice, at once, and after a crash."""

    def __init__(self, container: ContainerClient, keep_bytes: int = 0) -> None:
        """`keep_bytes`: as much of what was written to be read soon stays in memory for its reader."""
        self._container = container
        self._kept = _Kept(keep_bytes)

    def ensure(self) -> None:
        """Create the container when it is not there."""
        from azure.core.exceptions import ResourceExistsError

        with suppress(ResourceExistsError), storage_errors("create the container"):
            self._container.create_container()

    def create(self, name: str, content: bytes, summary: JsonDict, *, read_soon: bool = False) -> JsonDict:
        """Write the blob unless it exists; the summary of the blob that is there afterwards (ours, or the winner's).

        `read_soon`: what was written is kept for the one who reads it next, if that is this process.
        """
        from azure.core.exceptions import ResourceExistsError

        try:
            with storage_errors(f"write {name}"):
                metadata = self._metadata(name, summary)
                self._container.upload_blob(name, content, overwrite=False, metadata=metadata)
        except ResourceExistsError:
            found = self.summary(name)
            if found is None:
                raise TryAgain(f"{name} was there when it was written and is gone now") from None
            return found or summary
        if read_soon:
            self._kept.add(name, content)
        return summary

    def forget(self) -> None:
        """Keep nothing of what was written any longer."""
        self._kept.clear()

    def summary(self, name: str) -> JsonDict | None:
        """The summary of a blob, or None when there is no such blob."""
        metadata = self._look(name)
        return None if metadata is None else self._summary(metadata)

    def exists(self, name: str) -> bool:
        """Whether the blob is there."""
        return self._look(name) is not None

    def _look(self, name: str) -> Mapping[str, str] | None:
        """The metadata of a blob, or None when there is no such blob: one request."""
        from azure.core.exceptions import ResourceNotFoundError

        try:
            with storage_errors(f"look at {name}"):
                return self._container.get_blob_client(name).get_blob_properties().metadata
        except ResourceNotFoundError:
            return None

    def _metadata(self, name: str, summary: JsonDict) -> dict[str, str]:
        """The summary as metadata; one that is too large is written beside the blob first, under a name of its content: two copies do not mix."""
        packed = json.dumps(summary, separators=(",", ":"))
        if len(packed) > SUMMARY_LIMIT_BYTES:
            digest = hashlib.sha256(packed.encode()).hexdigest()[:16]
            whole = f"{name}.{digest}.summary"
            self._container.upload_blob(whole, packed.encode(), overwrite=True)
            packed = json.dumps({WHOLE: whole}, separators=(",", ":"))
        return {SUMMARY: packed}

    def _summary(self, metadata: Mapping[str, str]) -> JsonDict:
        found: JsonDict = json.loads(metadata[SUMMARY]) if SUMMARY in metadata else {}
        return json.loads(self.read(found[WHOLE])) if WHOLE in found else found

    def read(self, name: str) -> bytes:
        """The blob's content. Raises Stop when it is not there: a segment is only asked for after it was staged."""
        content = self._kept.take(name) or self.find(name)
        if content is None:
            raise Stop(
                f"{name!r} is not in the staging container",
                "was it deleted while the run was going on? a lifecycle rule must keep staged data for as long as a run may last",
            )
        return content

    def read_ahead(self, names: Iterable[str]) -> Iterator[bytes]:
        """What `read` gives of each, in order; the next is fetched while the one before is worked on."""
        coming: Future[bytes] | None = None
        with ThreadPoolExecutor(1, "read") as fetch:
            for name in names:
                following = fetch.submit(self.read, name)
                if coming is not None:
                    yield coming.result()
                coming = following
            if coming is not None:
                yield coming.result()

    def find(self, name: str) -> bytes | None:
        """The blob's content, or None when there is no such blob."""
        from azure.core.exceptions import ResourceNotFoundError

        try:
            with storage_errors(f"read {name}"):
                return self._container.download_blob(name).readall()
        except ResourceNotFoundError:
            return None

    def find_json(self, name: str) -> JsonDict | None:
        """The blob's content as JSON, or None when there is no such blob."""
        content = self.find(name)
        return None if content is None else json.loads(content)

    def delete(self, name: str) -> None:
        """Remove a blob; one that is not there is no trouble."""
        from azure.core.exceptions import ResourceNotFoundError

        with suppress(ResourceNotFoundError), storage_errors(f"delete {name}"):
            self._container.delete_blob(name)

    def put_json(self, name: str, value: JsonDict, summary: JsonDict) -> None:
        """Write or replace a small JSON blob and its summary."""
        metadata = {SUMMARY: json.dumps(summary, separators=(",", ":"))}
        with storage_errors(f"write {name}"):
            self._container.upload_blob(name, json.dumps(value, indent=1).encode(), overwrite=True, metadata=metadata)

    def swap_json(self, name: str, change: Callable[[JsonDict | None], JsonDict | None]) -> JsonDict | None:
        """Replace a JSON blob by `change(current)`, only if nobody replaced it meanwhile (ETag); None from `change` leaves it.

        Returns what stands afterwards. Raises TryAgain when somebody else was faster: read again, then decide again.
        """
        from azure.core import MatchConditions
        from azure.core.exceptions import ResourceExistsError, ResourceModifiedError, ResourceNotFoundError

        blob = self._container.get_blob_client(name)
        current: JsonDict | None = None
        condition: dict[str, Any] = {"overwrite": False}
        with suppress(ResourceNotFoundError), storage_errors(f"replace {name}"):
            download = blob.download_blob()
            condition = {
                "overwrite": True,
                "etag": download.properties.etag,
                "match_condition": MatchConditions.IfNotModified,
            }
            current = json.loads(download.readall())
        wanted = change(current)
        if wanted is None:
            return current
        try:
            with storage_errors(f"replace {name}"):
                blob.upload_blob(json.dumps(wanted, indent=1).encode(), **condition)
        except (ResourceExistsError, ResourceModifiedError) as error:
            raise TryAgain(f"{name} was replaced by another run meanwhile") from error
        return wanted

    def append(self, name: str, lines: list[JsonDict]) -> None:
        """Append JSON lines to a log blob, creating it when it is not there; one append is atomic."""
        from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError

        blob = self._container.get_blob_client(name)
        content = b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines)
        try:
            with storage_errors(f"append to {name}"):
                blob.append_block(content)
        except ResourceNotFoundError:
            with suppress(ResourceExistsError), storage_errors(f"create {name}"):
                blob.create_append_blob(if_none_match="*")
            with storage_errors(f"append to {name}"):
                blob.append_block(content)

    def log(self, name: str) -> list[JsonDict]:
        """The lines of a log blob, in order; none when there is no such blob."""
        return [json.loads(line) for line in (self.find(name) or b"").splitlines()]

    def describe(self, name: str, summary: JsonDict) -> None:
        """Attach a summary to a log blob, when it is complete."""
        with storage_errors(f"describe {name}"):
            self._container.get_blob_client(name).set_blob_metadata(self._metadata(name, summary))

    def list(self, prefix: str) -> Iterator[Listed]:
        """The blobs below a prefix, in the order of their names, with their summaries."""
        with storage_errors(f"list {prefix}"):
            for blob in self._container.list_blobs(name_starts_with=prefix, include=["metadata"]):
                yield Listed(blob.name, blob.size, self._summary(blob.metadata or {}))
