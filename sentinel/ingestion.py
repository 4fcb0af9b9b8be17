"""Bodies to the Logs Ingestion API through the SDK's client, with our own rules for what to try again.

Invariant: every row that goes in comes out of `send` exactly once, as accepted or as refused with a reason; an answer after which the service may
have stored the rows without our knowing is reported as ambiguous, because the API has no idempotency key.
The SDK gives authentication and pipeline (`LogsIngestionClient.send_request`); its own chunker exceeds the limit and its retries for POST are narrow, so
both are left out.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Protocol, Self
from urllib.parse import quote

from azure.core.rest import HttpRequest

from contracts import Cancelled, Stop, TryAgain, let_go
from sentinel import packing
from sentinel.governor import Governor

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential
    from azure.core.exceptions import AzureError
    from azure.monitor.ingestion import LogsIngestionClient

REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})

REMEDIES: Final = {
    **dict.fromkeys(REDIRECTS, "set the endpoint to the address that it leads to: redirects are not followed"),
    401: "the identity's token is refused: check that it is of the workspace's tenant and that the audience fits the cloud",
    403: "give the identity the role Monitoring Metrics Publisher on the DCR; a new assignment takes up to 30 minutes",
    404: "check the DCR's immutable id and that the endpoint belongs to the same region",
}
"""What to do about answers that no retry cures (Azure Monitor, Logs Ingestion API: troubleshooting)."""

API_VERSION: Final = "2023-01-01"

HEADERS: Final = {"Content-Encoding": "gzip", "Content-Type": "application/json", "Accept": "application/json"}
"""What `LogsIngestionClient.upload` says of a gzipped stream."""

AMBIGUOUS_STATUSES: Final = frozenset({408, 500, 502, 503, 504})
"""Answers after which the rows may have been stored all the same."""

CANCEL_CHECK_S: Final = 5.0
"""The longest sleep between two looks at whether the run was cancelled."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The service's answer to one body. `status` 0: no answer came (the connection was lost or timed out); -1: nothing was sent.

    `served_at`: the service's own time, its Date header, where it gave one.
    """

    status: int
    message: str = ""
    retry_after_s: float | None = None
    served_at: str = field(default="", compare=False)


class Sink(Protocol):
    """Where bodies go: one request, one answer, no retries of its own."""

    def post(self, stream: str, body: bytes) -> Answer:
        """Send one gzipped JSON array to a DCR stream."""


@dataclass(frozen=True, slots=True)
class Door:
    """One DCR: where bodies go and what governs how fast. DCRs with the same streams are doors to the same tables."""

    sink: Sink
    governor: Governor = field(default_factory=Governor)
    name: str = "the DCR"


def policies(credential: TokenCredential, *scopes: str) -> list[Any]:
    """What the client of a sink does with a request, in the SDK's order: an id, the SDK's own user agent, a token.

    Left out of the SDK's own list are retries and redirects (`Sender` has to know of every request), the header clean-up that redirects need, proxies (those of
    the environment are the transport's), logs and traces of requests, which the app has switched off, and what reads an answer, which the sink does itself.
    """
    from azure.core.pipeline import policies as sdk
    from azure.monitor.ingestion import __version__ as version

    return [
        sdk.RequestIdPolicy(),
        sdk.UserAgentPolicy(sdk_moniker=f"monitor-ingestion/{version}"),
        sdk.BearerTokenCredentialPolicy(credential, *scopes),
    ]


class _Upload(HttpRequest):
    """A body on its way. The client sends a copy of what it is given, so that whoever gave it can go on with it; nobody goes on with this."""

    def __deepcopy__(self, memo: object = None) -> Self:
        return self


@dataclass(slots=True)
class LogsIngestionSink:
    """A destination behind `LogsIngestionClient`: the DCR's immutable id and the client that holds endpoint and credential, and has `policies`."""

    client: LogsIngestionClient
    rule_id: str
    enforce_https: bool = True
    timeout_s: float = 60.0

    def post(self, stream: str, body: bytes) -> Answer:
        """One request: with `policies` the SDK tries nothing again, since `Sender` decides (and must know of every attempt).

        What `upload` would do besides with a body that is gzipped already, serialising each part of the address, costs as much as sending it.
        """
        from azure.core.exceptions import AzureError, HttpResponseError

        try:
            response = self.client.send_request(
                _Upload("POST", _where(self.rule_id, stream), headers=HEADERS, content=body),
                enforce_https=self.enforce_https,
                read_timeout=self.timeout_s,
                connection_timeout=10,
            )
        except AzureError as error:
            answer = _answer(error)
            # It would hold the frames of all who called, with the pack in hand.
            let_go(error)
            return answer
        served_at = response.headers.get("Date", "")
        if response.status_code == 204:
            return Answer(204, "", None, served_at)
        return replace(_answer(HttpResponseError(response=response)), served_at=served_at)


