"""The kernel's record decoder gives what pyarrow's reader and the lenient path give, or refuses: never anything else, whatever the bytes are."""

from __future__ import annotations

import json
import math
import random
import re
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import native
import native.records
from local.products.synthetic import Inventory
from transforms import decode as decoding
from transforms.decode import Fields, arrow_schema, decode
from transforms.registry import TRANSFORMS

pytestmark = pytest.mark.skipif(native.kernel() is None, reason=f"the kernel is {native.loaded()[1]}")

CASES = Path(__file__).parents[1] / "cases"
DATA = Path(__file__).parents[3] / "shared/data"
Breaking = Callable[[bytes, random.Random], bytes]
KINDS = {
    "cycognito/domains": "cycognito/assets_domain",
    "cycognito/web_apps": "cycognito/assets_webapp",
    "cycognito/ip_ranges": "cycognito/assets_iprange",
    "cycognito/issues": "cycognito/findings_issues",
    "device42/devices": "device42/assets",
    "tenable/assets": "tenable_io/assets",
    "tenable/vulnerabilities": "tenable_io/findings_vulns",
}
FIELDS = {"a": str, "n": int, "x": float, "b": bool, "l": [str], "o": {"k": str, "n": int}, "s": [{"k": str}]}


def _binary(records: list[bytes]) -> pl.Series:
    return pl.Series(records, dtype=pl.Binary)


def _by_kernel(records: list[bytes], fields: Fields = FIELDS) -> list[dict[str, Any]] | None:
    batch = native.records.decode(_binary(records), arrow_schema(fields))
    if batch is None:
        return None
    batch.validate(full=True)
    rows: list[dict[str, Any]] = batch.to_pylist()
    return rows


@contextmanager
def _without_kernel() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "kernel", lambda: None)
        yield


def _frame(records: list[bytes], fields: Fields) -> pl.DataFrame | None:
    table = decoding._fast(_binary(records), arrow_schema(fields))
    if table is None:
        return None
    table.validate(full=True)
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _agree(records: list[bytes], fields: Fields) -> tuple[bool, bool]:
    """Which of kernel and libraries read the records; all that do give the same rows, and those of the lenient path."""
    found = _frame(records, fields)
    with _without_kernel():
        libraries = _frame(records, fields)
    if found is not None:
        lenient = decode(_binary(records), fields, fast=False)
        assert lenient.rejects == []
        assert found.equals(lenient.frame.drop(decoding.RECORD))
        assert libraries is None or found.equals(libraries)
    return found is not None, libraries is not None


def _simulated(name: str) -> list[bytes]:
    stream = Inventory(80, 80).stream(*KINDS[name].split("/"))
    return [bytes(text)[:-1] for text in stream.records(pa.array(range(stream.count), pa.uint64())).to_pylist()]


def _recorded(name: str) -> list[bytes]:
    return (DATA / f"{KINDS[name]}.ndjson").read_bytes().splitlines()


RECORDINGS = pytest.param(
    _recorded,
    marks=pytest.mark.skipif(not DATA.exists(), reason=f"{DATA} is not here: recordings are not ours to ship"),
)


@pytest.mark.parametrize("records", [_simulated, RECORDINGS])
@pytest.mark.parametrize("name", KINDS)
def test_a_products_records_are_what_the_libraries_read(name: str, records: Callable[[str], list[bytes]]) -> None:
    """Of every stream: none is refused, and every value is the same on all three ways."""
    source, stream = name.split("/")
    assert _agree(records(name), TRANSFORMS[source, stream].fields) == (True, True)


def test_there_are_records_of_every_stream() -> None:
    """A new stream is held to this too."""
    assert {"/".join(name) for name in TRANSFORMS} == set(KINDS)


@pytest.mark.parametrize("page", sorted(CASES.glob("*/*/*.json")), ids=lambda page: f"{page.parts[-2]}-{page.stem}")
def test_a_pages_records_one_by_one_are_read_or_refused_as_by_the_libraries(page: Path) -> None:
    """The golden cases, flips and all."""
    for record in msgspec.json.decode(page.read_bytes(), type=list[msgspec.Raw]):
        by_kernel, by_libraries = _agree([bytes(record)], TRANSFORMS[page.parts[-3], page.parts[-2]].fields)
        assert by_kernel == by_libraries


