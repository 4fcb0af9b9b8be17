"""Every rule, hunting query and function about alerts run on a small workspace: they fire on what they are for, and on nothing else.

Two products that know some of the same machines, a full load two days ago and one today, alerts; and the same once more with a product whose loads are incomplete.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from local.sentinel.decode import decode
from local.sentinel.foreign import ALERTS, put_rows
from local.sentinel.query import Workspace
from local.sentinel.store import Store
from sentinel.content.detections import Detection, hunting, rules
from sentinel.tables import ASSETS, FINDINGS, RUNS, Table

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
BEFORE, TODAY = NOW - timedelta(days=2), NOW - timedelta(hours=4)
Row = dict[str, Any]
EVERY = {one.file: one for one in (*rules(), *hunting())}


def _asset(key: str, name: str, **more: Any) -> Row:
    """A machine of product P that is not critical, off the internet and covered, unless it says otherwise."""
    product = key.split(":", maxsplit=1)[0].upper()
    row = {
        "AssetId": key, "AssetName": name, "AssetType": "Virtual Machine", "DvcHostname": name.split(".", maxsplit=1)[0], "EntityProduct": product, "SourceStream": "assets",
        "Criticality": "Medium", "Environment": "Production", "EntityIsDeleted": False, "HasEdr": True, "IsInternetFacing": False,
    }  # fmt: skip
    if "." in name:
        row |= {"DvcFQDN": name, "DvcDomain": name.split(".", 1)[1], "Fqdns": [name]}
    return {key: value for key, value in (row | more).items() if value is not None}


STEADY = [
    _asset("p:bare", "bare.a.example", Criticality="Critical", IsInternetFacing=True, HasEdr=False, OwnerName="alice", OwnerUpnSuffix="a.example",
           IpAddresses=["198.51.100.1"]),
    _asset("p:covered", "covered.a.example", Criticality="Critical", IsInternetFacing=True),
    _asset("p:inside", "inside.a.example", Criticality="Critical", HasEdr=False, Environment="Test"),
    _asset("p:doubtful", "doubtful.a.example", Criticality="Critical", IsInternetFacing=True, HasEdr=None),
    _asset("p:low", "low.a.example", Criticality="Low", IsInternetFacing=True, HasEdr=False, Organizations=["Retail"]),
    _asset("p:medium", "medium.a.example"),
    _asset("p:shared", "shared.a.example", Criticality="Critical", IsInternetFacing=None, HasEdr=False),
    _asset("p:address", "address", Criticality="Critical", IsInternetFacing=None, HasEdr=False, IpAddresses=["203.0.113.9"]),
    _asset("p:private", "private", Criticality="Critical", IsInternetFacing=None, HasEdr=False, IpAddresses=["10.0.0.1"]),
    _asset("p:www", "www", Criticality="Critical", IsInternetFacing=None, HasEdr=False),
    _asset("q:shared", "shared.a.example", AssetType="Domain", IsInternetFacing=True, HasEdr=None, Criticality="Unknown"),
    _asset("q:address", "203.0.113.9", AssetType="IP Range", IsInternetFacing=True, HasEdr=None, Criticality="Unknown", DvcFQDN=None, Fqdns=None,
           DvcIpAddr="203.0.113.9"),
    _asset("q:private", "site.b.example", AssetType="Web Application", IsInternetFacing=True, HasEdr=None, Criticality="Unknown", IpAddresses=["10.0.0.1"]),
    _asset("q:www", "www.b.example", AssetType="Web Application", IsInternetFacing=True, HasEdr=None, Criticality="Unknown"),
]  # fmt: skip

ONLY_BEFORE = [
    _asset("p:lost", "lost.a.example", Criticality="Critical", SecurityTools=["Falcon"]),
    _asset("p:lost-low", "lost-low.a.example", Criticality="Low"),
    _asset("p:gone", "gone.a.example", Criticality="Critical"),
    _asset("p:gone-low", "gone-low.a.example", Criticality="Low"),
    _asset("p:gone-long", "gone-long.a.example", Criticality="Critical", EntityIsDeleted=True),
]

ONLY_TODAY = [
    _asset("p:lost", "lost.a.example", Criticality="Critical", HasEdr=False),
    _asset("p:lost-low", "lost-low.a.example", Criticality="Low", HasEdr=False),
    {"AssetId": "p:gone", "EntityProduct": "P", "SourceStream": "assets", "EntityIsDeleted": True},
    {"AssetId": "p:gone-low", "EntityProduct": "P", "SourceStream": "assets", "EntityIsDeleted": True},
    _asset("p:gone-long", "gone-long.a.example", Criticality="Critical", EntityIsDeleted=True),
    _asset("p:fresh", "fresh.a.example"),
]


def _finding(key: str, asset: str, severity: str, **more: Any) -> Row:
    row = {
        "FindingId": key, "AssetId": asset, "FindingTitle": key, "Severity": severity, "FindingStatus": "Open", "EntityProduct": asset[0].upper(),
        "SourceStream": "findings",
    }  # fmt: skip
    return row | more


STATED = [
    _finding("exploited", "p:bare", "Critical", IsKnownExploited=True, CveId="CVE-2026-0001"),
    _finding("inside", "p:inside", "Critical", IsKnownExploited=True, CveId="CVE-2026-0001"),
    _finding("fixed", "p:covered", "Critical", IsKnownExploited=True, FindingStatus="Fixed"),
    _finding("elsewhere", "p:shared", "High", IsKnownExploited=True, CveId="CVE-2026-0002"),
    _finding("quiet", "p:low", "High", IsKnownExploited=False),
    _finding("site", "q:private", "High"),
    _finding("small", "p:doubtful", "Low"),
    _finding("orphan", "p:nobody", "High", AssetName="nobody", DvcFQDN="nobody.a.example"),
    _finding("orphan-fixed", "p:nobody-else", "High", FindingStatus="Fixed"),
]


def _host(name: str, domain: str = "") -> Row:
    return {"$id": "2", "Type": "host", "HostName": name, **({"DnsDomain": domain} if domain else {})}


def _alert(
    key: str, hours_ago: float, *entities: Row, product: str = "Microsoft Defender for Endpoint", **more: Any
) -> Row:
    row = {
        "TimeGenerated": (NOW - timedelta(hours=hours_ago)).isoformat(), "SystemAlertId": key, "AlertName": f"Alert {key}", "AlertSeverity": "Medium",
        "ProductName": product, "ProviderName": "P", "Entities": [*entities, {"$id": "9", "Type": "process", "CommandLine": "cmd"}],
    }  # fmt: skip
    return row | more


RAISED = [
    _alert("on-bare", 0.5, _host("bare", "a.example"), {"$id": "3", "Type": "ip", "Address": "198.51.100.1"}, Status="New"),
    _alert("on-bare", 0.2, _host("bare", "a.example"), {"$id": "3", "Type": "ip", "Address": "198.51.100.1"}, Status="InProgress"),
    _alert("on-covered", 0.5, _host("COVERED")),
    _alert("on-medium", 0.5, _host("medium.a.example")),
    _alert("on-address", 0.5, {"$id": "3", "Type": "ip", "Address": "203.0.113.9"}, {"$id": "4", "Type": "ip", "Address": "192.0.2.77"}),
    _alert("on-stranger", 0.5, _host("stranger")),
    _alert("on-namesake", 0.5, _host("bare", "b.example")),
    _alert("own", 0.5, _host("bare", "a.example"), AlertName="CAASM - bare is critical", product="Azure Sentinel"),
    _alert("own-renamed", 0.5, _host("stranger"), ExtendedProperties={"Analytic Rule Name": "CAASM - Alert on x"}, product="Azure Sentinel"),
    _alert("too-old", 2, _host("inside", "a.example"), product="Azure Sentinel"),
    _alert("older", 32 * 24, _host("low", "a.example"), product="Azure Sentinel"),
]  # fmt: skip


def send(directory: Path, table: Table, at: datetime, rows: list[Row]) -> None:
    """A request of these rows, made and received at that time."""
    body = json.dumps([{"TimeGenerated": at.isoformat(), **row} for row in rows]).encode()
    store = Store(directory)
    store.add(table.name, decode(body, table, at.replace(tzinfo=None)).batch)
    store.flush()


class World:
    """A workspace and what its detections answer at noon."""

    def __init__(self, directory: Path, *, p_is_complete: bool) -> None:
        self.workspace = Workspace(directory)
        self._answers: dict[str, list[Row]] = {}
        for at, only in ((BEFORE, ONLY_BEFORE), (TODAY, ONLY_TODAY)):
            label = "1" if at == BEFORE else "2"
            send(
                directory,
                ASSETS,
                at,
                [{**row, "EntitySnapshotId": f"{row['EntityProduct']}-{label}"} for row in (*STEADY, *only)],
            )
            for product, streams in (("P", ("assets", "findings")), ("Q", ("assets",))):
                status = "complete" if product == "Q" or p_is_complete else "incomplete"
                send(
                    directory,
                    RUNS,
                    at + timedelta(hours=1),
                    [_ledger(product, stream, label, status, at) for stream in streams],
                )
        send(directory, FINDINGS, TODAY, [{**row, "EntitySnapshotId": "P-2"} for row in STATED])
        put_rows(directory, ALERTS, RAISED)

    def ask(self, kql: str) -> list[Row]:
        """The rows of an answer; the rows never change, so a question is put once."""
        if kql not in self._answers:
            answer = self.workspace.query(kql, now=NOW)
            names = [column.name for column in answer.columns]
            self._answers[kql] = [dict(zip(names, row, strict=True)) for row in answer.rows]
        return self._answers[kql]

    def subjects(self, detection: Detection) -> list[str]:
        """What each row of a detection is about, sorted."""
        return sorted(str(row[SUBJECT.get(detection.file, "AssetId")]) for row in self.ask(detection.query))


def _ledger(product: str, stream: str, label: str, status: str, at: datetime, mode: str = "full") -> Row:
    return {
        "RunStreamId": f"{product}-{label}/{stream}", "RunId": f"{product}-{label}", "SourceName": product.lower(), "SourceStream": stream,
        "EntityProduct": product, "RunMode": mode, "RunStatus": status, "StartedAt": at.isoformat(), "Reasons": [] if status == "complete" else ["a lane gave up"],
    }  # fmt: skip


SUBJECT = {
    "AlertOnCriticalOrUnderProtectedAsset": "SystemAlertId",
    "AlertOnAssetUnknownToCaasm": "EntityName",
    "InventoryStaleOrIncomplete": "SourceStream",
    "OwnersWithMostExposure": "Owner",
    "ControlsMissingByEnvironment": "Environment",
}

WITHOUT_EDR = ["p:address", "p:bare", "p:low", "p:shared"]
FIRES = {
    "AlertOnCriticalOrUnderProtectedAsset": ["on-address", "on-bare", "on-covered"],
    "AlertOnAssetUnknownToCaasm": ["bare.b.example", "stranger"],
    "CriticalAssetLostEdr": ["p:lost"],
    "CriticalAssetVanished": ["p:gone"],
    "InternetFacingCriticalAssetWithoutEdr": ["p:address", "p:bare", "p:shared"],
    "KnownExploitedVulnerabilityOnInternetFacingAsset": ["p:bare", "p:shared"],
    "InventoryStaleOrIncomplete": [],
    "InternetFacingWithoutEdr": WITHOUT_EDR,
    "ExposedAssetsWithoutAlert": ["p:low", "p:shared", "q:private"],
    "SevereFindingsWithoutEdrAlert": ["p:inside", "p:low", "p:shared"],
    "OrphanFindings": ["p:nobody"],
    "OwnersWithMostExposure": ["(no owner)", "Retail", "alice@a.example"],
    "ControlsMissingByEnvironment": ["Production", "Test"],
    "ChangedSinceLastRun": ["p:fresh", "p:gone", "p:gone-low", "p:lost", "p:lost-low"],
}
"""What each has to name in a whole inventory; everything else it must leave alone."""

FIRES_WITHOUT_P = {name: list[str]() for name in FIRES} | {
    "InventoryStaleOrIncomplete": ["assets", "findings"],
    "OwnersWithMostExposure": ["(no owner)"],
    "ExposedAssetsWithoutAlert": ["q:private"],
}
"""The same when the loads of product P are incomplete: nothing of it is judged."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Both products whole."""
    return World(tmp_path_factory.mktemp("whole"), p_is_complete=True)


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The same rows, but the loads of P did not end well."""
    return World(tmp_path_factory.mktemp("half"), p_is_complete=False)


def test_every_detection_has_its_cases() -> None:
    """A new one has to be added here."""
    assert set(FIRES) == set(EVERY)
    assert all(FIRES[name] or FIRES_WITHOUT_P[name] for name in EVERY)


@pytest.mark.parametrize("name", FIRES)
def test_it_fires_on_what_it_is_for_and_on_nothing_else(world: World, name: str) -> None:
    """The whole list of what is found in a whole inventory."""
    assert world.subjects(EVERY[name]) == FIRES[name]


@pytest.mark.parametrize("name", FIRES)
def test_it_says_nothing_of_an_incomplete_inventory(half: World, name: str) -> None:
    """But for the rule that is about just that."""
    assert half.subjects(EVERY[name]) == FIRES_WITHOUT_P[name]


def test_a_workspace_without_a_run_is_an_incomplete_inventory(tmp_path: Path) -> None:
    """The one row then is not of a product, and an unknown host is no news."""
    put_rows(tmp_path, ALERTS, RAISED)
    empty = Workspace(tmp_path)
    assert [row[0] for row in empty.query(EVERY["InventoryStaleOrIncomplete"].query, now=NOW).rows] == ["(all)"]
    assert empty.query(EVERY["AlertOnAssetUnknownToCaasm"].query, now=NOW).rows == []


def test_an_inventory_is_stale_or_incomplete_or_neither(tmp_path: Path) -> None:
    """Deltas alone, a full load of last week alone, a full load of last week with a delta of today."""
    last_week = NOW - timedelta(days=7)
    runs = [("A", TODAY, "delta"), ("B", last_week, "full"), ("C", last_week, "full"), ("C", TODAY, "delta")]
    for product, at, mode in runs:
        send(tmp_path, RUNS, at, [_ledger(product, "assets", f"{at:%d}", "complete", at, mode)])
    answer = Workspace(tmp_path).query(EVERY["InventoryStaleOrIncomplete"].query, now=NOW)
    names = [column.name for column in answer.columns]
    said = {row[names.index("SourceName")]: row[names.index("Why")] for row in answer.rows}
    assert said == {"a": "no complete full load in 14 days", "b": "no complete run in 2 days"}


def test_an_alert_says_why_it_matters(world: World) -> None:
    """Criticality, coverage and owner, a row an alert, though two products know the machine and the alert names it twice."""
    rows = {row["SystemAlertId"]: row for row in world.ask(EVERY["AlertOnCriticalOrUnderProtectedAsset"].query)}
    bare, covered, address = rows["on-bare"], rows["on-covered"], rows["on-address"]
    assert (bare["Why"], bare["Severity"], bare["Owner"]) == ("critical, without EDR", "High", "alice@a.example")
    assert (bare["HostName"], bare["DnsDomain"], bare["Address"]) == ("bare", "a.example", "198.51.100.1")
    assert (covered["Why"], covered["HostName"], covered["Exploited"]) == ("critical", "covered", 0)
    assert set(address["Assets"].split(", ")) == {"p:address", "q:address"}
    assert (address["HostName"], address["Address"]) == ("", "203.0.113.9")


def test_what_changed_is_said(world: World) -> None:
    """New, gone with the name that it had, and changed with what was and is."""
    rows = {
        row["AssetId"]: (row["Change"], row["AssetName"], row["What"])
        for row in world.ask(EVERY["ChangedSinceLastRun"].query)
    }
    assert rows["p:fresh"] == ("new", "fresh.a.example", "")
    assert rows["p:gone"] == ("gone", "gone.a.example", "")
    assert rows["p:lost"] == ("changed", "lost.a.example", "EDR true > false")


def test_controls_are_counted(world: World) -> None:
    """Missing, covered and unknown machines of each environment, and the share of those that are known."""
    rows = {row["Environment"]: row for row in world.ask(EVERY["ControlsMissingByEnvironment"].query)}
    production = rows["Production"]
    assert (production["Missing"], production["Covered"], production["Unknown"]) == (8, 3, 1)
    assert (production["MissingPercent"], production["CriticalMissing"], production["Control"]) == (72.7, 6, "EDR")
    assert rows["Test"]["Missing"] == 1


def test_an_asset_faces_the_internet_when_any_product_says_so(world: World) -> None:
    """By FQDN or public address; neither by a private address nor by a short name."""
    rows = {row["AssetId"]: sorted(row["ReportedBy"]) for row in world.ask("CAASM_InternetFacing")}
    assert {key: by for key, by in rows.items() if key.startswith("p:")} == {
        "p:bare": ["P"],
        "p:covered": ["P"],
        "p:doubtful": ["P"],
        "p:low": ["P"],
        "p:shared": ["Q"],
        "p:address": ["Q"],
    }
    assert set(rows) - set(STEADY_OF_P) == {"q:shared", "q:address", "q:private", "q:www"}


def test_an_incomplete_product_has_no_say_about_the_internet(half: World) -> None:
    """Neither of its own assets nor of others'."""
    rows = {row["AssetId"]: row["ReportedBy"] for row in half.ask("CAASM_InternetFacing")}
    assert rows == {key: ["Q"] for key in ("q:shared", "q:address", "q:private", "q:www")}


