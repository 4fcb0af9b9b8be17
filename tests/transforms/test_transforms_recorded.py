"""Recorded records of the real products: all are rows on the fast path, and the columns hold what the products say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

DATA = Path(__file__).parents[3] / "shared/data"
FILES = {
    "cycognito/domains": "cycognito/assets_domain.ndjson",
    "cycognito/web_apps": "cycognito/assets_webapp.ndjson",
    "cycognito/ip_ranges": "cycognito/assets_iprange.ndjson",
    "cycognito/issues": "cycognito/findings_issues.ndjson",
    "device42/devices": "device42/assets.ndjson",
    "tenable/assets": "tenable_io/assets.ndjson",
    "tenable/vulnerabilities": "tenable_io/findings_vulns.ndjson",
}

pytestmark = pytest.mark.skipif(not DATA.exists(), reason=f"{DATA} is not here: recordings are not ours to ship")


def _lines(name: str) -> list[bytes]:
    return (DATA / FILES[name]).read_bytes().splitlines()


@pytest.mark.parametrize("name", FILES)
def test_every_recorded_record_is_one_row_on_the_fast_path(name: str, flattened) -> None:
    """As many rows as records, none rejected, none read leniently, and the same rows when all are."""
    lines = _lines(name)
    result = flattened(name, lines)
    assert (result.rows.height, result.rejects, result.lenient) == (len(lines), [], 0)
    assert result.rows.equals(flattened(name, lines, fast=False).rows)


@pytest.mark.parametrize("name", [name for name in FILES if name != "tenable/vulnerabilities"])
def test_identifiers_are_the_records_own(name: str, flattened) -> None:
    """In order, as the product writes them."""
    lines = _lines(name)
    assert flattened(name, lines).rows["EntityOriginalId"].to_list() == [str(json.loads(line)["id"]) for line in lines]


def test_tenable_findings_without_an_identifier_have_one_that_is_made(flattened) -> None:
    """Of asset, plugin, port and protocol, unless the export gives one."""
    lines = _lines("tenable/vulnerabilities")

    def identifier(record: dict[str, Any]) -> str:
        port = record["port"]
        made = f"{record['asset']['uuid']}/{record['plugin']['id']}/{port['port']}/{port['protocol'].lower()}"
        return str(record.get("finding_id") or made)

    found = flattened("tenable/vulnerabilities", lines).rows["EntityOriginalId"].to_list()
    assert found == [identifier(json.loads(line)) for line in lines]


@pytest.mark.parametrize(
    ("name", "severities"),
    [
        ("cycognito/issues", {"Critical": 36, "High": 251, "Medium": 764, "Low": 1068}),
        ("tenable/vulnerabilities", {"Critical": 8, "High": 67, "Medium": 31, "Low": 12, "Informational": 411}),
    ],
)
def test_severities_are_those_that_were_counted(name: str, severities: dict[str, int], flattened) -> None:
    """By label, as in the records; none is unknown."""
    rows = flattened(name, _lines(name)).rows
    assert dict(rows["Severity"].value_counts().iter_rows()) == severities
    assert set(rows["SeverityBasis"]) == {"label"}


@pytest.mark.parametrize(
    ("name", "column", "least", "most"),
    [
        ("cycognito/domains", "DvcFQDN", 1, 1),
        ("cycognito/domains", "FirstSeen", 1, 1),
        ("cycognito/web_apps", "DvcIpAddr", 0.1, 0.95),
        ("cycognito/issues", "FirstSeen", 1, 1),
        ("cycognito/issues", "AssetId", 1, 1),
        ("device42/devices", "DvcIpAddr", 0.3, 0.4),
        ("device42/devices", "AssetName", 0.99, 1),
        ("tenable/assets", "LastSeen", 1, 1),
        ("tenable/vulnerabilities", "LastSeen", 1, 1),
        ("tenable/vulnerabilities", "Evidence", 0.3, 1),
        ("tenable/vulnerabilities", "CveId", 0.05, 0.5),
    ],
)
def test_columns_are_filled_as_far_as_the_records_are(
    name: str, column: str, least: float, most: float, flattened
) -> None:
    """The share of rows with a value is plausible."""
    rows = flattened(name, _lines(name)).rows
    assert least <= rows[column].count() / rows.height <= most


@pytest.mark.parametrize("name", FILES)
def test_no_value_is_longer_than_the_service_takes(name: str, flattened) -> None:
    """One recorded finding is half a megabyte: what is cut is named."""
    result = flattened(name, _lines(name))
    longest = result.rows.select(pl.col(pl.String).str.len_bytes().max()).row(0)
    assert max(size or 0 for size in longest) <= 65_536
    assert result.truncated == (2 if name == "tenable/vulnerabilities" else 0)
    assert result.rows["FieldsTruncated"].count() == result.truncated
