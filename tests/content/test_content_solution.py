"""The solution package: deterministic, whole, and in the shape that Azure and the community's repository take."""

from __future__ import annotations

import io
import json
import re
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.check import ROOT
from infra.solution import build, files, solution
from infra.solution_arm import escaped
from sentinel.content import functions
from sentinel.content.detections import hunting, rules
from sentinel.content.yaml_subset import read
from sentinel.reference.playbooks import PLAYBOOKS
from sentinel.reference.workbook import workbook

Json = dict[str, Any]

API_VERSIONS = {
    "Microsoft.OperationalInsights/workspaces/providers/contentTemplates": "2023-04-01-preview",
    "Microsoft.OperationalInsights/workspaces/providers/contentPackages": "2023-04-01-preview",
    "Microsoft.OperationalInsights/workspaces/providers/metadata": "2022-01-01-preview",
    "Microsoft.OperationalInsights/workspaces/providers/dataConnectors": "2021-03-01-preview",
    "Microsoft.OperationalInsights/workspaces/providers/Watchlists": "2025-09-01",
    "Microsoft.OperationalInsights/workspaces/providers/alertRules": "2025-09-01",
    "Microsoft.OperationalInsights/workspaces/savedSearches": "2022-10-01",
    "Microsoft.OperationalInsights/savedSearches": "2022-10-01",
    "Microsoft.SecurityInsights/AlertRuleTemplates": "2023-02-01-preview",
    "Microsoft.Insights/workbooks": "2023-06-01",
    "Microsoft.Logic/workflows": "2019-05-01",
    "Microsoft.Web/connections": "2016-06-01",
}
"""Every type that a template may have, with its version."""

REPOSITORY_TYPES = {
    "AnalyticsRules": "Microsoft.OperationalInsights/workspaces/providers/alertRules",
    "HuntingQueries": "Microsoft.OperationalInsights/workspaces/savedSearches",
    "Parsers": "Microsoft.OperationalInsights/workspaces/savedSearches",
    "Workbooks": "Microsoft.Insights/workbooks",
    "Playbooks": "Microsoft.Logic/workflows",
}

CONTENT = {
    "AnalyticsRule": [rule.document["id"] for rule in rules()],
    "HuntingQuery": [query.document["id"] for query in hunting()],
    "Parser": [f"{function.name}-Parser" for function in functions()],
    "Workbook": ["CAASMWorkbook"],
    "Playbook": list(PLAYBOOKS),
    "DataConnector": ["CaasmSentinel"],
}


@pytest.fixture(scope="module")
def built() -> dict[str, bytes]:
    """Everything that is built, below build/solution."""
    return files()


@pytest.fixture(scope="module")
def package(built: dict[str, bytes]) -> dict[str, bytes]:
    """The folder of the solution."""
    head = f"Solutions/{solution()['name']}/"
    return {path.removeprefix(head): content for path, content in built.items() if path.startswith(head)}


@pytest.fixture(scope="module")
def main(package: dict[str, bytes]) -> Json:
    """mainTemplate.json."""
    found: Json = json.loads(package["Package/mainTemplate.json"])
    return found


def templates(main: Json) -> list[Json]:
    """The content templates."""
    return [one for one in main["resources"] if one["type"].endswith("/contentTemplates")]


