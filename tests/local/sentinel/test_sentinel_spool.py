"""The spool: what a body is checked for before it is kept, and when what was kept is decoded."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import msgspec
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from local.sentinel.answers import Refusal
from local.sentinel.flows import flows
from local.sentinel.spool import Kept, Spool, check_utf8, recover, rows_in
from local.sentinel.store import Store
from sentinel.tables import ASSETS

NOW = datetime(2026, 1, 1, 12)  # noqa: DTZ001 - stored times are naive and UTC

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
BODIES = st.lists(st.dictionaries(st.text(max_size=3), VALUES, max_size=3) | VALUES, max_size=4).map(
    msgspec.json.encode
)


@st.composite
def spoiled(draw: st.DrawFn) -> bytes:
    """A body of which some bytes are others, or gone, or more."""
    body = bytearray(draw(BODIES))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(body)))
        body[start : start + draw(st.integers(0, 2))] = draw(
            st.binary(max_size=2) | st.sampled_from([b",", b'"', b"\\", b"\\u", b"{", b"]", b"\n"])
        )
    return bytes(body)


def taken_apart(body: bytes) -> int | None:
    """How many rows a body has by looking at each of its elements; None when it has to be refused."""
    try:
        body.decode()
        rows = msgspec.json.decode(body, type=list[msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return len(rows) if all(bytes(row).startswith(b"{") for row in rows) else None


@given(spoiled())
@example(b'[{"a":"\xed\xa0\x80"}]')
@example(b'[{"\\ud800":1}]')
@example(b'[{"a":1,"a":{}},{}]')
def test_a_body_is_refused_as_by_looking_at_each_element(body: bytes) -> None:
    """The quick look takes what the slow one takes, counts as it does, and refuses the rest with 400."""
    wanted = taken_apart(body)
    if wanted is not None:
        assert rows_in(body) == wanted
    else:
        with pytest.raises(Refusal) as refusal:
            rows_in(body)
        assert refusal.value.status == 400


@given(st.binary(max_size=12) | st.text(max_size=6).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_utf8_is_what_python_decodes(body: bytes) -> None:
    """Surrogates, overlong forms and what is cut off are refused as by `bytes.decode`."""
    try:
        body.decode()
    except UnicodeDecodeError:
        with pytest.raises(UnicodeDecodeError):
            check_utf8(body)
    else:
        check_utf8(body)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """A spool of three files, one body in each."""
    made = Spool(Store(tmp_path), flows([ASSETS]), file_bytes=1)
    for key in ("a", "b", "c"):
        made.add(Kept(ASSETS.stream, NOW, "", b'[{"AssetId":"%s"}]' % key.encode()), 1)
    return made


def decoded(store: Path) -> list[str]:
    files = sorted((store / ASSETS.name).glob("*.parquet"))
    return [str(key) for path in files for key in pl.read_parquet(path)["AssetId"]]


def test_decoding_that_is_not_urgent_stops_between_files(spool: Spool, tmp_path: Path) -> None:
    """What is decoded for want of anything else to do gives way; what is left is decoded when somebody asks."""
    answers = iter([True, False])
    spool.drain(lambda: next(answers))
    assert decoded(tmp_path) == ["a"]
    spool.drain()
    assert decoded(tmp_path) == ["a", "b", "c"]
    spool.close()


def test_a_spool_that_is_closed_in_a_hurry_loses_nothing(spool: Spool, tmp_path: Path) -> None:
    """What was not decoded in time waits for the next one."""
    spool.close(within_s=0)
    assert decoded(tmp_path) == []
    recover(tmp_path)
    assert decoded(tmp_path) == ["a", "b", "c"]