GOOD: dict[str, tuple[bytes, dict[str, Any]]] = {
    "nothing in it": (b"{}", {}),
    "nulls": (b'{"a":null,"n":null,"x":null,"b":null,"l":null,"o":null,"s":null}', {}),
    "nulls inside": (b'{"l":[null],"o":{"k":null},"s":[null,{}]}', {"l": [None], "o": {"k": None, "n": None}, "s": [None, {"k": None}]}),
    "empty": (b'{"a":"","l":[],"o":{},"s":[]}', {"a": "", "l": [], "o": {"k": None, "n": None}, "s": []}),
    "white space": (b'{ "a" :\t"k"\r\n, "l" : [ "x" , "y" ] , "o" : { } } \n', {"a": "k", "l": ["x", "y"], "o": {"k": None, "n": None}}),
    "booleans": (b'{"b":true,"z":false}', {"b": True}),
    "12 bytes": (b'{"a":"123456789012"}', {"a": "123456789012"}),
    "13 bytes": (b'{"a":"1234567890123"}', {"a": "1234567890123"}),
    "escapes": (rb'{"a":"\"\\\/\b\f\n\r\t\u00e9\u6f22\ud83d\uDE00"}', {"a": '"\\/\b\f\n\r\té漢\U0001f600'}),
    "an escape in 12 bytes": (rb'{"a":"12345678901\n"}', {"a": "12345678901\n"}),
    "an escape in 13 bytes": (rb'{"a":"12345678901\n3"}', {"a": "12345678901\n3"}),
    "a long text that is 12 bytes": (rb'{"a":"\u0031\u0032345678901\u0032"}', {"a": "123456789012"}),
    "a zero byte": (rb'{"a":"\u0000"}', {"a": "\0"}),
    "an undeclared key twice": (b'{"z":1,"z":"2","a":"k"}', {"a": "k"}),
    "half a surrogate pair where nobody reads": (rb'{"z":"\udc00","a":"k"}', {"a": "k"}),
    "keys that begin alike": (b'{"aa":1,"":2,"a ":3,"a":"k","\xc3\xa9":4}', {"a": "k"}),
    "keys of 15, 16 and 17 bytes": (b'{"123456789012345":1,"1234567890123456":2,"12345678901234567":3,"a":"k"}', {"a": "k"}),
    "an escape in a key where none is declared": (rb'{"z":{"\u0061":"x"},"a":"k"}', {"a": "k"}),
    "values that are not declared": (b'{"z":[1,-0.5e+3,[],{},[{"y":[[null,true]]}],"\\u0000"],"a":"k"}', {"a": "k"}),
    "negative nought": (b'{"n":-0,"x":-0}', {"n": 0, "x": -0.0}),
    "the largest integer": (b'{"n":9223372036854775807}', {"n": 2**63 - 1}),
    "the smallest integer": (b'{"n":-9223372036854775808}', {"n": -(2**63)}),
    "a real under the double": (b'{"x":1e-400}', {"x": 0.0}),
}  # fmt: skip

