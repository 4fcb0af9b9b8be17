"""`CAASM_Runs`, `CAASM_Coverage` and `CAASM_Exposure` over runs, assets and findings as the emulator stores them: none answers from half an inventory."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from local.sentinel.decode import decode
from local.sentinel.query import Workspace
from local.sentinel.store import Store
from sentinel.content import functions
from sentinel.reference.page import RECIPES
from sentinel.reference.samples import row as sample
from sentinel.reference.workbook import queries
from sentinel.tables import ASSETS, FINDINGS, RUNS, TABLES, Table

NOW = datetime(2026, 11, 21, 6, tzinfo=UTC)
CONTROLS = {"EDR": "HasEdr", "Vulnerability Scanner": "HasVulnerabilityScanner", "Backup": "HasBackup", "MDM": "HasMdm"}


class Inventory:
    """A workspace, filled run by run."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.workspace = Workspace(directory)

    def send(self, table: Table, *rows: dict[str, Any]) -> None:
        """A request, received when its first row was made."""
        made = datetime.fromisoformat(rows[0]["TimeGenerated"]).replace(tzinfo=None)
        store = Store(self.directory)
        store.add(table.name, decode(json.dumps(rows).encode(), table, made).batch)
        store.flush()

    def run(
        self, days_ago: float, stream: str = "assets", status: str = "complete", mode: str = "full", **more: Any
    ) -> None:
        """A row of the ledger: a run of that many days ago, closed half an hour later."""
        product = more.pop("EntityProduct", "P")
        name = f"{product}-{days_ago}"
        row = {
            "TimeGenerated": at(days_ago - 1 / 48), "RunId": name, "RunStreamId": f"{name}/{stream}", "SourceName": product.lower(),
            "SourceStream": stream, "EntityProduct": product, "EntityVendor": "V", "RunMode": mode, "RunStatus": status, "StartedAt": at(days_ago),
        }  # fmt: skip
        self.send(RUNS, {**row, **more})

    def asset(self, key: str, days_ago: float = 1, **more: Any) -> None:
        """A row of an asset, from the run of that many days ago."""
        row = {"TimeGenerated": at(days_ago), "AssetId": key, "EntityProduct": "P", "SourceStream": "assets"}
        self.send(ASSETS, {**row, **more})

    def finding(self, key: str, asset: str, days_ago: float = 1, **more: Any) -> None:
        """A row of a finding, open unless it says otherwise."""
        row = {"TimeGenerated": at(days_ago), "FindingId": key, "AssetId": asset, "EntityProduct": "P"}
        self.send(FINDINGS, {**row, "SourceStream": "findings", "FindingStatus": "Open", **more})

    def ask(self, kql: str) -> list[dict[str, Any]]:
        """Rows of the answer."""
        answer = self.workspace.query(kql, now=NOW)
        return [dict(zip([column.name for column in answer.columns], row, strict=True)) for row in answer.rows]


def at(days_ago: float) -> str:
    """A time of that many days ago as text."""
    return (NOW - timedelta(days=days_ago)).isoformat()


@pytest.fixture
def inventory(tmp_path: Path) -> Inventory:
    """An empty workspace."""
    return Inventory(tmp_path)


@pytest.mark.parametrize("function", functions(), ids=lambda function: function.name)
def test_a_function_answers_with_nothing_before_the_first_load(inventory: Inventory, function: Any) -> None:
    """And by its name alone: every parameter has a default."""
    assert inventory.ask(function.name) == []
    assert inventory.ask(f"{function.name}()") == []


# ------------------------------------------------------------------------------------------------ runs


