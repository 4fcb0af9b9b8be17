"""Expressions over single values that every product needs: clean text, times, names, addresses, lists.

Invariant: an expression never fails on a value; what it cannot read becomes null.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

_TEXT = pl.String()

IPV4 = r"^(?:(?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])\.){3}(?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])$"
_PLAIN_HOST = r"^[^/:@\[\s]+$"
_SCHEME = r"^[A-Za-z][A-Za-z0-9+.-]*://"
_USER = r"^[^/@\s]*@"


def text(column: pl.Expr) -> pl.Expr:
    """Without white space around it; null when nothing is left."""
    stripped = column.str.strip_chars()
    return pl.when(stripped != "").then(stripped)


def instant(column: pl.Expr) -> pl.Expr:
    """A text as UTC time, microseconds: ISO 8601 with Z or an offset, or without either, which is taken as UTC; a date is its midnight.

    Impossible dates (2018-02-31 was seen in a product) are null.
    """

    return column.map_batches(_instant, pl.Datetime("us", "UTC"), is_elementwise=True)


def _instant(texts: pl.Series) -> pl.Series:
    usual = _in_utc(texts)
    return _in_any_form(texts) if usual is None else usual


def _in_utc(texts: pl.Series) -> pl.Series | None:
    """The times when all are written as 2024-02-29T23:59:59Z, with up to six decimals or none.

    pyarrow reads them in an eighth of the time that polars' "%+" takes (0.03 µs each). What else it reads (no seconds, +01) is shorter or has no Z.
    """
    written = texts.to_arrow()
    short, other = (
        pc.less(pc.binary_length(written), len("2024-02-29T23:59:59Z")),
        pc.invert(pc.ends_with(written, "Z")),
    )
    if pc.any(pc.or_(short, other)).as_py():
        return None
    try:
        return pl.Series(texts.name, written.cast(pa.timestamp("us", "UTC")))
    except pa.ArrowInvalid:
        return None


def _in_any_form(texts: pl.Series) -> pl.Series:
    def parsed(form: str, values: pl.Series = texts) -> pl.Series:
        return values.str.to_datetime(form, strict=False, time_unit="us", time_zone="UTC")

    # Nearly every product writes ISO 8601 with a zone; the other forms are only tried when some text is in none.
    usual = parsed("%+")
    if usual.null_count() == texts.null_count():
        return usual
    forms = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f")
    return pl.select(
        pl.coalesce(usual, *(parsed(form) for form in forms), parsed("%+", texts + "T00:00:00Z"))
    ).to_series()


def is_ip(column: pl.Expr) -> pl.Expr:
    """Whether a text is an IP address: IPv4 in full, or anything with two colons."""
    return column.str.contains(IPV4) | column.str.contains(r":.*:")


def ip(column: pl.Expr) -> pl.Expr:
    """The text when it is an IP address."""
    return pl.when(is_ip(column)).then(column)


def clean_name(column: pl.Expr) -> pl.Expr:
    """The text, lower case and without a closing dot: the first step to a host name."""
    return text(column).str.to_lowercase().str.strip_suffix(".")


def name(clean: pl.Expr) -> pl.Expr:
    """A clean name when it is no address.

    The steps from a text to its parts take the step before as a column of its own (`with_columns`, or one `list.eval` each): polars
    evaluates an expression once for every place that it is written in, so nesting them multiplies.
    """
    return pl.when(~is_ip(clean)).then(clean)


def fqdn(host: pl.Expr) -> pl.Expr:
    """The host name (see `name`) when it has a domain and no white space."""
    return pl.when(host.str.contains(r"^[^\s.]+(?:\.[^\s.]+)+$")).then(host)


def hostname(host: pl.Expr) -> pl.Expr:
    """The host name's first label (ASIM's DvcHostname has no domain); null when there is white space in it."""
    return pl.when(~host.str.contains(r"\s")).then(host.str.splitn(".", 2).struct.field("field_0"))


def domain(full_name: pl.Expr) -> pl.Expr:
    """What follows the first label of a fully qualified name (see `fqdn`)."""
    return full_name.str.splitn(".", 2).struct.field("field_1")


def mac(column: pl.Expr) -> pl.Expr:
    """A MAC address as ASIM writes it: upper case, colons; other texts as they are."""
    return column.map_batches(_mac, pl.String, is_elementwise=True)


_PAIRS = r"^(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}$"


def _mac(texts: pl.Series) -> pl.Series:
    if texts.str.contains(_PAIRS).all():
        return texts.str.to_uppercase()
    digits = pl.col("text").str.replace_all(r"[:\-. ]", "").str.to_uppercase()
    pairs = pl.concat_str([pl.col("digits").str.slice(at, 2) for at in range(0, 12, 2)], separator=":")
    # One query: each of its steps by itself costs as much as all of them for some thousand addresses.
    return (
        pl.LazyFrame({"text": texts})
        .with_columns(digits=digits)
        .select(pl.when(pl.col("digits").str.contains(r"^[0-9A-F]{12}$")).then(pairs).otherwise(text(pl.col("text"))))
        .collect()
        .to_series()
        .alias(texts.name)
    )


def host_of(column: pl.Expr) -> pl.Expr:
    """The host of a URL or of a host:port, or the text itself; null when there is none. Names and passwords before an @ are left out."""
    return column.map_batches(_host_of, pl.String, is_elementwise=True)


def _host_of(texts: pl.Series) -> pl.Series:
    usual = texts.str.contains(_PLAIN_HOST)
    if usual.all():
        return texts
    # Only the others are taken apart, each where it stands among them.
    others = _taken_apart(texts.filter(~usual)).gather((~usual).cum_sum().fill_null(1).clip(1) - 1)
    return pl.select(pl.when(usual.fill_null(value=True)).then(texts).otherwise(others)).to_series()


def _taken_apart(texts: pl.Series) -> pl.Series:
    bare = texts.str.replace(_SCHEME, "").str.replace(_USER, "")
    bracketed = bare.str.extract(r"^\[([0-9A-Fa-f:.]+)\]", 1)
    # An IPv6 address needs no brackets when it stands alone, or before a path.
    address = bare.str.extract(r"^([0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*)(?:/|$)", 1)
    host = bare.str.extract(r"^([^/:\[\s]+)", 1)
    return pl.select(pl.coalesce(bracketed, address, host)).to_series()


def present(column: pl.Expr) -> pl.Expr:
    """A list without its nulls (`list.drop_nulls` does the same at 30 times the cost, polars 2.1, measured)."""
    return column.list.filter(pl.element().is_not_null())


def first(column: pl.Expr) -> pl.Expr:
    """The first element of a list that is not null."""
    return present(column).list.first()


def one(*columns: pl.Expr) -> pl.Expr:
    """The values that are there, as a list without repeats, in order; null when there are none."""
    if len(columns) == 1:
        return pl.when(columns[0].is_not_null()).then(listed(*columns))
    return distinct(present(listed(*columns)))


def listed(*columns: pl.Expr) -> pl.Expr:
    """The values as a list, nulls included (`concat_list` does the same at 15 times the cost, polars 2.1, measured)."""
    return pl.concat_arr(*(column.cast(pl.String) for column in columns)).arr.to_list()


def united(*lists: pl.Expr) -> pl.Expr:
    """The elements of several lists, nulls included, without repeats, in order; a null list has none."""
    empty = pl.lit([], pl.List(pl.String))
    first_list, *others = (pl.coalesce(column, empty) for column in lists)
    return functools.reduce(lambda one, other: one.list.set_union(other), others, first_list)


def joined(*lists: pl.Expr) -> pl.Expr:
    """The elements of several lists (a null list has none), without repeats, in order; null when there are none."""
    return distinct(present(lists[0] if len(lists) == 1 else united(*lists)))


def distinct(column: pl.Expr) -> pl.Expr:
    """A list without repeats, in order; null when it is empty."""
    return column.map_batches(_distinct, pl.List(pl.String), is_elementwise=True)


def _distinct(lists: pl.Series) -> pl.Series:
    lengths = lists.list.len()
    if (lengths > 1).any():
        lists = lists.list.unique(maintain_order=True)
    return lists.zip_with(lengths > 0, _NO_LIST) if (lengths == 0).any() else lists


_NO_LIST = pl.Series([None], dtype=pl.List(pl.String))


def once_each(column: pl.Expr, made: Callable[[pl.Series], pl.Series], kind: pl.DataType = _TEXT) -> pl.Expr:
    """What `made` makes of texts, each for itself, worked out once for all that are the same: for columns that say few things.

    At 4,000 texts of five kinds it takes a third of what expressions over all of them take, most of which is their number.
    """

    def of_all(texts: pl.Series) -> pl.Series:
        coded = texts.to_arrow().dictionary_encode("encode")
        each = made(pl.Series(coded.dictionary, dtype=pl.String))
        return each[pl.Series(coded.indices)].alias(texts.name)

    return column.map_batches(of_all, kind, is_elementwise=True)


def mapped(column: pl.Expr, table: Mapping[str, str], default: str | None) -> pl.Expr:
    """What the table says for the text, whatever its case; `default` where it says nothing, and where there is no text."""

    def said(texts: pl.Series) -> pl.Series:
        return pl.Series([table.get(word(text or ""), default) for text in texts], dtype=pl.String)

    return once_each(column, said)


def word(text: str) -> str:
    """A text as the tables have it: lower case, without white space around it (as polars' `strip_chars` sees it)."""
    return text.strip(_WHITE).lower()


_WHITE = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"


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
    return mapped(column, {**ENVIRONMENTS, "": "Unknown"}, "Other")


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
    return mapped(column, CRITICALITIES, "Unknown")
