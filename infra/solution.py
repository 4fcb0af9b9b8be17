"""The solution package: `python -m infra.solution` writes build/solution/ out of sentinel/content.

    Solutions/CAASM/     as the community's repository (Azure-Sentinel) has a solution: Data, metadata, content, Package with its templates and zip
    .script/…            the tables, for that repository's own KQL check
    repositories/        the same content as ARM templates, one per item, for Sentinel Repositories (CI/CD)

Invariant: the same tree gives the same bytes. Rules and hunting queries are the files of sentinel/content, and what is made of them is what Bicep deploys.
Microsoft's packaging tool (createSolutionV3.ps1) has not been run: the templates have its shape, as its published outputs show it.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import sys
import uuid
import zipfile
from pathlib import Path
from typing import Any, Final

from infra.package import BUILD, EPOCH, ROOT
from infra.solution_arm import (
    SAVED_SEARCH_API,
    WORKSPACES,
    Item,
    Json,
    escaped,
    function_properties,
    installed,
    main_template,
    playbook,
    rule,
    saved_search,
    template,
    text,
    workbook_resource,
    workspace_parameter,
)
from infra.solution_pages import connector, create_ui
from sentinel.content import KqlFunction, functions
from sentinel.content.detections import HUNTING_DIRECTORY, RULES_DIRECTORY, Detection, hunting, rules
from sentinel.reference.detections import hunting_json, rules_json
from sentinel.reference.playbooks import PLAYBOOKS
from sentinel.reference.workbook import TITLE, workbook

CONTENT: Final = ROOT / "sentinel" / "content"

PLAYBOOK_WORDS: Final = {
    "CAASM-EnrichIncident": ("Enrich an incident with CAASM context", "Owner, criticality, exposure, EDR and open findings of the incident's assets, as a comment and tags."),
    "CAASM-OpenTicket": ("Open a ticket for an incident", "Posts the incident and its assets to a webhook, once an incident."),
    "CAASM-LoadDelta": ("Load the delta of an incident's assets", "Starts a delta load of each CAASM source that knows the incident's assets."),
    "CAASM-RefreshWatchlist": ("Refresh the watchlist of critical assets", "Each day makes the items of the watchlist those of CAASM_CriticalAssets, also those that are to go."),
}  # fmt: skip
"""Title and description of each playbook."""

_NAMESPACE: Final = uuid.UUID("b3a1c9f2-6f0e-4f57-9a53-3a4de1c0a8d7")


def solution() -> Json:
    """What is said of the solution as a whole."""
    found: Json = json.loads((CONTENT / "solution.json").read_text(encoding="utf-8"))
    return found


def parser_yaml(function: KqlFunction, words: Json) -> str:
    """A function as the community's solutions hold parsers."""
    body = "".join(f"    {line}\n" if line else "\n" for line in function.body.splitlines())
    given = "".join(f"  - {one.strip()}\n" for one in function.parameters.split(","))
    return (
        f"id: {uuid.uuid5(_NAMESPACE, function.name)}\n"
        f"Function:\n  Title: {function.name}\n  Version: '{words['contentVersion']}'\n  LastUpdated: '{words['lastPublishDate']}'\n"
        f"Category: Microsoft Sentinel Parser\nFunctionName: {function.name}\nFunctionAlias: {function.name}\nFunctionParams:\n{given}FunctionQuery: |\n{body}"
    )


def playbook_template(name: str, words: Json) -> Json:
    """azuredeploy.json of a playbook."""
    title, description = PLAYBOOK_WORDS[name]
    by_incident = "$connections" in PLAYBOOKS[name]()["parameters"]
    metadata = {
        "title": title,
        "description": description,
        "prerequisites": "The tables and functions of caasm-sentinel; for tickets and loads a key vault with the secrets that docs/playbooks.md names.",
        "postDeployment": ["Give the playbook's identity its roles: docs/playbooks.md of caasm-sentinel."],
        "lastUpdateTime": f"{words['lastPublishDate']}T00:00:00.000Z",
        "entities": ["Host", "Ip"] if by_incident else [],
        "tags": ["Enrichment"] if by_incident else ["Watchlist"],
        "support": {"tier": words["tier"].lower()},
        "author": {"name": words["publisher"]},
        "releaseNotes": {"version": "1.0", "title": title, "notes": ["First version."]},
    }
    return playbook(name, PLAYBOOKS[name](), metadata)


