"""The commands that ask a load what the shipped content finds: `hunt`, `rules`, `alerts`.

Invariant: what is printed is the first of what --json writes, and what is left out is counted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.text import Text

from local import show
from local.alerts import put
from local.detections import Answer, Evaluation, UnknownNameError, as_json, entity_text, evaluate, hunt
from local.sentinel.query import Workspace
from local.stack import StackError

if TYPE_CHECKING:
    Parsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - argparse has no other name for it


def add_parsers(commands: Parsers) -> None:
    """Their grammar."""
    hunted = commands.add_parser("hunt", help="run the hunting queries on the last load")
    hunted.add_argument("name", nargs="?", help="one of them, as its file in sentinel/content/hunting is called")
    ruled = commands.add_parser("rules", help="which analytics rules would fire on the last load, and on what")
    for command in (hunted, ruled):
        command.add_argument("--keep", type=Path, metavar="DIR", help="the load to ask (default: the last one)")
        command.add_argument("--limit", type=int, default=10, help="rows to print of each (default 10)")
        command.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON")
    alerts = commands.add_parser("alerts", help="put alerts in the last load's SecurityAlert, for rules that ask it")
    alerts.add_argument(
        "file", nargs="?", type=Path, help="one JSON object a line (default: made-up ones on its assets)"
    )
    alerts.add_argument("--count", type=int, default=24, help="made-up alerts (default 24)")
    alerts.add_argument("--keep", type=Path, metavar="DIR", help="the load to put them in (default: the last one)")


def _hunt(store: Path, options: argparse.Namespace, console: Console) -> int:
    try:
        answers = hunt(Workspace(store), options.name)
    except UnknownNameError as error:
        raise StackError(str(error)) from error
    for answer in answers:
        hunted(console, answer, options.limit)
    _write(options.json, {one.detection.file: one.named_rows() for one in answers})
    return 0


def _rules(store: Path, options: argparse.Namespace, console: Console) -> int:
    evaluations = evaluate(Workspace(store))
    fired(console, evaluations, options.limit)
    _write(options.json, as_json(evaluations))
    return 0


def _alerts(store: Path, options: argparse.Namespace, console: Console) -> int:
    try:
        count = put(store, options.file, options.count)
    except (OSError, TypeError, ValueError) as error:
        raise StackError(f"{options.file}: {error}") from error
    console.print(f"SecurityAlert has {count} rows", highlight=False)
    return 0


COMMANDS: Final[Mapping[str, Callable[[Path, argparse.Namespace, Console], int]]] = {
    "hunt": _hunt,
    "rules": _rules,
    "alerts": _alerts,
}
"""Each takes the store directory of the load, its options and the console, and gives an exit code."""


def _write(file: Path | None, value: object) -> None:
    if file is not None:
        file.write_text(json.dumps(value, indent=1, default=str))


_LONGEST_TEXT: Final = 44


def hunted(console: Console, answer: Answer, limit: int) -> None:
    """What a hunting query found, under what it asks; identifiers at the row's end are left to the JSON."""
    console.print(
        Text.assemble(
            (answer.detection.name.removeprefix("CAASM - "), "bold"),
            f" · {answer.detection.file} · {len(answer.rows):,}",
        )
    )
    if answer.note:
        console.print(Text(f"· {answer.note}", style="yellow"), soft_wrap=True)
    if not answer.rows:
        console.print("  nothing\n", highlight=False)
        return
    filled = [
        at
        for at, name in enumerate(answer.columns)
        if name not in _NOT_SHOWN and any(row[at] not in (None, "") for row in answer.rows[:limit])
    ]
    shown = _that_fit(filled, answer, limit, console.width)
    rows = [[_shortened(row[at]) for at in shown] for row in answer.rows]
    show.result(console, "", [answer.columns[at] for at in shown], rows, limit)
    if len(shown) < len(filled):
        left = ", ".join(answer.columns[at] for at in filled[len(shown) :])
        console.print(f"  not shown here: {left}", highlight=False)
    console.print()


def _that_fit(columns: Sequence[int], answer: Answer, limit: int, width: int) -> list[int]:
    """The first of the columns, as many as a line has room for without cutting them."""
    shown: list[int] = []
    for at in columns:
        cells = [show.cell(_shortened(row[at])).cell_len for row in answer.rows[:limit]]
        width -= max(len(answer.columns[at]), *cells) + 3
        if width < 0:
            break
        shown.append(at)
    return shown


def _shortened(value: Any, length: int = _LONGEST_TEXT) -> Any:
    return f"{value[: length - 1]}…" if isinstance(value, str) and len(value) > length else value


_NOT_SHOWN: Final = frozenset({"DvcHostname", "DvcDomain", "DvcFQDN", "AssetId", "RunId", "LastSeen", "TimeGenerated"})
"""What says again what another column says, or is for a join: a line of a terminal is short."""


def fired(console: Console, evaluations: Sequence[Evaluation], limit: int) -> None:
    """Which rules fire, then the alerts of each that does."""
    rows = [
        (
            "fires" if one.fires else "silent",
            one.answer.detection.file,
            one.answer.detection.document["severity"],
            len(one.answer.rows),
            one.answer.note,
        )
        for one in evaluations
    ]
    noted = any(row[-1] for row in rows)
    columns = ["", "rule", "severity", "results", *(["note"] if noted else [])]
    show.result(console, "", columns, [row[: len(columns)] for row in rows])
    for evaluation in evaluations:
        if evaluation.fires:
            title = f"{evaluation.answer.detection.name} · {len(evaluation.alerts):,}"
            alerts = [
                (one.severity, _shortened(one.title, 76), _shortened(", ".join(map(entity_text, one.entities)), 48))
                for one in evaluation.alerts
            ]
            show.result(console, title, ["severity", "alert", "entities"], alerts, limit)
