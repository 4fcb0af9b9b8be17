"""Packing to the byte: bodies within the limit, as full as whole rows allow, the rows that came in, in order, each once."""

from __future__ import annotations

import gzip
import itertools
import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sentinel.packing import (
    BODY_LIMIT_BYTES,
    Anew,
    Chunk,
    Press,
    StandingPress,
    WirePress,
    body,
    compress,
    cut,
    cut_wire,
    digest,
    fewest_requests,
    halve,
    rows_of,
    wire,
)

TEXTS = st.text(max_size=40) | st.sampled_from(["\n", '"', "\\", ",", '","', "\u2028", "\N{PILE OF POO}"])
ROWS = st.lists(st.dictionaries(st.sampled_from("abc"), TEXTS, min_size=1), max_size=30)


def ndjson(rows: list[Any]) -> bytes:
    """One row a line."""
    return b"".join(json.dumps(row, separators=(",", ":"), ensure_ascii=False).encode() + b"\n" for row in rows)


@settings(max_examples=300, deadline=None)
@given(rows=ROWS, limit=st.integers(4, 300))
@example(rows=[{"a": "x"}], limit=11)
@example(rows=[{"a": "x"}, {"a": "y"}], limit=21)
def test_cut_fills_bodies_and_loses_no_row(rows: list[Any], limit: int) -> None:
    """Within the limit, full to the next row, in order, each row once; what fits in no body is set aside."""
    lines = ndjson(rows)
    chunks, oversize = cut(lines, limit)
    for chunk in chunks:
        text = body(lines, chunk)
        assert len(text) == chunk.body_bytes <= limit
        assert len(json.loads(text)) == chunk.rows == len(list(rows_of(lines, chunk)))
        after = lines[chunk.end + 1 :].split(b"\n", 1)[0]
        following = [c for c in oversize if c.start == chunk.end + 1]
        assert not after or following or chunk.body_bytes + 1 + len(after) > limit, "the next row would have fitted"
    for lone in oversize:
        assert lone.rows == 1
        assert lone.body_bytes > limit
    every = sorted([*chunks, *oversize], key=lambda chunk: chunk.start)
    assert [row for chunk in every for row in json.loads(body(lines, chunk))] == rows
    assert sum(chunk.rows for chunk in every) == len(rows)


@settings(max_examples=200, deadline=None)
@given(rows=ROWS, limit=st.integers(256, 2000), body_limit=st.integers(300, 6000), pad=st.integers(0, 400))
@example(rows=[{"a": "x"}, {"a": "".join(chr(33 + n * n % 94) for n in range(900))}], limit=256, body_limit=6000, pad=0)
@example(rows=[{"a": "x" * 5000}, {"a": "x"}], limit=256, body_limit=4000, pad=0)
def test_cut_wire_keeps_the_gzip_and_the_body_within_their_limits(
    rows: list[Any], limit: int, body_limit: int, pad: int
) -> None:
    """What was compressed while cutting is the rows' body, byte by byte; each row once, in order; what fits in no body is set aside."""
    lines = ndjson([*rows, *({"n": n, "pad": "p" * pad} for n in range(20))])
    chunks, oversize, wires = cut_wire(lines, limit, body_limit)
    for chunk, packed in zip(chunks, wires, strict=True):
        assert len(packed) <= limit
        text = gzip.decompress(packed)
        assert text == body(lines, chunk) == gzip.decompress(wire(lines, chunk))
        assert len(text) == chunk.body_bytes <= body_limit
        assert text.count(b"\n") == 0
        assert len(json.loads(text)) == chunk.rows
    for lone in oversize:
        assert lone.rows == 1
        assert lone.body_bytes > min(limit - 40, body_limit)
    every = sorted([*chunks, *oversize], key=lambda chunk: chunk.start)
    assert b"".join(lines[chunk.start : chunk.end + 1] for chunk in every) == lines


