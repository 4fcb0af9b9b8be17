"""The playbooks: their definitions hold together, hold no key, look for redirected incidents first; their queries are right and answer on a loaded workspace."""

from __future__ import annotations

import base64
import copy
import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from infra.check import ROOT
from local.sentinel.decode import decode
from local.sentinel.foreign import put_rows
from local.sentinel.query import Workspace
from local.sentinel.store import Store
from local.watchlist import watchlist_csv
from sentinel.reference.playbooks import (
    ENTITIES,
    INCIDENT_ASSETS,
    INCIDENT_ID,
    PLAYBOOKS,
    REDIRECT_TARGET,
    TICKET_TAG,
    WATCHLIST_ITEMS,
)
from sentinel.tables import ASSETS, FINDINGS, RUNS

Rows = list[dict[str, Any]]
Json = dict[str, Any]

BY_INCIDENT = [name for name in PLAYBOOKS if name != "CAASM-RefreshWatchlist"]
REFERENCE = re.compile(r"\b(body|outputs|actions|items|variables|parameters|result)\('([^']+)'\)")


def walk(actions: Json, before: frozenset[str], inside: frozenset[str]) -> Iterator[tuple[str, Json, set[str], frozenset[str]]]:  # fmt: skip
    """Every action with its name, what has run before it (in its own block and around it), and the blocks that it is in."""
    reach = {name: predecessors(actions, name) for name in actions}
    for name, action in actions.items():
        seen = set(before).union(*({one, *nested(actions[one])} for one in reach[name]))
        yield name, action, seen, inside
        for block in (action.get("actions", {}), action.get("else", {}).get("actions", {})):
            yield from walk(block, frozenset(seen), inside | {name})


def predecessors(actions: Json, name: str) -> set[str]:
    """The actions of a block that have run before one; ValueError for a cycle or a name that is not in the block."""
    found: set[str] = set()
    todo = list(actions[name].get("runAfter", {}))
    while todo:
        one = todo.pop()
        if one == name or one not in actions:
            raise ValueError(f"{name} runs after {one}")
        if one not in found:
            found.add(one)
            todo += actions[one].get("runAfter", {})
    return found


def nested(action: Json) -> set[str]:
    """The names of what is inside of an action."""
    blocks = (action.get("actions", {}), action.get("else", {}).get("actions", {}))
    return {name for block in blocks for one in block for name in (one, *nested(block[one]))}


def own(action: Json) -> str:
    """An action's own text, without what is inside of it."""
    return json.dumps({key: value for key, value in action.items() if key not in ("actions", "else")})


def problems(definition: Json) -> list[str]:
    """What does not hold together in a definition."""
    found: list[str] = []
    try:
        steps = list(walk(definition["actions"], frozenset(), frozenset()))
    except ValueError as error:
        return [str(error)]
    names = [name for name, *_ in steps]
    found += [f"{name} is there twice" for name in {one for one in names if names.count(one) > 1}]
    declared = {
        one["name"] for _, action, *_ in steps if action["type"] == "InitializeVariable" for one in action["inputs"]["variables"]
    }  # fmt: skip
    for name, action, seen, inside in steps:
        text = own(action)
        known = {"variables": declared, "parameters": set(definition["parameters"]), "items": inside | {name}}
        found += [
            f"{name}: {kind}('{target}')"
            for kind, target in REFERENCE.findall(text)
            if target not in known.get(kind, seen | ({target} if target in inside else set()))
        ]
        if action["type"] == "SetVariable" and f"variables('{action['inputs']['name']}')" in text:
            found.append(f"{name} sets a variable to itself")
        if inside and action["type"] == "InitializeVariable":
            found.append(f"{name} is not at the top")
        found += brackets(name, action)
    everything = json.dumps(definition)
    unused = [one for one in definition["parameters"] if f"parameters('{one}')" not in everything]
    return found + [f"parameter {one} is not used" for one in unused]


def brackets(name: str, value: Any) -> list[str]:
    """Texts of an action whose brackets and quotes, outside of KQL, do not pair."""
    if isinstance(value, dict):
        return [one for key, inner in value.items() if key != "query" for one in brackets(name, inner)]
    if isinstance(value, list):
        return [one for inner in value for one in brackets(name, inner)]
    if not isinstance(value, str) or "@" not in value:
        return []
    bare = re.sub(r"'[^']*'", "", value)
    pairs = all(bare.count(opened) == bare.count(closed) for opened, closed in ("()", "[]", "{}"))
    return [] if pairs and "'" not in bare else [f"{name}: {value}"]