@pytest.mark.parametrize(
    ("runs", "complete", "current"),
    [
        ([(1, "complete", "full")], True, True),
        ([(10, "complete", "full")], True, False),
        ([(10, "complete", "full"), (1, "complete", "delta")], True, True),
        ([(10, "complete", "full"), (1, "failed", "delta")], True, False),
        ([(10, "complete", "full"), (1, "incomplete", "full")], True, False),
        ([(1, "complete", "delta")], False, True),
        ([(1, "incomplete", "full")], False, False),
        ([(15, "complete", "full"), (1, "complete", "delta")], False, True),
    ],
)
def test_an_inventory_is_complete_when_a_whole_load_is_in_the_window(
    inventory: Inventory, runs: list[tuple[float, str, str]], complete: bool, current: bool
) -> None:
    """Deltas keep it current; a later run that failed takes nothing away; deltas alone are no inventory."""
    for days_ago, status, mode in runs:
        inventory.run(days_ago, status=status, mode=mode)
    (row,) = inventory.ask("CAASM_Runs")
    assert (row["IsComplete"], row["IsCurrent"]) == (complete, current)
    last = min(runs)
    assert (row["LastRunStatus"], row["LastRunMode"]) == last[1:]
    assert row["NotComplete"] == sum(status != "complete" for days_ago, status, _ in runs if days_ago < 14)


def test_the_window_is_about_when_rows_were_made_not_about_when_the_run_closed(inventory: Inventory) -> None:
    """A run that started just before the window and closed in it has its rows outside of it."""
    inventory.run(14.01)
    (row,) = inventory.ask("CAASM_Runs")
    assert (row["IsComplete"], row["LastFullAt"]) == (False, NOW - timedelta(days=14.01))
    assert inventory.ask("CAASM_Runs(15d) | project IsComplete") == [{"IsComplete": True}]


def test_the_last_word_on_a_run_counts(inventory: Inventory) -> None:
    """Announced as failed, taken up again, announced as complete; and the same word twice is one."""
    inventory.run(1, status="failed", TimeGenerated=at(0.9))
    for _ in range(2):
        inventory.run(1, TimeGenerated=at(0.8), Rejected=2, DeadLettered=1)
    (row,) = inventory.ask("CAASM_Runs")
    assert (row["Runs"], row["NotComplete"], row["IsComplete"], row["LastRunMissing"]) == (1, 0, True, 3)


def test_a_source_that_never_got_to_its_streams_is_seen(inventory: Inventory) -> None:
    """By itself it has a row without a stream; beside rows of its streams that row says nothing more."""
    inventory.run(2, stream="", status="failed")
    (row,) = inventory.ask("CAASM_Runs")
    assert (row["SourceName"], row["SourceStream"], row["IsComplete"]) == ("p", "", False)
    inventory.run(1)
    assert [row["SourceStream"] for row in inventory.ask("CAASM_Runs")] == ["assets"]


def test_what_is_left_out_is_neither_whole_nor_missing(inventory: Inventory) -> None:
    """No row of it while that is the last word, so no rule takes it for stale; when it is loaded again, it has one, and nothing failed meanwhile."""
    inventory.run(5)
    inventory.run(5, stream="relations")
    inventory.run(3)
    inventory.run(3, stream="relations", status="left out")
    assert [row["SourceStream"] for row in inventory.ask("CAASM_Runs")] == ["assets"]
    inventory.run(1, stream="relations")
    rows = {row["SourceStream"]: row for row in inventory.ask("CAASM_Runs")}
    assert (rows["relations"]["IsComplete"], rows["relations"]["NotComplete"]) == (True, 0)


@pytest.mark.parametrize("chart", ["compliance/ledger", "pipeline/runs", "pipeline/runs-by-day"])
def test_charts_of_loads_do_not_count_what_is_left_out(inventory: Inventory, chart: str) -> None:
    """A run with a stream that is left out is as complete as its others."""
    inventory.run(1, Exported=1, Staged=1, Flattened=1)
    inventory.run(1, stream="relations", status="left out")
    (row,) = inventory.ask(dict(queries())[chart])
    assert row.get("Streams", 1) == 1
    assert "left out" not in row.values()


def test_streams_and_products_are_told_apart(inventory: Inventory) -> None:
    """One of them being whole says nothing of another."""
    inventory.run(1)
    inventory.run(1, stream="findings", status="incomplete", Reasons=["a page could not be read"])
    inventory.run(3, EntityProduct="Q")
    rows = {(row["EntityProduct"], row["SourceStream"]): row for row in inventory.ask("CAASM_Runs(14d, 2d)")}
    assert {key: (row["IsComplete"], row["IsCurrent"]) for key, row in rows.items()} == {
        ("P", "assets"): (True, True),
        ("P", "findings"): (False, False),
        ("Q", "assets"): (True, False),
    }
    assert rows["P", "findings"]["LastRunReasons"] == ["a page could not be read"]


