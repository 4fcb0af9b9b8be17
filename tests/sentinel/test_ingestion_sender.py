"""The sender against a sink that answers as it is told: what is tried again, halved, refused, given up, and what is in doubt."""

from __future__ import annotations

import gzip
import json
import math
import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts import Cancelled, Stop, TryAgain
from sentinel.governor import Governor
from sentinel.ingestion import Answer, Budget, Door, Part, Sender, Sent
from sentinel.packing import Chunk, cut, rows_of

OK = Answer(204)


@dataclass
class FakeSink:
    """Answers each body by `decide(rows, nth request)`; keeps what it stored and how many requests ran side by side."""

    decide: Callable[[list[Any], int], Answer | list[Answer]] = lambda rows, nth: OK
    stores: Callable[[Answer], bool] = lambda answer: answer.status == 204
    stored: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    wire_bytes: int = 0
    body_bytes: int = 0
    running: int = 0
    most: int = 0
    barrier: threading.Barrier | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def post(self, stream: str, body: bytes) -> Answer:
        """One request."""
        assert stream == "Custom-T"
        text = gzip.decompress(body)
        rows = json.loads(text)
        with self.lock:
            self.requests += 1
            nth = self.requests
            self.wire_bytes += len(body)
            self.body_bytes += len(text)
            self.running += 1
            self.most = max(self.most, self.running)
        if self.barrier is not None:
            self.barrier.wait(10)
        with self.lock:
            answer = self.decide(rows, nth)
            assert isinstance(answer, Answer)
            if self.stores(answer):
                self.stored.update(json.dumps(row) for row in rows)
            self.running -= 1
        return answer


@dataclass
class Sending:
    """A sender's run: what it reported, how it ended, how long it would have slept."""

    sink: FakeSink
    rows: int = 12
    limit: int = 40
    budget: Budget = field(default_factory=lambda: Budget(in_flight=1))
    options: dict[str, Any] = field(default_factory=dict)
    sent: list[Sent] = field(default_factory=list)
    doubts: list[Part] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)
    time: float = 0.0
    failure: Exception | None = None

    def __post_init__(self) -> None:
        self.lines = b"".join(b'{"n":%03d}\n' % (100 + n) for n in range(self.rows))
        self.chunks, self.oversize = cut(self.lines, self.limit)
        assert not self.oversize

    def go(self, parts: list[Part] | None = None) -> Sending:
        """Send; failures are kept."""
        governor = Governor(clock=lambda: self.time)
        options = {"clock": lambda: self.time, "sleep": self.sleep, **self.options}
        sender = Sender((Door(self.sink, governor),), "Custom-T", self.budget, **options)
        try:
            sender.send(
                self.lines, parts or [Part(chunk) for chunk in self.chunks], self.sent.append, self.doubts.append
            )
        except (TryAgain, Stop) as error:
            self.failure = error
        self.tally = sender.tally
        assert self.tally.requests == self.sink.requests
        assert self.tally.wire_bytes == self.sink.wire_bytes
        assert self.tally.body_bytes == self.sink.body_bytes
        return self

    def sleep(self, seconds: float) -> None:
        """Nothing but the clock moves."""
        self.slept.append(seconds)
        self.time += seconds

    def row_numbers(self, chunk: Chunk) -> list[int]:
        """The rows of a chunk, as the numbers that they hold."""
        return [json.loads(row)["n"] for row in rows_of(self.lines, chunk)]

    @property
    def fates(self) -> Counter[int]:
        """How often each row was reported."""
        return Counter(number for sent in self.sent for number in self.row_numbers(sent.chunk))


def script(*answers: Answer) -> FakeSink:
    """A sink that gives those answers in order, then accepts."""
    left = list(answers)
    return FakeSink(lambda rows, nth: left.pop(0) if left else OK)


def test_all_is_well() -> None:
    """Each chunk is one request, accepted once, nothing is in doubt."""
    run = Sending(FakeSink()).go()
    assert run.failure is None
    assert [sent.status for sent in run.sent] == [204] * len(run.chunks)
    assert set(run.fates.values()) == {1}
    assert len(run.fates) == 12
    assert run.doubts == []
    assert not any(sent.ambiguous for sent in run.sent)