def test_cut_wire_is_nearly_full_and_the_same_each_time() -> None:
    """Bodies of megabytes that compress to 98 % of the limit at least, the last one aside; a long one is made again without being held whole."""
    lines = ndjson([{"a": digest(b"%d" % n), "n": n, "text": "the same in every row " * 4} for n in range(90_000)])
    chunks, oversize, wires = cut_wire(lines)
    assert (chunks, oversize, wires) == cut_wire(lines)
    assert oversize == []
    assert len(chunks) >= 2
    assert all(0.98 * BODY_LIMIT_BYTES <= len(packed) <= BODY_LIMIT_BYTES for packed in wires[:-1])
    assert all(chunk.body_bytes > 2 * BODY_LIMIT_BYTES for chunk in chunks[:-1])
    assert wire(lines, chunks[0]) == wires[0]
    assert 3 * len(chunks) <= len(cut(lines)[0])


def test_a_row_of_exactly_the_limit_is_sent_and_one_more_byte_is_not() -> None:
    """Brackets count: a row of limit - 2 bytes is a body of the limit."""
    for extra, sent in ((0, 1), (1, 0)):
        row = b'{"a":"' + b"x" * (BODY_LIMIT_BYTES - 2 - 8 + extra) + b'"}\n'
        chunks, oversize = cut(row)
        assert (len(chunks), len(oversize)) == (sent, 1 - sent)
        assert [len(body(row, chunk)) for chunk in chunks] == [BODY_LIMIT_BYTES] * sent


def test_requests_are_nearly_full() -> None:
    """Rows of 300 to 900 bytes: at least 99.9 % full, and no more requests than bytes demand."""
    lines = b"".join(b'{"a":"' + b"x" * (300 + (n * 7919) % 600) + b'"}\n' for n in range(20_000))
    chunks, _ = cut(lines)
    assert all(chunk.body_bytes > 0.999 * BODY_LIMIT_BYTES for chunk in chunks[:-1])
    assert len(chunks) == fewest_requests(chunks)


@settings(max_examples=200, deadline=None)
@given(rows=ROWS.filter(bool))
def test_halving_ends_at_single_rows(rows: list[Any]) -> None:
    """Each half ends at a row, none is empty, together they are the chunk; halving down gives every row alone."""
    lines = ndjson(rows)
    pending = [Chunk(0, len(lines) - 1, len(rows))]
    alone = []
    while pending:
        chunk = pending.pop(0)
        if chunk.rows == 1:
            alone.append(json.loads(lines[chunk.start : chunk.end]))
            continue
        first, second = halve(lines, chunk)
        assert (first.start, second.end) == (chunk.start, chunk.end)
        assert second.start == first.end + 1
        assert first.rows >= 1
        assert second.rows >= 1
        assert first.rows + second.rows == chunk.rows
        pending = [first, second, *pending]
    assert alone == rows


def test_halving_is_balanced() -> None:
    """A thousand equal rows are alone after ten halvings."""
    lines = b'{"a":1}\n' * 1000
    depth, chunks = 0, [Chunk(0, len(lines) - 1, 1000)]
    while any(chunk.rows > 1 for chunk in chunks):
        chunks = [half for chunk in chunks for half in (halve(lines, chunk) if chunk.rows > 1 else (chunk,))]
        depth += 1
    assert depth <= 10


@given(content=st.binary(max_size=2000))
def test_compression_and_digest_are_deterministic(content: bytes) -> None:
    """The same rows are the same bytes whenever they are sent, and what gzip reads back."""
    assert compress(content) == compress(content)
    assert gzip.decompress(compress(content)) == content
    assert compress(content)[4:8] == b"\0\0\0\0"
    assert digest(content) == digest(bytes(content))
    assert len(digest(content)) == 32
    assert digest(content) != digest(content + b"x")


