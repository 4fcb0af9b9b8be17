"""The kernel splits a page as msgspec does, or refuses: never anything else, whatever the bytes are; and a row group is the same either way."""

from __future__ import annotations

import io
import itertools
import json
import random
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import native
from activities import export
from local.products.synthetic import Inventory
from native import pages
from native.pages import Records
from sources.model import UnreadablePageError
from sources.paging import counted_records_of, same_again
from sources.reader import Page

pytestmark = pytest.mark.skipif(native.kernel() is None, reason=f"the kernel is {native.loaded()[1]}")

DATA = Path(__file__).parents[3] / "shared/data"
Breaking = Callable[[bytes, random.Random], bytes]
KINDS = {
    "cycognito/assets_domain": None,
    "cycognito/assets_webapp": None,
    "cycognito/assets_iprange": None,
    "cycognito/findings_issues": None,
    "device42/assets": "Devices",
    "tenable_io/assets": None,
    "tenable_io/findings_vulns": None,
}
"""Products and what their records are, each with the key that has them in a page."""

FUZZ = settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SPACE = st.sampled_from(["", "", "", " ", "\n", "\t\r\n  "])


@contextmanager
def _without_kernel() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "_functions", lambda: None)
        yield


Outcome = tuple[list[bytes], int | None] | str


def _outcome(body: bytes, key: str | None, total_key: str | None) -> Outcome:
    """Records and total, or what is said against the page."""
    try:
        records, total = counted_records_of(body, key, total_key)
    except UnreadablePageError as error:
        return error.reason
    return [bytes(record) for record in records], total


def _agree(body: bytes, key: str | None = None, total_key: str | None = None) -> bool:
    """Whether the kernel splits the page; it says the same then, and in any case it says what it does without the kernel."""
    with _without_kernel():
        expected = _outcome(body, key, total_key)
    assert _outcome(body, key, total_key) == expected
    found = pages.split(body, key, total_key)
    if found is not None:
        assert not isinstance(expected, str)
        assert [bytes(record) for record in found[0]] == expected[0]
        assert len(found[0]) == len(expected[0])
        assert pages.bytes_of(found[0]) == sum(map(len, expected[0]))
    return found is not None


# ------------------------------------------------------------------------------------------------ products


def _simulated(name: str, count: int = 60) -> bytes:
    stream = Inventory(80, 80).stream(*name.split("/"))
    records = b"[" + bytes(stream.body(pa.array(range(min(count, stream.count)), pa.uint64()))) + b"]"
    if KINDS[name] is None:
        return records
    return b'{"total_count":80,"Devices":' + records + b',"offset":0,"limit":60}'


@pytest.mark.parametrize("name", KINDS)
def test_a_products_page_is_split(name: str) -> None:
    """Of every product, as the simulators give it."""
    assert _agree(_simulated(name), KINDS[name], "total_count" if KINDS[name] else None)


@pytest.mark.skipif(not DATA.exists(), reason=f"{DATA} is not here: recordings are not ours to ship")
@pytest.mark.parametrize("name", KINDS)
def test_recorded_pages_are_split(name: str) -> None:
    """And as the products gave it."""
    product, kind = name.split("/")
    recorded = sorted((DATA / product / "wire").glob(f"{kind}-*.json"))
    assert recorded
    for path in recorded:
        assert _agree(path.read_bytes(), KINDS[name], "total_count" if KINDS[name] else None)


@pytest.mark.parametrize("name", KINDS)
def test_no_beginning_of_a_page_is_a_page(name: str) -> None:
    """A connection that breaks is no short page."""
    body = _simulated(name, 3)
    assert all(pages.split(body[:size], KINDS[name], None) is None for size in range(len(body)))


@pytest.mark.parametrize("name", KINDS)
def test_broken_pages_are_split_alike_or_refused(broken: Breaking, name: str) -> None:
    """Bytes gone, changed or moved."""
    chance = random.Random(name)
    body = _simulated(name, 4)
    for _ in range(300):
        _agree(broken(body, chance), KINDS[name], "total_count")


# ------------------------------------------------------------------------------------------------ anything

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.text('"\\\n\x00\x1f\x7f\u2028é😀[]{},:')
)
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(["records", "rec\u00e9", "", "records "])
TOTALS = st.sampled_from(["total", "next"])


