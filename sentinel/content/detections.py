"""Analytics rules and hunting queries as the files of the community's repository hold them: `rules()`, `hunting()`.

Invariant: a file is read whole or refused; what is in it is checked by local/contentcheck, and what is deployed is made of it by sentinel.reference.
"""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

from sentinel.content.yaml_subset import YamlError, read

RULES_DIRECTORY: Final = Path(__file__).parent / "rules"
HUNTING_DIRECTORY: Final = Path(__file__).parent / "hunting"

_SPAN: Final = re.compile(r"([1-9][0-9]*)([mhd])")
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days"}


class Detection(NamedTuple):
    """A rule or a hunting query: the name of its file without the suffix, and all that the file says."""

    file: str
    document: dict[str, Any]

    @property
    def name(self) -> str:
        """Its name for people."""
        return str(self.document["name"])

    @property
    def query(self) -> str:
        """Its KQL, without the newline at its end."""
        return str(self.document["query"]).rstrip()

    @property
    def description(self) -> str:
        """What it finds, in a sentence or a few."""
        return str(self.document["description"]).strip()

    @property
    def mapped_columns(self) -> list[tuple[str, str, str]]:
        """Entity type, identifier and column of each mapping, in their order."""
        return [
            (str(mapping["entityType"]), str(field["identifier"]), str(field["columnName"]))
            for mapping in self.document.get("entityMappings", [])
            for field in mapping["fieldMappings"]
        ]


def rules(directory: Path = RULES_DIRECTORY) -> list[Detection]:
    """Every analytics rule of a directory, by file name; raises YamlError, with the file, for what cannot be read."""
    return _detections(directory)


def hunting(directory: Path = HUNTING_DIRECTORY) -> list[Detection]:
    """The same for hunting queries."""
    return _detections(directory)


def _detections(directory: Path) -> list[Detection]:
    found = []
    for path in sorted(directory.glob("*.yaml")):
        try:
            found.append(Detection(path.stem, read(path.read_text(encoding="utf-8"))))
        except YamlError as error:
            raise YamlError(f"{path.name}: {error}") from error
    return found


def span(text: str) -> timedelta:
    """`30m`, `6h`, `14d` as a duration; raises ValueError for any other text."""
    match = _SPAN.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no duration: a whole number of m, h or d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})
