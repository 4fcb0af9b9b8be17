"""One workspace that whole loads of all products have filled, shared by every test of the content."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from local.load import run_load
from local.sentinel.query import Workspace
from local.stack import Stack
from sources.registry import SOURCES

Rows = list[dict[str, Any]]


@pytest.fixture(scope="session")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store directory of the emulator after a full load of each product; do not write to it."""
    directory = tmp_path_factory.mktemp("loaded")
    with Stack(directory, ["--assets", "900", "--findings", "900", "--seed", "1"]) as stack:
        for source in SOURCES:
            assert run_load(stack, source, "full", lambda _: None).status == "complete"
    return directory / "sentinel"


@pytest.fixture(scope="session")
def workspace(loaded: Path) -> Workspace:
    """The loaded workspace, to be asked in KQL."""
    return Workspace(loaded)


@pytest.fixture(scope="session")
def ask(workspace: Workspace) -> Callable[[str], Rows]:
    """A function: the rows that the loaded workspace answers a query with."""

    def asked(kql: str) -> Rows:
        answer = workspace.query(kql)
        return [dict(zip([column.name for column in answer.columns], row, strict=True)) for row in answer.rows]

    return asked
