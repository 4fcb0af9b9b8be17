"""The one HTTP reader: sends a source's requests, and walks a lane page by page.

Invariant: a page comes out whole or not at all, each error says what to do next (TryAgain, Stop, or a page set aside with its reason), and
no error text, log or exception holds a secret, because secrets only ever are in headers and in a login's body, which are never quoted.
"""

from __future__ import annotations

import json
import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import msgspec
import urllib3

from contracts import CaasmError, JsonDict, Stop, TryAgain
from sources.model import Done, Fetch, Parsed, Request, Source, Stream, UnreadablePageError, Wait

RETRIED_STATUSES: Final = frozenset({408, 425, 429, 500, 502, 503, 504})

WAIT_HEADERS: Final = ("Retry-After", "X-RateLimit-ToWait-Sec", "RateLimit-Reset")
"""Headers in which products say for how long to wait (Qualys in the second, JupiterOne in the third): seconds, a date, or a Unix time."""

LONGEST_ASKED_WAIT_S: Final = 86_400.0
"""No header makes a run wait longer, nor for ever."""

UNIX_TIMES_BEGIN: Final = 1_000_000_000
"""A larger number of seconds is a moment (after 2001), no duration."""


ONCE: Final = urllib3.Retry(total=False, redirect=False)
"""No request is tried again by urllib3, and no redirect followed: what goes wrong is raised as it is, and a redirect is an answer."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a reader tries within one activity. A wait longer than `longest_wait_s` belongs to a durable timer."""

    attempts: int = 6
    first_wait_s: float = 0.2
    longest_wait_s: float = 10.0
    timeout_s: float = 60.0
    unreadable_attempts: int = 3
    page_limit_bytes: int = 134_217_728


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a lane: its number, the records as received, the cursor behind it.

    `problem` set: the page could not be read; `body` is what came instead, and there are no records.
    """

    number: int
    records: Sequence[msgspec.Raw]
    cursor: JsonDict
    total: int | None = None
    problem: str = ""
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Paused:
    """The source is not ready: go on with this cursor after so many seconds."""

    cursor: JsonDict
    wait_s: float


@dataclass(frozen=True, slots=True)
class Ended:
    """The lane has ended. `problem`: why it ended before the data did, if so."""

    cursor: JsonDict
    problem: str = ""


class _UnreachableError(TryAgain):
    """No answer came."""


class _NoSuchHostError(_UnreachableError):
    """The name does not resolve."""


class _RefusedError(Stop):
    """The credentials are not accepted."""


class Connections(urllib3.PoolManager):
    """Connections that are found by how an address begins. urllib3 takes every address apart for that, which is a seventh of a request."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._found: dict[str, urllib3.HTTPConnectionPool] = {}

    def urlopen(self, method: str, url: str, redirect: bool = False, **options: Any) -> urllib3.BaseHTTPResponse:  # type: ignore[override]  # PoolManager's own signature, of which its stubs say the same
        """One request to an address that has a path, one answer."""
        end = url.find("/", len("https://"))
        pool = self._found.get(url[:end])
        if pool is None:
            pool = self._found[url[:end]] = self.connection_from_url(url)
        return pool.urlopen(method, url[end:], redirect=redirect, retries=ONCE, assert_same_host=False, **options)

    def clear(self) -> None:
        """Let go of the connections."""
        self._found.clear()
        super().clear()


