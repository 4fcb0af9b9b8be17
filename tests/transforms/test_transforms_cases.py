"""Golden pairs: a hand-written page of records and the rows that are sent for it.

tests/cases/<source>/<stream>/<case>.json is a page of records of the product's shape; <case>.expected.ndjson holds the rows as they are
encoded for upload, and after them a line for each reject. The difference in it is the review of a change: rewrite the expected files
with `UPDATE_GOLDEN=1 pytest tests/transforms/test_transforms_cases.py` and read `git diff tests/cases`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import pytest

from sentinel import ndjson
from transforms.registry import TRANSFORMS

CASES = Path(__file__).parents[1] / "cases"
PAGES = sorted(CASES.glob("*/*/*.json"))
IDS = [str(page.relative_to(CASES).with_suffix("")) for page in PAGES]


def _records(page: Path) -> list[msgspec.Raw]:
    return msgspec.json.decode(page.read_bytes(), type=list[msgspec.Raw])


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_a_page_gives_its_expected_rows(page: Path, flattened) -> None:
    """The rows, byte for byte as they are sent, and the rejects."""
    result = flattened("/".join(page.parts[-3:-1]), _records(page))
    text = ndjson.encode(result.rows.drop("_record")).decode()
    text += "".join(json.dumps({"record": r.record, "rejected": r.reason}) + "\n" for r in result.rejects)
    expected = page.with_suffix(".expected.ndjson")
    if os.environ.get("UPDATE_GOLDEN"):
        expected.write_text(text, encoding="utf-8")
    assert text.splitlines() == expected.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_the_two_ways_of_decoding_agree_on_a_page(page: Path, flattened) -> None:
    """The lenient path gives every row and reject of the page that the usual way gives."""
    name = "/".join(page.parts[-3:-1])
    usual, lenient = (flattened(name, _records(page), fast=fast) for fast in (True, False))
    assert usual.rows.equals(lenient.rows)
    assert usual.rejects == lenient.rejects


def test_every_stream_has_two_cases_and_every_expectation_a_page() -> None:
    """No stream without cases, no expectation that no test reads."""
    pages = {name: [p for p in PAGES if "/".join(p.parts[-3:-1]) == name] for name in map("/".join, TRANSFORMS)}
    assert {name: len(found) for name, found in pages.items() if len(found) < 2} == {}
    assert {p.with_suffix(".expected.ndjson") for p in PAGES} == set(CASES.glob("*/*/*.ndjson"))


@pytest.mark.parametrize(
    ("table", "column", "values"),
    [
        ("CAASM_Assets_CL", "AssetRiskLevel", {"Info", "Low", "Medium", "High", "Critical", "Other"}),
        ("CAASM_Assets_CL", "Criticality", {"Critical", "High", "Medium", "Low", "Unknown"}),
        (
            "CAASM_Assets_CL",
            "Environment",
            {"Production", "Staging", "Development", "Test", "Disaster Recovery", "Other", "Unknown"},
        ),
        (
            "CAASM_Assets_CL",
            "AssetType",
            {
                *("Computer", "Virtual Machine", "Mobile Device", "Network Device", "IOT Device"),
                *("Domain", "Web Application", "IP Range", "Cluster", "Other"),
            },
        ),
        ("CAASM_Findings_CL", "Severity", {"Critical", "High", "Medium", "Low", "Informational", "Unknown"}),
        ("CAASM_Findings_CL", "EventSeverity", {"High", "Medium", "Low", "Informational"}),
        ("CAASM_Findings_CL", "SeverityBasis", {"label", "number", "cvss", "none"}),
        ("CAASM_Findings_CL", "FindingStatus", {"Open", "Fixed", "Accepted", "Unknown"}),
        (
            "CAASM_Findings_CL",
            "FindingType",
            {"Vulnerability", "Misconfiguration", "Exposure", "Information", "Other"},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_cases_show_every_value_of_a_vocabulary(table: str, column: str, values: set[str]) -> None:
    """Each value of a closed vocabulary that any product gives is in some expectation, and no other value is."""
    streams = {"/".join(name) for name, transform in TRANSFORMS.items() if transform.table.name == table}
    pages = [page for page in PAGES if "/".join(page.parts[-3:-1]) in streams]
    lines = (line for page in pages for line in page.with_suffix(".expected.ndjson").read_text("utf-8").splitlines())
    assert {json.loads(line).get(column) for line in lines} - {None} == values
