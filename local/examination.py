"""`python -m local doctor`: what is wrong with an installation, of emulators or of what settings name, on the terminal and as JSON.

Invariant: the very checks that `GET /api/health` makes, on clients that `function_app` builds; the exit code is 1 when loads cannot run.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

from doctor.findings import Report
from doctor.rounds import examination

MARKS: Final = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "error": ("✗", "red")}

ENVIRONMENT: Final = "env"


class SettingsFileError(ValueError):
    """The file of settings is not there, or is none."""


def settings_of(named: str) -> dict[str, str]:
    """The environment that is named: `env`, or a local.settings.json, whose values stand before the process's own. Raises SettingsFileError."""
    if named == ENVIRONMENT:
        return dict(os.environ)
    try:
        values = json.loads(Path(named).read_text(encoding="utf-8"))["Values"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsFileError(f"{named}: no settings like local.settings.json's ({type(error).__name__})") from error
    return {**os.environ, **{str(name): str(value) for name, value in values}}


def examined(environment: Mapping[str, str], sources: Sequence[str]) -> Report:
    """The report on an installation with these settings."""
    from function_app import installation

    # It logs what the findings say, at length.
    logging.getLogger("azure.identity").setLevel(logging.CRITICAL)
    return examination(installation(environment), sources)


def show_report(console: Console, report: Report) -> None:
    """A line a finding, aligned; below one that is not ok what to do."""
    widths = [
        max(len(text) for text in column) for column in zip(*((f.id, f.subject) for f in report.findings), strict=True)
    ]
    for finding in report.findings:
        mark, colour = MARKS[finding.severity]
        line = Text.assemble(
            (mark, colour), f" {finding.id:<{widths[0]}}  {finding.subject:<{widths[1]}}  {finding.seen}"
        )
        console.print(line, soft_wrap=True)
        if finding.remedy:
            console.print(Text.assemble("  → ", (finding.remedy, colour), f"  ({finding.link})"), soft_wrap=True)
    counts = {severity: sum(finding.severity == severity for finding in report.findings) for severity in MARKS}
    summary = f"\n{counts['ok']} ok, {counts['warning']} to look at, {counts['error']} wrong · {report.seconds:.1f} s"
    console.print(summary, highlight=False)
