"""Throughput and memory over the inventory's size, as an SVG drawn by hand: docs/bench.svg.

Invariant: the same results give the same bytes; nothing but the figures of `end_to_end` is drawn, and the targets as grey lines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

JsonDict = dict[str, Any]

FONT: Final = 'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" font-size="12"'
WIDTH: Final = 960
HEIGHT: Final = 400
COLOURS: Final = {"cycognito": "#0072b2", "device42": "#d55e00", "tenable": "#009e73"}
NAMES: Final = {"cycognito": "CyCognito", "device42": "Device42", "tenable": "Tenable"}
INK: Final = "#24292f"
FAINT: Final = "#8c959f"
GRID: Final = "#eaeef2"

CPU_TARGET: Final = 45.0
WALL_TARGET: Final = 30.0
MEMORY_TARGET: Final = 512.0


@dataclass(frozen=True, slots=True)
class Panel:
    """A chart: where it stands, what its axes hold (x: logarithmic, y: from 0)."""

    left: float
    title: str
    xs: tuple[float, float]
    top: float
    targets: tuple[tuple[float, str], ...]

    width: float = 380.0
    upper: float = 84.0
    lower: float = 330.0

    def x(self, value: float) -> float:
        """Where a size is."""
        low, high = (math.log10(end) for end in self.xs)
        return self.left + self.width * ((math.log10(value) - low) / (high - low) if high > low else 0.5)

    def y(self, value: float) -> float:
        """Where a figure is."""
        return self.lower - (self.lower - self.upper) * value / self.top


def svg(end_to_end: Sequence[JsonDict]) -> str:
    """The picture of the lines of `end_to_end`, at least one: of the loads with relations, the app's default, where there are any."""
    end_to_end = [line for line in end_to_end if line["relations"]] or end_to_end
    sizes = sorted({int(line["assets"]) for line in end_to_end})
    xs = (float(sizes[0]), float(sizes[-1]))
    fastest = max(max(line["source_mb_per_app_cpu_s"], line["source_mb_per_s"]) for line in end_to_end)
    largest = max(line["peak_memory_mb"] for line in end_to_end)
    speed = Panel(
        64,
        "MB of source JSON",
        xs,
        rounded_up(max(fastest, CPU_TARGET) * 1.08),
        ((CPU_TARGET, "target per CPU second"), (WALL_TARGET, "target end to end")),
    )
    memory = Panel(
        548,
        "Peak memory of the app, MB",
        xs,
        rounded_up(max(largest, MEMORY_TARGET) * 1.08),
        ((MEMORY_TARGET, "limit"),),
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" {FONT}>',
        "<title>Throughput and peak memory over the size of the inventory</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#ffffff"/>',
        *_legend(),
        *_axes(speed, sizes),
        *_axes(memory, sizes),
    ]
    for source, group in groupby(sorted(end_to_end, key=lambda line: (line["source"], line["assets"])), key=_source):
        lines = list(group)
        parts += _curve(speed, lines, "source_mb_per_s", source, dashed=True)
        parts += _curve(speed, lines, "source_mb_per_app_cpu_s", source)
        parts += _curve(memory, lines, "peak_memory_mb", source)
    parts += [*_named(speed), *_named(memory)]
    return "\n".join([*parts, "</svg>", ""])


def _source(line: JsonDict) -> str:
    return str(line["source"])


def rounded_up(value: float) -> float:
    """The next 1, 2, 2.5 or 5 times a power of ten with four to eight steps below it."""
    step = 10.0 ** math.floor(math.log10(value / 4))
    for times in (1, 2, 2.5, 5, 10):
        if value / (step * times) <= 6:
            return math.ceil(value / (step * times)) * step * times
    return value


def step_of(top: float) -> float:
    """Between two lines of the grid."""
    rough = top / 6
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * times for times in (1, 2, 2.5, 5, 10) if power * times >= rough * 0.999)


def _text(x: float, y: float, text: str, *, anchor: str = "start", fill: str = INK, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}"{more}>{text}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, stroke: str, more: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}"{more}/>'


def _legend() -> list[str]:
    parts: list[str] = []
    x = 64.0
    for source, colour in COLOURS.items():
        parts += [f'<circle cx="{x + 5:.1f}" cy="28" r="5" fill="{colour}"/>', _text(x + 16, 32, NAMES[source])]
        x += 32 + 7.2 * len(NAMES[source])
    for dash, text in (("", "per CPU second of the app"), (' stroke-dasharray="5 4"', "per second, end to end")):
        parts += [
            _line(x + 12, 28, x + 40, 28, INK, f' stroke-width="2"{dash}'),
            _text(x + 48, 32, text),
        ]
        x += 62 + 6.6 * len(text)
    return parts


def _axes(panel: Panel, sizes: Sequence[int]) -> list[str]:
    right = panel.left + panel.width
    parts = [_text(panel.left, panel.upper - 18, panel.title, more=' font-size="14" font-weight="600"')]
    step, value = step_of(panel.top), 0.0
    while value <= panel.top * 1.001:
        y = panel.y(value)
        parts += [
            _line(panel.left, y, right, y, GRID if value else FAINT),
            _text(panel.left - 8, y + 4, f"{value:,.0f}", anchor="end", fill=FAINT),
        ]
        value += step
    for size in sizes:
        x = panel.x(size)
        parts += [
            _line(x, panel.lower, x, panel.lower + 5, FAINT),
            _text(x, panel.lower + 20, _size(size), anchor="middle", fill=FAINT),
        ]
    parts.append(
        _text(
            panel.left + panel.width / 2, panel.lower + 44, "assets, and as many findings", anchor="middle", fill=FAINT
        )
    )
    for target, _ in panel.targets:
        y = panel.y(target)
        parts.append(_line(panel.left, y, right, y, FAINT, ' stroke-dasharray="2 3"'))
    return parts


def _named(panel: Panel) -> list[str]:
    """The targets' names, above the curves and readable across them."""
    halo = ' font-size="11" stroke="#ffffff" stroke-width="4" paint-order="stroke" stroke-linejoin="round"'
    return [
        _text(panel.left + 10, panel.y(target) - 6, f"{name}: {target:,.0f}", fill=FAINT, more=halo)
        for target, name in panel.targets
    ]


def _size(size: int) -> str:
    for unit, name in ((1_000_000, " M"), (1_000, " k")):
        if size >= unit:
            return f"{size / unit:g}{name}"
    return str(size)


def _curve(panel: Panel, lines: Sequence[JsonDict], figure: str, source: str, *, dashed: bool = False) -> list[str]:
    points = [(panel.x(line["assets"]), panel.y(line[figure])) for line in lines]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    colour = COLOURS[source]
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    fill = "#ffffff" if dashed else colour
    return [
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>',
        *(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{fill}" stroke="{colour}" stroke-width="2"/>'
            for x, y in points
        ),
    ]
