"""What of a simulator outlives its process: a small JSON file of its state, and a log of the pages that it served.

Invariant: the state is replaced whole, so a killed process leaves the last one; what was kept for another inventory is not believed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec


@dataclass(frozen=True)
class StateFile:
    """A state of the simulator that serves `of`: the inventory or the recordings, as a text."""

    path: Path
    of: str

    def read(self) -> Any:
        """The state that was written last; None when there is none, or it is of something else."""
        if not self.path.exists():
            return None
        kept = msgspec.json.decode(self.path.read_bytes())
        return kept["state"] if kept["of"] == self.of else None

    def write(self, state: Any) -> None:
        """Replace the state."""
        fresh = self.path.with_name(self.path.name + ".new")
        fresh.write_bytes(msgspec.json.encode({"of": self.of, "state": state}))
        fresh.replace(self.path)


class PageLog:
    """A JSON line {path, page} for each page that was answered whole; a line is one write, there as soon as the page is."""

    def __init__(self, path: Path) -> None:
        """Go on behind what is in the file."""
        self._file = path.open("ab", buffering=0)

    def served(self, path: str, page: str) -> None:
        """Append a line."""
        self._file.write(msgspec.json.encode({"path": path, "page": page}) + b"\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()
