"""The deployable package: `python -m infra.package` writes build/app/ and build/app.zip with what .funcignore leaves.

Invariant: the same tree gives the same bytes on every machine, the kernel is Azure's and never the one that lies in the tree for this machine, and host.json names the durable storage provider that the templates were given: the platform's scale
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

from native import LIBRARY, SWITCH
from native.build import BuildError, misfit
from native.build import build as build_kernel

ROOT: Final = Path(__file__).resolve().parent.parent

BUILD: Final = ROOT / "build"

SCHEDULER_CONNECTION: Final = "DURABLE_TASK_SCHEDULER_CONNECTION_STRING"

PROVIDERS: Final = ("storage", "scheduler")

KERNEL: Final = LIBRARY.relative_to(ROOT).as_posix()

AZURE: Final = "linux-x86_64"
"""What Flex Consumption runs on."""

EPOCH: Final = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip can hold; every entry has it."""


class PackageError(ValueError):
    """A line of .funcignore that is not understood, a provider that there is not, or no kernel; the text says what to do."""


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
    """What is deployed of a tree, as paths from its root, sorted; the library of the kernel is not the tree's."""
    patterns = rules((root / ".funcignore").read_text(encoding="utf-8"))
    return sorted(set(_walk(root, patterns)) - {KERNEL})


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


def kernel(out: Path, wanted: str = "") -> bool:
    """Put the kernel for Azure at `out`, built, or the file that is `wanted`; gives whether there is one, which there is not for `off`. Raises PackageError."""
    if wanted.lower() == "off":
        return False
    try:
        given = Path(wanted).read_bytes() if wanted else build_kernel(out, AZURE).read_bytes()
    except (BuildError, OSError) as error:
        raise PackageError(
            f"{error}\nThe kernel is missing. Mend that, or give one that was built on Linux x86_64 (python -m native.build --out FILE) with --kernel FILE, "
            "or leave it out with --kernel off: loads then take longer, with the same rows."
        ) from error
    if wrong := misfit(given):
        raise PackageError(f"{wanted or out} does not run in Azure: {wrong}")
    out.write_bytes(given)
    return True


def build(provider: str = "storage", root: Path = ROOT, out: Path = BUILD, with_kernel: str = "") -> Path:
    """Write `out`/app/ and `out`/app.zip anew; gives the path of the zip. `with_kernel`: as `kernel` takes it."""
    folder, archive = out / "app", out / "app.zip"
    host = host_json(json.loads((root / "host.json").read_text(encoding="utf-8")), provider)
    shutil.rmtree(folder, ignore_errors=True)
    archive.unlink(missing_ok=True)
    names = files(root)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, folder / name)
    (folder / "host.json").write_text(json.dumps(host, indent=2) + "\n", encoding="utf-8")
    if kernel(folder / KERNEL, with_kernel):
        names = sorted([*names, KERNEL])
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name in names:
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o100644 << 16
            zipped.writestr(entry, (folder / name).read_bytes())
    return archive


def main() -> int:
    """Build and say what came of it; 1 when it could not be."""
    parser = argparse.ArgumentParser(prog="python -m infra.package", description="Build the deployable package.")
    wanted = os.environ.get("DURABLE_PROVIDER") or "storage"
    parser.add_argument("--provider", choices=PROVIDERS, default=wanted, help="default: DURABLE_PROVIDER, or storage")
    parser.add_argument(
        "--kernel",
        default=os.environ.get(SWITCH, ""),
        metavar="FILE|off",
        help=f"a kernel that was built elsewhere, or none; default: {SWITCH}, or built here",
    )
    options = parser.parse_args()
    try:
        archive = build(options.provider, with_kernel=options.kernel)
    except PackageError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    with zipfile.ZipFile(archive) as zipped:
        names = zipped.namelist()
    kernel_is = "with the kernel" if KERNEL in names else "without the kernel"
    sys.stdout.write(
        f"{archive.relative_to(ROOT)}: {len(names)} files, {archive.stat().st_size:,} bytes, {kernel_is}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
