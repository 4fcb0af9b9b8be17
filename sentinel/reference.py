"""The column reference, from the table contract: `python -m sentinel.reference` writes docs/columns.md.

Invariant: the file is generated; a test holds it against the contract.
"""

from __future__ import annotations

from pathlib import Path

from sentinel.tables import TABLES, Table

PAGE = Path(__file__).resolve().parent.parent / "docs" / "columns.md"

_HEAD = """# Columns

Generated from `sentinel/tables.py` by `make generate`; do not edit. ASIM has no schema for a device inventory or for findings: the names in the third column are borrowed
where ASIM has a word, the tables do not claim to conform. `dynamic` columns hold an array of strings. An absent boolean means that the product cannot tell.
"""


def markdown() -> str:
    """The page: a section per table, a row per column."""
    return "\n".join([_HEAD, *(_section(table) for table in TABLES)])


def _section(table: Table) -> str:
    lines = [f"## {table.name}", "", f"{table.description} Key: `{table.key}`. DCR stream: `{table.stream}`.", ""]
    lines += ["| column | type | ASIM | what it holds |", "| --- | --- | --- | --- |"]
    lines += [f"| `{c.name}` | {c.type} | {f'`{c.asim}`' if c.asim else ''} | {c.description} |" for c in table.columns]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PAGE.write_text(markdown(), encoding="utf-8")
