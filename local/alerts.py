"""Alerts for a loaded workspace that has none: rows of SecurityAlert from a file, or made-up ones on assets of the load.

Invariant: made-up alerts depend only on the load and their number; most are on machines that the load knows, by the names that other products use, one in
six is on a host that it does not know.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from local.sentinel.foreign import ALERTS, put_rows
from local.sentinel.query import Workspace

_KINDS: Final = (
    ("Microsoft Defender for Endpoint", "Suspicious PowerShell command line", "Medium", "Execution"),
    ("Microsoft Defender for Endpoint", "Possible credential dumping from LSASS", "High", "CredentialAccess"),
    ("Microsoft Defender for Cloud", "Suspected brute force over SSH", "Low", "InitialAccess"),
    ("Azure Sentinel", "Beaconing to a rare domain", "Medium", "CommandAndControl"),
)

_MACHINES: Final = """
CAASM_Assets
| where isnotempty(DvcHostname) and AssetType in ('Computer', 'Virtual Machine', 'Other')
| extend Rank = case(Criticality == 'Critical', 0, IsInternetFacing == true, 1, 2)
| order by Rank asc, AssetId asc
| project DvcHostname, DvcDomain, DvcIpAddr
"""


def read(file: Path) -> list[dict[str, Any]]:
    """The rows of a file with a JSON object a line; raises ValueError for a line that is none."""
    return [
        _object(number, line) for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1) if line
    ]


def _object(number: int, line: str) -> dict[str, Any]:
    found = json.loads(line)
    if not isinstance(found, dict):
        raise TypeError(f"line {number} is no JSON object: {line[:80]!r}")
    return found


def make(workspace: Workspace, count: int, now: datetime) -> Iterator[dict[str, Any]]:
    """So many alerts: the first half of the last hour, the others of the days before, half a day apart; critical machines and those on the internet first."""
    machines = workspace.query(_MACHINES, now=now).rows or [["host-1", "", ""]]
    stride = max(1, len(machines) // max(count, 1))
    for number in range(count):
        host, domain, address = machines[number * stride % len(machines)]
        if number % 6 == 5:
            host, domain, address = f"unlisted-{number:03d}", "", ""
        product, name, severity, tactic = _KINDS[number % len(_KINDS)]
        recent = number * 2 < count
        at = now - (timedelta(minutes=1 + number % 50) if recent else timedelta(hours=12 * (number - count // 2 + 1)))
        entities = [{"$id": "2", "Type": "host", "HostName": host, **({"DnsDomain": domain} if domain else {})}]
        if address:
            entities.append({"$id": "3", "Type": "ip", "Address": address})
        yield {
            "TimeGenerated": at.isoformat(), "StartTime": at.isoformat(), "EndTime": at.isoformat(), "SystemAlertId": f"made-up-{number:04d}",
            "DisplayName": name, "AlertName": name, "AlertSeverity": severity, "ProductName": product, "ProviderName": product, "VendorName": "Microsoft",
            "Status": "New", "CompromisedEntity": host, "Tactics": tactic, "Entities": entities,
        }  # fmt: skip


def put(directory: Path, file: Path | None, count: int) -> int:
    """Make the rows of the file, or so many made-up ones, the alerts of the workspace in a store directory; gives their number."""
    rows = read(file) if file is not None else make(Workspace(directory), count, datetime.now(UTC))
    return put_rows(directory, ALERTS, rows)