def texts(value: Any) -> Iterator[str]:
    """Every text of a document."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)
    elif isinstance(value, str):
        yield value


def expression_problems(document: Json, declared: Json, opened: str = "[") -> list[str]:
    """Expressions (texts that begin with `opened` and no further bracket) that do not close or name what is not declared."""
    found = []
    for text in texts(document):
        if not text.startswith(opened) or text.startswith(opened + "["):
            continue
        bare = re.sub(r"'[^']*'", "", text[len(opened) - 1 :])
        if not bare.endswith("]") or any(bare.count(a) != bare.count(b) for a, b in ("()", "[]")) or "'" in bare:
            found.append(text)
        for kind in ("parameters", "variables"):
            unknown = set(re.findall(rf"\b{kind}\('([^']+)'\)", text)) - set(declared.get(kind, {}))
            found += [f"{kind}('{name}'): {text}" for name in sorted(unknown)]
    return found


def test_it_is_built_the_same_again(built: dict[str, bytes], tmp_path: Path) -> None:
    """To the byte, the zip included; what was there before is gone."""
    out = tmp_path / "solution"
    (out / "old").mkdir(parents=True)
    assert build(out) == sorted(built)
    written = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert written == built


def test_what_the_data_file_names_is_there(package: dict[str, bytes]) -> None:
    """And every file of the content is named in it."""
    data = json.loads(package[f"Data/Solution_{solution()['name']}.json"])
    named = [path for value in data.values() if isinstance(value, list) for path in value]
    assert len(set(named)) == len(named)
    folders = (
        "Analytic Rules/",
        "Hunting Queries/",
        "Parsers/",
        "Playbooks/",
        "Workbooks/",
        "Watchlists/",
        "Data Connectors/",
    )
    assert set(named) == {path for path in package if path.startswith(folders)}
    assert data["Metadata"] in package
    assert re.fullmatch(r"3\.\d+\.\d+", data["Version"])
    assert f"Package/{data['Version']}.zip" in package


def test_the_files_are_those_of_the_content(package: dict[str, bytes]) -> None:
    """Rules and hunting queries as they lie in sentinel/content, parsers whole, the workbook as it is generated."""
    for folder, name in (("Analytic Rules", "rules"), ("Hunting Queries", "hunting")):
        mine = {path.name: path.read_bytes() for path in (ROOT / "sentinel" / "content" / name).glob("*.yaml")}
        assert mine
        assert {path.split("/")[-1]: content for path, content in package.items() if path.startswith(folder)} == mine
    for function in functions():
        parsed = read(package[f"Parsers/{function.name}.yaml"].decode())
        assert str(parsed["FunctionQuery"]).rstrip() == function.body
        assert uuid.UUID(str(parsed["id"]))
        assert parsed["FunctionAlias"] == function.name
    assert package["Workbooks/CAASM.json"].decode() == workbook()


def test_each_item_is_in_the_main_template_once(main: Json) -> None:
    """Under its id, with metadata of the same id; the package depends on all of them and on nothing else."""
    found: dict[str, list[str]] = {}
    for one in templates(main):
        properties = one["properties"]
        found.setdefault(properties["contentKind"], []).append(properties["contentId"])
        (said,) = (r for r in properties["mainTemplate"]["resources"] if r["type"].endswith("/metadata"))
        assert (said["properties"]["contentId"], said["properties"]["kind"], said["properties"]["version"]) == (
            properties["contentId"], properties["contentKind"], properties["version"],
        )  # fmt: skip
    assert found == CONTENT
    (last,) = (one for one in main["resources"] if one["type"].endswith("/contentPackages"))
    listed = [(one["kind"], one["contentId"]) for one in last["properties"]["dependencies"]["criteria"]]
    assert sorted(listed) == sorted((kind, one) for kind, ids in CONTENT.items() for one in ids)


def test_the_main_template_is_in_shape(main: Json) -> None:
    """Known types and versions, unique names, expressions that close and name what is declared, below ARM's 4 MB."""
    inner = [resource for one in templates(main) for resource in one["properties"]["mainTemplate"]["resources"]]
    assert {(one["type"], one["apiVersion"]) for one in [*main["resources"], *inner]} <= set(API_VERSIONS.items())
    names = [one["name"] for one in main["resources"]]
    assert len(set(names)) == len(names)
    products = [one["properties"]["contentProductId"] for one in templates(main)]
    assert len(set(products)) == len(products)
    assert expression_problems(main, main) == []
    for one in templates(main):
        nested = one["properties"]["mainTemplate"]
        assert expression_problems(nested, nested, "[[") == []
    assert len(json.dumps(main)) < 1_000_000


def test_functions_are_there_when_the_solution_is_installed(main: Json) -> None:
    """Rules, which name them, are refused otherwise; each is tied to the solution."""
    made = {
        one["properties"]["functionAlias"]: one for one in main["resources"] if one["type"].endswith("/savedSearches")
    }
    assert {name: one["properties"]["query"] for name, one in made.items()} == {f.name: f.body for f in functions()}
    tied = [one for one in main["resources"] if one["type"].endswith("/metadata")]
    assert {one["properties"]["contentId"] for one in tied} == {*CONTENT["Parser"], *CONTENT["DataConnector"]}
    assert all(one["dependsOn"] == [one["properties"]["parentId"]] for one in tied)


