"""Every query of the workbook, of the playbooks and of their pages, as Microsoft's language service sees it: one process for all of them."""

from __future__ import annotations

import base64
import re

from local import kqlcheck
from local.kqlcheck import Query, check
from local.sentinel.query import Workspace
from local.watchlist import watchlist_csv
from sentinel.reference import ROOT
from sentinel.reference.playbooks import ENTITIES, INCIDENT_ID, QUERIES
from sentinel.reference.workbook import queries


def test_the_watchlist_s_columns_are_known_to_the_check(workspace: Workspace) -> None:
    """What a rule may read of it is what is in it."""
    (stub,) = (one for one in kqlcheck.workspace()[1] if one.name == "_GetWatchlist")
    assert re.findall(r"(\w+):string", stub.body)[1:] == watchlist_csv(workspace).splitlines()[0].split(",")


def test_every_query_is_right_and_a_wrong_one_is_found() -> None:
    """Tables, columns, functions and types, the parameters replaced as the portal and the workflows do; one query has a misspelled column."""
    filled = base64.b64encode(b"[]").decode()
    asked = [Query(name, text.replace(ENTITIES, filled).replace(INCIDENT_ID, filled)) for name, text in QUERIES.items()]
    asked += [Query(name, text) for name, text in queries()]
    name, text = list(queries("'A','B'"))[1]
    asked += [Query(name, text), Query("broken", text.replace("Criticality", "Critical"))]
    for page in ("workbook.md", "playbooks.md"):
        blocks = re.findall(r"```kusto\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.DOTALL)
        asked += [Query(f"{page}/{at}", block) for at, block in enumerate(blocks)]
    assert {(one.query, one.code) for one in check(asked)} == {("broken", "KS142")}