def items(words: Json) -> list[Item]:
    """Every piece of content that the solution lists."""
    version = words["contentVersion"]
    made = [_rule_item(found, entry) for found, entry in zip(rules(), json.loads(rules_json()), strict=True)]
    made += [_hunting_item(found, entry) for found, entry in zip(hunting(), json.loads(hunting_json()), strict=True)]
    made += [_function_item(function, version) for function in functions()]
    workbook_id = "CAASMWorkbook"
    resource = workbook_resource(workbook())
    resource["name"] = workbook_id
    made.append(
        Item("Workbook", "wb", workbook_id, TITLE, "Coverage, exposure, severity, ownership, evidence, pipeline.", version, f"resourceId('Microsoft.Insights/workbooks', '{workbook_id}')", [resource], "Workbooks/CAASM.json")
    )  # fmt: skip
    for name in PLAYBOOKS:
        deployed = playbook_template(name, words)
        resources = escaped(deployed["resources"])
        made.append(
            Item("Playbook", "pl", name, PLAYBOOK_WORDS[name][0], PLAYBOOK_WORDS[name][1], version, f"resourceId('Microsoft.Logic/workflows', '{name}')", resources, f"Playbooks/{name}/azuredeploy.json", escaped(deployed["parameters"]), escaped(deployed.get("variables", {})))
        )  # fmt: skip
    page = connector(words)
    resource = {
        "type": f"{WORKSPACES}/providers/dataConnectors",
        "apiVersion": "2021-03-01-preview",
        "name": f"[concat(parameters('workspace'),'/Microsoft.SecurityInsights/','{page['id']}')]",
        "location": "[parameters('workspace-location')]",
        "kind": "GenericUI",
        "properties": {"connectorUiConfig": escaped(page)},
    }
    parent = f"extensionResourceId(resourceId('{WORKSPACES}', parameters('workspace')), 'Microsoft.SecurityInsights/dataConnectors', '{page['id']}')"
    made.append(
        Item("DataConnector", "dc", page["id"], page["title"], "The tables of caasm-sentinel.", version, parent, [resource], "Data Connectors/CaasmSentinel.json")
    )  # fmt: skip
    return made


def _rule_item(found: Detection, entry: Json) -> Item:
    resource = {
        "type": "Microsoft.SecurityInsights/AlertRuleTemplates",
        "apiVersion": "2023-02-01-preview",
        "name": entry["id"],
        "kind": entry["kind"],
        "location": "[parameters('workspace-location')]",
        "properties": {**escaped(entry["properties"]), "enabled": False, "status": "Available", "requiredDataConnectors": []},
    }  # fmt: skip
    parent = f"resourceId('Microsoft.SecurityInsights/AlertRuleTemplates', '{entry['id']}')"
    version = str(found.document["version"])
    return Item("AnalyticsRule", "ar", entry["id"], found.name, found.description, version, parent, [resource], f"Analytic Rules/{found.file}.yaml")  # fmt: skip


def _hunting_item(found: Detection, entry: Json) -> Item:
    resource = {
        "type": "Microsoft.OperationalInsights/savedSearches",
        "apiVersion": SAVED_SEARCH_API,
        "name": f"{found.file}_Hunting_Query",
        "location": "[parameters('workspace-location')]",
        "properties": {"eTag": "*", **escaped(entry["properties"])},
    }
    parent = f"resourceId('Microsoft.OperationalInsights/savedSearches', '{entry['id']}')"
    version = str(found.document["version"])
    return Item("HuntingQuery", "hq", entry["id"], found.name, found.description, version, parent, [resource], f"Hunting Queries/{found.file}.yaml")  # fmt: skip


def _function_item(function: KqlFunction, version: str) -> Item:
    resource = {
        **saved_search(function.name, {**function_properties(function), "category": "Microsoft Sentinel Parser"}),
        "location": "[parameters('workspace-location')]",
    }
    resource["properties"] = {"eTag": "*", **resource["properties"]}
    parent = f"resourceId('{WORKSPACES}/savedSearches', parameters('workspace'), '{function.name}')"
    return Item("Parser", "pr", f"{function.name}-Parser", function.name, function.description, version, parent, [resource], f"Parsers/{function.name}.yaml")  # fmt: skip


def watchlist() -> Json:
    """The watchlist, empty: the playbook fills it."""
    return {
        "type": f"{WORKSPACES}/providers/Watchlists",
        "apiVersion": "2025-09-01",
        "name": "[concat(parameters('workspace'),'/Microsoft.SecurityInsights/CAASM_CriticalAssets')]",
        "properties": {
            "displayName": "CAASM_CriticalAssets",
            "watchlistAlias": "CAASM_CriticalAssets",
            "description": "Critical assets, as the last loads have them.",
            "provider": "caasm-sentinel",
            "source": "CAASM_CriticalAssets",
            "itemsSearchKey": "AssetId",
        },
    }


def data_file(found: list[Item], words: Json) -> Json:
    """Data/Solution_*.json, from which Microsoft's tool would make the package."""

    def of(kind: str) -> list[str]:
        return [item.file for item in found if item.kind == kind]

    return {
        "Name": words["name"],
        "Author": f"{words['publisher']} - {words['email']}",
        "Logo": words["logo"],
        "Description": words["description"],
        "Data Connectors": of("DataConnector"),
        "Parsers": of("Parser"),
        "Workbooks": of("Workbook"),
        "Analytic Rules": of("AnalyticsRule"),
        "Hunting Queries": of("HuntingQuery"),
        "Playbooks": of("Playbook"),
        "Watchlists": ["Watchlists/CAASM_CriticalAssets.json"],
        "BasePath": f"C:\\GitHub\\Azure-Sentinel\\Solutions\\{words['name']}",
        "Version": words["version"],
        "Metadata": "SolutionMetadata.json",
        "TemplateSpec": True,
        "Is1PConnector": False,
    }


