"""The deployable package: `python -m infra.package` writes build/app/ and build/app.zip with what .funcignore leaves.

Invariant: the same tree gives the same bytes, and host.json names the durable storage provider that the templates were given: the platform's scale
controller reads that file and not the app settings that would override it (Azure/azure-functions-durable-extension issue 2622).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent

BUILD: Final = ROOT / "build"

SCHEDULER_CONNECTION: Final = "DURABLE_TASK_SCHEDULER_CONNECTION_STRING"

PROVIDERS: Final = ("storage", "scheduler")

EPOCH: Final = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip can hold; every entry has it."""


class PackageError(ValueError):
    """A line of .funcignore that is not understood, or a provider that there is not."""


def rules(text: str) -> list[str]:
    """The patterns of a .funcignore. Raises PackageError for what of gitignore's language is not supported here."""
    found = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    for rule in found:
        if rule.startswith("!") or "**" in rule or "[" in rule or "\\" in rule:
            raise PackageError(f".funcignore: {rule!r}: only names, folders with a slash at their end, * and paths")
    return found


def ignored(path: str, *, folder: bool, patterns: list[str]) -> bool:
    """Whether a file or folder, as a path from the root, is left out by a pattern of its own (its parents are asked before it)."""
    for pattern in patterns:
        name = pattern.removesuffix("/")
        if pattern.endswith("/") and not folder:
            continue
        anchored = "/" in name
        if fnmatchcase(path if anchored else path.rsplit("/", 1)[-1], name.removeprefix("/")):
            return True
    return False


def files(root: Path = ROOT) -> list[str]:
    """What is deployed of a tree, as paths from its root, sorted."""
    patterns = rules((root / ".funcignore").read_text(encoding="utf-8"))
    return sorted(_walk(root, patterns))


def _walk(root: Path, patterns: list[str]) -> Iterator[str]:
    for directory, folders, names in os.walk(root):
        here = Path(directory).relative_to(root)
        folders[:] = [name for name in folders if not ignored((here / name).as_posix(), folder=True, patterns=patterns)]
        for name in names:
            path = (here / name).as_posix()
            if not ignored(path, folder=False, patterns=patterns):
                yield path


def host_json(host: dict[str, Any], provider: str) -> dict[str, Any]:
    """host.json for a durable storage provider: as it is for storage; for the scheduler with its connection. Raises PackageError."""
    if provider not in PROVIDERS:
        raise PackageError(f"there is no provider {provider!r}: use one of {', '.join(PROVIDERS)}")
    if provider == "storage":
        return host
    changed: dict[str, Any] = json.loads(json.dumps(host))
    changed["extensions"]["durableTask"]["storageProvider"] = {
        "type": "azureManaged",
        "connectionStringName": SCHEDULER_CONNECTION,
    }
    return changed


def build(provider: str = "storage", root: Path = ROOT, out: Path = BUILD) -> Path:
    """Write `out`/app/ and `out`/app.zip anew; gives the path of the zip."""
    folder, archive = out / "app", out / "app.zip"
    host = host_json(json.loads((root / "host.json").read_text(encoding="utf-8")), provider)
    shutil.rmtree(folder, ignore_errors=True)
    for name in files(root):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, folder / name)
    (folder / "host.json").write_text(json.dumps(host, indent=2) + "\n", encoding="utf-8")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name in files(root):
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o100644 << 16
            zipped.writestr(entry, (folder / name).read_bytes())
    return archive


def main() -> int:
    """Build and say what came of it."""
    parser = argparse.ArgumentParser(prog="python -m infra.package", description="Build the deployable package.")
    wanted = os.environ.get("DURABLE_PROVIDER") or "storage"
    parser.add_argument("--provider", choices=PROVIDERS, default=wanted, help="default: DURABLE_PROVIDER, or storage")
    archive = build(parser.parse_args().provider)
    sys.stdout.write(f"{archive.relative_to(ROOT)}: {len(files())} files, {archive.stat().st_size:,} bytes\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