STEADY_OF_P = [row["AssetId"] for row in STEADY if row["EntityProduct"] == "P"]


def test_names_are_those_that_others_use(world: World) -> None:
    """Lower case, each once, told apart by kind; the short name of a web application is not among them."""
    rows = world.ask("CAASM_AssetNames | where AssetId in ('p:bare', 'q:www', 'q:address', 'p:private')")
    found = {(row["AssetId"], row["Name"], row["NameType"], row["IsPublicAddress"]) for row in rows}
    assert found == {
        ("p:bare", "bare.a.example", "FQDN", False),
        ("p:bare", "bare", "Hostname", False),
        *((key, key, "AssetId", False) for key in ("p:bare", "q:www", "q:address", "p:private")),
        ("p:bare", "198.51.100.1", "IP", True),
        ("q:www", "www.b.example", "FQDN", False),
        ("q:address", "203.0.113.9", "IP", True),
        ("p:private", "private", "Hostname", False),
        ("p:private", "10.0.0.1", "IP", False),
    }
    assert len(rows) == len(found)


@pytest.mark.parametrize(
    ("address", "public"),
    [("172.15.0.1", True), ("172.16.0.1", False), ("172.31.9.9", False), ("172.32.0.1", True), ("100.64.0.1", False), ("100.63.0.1", True),
     ("169.254.1.1", False), ("127.0.0.1", False), ("192.168.1.1", False), ("8.8.8.8", True), ("fd00::1", False), ("fe80::1", False), ("2001:db8::1", True)],
)  # fmt: skip
def test_private_addresses_are_no_names_on_the_internet(
    public_of: Callable[[str], bool], address: str, public: bool
) -> None:
    """The private, shared, link-local and loopback ranges."""
    assert public_of(address) is public