def secret_problems(definition: Json) -> list[str]:
    """Requests that do not say who asks, or show what they must not."""
    found = []
    for name, action, *_ in walk(definition["actions"], frozenset(), frozenset()):
        if action["type"] != "Http":
            continue
        secure = set(action.get("runtimeConfiguration", {}).get("secureData", {}).get("properties", []))
        uses = bool(re.search(r"body\('Read_\w*(key|webhook)'\)", own(action)))
        if action["inputs"].get("authentication", {}).get("type") != "ManagedServiceIdentity" and not uses:
            found.append(f"{name} asks as nobody")
        if "vaultUri" in action["inputs"]["uri"] and "outputs" not in secure:
            found.append(f"{name} shows a secret")
        if uses and secure != {"inputs", "outputs"}:
            found.append(f"{name} shows what it sends or gets")
    return found


@pytest.mark.parametrize("name", PLAYBOOKS)
def test_a_definition_holds_together(name: str) -> None:
    """References, order, parameters, brackets; requests with the managed identity; no key."""
    made = PLAYBOOKS[name]()
    assert problems(made) + secret_problems(made) == []
    assert not re.search(r"AccountKey=|SharedAccessKey=|[?&](sig|code)=|Bearer ", json.dumps(made))


def edit(path: list[str], value: Any) -> Callable[[Json], None]:
    """An edit of a definition."""

    def apply(made: Json) -> None:
        for key in path[:-1]:
            made = made[key]
        made[path[-1]] = value

    return apply


SEEDS = {
    "an action that is not there": ("CAASM-EnrichIncident", edit(["actions", "Tags", "inputs", "from"], "@body('Tag_name')"), "Tags: body('Tag_name')"),
    "an action that runs later": ("CAASM-EnrichIncident", edit(["actions", "Comment", "runAfter"], {"If_redirected": ["Succeeded"]}), "Comment: body('Ask_for_assets')"),
    "a cycle": ("CAASM-EnrichIncident", edit(["actions", "Ask_for_assets", "runAfter"], {"Comment": ["Succeeded"]}), "runs after"),
    "a step that is not there": ("CAASM-OpenTicket", edit(["actions", "Tag", "runAfter"], {"Nothing": ["Succeeded"]}), "Tag runs after Nothing"),
    "a variable that is not there": ("CAASM-RefreshWatchlist", edit(["actions", "Names", "inputs", "from"], "@variables('Presents')"), "variables('Presents')"),
    "a variable set to itself": ("CAASM-RefreshWatchlist", edit(["actions", "Until_all_are_read", "actions", "Keep", "inputs", "value"], "@union(variables('Present'), json('[]'))"), "to itself"),
    "a parameter that is not there": ("CAASM-LoadDelta", edit(["parameters"], {}), "parameters('functionApp')"),
    "a bracket": ("CAASM-EnrichIncident", edit(["actions", "Tag_names", "inputs", "where"], "@not(empty(item())"), "Tag_names: @not"),
    "no identity": ("CAASM-EnrichIncident", edit(["actions", "Ask_for_assets", "inputs", "authentication"], {"type": "None"}), "asks as nobody"),
    "a key that shows": ("CAASM-LoadDelta", edit(["actions", "Read_key", "runtimeConfiguration"], {}), "Read_key shows a secret"),
    "an answer that shows": ("CAASM-LoadDelta", edit(["actions", "For_each_source", "actions", "Start_load", "runtimeConfiguration", "secureData", "properties"], ["inputs"]), "Start_load shows"),
}  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
def test_a_mistake_is_found(seed: str) -> None:
    """One edit of a definition, and the checks name it."""
    name, apply, words = SEEDS[seed]
    made = copy.deepcopy(PLAYBOOKS[name]())
    apply(made)
    assert words in "\n".join(problems(made) + (secret_problems(made) if not problems(made) else []))


