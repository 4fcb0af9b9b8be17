"""Emulators in processes of their own, stopped at the end of the test or module that started them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from local.sentinel.process import Server, start_server


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One emulator for the tests of a module that do not count its totals."""
    server = start_server(tmp_path_factory.mktemp("store"))
    yield server
    server.stop()


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start emulators with options of the test's own; all are stopped at its end."""
    started: list[Server] = []

    def start(*options: str, store: Path | None = None) -> Server:
        server = start_server(store or tmp_path / "store", *options)
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop()