# ------------------------------------------------------------------------------------------------ coverage


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize(("known", "says"), [(True, "Covered"), (False, "Missing"), (None, "Unknown")])
def test_coverage_says_what_the_product_can_tell(
    inventory: Inventory, control: str, known: bool | None, says: str
) -> None:
    """A control that nothing is known of is neither there nor missing; the other controls do not matter."""
    inventory.run(1)
    others = {column: known is not True for name, column in CONTROLS.items() if name != control}
    inventory.asset("p:1", **{CONTROLS[control]: known}, **others)
    rows = {row["Control"]: row["Coverage"] for row in inventory.ask("CAASM_Coverage")}
    assert rows == dict.fromkeys(CONTROLS, "Missing" if known is True else "Covered") | {control: says}


def test_coverage_does_not_answer_from_half_an_inventory(inventory: Inventory) -> None:
    """Assets of a stream without a whole load in the window are left out, unless they are asked for; then they are marked."""
    inventory.run(2)
    inventory.run(2, stream="more", status="incomplete")
    inventory.run(1, EntityProduct="Q", mode="delta")
    inventory.asset("p:1", HasEdr=True)
    inventory.asset("p:2", SourceStream="more", HasEdr=False)
    inventory.asset("q:1", EntityProduct="Q", HasEdr=False)
    inventory.asset("r:1", EntityProduct="R", HasEdr=False)
    (whole,) = inventory.ask("CAASM_Coverage | where Control == 'EDR'")
    assert (whole["AssetId"], whole["InventoryCompleteAt"]) == ("p:1", NOW - timedelta(days=2))
    marked = inventory.ask("CAASM_Coverage(14d, true) | where Control == 'EDR' | project AssetId, IsInventoryComplete")
    assert {row["AssetId"]: row["IsInventoryComplete"] for row in marked} == {
        "p:1": True, "p:2": False, "q:1": False, "r:1": False,
    }  # fmt: skip


def test_what_is_gone_needs_no_cover(inventory: Inventory) -> None:
    """The newest row counts, and a tombstone ends it."""
    inventory.run(3)
    inventory.asset("p:1", 3, HasEdr=False)
    inventory.asset("p:1", 1, HasEdr=True)
    inventory.asset("p:2", 3, HasEdr=False)
    inventory.asset("p:2", 1, EntityIsDeleted=True)
    rows = inventory.ask("CAASM_Coverage | where Control == 'EDR' | project AssetId, Coverage")
    assert rows == [{"AssetId": "p:1", "Coverage": "Covered"}]


# ------------------------------------------------------------------------------------------------ exposure


@pytest.mark.parametrize(
    ("facing", "findings", "level"),
    [
        (True, [{"Severity": "Low", "IsKnownExploited": True}], "Critical"),
        (True, [{"Severity": "Critical", "IsExploitAvailable": True}], "Critical"),
        (True, [{"Severity": "Critical"}], "High"),
        (True, [{"Severity": "High", "IsExploitAvailable": True}], "High"),
        (False, [{"Severity": "Low", "IsKnownExploited": True}], "High"),
        (None, [{"Severity": "Critical", "IsExploitAvailable": True}], "Medium"),
        (False, [{"Severity": "High"}], "Medium"),
        (False, [{"Severity": "Medium"}, {"Severity": "Low"}], "Low"),
        (True, [], "Low"),
        (False, [], "None"),
        (True, [{"Severity": "Critical", "IsKnownExploited": True, "FindingStatus": "Fixed"}], "Low"),
        (False, [{"Severity": "Critical", "IsKnownExploited": True, "EntityIsDeleted": True}], "None"),
    ],
)
def test_exposure_weighs_findings_and_the_internet(
    inventory: Inventory, facing: bool | None, findings: list[dict[str, Any]], level: str
) -> None:
    """Open findings only, exploits first; what the product cannot tell makes nothing worse."""
    inventory.run(1)
    inventory.run(1, stream="findings")
    inventory.asset("p:1", IsInternetFacing=facing)
    for number, finding in enumerate(findings):
        inventory.finding(f"p:f{number}", "p:1", **finding)
    inventory.finding("p:orphan", "p:other", Severity="Critical", IsKnownExploited=True)
    (row,) = inventory.ask("CAASM_Exposure")
    assert row["ExposureLevel"] == level
    still = [one for one in findings if not one.get("EntityIsDeleted") and one.get("FindingStatus") != "Fixed"]
    assert row["OpenTotal"] == len(still)
    assert row["OpenCritical"] == sum(one["Severity"] == "Critical" for one in still)


