"""Sentinel content as files, and what reads them: `functions()` gives the KQL functions that a workspace stores, `transforms()` what a DCR does to rows.

Invariant: a file that is not one whole definition under its own name is refused, so that what is read is all that there is.

A transform file is named for its stream without `Custom-`. Its first line is `// <stream> -> <table>`, its second `// ` and one sentence. A stream without a
file is passed as it is (`source`). A function file is named for its function. Its first line is `// Name(parameters)`, its second `// ` and one sentence of what the function
gives; what follows is the body. So a file is a whole definition, and it still opens in any KQL editor as the query that it is.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

FUNCTIONS_DIRECTORY: Final = Path(__file__).parent / "functions"
TRANSFORMS_DIRECTORY: Final = Path(__file__).parent / "transforms"
LEAN_TRANSFORMS_DIRECTORY: Final = TRANSFORMS_DIRECTORY / "lean"
"""Instead of none, for who pays more for long texts than they are worth to him."""

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


_TRANSFORM: Final = re.compile(
    r"// (?P<stream>\S+) -> (?P<table>\w+)\n// (?P<description>[^\n]+)\n(?P<body>.+)", re.DOTALL
)


class KqlTransform(NamedTuple):
    """What a data collection rule does to the rows of a stream on their way to a table; `body` reads `source`."""

    stream: str
    table: str
    description: str
    body: str


def transforms(directory: Path = TRANSFORMS_DIRECTORY) -> dict[str, KqlTransform]:
    """Every transformation of a directory, by stream; raises ValueError for a file that is not one whole definition under its stream's name."""
    found = [_read_transform(path) for path in sorted(directory.glob("*.kql"))]
    return {transform.stream: transform for transform in found}


def _read_transform(path: Path) -> KqlTransform:
    match = _TRANSFORM.fullmatch(path.read_text(encoding="utf-8"))
    if match is None:
        raise ValueError(
            f"{path}: begin with the lines '// Custom-Stream -> Table_CL' and '// What it does.', then the body"
        )
    if match["stream"] != f"Custom-{path.stem}":
        raise ValueError(f"{path}: is about {match['stream']!r}; name the file for its stream")
    return KqlTransform(match["stream"], match["table"], match["description"], match["body"].strip())


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
