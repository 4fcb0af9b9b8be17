"""Single values: times, names, addresses, hosts, lists; what cannot be read is null and never an error."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms import coverage, values


def _apply(expression: Callable[[pl.Expr], pl.Expr], value: str | None) -> Any:
    """The expression on a value alone, inside a list, and among values of other shapes: always the same."""
    kind = pl.String()
    alone = pl.DataFrame({"v": [value]}, {"v": kind}).select(expression(pl.col("v"))).item()
    among = pl.DataFrame({"v": ["x", value, None, "2020-01-01"]}, {"v": kind}).select(v=expression(pl.col("v")))["v"]
    listed = pl.DataFrame({"v": [[value], []]}, {"v": pl.List(kind)}).select(
        pl.col("v").list.eval(expression(pl.element()))
    )
    assert among[1] == alone
    assert listed.item(0, 0).to_list() == [alone]
    return alone


def _at(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type,misc]  # six or seven numbers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-02-29T23:59:59.999Z", _at(2024, 2, 29, 23, 59, 59, 999_000)),
        ("2024-02-29T23:59:59Z", _at(2024, 2, 29, 23, 59, 59)),
        ("2024-02-29T23:59:59.123456Z", _at(2024, 2, 29, 23, 59, 59, 123_456)),
        ("2024-02-29T23:59:59.123456789Z", _at(2024, 2, 29, 23, 59, 59, 123_456)),
        ("2024-03-01T01:30:00+02:00", _at(2024, 2, 29, 23, 30)),
        ("2024-02-29T23:59:59", _at(2024, 2, 29, 23, 59, 59)),
        ("2024-02-29T23:59:59.5", _at(2024, 2, 29, 23, 59, 59, 500_000)),
        ("2024-02-29 23:59:59", _at(2024, 2, 29, 23, 59, 59)),
        ("2024-02-29", _at(2024, 2, 29)),
        ("2018-02-31T00:00:00Z", None),
        ("2018-02-31", None),
        ("2023-02-29T00:00:00Z", None),
        ("2024-13-01T00:00:00Z", None),
        ("2024-02-29T25:00:00Z", None),
        ("yesterday", None),
        ("1717237230", None),
        ("", None),
        (None, None),
    ],
)
def test_a_time_is_utc_or_null(text: str | None, expected: datetime | None) -> None:
    """ISO 8601 with a zone, without (then UTC), a date (its midnight); impossible dates are null."""
    assert _apply(values.instant, text) == expected


def _usual(time: datetime, decimals: int) -> str:
    whole = time.isoformat(timespec="microseconds")
    return (whole[: 20 + decimals] if decimals else whole[:19]) + "Z"


_USUAL = st.builds(_usual, st.datetimes(), st.integers(0, 6))
_EDITS = [
    (r"Z$", zone) for zone in ("z", "", " Z", "Z ", "ZZ", "+01", "+0100", "+01:00", "-00:00", "+25:00", "+01Z", "UTC")
] + [
    (r"(?:\.\d*)?Z$", decimals) for decimals in (".Z", ",5Z", ".1234567Z", ".123456789Z", ".1234567890Z")
] + [
    (r"T", "t"), (r"T", " "), (r"T", "  "), (r":", ""), (r"-", ""), (r"^", " "), (r"^", "-"), (r"^", "1"), (r"^\d\d", ""),
    (r":\d\d(?:\.\d*)?Z", "Z"), (r":\d\d:.*Z", "Z"), (r":\d\d(?:\.\d*)?Z", "+01:00"), (r":\d\d:\d\d", ":12:60"), (r"T\d\d", "T24"),
    (r"T\d\d", "T1"), (r"-\d\d-\d\dT", "-02-30T"), (r"-\d\d-\d\dT", "-02-29T"), (r"-\d\d-", "-00-"), (r"\d\dT", "٣٤T"),
]  # fmt: skip
_NEARLY = st.builds(lambda text, edit: re.sub(edit[0], edit[1], text), _USUAL, st.sampled_from(_EDITS))


@settings(max_examples=500, deadline=None)
@given(st.lists(st.none() | _USUAL | _NEARLY, max_size=3))
def test_times_are_read_the_same_by_the_fast_way(texts: list[str | None]) -> None:
    """Of the usual form, or nearly: what pyarrow reads is what polars reads."""
    given_texts = pl.Series("v", texts, pl.String)
    fast, slow = values._in_utc(given_texts), values._in_any_form(given_texts)
    assert fast is None or fast.equals(slow, check_dtypes=True, check_names=True)


@given(_USUAL)
def test_the_usual_times_are_read_the_fast_way(text: str) -> None:
    """With any number of decimals up to six, and where there is none."""
    found = values._in_utc(pl.Series([text, None]))
    assert found is not None
    assert found.null_count() == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("00163e00000a", "00:16:3E:00:00:0A"),
        ("00:16:3e:00:00:0a", "00:16:3E:00:00:0A"),
        ("00-16-3E-00-00-0A", "00:16:3E:00:00:0A"),
        ("0016.3e00.000a", "00:16:3E:00:00:0A"),
        ("00 16 3e 00 00 0a", "00:16:3E:00:00:0A"),
        ("00163e00000", "00163e00000"),
        ("00163e00000g", "00163e00000g"),
        (" none ", "none"),
        ("[REDACTED]", "[REDACTED]"),
        ("", None),
        (None, None),
    ],
)
def test_a_mac_address_has_colons_and_capitals(text: str | None, expected: str | None) -> None:
    """Whatever it was written with; another text stays itself."""
    assert _apply(values.mac, text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("www.example.test", "www.example.test"),
        ("https://www.example.test/a:b?c=/d", "www.example.test"),
        ("www.example.test:8443", "www.example.test"),
        ("www.example.test/path", "www.example.test"),
        ("ftp://anna:secret@files.example.test:21/", "files.example.test"),
        ("192.0.2.1:80", "192.0.2.1"),
        ("https://[2001:db8::1]:8443/x", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("2001:db8::1/64", "2001:db8::1"),
        ("größe.example.test/pfad", "größe.example.test"),
        ("/only/a/path", None),
        ("https://", None),
        ("", None),
        (None, None),
    ],
)
def test_the_host_of_a_url(text: str | None, expected: str | None) -> None:
    """With or without scheme, port, path, brackets; never the name or password before an @."""
    assert _apply(values.host_of, text) == expected


@pytest.mark.parametrize(
    ("text", "address"),
    [
        *(
            (text, True)
            for text in ("192.0.2.1", "0.0.0.0", "255.255.255.255", "2001:db8::1", "::", "::ffff:192.0.2.1")
        ),
        *((text, False) for text in ("256.1.1.1", "1.2.3", "1.2.3.4.5", "192.0.2.1/24", "host", "a:1", "", "١.٢.٣.٤")),
    ],
)
def test_what_an_address_is(text: str, address: bool) -> None:
    """IPv4 in full and in ASCII digits, or two colons."""
    assert _apply(values.is_ip, text) is address
    assert _apply(values.ip, text) == (text if address else None)


@pytest.mark.parametrize(
    ("text", "name", "full", "short", "domain"),
    [
        (
            "Web01.Corp.Example.TEST.",
            "web01.corp.example.test",
            "web01.corp.example.test",
            "web01",
            "corp.example.test",
        ),
        ("web01", "web01", None, "web01", None),
        (" web01 ", "web01", None, "web01", None),
        ("two words.example.test", "two words.example.test", None, None, None),
        ("a..b", "a..b", None, "a", None),
        (".local", ".local", None, "", None),
        ("192.0.2.1", None, None, None, None),
        ("192.0.2.1.", None, None, None, None),
        ("2001:DB8::1", None, None, None, None),
        ("", None, None, None, None),
        (None, None, None, None, None),
    ],
)
def test_a_name_and_its_parts(
    text: str | None, name: str | None, full: str | None, short: str | None, domain: str | None
) -> None:
    """Lower case; no address is a name; only what has a domain is a full name, and only a full name has a domain."""
    frame = pl.DataFrame({"v": [text]}, {"v": pl.String()}).select(v=values.clean_name(pl.col("v")))
    frame = frame.select(name=values.name(pl.col("v")))
    frame = frame.with_columns(full=values.fqdn(pl.col("name")), short=values.hostname(pl.col("name")))
    assert frame.with_columns(domain=values.domain(pl.col("full"))).row(0) == (name, full, short, domain)


LISTS = st.none() | st.lists(st.none() | st.sampled_from(["a", "b", "ä", ""]), max_size=5)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(LISTS, LISTS, LISTS), min_size=1, max_size=5))
def test_lists_join_in_order_without_nulls_and_repeats(rows: list[tuple[list[str | None] | None, ...]]) -> None:
    """`joined` is what a loop would give; so are `one` and `first`; nothing at all is null."""
    frame = pl.DataFrame(rows, dict.fromkeys("abc", pl.List(pl.String)), orient="row")
    columns = [pl.col(name) for name in "abc"]
    found = frame.select(
        joined=values.joined(*columns),
        single=values.joined(columns[0]),
        one=values.one(*(column.list.first() for column in columns)),
        first=values.first(columns[0]),
    )
    for row, lists in zip(found.rows(named=True), rows, strict=True):
        joined = [[item for item in part or [] if item is not None] for part in lists]
        heads = [part[0] for part in lists if part and part[0] is not None]
        assert row["joined"] == (list(dict.fromkeys(itertools.chain(*joined))) or None)
        assert row["single"] == (list(dict.fromkeys(joined[0])) or None)
        assert row["one"] == (list(dict.fromkeys(heads)) or None)
        assert row["first"] == (joined[0][0] if joined[0] else None)


# Versions of Unicode differ in what is not assigned.
_TEXTS = st.text(st.characters(exclude_categories=("Cn", "Cs")), max_size=6)


@given(
    st.lists(
        st.none()
        | st.text(max_size=6)
        | st.sampled_from([" Prod", "\x85uat\u2003", "\x1cdev", "LIVE\u200b", "", "\u212a"])
    )
)
def test_a_word_is_what_polars_would_make_of_it(texts: list[str | None]) -> None:
    """Tables are asked in Python, for each distinct text: white space and case are as everywhere else."""
    stripped = pl.Series(texts, dtype=pl.String).str.strip_chars().str.to_lowercase()
    assert [None if text is None else values.word(text) for text in texts] == stripped.to_list()


@pytest.mark.parametrize(
    ("text", "environment", "criticality"),
    [
        (" PROD ", "Production", "Unknown"),
        ("tier 0", "Other", "Critical"),
        ("lab", "Other", "Unknown"),
        (" ", "Unknown", "Unknown"),
        (None, "Unknown", "Unknown"),
    ],
)
def test_words_for_environments_and_criticality(text: str | None, environment: str, criticality: str) -> None:
    """Whatever their case; a word that is not known is Other, no word is Unknown."""
    assert (_apply(values.environment, text), _apply(values.criticality, text)) == (environment, criticality)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([("SentinelOne_Active", "Yes")], {"HasEdr": True, "SecurityTools": ["SentinelOne"]}),
        ([("CrowdStrike", "missing")], {"HasEdr": False}),
        ([("CrowdStrike", "no"), ("edr", "ACTIVE")], {"HasEdr": True, "SecurityTools": ["EDR"]}),
        ([("Veeam", "maybe"), ("Backup notes", "see wiki")], {}),
        (
            [("JAMF", "1"), ("Qualys ID", "installed"), ("Rubrik", "0"), ("Intune", "true")],
            {
                "HasMdm": True,
                "HasVulnerabilityScanner": True,
                "HasBackup": False,
                "SecurityTools": ["Jamf", "Microsoft Intune", "Qualys"],
            },
        ),
        ([("my sentinelone", "yes"), ("Owner", "yes"), (None, "yes"), ("edr", None)], {}),
        ([], {}),
        (None, {}),
    ],
)
def test_coverage_counts_only_plain_answers_of_known_tools(
    fields: list[tuple[str | None, str | None]] | None, expected: dict[str, Any]
) -> None:
    """Yes beats no of the same kind; anything else leaves coverage unknown, which is not "not covered"."""
    structs = None if fields is None else [{"key": key, "value": value} for key, value in fields]
    frame = pl.DataFrame({"f": [structs]}, {"f": pl.List(pl.Struct({"key": pl.String(), "value": pl.String()}))})
    row = frame.select(**coverage.columns(coverage.verdicts(pl.col("f")))).row(0, named=True)
    assert row == {**dict.fromkeys([*coverage.KINDS, "SecurityTools"]), **expected}


def test_no_tool_hides_another() -> None:
    """No prefix of a tool begins another's, so that the order of the table does not matter."""
    assert [(a, b) for a in coverage.TOOLS for b in coverage.TOOLS if a != b and b.startswith(a)] == []
