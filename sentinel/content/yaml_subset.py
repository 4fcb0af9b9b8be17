"""Reads the YAML of rules and hunting queries: `read(text)` gives mappings, lists, texts, whole numbers and truths.

Invariant: what is read is what every YAML 1.1 and 1.2 parser reads; whatever two of them could read differently (yes, True, 1.5, 012, tabs, anchors, flow
collections, folded blocks, a text with a colon or a hash in it without quotes) is refused with its line, so that the community's tools see what we see.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

_ENTRY: Final = re.compile(r"(?P<key>[A-Za-z][A-Za-z0-9_]*):(?: +(?P<value>\S.*))?")
_NUMBER: Final = re.compile(r"0|[1-9][0-9]*")
_AMBIGUOUS: Final = re.compile(
    r"(?i:y|n|yes|no|on|off|true|false|null|~)|[-+.]?[0-9][0-9_]*(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?|0[xob].*|[0-9]+:.*|\d{4}-\d\d?-\d\d?.*"
)
_INDICATORS: Final = "!&*-?|>@`%#{}[],:\"'="


class YamlError(ValueError):
    """A text outside of the subset, with its line."""


class _Line(NamedTuple):
    number: int
    indent: int
    text: str


def read(text: str) -> dict[str, Any]:
    """The mapping that a document is. Raises YamlError."""
    reader = _Reader(text)
    document = reader.mapping(0)
    if reader.at < len(reader.lines):
        raise _error(reader.lines[reader.at], "not indented like what goes before")
    return document


def _error(line: _Line, words: str) -> YamlError:
    return YamlError(f"line {line.number}: {words}: {line.text!r}")


class _Reader:
    def __init__(self, text: str) -> None:
        self.raw = text.split("\n")
        self.lines = [
            _Line(number, len(line) - len(line.lstrip(" ")), line.strip(" "))
            for number, line in enumerate(self.raw, 1)
            if line.strip(" ") and not line.lstrip(" ").startswith("#")
        ]
        self.at = 0

    def _here(self, indent: int) -> _Line | None:
        """The next line when it begins at that indent; raises YamlError when it is further in, or has a tab."""
        if self.at == len(self.lines):
            return None
        line = self.lines[self.at]
        if "\t" in line.text:
            raise _error(line, "a tab")
        if line.indent > indent:
            raise _error(line, "indented further than what goes before")
        return line if line.indent == indent else None

    def mapping(self, indent: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while (line := self._here(indent)) is not None and not line.text.startswith("- "):
            self.at += 1
            self._entry(line, indent, found)
        return found

    def _entry(self, line: _Line, indent: int, found: dict[str, Any]) -> None:
        match = _ENTRY.fullmatch(line.text)
        if match is None:
            raise _error(line, "no 'key: value'")
        if match["key"] in found:
            raise _error(line, "the key is there twice")
        value = match["value"]
        if value in ("|", "|-"):
            found[match["key"]] = self._literal(line, indent, keep_newline=value == "|")
        elif value is None:
            found[match["key"]] = self._nested(line, indent)
        else:
            found[match["key"]] = _scalar(line, value)

    def _nested(self, line: _Line, indent: int) -> Any:
        if self.at == len(self.lines):
            raise _error(line, "no value")
        below = self.lines[self.at]
        if below.text.startswith("- ") and below.indent >= indent:
            return self._sequence(below.indent)
        if below.indent <= indent:
            raise _error(line, "no value")
        return self.mapping(below.indent)

    def _sequence(self, indent: int) -> list[Any]:
        found: list[Any] = []
        while (line := self._here(indent)) is not None and line.text.startswith("- "):
            item = line.text[2:].strip(" ")
            inner = indent + len(line.text) - len(item)
            if _ENTRY.fullmatch(item):
                # The first entry stands behind the dash, the others below it.
                self.lines[self.at] = _Line(line.number, inner, item)
                found.append(self.mapping(inner))
            else:
                self.at += 1
                found.append(_scalar(line, item))
        return found

    def _literal(self, line: _Line, indent: int, *, keep_newline: bool) -> str:
        """A block of text as it stands, without its indent."""
        number, inside = line.number, list[str]()
        while number < len(self.raw) and (
            not self.raw[number].strip() or self.raw[number].startswith(" " * (indent + 1))
        ):
            inside.append(self.raw[number])
            number += 1
        while self.at < len(self.lines) and self.lines[self.at].number <= number:
            self.at += 1
        while inside and not inside[-1].strip():
            inside.pop()
        if not inside or not inside[0].strip():
            raise _error(line, "an empty block, or one that begins with an empty line")
        margin = len(inside[0]) - len(inside[0].lstrip(" "))
        if any(text.strip() and not text.startswith(" " * margin) for text in inside):
            raise _error(line, "a line of the block is indented less than its first")
        return "\n".join(text[margin:] for text in inside) + ("\n" if keep_newline else "")


def _scalar(line: _Line, text: str) -> Any:
    if text == "[]":
        return []
    if len(text) > 1 and text[0] == text[-1] == "'":
        if "'" in text[1:-1].replace("''", ""):
            raise _error(line, "a quote in a quoted text")
        return text[1:-1].replace("''", "'")
    if len(text) > 1 and text[0] == text[-1] == '"':
        if '"' in text[1:-1] or "\\" in text:
            raise _error(line, "a quote or a backslash in a text in double quotes")
        return text[1:-1]
    if text in ("true", "false"):
        return text == "true"
    if _NUMBER.fullmatch(text):
        return int(text)
    if _AMBIGUOUS.fullmatch(text) or text[0] in _INDICATORS or ": " in text or " #" in text or text.endswith(":"):
        raise _error(line, "needs quotes")
    return text
