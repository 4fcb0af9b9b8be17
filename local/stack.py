"""The whole system on this machine: blob storage, Sentinel emulator, product simulators and the app, each in a process of its own.

Invariant: everything listens on loopback on a free port, and stops when the stack is closed or its process ends, however that happens.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import urllib3

from local import products
from local.azurite import Azurite

ROOT: Final = Path(__file__).resolve().parent.parent

DCR: Final = "dcr-00000000000000000000000000000000"

LOCAL_SETTINGS: Final = {
    "STAGING_CONTAINER": "caasm",
    "FIRST_TURN_SECONDS": "1",
    "LONGEST_TURN_SECONDS": "30",
    "FIRST_WAIT_SECONDS": "0.5",
    "LONGEST_WAIT_SECONDS": "30",
    "FULL_SCHEDULE": "0 0 2 * * 6",
    "DELTA_SCHEDULE": "0 0 */4 * * *",
}
"""Settings of the app on a laptop that differ from Azure's: shorter turns and waits. The environment's own values win."""

SECRETS: Final = {
    "CYCOGNITO_API_KEY": products.CYCOGNITO_KEY,
    "DEVICE42_USERNAME": products.DEVICE42_USER,
    "DEVICE42_PASSWORD": products.DEVICE42_PASSWORD,
    "TENABLE_ACCESS_KEY": products.TENABLE_ACCESS_KEY,
    "TENABLE_SECRET_KEY": products.TENABLE_SECRET_KEY,
}
"""What the simulators expect; the environment's own values win, for products elsewhere."""


class StackError(RuntimeError):
    """A part of the stack did not start or has died; the text ends with what it last said."""


@dataclass(slots=True)
class Part:
    """One process of the stack: its name, its URL, where its words go."""

    name: str
    process: subprocess.Popen[str]
    log: Path
    url: str = ""

    def check(self) -> None:
        """Raises StackError when the process has ended."""
        if self.process.poll() is not None:
            raise StackError(f"{self.name} ended with code {self.process.returncode}; it said:\n{self.tail()}")

    def tail(self, lines: int = 15) -> str:
        """The last lines of the part's log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    def stop(self) -> None:
        """Ask the process to end; kill it after 10 s."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


@dataclass(slots=True)
class Stack:
    """Starts and stops the parts. `simulator`: arguments of the product simulators, or None with `source_url` set.

    `directory` keeps what the parts store: blobs/, sentinel/ and logs/.
    """

    directory: Path
    simulator: list[str] | None
    source_url: str | None = None
    dce: str | None = None
    dcr: str = DCR
    app_settings: dict[str, str] = field(default_factory=dict)
    app_arguments: list[str] = field(default_factory=list)
    parts: dict[str, Part] = field(default_factory=dict)
    _azurite: Azurite | None = None

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> Self:
        """Start everything and wait until each part listens."""
        (self.directory / "logs").mkdir(parents=True, exist_ok=True)
        # Azurite is the slowest: the others start beside it.
        starting = [threading.Thread(target=self._guarded, args=(self._start_azurite,))]
        if self.dce is None:
            options = ["local.sentinel", "--store", str(self.directory / "sentinel"), "--dcr", self.dcr]
            self._spawn("sentinel", options)
        if self.simulator is not None:
            self._spawn("products", ["local.products", *self.simulator])
        for thread in starting:
            thread.start()
        for part in self.parts.values():
            self._wait(part)
        for thread in starting:
            thread.join()
        if self._failure is not None:
            raise self._failure
        self.start_app()
        return self

    _failure: Exception | None = None

    def _guarded(self, work: Any) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - carried to the thread that waits
            self._failure = error

    def _start_azurite(self) -> None:
        self._azurite = Azurite(self.directory / "blobs").start()

    def start_app(self) -> None:
        """Start the app in a process of its own; also after it was killed."""
        self._spawn("app", ["local.durable", str(ROOT), *self.app_arguments], self._environment())
        self._wait(self.parts["app"])

    def _environment(self) -> dict[str, str]:
        assert self._azurite is not None
        source = self.source_url or self.parts["products"].url
        made = {
            **LOCAL_SETTINGS,
            **SECRETS,
            "STAGING_CONNECTION_STRING": self._azurite.connection_string,
            "INGESTION_ENDPOINT": self.dce or self.parts["sentinel"].url,
            "DCR_IMMUTABLE_ID": self.dcr,
            **{f"{name}_URL": source for name in ("CYCOGNITO", "DEVICE42", "TENABLE")},
        }
        given = {name: os.environ[name] for name in (*LOCAL_SETTINGS, *SECRETS) if name in os.environ}
        return {**os.environ, **made, **given, **self.app_settings}

    def _spawn(self, name: str, arguments: list[str], environment: dict[str, str] | None = None) -> None:
        log = self.directory / "logs" / f"{name}.log"
        with log.open("a") as words:
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments, "--with-parent"],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=words,
                text=True,
            )
        self.parts[name] = Part(name, process, log)

    @staticmethod
    def _wait(part: Part, timeout_s: float = 60.0) -> None:
        lines: queue.Queue[str] = queue.Queue()

        def read() -> None:
            assert part.process.stdout is not None
            with contextlib.suppress(ValueError):
                for line in part.process.stdout:
                    lines.put(line)
            lines.put("")

        threading.Thread(target=read, daemon=True).start()
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                line = lines.get(timeout=1)
            except queue.Empty:
                continue
            if not line:
                break
            if line.startswith("{"):
                part.url = json.loads(line)["url"]
                return
        raise StackError(f"{part.name} did not start; it said:\n{part.tail()}")

    def stop(self) -> None:
        """Stop every part, the app first."""
        for name in ("app", "products", "sentinel"):
            if name in self.parts:
                self.parts[name].stop()
        if self._azurite is not None:
            self._azurite.stop()

    @property
    def urls(self) -> dict[str, str]:
        """Where each part listens."""
        found = {name: part.url for name, part in self.parts.items()}
        if self._azurite is not None:
            found["blobs"] = self._azurite.url
        return found

    @property
    def connection_string(self) -> str:
        """Of the blob storage, for azure-storage-blob."""
        assert self._azurite is not None
        return self._azurite.connection_string

    def check(self) -> None:
        """Raises StackError when a part has died."""
        for part in self.parts.values():
            part.check()

    def call(self, method: str, url: str, body: object = None) -> tuple[int, Any]:
        """Status and JSON (None when there is none) of a request to a part."""
        answer = urllib3.request(method, url, json=body, timeout=30, retries=False)
        return answer.status, answer.json() if answer.data else None
