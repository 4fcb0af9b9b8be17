"""Whole runs on the recorded responses of real products: every record arrives, or the ledger names it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

JsonDict = dict[str, Any]

FAULTS = ["429", "429-no-retry-after", "503", "drop", "drop-mid-body", "expired-token", "html-200", "not-json"]
SINK_FAULTS = ["429", "429-no-retry-after", "503", "drop-before", "expired-token"]

EXPECTED = {
    "cycognito": {"domains": 2879, "web_apps": 3505, "ip_ranges": 565, "issues": 2119},
    "device42": {"devices": 905},
    "tenable": {"assets": 108, "vulnerabilities": 529},
}


@pytest.fixture(scope="module")
def runs(stack_of: Callable[..., Any], recordings: Path) -> Any:
    return stack_of("--recordings", str(recordings))


def _records(recordings: Path, name: str) -> list[JsonDict]:
    return [json.loads(line) for line in (recordings / f"{name}.ndjson").read_bytes().splitlines() if line]


def _finding_key(record: JsonDict) -> str:
    port = record["port"]
    return f"{record['asset']['uuid']}/{record['plugin']['id']}/{port['port']}/{port['protocol'].lower()}"


def _ids(recordings: Path, source: str, table: str) -> list[str]:
    """The ids that the recorded records of a source should leave in a table."""
    if source == "cycognito":
        kinds = (
            ["assets_domain", "assets_webapp", "assets_iprange"] if table == "CAASM_Assets_CL" else ["findings_issues"]
        )
        return sorted(record["id"] for kind in kinds for record in _records(recordings, f"cycognito/{kind}"))
    if source == "device42":
        return sorted(str(record["id"]) for record in _records(recordings, "device42/assets"))
    if table == "CAASM_Assets_CL":
        return sorted(record["id"] for record in _records(recordings, "tenable_io/assets"))
    return sorted(_finding_key(record) for record in _records(recordings, "tenable_io/findings_vulns"))


@pytest.mark.parametrize("faulty", [False, True], ids=["calm", "one request in ten goes wrong"])
@pytest.mark.parametrize("source", EXPECTED)
def test_every_recorded_record_arrives(runs: Any, recordings: Path, source: str, faulty: bool) -> None:
    """Ids in the emulator are the ids in the recordings, also when 10 % of all requests fail."""
    runs.faults("products", {"seed": 11, "rate": 0.1, "kinds": FAULTS} if faulty else {})
    runs.faults("sentinel", {"seed": 12, "rate": 0.1, "kinds": SINK_FAULTS} if faulty else {})
    outcome = runs.load(source)
    assert (outcome.status, outcome.reasons) == ("complete", [])
    for stream, count in EXPECTED[source].items():
        ledger = outcome.streams[stream]
        assert [ledger[name] for name in ("exported", "staged", "flattened", "rows", "accepted")] == [count] * 5, stream
    for table in ("CAASM_Assets_CL", "CAASM_Findings_CL"):
        if table == "CAASM_Assets_CL" or source != "device42":
            assert runs.ids(outcome.run_id, table) == _ids(recordings, source, table)
    runs.faults("products", {})
    runs.faults("sentinel", {})


def test_orphan_findings_are_kept_and_counted(runs: Any) -> None:
    """61 % of the recorded issues are on kinds of assets that are not exported."""
    outcome = runs.load("cycognito")
    assert outcome.streams["issues"]["orphans"] == 1299
    assert any("1299 findings are on assets" in note for note in outcome.manifest["notes"])


def test_the_finding_of_half_a_megabyte_arrives_cut_and_flagged(runs: Any) -> None:
    """The longest recorded field is cut to 64 KB and named; its neighbours' fields are untouched."""
    outcome = runs.load("tenable")
    rows = runs.query(
        f"CAASM_Findings_CL | where EntitySnapshotId == '{outcome.run_id}' | where strlen(Evidence) > 60000 "
        "| project DetectionId, size=strlen(Evidence), FieldsTruncated | order by size desc"
    )
    assert "56310" in {row[0] for row in rows}
    assert max(row[1] for row in rows) <= 65_536
    assert all("Evidence" in str(row[2]) for row in rows if row[1] > 65_000)
    flagged = runs.query(
        f"CAASM_Findings_CL | where EntitySnapshotId == '{outcome.run_id}' | where isnotnull(FieldsTruncated) | count"
    )
    assert flagged == [(outcome.streams["vulnerabilities"]["truncated"],)]
    assert runs.stats("sentinel")["values_cut"] == {}
