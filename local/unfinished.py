"""What a command has asked for and what came of it, in the directory that it keeps: for the same command, should this one be killed.

Invariant: the file is there only while its command has not ended. A load that ended complete or incomplete is not asked for again by the command that goes
on; one that failed is, and takes up its run.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from local.outcome import Outcome

JsonDict = dict[str, Any]


class Unfinished:
    """The file of one command; without a path nothing is kept."""

    def __init__(self, path: Path | None, command: JsonDict) -> None:
        """Go on with what is in the file, when it is of an equal command."""
        self._path = path
        self._kept: JsonDict = {"command": command, "asked_at": {}, "ended": {}}
        if path is not None and path.exists():
            found = json.loads(path.read_text())
            if found["command"] == command:
                self._kept = found

    def ended(self, source: str) -> Outcome | None:
        """What the load of the source came to, when it ended before the command was killed."""
        outcome = self._kept["ended"].get(source)
        return Outcome(**outcome) if outcome is not None else None

    def asked_at(self, source: str) -> str:
        """When the load of the source was asked for whose end the command has not seen, as Durable writes times; empty for never."""
        return str(self._kept["asked_at"].get(source, ""))

    def asking(self, source: str) -> None:
        """The source's load is about to be asked for, if it was not before."""
        self._kept["asked_at"].setdefault(source, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
        self._write()

    def has_ended(self, outcome: Outcome) -> None:
        """The load has ended so."""
        self._kept["asked_at"].pop(outcome.source, None)
        if outcome.status != "failed":
            self._kept["ended"][outcome.source] = asdict(outcome)
        self._write()

    def close(self) -> None:
        """The command has done all that it was to do."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        if self._path is not None:
            fresh = self._path.with_suffix(".new")
            fresh.write_text(json.dumps(self._kept, indent=1))
            fresh.replace(self._path)