@pytest.mark.parametrize("kind", [ZeroDivisionError, SystemExit])
def test_what_nobody_foresaw_ends_the_sending(kind: type[BaseException]) -> None:
    """The parts that are left stay there, and are not in doubt."""

    def decide(rows: list[Any], nth: int) -> Answer:
        if nth == 2:
            raise kind
        return OK

    run = Sending(FakeSink(decide), rows=899, budget=Budget(in_flight=2))
    with pytest.raises(kind):
        run.go()
    assert (len(run.sent), run.doubts) == (run.sink.requests - 1, [])
    # The other thread may be in the midst of one or two.
    assert run.sink.requests < len(run.chunks) / 2


@pytest.mark.parametrize("status", [400, 413])
def test_one_bad_row_is_refused_and_its_neighbours_are_not(status: int) -> None:
    """Halved until the bad row stands alone: it is refused with the service's words, eleven rows are accepted."""
    sink = FakeSink(lambda rows, nth: Answer(status, "bad row") if any(row["n"] == 105 for row in rows) else OK)
    run = Sending(sink, limit=10_000).go()
    assert run.failure is None
    refused = [sent for sent in run.sent if not sent.accepted]
    assert [run.row_numbers(sent.chunk) for sent in refused] == [[105]]
    assert refused[0].reason == f"{status} from the DCR: bad row"
    assert run.fates == Counter(range(100, 112))
    assert sink.requests <= 2 * 4 + 1


@pytest.mark.parametrize(
    ("answer", "ambiguous"),
    [
        (Answer(408), True),
        (Answer(500), True),
        (Answer(502), True),
        (Answer(503), True),
        (Answer(504), True),
        (Answer(0, "no answer"), True),
        (Answer(-1, "cannot reach the endpoint"), False),
        (Answer(429), False),
        (Answer(401), False),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Answer) else "",
)
def test_what_passes_is_tried_again(answer: Answer, ambiguous: bool) -> None:
    """Twice the answer, then accepted: three tries; ambiguous exactly where the service may have stored the rows."""
    run = Sending(script(answer, answer), limit=10_000).go()
    assert run.failure is None
    assert [(sent.tries, sent.ambiguous) for sent in run.sent] == [(3, ambiguous)]
    assert len(run.slept) == 2
    assert run.doubts == []


@pytest.mark.parametrize(
    ("answer", "in_doubt"),
    [(Answer(503), True), (Answer(0, "no answer"), True), (Answer(429), False), (Answer(-1, "unreachable"), False)],
    ids=["503", "no answer", "429", "not sent"],
)
def test_what_does_not_pass_is_tried_again_later(answer: Answer, in_doubt: bool) -> None:
    """Eight tries, then TryAgain with the last answer; in doubt exactly when it may have been stored."""
    run = Sending(FakeSink(lambda rows, nth: answer), limit=10_000).go()
    assert isinstance(run.failure, TryAgain)
    assert "8 times" in str(run.failure)
    assert run.sink.requests == 8
    assert run.sent == []
    assert run.doubts == ([Part(run.chunks[0], in_doubt=True)] if in_doubt else [])


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (307, "redirects are not followed"),
        (403, "Monitoring Metrics Publisher"),
        (404, "immutable id"),
        (402, "not expected"),
    ],
)
def test_what_no_retry_cures_stops_at_once(status: int, words: str) -> None:
    """One request, Stop with the remedy."""
    run = Sending(FakeSink(lambda rows, nth: Answer(status, "no"))).go()
    assert isinstance(run.failure, Stop)
    assert words in run.failure.remedy
    assert run.sink.requests == 1


def test_a_few_401_are_an_expired_token_and_many_a_refusal() -> None:
    """Four are borne, the fifth stops with what to check."""
    assert Sending(script(*[Answer(401)] * 4), limit=10_000).go().failure is None
    run = Sending(FakeSink(lambda rows, nth: Answer(401, "expired"))).go()
    assert isinstance(run.failure, Stop)
    assert run.sink.requests == 5
    assert "audience" in run.failure.remedy


