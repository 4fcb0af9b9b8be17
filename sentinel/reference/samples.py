"""Sample rows of each table, from the examples of its columns.

Invariant: the rows of all tables belong together, so that a join between the samples finds something; each is as the app sends it.
"""

from __future__ import annotations

import json
from typing import Any

from sentinel.tables import Table


def row(table: Table) -> dict[str, Any]:
    """The one row whose values are the columns' examples, in the table's order."""
    return {
        column.name: list(column.example) if isinstance(column.example, tuple) else column.example
        for column in table.columns
    }


def ndjson(table: Table) -> str:
    """The sample rows of the table, one a line."""
    return json.dumps(row(table), ensure_ascii=False, separators=(",", ":")) + "\n"