REFUSED: dict[str, bytes] = {
    "nothing": b"",
    "a space": b" ",
    "null": b"null",
    "an array": b"[]",
    "white space before": b' {"a":"k"}',
    "a byte order mark": b'\xef\xbb\xbf{"a":"k"}',
    "two objects": b"{}{}",
    "two objects on two lines": b"{}\n{}",
    "a comma after": b"{},",
    "a comma too many": b'{"a":"k",}',
    "a comma too many in what is skipped": b'{"z":[1,],"a":"k"}',
    "a comma too few": b'{"a":"k""b":true}',
    "a comma at the beginning": b'{,"a":"k"}',
    "a colon too few": b'{"a" "k"}',
    "a key without quotes": b'{a:"k"}',
    "a key that is no text": b'{1:"k"}',
    "brackets that cross": b'{"z":[{]}}',
    "brackets of the other kind": b'{"z":[1}}',
    "a bracket too many": b'{"a":"k"}}',
    "a form feed": b'{\f"a":"k"}',
    "a zero byte between": b'{"a":"k"\0}',
    "a line break in a text": b'{"a":"x\ny"}',
    "a line break in what is skipped": b'{"z":"x\ny"}',
    "a control in a key": b'{"z\x1f":1}',
    "an escape that is none": rb'{"a":"\x"}',
    "an escape that is none in what is skipped": rb'{"z":"\x"}',
    "an escape cut short": rb'{"a":"\u12"}',
    "an escape with a sign": rb'{"a":"\u+123"}',
    "half a surrogate pair": rb'{"a":"\ud800"}',
    "half a surrogate pair before an escape": rb'{"a":"\ud800\n"}',
    "two first halves": rb'{"a":"\ud800\ud800"}',
    "the other half": rb'{"a":"\udc00"}',
    "a field twice": b'{"a":"1","a":"2"}',
    "a field twice, null": b'{"a":"1","a":null}',
    "a field twice, further in": b'{"s":[{"k":"1","k":"1"}]}',
    "an escape in a key": rb'{"\u0061":"k"}',
    "an escape in a key, further in": rb'{"o":{"\u006b":"k"}}',
    "True": b'{"b":True}',
    "tru": b'{"b":tru}',
    "truer": b'{"b":truer}',
    "nul": b'{"z":nul}',
    "a text for a list": b'{"l":"x"}',
    "a list for a text": b'{"a":["x"]}',
    "a number for a text": b'{"a":5}',
    "a boolean for a number": b'{"n":true}',
    "a text for a number": b'{"n":"5"}',
    "a number for a boolean": b'{"b":1}',
    "an object for a list": b'{"l":{}}',
    "a list for an object": b'{"o":[]}',
}  # fmt: skip


@pytest.mark.parametrize(("record", "expected"), GOOD.values(), ids=GOOD)
def test_what_is_read(record: bytes, expected: dict[str, Any]) -> None:
    """Alone, and between others."""
    row = dict.fromkeys(FIELDS) | expected
    assert _by_kernel([record]) == [row]
    other = dict.fromkeys(FIELDS) | {"a": "other"}
    assert _by_kernel([b'{"a":"other"}', record, b'{"z":1,"a":"other"}']) == [other, row, other]


@pytest.mark.parametrize("record", REFUSED.values(), ids=REFUSED)
def test_what_is_refused(record: bytes) -> None:
    """Alone, and with it its neighbours."""
    assert _by_kernel([record]) is None
    assert _by_kernel([b"{}", record, b"{}"]) is None


@pytest.mark.parametrize("where", ["n", "x", "z"])
@pytest.mark.parametrize(
    "number",
    ["+1", "01", "-01", "00", ".5", "5.", "-", "--1", "-.5", "1e", "1e+", "1e-", "1.e5", "0x10", "1_0", "1 0", "NaN", "Infinity", "-Infinity", "1" * 301, "0." + "1" * 299],
)  # fmt: skip
def test_what_is_no_number(number: str, where: str) -> None:
    """Whether it is declared or not; the last two are too long to be read at all."""
    assert _by_kernel([f'{{"{where}":{number}}}'.encode()]) is None


@pytest.mark.parametrize("number", ["1.0", "1e0", "-0.0", "9223372036854775808", "-9223372036854775809", "99999999999999999999", "18446744073709551616"])  # fmt: skip
def test_what_is_no_integer(number: str) -> None:
    """A point, an exponent, more than 64 bits."""
    assert _by_kernel([f'{{"n":{number}}}'.encode()]) is None
    assert _by_kernel([f'{{"x":{number},"z":{number}}}'.encode()]) is not None


@pytest.mark.parametrize("number", ["1e400", "-1e309", "1.8e308"])
def test_a_real_over_the_double_is_refused(number: str) -> None:
    """Where it is declared; elsewhere it is a number like any other."""
    assert _by_kernel([f'{{"x":{number}}}'.encode()]) is None
    assert _by_kernel([f'{{"z":{number}}}'.encode()]) is not None


DIGITS = st.text("0123456789", min_size=1, max_size=24)
DECIMALS = st.builds(
    lambda sign, whole, fraction, power: f"{sign}{whole.lstrip('0') or '0'}{fraction and '.' + fraction}{power}",
    st.sampled_from(["", "-"]),
    DIGITS,
    st.just("") | DIGITS,
    st.just("") | st.builds("{}{}".format, st.sampled_from(["e", "E", "e+", "e-"]), st.integers(0, 330)),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(DECIMALS | st.floats(allow_nan=False, allow_infinity=False).map(repr), min_size=1, max_size=20))
