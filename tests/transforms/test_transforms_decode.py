"""Decoding: what is nasty in real JSON becomes a row or a reject, whichever path reads it, and never harms a neighbour; with the kernel and without."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import native
from transforms.decode import LENIENT_BLOCK, RECORD, Decoded, decode

FIELDS = {"a": str, "n": int, "x": float, "b": bool, "l": [str], "o": {"k": str, "n": int}, "s": [{"k": str}]}
EMPTY: dict[str, Any] = dict.fromkeys(FIELDS)
GOOD = b'{"a":"good"}'


NO_KERNEL = pytest.mark.skipif(native.kernel() is None, reason=f"the kernel is {native.loaded()[1]}")


@pytest.fixture(scope="module", autouse=True, params=[pytest.param("kernel", marks=NO_KERNEL), "libraries"])
def _reader(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "libraries":
            patch.setattr("transforms.decode.kernel", lambda: None)
        yield


def _decode(records: list[bytes], *, fast: bool = True) -> Decoded:
    return decode(pl.Series(records, dtype=pl.Binary), FIELDS, fast=fast)


ROWS: dict[str, tuple[bytes, dict[str, Any]]] = {
    "nothing in it": (b"{}", {}),
    "a duplicate key": (b'{"a":"1","a":"2"}', {"a": "2"}),
    "a duplicate key that is not declared": (b'{"z":1,"z":"2","a":"k"}', {"a": "k"}),
    "a lone surrogate": (rb'{"a":"x\ud800y"}', {"a": "x?y"}),
    "a lone low surrogate in what is not declared": (rb'{"a":"k","z":"\udc00"}', {"a": "k"}),
    "a surrogate pair": (rb'{"a":"\ud83d\ude00"}', {"a": "\U0001f600"}),
    "NaN": (b'{"x":NaN,"a":"k"}', {"a": "k"}),
    "infinity": (b'{"x":-Infinity}', {}),
    "a number over the double": (b'{"x":1e400,"n":1e400,"a":"k"}', {"a": "k"}),
    "a number over the double as text": (b'{"a":1e400}', {"a": "Infinity"}),
    "an integer over 64 bits": (b'{"n":99999999999999999999,"a":"k"}', {"a": "k"}),
    "an integer over 64 bits as text": (b'{"a":99999999999999999999}', {"a": "99999999999999999999"}),
    "an integer over 2 to the 53": (b'{"n":9007199254740993}', {"n": 9007199254740993}),
    "the largest integer": (b'{"n":9223372036854775807}', {"n": 2**63 - 1}),
    "a whole number with a point": (b'{"n":3.0}', {"n": 3}),
    "a number with a fraction where an integer is declared": (b'{"n":3.5}', {}),
    "an integer where a real is declared": (b'{"x":3}', {"x": 3.0}),
    "numbers as text": (b'{"n":"3.0","x":" 4.5 "}', {"n": 3, "x": 4.5}),
    "text where numbers are declared": (b'{"n":"many","x":"much"}', {}),
    "booleans as words": (b'{"b":"Yes"}', {"b": True}),
    "booleans as numbers": (b'{"b":0}', {"b": False}),
    "a word that is no boolean": (b'{"b":"perhaps"}', {}),
    "an object where a text is declared": (b'{"a":{"k":"\xc3\xa9"}}', {"a": '{"k":"\u00e9"}'}),
    "a boolean where a text is declared": (b'{"a":true}', {"a": "true"}),
    "a text where a list is declared": (b'{"l":"one"}', {"l": ["one"]}),
    "an empty text where a list is declared": (b'{"l":"","s":"","o":""}', {}),
    "an object where a list of objects is declared": (b'{"s":{"k":"v"}}', {"s": [{"k": "v"}]}),
    "nulls and flips in a list": (b'{"l":[null,1,"x"]}', {"l": [None, "1", "x"]}),
    "line breaks between tokens": (b'{\n  "a":\r\n  "k"\n}', {"a": "k"}),
    "white space around it": (b' {"a":"k"}\n', {"a": "k"}),
    "a byte order mark": (b'\xef\xbb\xbf{"a":"k"}', {"a": "k"}),
    "bytes that are no UTF-8": (b'{"a":"x\xffy"}', {"a": "x\ufffdy"}),
    "bytes that are no UTF-8 in what is not declared": (b'{"z":"\xff","a":"k"}', {"a": "k"}),
    "a zero byte": (rb'{"a":"x\u0000y"}', {"a": "x\x00y"}),
    "an escaped key": (rb'{"\u0061":"k"}', {"a": "k"}),
}

REJECTS: dict[str, tuple[bytes, str]] = {
    "null": (b"null", "not a JSON object but null"),
    "an array": (b'["a"]', "not a JSON object but an array"),
    "a text": (b'"a"', "not a JSON object but a text"),
    "a number": (b"1", "not a JSON object but a number"),
    "a boolean": (b"true", "not a JSON object but a boolean"),
    "nothing": (b"", "not JSON"),
    "white space": (b"  \n ", "not JSON"),
    "half an object": (b'{"a":"k"', "not JSON"),
    "an object and a half": (b'{"a":"k"}{"b":', "not JSON"),
    "two objects": (b'{"a":"1"}{"a":"2"}', "not JSON"),
    "two objects on two lines": (b'{"a":"1"}\n{"a":"2"}', "not JSON"),
    "a text that runs into the next record": (b'{"a":"1"}{"a":"}', "not JSON"),
    "a line break in a text": (b'{"a":"x\ny"}', "not JSON"),
    "a comma too many": (b'{"a":"k",}', "not JSON"),
    "single quotes": (b"{'a':'k'}", "not JSON"),
    "a bracket too many": (b'{"a":"k"}}', "not JSON"),
}


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "lenient"])
@pytest.mark.parametrize(("record", "expected"), ROWS.values(), ids=ROWS)
def test_a_nasty_record_is_a_row(record: bytes, expected: dict[str, Any], fast: bool) -> None:
    """Alone, and between records that it does not touch."""
    assert _decode([record], fast=fast).frame.drop(RECORD).rows(named=True) == [EMPTY | expected]
    between = _decode([GOOD, record, GOOD], fast=fast)
    assert between.frame[RECORD].to_list() == [0, 1, 2]
    assert between.frame.drop(RECORD).rows(named=True) == [
        EMPTY | {"a": "good"},
        EMPTY | expected,
        EMPTY | {"a": "good"},
    ]


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "lenient"])
@pytest.mark.parametrize(("record", "reason"), REJECTS.values(), ids=REJECTS)
def test_what_is_no_object_is_a_reject(record: bytes, reason: str, fast: bool) -> None:
    """With its place and its reason; its neighbours are rows."""
    assert [r.reason.startswith(reason) for r in _decode([record], fast=fast).rejects] == [True]
    between = _decode([GOOD, record, b'{"}', GOOD], fast=fast)
    assert [r.record for r in between.rejects] == [1, 2]
    assert between.frame[RECORD].to_list() == [0, 3]
    assert between.frame["a"].to_list() == ["good", "good"]


def test_ten_thousand_levels_are_no_harm() -> None:
    """Where no field is declared they are skipped; where one is, the record is a reject or a row, and its neighbour a row."""
    deep = b"[" * 10_000 + b"]" * 10_000
    assert _decode([b'{"a":"k","z":' + deep + b"}"]).frame["a"].to_list() == ["k"]
    flipped = _decode([b'{"a":' + deep + b"}", GOOD])
    assert flipped.frame.height + len(flipped.rejects) == 2
    assert flipped.frame["a"].to_list()[-1] == "good"


def test_only_the_block_with_the_flip_is_read_leniently() -> None:
    """One flip among thousands costs at most one small block its speed."""
    records = [GOOD] * 5_000
    records[3_210] = b'{"a":5}'
    decoded = _decode(records)
    assert 1 <= decoded.lenient <= LENIENT_BLOCK
    assert decoded.frame[RECORD].to_list() == list(range(5_000))
    assert decoded.frame["a"][3_210] == "5"


def test_a_page_that_is_pretty_printed_stays_on_the_fast_path() -> None:
    """Line breaks inside records are no reason to be slow."""
    records = [json.dumps({"a": str(at), "l": ["x", "y"]}, indent=2).encode() for at in range(300)]
    decoded = _decode(records)
    assert decoded.lenient == 0
    assert decoded.frame["a"].to_list() == [str(at) for at in range(300)]


def test_no_records_are_no_rows() -> None:
    """With the declared columns all the same."""
    assert _decode([]).frame.columns == [*FIELDS, RECORD]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("akn") | TEXT, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from([*FIELDS, "z"]), VALUES, max_size=5) | VALUES, max_size=6))
def test_any_json_is_a_row_or_a_reject_the_same_on_both_paths(values: list[Any]) -> None:
    """Every record is in one of the two, in order; objects are rows; the paths agree."""
    records = [json.dumps(value, ensure_ascii=False).encode() for value in values]
    usual, lenient = _decode(records), _decode(records, fast=False)
    assert usual.frame.equals(lenient.frame)
    assert usual.rejects == lenient.rejects
    assert usual.frame[RECORD].to_list() == [at for at, value in enumerate(values) if isinstance(value, dict)]


def test_however_much_the_reader_is_given_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record at a time, or all: the same rows at the same places, and the same rejects."""
    records = [GOOD, b"[]", b'{"a":7}', GOOD, b'{"a":"k"}', b"x"]
    whole = _decode(records)
    monkeypatch.setattr("transforms.decode.BLOCK_BYTES", 1)
    apart = _decode(records)
    assert apart.frame.equals(whole.frame)
    assert apart.rejects == whole.rejects
    assert len(apart.rejects) == 2
