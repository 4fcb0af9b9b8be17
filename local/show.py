"""What the command line shows: live progress, the ledger at the end, query results.

Invariant: the same figures and words as the status and the manifest; on a terminal a live table, elsewhere a line when something changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from rich import box
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from activities.ledger import COUNTS
from local.outcome import Outcome

JsonDict = dict[str, Any]

STAGES = ("exported", "flattened", "accepted", "rejected", "dead_lettered")

TITLES = {"dead_lettered": "dead letters", "possibly_repeated": "possibly repeated"}

COLOURS = {"complete": "green", "incomplete": "yellow", "failed": "red"}


class Progress:
    """Shows a run's custom status as it changes; on a terminal in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=8, transient=True) if console.is_terminal else None
        self._said = ""

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, status: JsonDict) -> None:
        """Show this status."""
        if self._live is not None:
            self._live.update(_live_table(status))
            return
        streams = "  ".join(
            f"{name} {s['exported']:,}→{s['flattened']:,}→{s['accepted']:,}" for name, s in status["streams"].items()
        )
        line = f"{status['source']} {status['phase']:<8} {streams}"
        for trouble in status["trouble"]:
            line += f"  ! {trouble}"
        if line != self._said:
            self._said = line
            self._console.print(f"{status['elapsed_s']:7.1f} s  {line}", highlight=False, soft_wrap=True)


def _live_table(status: JsonDict) -> Table:
    table = Table(
        title=f"{status['source']} · {status['phase']} · {status['elapsed_s']:.0f} s · {status['rate']:,.0f} records/s"
    )
    table.add_column("stream")
    table.add_column("", width=24)
    for stage in STAGES:
        table.add_column(TITLES.get(stage, stage), justify="right")
    table.add_column("lanes", justify="right")
    for name, stream in status["streams"].items():
        total = stream["expected"] or max(stream["exported"], 1)
        bar = ProgressBar(total=total, completed=min(stream["accepted"] + stream["rejected"], total), width=24)
        counts = [f"{stream[stage]:,}" for stage in STAGES]
        table.add_row(name, bar, *counts, f"{stream['lanes_done']}/{stream['lanes']}")
    if status["trouble"]:
        table.caption = Text("\n".join(status["trouble"]), style="yellow")
    return table


def ledger(console: Console, outcome: Outcome) -> None:
    """The end of a load: the ledger per stream, what was set aside and why, traffic and speed."""
    colour = COLOURS[outcome.status]
    headline = Text.assemble(
        f"{outcome.source} · {outcome.mode} · ", (outcome.status, f"bold {colour}"), f" · {outcome.run_id}"
    )
    console.print(headline, soft_wrap=True)
    table = Table()
    table.add_column("")
    columns = dict(outcome.streams)
    if len(columns) > 1:
        columns["all"] = outcome.manifest["totals"]
    for name in columns:
        table.add_column(name, justify="right")
    for count in COUNTS:
        cells = [_figure(count, column[count]) for column in columns.values()]
        table.add_row(TITLES.get(count, count), *cells, end_section=count in {"filtered", "dead_lettered"})
    if outcome.streams:
        console.print(table)
    _traffic(console, outcome)
    for reason in outcome.reasons:
        console.print(Text.assemble(("✗ ", colour), reason), soft_wrap=True)
    for note in outcome.manifest.get("notes", []):
        console.print(Text.assemble(("· ", "cyan"), note), soft_wrap=True)
    for name, figures in outcome.streams.items():
        for reason, count in figures["reasons"].items():
            console.print(Text.assemble(("· ", "yellow"), f"{name}: {count:,} × {reason}"), soft_wrap=True)


def _figure(count: str, number: int) -> Text:
    alarming = number and count in {"rejected", "dead_lettered", "possibly_repeated"}
    return Text(f"{number:,}", style="yellow" if alarming else "")


def _traffic(console: Console, outcome: Outcome) -> None:
    manifest = outcome.manifest
    if not manifest:
        return
    rows, wall_s = manifest["totals"]["rows"], max(outcome.wall_s, 1e-9)
    source_mb = manifest["bytes_exported"] / 1e6
    console.print(
        f"  {source_mb:,.1f} MB read · {manifest['bytes_sent'] / 1e6:,.1f} MB sent ({manifest['bytes_wire'] / 1e6:,.1f} MB compressed) in "
        f"{manifest['requests']:,} requests, {manifest['fill']:.1%} full\n"
        f"  {outcome.wall_s:,.1f} s · {rows / wall_s:,.0f} rows/s · {source_mb / wall_s:,.1f} MB/s · app: {outcome.cpu_s:,.1f} s CPU, "
        f"{outcome.peak_memory_mb:,.0f} MB peak",
        highlight=False,
    )


def result(
    console: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], limit: int = 50
) -> None:
    """A query's result as a table, a line a row; says how many rows were left out."""
    every = list(rows)
    table = Table(title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    numeric = [
        bool(every) and all(isinstance(row[at], int | float | None) for row in every) for at in range(len(columns))
    ]
    for column, is_number in zip(columns, numeric, strict=True):
        table.add_column(column, no_wrap=True, overflow="ellipsis", justify="right" if is_number else "left")
    for row in every[:limit]:
        table.add_row(*(cell(value) for value in row))
    console.print(table)
    if len(every) > limit:
        console.print(f"… and {len(every) - limit:,} more rows")


def cell(value: Any) -> Text:
    if value is None:
        return Text("")
    if isinstance(value, bool):
        return Text(str(value).lower())
    if isinstance(value, int):
        return Text(f"{value:,}")
    if isinstance(value, datetime):
        return Text(f"{value:%Y-%m-%d %H:%M}")
    # Product texts may hold what the terminal would take for markup or a new line.
    return Text(" ".join(str(value).split()))
