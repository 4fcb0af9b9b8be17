"""The watchlist of critical assets as a file: `watchlist_csv(workspace)` gives what Sentinel takes as the watchlist's content.

Invariant: columns and rows are those of the function CAASM_CriticalAssets, so a file that is uploaded by hand and the refresh in Azure
(sentinel/content/playbooks) write the same items.
"""

from __future__ import annotations

import csv
import io

from local.sentinel.query import Workspace

ALIAS = "CAASM_CriticalAssets"
SEARCH_KEY = "AssetId"

NOT_IN_ITEMS = frozenset({"ItemId", "IsInventoryComplete"})
"""Columns of the function that tell the refresh what to do, and are no part of an item."""


def watchlist_csv(workspace: Workspace) -> str:
    """The critical assets of a workspace, one a line, by their key, under a line of column names. Raises QueryError."""
    answer = workspace.query(f"{ALIAS} | order by {SEARCH_KEY} asc")
    kept = [(at, column.name) for at, column in enumerate(answer.columns) if column.name not in NOT_IN_ITEMS]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(name for _, name in kept)
    writer.writerows([row[at] for at, _ in kept] for row in answer.rows)
    return text.getvalue()
