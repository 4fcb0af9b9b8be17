"""Receipts under every misfortune: crashes, lost answers, halved parts, two copies at once; nothing lost, nothing called certain that is not."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel import receipts
from sentinel.ingestion import Part, Sent
from sentinel.packing import Chunk, body, cut, digest, halve
from sentinel.receipts import Receipts, closed, merged, opened, rows_in, settled


def pack(rows: int) -> tuple[bytes, list[Chunk]]:
    """A pack of so many rows of different lengths, about four a chunk."""
    lines = b"".join(b'{"n":%d,"x":"%s"}\n' % (n, b"x" * (n * 7 % 5)) for n in range(rows))
    return lines, cut(lines, 70)[0]


def numbers(lines: bytes, part: Chunk | tuple[int, int]) -> range:
    """The rows of a byte range, by their position in the pack."""
    start, end = (part.start, part.end) if isinstance(part, Chunk) else part
    first = lines.count(b"\n", 0, start)
    return range(first, first + lines.count(b"\n", start, end) + 1)


class Copy:
    """One try of an upload activity: it opens, reads what is left, sends part by part, and may crash at any time."""

    def __init__(self, name: str, world: World) -> None:
        self.name, self.world = name, world
        world.log.append(opened(name))
        known = Receipts.of(world.log, own=name)
        self.pending = known.left(world.lines, world.chunks)
        self.unwritten: list[dict[str, Any]] = []
        self.ended = False

    def step(self, what: str) -> None:
        """One request and its answer, or the end."""
        if what == "crash":
            self.ended = True
        elif what == "flush":
            self.flush()
        elif what == "give up" or not self.pending:
            self.end()
        else:
            self._send(self.pending.pop(0), what)

    def flush(self) -> None:
        """Write the receipts that are waiting, as the activity does every few."""
        self.world.log += self.unwritten
        self.unwritten = []

    def end(self) -> None:
        """The line at the end, with what is in doubt."""
        self.flush()
        self.world.log.append(closed(self.name, [part for part in self.pending if part.in_doubt], 1, 1, 1))
        self.ended = True

    def _send(self, part: Part, what: str) -> None:
        chunk = part.chunk
        bad = [n for n in numbers(self.world.lines, chunk) if n in self.world.bad]
        if what == "lost after":
            if not bad:
                self.world.stored.update(numbers(self.world.lines, chunk))
            self.pending.insert(0, Part(chunk, in_doubt=True))
        elif what == "lost before":
            self.pending.insert(0, Part(chunk, in_doubt=True))
        elif (bad or what == "too long") and chunk.rows > 1:
            self.pending[:0] = [Part(half, part.in_doubt) for half in halve(self.world.lines, chunk)]
        else:
            status = 400 if bad else 204
            if status == 204:
                self.world.stored.update(numbers(self.world.lines, chunk))
            sent = Sent(chunk, status, "bad" if bad else "", 1, 5, part.in_doubt)
            self.unwritten.append(settled(self.name, sent, digest(body(self.world.lines, chunk)), "run"))


class World:
    """The pack, its log, and what the destination really has."""

    def __init__(self, rows: int, bad: set[int]) -> None:
        self.lines, self.chunks = pack(rows)
        self.bad = bad
        self.log: list[dict[str, Any]] = []
        self.stored: Counter[int] = Counter()


STEPS = ["send"] * 6 + ["lost after", "lost before", "too long", "crash", "flush", "flush", "give up"]


@settings(max_examples=400, deadline=None)
@given(
    rows=st.integers(1, 24),
    bad=st.sets(st.integers(0, 23), max_size=3),
    script=st.lists(st.tuples(st.integers(0, 1), st.sampled_from(STEPS)), max_size=60),
    two=st.booleans(),
)
def test_whatever_happens_rows_are_settled_once_and_doubts_are_told(
    rows: int, bad: set[int], script: list[tuple[int, str]], two: bool
) -> None:
    """Any interleaving of one or two copies: what is left is exactly what no line settles, and the rows add up at the end."""
    world = World(rows, bad)
    names = iter(f"try{n}" for n in range(1000))
    copies: list[Copy | None] = [None, None]
    for which, what in script:
        place = which if two else 0
        copy = copies[place]
        if copy is None or copy.ended:
            copies[place] = Copy(next(names), world)
            check_left(world)
        else:
            copy.step(what)
    for copy in copies:
        while copy is not None and not copy.ended:
            copy.step("send")
    last = Copy(next(names), world)
    check_left(world)
    while not last.ended:
        last.step("send")
    check_end(world)


def check_left(world: World) -> None:
    """Every row is either settled or offered, once, within one of the frozen chunks."""
    known = Receipts.of(world.log)
    left = known.left(world.lines, world.chunks)
    taken = {n for part in merged([*known.accepted, *known.refused]) for n in numbers(world.lines, part)}
    offered = [n for part in left for n in numbers(world.lines, part.chunk)]
    assert len(offered) == len(set(offered))
    assert not taken & set(offered)
    assert taken | set(offered) == set(range(world.lines.count(b"\n")))
    for part in left:
        assert part.chunk.rows == len(numbers(world.lines, part.chunk)) >= 1
        assert any(chunk.start <= part.chunk.start and part.chunk.end <= chunk.end for chunk in world.chunks)
        assert world.lines[part.chunk.end : part.chunk.end + 1] == b"\n"
        assert part.chunk.start == 0 or world.lines[part.chunk.start - 1 : part.chunk.start] == b"\n"


def check_end(world: World) -> None:
    """Nothing is left; accepted and refused rows add up; what is there twice is among what may be."""
    known = Receipts.of(world.log)
    assert known.left(world.lines, world.chunks) == []
    refused = sum(rows_in(world.lines, part) for part in merged(known.refused))
    every = sum(rows_in(world.lines, part) for part in merged([*known.accepted, *known.refused]))
    rows = world.lines.count(b"\n")
    assert every == rows
    assert refused == len([n for n in world.bad if n < rows])
    assert set(world.stored) == {n for n in range(rows) if n not in world.bad}
    perhaps = {n for part in known.ambiguous for n in numbers(world.lines, part)}
    twice = {n for n, times in world.stored.items() if times > 1}
    assert twice <= perhaps, f"{sorted(twice - perhaps)} are there twice and called certain"


def test_a_clean_pack_is_certain() -> None:
    """One try without trouble: nothing is possibly repeated, and its requests are counted."""
    world = World(20, set())
    copy = Copy("a", world)
    while not copy.ended:
        copy.step("send")
    known = Receipts.of(world.log)
    assert known.ambiguous == []
    assert known.chunks == len(world.chunks)
    assert (known.requests, known.body_bytes, known.wire_bytes) == (1, 1, 1)
    assert not known.all_in_doubt


def test_a_crash_leaves_only_the_unsettled_in_doubt() -> None:
    """What has a receipt is certain; the rest is sent again and counted."""
    world = World(20, set())
    crashed = Copy("a", world)
    for what in ("send", "flush", "send", "crash"):
        crashed.step(what)
    again = Copy("b", world)
    assert [part.in_doubt for part in again.pending] == [True] * (len(world.chunks) - 1)
    while not again.ended:
        again.step("send")
    repeated = {n for part in Receipts.of(world.log).ambiguous for n in numbers(world.lines, part)}
    assert repeated == set(range(20)) - set(numbers(world.lines, world.chunks[0]))


@pytest.mark.parametrize("end", [("lost after", "give up"), ("send", "crash")], ids=["in doubt", "without a word"])
def test_what_one_copy_may_have_sent_and_another_settles_is_possibly_repeated(end: tuple[str, str]) -> None:
    """The later copy's answer is lost and it gives up, or it crashes; the earlier one, which knows of nothing, sends the same rows: they are there twice."""
    world = World(4, set())
    first, second = Copy("a", world), Copy("b", world)
    for what in end:
        second.step(what)
    while not first.ended:
        first.step("send")
    assert set(world.stored.values()) == {2}
    check_end(world)


def test_what_lies_before_a_settled_part_is_offered_to_the_byte() -> None:
    """The second half of a chunk is settled first: the first half is left, without the newline between them."""
    lines, chunks = pack(8)
    first, second = halve(lines, chunks[0])
    line = settled("a", Sent(second, 204), "", "run")
    left = Receipts.of([opened("a"), line, closed("a", [], 1, 1, 1)]).left(lines, chunks)
    assert left == [Part(first), *(Part(chunk, door=nth) for nth, chunk in enumerate(chunks[1:], 1))]


def test_a_log_of_dead_letters_only_is_settled() -> None:
    """Every row refused: nothing is left, and each keeps its reason."""
    world = World(3, {0, 1, 2})
    copy = Copy("a", world)
    while not copy.ended:
        copy.step("send")
    known = Receipts.of(world.log)
    assert known.left(world.lines, world.chunks) == []
    assert [line["reason"] for line in known.refused.values()] == ["bad"] * 3


def test_ranges_that_only_touch_stay_apart() -> None:
    """A newline lies between two neighbours, so that their rows are not counted as one."""
    assert receipts.merged([(11, 20), (0, 10), (5, 8), (30, 40), (35, 50)]) == [(0, 10), (11, 20), (30, 50)]