@pytest.mark.parametrize("name", BY_INCIDENT)
def test_a_redirected_incident_is_left_alone(name: str) -> None:
    """That is asked before anything else; everything else waits for the answer; the target gets a comment, and the run ends."""
    actions = PLAYBOOKS[name]()["actions"]
    assert [one for one in actions if not actions[one]["runAfter"]] == ["Redirect_tags"]
    assert "'redirected'" in actions["Redirect_tags"]["inputs"]["where"]
    asked = actions["If_redirected"]
    assert asked["runAfter"] == {"Redirect_tags": ["Succeeded"]}
    rest = set(actions) - {"Redirect_tags", "If_redirected"}
    assert all("If_redirected" in predecessors(actions, one) for one in rest)
    inner = asked["actions"]
    assert inner["Stop_redirected"]["type"] == "Terminate"
    # Whether the target is found or not, commented on or not.
    assert {"Failed", "Skipped", "Succeeded", "TimedOut"} == set(
        inner["Stop_redirected"]["runAfter"]["If_target_found"]
    )
    commented = inner["If_target_found"]["actions"]["Comment_on_target"]["inputs"]
    assert commented["path"] == "/Incidents/Comment"
    assert "body('Find_target')" in commented["body"]["incidentArmId"]


@pytest.mark.parametrize("name", PLAYBOOKS)
def test_texts_from_outside_reach_kql_as_base64_only(name: str) -> None:
    """What an attacker names a host cannot end the text that it stands in."""
    steps = walk(PLAYBOOKS[name]()["actions"], frozenset(), frozenset())
    asked = [action["inputs"]["body"]["query"] for _, action, *_ in steps if action["type"] == "Http" and "/query" in action["inputs"]["uri"]]  # fmt: skip
    assert asked
    for text in asked:
        assert all(one.startswith("@{base64(") for one in re.findall(r"@\{[^}]*", text))
        assert re.findall(r"@(?!\{)", text) == []


def test_the_load_is_started_through_our_route() -> None:
    """POST loads with a source and a mode; a 202 is not waited for, a lost answer is not asked for again."""
    start = PLAYBOOKS["CAASM-LoadDelta"]()["actions"]["For_each_source"]["actions"]["Start_load"]
    assert start["inputs"]["uri"].endswith("/api/loads")
    assert '@app.route(route="loads", methods=["POST"])' in (ROOT / "function_app.py").read_text(encoding="utf-8")
    assert set(start["inputs"]["body"]) == {"source", "mode"}
    assert start["operationOptions"] == "DisableAsyncPattern"
    assert start["inputs"]["retryPolicy"] == {"type": "none"}


def test_a_ticket_is_opened_once() -> None:
    """The tag that says so is the one that is looked for."""
    actions = PLAYBOOKS["CAASM-OpenTicket"]()["actions"]
    assert actions["Tag"]["inputs"]["body"]["tagsToAdd"]["TagsToAdd"] == [{"Tag": TICKET_TAG}]
    assert f"'{TICKET_TAG}'" in actions["Ticket_tags"]["inputs"]["where"]
    assert "If_open_already" in predecessors(actions, "Open_ticket")


def test_nothing_is_removed_unless_the_inventory_is_whole() -> None:
    """Removal is behind the condition; the queries that it stands on name the columns that it reads."""
    made = PLAYBOOKS["CAASM-RefreshWatchlist"]()
    behind = {name for name, action, _, inside in walk(made["actions"], frozenset(), frozenset()) if action.get("inputs") and "DELETE" in own(action) and "If_whole" in inside}  # fmt: skip
    assert behind == {"Remove_item"}
    assert json.dumps(made).count('"DELETE"') == 1


# ------------------------------------------------------------------------------------------------ queries


def about(query: str, entities: Rows) -> str:
    """The query about entities: what the local engine's base64 cannot do (quotes) is done for it."""
    return query.replace(f"base64_decode_tostring('{ENTITIES}')", "'" + json.dumps(entities).replace("'", "\\'") + "'")


def test_an_incident_gets_what_is_known_of_its_assets(ask: Callable[[str], Rows]) -> None:
    """By host name and by address, the critical ones with their tags; other entities do no harm."""
    critical = "CAASM_Assets | where Criticality == 'Critical'"
    (named,) = ask(f"{critical} and HasEdr == false and isnotempty(DvcHostname) | top 1 by AssetId asc")
    (addressed,) = ask(
        f"{critical} and AssetId != '{named['AssetId']}' and isnotempty(DvcIpAddr) | top 1 by AssetId asc"
    )
    entities = [
        {"kind": "Host", "properties": {"hostName": named["DvcHostname"].upper()}},
        {"kind": "Ip", "properties": {"address": addressed["DvcIpAddr"]}},
        {"kind": "Account", "properties": {"accountName": "o'hara"}},
    ]
    (row,) = ask(about(INCIDENT_ASSETS, entities))
    assert named["AssetName"] in row["Comment"]
    assert addressed["AssetName"] in row["Comment"]
    assert {"CAASM critical asset", "CAASM no EDR"} <= set(row["Tags"].split("|"))
    assert named["AssetId"].split(":")[0] in row["Sources"].split("|")
    assert len(row["Lines"].splitlines()) == row["Assets"] >= 2