@settings(max_examples=200, deadline=None)
@given(
    rows=ROWS,
    limit=st.integers(4, 300),
    wire_limit=st.integers(256, 900),
    cuts=st.lists(st.integers(0, 60), max_size=6),
)
def test_a_press_cuts_what_comes_in_pieces_like_the_whole(
    rows: list[Any], limit: int, wire_limit: int, cuts: list[int]
) -> None:
    """However many rows a piece has, and whether or not it is told where the newlines are: the same chunks, rows set aside, digests and bodies, in both modes; and again where they were cut once."""
    lines = ndjson(rows)
    each = lines.splitlines(keepends=True)
    edges = [0, *sorted(min(cut, len(each)) for cut in cuts), len(each)]
    pieces = [b"".join(each[low:high]) for low, high in itertools.pairwise(edges)]
    chunks, oversize = cut(lines, limit)
    wired = cut_wire(lines, wire_limit, 2000)
    standing = Press(limit), StandingPress(limit, standing=chunks, set_aside=oversize)
    for press, expected in (
        *((press, (chunks, oversize)) for press in standing),
        (WirePress(wire_limit, body_limit=2000), wired[:2]),
    ):
        for number, piece in enumerate(pieces):
            told = [at for at, byte in enumerate(piece) if byte == 0x0A] if number % 2 else None
            press.add(piece, told)
        press.finish()
        assert press.taken == len(lines)
        assert (press.chunks, press.oversize) == expected
        parts = [(chunk.start, chunk.end) for chunk in (*press.chunks, *press.oversize)]
        assert press.identity == [digest(lines[low:high]) for low, high in parts]
        for chunk in press.chunks:
            end, packed = press.wires[chunk.start]
            assert (end, gzip.decompress(packed)) == (chunk.end, body(lines, chunk))


def _given(press: Press, lines: bytes, before: list[Chunk], behind: bytes) -> None:
    """Bodies of the one, then all of the other."""
    for chunk in before:
        rows = lines[chunk.start : chunk.end]
        press.take(wire(lines, chunk), len(rows) + 1, chunk.rows, digest(rows))
    press.add(behind)
    press.finish()


def _added(press: Press, before: list[Chunk]) -> list[Chunk]:
    """The chunks of what was added, as if nothing had been before."""
    taken = sum(chunk.end + 1 - chunk.start for chunk in before)
    return [Chunk(c.start - taken, c.end - taken, c.rows) for c in press.chunks[len(before) :]]


@settings(max_examples=100, deadline=None)
@given(ready=ROWS, rows=ROWS, limit=st.integers(4, 300))
def test_bodies_that_were_cut_before_are_taken_as_they_are(ready: list[Any], rows: list[Any], limit: int) -> None:
    """In front of what is added, with the digests of their rows; and again where all was cut once, in both modes."""
    lines, behind = ndjson(ready), ndjson(rows)
    chunks, others = cut(lines, limit)
    before = [*chunks, *others]
    press, wired = Press(limit), WirePress(256, body_limit=2000)
    for one in (press, wired):
        _given(one, lines, before, behind)
        again = StandingPress(limit, standing=one.chunks, set_aside=one.oversize)
        _given(again, lines, before, behind)
        assert (again.chunks, again.oversize, again.identity) == (one.chunks, one.oversize, one.identity)
        for each in (one, again):
            texts = [gzip.decompress(each.wires[chunk.start][1]) for chunk in each.chunks]
            assert texts == [
                body(of, c) for of, some in ((lines, before), (behind, _added(each, before))) for c in some
            ]
    later, aside = cut(behind, limit)
    assert (_added(press, before), len(press.oversize)) == (later, len(aside))


def test_lines_made_anew_are_made_once_and_only_when_looked_into() -> None:
    """The sender's threads share them."""
    made: list[bytes] = []

    def make() -> bytes:
        made.append(ndjson([{"a": "x"}, {"a": "y"}]))
        return made[-1]

    lines = Anew(make)
    assert made == []
    chunk = cut(lines, 100)[0][0]
    assert body(lines, chunk) == b'[{"a":"x"},{"a":"y"}]'
    assert [body(lines, half) for half in halve(lines, chunk)] == [b'[{"a":"x"}]', b'[{"a":"y"}]']
    assert len(made) == 1


def test_a_view_that_somebody_still_holds_is_in_nobodys_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """A debugger or a profiler holds the frames of a call, and what they had in hand, for longer than the call."""
    held: list[Any] = []

    def keep(content: Any) -> str:
        held.append(content)
        return digest(content)

    monkeypatch.setattr("sentinel.packing.digest", keep)
    lines = b'{"a":1}\n' * 50
    press = Press(100)
    for at in range(0, len(lines), 72):
        press.add(lines[at : at + 72])
    press.finish()
    assert sum(chunk.rows for chunk in press.chunks) == 50
    assert len(held) == len(press.chunks)