@pytest.fixture(scope="module")
def public_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bool]:
    """A function: what the view says of an address; all are asked at once."""
    directory = tmp_path_factory.mktemp("addresses")
    addresses = [case[0] for case in test_private_addresses_are_no_names_on_the_internet.pytestmark[0].args[1]]
    rows = [
        {"TimeGenerated": TODAY.isoformat(), "AssetId": f"p:{address}", "IpAddresses": [address]}
        for address in addresses
    ]
    send(directory, ASSETS, TODAY, rows)
    answer = Workspace(directory).query(
        "CAASM_AssetNames | where NameType == 'IP' | project Name, IsPublicAddress", now=NOW
    )
    found = dict(answer.rows)
    return lambda address: bool(found[address])


def test_an_alert_is_matched_by_what_it_names(world: World) -> None:
    """FQDN, short name where one side has no more, address; nothing for a stranger, and never CAASM's own alerts."""
    rows = world.ask("CAASM_AlertAssets(1h)")
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row["SystemAlertId"], set()).add(row["AssetId"])
    # An entity may have a row without an asset beside one with: the name that matched nothing.
    assert {key: keys - {""} for key, keys in found.items()} == {
        "on-bare": {"p:bare"},
        "on-covered": {"p:covered"},
        "on-medium": {"p:medium"},
        "on-address": {"p:address", "q:address"},
        "on-stranger": set(),
        "on-namesake": set(),
    }
    assert {row["AlertTime"] for row in rows if row["SystemAlertId"] == "on-bare"} == {NOW - timedelta(hours=0.2)}


@pytest.mark.parametrize("name", FIRES)
def test_the_page_tells_of_it_and_shows_a_row_of_these(world: World, half: World, name: str) -> None:
    """docs/content.md: the file, its own words, its schedule, and a row that is in the answer."""
    detection = EVERY[name]
    page = (Path(__file__).resolve().parents[2] / "docs" / "content.md").read_text(encoding="utf-8")
    section = page.split(f"### [{name}](", 1)[1].split("\n### ", 1)[0]
    assert detection.description in section
    if "queryFrequency" in detection.document:
        said = "{severity} · every {queryFrequency} over {queryPeriod} · ".format_map(detection.document)
        assert said + ", ".join(detection.document["relevantTechniques"]) in section
    shown = json.loads(section.split("```json\n", 1)[1].split("\n```", 1)[0])
    rows = (world if FIRES[name] else half).ask(detection.query)
    assert any(shown.items() <= {key: _shown(value) for key, value in row.items()}.items() for row in rows)


def _shown(value: Any) -> Any:
    return str(value) if isinstance(value, datetime | list) else value