def test_reals_are_pythons_to_the_last_bit(numbers: list[str]) -> None:
    """However many digits there are, and the nought keeps its sign."""
    finite = [number for number in numbers if math.isfinite(float(number))]
    rows = _by_kernel([f'{{"x":{number}}}'.encode() for number in finite])
    assert rows is not None
    assert [struct.pack("d", row["x"]) for row in rows] == [struct.pack("d", float(number)) for number in finite]


def test_reals_of_about_as_many_digits_as_a_double_has_are_pythons_too() -> None:
    """Where a rounding too many shows."""
    chance = random.Random(53)
    numbers = [f"{chance.randrange(10**15, 10**19)}e{chance.randint(-45, 25)}" for _ in range(20_000)]
    rows = _by_kernel([f'{{"x":{number}}}'.encode() for number in numbers])
    assert rows is not None
    assert [row["x"] for row in rows] == [float(number) for number in numbers]


NAMES = st.sampled_from(["a", "b", "key", "k" * 14, "k" * 15, "k" * 16, "k" * 17, "é", ""])
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.text('ab"\\\n\0é漢\U0001f600', max_size=40)
SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats(allow_nan=False, allow_infinity=False) | TEXT
)
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | TEXT, inner, max_size=3), max_leaves=8
)
DECLARED: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from([str, int, float, bool]),
    lambda inner: inner.map(lambda kind: [kind]) | st.dictionaries(NAMES, inner, min_size=1, max_size=4),
    max_leaves=6,
)


def _value(kind: Any, draw: Callable[[st.SearchStrategy[Any]], Any]) -> Any:
    if isinstance(kind, list):
        return None if draw(st.integers(0, 5)) == 0 else [_value(kind[0], draw) for _ in range(draw(st.integers(0, 3)))]
    if isinstance(kind, dict):
        names = draw(st.permutations([*kind]))
        value = {name: _value(kind[name], draw) for name in names[: draw(st.integers(0, len(names)))]}
        undeclared = draw(st.dictionaries(TEXT, ANYTHING, max_size=2))
        return {**value, **{name: of for name, of in undeclared.items() if name not in kind}}
    scalars = {str: TEXT, int: st.integers(-(2**63), 2**63 - 1), float: st.floats(allow_nan=False, allow_infinity=False) | st.integers(-9, 9), bool: st.booleans()}  # fmt: skip
    return draw(st.none() | scalars[kind])


@st.composite
def _declared_records(draw: Any) -> tuple[Fields, list[str]]:
    fields = draw(st.dictionaries(NAMES, DECLARED, min_size=1, max_size=5))
    values = [_value(fields, draw) for _ in range(draw(st.integers(1, 5)))]
    how = {"ensure_ascii": draw(st.booleans()), "indent": draw(st.sampled_from([None, 1])), "separators": draw(st.sampled_from([None, (",", ":")]))}  # fmt: skip
    return fields, [json.dumps(value, **how) for value in values]


_ESCAPED_KEY = re.compile(r'\\[^"]*"\s*:|\\"[^"]*"\s*:')

FUZZ = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@FUZZ
@given(_declared_records())
def test_records_of_any_declared_shape_are_read(declared: tuple[Fields, list[str]]) -> None:
    """By the kernel whenever the libraries read them, unless a key has an escape; the rows are the same."""
    fields, texts = declared
    by_kernel, by_libraries = _agree([text.encode() for text in texts], fields)
    escaped = any(_ESCAPED_KEY.search(text) for text in texts)
    assert by_kernel or escaped or not by_libraries
    assert by_kernel or escaped


@FUZZ
@given(st.dictionaries(NAMES, DECLARED, min_size=1, max_size=5), st.lists(st.dictionaries(NAMES, ANYTHING, max_size=5), min_size=1, max_size=4))  # fmt: skip
def test_records_of_other_shapes_are_read_alike_or_refused(fields: Fields, values: list[Any]) -> None:
    """A record at a time, so that one that is refused hides no other."""
    for value in values:
        text = json.dumps(value, ensure_ascii=False)
        by_kernel, by_libraries = _agree([text.encode()], fields)
        assert by_kernel or not by_libraries or _ESCAPED_KEY.search(text)