@st.composite
def _pages(draw: st.DrawFn) -> tuple[bytes, str | None, str | None]:
    """An envelope, or an array by itself, as any writer may write it; what is looked for in it, which is mostly there."""

    def text(value: Any) -> str:
        return json.dumps(value, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, None, 1])))

    def spaced(*tokens: str) -> str:
        return "".join(token + draw(SPACE) for token in ("", *tokens))

    records = st.lists(ANYTHING, max_size=6)
    if draw(st.booleans()):
        items = [text(value) for value in draw(records)]
        return spaced("[", *",\0".join(items).split("\0"), "]").encode(errors="surrogatepass"), None, None
    members = draw(st.lists(st.tuples(KEYS | TOTALS, records | ANYTHING), max_size=5))
    written = [spaced(text(name), ":", text(value)) for name, value in members]
    key, total_key = draw(KEYS), draw(st.none() | TOTALS)
    return spaced("{", *",\0".join(written).split("\0"), "}").encode(errors="surrogatepass"), key, total_key


@FUZZ
@given(_pages())
def test_generated_pages_are_split_alike_or_refused(page: tuple[bytes, str | None, str | None]) -> None:
    """White space, escapes, other members, keys that come twice, values of any kind."""
    _agree(*page)


@FUZZ
@given(_pages(), st.randoms(use_true_random=False))
def test_broken_generated_pages_are_split_alike_or_refused(
    broken: Breaking, page: tuple[bytes, str | None, str | None], chance: random.Random
) -> None:
    """The same with bytes gone, changed or moved."""
    body, *keys = page
    _agree(broken(body, chance), *keys)


@FUZZ
@given(st.binary(max_size=40) | st.text('[]{}",:\\u0dae1-. \nrecords', max_size=40).map(str.encode))
@example(b"")
@example(b"\xef\xbb\xbf[]")
@example(b"[1]\0")
def test_any_bytes_are_split_alike_or_refused(body: bytes) -> None:
    """As an array and as an envelope."""
    _agree(body)
    _agree(b"[" + body + b"]")
    _agree(body, "records", "total")
    _agree(b'{"records":[' + body + b"]}", "records", "total")
    _agree(b'{"total":' + body + b',"records":[]}', "records", "total")


@pytest.mark.parametrize("total", ["false", "true", "7", "null"])
def test_a_total_that_nobody_named_is_none(total: str) -> None:
    """By the kernel and without it; and a truth is no number."""
    body = f'{{"records":[],"total":{total}}}'.encode()
    _agree(body, "records", None)
    assert counted_records_of(body, "records", None)[1] is None
    _agree(body, "records", "total")
    assert counted_records_of(body, "records", "total")[1] == (7 if total == "7" else None)


@pytest.mark.parametrize(
    ("body", "key"),
    [
        (b'{"records":[1],"records":[2]}', "records"),
        (b'{"total":1,"records":[1],"total":2}', "records"),
        (b'{"rec\\u006frds":[1]}', "records"),
        (b'{"records":[1],"a\\n":1}', "records"),
        (b'{"records":null}', "records"),
        (b'{"records":{}}', "records"),
        (b'{"other":[1]}', "records"),
        (b"[1]", "records"),
        (b'{"records":[1]}', None),
        (b"null", None),
        (b"", None),
        (b"[1] [2]", None),
        (b"[1,]", None),
        (b'["\\ud800"]', None),
        (b'["\\udc00"]', None),
        (b"[1" + b"0" * 300 + b"]", None),
        (b"[" * 66 + b"]" * 66, None),
        (b"[" * 5000 + b"]" * 5000, None),
        (b"[" * 5000, None),
    ],
    ids=lambda value: value[:30] if isinstance(value, bytes) else str(value),
)
def test_what_is_odd_is_left_to_msgspec(body: bytes, key: str | None) -> None:
    """Which splits it, or says what is wrong with it."""
    assert not _agree(body, key, "total" if key else None)


@pytest.mark.parametrize(
    ("body", "key", "expected"),
    [
        (b" [ ] ", None, ([], None)),
        (b"[[]]", None, ([b"[]"], None)),
        (b'\r\n[ 1 ,\t{"a": 1 } \n, "x" , null ] ', None, ([b"1", b'{"a": 1 }', b'"x"', b"null"], None)),
        (b'{"records":[]}', "records", ([], None)),
        (b'{ "total" : 7 , "records" : [ {} ] , "records2" : [ 1 ] } ', "records", ([b"{}"], 7)),
        (b'{"records":[1],"total":"7"}', "records", ([b"1"], None)),
        (b'{"total":{"records":[1]},"records":[2]}', "records", ([b"2"], None)),
        (b'["\\ud83d\\ude00","\\uD83D\\uDE00"]', None, ([b'"\\ud83d\\ude00"', b'"\\uD83D\\uDE00"'], None)),
        (b'["\xff"]', None, ([b'"\xff"'], None)),
        (b"[" * 65 + b"]" * 65, None, ([b"[" * 64 + b"]" * 64], None)),
    ],
)
def test_what_is_plain_is_split(body: bytes, key: str | None, expected: Outcome) -> None:
    """A record has none of the white space around it; what stands deeper is no member of the envelope."""
    assert _agree(body, key, "total" if key else None)
    assert _outcome(body, key, "total" if key else None) == expected


