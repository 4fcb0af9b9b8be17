"""The column rules, and that the fast path never says anything else than the exact one."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local.sentinel.answers import Refusal
from local.sentinel.decode import decode, decode_exactly, fast_batch
from local.sentinel.rules import convert, cut_text, parse_datetime
from sentinel.tables import ASSETS, FIELD_LIMIT_BYTES, FINDINGS, Column, ColumnType, Table

NOW = datetime(2026, 11, 20, 12)  # noqa: DTZ001 - the emulator's times are naive and UTC
TYPES: tuple[ColumnType, ...] = ("string", "int", "long", "real", "boolean", "dynamic", "datetime")
SMALL = Table(
    "Small_CL",
    "Custom-Small",
    "string_",
    "One column of each type.",
    (Column("TimeGenerated", "datetime", "When."), *(Column(f"{kind}_", kind, "A column.") for kind in TYPES)),
)


def same(body: bytes, table: Table = SMALL) -> bool:
    """Assert that both paths agree on the body; whether the fast one took it."""
    if fast_batch(body, table) is None:
        return False
    fast, exact = decode(body, table, NOW), decode_exactly(body, table, NOW)
    assert fast.batch.equals(exact.batch), (fast.batch.to_pylist(), exact.batch.to_pylist())
    assert fast.counts == exact.counts
    return True


texts = st.one_of(
    st.text(max_size=12), st.sampled_from(["", "NaN", '","', "]}", "\u0000", "é" * 9, "2026-11-20T12:00:00Z", "\\"])
)
numbers = st.one_of(
    st.integers(-(2**70), 2**70),
    st.integers(-5, 5),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([2**31, 2**31 - 1, -(2**31) - 1, 2**63, 2**63 - 1, -(2**63), 1e300, 3.0]),
)
times = st.one_of(
    st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30)).map(lambda t: t.isoformat() + "Z"),  # noqa: DTZ001 - Hypothesis wants naive bounds
    st.datetimes(min_value=NOW - timedelta(days=4), max_value=NOW + timedelta(days=3)).map(lambda t: t.isoformat()),
    st.from_regex(
        r"\A[0-9]{4}-[01][0-9]-[0-3][0-9]([T ][0-2][0-9](:[0-6][0-9](:[0-6][0-9](\.[0-9]{0,10})?)?)?)?(Z|z|[+-][0-2][0-9](:?[0-6][0-9])?)?\Z"
    ),
    st.sampled_from(["0000-01-01T00:00:00Z", "9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+01:00", ""]),
)
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)
fitting: dict[ColumnType, st.SearchStrategy[Any]] = {
    "string": texts,
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    "real": st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**53), 2**53)),
    "boolean": st.booleans(),
    "dynamic": st.lists(texts, max_size=4),
    "datetime": times,
}
by_column = {column.name: fitting[column.type] for column in SMALL.columns}
conforming = st.lists(st.fixed_dictionaries({}, optional={n: st.none() | s for n, s in by_column.items()}), max_size=4)
hostile = st.lists(
    st.dictionaries(
        st.one_of(st.sampled_from([*by_column, *by_column, "Other"]), texts), st.one_of(times, anything), max_size=5
    ),
    max_size=4,
)


@settings(max_examples=250, deadline=None)
@given(rows=st.one_of(conforming, hostile), ascii_only=st.booleans(), indent=st.sampled_from([None, 1]))
def test_fast_and_exact_path_agree_on_any_rows(
    rows: list[dict[str, Any]], ascii_only: bool, indent: int | None
) -> None:
    """Whatever the fast path takes, the exact path reads the same, in any JSON spelling."""
    same(json.dumps(rows, ensure_ascii=ascii_only, indent=indent).encode())


@settings(max_examples=400, deadline=None)
@given(
    rows=conforming,
    edits=st.lists(
        st.tuples(
            st.integers(0, 400),
            st.sampled_from(
                [
                    b"",
                    b"]",
                    b"[",
                    b"{",
                    b"}",
                    b",",
                    b'"',
                    b":",
                    b"NaN",
                    b"-Infinity",
                    b"null",
                    b"0",
                    b"\xff",
                    b"\n",
                    b"\\",
                    b']}\n{"rows":[',
                    b"1e999",
                ]
            ),
        ),
        min_size=1,
        max_size=3,
    ),
)
def test_fast_path_never_takes_a_body_that_the_exact_path_refuses(
    rows: list[dict[str, Any]], edits: list[tuple[int, bytes]]
) -> None:
    """Bodies with bytes replaced or inserted: mostly malformed, and never read differently."""
    body = json.dumps(rows, separators=(",", ":"), ensure_ascii=False).encode()
    for place, piece in edits:
        at = place % (len(body) + 1)
        body = body[:at] + piece + body[at + (place % 2) :]
    same(body)


@settings(max_examples=400, deadline=None)
@given(text=times)
def test_fast_and_exact_path_read_the_same_time(text: str) -> None:
    """Every spelling of a time that the fast path accepts means the same to the exact path."""
    same(json.dumps([{"datetime_": text}]).encode())


@pytest.mark.parametrize("table", [ASSETS, FINDINGS], ids=lambda table: table.name)
def test_rows_as_the_app_writes_them_take_the_fast_path(table: Table) -> None:
    """Conforming rows with all columns, nulls and long lists are taken fast, and read like the exact path reads them."""
    values: dict[ColumnType, Any] = {
        "string": "a “string” \\ with \n escapes",
        "int": 5,
        "long": 2**40,
        "real": 7.5,
        "boolean": True,
        "dynamic": ["cpe:/a:vendor:product:1.2"] * 400,
        "datetime": "2026-11-20T11:00:00.000001Z",
    }
    full = {column.name: values[column.type] for column in table.columns}
    rows = [full, dict.fromkeys(table.names), {"TimeGenerated": "2026-11-20T11:00:00Z"}, {}]
    assert same(json.dumps(rows, ensure_ascii=False).encode(), table)
    assert decode(b"[]", table, NOW).batch.num_rows == 0


@pytest.mark.parametrize(
    ("kind", "value", "kept"),
    [
        ("string", "5", "5"),
        ("string", 5, "5"),
        ("string", 2.5, "2.5"),
        ("string", True, None),
        ("string", ["a"], None),
        ("string", {"a": 1}, None),
        ("int", 2**31 - 1, 2**31 - 1),
        ("int", 2**31, None),
        ("int", -(2**31) - 1, None),
        ("int", 3.0, 3),
        ("int", 3.5, None),
        ("int", "3", None),
        ("int", True, None),
        ("long", 2**63 - 1, 2**63 - 1),
        ("long", 2**63, None),
        ("real", 3, 3.0),
        ("real", 10**400, None),
        ("real", "3.5", None),
        ("boolean", False, False),
        ("boolean", 0, None),
        ("boolean", "true", None),
        ("datetime", "2026-11-20T12:00:00+02:00", datetime(2026, 11, 20, 10)),  # noqa: DTZ001 - naive and UTC
        ("datetime", "2026-11-20", datetime(2026, 11, 20)),  # noqa: DTZ001 - naive and UTC
        ("datetime", "2026-11-20 12:00:00.1234567", datetime(2026, 11, 20, 12, 0, 0, 123456)),  # noqa: DTZ001 - naive and UTC
        ("datetime", "2026-02-30T00:00:00Z", None),
        ("datetime", "yesterday", None),
        ("datetime", 1763640000, None),
        ("dynamic", ["a", "b"], ["a", "b"]),
    ],
)
def test_a_value_in_a_column_of_each_type(kind: ColumnType, value: Any, kept: Any) -> None:
    """What is converted is converted, and everything else is null."""
    assert convert(value, kind) == kept
    body = json.dumps([{"TimeGenerated": "2026-11-20T12:00:00Z", f"{kind}_": value}]).encode()
    if not isinstance(value, int) or abs(value) < 10**300:
        received = decode(body, SMALL, NOW)
        assert received.batch.column(f"{kind}_").to_pylist() == [kept]
        assert received.counts.nulled == ({f"{kind}_": 1} if kept is None else {})


@pytest.mark.parametrize("value", [{"k": [1, "a"]}, [1, 2], "text", 5, True, [["a"]]], ids=str)
def test_any_json_is_kept_in_a_dynamic_column(value: Any) -> None:
    """One value that is not an array of strings makes the column of its batch JSON text, and nothing is lost."""
    received = decode(json.dumps([{"dynamic_": value}, {"dynamic_": ["a", None]}, {}]).encode(), SMALL, NOW)
    texts = received.batch.column("dynamic_").to_pylist()
    assert [None if text is None else json.loads(text) for text in texts] == [value, ["a", None], None]


def test_columns_that_the_rule_does_not_declare_are_dropped_and_counted() -> None:
    """Per name, also when the value is null; names are case-sensitive."""
    received = decode(b'[{"string_":"a","String_":1,"x":null},{"x":2}]', SMALL, NOW)
    assert received.counts.dropped == {"x": 2, "String_": 1}
    assert received.batch.schema.names == [*SMALL.names, "_TimeReceived"]


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("a" * FIELD_LIMIT_BYTES, 0),
        ("a" * (FIELD_LIMIT_BYTES + 1), 1),
        ("é" * (FIELD_LIMIT_BYTES // 2), 0),
        ("aé" * FIELD_LIMIT_BYTES, 1),
    ],
    ids=["exactly 64 KB", "one more", "two-byte characters", "cut inside a character"],
)
def test_a_string_over_64_kb_is_cut_at_a_character(text: str, cut: int) -> None:
    """At exactly the limit nothing happens; beyond it the longest prefix of whole characters stays."""
    received = decode(json.dumps([{"string_": text}]).encode(), SMALL, NOW)
    (kept,) = received.batch.column("string_").to_pylist()
    assert text.startswith(kept)
    assert received.counts.cut == ({"string_": 1} if cut else {})
    assert FIELD_LIMIT_BYTES - 1 <= len(kept.encode()) <= FIELD_LIMIT_BYTES
    assert (cut_text(text) is None) == (not cut)
    assert received.fast == (not cut)


@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("item", ["ab", 'a"', "\u0001\u0002"], ids=["plain", "quotes", "control characters"])
def test_a_list_over_64_kb_of_json_text_is_cut_to_text(item: str, extra: int) -> None:
    """A dynamic value's size is its JSON text; at the limit it stays, one byte beyond it becomes the text that is left."""
    one = len(json.dumps(item)) + 1
    count = (FIELD_LIMIT_BYTES - 1) // one
    rest = FIELD_LIMIT_BYTES - 1 - count * one
    value = [item] * count
    value[0] += "x" * (rest + extra)
    assert len(json.dumps(value, separators=(",", ":"))) == FIELD_LIMIT_BYTES + extra
    body = json.dumps([{"dynamic_": value}], separators=(",", ":")).encode()
    received = decode(body, SMALL, NOW)
    assert received.counts.cut == ({"dynamic_": 1} if extra else {})
    (kept,) = received.batch.column("dynamic_").to_pylist()
    assert (
        kept == value if not extra else json.loads(kept) == json.dumps(value, separators=(",", ":"))[:FIELD_LIMIT_BYTES]
    )
    same(body)