def test_retry_after_is_honoured_exactly() -> None:
    """Without jitter: the service said when."""
    run = Sending(script(Answer(429, retry_after_s=4.0), Answer(503, retry_after_s=0.5)), limit=10_000).go()
    assert run.slept == [4.0, 0.5]
    assert run.failure is None


def test_a_long_wait_notices_a_cancel() -> None:
    """Sat out in pieces."""
    run = Sending(script(Answer(429, retry_after_s=19.0)), limit=10_000)
    run.options["cancelled"] = lambda: run.time > 4
    assert isinstance(run.go().failure, Cancelled)
    assert run.slept == [5.0]


def test_a_429_holds_every_sender_of_the_dcr() -> None:
    """One sender is told to wait for half a minute: another one, of another activity, does not even ask."""
    time = 0.0
    governor = Governor(clock=lambda: time)
    full, other = script(Answer(429, retry_after_s=30.0)), FakeSink()
    for sink, name in ((full, "a"), (other, "b")):
        sending = Sending(sink, limit=10_000)
        sender = Sender((Door(sink, governor, name),), "Custom-T", clock=lambda: time)
        with pytest.raises(TryAgain) as told:
            sender.send(sending.lines, [Part(chunk) for chunk in sending.chunks], lambda _: None, lambda _: None)
        assert told.value.retry_after_s == 30.0
    assert (full.requests, other.requests) == (1, 0)


def test_a_long_retry_after_is_the_orchestrators_business() -> None:
    """Longer than an activity sits out: TryAgain at once with the time asked for, and no sleep."""
    run = Sending(script(Answer(429, retry_after_s=60.0)), limit=10_000).go()
    assert isinstance(run.failure, TryAgain)
    assert run.failure.retry_after_s == 60.0
    assert run.slept == []
    assert run.sink.requests == 1


def test_backoff_grows_and_is_bounded() -> None:
    """From a quarter of a second, doubling, with jitter of up to a half, never above the limit."""
    run = Sending(FakeSink(lambda rows, nth: Answer(429)), limit=10_000, budget=Budget(1, 12, 0.25, 4.0)).go()
    ceilings = [min(4.0, 0.25 * 2**n) for n in range(11)]
    assert len(run.slept) == 11
    assert all(ceiling / 2 <= slept <= ceiling for slept, ceiling in zip(run.slept, ceilings, strict=True))


@pytest.mark.parametrize("in_flight", [1, 3])
def test_requests_run_side_by_side_up_to_the_budget(in_flight: int) -> None:
    """Every request waits until as many are there as may be: they really are, and never more."""
    sink = FakeSink(barrier=threading.Barrier(in_flight))
    run = Sending(sink, rows=36, budget=Budget(in_flight=in_flight)).go()
    assert len(run.chunks) == 12
    assert sink.most == in_flight
    assert set(run.fates.values()) == {1}


def test_stop_outranks_try_again() -> None:
    """One chunk has to wait, another is forbidden: whoever waits would not see the remedy."""
    barrier = threading.Barrier(2)

    def decide(rows: list[Any], nth: int) -> Answer:
        return Answer(403, "no role") if rows[0]["n"] == 100 else Answer(429, retry_after_s=99.0)

    for _ in range(5):
        run = Sending(FakeSink(decide, barrier=barrier), rows=6, budget=Budget(in_flight=2)).go()
        assert isinstance(run.failure, Stop), run.failure


def test_after_a_failure_no_new_chunk_is_begun() -> None:
    """What is in flight ends, the rest stays for the next call."""
    run = Sending(script(OK, Answer(403))).go()
    assert isinstance(run.failure, Stop)
    assert run.sink.requests == 2
    assert len(run.sent) == 1


def test_cancelled_between_two_requests() -> None:
    """Asked before each request: what was sent is reported, the rest is not begun."""
    asked = iter([False, False, True])
    run = Sending(FakeSink(), options={"cancelled": lambda: next(asked)}).go()
    assert isinstance(run.failure, Cancelled)
    assert len(run.sent) == 2
    assert run.doubts == []


