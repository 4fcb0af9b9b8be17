"""The estimate as a user reads it."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from local.cost import show

PART = {"records": 5_000_000, "rows": 5_000_000, "json_bytes": 18_208_500_000, "wire_bytes": 40_000}
FOUND: dict[str, Any] = {
    "source": "tenable",
    "mode": "full",
    "based_on": "a sample of 4,500 records",
    "streams": {"assets": PART, "vulnerabilities": dict.fromkeys(PART)},
    "rows": 5_000_000,
    "gb": 18.2085,
    "requests": {"raw": 17_630, "wire": 2_800},
    "duration_s": 4000.2,
    "quota_s": 12.0,
    "money": {"amount": 50.2555, "price_per_gb": 2.76},
    "notes": ["vulnerabilities: tell it"],
}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, ["5,000,000 rows · 18.21 GB ingested · requests: 17,630 (2,800 in wire mode)", "18,208.5", "< 0.1"]),
        ({}, ["1 h 6 min (at the quota: 12 s) · 50.26 at 2.76 a GB", "· vulnerabilities: tell it", "?"]),
        ({"gb": 0.0023, "duration_s": 61}, ["2.3 MB ingested", "1 min 1 s (at the quota"]),
        ({"money": None, "duration_s": None}, ["duration not known (at", "--price AMOUNT per GB tells the money"]),
        ({"money": {"amount": 0.00071, "price_per_gb": 3.0}}, ["0.00071 at 3 a GB"]),
    ],
    ids=["volume", "time and money", "little", "unknown", "cents"],
)
def test_an_estimate_is_told_in_units_that_fit(changes: dict[str, Any], told: list[str]) -> None:
    """Large and small figures, and what is not known, never as a zero."""
    console = Console(record=True, width=150, quiet=False)
    with console.capture() as capture:
        show(console, {**FOUND, **changes})
    for text in told:
        assert text in capture.get()
