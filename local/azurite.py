"""Azurite's blob service on loopback, with the Node that it needs: found, installed once, started, stopped, never left behind.

The service lives as long as its keeper holds the write end of its standard input: the few lines of JavaScript that load Azurite end it when that
pipe closes, which the kernel does for a parent that is killed, on Linux and macOS alike. (PR_SET_PDEATHSIG is Linux only, and fires when the
*thread* that started the process ends.) It writes its index only every 5 s and at its end, so it is in a session of its own: a signal to the
keeper's whole process group does not reach it, and it ends in order. A child that the parent forks without exec shares the pipe, so the service then ends with the last of them.
"""

from __future__ import annotations

import os
import queue
import re
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

from local import node_packages
from local.node_packages import NodeError, ensure_node

LOCKED: Final = Path(__file__).resolve().parent / "node"
"""package.json and package-lock.json: Azurite and all that it needs, with their hashes and without a registry's address."""
CACHE: Final = node_packages.CACHE / "node"
ACCOUNT: Final = "devstoreaccount1"

# The development key that Microsoft publishes and that every storage emulator has: no secret. In two parts because scanners match it as a whole.
# https://learn.microsoft.com/azure/storage/common/storage-use-azurite
_ACCOUNT_KEY: Final = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq" + "/K1SZFPTOtr/KBHBeksoGMGw=="

_LOADER: Final = """
process.stdin.on('end', () => {
  process.kill(process.pid, 'SIGTERM');
  setTimeout(() => process.exit(1), 3000).unref();
});
process.stdin.resume();
process.stdin.unref();
process.argv.splice(1, 0, process.env.CAASM_AZURITE_MAIN);
require(process.env.CAASM_AZURITE_MAIN);
"""
_HEAP: Final = "--initial-old-space-size=512"
"""Without it V8 looks through its heap whenever some 60 MB of blobs have passed, at up to 40 % of the service's CPU time; it takes no more memory than it uses."""
_LISTENS: Final = re.compile(r"successfully listens on (http://\S+)")


class AzuriteError(NodeError):
    """Azurite could not be started; the message says what to do."""


def is_installed(cache: Path = CACHE) -> bool:
    """Whether Azurite is there already, so that a start takes a second and not a minute."""
    return node_packages.is_installed(LOCKED, cache)


def ensure_azurite(node: Path, cache: Path = CACHE) -> Path:
    """Path of Azurite's blob service script, installed under `cache` with npm as locked, the first time; raises NodeError."""
    return node_packages.install(LOCKED, cache, "azurite/dist/src/blob/main.js", node)


class Azurite:
    """A blob service of its own: `with Azurite(directory) as azurite: BlobServiceClient.from_connection_string(azurite.connection_string)`.

    With `in_memory` nothing is kept and the directory is only the working directory. `port` 0 takes a free one. The service inherits `pass_fds`.
    """

    def __init__(
        self,
        data_dir: Path | str,
        *,
        in_memory: bool = False,
        port: int = 0,
        cache: Path = CACHE,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self._data_dir = Path(data_dir)
        self._in_memory = in_memory
        self._port = port
        self._cache = cache
        self._pass_fds = pass_fds
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def connection_string(self) -> str:
        """For azure-storage-blob, and for AzureWebJobsStorage; raises RuntimeError when the service does not run."""
        if not self.url:
            raise RuntimeError("Azurite is not started")
        return (
            f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={_ACCOUNT_KEY};"
            f"BlobEndpoint={self.url}/{ACCOUNT};"
        )

    @property
    def pid(self) -> int | None:
        """Process id of the service, None when it does not run."""
        return None if self._process is None else self._process.pid

    def start(self, *, timeout_s: float = 60.0) -> Self:
        """Start the service and wait until it listens (installing Node and Azurite when missing); raises NodeError."""
        if self._process is not None:
            return self
        node = ensure_node()
        main = ensure_azurite(node, self._cache)
        self._data_dir.mkdir(parents=True, exist_ok=True)
        place = ["--inMemoryPersistence"] if self._in_memory else ["--location", str(self._data_dir.resolve())]
        options = ["--blobHost", "127.0.0.1", "--blobPort", str(self._port), *place]
        flags = ["--silent", "--skipApiVersionCheck", "--disableTelemetry"]
        self._process = subprocess.Popen(
            [str(node), _HEAP, "-e", _LOADER, "--", *options, *flags],
            cwd=self._data_dir,
            # Compiled code is kept between starts by Node 22 and later; others ignore the variable.
            env={
                **os.environ,
                "CAASM_AZURITE_MAIN": str(main),
                "NODE_COMPILE_CACHE": str(self._cache / "compiled"),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            pass_fds=self._pass_fds,
        )
        self.url = self._wait(self._process, timeout_s)
        return self

    def _wait(self, process: subprocess.Popen[str], timeout_s: float) -> str:
        lines: queue.Queue[str | None] = queue.Queue()
        assert process.stdout is not None
        # The thread also empties the pipe for as long as the service runs, so that it never blocks on what it prints.
        threading.Thread(target=_drain, args=(process.stdout, lines), daemon=True).start()
        deadline = time.monotonic() + timeout_s
        seen: list[str] = []
        while True:
            try:
                line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                self.stop()
                raise AzuriteError(f"Azurite did not start within {timeout_s:g} s; it said {''.join(seen)[-600:]!r}")
            seen.append(line)
            listens = _LISTENS.search(line)
            if listens:
                return listens.group(1)

    def stop(self) -> None:
        """Ask the service to end (it writes its index first), and kill it after 10 s. Safe to repeat."""
        process, self._process, self.url = self._process, None, ""
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()


def _drain(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    with stream:
        for line in stream:
            if lines.qsize() < 1000:
                lines.put(line)
    lines.put(None)
