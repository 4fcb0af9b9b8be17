"""Builds the kernel: `python -m native.build` for this machine, with `--target linux-x86_64` for Azure, on whatever machine.

Invariant: a library is there whole or not at all. For Azure it is always built by the same compiler, zig, which has the headers of every C library with it:
the same sources give the same bytes everywhere, and the library needs no newer glibc than 2.17, whatever this machine has.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from native import HERE, LIBRARY, digest, sources

TARGETS: Final = {"linux-x86_64": "x86_64-linux-gnu.2.17"}
"""What can be built for besides this machine, and what zig calls it."""

FLAGS: Final = ("-std=c11", "-O3", "-g0", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra")
"""No -march: SSE2 is what every x86_64 has, and what a worker in Azure has besides is not known when it is built."""

SANITIZED: Final = ("-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")

ZIG_VERSION: Final = "0.17.1"

ZIG: Final = f"ziglang=={ZIG_VERSION}"

ZIG_FLAGS: Final = ("-mcpu=baseline", "-fno-sanitize=undefined")
"""What zig's compiler would do otherwise: this machine's own instructions, and traps in what is not optimised."""

CACHE: Final = HERE.parent / ".caasm"

NEWEST_GLIBC: Final = (2, 31)
"""Of Debian 11, the oldest that the platform's images for Python are made of."""

OF_THE_SYSTEM: Final = frozenset({"libc.so.6", "libm.so.6"})


class BuildError(RuntimeError):
    """There is no compiler, or it failed; the message says what to do."""


def build(out: Path = LIBRARY, target: str = "", flags: Sequence[str] = ()) -> Path:
    """The library, built anew at `out`: for this machine, or for one of `TARGETS`.

    For this machine by $CC alone where it is set, else by the first of cc, gcc, clang and an installed ziglang that does it. For a target by zig, which is
    installed below .caasm when it is missing (100 MB to fetch, 400 on disk). Raises BuildError. Safe to repeat and to do twice at once.
    """
    commands = [[*_zig(), "-target", TARGETS[target]]] if target else list(_compilers())
    if not commands:
        raise BuildError(
            f"no C compiler was found (cc, gcc, clang): install one, or `{sys.executable} -m pip install ziglang`"
        )
    failures = []
    for command in commands:
        try:
            return _compiled(command, out, flags)
        except BuildError as error:
            failures.append(error)
    raise failures[0]


def _compiled(command: Sequence[str], out: Path, flags: Sequence[str]) -> Path:
    out.parent.mkdir(parents=True, exist_ok=True)
    made = out.absolute().with_name(f".{out.name}.{os.getpid()}.tmp")
    # By name from where they are, so that no path of this machine is in the library.
    files = [path.name for path in sources() if path.suffix == ".c"]
    arguments = [*command, *FLAGS, *flags, f'-DKERNEL_SOURCES="{digest()}"', *files, "-o", str(made)]
    try:
        run = subprocess.run(  # noqa: S603 - a compiler, of which the one who builds says which
            arguments, cwd=HERE, env=_environment(), capture_output=True, text=True, check=False
        )
        if run.returncode:
            raise BuildError(f"`{' '.join(command)}` failed: {run.stderr.strip()[:2000]}")
        made.replace(out)
    except OSError as error:
        raise BuildError(f"`{' '.join(command)}` failed: {error}") from error
    finally:
        made.unlink(missing_ok=True)
    return out


def _compilers() -> Iterator[list[str]]:
    """The commands that may build for this machine."""
    if given := shlex.split(os.environ.get("CC", "")):
        yield given
        return
    yield from ([path] for path in map(shutil.which, ("cc", "gcc", "clang")) if path)
    if importlib.util.find_spec("ziglang") is not None or _kept_zig().is_dir():
        yield [*_ZIG_COMMAND, *ZIG_FLAGS]


# ------------------------------------------------------------------------------------------------ zig

_ZIG_COMMAND: Final = (sys.executable, "-m", "ziglang", "cc")


def _kept_zig() -> Path:
    return CACHE / f"zig-{ZIG_VERSION}"


def _environment() -> dict[str, str]:
    """The environment with zig on Python's path, and with a place for what it keeps that is ours."""
    found = {
        **os.environ,
        "ZIG_GLOBAL_CACHE_DIR": str(CACHE / "zig-cache"),
        "ZIG_LOCAL_CACHE_DIR": str(CACHE / "zig-cache"),
    }
    if _kept_zig().is_dir():
        found["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_kept_zig()), os.environ.get("PYTHONPATH"))))
    return found


def zig_at_hand() -> bool:
    """Whether zig of the version that Azure's library is built by is there without being fetched."""
    try:
        return _kept_zig().is_dir() or version("ziglang") == ZIG_VERSION
    except PackageNotFoundError:
        return False


def _zig() -> list[str]:
    """The command for zig's C compiler, of one version. Raises BuildError when it cannot be installed."""
    if not zig_at_hand():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="zig-", dir=CACHE) as place:
            made = Path(place) / "whole"
            # Apart from the environment: azd runs its hooks by the machine's own Python, into which nothing is to be installed.
            pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", "--no-deps"]
            command = [*pip, "--only-binary=:all:", "--target", str(made), ZIG]
            run = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - pip, with our own arguments
            if run.returncode:
                raise BuildError(
                    f"{ZIG} could not be fetched: `{' '.join(command)}` said {run.stderr.strip()[-400:]!r}"
                )
            # Of two that fetch it at the same time the first one's stays.
            with suppress(OSError):
                made.rename(_kept_zig())
    return [*_ZIG_COMMAND, *ZIG_FLAGS]


# ------------------------------------------------------------------------------------------------ Azure


def misfit(library: bytes) -> str:
    """Why Azure (Linux x86_64) cannot use this library, in words; empty when it can."""
    if library[:6] != b"\x7fELF\x02\x01" or library[18:20] != b"\x3e\x00":
        return "it is not for Linux x86_64"
    if digest().encode() not in library:
        return "it is built of other sources"
    # Names of libraries and of their versions stand in it as plain text.
    if others := {found.decode() for found in re.findall(rb"\0(lib[\w.+-]+\.so[\w.]*)(?=\0)", library)} - OF_THE_SYSTEM:
        return f"it needs {', '.join(sorted(others))}"
    versions = {(int(major), int(minor)) for major, minor in re.findall(rb"\0GLIBC_(\d+)\.(\d+)", library)}
    if b"GLIBC_ABI_" in library or max(versions, default=(0, 0)) > NEWEST_GLIBC:
        return f"it needs a newer glibc than {'.'.join(map(str, NEWEST_GLIBC))}"
    return ""


def main() -> int:
    """Build and say what came of it; 1 when nothing did, unless it is optional."""
    parser = argparse.ArgumentParser(prog="python -m native.build", description="Build the kernel.")
    parser.add_argument("--target", choices=TARGETS, default="", help="default: this machine")
    parser.add_argument("--out", type=Path, default=LIBRARY, metavar="FILE", help="default: native/kernel.so")
    parser.add_argument(
        "--sanitize", action="store_true", help="with gcc's or clang's address and undefined behaviour sanitizers"
    )
    parser.add_argument("--optional", action="store_true", help="without a compiler say so, and go on")
    options = parser.parse_args()
    try:
        build(options.out, options.target, SANITIZED if options.sanitize else ())
    except BuildError as error:
        if not options.optional:
            sys.stderr.write(f"{error}\n")
            return 1
        sys.stderr.write(f"Without the kernel, so loads take longer: {str(error).partition(chr(10))[0]}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