@settings(FUZZ, max_examples=400)
@given(_declared_records(), st.randoms(use_true_random=False))
def test_broken_records_are_read_alike_or_refused(
    broken: Breaking, declared: tuple[Fields, list[str]], chance: random.Random
) -> None:
    """What the kernel reads of them is what the lenient path reads, and the libraries if they do."""
    fields, texts = declared
    for text in texts:
        _agree([broken(text.encode(), chance)], fields)


@pytest.mark.parametrize("name", KINDS)
def test_broken_records_of_the_products_are_read_alike_or_refused(broken: Breaking, name: str) -> None:
    """The same with what the simulators give."""
    chance = random.Random(name)
    source, stream = name.split("/")
    for record in _simulated(name)[:40]:
        _agree([broken(record, chance)], TRANSFORMS[source, stream].fields)


@pytest.mark.parametrize("name", KINDS)
def test_no_beginning_of_a_record_is_a_record(name: str) -> None:
    """Each is refused although what follows it in memory would complete it."""
    source, stream = name.split("/")
    schema = arrow_schema(TRANSFORMS[source, stream].fields)
    record = min(_simulated(name), key=len)
    for size in range(len(record)):
        parts = _binary([record[:size], record[size:]])
        assert native.records.decode(parts.slice(0, 1), schema) is None


def test_what_is_not_declared_may_be_nested_as_deep_as_it_likes() -> None:
    """It takes no stack."""
    deep = b'[{"z":' * 100_000 + b"1" + b"}]" * 100_000
    assert _by_kernel([b'{"z":' + deep + b',"a":"k"}']) == [dict.fromkeys(FIELDS) | {"a": "k"}]
    assert _by_kernel([b'{"z":' + deep[:-1] + b',"a":"k"}']) is None


def test_slices_and_chunks_are_the_records_that_they_show() -> None:
    """Short records stand in their views, long ones in several buffers."""
    texts = ["x" * size for size in (0, 1, 5, 12, 13, 40, 500)] * 30
    records = [json.dumps({"a": text}).encode() for text in texts]
    whole = pl.concat([_binary(records[at : at + 37]) for at in range(0, len(records), 37)], rechunk=False)
    schema = arrow_schema({"a": str})
    for low, size in [(0, 210), (1, 7), (36, 3), (100, 110), (209, 1), (50, 0)]:
        batch = native.records.decode(whole.slice(low, size), schema)
        assert batch is not None
        assert batch["a"].to_pylist() == texts[low : low + size]
    assert native.records.decode(pl.Series([b"{}", None], dtype=pl.Binary), schema) is None


def test_more_keys_than_are_remembered() -> None:
    """In another order in each record."""
    chance = random.Random(7)
    fields: Fields = {f"field{at}": int for at in range(300)}
    values = []
    for _ in range(20):
        names = chance.sample([f"field{at}" for at in range(600)], 400)
        values.append({name: at for at, name in enumerate(names)})
    rows = _by_kernel([json.dumps(value).encode() for value in values], fields)
    assert rows == [{name: value.get(name) for name in fields} for value in values]


def test_columns_outlive_each_other() -> None:
    """Each owns what it has: one is whole when the others are gone."""
    records = [
        json.dumps({"a": f"text number {at}", "s": [{"k": f"another text {at}"}] * 3}).encode() for at in range(500)
    ]
    batch = native.records.decode(_binary(records), arrow_schema(FIELDS))
    assert batch is not None
    kept = batch["s"].flatten().field("k")
    del batch
    assert kept.to_pylist() == [f"another text {at}" for at in range(500) for _ in range(3)]


def test_several_at_once_are_each_alone() -> None:
    """Threads share nothing that is written."""
    records = [_simulated("device42/devices")[at:] for at in range(8)]
    schema = arrow_schema(TRANSFORMS["device42", "devices"].fields)
    with ThreadPoolExecutor(8) as pool:
        together = [*pool.map(lambda part: native.records.decode(_binary(part), schema), records * 4)]
    assert together == [native.records.decode(_binary(part), schema) for part in records] * 4


def test_a_schema_of_other_types_is_no_ones_fault_but_the_programs() -> None:
    """The kernel does not guess."""
    with pytest.raises(KeyError):
        native.records.decode(_binary([b"{}"]), pa.schema([("a", pa.int32())]))
