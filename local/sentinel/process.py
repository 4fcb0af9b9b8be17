"""An emulator in a process of its own, for the command line, benches and tests: start it, talk to it, stop it.

The process ends with the one that started it (`--with-parent`), so nothing is left behind when that one is killed.
"""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from azure.core.credentials import AccessToken

from local.sentinel.answers import DEFAULT_DCR

ROOT = Path(__file__).resolve().parents[2]
STREAM = "Custom-CAASM_Assets"


class LoopbackCredential:
    """A TokenCredential with a fixed token, which any emulator takes; the clients need `enforce_https=False` in every call beside it."""

    def __init__(self, token: str = "local") -> None:  # noqa: S107 - no secret: the emulator takes any token
        self._token = token

    def get_token(self, *_scopes: str, **_options: Any) -> AccessToken:
        """The token, good for an hour."""
        return AccessToken(self._token, int(time.time()) + 3600)


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers (names in lower case) and body of an HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Server:
    """A running emulator: its process, its address, where it stores, and how long it took to start."""

    process: subprocess.Popen[str]
    url: str
    store: Path
    start_s: float

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """One request on a connection of its own; raises what http.client raises when the connection is dropped."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Answer(
                response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
            )
        finally:
            connection.close()

    def ingest(
        self,
        body: bytes,
        *,
        stream: str = STREAM,
        dcr: str = DEFAULT_DCR,
        query: str = "api-version=2023-01-01",
        **headers: str | None,
    ) -> Answer:
        """POST to the ingestion API; underscores in a header's name are dashes, and a header of None is left out."""
        sent: dict[str, str | None] = {"Authorization": "Bearer local", "Content-Type": "application/json"}
        sent.update({name.replace("_", "-"): value for name, value in headers.items()})
        path = f"/dataCollectionRules/{dcr}/streams/{stream}?{query}"
        return self.request("POST", path, body, {name: value for name, value in sent.items() if value is not None})

    def kql(self, query: str, timespan: str | None = None) -> Answer:
        """POST to the query API."""
        asked = json.dumps({"query": query, "timespan": timespan}).encode()
        return self.request("POST", "/v1/workspaces/local/query", asked, {"Authorization": "Bearer local"})

    def control(self, path: str, settings: Any = None) -> Any:
        """GET (without settings) or POST `/_control/{path}`; the JSON answer. Raises RuntimeError for any status but 200."""
        method, body = ("GET", None) if settings is None else ("POST", json.dumps(settings).encode())
        answer = self.request(method, f"/_control/{path}", body)
        if answer.status != 200:
            raise RuntimeError(f"/_control/{path} answered {answer.status}: {answer.body!r}")
        return answer.json()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal the process, wait for it (it writes what it holds), and kill it after 20 s; its exit code. Safe to repeat."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
        finally:
            if self.process.stdout is not None:
                self.process.stdout.close()


def start_server(store: Path, *options: str) -> Server:
    """Start an emulator on that directory with command-line options and wait until it is ready; raises RuntimeError when it ends instead."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "local.sentinel", "--store", str(store), "--with-parent", *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    line = process.stdout.readline() if process.stdout is not None else ""
    if not line:
        raise RuntimeError(f"the emulator ended with {process.wait()} before it was ready; its error is above")
    return Server(process, json.loads(line)["url"], store, time.monotonic() - began)