@dataclass(slots=True)
class Reader:
    """Requests of one source. One reader may serve several activities at once: they share its connections and its login."""

    source: Source
    url: str
    secrets: Mapping[str, str]
    patience: Patience = field(default_factory=Patience)
    sleep: Callable[[float], None] = time.sleep
    pool: Connections = field(default_factory=lambda: Connections(maxsize=16))
    _token: dict[str, str] | None = None
    _token_until: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _welcome: bool = False

    def fetch(self, request: Request, *, first_contact: bool = False) -> tuple[int, bytes]:
        """Status and body of a request's answer, after as many tries as `patience` allows.

        Raises TryAgain when the source may answer later, Stop when somebody has to change something. On first contact a source that
        cannot be reached is Stop: a wrong name looks like that, and nobody wants to wait half an hour to read so. A source that this reader
        has reached before is never that.
        """
        refused = 0
        problem: CaasmError = TryAgain("not tried")
        for attempt in range(self.patience.attempts):
            pause = self._backoff(attempt)
            try:
                return self._attempt(request)
            except _RefusedError as error:
                refused += 1
                # A token can expire half-way; a key that was never right stays wrong.
                if refused >= (self.patience.attempts if self._welcome else 4):
                    raise
                problem, pause = error, min(pause, 0.5)
            except _NoSuchHostError as error:
                problem = error
                if first_contact:
                    break
            except TryAgain as error:
                problem, pause = error, error.retry_after_s or pause
                if pause > self.patience.longest_wait_s:
                    raise
            if attempt + 1 < self.patience.attempts:
                self.sleep(pause)
        if first_contact and not self._welcome and isinstance(problem, _UnreachableError):
            raise Stop(problem.reason, f"check {self._setting('URL')} and the network's rules")
        raise problem

    def walk(self, stream: Stream, cursor: JsonDict, *, first_contact: bool = False) -> Iterator[Page | Paused | Ended]:
        """The pages of a lane from `cursor` on, lazily; the last item is Paused or Ended.

        A page that stays unreadable is given with its reason and skipped, where the paging can go on without it.
        """
        paging = stream.paging
        while True:
            step = paging.step(cursor)
            if isinstance(step, Wait):
                yield Paused({**cursor, "polled": False}, step.seconds)
                return
            if isinstance(step, Done):
                yield Ended(cursor, step.problem)
                return
            try:
                parsed = self._readable(stream, cursor, step, first_contact)
            except UnreadablePageError as error:
                following = paging.skip(cursor, step)
                where = f"page {step.page}" if step.page is not None else "the export job"
                if step.page is not None:
                    yield Page(step.page, (), following or cursor, problem=error.reason, body=error.body)
                if following is None:
                    yield Ended(cursor, f"{where} cannot be read, and nothing behind it be reached: {error.reason}")
                    return
                cursor = following
                continue
            cursor, first_contact = parsed.cursor, False
            if step.page is not None:
                yield Page(step.page, parsed.records, cursor, parsed.total)
            # Or two pages would be held while the next one comes.
            del parsed

    def close(self, stream: Stream, cursor: JsonDict) -> None:
        """Tell the product that the lane stops here, if the paging has a request for that; a product that refuses does no harm."""
        request = stream.paging.close(cursor)
        if request is not None:
            try:
                self.fetch(request)
            except CaasmError:
                return

    def _readable(self, stream: Stream, cursor: JsonDict, step: Fetch, first_contact: bool) -> Parsed:
        for attempt in range(self.patience.unreadable_attempts):
            status, body = self.fetch(step.request, first_contact=first_contact)
            try:
                return stream.paging.parse(cursor, step, status, body)
            except UnreadablePageError:
                if attempt + 1 == self.patience.unreadable_attempts:
                    raise
            self.sleep(self._backoff(attempt))
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _attempt(self, request: Request) -> tuple[int, bytes]:
        headers = {"Accept": "application/json", "Accept-Encoding": "gzip", "User-Agent": "caasm-sentinel"}
        token = self._login()
        headers |= self.source.authentication.headers(self.secrets) | token
        status, answered, body = self._exchange(request, headers)
        if 200 <= status < 300 or status in request.accept:
            self._welcome = True
            return status, body
        if status in self.source.reauthenticate_on:
            with self._lock:
                # Another thread may have a new token by now: the refusal of the old one says nothing about that.
                if self._token is token:
                    self._token = None
            raise self._not_welcome(f"answered {status}: it does not accept the credentials")
        if status in RETRIED_STATUSES:
            what = f"{self.source.name} answered {status} to {request.method} {request.path}"
            raise TryAgain(what, _asked_wait(answered) or 0.0)
        raise self._unexpected(status, request)

    def _exchange(self, request: Request, headers: dict[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        url = self.url.rstrip("/") + request.path
        if request.query:
            url += "?" + urlencode(request.query)
        body = None
        if request.json is not None:
            body = json.dumps(request.json, separators=(",", ":")).encode()
            headers = headers | {"Content-Type": "application/json"}
        timeout = urllib3.Timeout(connect=min(10.0, self.patience.timeout_s), read=self.patience.timeout_s)
        try:
            answer = self.pool.urlopen(
                request.method, url, headers=headers, body=body, timeout=timeout, preload_content=False
            )
            content = self._content(answer, request)
        except urllib3.exceptions.NameResolutionError as error:
            raise _NoSuchHostError(f"{self.source.name}: no such host: {urlsplit(self.url).hostname!r}") from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            what = f"{request.method} {request.path}: {_kind(error)}"
            raise _UnreachableError(f"{self.source.name} cannot be reached ({what})") from error
        except ValueError:
            # Of http.client, about a header: it quotes the value, so neither its text nor its traceback may go on.
            reason = "cannot be asked: a secret has a character that no HTTP header can carry (a line break, a typographic dash)"
            raise Stop(*self._credentials(reason)) from None
        return answer.status, answer.headers, content

    def _content(self, answer: urllib3.BaseHTTPResponse, request: Request) -> bytes:
        limit = self.patience.page_limit_bytes
        length = answer.headers.get("Content-Length", "")
        # What says how long it is, and is that long, is read in one go: in a third of the time. A compressed body does not say what becomes of it, and
        # one in chunks is as long as they are, whatever it says.
        other = answer.headers.get("Content-Encoding") or answer.headers.get("Transfer-Encoding")
        known = length.isdecimal() and int(length) <= limit and not other
        try:
            content = answer.read(None if known else limit + 1, decode_content=True)
        except BaseException:
            answer.close()
            raise
        if len(content) > limit:
            answer.close()
            raise Stop(
                f"{request.path} answered with more than {limit} bytes", "set PAGE_RECORDS to ask for smaller pages"
            )
        answer.release_conn()
        return content

    def _login(self) -> dict[str, str]:
        with self._lock:
            request = self.source.authentication.login(self.secrets)
            if request is None:
                return {}
            if self._token is None or time.monotonic() >= self._token_until:
                status, headers, body = self._exchange(request, {"Accept": "application/json"})
                if status in RETRIED_STATUSES:
                    raise TryAgain(f"the login at {self.source.name} answered {status}", _asked_wait(headers) or 0.0)
                if not 200 <= status < 300:
                    raise self._not_welcome(f"answered {status} to the login: it does not accept the credentials")
                self._token, holds_s = self.source.authentication.token_headers(status, body)
                self._token_until = time.monotonic() + holds_s
            return self._token

    def _credentials(self, reason: str) -> tuple[str, str]:
        names = " and ".join(self._setting(name.upper()) for name in self.source.secrets)
        return (
            f"{self.source.name} {reason}",
            f"check {names} (in Azure: the Key Vault secret behind it, and that it has not expired), then start the load again",
        )

    def _not_welcome(self, reason: str) -> _RefusedError:
        return _RefusedError(*self._credentials(reason))

    def _unexpected(self, status: int, request: Request) -> Stop:
        what = f"{self.source.name} answered {status} to {request.method} {request.path}"
        if 300 <= status < 400:
            return Stop(
                f"{what}: a redirect, which is not followed",
                f"set {self._setting('URL')} to the address that it leads to",
            )
        if status == 403:
            return Stop(what, "give the API user the right to read and export this data")
        if status == 404:
            return Stop(what, f"check {self._setting('URL')}: is it the product's API, and licensed for this stream?")
        return Stop(what, "the product does not accept the request; check its version against the README")

    def _setting(self, name: str) -> str:
        return f"{self.source.name.upper()}_{name}"

    def _backoff(self, attempt: int) -> float:
        ceiling = min(self.patience.longest_wait_s, self.patience.first_wait_s * 2.0**attempt)
        return ceiling * random.uniform(0.5, 1.0)  # noqa: S311 - spreads retries, decides nothing


def _kind(error: Exception) -> str:
    """An exception's kind in words; its text is left out, as it may quote a URL."""
    # A NewConnectionError is a timeout by its class, whatever the reason.
    if isinstance(error, urllib3.exceptions.NewConnectionError):
        return "connection refused"
    if isinstance(error, urllib3.exceptions.TimeoutError):
        return "no answer in time"
    return f"the connection broke ({type(error).__name__})"


def _asked_wait(headers: Mapping[str, str]) -> float | None:
    for name in WAIT_HEADERS:
        value = headers.get(name)
        if value is None:
            continue
        try:
            wait_s = float(value)
        except ValueError:
            try:
                wait_s = parsedate_to_datetime(value).timestamp()
            except ValueError:
                continue
        if UNIX_TIMES_BEGIN < wait_s < math.inf:
            wait_s -= time.time()
        return min(max(0.0, wait_s), LONGEST_ASKED_WAIT_S)
    return None