def test_a_broken_expression_would_be_found(main: Json) -> None:
    """One that does not close, and one that names what is not declared."""
    assert expression_problems({"a": "[concat('a']"}, main)
    assert expression_problems({"a": "[parameters('nowhere')]"}, main)
    assert expression_problems({"a": "[[variables('nowhere')]"}, {}, "[[")
    assert escaped({"a": ["[x]", "y"]}) == {"a": ["[[x]", "y"]}


def test_a_playbook_from_the_hub_is_the_playbook(main: Json, package: dict[str, bytes]) -> None:
    """Its template, when the hub's is evaluated once, is azuredeploy.json, which has the definition and an identity."""
    hub = {one["properties"]["contentId"]: one["properties"]["mainTemplate"] for one in templates(main) if one["properties"]["contentKind"] == "Playbook"}  # fmt: skip
    for name, made in PLAYBOOKS.items():
        deployed = json.loads(package[f"Playbooks/{name}/azuredeploy.json"])
        inner = [one for one in hub[name]["resources"] if not one["type"].endswith("/metadata")]
        assert inner == escaped(deployed["resources"])
        assert hub[name]["parameters"] == escaped(deployed["parameters"])
        workflow = next(one for one in deployed["resources"] if one["type"] == "Microsoft.Logic/workflows")
        assert workflow["properties"]["definition"] == made()
        assert set(workflow["properties"]["parameters"]) == set(made()["parameters"])
        assert workflow["identity"] == {"type": "SystemAssigned"}
        assert expression_problems(deployed, deployed) == []
        assert "PlaybookName" in deployed["parameters"]
        assert {"title", "description", "lastUpdateTime", "entities", "support", "author"} <= set(deployed["metadata"])


def test_the_installation_gives_what_the_main_template_takes(main: Json, package: dict[str, bytes]) -> None:
    """The outputs of createUiDefinition are the parameters of mainTemplate; both are in the zip, and nothing else."""
    ui = json.loads(package["Package/createUiDefinition.json"])
    assert set(ui["parameters"]["outputs"]) == set(main["parameters"])
    labels = [one["label"] for step in ui["parameters"]["steps"] for one in step["elements"]]
    assert len(labels) == sum(len(ids) for ids in CONTENT.values())
    with zipfile.ZipFile(io.BytesIO(package[f"Package/{solution()['version']}.zip"])) as archive:
        zipped = {name: archive.read(name) for name in archive.namelist()}
    assert zipped == {name: package[f"Package/{name}"] for name in ("createUiDefinition.json", "mainTemplate.json")}


def test_sentinel_repositories_gets_a_template_per_item(built: dict[str, bytes]) -> None:
    """Of the types that it deploys, named by what the workspace knows them by, for a workspace that it names; nothing has an id."""
    found: dict[str, list[str]] = {}
    for path, content in built.items():
        if not path.startswith("repositories/"):
            continue
        _, folder, file = path.split("/")
        found.setdefault(folder, []).append(file.removesuffix(".json"))
        document = json.loads(content)
        main_resource = document["resources"][0]
        assert main_resource["type"] == REPOSITORY_TYPES[folder]
        assert API_VERSIONS[main_resource["type"]] == main_resource["apiVersion"]
        assert all("id" not in resource for resource in document["resources"])
        assert expression_problems(document, document) == []
        assert folder == "Playbooks" or set(document["parameters"]) == {"workspace"}
    assert {folder: sorted(names) for folder, names in found.items()} == {
        "AnalyticsRules": sorted(rule.file for rule in rules()),
        "HuntingQueries": sorted(query.file for query in hunting()),
        "Parsers": sorted(function.name for function in functions()),
        "Workbooks": ["CAASM"],
        "Playbooks": sorted(PLAYBOOKS),
    }


def test_nothing_in_it_is_a_secret_or_not_ascii_where_it_may_not_be(built: dict[str, bytes]) -> None:
    """Rules and hunting queries are ASCII (the community's check); no key in any file."""
    for path, content in built.items():
        if "Analytic Rules/" in path or "Hunting Queries/" in path or "Parsers/" in path:
            assert content.isascii(), path
        assert not re.search(rb"AccountKey=|SharedAccessKey=|[?&](sig|code)=|-----BEGIN", content), path