@cache
def _where(rule_id: str, stream: str) -> str:
    return f"/dataCollectionRules/{quote(rule_id, '')}/streams/{quote(stream, '')}?api-version={API_VERSION}"


def _answer(error: AzureError) -> Answer:
    """What the SDK's exception says of the answer. Raises it again when it says nothing of the kind."""
    from azure.core.exceptions import (
        ClientAuthenticationError,
        HttpResponseError,
        ServiceRequestError,
        ServiceResponseError,
    )

    if isinstance(error, HttpResponseError):
        if isinstance(error, ClientAuthenticationError) and error.response is None:
            # The credential gave no token, so nothing was sent.
            return Answer(-1, f"no token: {(error.message or '')[:300]}")
        asked = getattr(error.response, "headers", {}).get("Retry-After")
        return Answer(error.status_code or 0, (error.message or "")[:300], _seconds(asked))
    if isinstance(error, ServiceRequestError):
        # The request did not get out, so nothing can have been stored.
        return Answer(-1, f"the endpoint cannot be reached ({kinds_of(error)})")
    if isinstance(error, ServiceResponseError):
        return Answer(0, f"no answer: {kinds_of(error)}")
    raise error


def kinds_of(error: BaseException) -> str:
    """The names of an exception and of all that it wraps, outermost first. Their texts, which may quote URLs, are left out."""
    names: list[str] = []
    seen: set[int] = set()
    pending: list[object] = [error]
    while pending:
        one = pending.pop(0)
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        names.append(type(one).__name__)
        wrapped = (getattr(one, name, None) for name in ("inner_exception", "reason", "__cause__", "__context__"))
        pending += [*wrapped, *one.args]
    return " ".join(dict.fromkeys(names))


def _seconds(retry_after: str | None) -> float | None:
    try:
        seconds = float(retry_after) if retry_after is not None else None
    except ValueError:
        return None
    # "nan", "inf" and "-1" are floats too.
    return seconds if seconds is not None and math.isfinite(seconds) and seconds >= 0 else None


