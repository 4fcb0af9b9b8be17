"""The reader of rule files takes what every YAML parser reads alike, and nothing else."""

from __future__ import annotations

import pytest

from sentinel.content.detections import HUNTING_DIRECTORY, RULES_DIRECTORY, hunting, rules, span
from sentinel.content.yaml_subset import YamlError, read

DOCUMENT = """# A comment.
id: 3f2c
count: 14
zero: 0
on_hold: false
version: 1.0.0
title: 'it''s {{Name}}: "quoted"'
other: "no: problem"
empty: []
text: |
  one # no comment
    two: further in

  # a line of the text

kept: |-
  without
list:
  - one
  - 2
same:
- at the key's indent
nested:
  deep:
    deeper: 1d
mappings:
  - kind: Host
    fields:
      - name: a
        column: A
      - name: b
        column: B
  - kind: IP
    fields: []
"""


def test_a_document_is_read_as_it_is_written() -> None:
    """Mappings, lists, mappings in lists, literal blocks, quotes, numbers, truths, comments."""
    assert read(DOCUMENT) == {
        "id": "3f2c",
        "count": 14,
        "zero": 0,
        "on_hold": False,
        "version": "1.0.0",
        "title": 'it\'s {{Name}}: "quoted"',
        "other": "no: problem",
        "empty": [],
        "text": "one # no comment\n  two: further in\n\n# a line of the text\n",
        "kept": "without",
        "list": ["one", 2],
        "same": ["at the key's indent"],
        "nested": {"deep": {"deeper": "1d"}},
        "mappings": [
            {"kind": "Host", "fields": [{"name": "a", "column": "A"}, {"name": "b", "column": "B"}]},
            {"kind": "IP", "fields": []},
        ],
    }


@pytest.mark.parametrize(
    "text",
    [
        "a: yes", "a: No", "a: ~", "a: 1.5", "a: 1_000", "a: 012", "a: 0x1f", "a: 1:30", "a: 2026-01-01", "a: True", "a: -1", "a: .5",
        "a: {b: c}", "a: [b]", "a: &x b", "a: *x", "a: !tag b", "a: >", "a: b: c", "a: b # c", "a: 'b", "a: 'b'c'", 'a: "b\\n"', "a: %b", "a: @b", "a:",
        "a: b\na: c", "a: b\n  c: d", "a:\n  b: c\n d: e", "- a", "a:\n\tb: c", "a: |\n", "a: |\n  b\n c", "just text", "a:\n  - b\n  c: d", "a: b\n---\nc: d",
        "a: |+\n  b", "a: c:",
    ],
)  # fmt: skip
def test_what_parsers_could_read_differently_is_refused(text: str) -> None:
    """With the line, instead of a guess."""
    with pytest.raises(YamlError, match=r"line \d+: "):
        read(text)


def test_every_file_is_read() -> None:
    """One detection a file, named for it."""
    for directory, found in ((RULES_DIRECTORY, rules()), (HUNTING_DIRECTORY, hunting())):
        assert [one.file for one in found] == sorted(path.stem for path in directory.iterdir())
        assert all(one.query and one.name and one.description for one in found)


def test_a_file_that_cannot_be_read_is_named(tmp_path: object) -> None:
    """So that somebody can find it among twenty."""
    from pathlib import Path

    directory = Path(str(tmp_path))
    (directory / "Broken.yaml").write_text("a: yes\n")
    with pytest.raises(YamlError, match=r"Broken\.yaml: line 1"):
        rules(directory)


def test_durations() -> None:
    """Minutes, hours, days; anything else is refused."""
    assert [span(text).total_seconds() for text in ("5m", "1h", "14d")] == [300, 3600, 1_209_600]
    for text in ("0d", "1w", "PT1H", "1.5h", ""):
        with pytest.raises(ValueError, match="no duration"):
            span(text)
