"""Severity profiles: what a product's labels and numbers mean on the common five levels, as data, and the expressions that read them.

Invariant: label first, then the product's own number scale, then CVSS bands; what none of them can read is Unknown, never a level by default, and
the original text is always kept. The same number or word means opposite things in different products, so a
profile belongs to one product. CVSS bands: FIRST, CVSS v3.1 specification, §5 (qualitative severity rating scale).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from sentinel.tables import EVENT_SEVERITY
from transforms import values

WORDS: Mapping[str, str] = {
    "critical": "Critical",
    "high": "High",
    "medium": "Medium",
    "moderate": "Medium",
    "low": "Low",
    "info": "Informational",
    "informational": "Informational",
    "information": "Informational",
    "none": "Informational",
}
"""Labels that every profile reads, lower case; a profile's own come first."""

LEVELS = ("Critical", "High", "Medium", "Low", "Informational")

CVSS_BANDS: Sequence[tuple[float, str]] = (
    (9.0, "Critical"),
    (7.0, "High"),
    (4.0, "Medium"),
    (0.1, "Low"),
    (0.0, "Informational"),
)


@dataclass(frozen=True, slots=True)
class Profile:
    """A product's scale. `bands`: lower bounds of its number, highest first, or none when it has no number worth reading."""

    labels: Mapping[str, str] = field(default_factory=dict)
    bands: Sequence[tuple[float, str]] = ()

    @property
    def words(self) -> dict[str, str]:
        """Every label that the profile reads, lower case."""
        return {**WORDS, **self.labels}


CYCOGNITO = Profile(bands=((9.5, "Critical"), (7.75, "High"), (5.5, "Medium"), (0.1, "Low"), (0.0, "Informational")))
"""Scores 0 to 10 with bands of their own: low 3-5, medium 6-7.5, high 8-9, critical 10 (2,119 recorded issues)."""

TENABLE = Profile(
    labels=dict(zip(("i", "ii", "iii", "4", "3", "2", "1", "0"), ("High", "Medium", "Low", *LEVELS), strict=True)),
    bands=((4.0, "Critical"), (3.0, "High"), (2.0, "Medium"), (1.0, "Low"), (0.0, "Informational")),
)
"""severity_id 0 to 4, 4 is critical, also as text (Nessus files); the risk factor None means no risk; stig_severity is a DISA STIG category."""


def level_of_label(label: pl.Expr, profile: Profile) -> pl.Expr:
    """The level that a label means, or null."""
    return values.mapped(label, profile.words, None)


def level_of_number(number: pl.Expr, bands: Sequence[tuple[float, str]]) -> pl.Expr:
    """The level whose lower bound is the highest not above the number, or null."""
    expression = pl.lit(None, pl.String)
    for bound, level in reversed(bands):
        expression = pl.when(number >= bound).then(pl.lit(level)).otherwise(expression)
    return expression


COLUMNS = ("Severity", "EventSeverity", "EventOriginalSeverity", "SeverityBasis")


def judged(
    frame: pl.LazyFrame,
    profile: Profile,
    labels: Sequence[pl.Expr],
    number: pl.Expr | None = None,
    cvss: pl.Expr | None = None,
) -> pl.LazyFrame:
    """The frame with the four severity columns of findings (COLUMNS), each step from the one before (see `values.name`).

    `labels` are tried in order; `number` is on the profile's scale; `cvss` is a base score.
    """
    given = {f"_label_{at}": label for at, label in enumerate(labels)}
    read = {name: level_of_label(label, profile) for name, label in given.items()}
    original, basis = dict(given), dict.fromkeys(given, "label")
    unread = list(given.values())
    if number is not None:
        read["_number"] = level_of_number(number, profile.bands)
        original["_number"], basis["_number"] = _shortest(number), "number"
        unread.append(_shortest(number))
    if cvss is not None:
        read["_cvss"] = level_of_number(cvss, CVSS_BANDS)
        original["_cvss"], basis["_cvss"] = cvss.cast(pl.String), "cvss"

    def of_the_first(said: Mapping[str, pl.Expr]) -> list[pl.Expr]:
        return [pl.when(pl.col(name).is_not_null()).then(expression) for name, expression in said.items()]

    return (
        frame.with_columns(**read)
        .with_columns(
            Severity=pl.coalesce(*read, pl.lit("Unknown")),
            # What nothing could read is kept too.
            EventOriginalSeverity=pl.coalesce(*of_the_first(original), *unread),
            SeverityBasis=pl.coalesce(
                *of_the_first({name: pl.lit(word) for name, word in basis.items()}), pl.lit("none")
            ),
        )
        .with_columns(EventSeverity=values.once_each(pl.col("Severity"), _event_severity))
    )


def _event_severity(levels: pl.Series) -> pl.Series:
    return pl.Series([EVENT_SEVERITY[level] for level in levels], dtype=pl.String)


def _shortest(number: pl.Expr) -> pl.Expr:
    return number.cast(pl.String).str.strip_suffix(".0")