def test_an_incident_without_a_known_asset_is_told_so(ask: Callable[[str], Rows]) -> None:
    """One row all the same."""
    (row,) = ask(about(INCIDENT_ASSETS, []))
    assert (row["Assets"], row["Sources"], row["Tags"]) == (0, "", "CAASM unknown asset|")
    assert row["Comment"] == "<p>CAASM knows 0 assets by the names in this incident.</p>"


def test_a_name_that_is_written_to_harm_is_only_a_text(tmp_path: Path) -> None:
    """Markup is escaped, long texts are cut, and an inventory with a gap says so."""
    now = datetime.now(UTC).isoformat()
    product = {"EntityProduct": "P", "EntityVendor": "V"}
    run = {
        "RunId": "r",
        "RunStreamId": "r/assets",
        "SourceName": "p",
        "SourceStream": "assets",
        "RunMode": "full",
        "RunStatus": "failed",
    }
    finding = {
        "FindingId": "p:1",
        "AssetId": "p:a",
        "FindingStatus": "Open",
        "Severity": "Critical",
        "FindingTitle": "x" * 40_000,
    }
    sent = {
        ASSETS: {
            "AssetId": "p:a",
            "AssetName": "<img src=x onerror='a'>&",
            "DvcIpAddr": "10.0.0.1",
            "SourceStream": "assets",
        },
        FINDINGS: {**finding, "SourceStream": "findings"},
        RUNS: {**run, "StartedAt": now},
    }
    store = Store(tmp_path)
    for table, row in sent.items():
        body = json.dumps([{"TimeGenerated": now, **product, **row}]).encode()
        store.add(table.name, decode(body, table, datetime.now(UTC).replace(tzinfo=None)).batch)
    store.flush()
    (answer,) = (
        Workspace(tmp_path).query(about(INCIDENT_ASSETS, [{"kind": "Ip", "properties": {"address": "10.0.0.1"}}])).rows
    )
    assert "<td>&lt;img src=x onerror='a'&gt;&amp;</td>" in answer[0]
    assert "1 streams of the inventory are not complete" in answer[0]
    assert f"{'x' * 300}<" in answer[0]
    assert len(answer[0]) < 2_000


def test_what_the_watchlist_gets_is_what_the_file_has(ask: Callable[[str], Rows], workspace: Workspace) -> None:
    """The same items, with the same columns; an item's key says which it is and in which revision."""
    rows = ask(WATCHLIST_ITEMS)
    sent = [json.loads(row["Item"]) for row in rows]
    filed = list(csv.DictReader(io.StringIO(watchlist_csv(workspace))))
    assert sorted(sent, key=lambda item: item["AssetId"]) == sorted(filed, key=lambda item: item["AssetId"])
    assert list(sent[0]) == list(filed[0])
    assert [row["Key"] for row in rows] == [f"{row['ItemId']}/{json.loads(row['Item'])['Revision']}" for row in rows]


def test_the_target_of_a_redirected_incident_is_found(tmp_path: Path) -> None:
    """The incident of the same id in the portal that is not redirected itself, by its newest row; none where there is none."""
    redirected = [{"labelName": "Redirected", "labelType": "AutoAssigned"}]
    at = "2026-11-20T0{}:00:00Z"
    rows = [
        {"TimeGenerated": at.format(1), "IncidentName": "a", "ProviderIncidentId": "12", "Labels": [], "CreatedTime": at.format(1)},
        {"TimeGenerated": at.format(2), "IncidentName": "a", "ProviderIncidentId": "12", "Labels": redirected, "CreatedTime": at.format(1)},
        {"TimeGenerated": at.format(1), "IncidentName": "b", "ProviderIncidentId": "12", "Labels": [], "CreatedTime": at.format(2)},
        {"TimeGenerated": at.format(1), "IncidentName": "c", "ProviderIncidentId": "13", "Labels": [], "CreatedTime": at.format(2)},
    ]  # fmt: skip
    put_rows(tmp_path, "SecurityIncident", rows)
    workspace = Workspace(tmp_path)

    def target(number: str) -> list[list[Any]]:
        text = REDIRECT_TARGET.replace(INCIDENT_ID, base64.b64encode(number.encode()).decode())
        return workspace.query(text.replace("ago(30d)", "datetime(2026-11-01)")).rows

    assert target("12") == [["b"]]
    assert target("14") == []
