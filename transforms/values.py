"""Expressions over single values that every product needs: clean text, times, names, addresses, lists.

Invariant: an expression never fails on a value; what it cannot read becomes null.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

IPV4 = r"^(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)$"
HOST_OF_URL = r"^(?:[A-Za-z][A-Za-z0-9+.-]*://)?(?:\[([0-9A-Fa-f:.]+)\]|([^/:\s]+))"


def text(column: pl.Expr) -> pl.Expr:
    """Without white space around it; null when nothing is left."""
    stripped = column.str.strip_chars()
    return pl.when(stripped != "").then(stripped)


def instant(column: pl.Expr) -> pl.Expr:
    """A text as UTC time, microseconds: ISO 8601 with Z or an offset, or without either, which is taken as UTC; a date is its midnight.

    Impossible dates (2018-02-31 was seen in a product) are null.
    """

    def parsed(form: str) -> pl.Expr:
        return column.str.to_datetime(form, strict=False, time_unit="us", time_zone="UTC")

    midnight = pl.concat_str(column, pl.lit("T00:00:00Z"))
    return pl.coalesce(
        parsed("%+"),
        parsed("%Y-%m-%dT%H:%M:%S%.f"),
        parsed("%Y-%m-%d %H:%M:%S%.f"),
        midnight.str.to_datetime("%+", strict=False, time_unit="us", time_zone="UTC"),
    )


def is_ip(column: pl.Expr) -> pl.Expr:
    """Whether a text is an IP address: IPv4 in full, or anything with two colons."""
    return column.str.contains(IPV4) | column.str.contains(r":.*:")


def ip(column: pl.Expr) -> pl.Expr:
    """The text when it is an IP address."""
    return pl.when(is_ip(column)).then(column)


def name(column: pl.Expr) -> pl.Expr:
    """The text, lower case and without a closing dot, when it is a host name and no address."""
    lowered = text(column).str.to_lowercase().str.strip_suffix(".")
    return pl.when(~is_ip(lowered)).then(lowered)


def fqdn(column: pl.Expr) -> pl.Expr:
    """The host name when it has a domain and no white space."""
    host = name(column)
    return pl.when(host.str.contains(r"^[^\s.]+(?:\.[^\s.]+)+$")).then(host)


def hostname(column: pl.Expr) -> pl.Expr:
    """The host name's first label (ASIM's DvcHostname has no domain); null when there is white space in it."""
    host = name(column)
    return pl.when(~host.str.contains(r"\s")).then(host.str.split(".").list.first())


def domain(column: pl.Expr) -> pl.Expr:
    """What follows the first label of a fully qualified name."""
    return fqdn(column).str.extract(r"^[^.]+\.(.+)$", 1)


def mac(column: pl.Expr) -> pl.Expr:
    """A MAC address as ASIM writes it: upper case, colons; other texts as they are."""
    digits = column.str.replace_all(r"[:\-. ]", "").str.to_uppercase()
    pairs = digits.str.replace_all(r"([0-9A-F]{2})", "${1}:").str.strip_suffix(":")
    return pl.when(digits.str.contains(r"^[0-9A-F]{12}$")).then(pairs).otherwise(text(column))


def host_of(column: pl.Expr) -> pl.Expr:
    """The host of a URL or of a host:port, or the text itself."""
    bracketed = column.str.extract(HOST_OF_URL, 1)
    return pl.coalesce(bracketed, column.str.extract(HOST_OF_URL, 2))


def first(column: pl.Expr) -> pl.Expr:
    """The first element of a list that is not null."""
    return column.list.drop_nulls().list.first()


def one(*columns: pl.Expr) -> pl.Expr:
    """The values that are there, as a list without repeats, in order; null when there are none."""
    both = pl.concat_list(*(column.cast(pl.String) for column in columns)).list.drop_nulls()
    return distinct(both)


def joined(*lists: pl.Expr) -> pl.Expr:
    """The elements of several lists (a null list has none), without repeats, in order; null when there are none."""
    empty = pl.lit([], pl.List(pl.String))
    return distinct(pl.concat_list(*(pl.coalesce(column, empty) for column in lists)).list.drop_nulls())


def distinct(column: pl.Expr) -> pl.Expr:
    """A list without repeats, in order; null when it is empty."""
    unique = column.list.unique(maintain_order=True)
    return pl.when(unique.list.len() > 0).then(unique)


def mapped(column: pl.Expr, table: Mapping[str, str], default: str | None) -> pl.Expr:
    """What the table says for the text, whatever its case; `default` where it says nothing."""
    key = column.str.strip_chars().str.to_lowercase()
    return key.replace_strict(dict(table), default=default, return_dtype=pl.String)


ENVIRONMENTS: Mapping[str, str] = {
    "production": "Production",
    "prod": "Production",
    "prd": "Production",
    "live": "Production",
    "staging": "Staging",
    "stage": "Staging",
    "stg": "Staging",
    "pre-production": "Staging",
    "preprod": "Staging",
    "uat": "Staging",
    "development": "Development",
    "dev": "Development",
    "test": "Test",
    "testing": "Test",
    "qa": "Test",
    "disaster recovery": "Disaster Recovery",
    "dr": "Disaster Recovery",
}
"""Words for environments, lower case, to the contract's names."""


def environment(column: pl.Expr) -> pl.Expr:
    """The contract's Environment for a product's word: Other for a word that is not known, Unknown for none."""
    known = mapped(column, ENVIRONMENTS, "Other")
    return pl.when(text(column).is_null()).then(pl.lit("Unknown")).otherwise(known)


CRITICALITIES: Mapping[str, str] = {
    "critical": "Critical",
    "mission critical": "Critical",
    "business critical": "Critical",
    "tier 0": "Critical",
    "very high": "Critical",
    "high": "High",
    "tier 1": "High",
    "medium": "Medium",
    "moderate": "Medium",
    "tier 2": "Medium",
    "low": "Low",
    "tier 3": "Low",
}
"""Words for business criticality, lower case, to the contract's levels."""


def criticality(column: pl.Expr) -> pl.Expr:
    """The contract's Criticality for a product's word, Unknown where it is not known."""
    return mapped(column, CRITICALITIES, "Unknown").fill_null("Unknown")