def _metadata_file(words: Json) -> Json:
    support = {"name": words["publisher"], "email": words["email"], "tier": words["tier"], "link": words["link"]}
    return {
        "publisherId": words["publisherId"],
        "offerId": words["offerId"],
        "firstPublishDate": words["firstPublishDate"],
        "lastPublishDate": words["lastPublishDate"],
        "providers": [words["publisher"]],
        "categories": {"domains": ["Security - Vulnerability Management"], "verticals": []},
        "support": support,
    }


def _standing(found: list[Item], words: Json) -> list[Json]:
    """Functions, because rules are tested against them when they are made; the connector's page; the watchlist."""
    at_once = [item for item in found if item.kind in ("Parser", "DataConnector")]
    return [*(one for item in at_once for one in installed(item, words)), watchlist()]


def _solution_files(found: list[Item], words: Json) -> dict[str, str]:
    listed = template([watchlist()], {"workspace": workspace_parameter()["workspace"]})
    notes = f"| **Version** | **Date Modified (DD-MM-YYYY)** | **Change History** |\n|---|---|---|\n| {words['version']} | {'-'.join(reversed(words['lastPublishDate'].split('-')))} | Initial solution release |\n"  # fmt: skip
    return {
        f"Data/Solution_{words['name']}.json": text(data_file(found, words)),
        "SolutionMetadata.json": text(_metadata_file(words)),
        "ReleaseNotes.md": notes,
        "Data Connectors/CaasmSentinel.json": text(connector(words)),
        "Workbooks/CAASM.json": workbook(),
        "Watchlists/CAASM_CriticalAssets.json": text(listed),
        "Package/mainTemplate.json": text(main_template(found, _standing(found, words), words)),
        "Package/createUiDefinition.json": text(create_ui(found, words)),
        "Package/testParameters.json": text({"location": {"type": "string"}, "workspace-location": {"type": "string"}, "workspace": {"type": "string"}}),
        **{f"Analytic Rules/{one.file}.yaml": (RULES_DIRECTORY / f"{one.file}.yaml").read_text(encoding="utf-8") for one in rules()},
        **{f"Hunting Queries/{one.file}.yaml": (HUNTING_DIRECTORY / f"{one.file}.yaml").read_text(encoding="utf-8") for one in hunting()},
        **{f"Parsers/{one.name}.yaml": parser_yaml(one, words) for one in functions()},
        **{f"Playbooks/{name}/azuredeploy.json": text(playbook_template(name, words)) for name in PLAYBOOKS},
    }  # fmt: skip


def _repository_files(words: Json) -> dict[str, str]:
    given = workspace_parameter()
    return {
        **{f"AnalyticsRules/{one['file']}.json": text(template([rule(one)], given)) for one in json.loads(rules_json())},
        **{f"HuntingQueries/{one['file']}.json": text(template([saved_search(one["id"], one["properties"])], given)) for one in json.loads(hunting_json())},
        **{f"Parsers/{one.name}.json": text(template([saved_search(one.name, function_properties(one))], given)) for one in functions()},
        "Workbooks/CAASM.json": text(template([workbook_resource(workbook())], given)),
        **{f"Playbooks/{name}.json": text(playbook_template(name, words)) for name in PLAYBOOKS},
    }  # fmt: skip


def files() -> dict[str, bytes]:
    """Everything that is built: path below build/solution, and bytes."""
    words = solution()
    found = items(words)
    package = _solution_files(found, words)
    made = {f"Solutions/{words['name']}/{path}": content.encode() for path, content in package.items()}
    made[f"Solutions/{words['name']}/Package/{words['version']}.zip"] = _zipped(
        {name: package[f"Package/{name}"] for name in ("createUiDefinition.json", "mainTemplate.json")}
    )
    made |= {f"repositories/{path}": content.encode() for path, content in _repository_files(words).items()}
    made |= {
        f".script/tests/KqlvalidationsTests/CustomTables/{path.name}": path.read_bytes()
        for path in sorted((CONTENT / "custom-tables").glob("*.json"))
    }
    return made


def _zipped(entries: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(entries.items()):
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, content)
    return out.getvalue()


def build(out: Path = BUILD / "solution") -> list[str]:
    """Write all of it anew; gives the paths, sorted."""
    shutil.rmtree(out, ignore_errors=True)
    made = files()
    for name, content in made.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)
    return sorted(made)


def main() -> int:
    """Build and say what came of it."""
    parser: Any = argparse.ArgumentParser(prog="python -m infra.solution", description="Build the solution package.")
    parser.add_argument("--out", type=Path, default=BUILD / "solution", help="default: build/solution")
    out = parser.parse_args().out
    sys.stdout.write(f"{out}: {len(build(out))} files\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
