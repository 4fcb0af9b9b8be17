"""Builds the kernel: `python -m native.build`."""

from __future__ import annotations

import shutil
import subprocess
import sys

from native import LIBRARY, digest, sources

FLAGS = ["-std=c11", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra"]


def build() -> None:
    compiler = shutil.which("cc")
    assert compiler
    files = [str(path) for path in sources() if path.suffix == ".c"]
    made = LIBRARY.with_suffix(".tmp")
    subprocess.run([compiler, *FLAGS, f'-DKERNEL_SOURCES="{digest()}"', *files, "-o", str(made)], check=True)
    made.replace(LIBRARY)


if __name__ == "__main__":
    sys.exit(build())