def test_no_request_begins_after_its_time() -> None:
    """`until` is the activity's budget: TryAgain, with what was sent reported."""
    clock = iter([0.0, 1.0, 2.0, 3.0])
    run = Sending(FakeSink(), options={"until": 2.0, "clock": lambda: next(clock)}).go()
    assert isinstance(run.failure, TryAgain)
    assert len(run.sent) == 2


def test_a_part_in_doubt_stays_in_doubt() -> None:
    """In doubt from an earlier call: accepted it is ambiguous, and when it fails again without a word it is still in doubt."""
    run = Sending(FakeSink(), limit=10_000)
    run.go([Part(run.chunks[0], in_doubt=True)])
    assert [sent.ambiguous for sent in run.sent] == [True]
    failing = Sending(FakeSink(lambda rows, nth: Answer(429)), limit=10_000)
    failing.go([Part(failing.chunks[0], in_doubt=True)])
    assert failing.doubts == [Part(failing.chunks[0], in_doubt=True)]


def test_halves_inherit_the_doubt() -> None:
    """A lost answer, then 413: both halves may be there already; and when the first half has to wait, both are reported."""
    run = Sending(script(Answer(0), Answer(413)), limit=10_000).go()
    assert [sent.ambiguous for sent in run.sent] == [True, True]
    run = Sending(script(Answer(0), Answer(413), *[Answer(429)] * 8), limit=10_000).go()
    assert isinstance(run.failure, TryAgain)
    assert Counter(n for part in run.doubts for n in run.row_numbers(part.chunk)) == Counter(range(100, 112))


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10**6), in_flight=st.integers(1, 4), rows=st.integers(1, 60), cancel_at=st.integers(0, 80))
def test_every_row_has_one_fate_and_every_doubt_is_told(seed: int, in_flight: int, rows: int, cancel_at: int) -> None:
    """Random answers, some of which store without saying so: reported rows once each; stored without a receipt means in doubt or ambiguous."""
    chance = random.Random(seed)
    stored_silently = {0, 408, 500, 503}

    def decide(_rows: list[Any], nth: int) -> Answer:
        status = chance.choice([204, 204, 204, 204, 0, 408, 500, 503, 429, -1, 413, 400, 401])
        if nth > 40 and chance.random() < 0.05:
            status = 403
        return Answer(status, "x", chance.choice([None, None, 0.5, 30.0]) if status in {429, 503} else None)

    sink = FakeSink(
        decide, lambda answer: answer.status == 204 or (answer.status in stored_silently and chance.random() < 0.5)
    )
    calls = iter(range(10**9))
    run = Sending(
        sink,
        rows,
        60,
        Budget(in_flight, attempts=4),
        {"cancelled": lambda: bool(cancel_at) and next(calls) > cancel_at},
    ).go()
    assert all(count == 1 for count in run.fates.values())
    known, doubtful = set(run.fates), {n for part in run.doubts for n in run.row_numbers(part.chunk)}
    assert not known & doubtful
    if run.failure is None:
        assert known == set(range(100, 100 + rows))
    certain = {n for sent in run.sent if not sent.ambiguous for n in run.row_numbers(sent.chunk)}
    for text, times in sink.stored.items():
        number = json.loads(text)["n"]
        assert number in known | doubtful, f"row {number} is stored and nobody knows"
        assert times == 1 or number not in certain, f"row {number} is stored {times} times and called certain"


def test_a_sinks_surprise_is_not_swallowed() -> None:
    """An error that nobody foresaw reaches the caller."""

    def explode(rows: list[Any], nth: int) -> Answer:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Sending(FakeSink(explode)).go()


def test_nothing_to_send_is_no_request() -> None:
    """An empty pack."""
    sink = FakeSink()
    Sender((Door(sink),), "Custom-T", until=math.inf).send(b"", [], lambda sent: None, lambda part: None)
    assert sink.requests == 0
