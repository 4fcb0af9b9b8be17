"""What is generated from the table contract agrees with it, and a changed column shows everywhere."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sentinel.content.detections import rules
from sentinel.reference import ROOT, files, folders, write
from sentinel.tables import BY_NAME, STREAMS, TABLES


@pytest.mark.parametrize("name", files())
def test_a_generated_file_is_that_of_the_contract(name: str) -> None:
    """It is what `make generate` writes."""
    assert (ROOT / name).read_text(encoding="utf-8") == files()[name], "run `make generate`"


def test_nothing_else_lies_beside_what_is_generated() -> None:
    """A table that was renamed leaves no file of its old name."""
    found = {path.relative_to(ROOT).as_posix() for folder in folders() for path in (ROOT / folder).glob("*")}
    assert found <= set(files())


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The contract and what is made from it, to be changed."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("sentinel", "docs", "infra/generated"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    return tmp_path


def generate(root: Path) -> list[str]:
    """What `python -m sentinel.reference` says that it wrote."""
    command = [sys.executable, "-m", "sentinel.reference"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        (
            '"DvcZone", "string"',
            '"DvcSite", "string"',
            {"columns.md", "tables", "streams", "kql-schema", "samples", "custom-tables"},
        ),
        (
            '"int", "Open findings',
            '"long", "Open findings',
            {"columns.md", "tables", "streams", "kql-schema", "custom-tables"},
        ),
        ("Network or zone that", "Zone or network that", {"columns.md", "tables"}),
        ('"dmz-eu"', '"dmz-us"', {"columns.md", "samples"}),
    ],
    ids=["renamed", "retyped", "described", "example"],
)
def test_a_changed_column_shows_wherever_it_matters(copy: Path, old: str, new: str, changed: set[str]) -> None:
    """Unchanged, nothing is to be done; changed, all that knows the column is written anew; then nothing is to be done again."""
    assert generate(copy) == ["nothing to do"]
    contract = copy / "sentinel" / "tables" / "assets.py"
    text = contract.read_text(encoding="utf-8")
    assert text.count(old) == 1
    contract.write_text(text.replace(old, new), encoding="utf-8")
    written = generate(copy)
    assert all(any(part in name for name in written) for part in changed)
    assert all(any(part in name for part in changed) for name in written)
    assert generate(copy) == ["nothing to do"]


@pytest.mark.parametrize(
    ("folder", "file", "old", "new", "changed"),
    [
        ("rules", "CriticalAssetVanished", "queryFrequency: 6h", "queryFrequency: 3h", "infra/generated/rules.json"),
        ("hunting", "OrphanFindings", "version: 1.0.0", "version: 1.0.1", ""),
        ("hunting", "OrphanFindings", "FindingStatus == 'Open'", "FindingStatus != 'Fixed'", "infra/generated/hunting.json"),
    ],
    ids=["schedule", "what is not deployed", "query"],
)  # fmt: skip
def test_a_changed_detection_shows_in_what_is_deployed(
    copy: Path, folder: str, file: str, old: str, new: str, changed: str
) -> None:
    """And in nothing else."""
    path = copy / "sentinel" / "content" / folder / f"{file}.yaml"
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")
    assert generate(copy) == [changed or "nothing to do"]


def test_a_rule_is_deployed_in_the_api_s_spelling() -> None:
    """ISO durations, operators in words, incidents unless told otherwise; `enabled` is the template's."""
    deployed = {one["file"]: one for one in json.loads(files()["infra/generated/rules.json"])}
    vanished = deployed["CriticalAssetVanished"]["properties"]
    assert (vanished["queryFrequency"], vanished["queryPeriod"]) == ("PT6H", "P14D")
    assert (vanished["triggerOperator"], vanished["triggerThreshold"]) == ("GreaterThan", 0)
    assert vanished["incidentConfiguration"] == {"createIncident": True}
    grouped = deployed["InventoryStaleOrIncomplete"]["properties"]["incidentConfiguration"]
    assert grouped["groupingConfiguration"]["lookbackDuration"] == "P3D"
    assert all("enabled" not in one["properties"] for one in deployed.values())
    for one in rules():
        made = deployed[one.file]["properties"]
        assert (deployed[one.file]["id"], made["displayName"], made["query"]) == (
            one.document["id"],
            one.name,
            one.query,
        )
    for entry in json.loads(files()["infra/generated/hunting.json"]):
        tags = {tag["name"]: tag["value"] for tag in entry["properties"]["tags"]}
        assert set(tags) == {"description", "tactics", "techniques"}
        assert all(tags.values())


def test_leftovers_go(copy: Path) -> None:
    """What is no longer made is removed from the folders that hold nothing else."""
    leftover = copy / "docs" / "samples" / "Old_CL.ndjson"
    leftover.write_text("{}\n")
    assert write(copy) == ["docs/samples/Old_CL.ndjson"]
    assert not leftover.exists()


def test_bicep_gets_every_column_in_the_spelling_of_its_api() -> None:
    """Tables say dateTime and have a description, streams say datetime; names are those of the contract, in order."""
    resources = json.loads(files()["infra/generated/tables.json"])
    declared = json.loads(files()["infra/generated/streams.json"])
    assert list(resources) == [table.name for table in TABLES]
    for table in TABLES:
        types = {c.name: "dateTime" if c.type == "datetime" else c.type for c in table.columns}
        columns = resources[table.name]["columns"]
        assert {column["name"]: column["type"] for column in columns} == types
        assert all(column["description"] for column in columns)
        assert declared[table.stream]["columns"] == [{"name": c.name, "type": c.type} for c in table.columns]
    assert list(declared) == [*(table.stream for table in TABLES), *(stream.name for stream in STREAMS)]


def test_every_stream_flows_into_its_table() -> None:
    """One data flow a stream; this app's own rows pass as they are."""
    flows = {flow["streams"][0]: flow for flow in json.loads(files()["infra/generated/dataflows.json"])}
    assert {name: flow["outputStream"] for name, flow in flows.items()} == {
        **{table.stream: f"Custom-{table.name}" for table in TABLES},
        **{stream.name: f"Custom-{stream.table}" for stream in STREAMS},
    }
    assert {flows[table.stream]["transformKql"] for table in TABLES} == {"source"}
    assert all(len(flow["streams"]) == 1 and len(flow["transformKql"]) <= 15_360 for flow in flows.values())


def test_each_sample_row_has_every_column() -> None:
    """In the table's order, none without a value."""
    for table in TABLES:
        rows = [json.loads(line) for line in files()[f"docs/samples/{table.name}.ndjson"].splitlines()]
        assert rows
        for row in rows:
            assert tuple(row) == BY_NAME[table.name].names
            assert None not in row.values()
