"""What the durable host's tests share: the apps, hosts in this process, and `python -m local.durable` as a process."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from local.durable.host import Host
from local.durable.taskhub import FINISHED

APPS = Path(__file__).parent / "apps"
ROOT = Path(__file__).parents[3]


class HostProcess:
    """A host process and its HTTP surface."""

    def __init__(self, app: str, *options: str, errors: Path) -> None:
        command = [sys.executable, "-W", "ignore", "-m", "local.durable", str(APPS / app), *options]
        with errors.open("ab") as stderr:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the host did not start: {errors.read_text()}"
        self.ready: dict[str, Any] = json.loads(line)
        self.url: str = self.ready["url"]
        self.durable = f"{self.url}/runtime/webhooks/durabletask"

    def call(self, method: str, url: str, body: Any = None) -> tuple[int, dict[str, str], Any]:
        """Status, headers (lower-case names) and JSON or text of the answer; `url` may be a path."""
        data = None if body is None else json.dumps(body).encode()
        address = url if url.startswith("http") else self.url + url
        request = urllib.request.Request(address, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, _lower(answer.headers), _content(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _lower(error.headers), _content(error.read())

    def start(self, name: str, body: Any = None) -> dict[str, str]:
        """Start an orchestrator through the app's own HTTP starter; its links."""
        status, _, links = self.call("POST", f"/api/start/{name}", body)
        assert status == 202, links
        return links

    def until(
        self, links: dict[str, str], condition: Callable[[dict[str, Any]], bool], timeout_s: float = 20
    ) -> dict[str, Any]:
        """Poll the status until it meets the condition."""
        return until(lambda: self.call("GET", links["statusQueryGetUri"])[2], condition, timeout_s)

    def wait(self, links: dict[str, str]) -> dict[str, Any]:
        """The status once the instance has finished."""
        return self.until(links, lambda status: status["runtimeStatus"] in FINISHED)

    def run(self, name: str, body: Any = None) -> dict[str, Any]:
        """Start an orchestrator and return its status once it has finished."""
        return self.wait(self.start(name, body))

    def end(self, *, kill: bool = False) -> int:
        """SIGTERM or SIGKILL; the exit code."""
        if self.process.poll() is None:
            (self.process.kill if kill else self.process.terminate)()
        code = self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


def _lower(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _content(body: bytes) -> Any:
    try:
        return json.loads(body) if body else None
    except ValueError:
        return body.decode()


def until(read: Callable[[], Any], condition: Callable[[Any], bool], timeout_s: float = 20) -> Any:
    """The first value of `read` that meets the condition; fails after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition(value := read()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {value!r}"
        time.sleep(0.01)  # the pause between two polls
    return value


@pytest.fixture(scope="session", name="until")
def until_fixture() -> Callable[..., Any]:
    return until


@pytest.fixture
def start_process(tmp_path: Path) -> Iterator[Callable[..., HostProcess]]:
    """Starts `python -m local.durable` with an app of apps/; ends what is still running."""
    started: list[HostProcess] = []

    def start(app: str, *options: str) -> HostProcess:
        started.append(HostProcess(app, *options, errors=tmp_path / "host.err"))
        return started[-1]

    yield start
    for process in started:
        process.end(kill=True)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostProcess]:
    """The demo app as a process, shared by the tests that only start instances of their own."""
    process = HostProcess("demo", "--port", "0", errors=tmp_path_factory.mktemp("demo") / "host.err")
    yield process
    process.end()


@pytest.fixture
def open_host() -> Iterator[Callable[..., Host]]:
    """Opens hosts in this process, by an app's name or as Host does, and closes them."""
    opened: list[Host] = []
    directory = Path.cwd()

    def open_one(app: str | None = None, **options: Any) -> Host:
        opened.append(Host(APPS / app if app else None, **options))
        return opened[-1]

    yield open_one
    for host in opened:
        host.close()
    sys.path[:] = [entry for entry in sys.path if not entry.startswith(str(APPS))]
    sys.modules.pop("function_app", None)
    os.chdir(directory)