@pytest.mark.parametrize(
    ("shift", "replaced"),
    [
        (timedelta(days=-2), False),
        (timedelta(days=-2, microseconds=-1), True),
        (timedelta(days=1), False),
        (timedelta(days=1, microseconds=1), True),
        (None, True),
    ],
    ids=["2 days back", "further back", "1 day ahead", "further ahead", "missing"],
)
def test_an_unbelievable_time_is_replaced_by_the_receipt(shift: timedelta | None, replaced: bool) -> None:
    """TimeGenerated within the window stays; outside of it, or missing, it is the time of receipt, and counted."""
    sent = None if shift is None else NOW + shift
    rows = [{"TimeGenerated": None if sent is None else sent.isoformat() + "Z"}, {"TimeGenerated": NOW.isoformat()}]
    received = decode(json.dumps(rows).encode(), SMALL, NOW)
    assert received.batch.column("TimeGenerated").to_pylist() == [NOW if replaced else sent, NOW]
    assert received.batch.column("_TimeReceived").to_pylist() == [NOW, NOW]
    assert received.counts.time_replaced == int(replaced)


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"5",
        b"null",
        b"[1]",
        b"[null]",
        b"[[]]",
        b"[{}",
        b"[{}],",
        b"[{},]",
        b'[{"real_":NaN}]',
        b'[{"real_":Infinity}]',
        b"[]\n[]",
        b'[{"string_":"\xff"}]',
        b'[{"string_":"\\ud800"}]',
        b"[" * 100000,
        b'[{}]}\n{"rows":[{}]',
        b'[{"long_":' + b"9" * 9000 + b"}]",
    ],
    ids=lambda body: repr(body[:30]),
)
def test_a_body_that_is_no_array_of_objects_is_refused(body: bytes) -> None:
    """Malformed JSON, other documents, NaN, bytes that are not UTF-8: 400, on both paths."""
    for path in (decode, decode_exactly):
        with pytest.raises(Refusal, match="Malformed JSON payload") as refused:
            path(body, SMALL, NOW)
        assert (refused.value.status, refused.value.code) == (400, "InvalidPayload")


@given(st.datetimes(min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29)), st.integers(-23 * 60, 23 * 60))  # noqa: DTZ001 - Hypothesis wants naive bounds
def test_a_time_with_an_offset_is_the_time_that_the_standard_library_reads(moment: datetime, minutes: int) -> None:
    """Agreement with datetime.fromisoformat on everything that isoformat writes."""
    sign = "-" if minutes < 0 else "+"
    text = f"{moment.isoformat()}{sign}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"
    assert parse_datetime(text) == datetime.fromisoformat(text).astimezone(UTC).replace(tzinfo=None)
