"""Results as text for people: the README's table, a profile of one source's stages."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

JsonDict = dict[str, Any]


def profile_text(lines: Sequence[JsonDict]) -> str:
    """The stages of a source as a table for a terminal: a block per stream, activities with their steps."""
    text: list[str] = []
    for (source, stream), of_stream in groupby(lines, key=lambda line: (line["source"], line["stream"])):
        steps = list(of_stream)
        first = steps[0]
        size_mb = first["source_mb"]
        text += [
            f"{source} {stream}: {first['records']:,} records, {size_mb} MB of source JSON, {first['json_mb']} MB sent",
            _row("", "CPU s", "share", "MB/CPU s", "calls"),
        ]
        whole = sum(step["cpu_s"] for step in steps)
        for activity, group in groupby(steps, key=lambda line: str(line["activity"])):
            inner = list(group)
            cpu_s = sum(step["cpu_s"] for step in inner)
            text.append(_row(activity, f"{cpu_s:.2f}", f"{cpu_s / whole:.0%}", _rate(size_mb, cpu_s), ""))
            text += [
                _row(
                    f"  {s['step']}",
                    f"{s['cpu_s']:.2f}",
                    f"{s['share']:.1%}",
                    _rate(size_mb, s["cpu_s"]),
                    f"{s['calls']:,}",
                )
                for s in inner
            ]
        text += [_row("all", f"{whole:.2f}", "100%", _rate(size_mb, whole), ""), ""]
    return "\n".join(text)


def _row(name: str, *cells: str) -> str:
    return f"{name:<32}" + "".join(f"{cell:>10}" for cell in cells)


def _rate(size_mb: float, cpu_s: float) -> str:
    return f"{size_mb / cpu_s:,.0f}" if cpu_s >= 0.005 else "–"
