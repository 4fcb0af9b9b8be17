"""The whole system on this machine: blob storage, Sentinel emulator, product simulators and the app, each in a process of its own.

Invariant: everything listens on loopback on a free port, and stops when the stack is closed or its process ends, however that happens: storage and
emulator then write what they hold. They are in sessions of their own, so that a signal to the command's whole process group leaves them the time.
A directory belongs to one stack, until the last of its processes is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import urllib3

import memory
from local import products
from local.azurite import Azurite
from local.durable.chaos import LOG_SUFFIX
from local.sentinel.resources import WORKSPACE, rule_id

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


LOCK: Final = "lock"
"""The file of a directory that whoever is in it has locked. It is never removed: another command would lock a new one beside it."""

KILLED: Final = (-signal.SIGKILL, 128 + signal.SIGKILL)

WAIT_S: Final = 60.0
"""How long a part may take to start, a killed app to answer again, and the processes of a killed command to leave its directory."""


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

    `app_dir` is the app's folder: the repository, or an unpacked package, which then sees nothing else of ours but local/.
    `directory` keeps what the parts store: blobs/, sentinel/ and logs/. With a `journal` the app goes on with what ran when it ended last, and is
    started again after a kill, at most `most_restarts` times in all; `chaos` is the seed of what kills it, and of what else is done to it.
    """

    directory: Path
    simulator: list[str] | None
    source_url: str | None = None
    dce: str | None = None
    dcr: str = DCR
    app_settings: dict[str, str] = field(default_factory=dict)
    app_arguments: list[str] = field(default_factory=list)
    app_dir: Path = ROOT
    journal: Path | None = None
    chaos: int | None = None
    most_restarts: int = 0
    restarts: int = 0
    parts: dict[str, Part] = field(default_factory=dict)
    _azurite: Azurite | None = None
    _held: int | None = None

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
        self._hold()
        (self.directory / "logs").mkdir(exist_ok=True)
        # Azurite is the slowest: the others start beside it.
        starting = [threading.Thread(target=self._guarded, args=(self._start_azurite,))]
        if self.dce is None:
            options = ["local.sentinel", "--store", str(self.directory / "sentinel"), "--dcr", self.dcr]
            options += ["--limit", self.app_settings.get("UPLOAD_MODE", os.environ.get("UPLOAD_MODE", "raw"))]
            self._spawn("sentinel", options)
        if self.simulator is not None:
            self._spawn("products", ["local.products", *self.simulator, *self._memory()])
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
        assert self._held is not None
        self._azurite = Azurite(self.directory / "blobs", pass_fds=(self._held,)).start()

    def begin_anew(self) -> Self:
        """Take the directory, or where another command is in it the first free one of its name with -2, -3, … added, and empty it."""
        base = self.directory
        for number in itertools.count(2):
            if self._take():
                break
            self.directory = base.with_name(f"{base.name}-{number}")
        for path in self.directory.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()
        return self

    def _hold(self) -> None:
        """Wait until no process of another stack is in the directory. Every part inherits the lock, so it goes with the last of them."""
        deadline = time.monotonic() + WAIT_S
        while not self._take():
            if time.monotonic() >= deadline:
                raise StackError(f"{self.directory} is in use by another command: end it, or keep elsewhere")
            time.sleep(0.1)

    def _take(self) -> bool:
        """Whether the directory is this stack's, which it is from now on if it was nobody's."""
        if self._held is not None:
            return True
        self.directory.mkdir(parents=True, exist_ok=True)
        held = os.open(self.directory / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(held)
            return False
        self._held = held
        return True

    def start_app(self) -> None:
        """Start the app in a process of its own; also after it was killed, then on the same port, if that is still free."""
        before = self.parts.get("app")
        port = (before and urlsplit(before.url).port) or 0
        while True:
            if "app" in self.parts:
                self.parts["app"].stop()
            self._spawn(
                "app",
                ["local.durable", str(self.app_dir), "--port", str(port), *self._app_options()],
                self.environment(),
                self._beside_app(),
            )
            app = self.parts["app"]
            try:
                return self._wait(app)
            except StackError:
                # What the journal resumes may be killed before the app says that it is ready.
                if self._revivable(app):
                    self.restarts += 1
                elif port and app.process.poll() is not None:
                    port = 0
                else:
                    raise

    def _beside_app(self) -> Path:
        """Where the app's process starts, which is where it finds local/."""
        if self.app_dir == ROOT:
            return ROOT
        beside = self.directory / "host"
        beside.mkdir(exist_ok=True)
        if not (beside / "local").exists():
            (beside / "local").symlink_to(ROOT / "local", target_is_directory=True)
        return beside

    def _memory(self) -> list[str]:
        """Where the simulators keep their export jobs, for the next stack in this directory, and which pages they served."""
        kept, pages = self.directory / "products.json", self.directory / "logs" / "pages.jsonl"
        return ["--state", str(kept), "--page-log", str(pages)]

    def _app_options(self) -> list[str]:
        options = list(self.app_arguments)
        if self.journal is not None:
            options += ["--journal", str(self.journal)]
        if self.chaos is not None:
            options += ["--chaos", str(self.chaos), "--chaos-kills", str(self.most_restarts - self.restarts)]
        return options

    def _revivable(self, app: Part) -> bool:
        return self.journal is not None and self.restarts < self.most_restarts and app.process.poll() in KILLED

    @property
    def chaos_log(self) -> Path | None:
        """Where the app writes down what chaos does; None without chaos."""
        return self.journal.with_suffix(LOG_SUFFIX) if self.journal is not None and self.chaos is not None else None

    def environment(self) -> dict[str, str]:
        """The environment that the app is started with: this process's own, and where the parts listen."""
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
        if self.dce is None:
            # What the emulator shows of its rule and its tables.
            made["DCR_RESOURCE_ID"] = ",".join(rule_id(rule.strip()) for rule in self.dcr.split(","))
            made |= {"WORKSPACE_RESOURCE_ID": WORKSPACE, "MANAGEMENT_ENDPOINT": self.parts["sentinel"].url}
        given = {name: os.environ[name] for name in (*LOCAL_SETTINGS, *SECRETS) if name in os.environ}
        return {**memory.ENVIRONMENT, **os.environ, **made, **given, **self.app_settings}

    def _spawn(
        self, name: str, arguments: list[str], environment: dict[str, str] | None = None, cwd: Path = ROOT
    ) -> None:
        log = self.directory / "logs" / f"{name}.log"
        with log.open("a") as words:
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments, "--with-parent"],
                cwd=cwd,
                env=environment or {**memory.ENVIRONMENT, **os.environ},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=words,
                text=True,
                start_new_session=True,
                pass_fds=() if self._held is None else (self._held,),
            )
        self.parts[name] = Part(name, process, log)

    @staticmethod
    def _wait(part: Part, timeout_s: float = WAIT_S) -> None:
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
                with contextlib.suppress(subprocess.TimeoutExpired):
                    part.process.wait(1)  # it has closed its output: its exit code is about to be known
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
        if self._held is not None:
            held, self._held = self._held, None
            os.close(held)

    @property
    def urls(self) -> dict[str, str]:
        """Where each part listens."""
        found = {name: part.url for name, part in self.parts.items()}
        if self._azurite is not None:
            found["blobs"] = self._azurite.url
        return found

    @property
    def pids(self) -> dict[str, int]:
        """The process of each part."""
        found = {name: part.process.pid for name, part in self.parts.items()}
        if self._azurite is not None and self._azurite.pid is not None:
            found["azurite"] = self._azurite.pid
        return found

    @property
    def connection_string(self) -> str:
        """Of the blob storage, for azure-storage-blob."""
        assert self._azurite is not None
        return self._azurite.connection_string

    def check(self) -> None:
        """Start the app again when it was killed and may be; raises StackError when any part has died otherwise."""
        for part in list(self.parts.values()):
            if part.name == "app" and self._revivable(part):
                self.restarts += 1
                self.start_app()
            else:
                part.check()

    def call(self, method: str, url: str, body: object = None, timeout_s: float = 30) -> tuple[int, Any]:
        """Status and JSON (None when there is none) of a request to a part."""
        answer = urllib3.request(method, url, json=body, timeout=timeout_s, retries=False)
        return answer.status, answer.json() if answer.data else None

    def call_app(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """As `call`, of the app, wherever it listens now; a request that meets its death is made again when it is back.

        Raises StackError when it does not come back.
        """
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                return self.call(method, self.parts["app"].url + path, body)
            except urllib3.exceptions.HTTPError:
                self.check()
                if self.journal is None or time.monotonic() >= deadline:
                    raise
                time.sleep(0.05)
