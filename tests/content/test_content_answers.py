"""`hunt` and `rules` on what real loads left in the tables, against the same questions put to the Parquet files without KQL."""

from __future__ import annotations

import contextlib
import io
import ipaddress
import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from local import alerts, cli
from local.sentinel.foreign import ALERTS, put_rows
from local.sentinel.query import Workspace

Row = dict[str, Any]
PRIVATE = [
    ipaddress.ip_network(text)
    for text in ("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fe80::/10", "::1/128")
]  # fmt: skip
SEVERE = ("Critical", "High")


@pytest.fixture(scope="module")
def kept(loaded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kept load with alerts: what `--keep DIR` leaves, and `python -m local alerts`."""
    directory = tmp_path_factory.mktemp("kept")
    shutil.copytree(loaded, directory / "sentinel")
    raised = list(alerts.make(Workspace(loaded), 48, datetime.now(UTC)))
    put_rows(directory / "sentinel", ALERTS, raised)
    (directory / "alerts.json").write_text(json.dumps(raised))
    return directory


class Facts:
    """The tables as they are stored, and what follows from them."""

    def __init__(self, directory: Path) -> None:
        store = directory / "sentinel"
        # Each product was loaded once, whole; what came twice came as the same row.
        self.assets = {row["AssetId"]: row for row in _rows(store / "CAASM_Assets_CL")}
        self.findings = list({row["FindingId"]: row for row in _rows(store / "CAASM_Findings_CL")}.values())
        self.alerts: list[Row] = json.loads((directory / "alerts.json").read_text())
        self.open: dict[str, list[Row]] = defaultdict(list)
        for row in self.findings:
            if row["FindingStatus"] == "Open" and row["AssetId"]:
                self.open[row["AssetId"]].append(row)
        self.by_name: dict[str, set[str]] = defaultdict(set)
        self.by_host: dict[str, set[str]] = defaultdict(set)
        for key, row in self.assets.items():
            for name in self.identities(row):
                self.by_name[name].add(key)
            for address in _texts(row, "IpAddresses", "DvcIpAddr"):
                self.by_name[address].add(key)
            if row["AssetType"] not in ("Domain", "Web Application", "IP Range") and row["DvcHostname"]:
                self.by_host[row["DvcHostname"].lower()].add(key)
        self.facing = self._facing()

    @staticmethod
    def identities(row: Row) -> set[str]:
        """FQDNs and public addresses: what tells that two products speak of one thing."""
        public = {
            address
            for address in _texts(row, "IpAddresses", "DvcIpAddr")
            if not any(ipaddress.ip_address(address) in network for network in PRIVATE if network.version == ipaddress.ip_address(address).version)
        }  # fmt: skip
        return _texts(row, "Fqdns", "DvcFQDN") | public

    def _facing(self) -> dict[str, set[str]]:
        """Who says of which asset that it is on the internet."""
        said: dict[str, set[str]] = defaultdict(set)
        for row in self.assets.values():
            if row["IsInternetFacing"]:
                for name in self.identities(row):
                    said[name].add(row["EntityProduct"])
        found = {}
        for key, row in self.assets.items():
            by = {row["EntityProduct"]} if row["IsInternetFacing"] else set()
            for name in self.identities(row):
                by |= said.get(name, set())
            if by:
                found[key] = by
        return found

    def matches(self, alert: Row) -> set[str]:
        """The assets that an alert is about."""
        found = set()
        for entity in alert["Entities"]:
            if entity["Type"] == "ip":
                found |= self.by_name.get(entity["Address"], set())
                continue
            host, domain = entity["HostName"].lower(), entity.get("DnsDomain", "")
            found |= self.by_name.get(f"{host}.{domain}", set()) if domain else set()
            found |= {key for key in self.by_host.get(host, set()) if not (domain and self.assets[key]["DvcFQDN"])}
        return found

    def alerted(self, days: float, *, edr: bool = False) -> set[str]:
        """Assets that an alert of the last days is about."""
        since = datetime.now(UTC) - timedelta(days=days)
        return {
            key
            for alert in self.alerts
            if datetime.fromisoformat(alert["TimeGenerated"]) >= since
            and (not edr or "Endpoint" in alert["ProductName"])
            for key in self.matches(alert)
        }

    def count(self, key: str, what: Callable[[Row], bool]) -> int:
        """Open findings of an asset for which that holds."""
        return sum(1 for row in self.open.get(key, []) if what(row))

    def severe(self, key: str) -> int:
        return self.count(key, lambda row: row["Severity"] in SEVERE)

    def exploited(self, key: str) -> int:
        return self.count(key, lambda row: bool(row["IsKnownExploited"]))


def _rows(folder: Path) -> Iterator[Row]:
    return pl.read_parquet(folder / "*.parquet").iter_rows(named=True)


def _texts(row: Row, several: str, one: str) -> set[str]:
    return {text.lower() for text in [*(row[several] or []), row[one]] if text}


@pytest.fixture(scope="module")
def facts(kept: Path) -> Facts:
    """What the stored rows say."""
    return Facts(kept)


@dataclass(frozen=True)
class Said:
    """What a command printed, and the JSON that it wrote."""

    text: str
    json: Any


def _said(kept: Path, command: str, *more: str) -> Said:
    file = kept / f"{command}.json"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert cli.main([command, *more, "--keep", str(kept), "--json", str(file)]) == 0
    return Said(printed.getvalue(), json.loads(file.read_text()))


@pytest.fixture(scope="module")
def hunted(kept: Path) -> Said:
    """`hunt`: rows by query."""
    return _said(kept, "hunt")


@pytest.fixture(scope="module")
def ruled(kept: Path) -> Said:
    """`rules`, three alerts of each printed."""
    return _said(kept, "rules", "--limit", "3")


@pytest.fixture(scope="module")
def evaluated(ruled: Said) -> dict[str, Row]:
    """What came of each rule."""
    return {one["rule"]: one for one in ruled.json}


def _ids(rows: list[Row]) -> list[str]:
    return sorted(row["AssetId"] for row in rows)


def test_on_the_internet_without_edr(hunted: Said, facts: Facts) -> None:
    """And who says that it is there."""
    wanted = {key: by for key, by in facts.facing.items() if facts.assets[key]["HasEdr"] is False}
    rows = hunted.json["InternetFacingWithoutEdr"]
    assert {row["AssetId"]: set(row["ReportedAs"].split(", ")) for row in rows} == wanted
    assert len(rows) == len(wanted) > 0


def test_exposed_without_an_alert(hunted: Said, facts: Facts) -> None:
    """Alerts by FQDN, short name and address take assets off the list."""
    exposed = {key for key in facts.facing if facts.severe(key)}
    quiet = facts.alerted(30)
    assert _ids(hunted.json["ExposedAssetsWithoutAlert"]) == sorted(exposed - quiet) != []


def test_severe_findings_and_never_an_edr_alert(hunted: Said, facts: Facts) -> None:
    """Endpoints only; alerts of other products do not count."""
    kinds = ("Computer", "Virtual Machine", "Mobile Device")
    severe = {key for key, row in facts.assets.items() if row["AssetType"] in kinds and facts.severe(key)}
    seen = facts.alerted(90, edr=True)
    assert _ids(hunted.json["SevereFindingsWithoutEdrAlert"]) == sorted(severe - seen) != []


def test_orphan_findings(hunted: Said, facts: Facts) -> None:
    """Per asset that is not there: how many, how many severe."""
    wanted = {
        key: (len(rows), sum(row["Severity"] in SEVERE for row in rows))
        for key, rows in facts.open.items()
        if key not in facts.assets
    }
    rows = hunted.json["OrphanFindings"]
    assert {row["AssetId"]: (row["Findings"], row["Severe"]) for row in rows if row["AssetId"]} == wanted != {}


def test_owners_with_the_most_exposure(hunted: Said, facts: Facts) -> None:
    """Assets, exposure and findings of each; the worst come first."""
    frame = pl.DataFrame(
        [
            {
                "Owner": _owner(row),
                "Facing": bool(row["IsInternetFacing"]),
                "WithoutEdr": row["HasEdr"] is False,
                "Critical": facts.count(key, lambda one: one["Severity"] == "Critical"),
                "High": facts.count(key, lambda one: one["Severity"] == "High"),
                "Armed": facts.count(
                    key, lambda one: one["Severity"] == "Critical" and bool(one["IsExploitAvailable"])
                ),
                "Exploited": facts.exploited(key),
            }
            for key, row in facts.assets.items()
        ]
    )
    worst = pl.col("Facing") & ((pl.col("Exploited") > 0) | (pl.col("Armed") > 0))
    high = ~worst & ((pl.col("Exploited") > 0) | (pl.col("Facing") & (pl.col("Critical") + pl.col("High") > 0)))
    wanted = frame.group_by("Owner").agg(
        pl.len(), worst.sum().alias("worst"), high.sum().alias("high"), pl.col("Facing", "WithoutEdr", "Critical", "High", "Exploited").sum()
    )  # fmt: skip
    names = (
        "Owner",
        "Assets",
        "CriticalExposure",
        "HighExposure",
        "OnTheInternet",
        "WithoutEdr",
        "OpenCritical",
        "OpenHigh",
        "KnownExploited",
    )
    rows = [tuple(row[name] for name in names) for row in hunted.json["OwnersWithMostExposure"]]
    assert sorted(rows) == sorted(wanted.iter_rows())
    assert rows == sorted(rows, key=lambda row: (-row[2], -row[3], -row[6], -row[7]))


def _owner(row: Row) -> str:
    if row["OwnerName"]:
        return f"{row['OwnerName']}@{row['OwnerUpnSuffix']}" if row["OwnerUpnSuffix"] else str(row["OwnerName"])
    return str((row["Organizations"] or ["(no owner)"])[0])


def test_controls_missing_by_environment(hunted: Said, facts: Facts) -> None:
    """Missing, covered, unknown, and critical ones among the missing."""
    controls = {
        "EDR": "HasEdr",
        "Vulnerability Scanner": "HasVulnerabilityScanner",
        "Backup": "HasBackup",
        "MDM": "HasMdm",
    }
    wanted = set()
    frame = pl.DataFrame(
        [{"AssetId": key, **{name: row[name] for name in ("Environment", "EntityProduct", "Criticality", *controls.values())}} for key, row in facts.assets.items()],
        infer_schema_length=None,
    )  # fmt: skip
    for control, column in controls.items():
        has = pl.col(column).cast(pl.Boolean)
        counted = frame.group_by("Environment", "EntityProduct").agg(
            (~has).sum().alias("missing"), has.sum().alias("covered"), has.is_null().sum().alias("unknown"),
            (~has & (pl.col("Criticality") == "Critical")).sum().alias("critical"),
        )  # fmt: skip
        wanted |= {(control, *row) for row in counted.filter(pl.col("missing") > 0).iter_rows()}
    names = ("Control", "Environment", "EntityProduct", "Missing", "Covered", "Unknown", "CriticalMissing")
    rows = {tuple(row[name] for name in names) for row in hunted.json["ControlsMissingByEnvironment"]}
    assert rows == wanted != set()


def test_nothing_changed_since_the_only_run(hunted: Said) -> None:
    """The first inventory is not a change."""
    assert hunted.json["ChangedSinceLastRun"] == []


def _details(evaluated: dict[str, Row], rule: str) -> list[Row]:
    assert evaluated[rule]["fires"] is (evaluated[rule]["results"] > 0)
    return [alert["details"] for alert in evaluated[rule]["alerts"]]


def test_rules_on_the_inventory(evaluated: dict[str, Row], facts: Facts) -> None:
    """Critical machines without EDR and exploited vulnerabilities, on the internet by any product's word."""
    bare = {
        key
        for key in facts.facing
        if facts.assets[key]["Criticality"] == "Critical" and facts.assets[key]["HasEdr"] is False
    }
    exploited = {key for key in facts.facing if facts.exploited(key)}
    assert _ids(_details(evaluated, "InternetFacingCriticalAssetWithoutEdr")) == sorted(bare) != []
    assert _ids(_details(evaluated, "KnownExploitedVulnerabilityOnInternetFacingAsset")) == sorted(exploited) != []
    for name in ("CriticalAssetVanished", "CriticalAssetLostEdr", "InventoryStaleOrIncomplete"):
        assert not evaluated[name]["fires"]


def test_rules_on_alerts(evaluated: dict[str, Row], facts: Facts) -> None:
    """Of the last hour: those on assets that matter, with these assets, and those on hosts that nobody knows."""
    since = datetime.now(UTC) - timedelta(hours=1)
    matter, unknown = {}, set()
    for alert in facts.alerts:
        if datetime.fromisoformat(alert["TimeGenerated"]) < since:
            continue
        rows = [facts.assets[key] for key in facts.matches(alert)]
        has_edr = {row["HasEdr"] for row in rows}
        critical = any(row["Criticality"] == "Critical" for row in rows)
        exposed = any(row["IsInternetFacing"] and facts.exploited(row["AssetId"]) for row in rows)
        if critical or (False in has_edr and True not in has_edr) or exposed:
            matter[alert["SystemAlertId"]] = {row["AssetId"] for row in rows}
        if not rows:
            unknown.add(alert["Entities"][0]["HostName"])
    found = _details(evaluated, "AlertOnCriticalOrUnderProtectedAsset")
    assert {row["OriginalAlert"]: set(row["CaasmAssets"].split(", ")) for row in found} == matter != {}
    strangers = evaluated["AlertOnAssetUnknownToCaasm"]["alerts"]
    assert {alert["entities"][0]["HostName"] for alert in strangers} == unknown != set()


def test_an_alert_has_its_title_its_entities_and_its_details(evaluated: dict[str, Row]) -> None:
    """As Sentinel would make them of a row, the gravest first."""
    raised = evaluated["AlertOnCriticalOrUnderProtectedAsset"]["alerts"]
    for alert in raised:
        host = alert["entities"][0]
        assert alert["title"].startswith("CAASM - ")
        assert "{{" not in alert["title"]
        assert host["type"] == "Host"
        assert host["HostName"] in alert["title"]
        assert "" not in host.values()
        assert alert["details"]["Why"]
    assert [alert["severity"] for alert in raised] == sorted(alert["severity"] for alert in raised)


def test_what_is_printed_is_what_was_found(hunted: Said, ruled: Said) -> None:
    """Every query with its count, every rule with what it does; what is left out is counted."""
    for name, rows in hunted.json.items():
        assert f"· {name} · {len(rows):,}" in hunted.text
        assert len(rows) <= 10 or f"… and {len(rows) - 10:,} more rows" in hunted.text
    for entry in ruled.json:
        (line,) = (line.split() for line in ruled.text.splitlines() if entry["rule"] in line)
        assert line[:2] == ["fires" if entry["fires"] else "silent", entry["rule"]]
        assert int(line[3]) == entry["results"]
        assert len(entry["alerts"]) == (entry["results"] if entry["fires"] else 0)
        assert len(entry["alerts"]) <= 3 or f"… and {len(entry['alerts']) - 3:,} more rows" in ruled.text


def test_one_query_by_name(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever its case; of another name it is said which there are."""
    assert cli.main(["hunt", "controlsmissingbyenvironment", "--keep", str(kept)]) == 0
    said = capsys.readouterr().out
    assert "MissingPercent" in said
    assert "OrphanFindings" not in said
    assert cli.main(["hunt", "nothing", "--keep", str(kept)]) == 1
    assert "ControlsMissingByEnvironment" in capsys.readouterr().out


def test_alerts_come_from_a_file_or_are_made_up(kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Either takes the place of what was there; without any, who asks for them says so."""
    directory = tmp_path / "kept"
    shutil.copytree(kept, directory)
    file = tmp_path / "alerts.ndjson"
    file.write_text('{"SystemAlertId": "1", "TimeGenerated": "2026-11-21T00:00:00Z", "Entities": [], "Nonsense": 1}\n')
    assert cli.main(["alerts", str(file), "--keep", str(directory)]) == 0
    assert Workspace(directory / "sentinel").query("SecurityAlert | project SystemAlertId, Entities").rows == [
        ["1", "[]"]
    ]
    assert cli.main(["alerts", "--count", "7", "--keep", str(directory)]) == 0
    assert Workspace(directory / "sentinel").query("SecurityAlert | count").rows == [[7]]
    file.write_text("[]\n")
    assert cli.main(["alerts", str(file), "--keep", str(directory)]) == 1
    shutil.rmtree(directory / "sentinel" / ALERTS)
    capsys.readouterr()
    assert cli.main(["hunt", "ExposedAssetsWithoutAlert", "--keep", str(directory)]) == 0
    assert "SecurityAlert is empty here" in capsys.readouterr().out
