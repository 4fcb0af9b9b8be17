"""Sentinel content as files, and what reads them: `functions()` gives the KQL functions that a workspace stores.

A function file is named for its function. Its first line is `// Name(parameters)`, its second `// ` and one sentence of what the function
gives; what follows is the body. So a file is a whole definition, and it still opens in any KQL editor as the query that it is.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

FUNCTIONS_DIRECTORY: Final = Path(__file__).parent / "functions"

_FILE: Final = re.compile(
    r"// (?P<name>\w+)\((?P<parameters>[^\n]*)\)\n// (?P<description>[^\n]+)\n(?P<body>.+)", re.DOTALL
)


class KqlFunction(NamedTuple):
    """A stored function. `parameters` as KQL and a saved search's functionParameters take them: `lookback:timespan = 14d`, no brackets."""

    name: str
    parameters: str
    description: str
    body: str

    @property
    def declaration(self) -> str:
        """`function Name(parameters) { body }`, as duckdb-kql takes a stored function."""
        return f"function {self.name}({self.parameters}) {{\n{self.body}\n}}"


def functions(directory: Path = FUNCTIONS_DIRECTORY) -> list[KqlFunction]:
    """Every function of a directory, by name; raises ValueError for a file that is not one whole definition under its own name."""
    return [_read(path) for path in sorted(directory.glob("*.kql"))]


def _read(path: Path) -> KqlFunction:
    match = _FILE.fullmatch(path.read_text(encoding="utf-8"))
    if match is None:
        raise ValueError(f"{path}: begin with the lines '// Name(parameters)' and '// What it gives.', then the body")
    if match["name"] != path.stem:
        raise ValueError(f"{path}: defines {match['name']!r}; name the file for its function")
    return KqlFunction(match["name"], match["parameters"], match["description"], match["body"].strip())
