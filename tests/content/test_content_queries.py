"""Every query of the workbook and of the playbooks, as Microsoft's language service sees it: one process for all of them."""

from __future__ import annotations

import base64

from local.kqlcheck import Query, check
from sentinel.reference.playbooks import ENTITIES, INCIDENT_ID, QUERIES
from sentinel.reference.workbook import queries


def test_every_query_is_right_and_a_wrong_one_is_found() -> None:
    """Tables, columns, functions and types, the parameters replaced as the portal and the workflows do; one query has a misspelled column."""
    filled = base64.b64encode(b"[]").decode()
    asked = [Query(name, text.replace(ENTITIES, filled).replace(INCIDENT_ID, filled)) for name, text in QUERIES.items()]
    asked += [Query(name, text) for name, text in queries()]
    name, text = list(queries("'A','B'"))[1]
    asked += [Query(name, text), Query("broken", text.replace("Criticality", "Critical"))]
    assert {(one.query, one.code) for one in check(asked)} == {("broken", "KS142")}
