"""Severity: words and numbers that products have written, and the order in which a profile looks at them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from sentinel.tables import EVENT_SEVERITY, SEVERITIES
from transforms import severity
from transforms.severity import CYCOGNITO, TENABLE, Profile

FILE = Path(__file__).parents[3] / "shared/data/severity_vectors.jsonl"
PROFILES = {
    "cycognito": CYCOGNITO,
    "defectdojo/cycognito": CYCOGNITO,
    "tenable_io": TENABLE,
    "defectdojo/tenable": TENABLE,
}


def _read(
    profile: Profile, labels: list[str | None], number: float | None = None, cvss: float | None = None
) -> dict[str, Any]:
    texts = {f"label{at}": pl.lit(label, pl.String) for at, label in enumerate(labels)}
    frame = pl.select(**texts, number=pl.lit(number, pl.Float64), cvss=pl.lit(cvss, pl.Float64))
    labels = [pl.col(name) for name in texts]
    judged = severity.judged(frame.lazy(), profile, labels, pl.col("number"), pl.col("cvss"))
    return judged.select(severity.COLUMNS).collect().row(0, named=True)


@pytest.mark.skipif(
    not FILE.exists(), reason=f"{FILE} is not here: it holds recorded values, which are not ours to ship"
)
@pytest.mark.parametrize("source", PROFILES)
def test_every_recorded_value_means_what_was_agreed(source: str) -> None:
    """Texts through the labels, numbers through the number scale; level and ASIM's level as in the vector file."""
    lines = map(json.loads, FILE.read_text(encoding="utf-8").splitlines())
    vectors = [line for line in lines if line["source"] == source and line["expected"]]
    assert vectors
    wrong = []
    for vector in vectors:
        raw = vector["raw"]
        row = _read(PROFILES[source], [raw]) if isinstance(raw, str) else _read(PROFILES[source], [None], float(raw))
        found = row["Severity"].lower(), row["EventSeverity"].lower(), row["EventOriginalSeverity"]
        if found != (vector["expected"].lower(), vector["expected_asim"].lower(), str(raw)):
            wrong.append((vector["field"], raw, found))
    assert wrong == []


@pytest.mark.parametrize(
    ("labels", "number", "cvss", "level", "basis", "original"),
    [
        (["low", "critical"], 4.0, 9.8, "Low", "label", "low"),
        ([None, " CRITICAL "], 1.0, 2.0, "Critical", "label", " CRITICAL "),
        (["no such word", None], 3.0, 2.0, "High", "number", "3"),
        ([None, None], 2.5, 9.8, "Medium", "number", "2.5"),
        ([None, None], None, 9.0, "Critical", "cvss", "9.0"),
        ([None, None], -1.0, 0.0, "Informational", "cvss", "0.0"),
        (["no such word", None], None, None, "Unknown", "none", "no such word"),
        ([None, None], -1.0, None, "Unknown", "none", "-1"),
        ([None, None], None, None, "Unknown", "none", None),
    ],
)
def test_a_label_counts_before_a_number_before_cvss(
    labels: list[str | None],
    number: float | None,
    cvss: float | None,
    level: str,
    basis: str,
    original: str | None,
) -> None:
    """The first that can be read decides; what it was read from, or what nothing could read, is kept as it was."""
    row = _read(TENABLE, labels, number, cvss)
    assert (row["Severity"], row["SeverityBasis"], row["EventOriginalSeverity"]) == (level, basis, original)
    assert row["EventSeverity"] == EVENT_SEVERITY[level]


@pytest.mark.parametrize(
    ("score", "level"),
    [
        (0.0, "Informational"),
        (0.1, "Low"),
        (5.4, "Low"),
        (5.5, "Medium"),
        (7.5, "Medium"),
        (8.0, "High"),
        (10.0, "Critical"),
    ],
)
def test_cycognito_has_bands_of_its_own(score: float, level: str) -> None:
    """Its 8 is High and its 5 Low, unlike CVSS's bands."""
    assert _read(CYCOGNITO, [None], score)["Severity"] == level


@pytest.mark.parametrize("profile", [CYCOGNITO, TENABLE], ids=["cycognito", "tenable"])
def test_a_profile_only_knows_the_common_levels(profile: Profile) -> None:
    """Every level that it can give is one of the contract, and its bands go down."""
    assert {*profile.words.values(), *(level for _, level in profile.bands)} <= set(SEVERITIES) - {"Unknown"}
    assert [bound for bound, _ in profile.bands] == sorted((bound for bound, _ in profile.bands), reverse=True)