@pytest.mark.parametrize("count", [0, 1, 2, 3, 100, 10_000])
def test_short_records_have_room(count: int) -> None:
    """Of a page of them the kernel is asked twice."""
    body = b"[" + b",".join([b"1"] * count) + b"]"
    assert _agree(body)
    found = pages.split(body, None, None)
    assert found is not None
    assert [*found[0]] == [msgspec.Raw(b"1")] * count


# ------------------------------------------------------------------------------------------------ records


@FUZZ
@given(st.lists(ANYTHING, max_size=8), st.data())
def test_records_are_a_sequence(values: list[Any], data: st.DataObject) -> None:
    """As the list of them would be: places, slices, slices of slices."""
    texts = [json.dumps(value).encode() for value in values]
    split = pages.split(b"[" + b" , ".join(texts) + b"]", None, None)
    assert split is not None
    records: Sequence[msgspec.Raw] = split[0]
    for _ in range(2):
        cut = data.draw(st.slices(max(1, len(texts)))) if data.draw(st.booleans()) else slice(*sorted(data.draw(st.tuples(st.integers(-9, 9), st.integers(-9, 9)))))  # fmt: skip
        records, texts = records[cut], texts[cut]
        assert [bytes(record) for record in records] == texts
        assert pages.bytes_of(records) == sum(map(len, texts))
        assert bool(records) == bool(texts)
        offsets = pages.offsets_of(records)
        assert [high - low for low, high in itertools.pairwise(offsets)] == [*map(len, texts)]
        for place in range(-len(texts), len(texts)):
            assert bytes(records[place]) == texts[place]
        for place in (len(texts), -len(texts) - 1):
            with pytest.raises(IndexError):
                records[place]


def test_a_digest_is_of_the_records_however_they_were_split() -> None:
    """A lane may go on where another worker has the kernel and this one has not."""
    body = b'[ {"id": 1} , {"id": 2}, {"id": 3}]'
    split = pages.split(body, None, None)
    assert split is not None
    with _without_kernel():
        listed, _ = counted_records_of(body, None, None)
    for cut in (slice(None), slice(1, None), slice(1, 2), slice(3, None)):
        assert same_again({}, body, split[0][cut]) == same_again({}, body, listed[cut])


@pytest.mark.parametrize("kernel", [True, False])
def test_records_are_written_one_behind_the_other(kernel: bool) -> None:
    """Where they are to begin, and nowhere else."""
    body = b'[1, "two" ,{"three":3}]'
    texts = [b"1", b'"two"', b'{"three":3}']
    split = pages.split(body, None, None)
    assert split is not None
    records: Sequence[msgspec.Raw] = split[0] if kernel else [msgspec.Raw(text) for text in texts]
    for low in range(4):
        room = bytearray(b"." * 30)
        ends = pages.write(records[low:], memoryview(room), 5)
        joined = b"".join(texts[low:])
        assert bytes(room) == (b"....." + joined).ljust(30, b".")
        assert ends == array("i", [5 + len(b"".join(texts[low : high + 1])) for high in range(low, 3)])
    for at in (15, 30, 31, -1):
        with pytest.raises(ValueError, match=r"fit|structures"):
            pages.write(records, memoryview(bytearray(30)), at)
    exact = bytearray(17)
    pages.write(records, memoryview(exact), 0)
    assert bytes(exact) == b"".join(texts)


# ------------------------------------------------------------------------------------------------ row groups


def _staged(bodies: list[tuple[bytes, slice]]) -> list[list[dict[str, Any]]]:
    """The row groups that become of the pages."""
    segment = export._Segment({})
    for number, (body, cut) in enumerate(bodies):
        segment.add(Page(10 * number, counted_records_of(body, None, None)[0][cut], {}))
    counts = segment.records, segment.bytes
    content = segment.finish().content()
    file = pq.ParquetFile(io.BytesIO(content))
    assert file.schema_arrow == export.RAW_SCHEMA
    groups = [file.read_row_group(group).to_pylist() for group in range(file.num_row_groups)]
    rows = [row for group in groups for row in group]
    assert counts == (len(rows), sum(len(row["record"]) for row in rows))
    return groups