def test_exposure_sums_up_what_is_open(inventory: Inventory) -> None:
    """Counts, the highest scores, the oldest date; a newer row of a finding replaces the older one."""
    inventory.run(2)
    inventory.run(2, stream="findings")
    inventory.asset("p:1", 2)
    inventory.finding("p:a", "p:1", 2, Severity="Critical", CvssScore=9.9, EpssScore=0.1, FirstSeen=at(300))
    inventory.finding("p:a", "p:1", 1, Severity="High", CvssScore=8.1, EpssScore=0.2, FirstSeen=at(300))
    inventory.finding("p:b", "p:1", 2, Severity="High", CvssScore=7.5, EpssScore=0.9, FirstSeen=at(20))
    (row,) = inventory.ask("CAASM_Exposure")
    names = ("OpenTotal", "OpenCritical", "OpenHigh", "KnownExploited", "HighestCvss", "HighestEpss", "OldestSince")
    assert [row[name] for name in names] == [2, 0, 2, 0, 8.1, 0.9, NOW - timedelta(days=300)]


def test_exposure_waits_for_every_stream_of_the_product(inventory: Inventory) -> None:
    """Without its findings an asset would look harmless; another product's gap does not matter."""
    inventory.run(2)
    inventory.run(1, stream="findings", status="failed")
    inventory.run(1, EntityProduct="Q")
    inventory.asset("p:1")
    inventory.asset("q:1", EntityProduct="Q")
    assert [row["AssetId"] for row in inventory.ask("CAASM_Exposure")] == ["q:1"]
    rows = {row["AssetId"]: row for row in inventory.ask("CAASM_Exposure(14d, true)")}
    assert {key: row["IsInventoryComplete"] for key, row in rows.items()} == {"p:1": False, "q:1": True}
    assert (rows["p:1"]["InventoryCompleteAt"], rows["q:1"]["InventoryCompleteAt"]) == (None, NOW - timedelta(days=1))


# ------------------------------------------------------------------------------------------------ names to join on


@pytest.mark.parametrize("view", ["CAASM_Assets", "CAASM_Coverage", "CAASM_Exposure"])
def test_events_join_by_host_address_and_user(inventory: Inventory, view: str) -> None:
    """On ASIM's names, as an ASIM view has them."""
    inventory.run(1)
    inventory.asset("p:1", DvcHostname="web-07", DvcIpAddr="10.0.0.7", OwnerName="alice", OwnerUpnSuffix="example.com")
    inventory.asset("p:2", DvcHostname="web-08", DvcIpAddr="10.0.0.8", OwnerName="Team B")
    event = "print DvcHostname='web-07', DvcIpAddr='10.0.0.7', Username='alice@example.com'"
    for column in ("DvcHostname", "DvcIpAddr", "Username"):
        joined = inventory.ask(f"{event} | join kind=inner ({view}) on {column} | distinct AssetId")
        assert joined == [{"AssetId": "p:1"}]
    assert inventory.ask(f"{view} | where AssetId == 'p:2' | distinct Username") == [{"Username": "Team B"}]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.words[:40])
def test_a_recipe_of_the_reference_finds_the_sample(inventory: Inventory, recipe: Any) -> None:
    """docs/columns.md gives queries that run, on rows like docs/samples/."""
    for table in TABLES:
        inventory.send(table, sample(table))
    rows = inventory.ask(recipe.kql)
    assert len(rows) == 1
    assert rows[0]["AssetName"] == ASSETS.column("AssetName").example
