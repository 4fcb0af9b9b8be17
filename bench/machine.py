"""What the figures were measured on, and the CPU time of other processes.

Invariant: nothing here names the machine or its user; CPU time is that of a process and its children.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import native

PACKAGES = (
    "azure-functions-durable",
    "azure-monitor-ingestion",
    "azure-storage-blob",
    "isal",
    "msgspec",
    "polars",
    "pyarrow",
)


def machine() -> dict[str, Any]:
    """Processor, cores, memory in GB, system, Python, the versions of the packages that do the work, and whether the kernel does some of it."""
    return {
        "cpu": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "kernel": native.kernel() is not None,
    }


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        for line in facts.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        return subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
        ).stdout.strip()
    return platform.processor() or platform.machine()


def cpu_s(pid: int) -> float:
    """CPU seconds, user and system, of a running process, its children, and those of them that have ended; 0 when it is gone."""
    try:
        if Path("/proc/self/stat").exists():
            return _from_proc(pid)
        return _from_ps(pid)
    except (OSError, ValueError):
        return 0.0


def _from_proc(pid: int) -> float:
    # The command, in parentheses, may hold blanks; what follows does not.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = sum(int(ticks) for ticks in fields[11:15]) / os.sysconf("SC_CLK_TCK")
    children = [child for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]
    return own + sum(_from_proc(int(child)) for child in children)


def _from_ps(pid: int) -> float:
    said = subprocess.run(["ps", "-o", "time=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    seconds = 0.0
    for part in said.strip().replace("-", ":").split(":"):
        seconds = seconds * 60 + float(part)
    return seconds


def busy_s() -> float | None:
    """CPU seconds that all processes of the machine have used since it started; None where the kernel does not say."""
    counters = Path("/proc/stat")
    if not counters.exists():
        return None
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, counters.read_text().split(maxsplit=9)[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