def _listed(bodies: list[tuple[bytes, slice]]) -> list[list[dict[str, Any]]]:
    """The row groups as they are to be, record by record."""
    groups: list[list[dict[str, Any]]] = [[]]
    for number, (body, cut) in enumerate(bodies):
        records = [bytes(record) for record in msgspec.json.decode(body, type=list[msgspec.Raw])][cut]
        low = 0
        while low < len(records):
            high = low + 1
            while high < len(records) and sum(map(len, records[low : high + 1])) <= export.GROUP_BYTES:
                high += 1
            groups[-1] += [{"page": 10 * number, "ordinal": at, "record": records[at]} for at in range(low, high)]
            if sum(len(row["record"]) for row in groups[-1]) >= export.GROUP_BYTES or len(groups[-1]) >= export.GROUP_RECORDS:  # fmt: skip
                groups.append([])
            low = high
    return groups if groups[-1] else groups[:-1]


@pytest.mark.parametrize("kernel", [True, False])
@settings(FUZZ, max_examples=150)
@given(
    pages=st.lists(st.tuples(st.lists(st.integers(0, 60), max_size=30), st.integers(-3, 3)), max_size=8),
    group_bytes=st.sampled_from([1, 10, 40, 300]),
    group_records=st.sampled_from([1, 3, 20]),
    block_bytes=st.sampled_from([1, 50, 1000]),
)
def test_row_groups_have_every_record_in_its_place(
    kernel: bool, pages: list[tuple[list[int], int]], group_bytes: int, group_records: int, block_bytes: int
) -> None:
    """Of pages of any size, pages that are taken in part, and records larger than a row group."""
    bodies = []
    for page, (sizes, first) in enumerate(pages):
        texts = [json.dumps(f"{page}.{at}" + "x" * size).encode() for at, size in enumerate(sizes)]
        bodies.append((b"[" + b" ,".join(texts) + b"]", slice(first, None)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "GROUP_BYTES", group_bytes)
        patch.setattr(export, "GROUP_RECORDS", group_records)
        patch.setattr(export, "BLOCK_BYTES", block_bytes)
        export._first_ordinals.cache_clear()
        expected = _listed(bodies)
        try:
            if kernel:
                assert _staged(bodies) == expected
            else:
                with _without_kernel():
                    assert _staged(bodies) == expected
        finally:
            export._first_ordinals.cache_clear()


@pytest.mark.parametrize("name", KINDS)
def test_a_products_row_groups_are_the_same_without_the_kernel(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks of some pages each."""
    monkeypatch.setattr(export, "GROUP_BYTES", 50_000)
    monkeypatch.setattr(export, "BLOCK_BYTES", 30_000)
    stream = Inventory(80, 80).stream(*name.split("/"))
    bodies = []
    for low in range(0, stream.count, 20):
        places = pa.array(range(low, min(stream.count, low + 20)), pa.uint64())
        bodies.append((b"[" + bytes(stream.body(places)) + b"]", slice(low % 3, None)))
    expected = _listed(bodies)
    assert _staged(bodies) == expected
    with _without_kernel():
        assert _staged(bodies) == expected


def test_no_object_is_made_for_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the answer and the row group nobody looks at one, but for the first and the last of a page."""
    looked: list[int | slice] = []
    get: Callable[..., Any] = Records.__getitem__

    def counted(self: Records, index: int | slice) -> Any:
        looked.append(index)
        return get(self, index)

    monkeypatch.setattr(Records, "__getitem__", counted)
    body = _simulated("cycognito/findings_issues")
    segment = export._Segment({})
    for number in range(3):
        records, _ = counted_records_of(body, None, None)
        same_again({}, body, records)
        segment.add(Page(number, records, {}))
    assert segment.records == 180
    assert sum(isinstance(index, int) for index in looked) <= 3 * 4


def test_texts_stand_in_few_blocks_and_are_gone_with_their_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page goes into the block that is open, if it has room, else into a new one, which is as long as it has to be."""
    monkeypatch.setattr(export, "GROUP_BYTES", 10_000)
    monkeypatch.setattr(export, "BLOCK_BYTES", 1000)
    segment = export._Segment({})

    def add(size: int) -> list[int]:
        body = b'["' + b"x" * (size - 2) + b'"]'
        segment.add(Page(0, counted_records_of(body, None, None)[0], {}))
        return [texts.size for texts, _ in segment.group._blocks]

    assert [add(size) for size in (600, 400)] == [[1000], [1000]]
    assert add(3000) == [1000, 3000]
    assert add(2) == [1000, 3000, 1000]
    assert add(6000) == []
    assert add(50_000) == []
    assert add(700) == [1000]
    assert pq.read_table(io.BytesIO(segment.finish().content())).num_rows == 7
