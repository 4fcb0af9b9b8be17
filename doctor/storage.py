"""Whether the staging container takes what the app does to it: create, read, replace on condition, append, lease, list, delete.

Invariant: only blobs below `doctor/` are touched, each under a name of its own, and they are removed again.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from doctor.clocks import our_clock
from doctor.findings import Finding, fine, wrong
from doctor.identity import in_short, kind_of
from doctor.reach import WORDS, unreachable
from sentinel.ingestion import kinds_of

if TYPE_CHECKING:
    from azure.storage.blob import BlobClient, ContainerClient

PREFIX: Final = "doctor/"

CONTENT: Final = b"written to see whether it can be; may be deleted"

NETWORK_CODES: Final = frozenset({"AuthorizationFailure", "PublicAccessNotPermitted", "NetworkAclsPolicyDenied"})
"""403 with which the account's firewall answers (Azure Storage error codes); a missing role is AuthorizationPermissionMismatch."""


class _BrokenRuleError(Exception):
    """The service took what it should have refused."""


def storage_findings(container: ContainerClient, now: Callable[[], float]) -> Iterator[Finding]:
    """Everything about the container; stops at the first step that fails, as the next ones would."""
    from azure.core.exceptions import AzureError

    subject = f"container {container.container_name}"
    blobs = [container.get_blob_client(f"{PREFIX}{uuid.uuid4().hex}-{kind}") for kind in ("block", "append")]
    steps: tuple[tuple[str, Callable[[], object]], ...] = (
        ("open", lambda: _open(container)),
        ("write", lambda: blobs[0].upload_blob(CONTENT, overwrite=False)),
        ("write once", lambda: _write_once(blobs[0])),
        ("read", lambda: _read(blobs[0])),
        ("replace on condition", lambda: _replace(blobs[0])),
        ("lease", lambda: blobs[0].acquire_lease(lease_duration=15).release()),
        ("append", lambda: _append(blobs[1])),
        ("list", lambda: _list(container, blobs[0].blob_name)),
        ("delete", lambda: [blob.delete_blob() for blob in blobs]),
    )
    done: list[str] = []
    for name, step in steps:
        try:
            step()
        except AzureError as error:
            yield _judged(subject, name, error)
            break
        except _BrokenRuleError as error:
            yield wrong("storage.semantics", subject, f"{name}: {error}")
            break
        done.append(name)
    if len(done) == len(steps):
        yield fine("storage.role", subject, ", ".join(done))
    elif "write" in done and "delete" not in done:
        _sweep(blobs)
    yield from our_clock("blob storage", _date(container), now())


def _open(container: ContainerClient) -> None:
    """As the app begins: the container is made when it is not there. Listing needs no right on the container itself."""
    from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError

    try:
        next(iter(container.list_blobs(name_starts_with=PREFIX, results_per_page=1)), None)
    except ResourceNotFoundError:
        try:
            container.create_container()
        except ResourceExistsError:
            return


def _write_once(blob: BlobClient) -> None:
    from azure.core.exceptions import ResourceExistsError

    try:
        blob.upload_blob(b"again", overwrite=False)
    except ResourceExistsError:
        return
    raise _BrokenRuleError("a blob that was there was replaced")


def _read(blob: BlobClient) -> None:
    if blob.download_blob().readall() != CONTENT:
        raise _BrokenRuleError("it gives something else than was written")


def _replace(blob: BlobClient) -> None:
    from azure.core import MatchConditions
    from azure.core.exceptions import ResourceModifiedError

    etag = blob.get_blob_properties().etag
    blob.upload_blob(b"first", overwrite=True, etag=etag, match_condition=MatchConditions.IfNotModified)
    try:
        blob.upload_blob(b"second", overwrite=True, etag=etag, match_condition=MatchConditions.IfNotModified)
    except ResourceModifiedError:
        return
    raise _BrokenRuleError("a blob was replaced that somebody else had changed")


def _append(blob: BlobClient) -> None:
    blob.create_append_blob()
    blob.append_block(CONTENT)


def _list(container: ContainerClient, name: str) -> None:
    if name not in {blob.name for blob in container.list_blobs(name_starts_with=name)}:
        raise _BrokenRuleError("a blob that was written is not listed")


def _sweep(blobs: list[BlobClient]) -> None:
    from azure.core.exceptions import AzureError

    for blob in blobs:
        try:
            blob.delete_blob()
        except AzureError:  # it stays, then: whoever reads the finding knows why
            continue


def _date(container: ContainerClient) -> str:
    """The service's Date header, which also an answer that refuses has; empty when there is no answer."""
    from azure.core.exceptions import AzureError

    dates: list[str] = []
    try:
        container.get_container_properties(
            raw_response_hook=lambda answered: dates.append(answered.http_response.headers.get("Date", ""))
        )
    except AzureError:
        return (dates or [""])[-1]
    return dates[-1]


def _judged(subject: str, step: str, error: Exception) -> Finding:
    from azure.core.exceptions import ClientAuthenticationError, HttpResponseError

    if not isinstance(error, HttpResponseError) or error.status_code is None:
        if isinstance(error, ClientAuthenticationError):
            return wrong(kind_of(str(error)), subject, f"{step}: no token: {in_short(str(error))}")
        word = unreachable(kinds_of(error))
        return wrong("storage.reach", subject, f"{step}: {WORDS[word]}")
    told = getattr(error, "error_code", None) or ""
    code = str(getattr(told, "value", told))
    seen = f"{step}: {error.status_code} {code}"
    if error.status_code == 403 and code in NETWORK_CODES:
        return wrong("storage.network", subject, seen)
    if error.status_code in {401, 403}:
        return wrong("storage.role", subject, seen)
    if error.status_code == 404:
        return wrong("storage.reach", subject, seen)
    return wrong("storage.trouble" if error.status_code >= 500 else "storage.semantics", subject, seen)