@dataclass(frozen=True, slots=True)
class Budget:
    """How `Sender` tries: chunks in flight, attempts per chunk, waits in seconds, and the longest Retry-After that an activity sits out."""

    in_flight: int = 4
    attempts: int = 8
    first_wait_s: float = 0.25
    longest_wait_s: float = 20.0


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of a chunk or a part of it: accepted (status 204), or refused (a lone row, with the reason).

    `ambiguous`: an earlier try of it may have been stored as well.
    """

    chunk: packing.Chunk
    status: int
    reason: str = ""
    tries: int = 1
    wire_bytes: int = 0
    ambiguous: bool = False

    @property
    def accepted(self) -> bool:
        """Whether the service took the rows."""
        return self.status == 204


@dataclass(frozen=True, slots=True)
class Part:
    """Rows to send. `in_doubt`: an earlier try of them ended without our knowing whether they were stored.

    `door`: which of the DCRs takes them, counted on and on; the halves of a part stay with its DCR.
    """

    chunk: packing.Chunk
    in_doubt: bool = False
    door: int = 0


@dataclass(slots=True)
class Doubt:
    """Whether the service may have stored the rows that are being tried."""

    ambiguous: bool


@dataclass(slots=True)
class Tally:
    """Requests made by a sender, and their bytes before and after compression, failures included."""

    requests: int = 0
    body_bytes: int = 0
    wire_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def count(self, body_bytes: int, wire_bytes: int) -> None:
        """One more request; safe from several threads."""
        with self._lock:
            self.requests += 1
            self.body_bytes += body_bytes
            self.wire_bytes += wire_bytes


@dataclass(slots=True)
class Sender:
    """Sends chunks of one stream to one destination, several at a time, each through the DCR that its part names.

    The waits that a DCR's governor asks for, and those between tries, are sat out here up to `budget.longest_wait_s` and `until`; longer ones become TryAgain.
    `wire`: rows of the NDJSON as a gzipped body.
    `on_sent` is called once per accepted or refused chunk, from worker threads, as soon as its fate is known; `on_doubt` once per chunk
    that was given up although the service may have stored it. `cancelled` is asked before every request; when it says yes, `send` raises
    Cancelled after those in flight have ended. `until`: the clock's time after which no request is started.
    """

    doors: Sequence[Door]
    stream: str
    budget: Budget = field(default_factory=Budget)
    wire: Callable[[packing.Lines, packing.Chunk], bytes] = packing.wire
    cancelled: Callable[[], bool] = lambda: False
    until: float = math.inf
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    tally: Tally = field(default_factory=Tally)

    def send(
        self,
        lines: packing.Lines,
        parts: Sequence[Part],
        on_sent: Callable[[Sent], None],
        on_doubt: Callable[[Part], None],
    ) -> None:
        """Send every part of the NDJSON `lines`.

        Raises TryAgain when the service cannot take a part now, Stop when no retry would help, Cancelled; parts whose fate became known
        before that have been reported through `on_sent`, so calling again with the rest loses and repeats nothing that is known.
        """
        waiting = deque(parts)
        failures: list[BaseException] = []

        def work() -> None:
            while waiting and not failures:
                try:
                    part = waiting.popleft()
                except IndexError:  # another thread was faster
                    break
                try:
                    self._whole(lines, part, on_sent, on_doubt)
                except BaseException as error:  # noqa: BLE001 - raised below, when the others have ended
                    failures.append(error)

        with ThreadPoolExecutor(self.budget.in_flight, "upload") as pool:
            for worker in [pool.submit(work) for _ in range(min(self.budget.in_flight, len(parts)))]:
                worker.result()
        try:
            if failures:
                raise min(failures, key=_rank)
        finally:
            # Or they would stand in a circle with the frames that they went through, and with the pack in hand.
            failures.clear()

    def _whole(
        self, lines: packing.Lines, whole: Part, on_sent: Callable[[Sent], None], on_doubt: Callable[[Part], None]
    ) -> None:
        pending = [whole]
        while pending:
            part = pending.pop(0)
            doubt = Doubt(part.in_doubt)
            try:
                sent = self._part(lines, part, doubt)
            except (TryAgain, Stop):
                for other in (replace(part, in_doubt=doubt.ambiguous), *pending):
                    if other.in_doubt:
                        on_doubt(other)
                raise
            if sent.accepted or part.chunk.rows == 1:
                on_sent(sent)
            else:
                pending = [
                    replace(part, chunk=half, in_doubt=sent.ambiguous) for half in packing.halve(lines, part.chunk)
                ] + pending

    def _part(self, lines: packing.Lines, part: Part, doubt: Doubt) -> Sent:
        door = self.doors[part.door % len(self.doors)]
        chunk = part.chunk
        wire = self.wire(lines, chunk)
        answer = Answer(0)
        unauthorised = 0
        for tries in range(1, self.budget.attempts + 1):
            self._await_turn(door, chunk.body_bytes)
            self.tally.count(chunk.body_bytes, len(wire))
            answer = door.sink.post(self.stream, wire)
            if answer.status == 204:
                return Sent(chunk, 204, "", tries, len(wire), doubt.ambiguous)
            if answer.status in {400, 413}:
                # A row may be at fault: halve, until it stands alone.
                reason = f"{answer.status} from {door.name}: {answer.message}"
                return Sent(chunk, answer.status, reason, tries, len(wire), doubt.ambiguous)
            unauthorised += answer.status == 401
            self._check(door, answer, unauthorised)
            doubt.ambiguous = doubt.ambiguous or answer.status == 0 or answer.status in AMBIGUOUS_STATUSES
            pause = answer.retry_after_s if answer.retry_after_s is not None else self._backoff(tries)
            full = answer.status == 429 or (answer.status == 503 and answer.retry_after_s is not None)
            if full:
                # Not this body's fault: nobody sends to the DCR until it wants to be asked again.
                door.governor.pause(pause)
            if pause > self.budget.longest_wait_s:
                raise TryAgain(f"{door.name} asks for {pause:.0f} s", pause)
            if not full and tries < self.budget.attempts:
                self._pause(pause)
        raise TryAgain(f"{door.name}: {_named(answer)}, {self.budget.attempts} times", answer.retry_after_s or 0.0)

    def _await_turn(self, door: Door, body_bytes: int) -> None:
        """Wait until the DCR's quota has room. Raises TryAgain when that is later than this activity may wait, Cancelled."""
        while True:
            self._check_cancelled()
            left_s = self.until - self.clock()
            if left_s <= 0:
                raise TryAgain("the upload's time is used up; the rest follows")
            turn = door.governor.reserve(body_bytes, min(left_s, self.budget.longest_wait_s))
            if not turn.granted:
                raise TryAgain(f"{door.name} has no room for {turn.wait_s:.0f} s", turn.wait_s)
            self._pause(turn.wait_s)
            if turn.epoch == door.governor.epoch:
                return

    def _pause(self, seconds: float) -> None:
        """Sleep, in pieces short enough for a cancel to be noticed."""
        while seconds > 0:
            self.sleep(min(seconds, CANCEL_CHECK_S))
            seconds -= CANCEL_CHECK_S
            self._check_cancelled()

    def _check_cancelled(self) -> None:
        if self.cancelled():
            raise Cancelled("the run was cancelled")

    @staticmethod
    def _check(door: Door, answer: Answer, unauthorised: int) -> None:
        """Raises Stop for an answer that no retry cures; one or a few 401 can be a token that has expired, which the SDK renews."""
        if answer.status in REMEDIES and (answer.status != 401 or unauthorised > 4):
            raise Stop(f"{answer.status} from {door.name}: {answer.message}", REMEDIES[answer.status])
        if answer.status not in {-1, 0, 401, 429, *AMBIGUOUS_STATUSES}:
            raise Stop(
                f"{answer.status} from {door.name}: {answer.message}", "this answer is not expected; see its message"
            )

    def _backoff(self, tries: int) -> float:
        ceiling = min(self.budget.longest_wait_s, self.budget.first_wait_s * 2.0 ** (tries - 1))
        return ceiling * random.uniform(0.5, 1.0)  # noqa: S311 - spreads retries, decides nothing


def _rank(error: BaseException) -> int:
    """Which of several failures is told: what nobody foresaw, then Stop, since waiting would only hide what has to be changed."""
    return 2 if isinstance(error, TryAgain) else 1 if isinstance(error, Stop) else 0


def _named(answer: Answer) -> str:
    return f"{answer.status} ({answer.message})" if answer.status > 0 else answer.message
