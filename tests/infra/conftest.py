"""The evaluated templates, by parameter file; without the checker their tests are skipped and say so."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from infra.check import ROOT, TOOLS, Deployment, combinations, evaluate, read_parameters
from native.build import BuildError, build, misfit, zig_at_hand


@cache
def _deployment(name: str) -> Deployment:
    return evaluate(read_parameters(combinations()[name]))


@pytest.fixture(scope="session")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> str:
    """With which kernel packages are built here: by zig (nothing named) where that is at hand, else this machine's if Azure could use it, else none."""
    if zig_at_hand():
        return ""
    try:
        made = build(tmp_path_factory.mktemp("kernel") / "kernel.so")
    except BuildError:
        return "off"
    return "off" if misfit(made.read_bytes()) else str(made)


@pytest.fixture(scope="session")
def checker() -> None:
    """Skips where bicepcheck is not on the machine: it is no part of this repository."""
    if not (TOOLS / "bicepcheck").is_dir():
        pytest.skip(f"no bicepcheck at {TOOLS} (set BICEPCHECK to the folder that has it)")


@pytest.fixture
def deployment(checker: None) -> Callable[[str], Deployment]:
    """A function: what a parameter file's deployment would make. Evaluated once a session; do not change it."""
    return _deployment


@pytest.fixture
def copy(checker: None, tmp_path: Path) -> Callable[..., Deployment]:
    """A function: the templates copied, a text of one file replaced by another, evaluated with the parameters of a file."""

    def mutated(name: str, file: str, old: str, new: str) -> Deployment:
        for folder in (
            "infra",
            "sentinel/content/functions",
            "sentinel/content/playbooks",
            "sentinel/content/workbooks",
        ):
            shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "host.json", tmp_path / "host.json")
        path = tmp_path / "infra" / file
        text = path.read_text()
        assert old in text, f"{file} has no {old!r}: the seed has to follow the file"
        path.write_text(text.replace(old, new, 1))
        return evaluate(read_parameters(combinations()[name]), tmp_path / "infra")

    return mutated


@pytest.fixture
def settings_of() -> Callable[[Deployment], dict[str, Any]]:
    """A function: the app settings of a deployment."""

    def found(deployment: Deployment) -> dict[str, Any]:
        (config,) = deployment.of_type("Microsoft.Web/sites/config")
        return config.properties

    return found
