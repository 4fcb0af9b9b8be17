"""Uploading a pack: frozen chunks, receipts, dead letters; nothing sent twice that is known to have been accepted."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import polars as pl
import pytest

from activities.deps import Destination
from contracts import Cancelled, JsonDict, Stop, TryAgain
from local.products.synthetic import Inventory, SyntheticStream
from sentinel import packing
from sentinel.ingestion import Answer, Budget, Door
from sentinel.ndjson import encode
from staging import Staging

INVENTORY = Inventory(assets=60, findings=120, big_output_share=0.0)
STREAMS = INVENTORY.streams()


def made_by(product: str, kind: str) -> SyntheticStream:
    """A stream of the inventory."""
    return STREAMS[product, kind]


SMALL = 4_096


def ids(bodies: list[bytes]) -> list[str]:
    return [row["AssetId"] for body in bodies for row in json.loads(body)]


@pytest.fixture
def staged(bench: Any) -> Callable[..., Any]:
    """A function that makes a run whose 60 devices are staged and transformed in three segments, each with a reject."""

    def make(**more: Any) -> Any:
        run = bench("device42", **{"body_limit_bytes": SMALL, **more})
        made = made_by("device42", "assets")
        for segment in range(3):
            # A reject before the rows, so that a row's place is not its record's.
            run.stage("devices", [b"[1]", *(made.record(i) for i in range(20 * segment, 20 * segment + 20))], segment)
            run.transform("devices", segment)
        return run

    return make


def log_of(run: Any) -> list[JsonDict]:
    found: list[JsonDict] = run.staging.log(run.names.receipts("devices", 0, 0, 2))
    return found


def dead_letters(run: Any) -> list[JsonDict]:
    found: list[JsonDict] = run.table(run.names.dead_letters("devices", 0, 0, 2)).to_pylist()
    return found


def test_rows_reach_the_workspace_once(staged: Any, ingestion: Any, emulator: Any) -> None:
    """Through the SDK to the emulator and back by KQL: the very rows, in bodies within the limit and nearly full."""
    run = staged(sink=ingestion)
    result = run.upload("devices", 0, 2)
    assert (result.rows, result.accepted, result.dead_lettered, result.possibly_repeated) == (60, 60, 0, 0)
    assert result.requests == result.chunks == len(run.sink.posted)
    assert all(len(body) <= SMALL for body in run.sink.posted)
    assert result.bytes_sent == sum(map(len, run.sink.posted))
    query = f"CAASM_Assets_CL | where EntitySnapshotId == '{run.run.run_id}' | summarize n = count() by AssetId"
    [table] = emulator.kql(query).json()["tables"]
    expected = pl.concat([run.rows("devices", n) for n in range(3)])["AssetId"].to_list()
    assert sorted(table["rows"]) == sorted([name, 1] for name in expected)


def test_a_second_call_sends_nothing_and_answers_alike(staged: Any) -> None:
    """The log's summary is the answer."""
    run = staged()
    first = run.upload("devices", 0, 2)
    posted = len(run.sink.posted)
    assert run.upload("devices", 0, 2) == first
    assert len(run.sink.posted) == posted
    pack = json.loads(run.staging.read(run.names.pack("devices", 0, 0, 2)))
    assert sum(rows for _, _, rows in pack["chunks"]) == 60
    assert sorted(line["part"] for line in log_of(run) if "part" in line) == [[a, b] for a, b, _ in pack["chunks"]]


def test_after_an_outage_only_the_rest_is_sent_with_the_same_bytes(staged: Any) -> None:
    """503 for some chunks: the others have receipts; the next call sends the rest as it was cut, and counts what may be there twice."""
    run = staged()
    run.deps = replace(run.deps, sending=Budget(in_flight=1, attempts=2, first_wait_s=0.001, longest_wait_s=0.01))
    run.sink.refuse = lambda _: Answer(503, "out") if len(run.sink.accepted) >= 2 else None
    with pytest.raises(TryAgain, match="503"):
        run.upload("devices", 0, 2)
    before, failed = list(run.sink.accepted), run.sink.posted[-1]
    run.sink.refuse = lambda _: None
    run.sink.posted.clear()
    result = run.upload("devices", 0, 2)
    assert run.sink.posted[0] == failed, "the chunk in doubt comes again byte for byte"
    assert not set(run.sink.posted) & set(before)
    assert Counter(ids(run.sink.accepted)) == Counter(set(ids(run.sink.accepted)))
    assert (result.rows, result.accepted) == (60, 60)
    assert result.possibly_repeated == len(json.loads(failed))
    assert result.requests == len(before) + 2 + len(run.sink.posted)


def test_a_throttled_chunk_is_in_no_doubt(staged: Any) -> None:
    """429 stores nothing, so nothing is counted as possibly repeated."""
    run = staged()
    run.sink.refuse = lambda _: Answer(429, "slow down", 0.011) if len(run.sink.accepted) >= 2 else None
    with pytest.raises(TryAgain) as caught:
        run.upload("devices", 0, 2)
    assert caught.value.retry_after_s > 0
    assert caught.value.progressed, "two chunks were taken"
    run.sink.refuse = lambda _: Answer(429, "slow down", 0.011)
    with pytest.raises(TryAgain) as caught:
        run.upload("devices", 0, 2)
    assert not caught.value.progressed
    run.sink.refuse = lambda _: None
    assert run.upload("devices", 0, 2).possibly_repeated == 0
    assert len(ids(run.sink.accepted)) == 60


class CrashError(BaseException):
    """The process ends here."""


class Dying:
    """Staging whose process ends at the n-th append to a log: before it is written, or just after."""

    def __init__(self, staging: Staging, at: int, *, written: bool) -> None:
        self._staging, self._at, self._written = staging, at, written
        self.appends = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._staging, name)

    def append(self, name: str, lines: list[JsonDict]) -> None:
        self.appends += 1
        if self.appends > self._at or (self.appends == self._at and not self._written):
            raise CrashError
        self._staging.append(name, lines)
        if self.appends == self._at:
            raise CrashError


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_crash_repeats_only_what_has_no_receipt_and_counts_it(at: int, written: bool, staged: Any) -> None:
    """Killed at any append: no row is lost, none with a receipt is sent again, and every row that is there twice is counted."""
    run = staged()
    alive = run.deps
    run.deps = replace(
        alive,
        staging=Dying(run.staging, at, written=written),
        sending=Budget(in_flight=1, attempts=2, first_wait_s=0.001, longest_wait_s=0.01),
    )
    with pytest.raises(CrashError):
        run.upload("devices", 0, 2)
    first = list(run.sink.accepted)
    settled = {tuple(line["part"]) for line in log_of(run) if "part" in line}
    run.deps = alive
    run.sink.accepted.clear()
    result = run.upload("devices", 0, 2)
    again = [line for line in log_of(run) if "part" in line and tuple(line["part"]) not in settled]
    assert len(run.sink.accepted) == len(again)
    assert result.accepted == 60
    counts = Counter(ids(first) + ids(run.sink.accepted))
    assert len(counts) == 60
    twice = sum(times > 1 for times in counts.values())
    assert twice <= result.possibly_repeated
    if at == 3:
        assert settled, "the crash came too early for this test to mean anything"


class Failing:
    """Staging that cannot append once, at the n-th time."""

    def __init__(self, staging: Staging, at: int) -> None:
        self._staging, self._at = staging, at
        self.appends = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._staging, name)

    def append(self, name: str, lines: list[JsonDict]) -> None:
        self.appends += 1
        if self.appends == self._at:
            raise TryAgain("blob storage answered 503 to append")
        self._staging.append(name, lines)


def test_receipts_that_could_not_be_written_are_not_forgotten(staged: Any) -> None:
    """Storage is out for one append: the accepted chunks are not sent again, or are counted as possibly repeated."""
    run = staged()
    alive = run.deps
    run.deps = replace(alive, staging=Failing(run.staging, 2))
    with pytest.raises(TryAgain, match="append"):
        run.upload("devices", 0, 2)
    run.deps = alive
    result = run.upload("devices", 0, 2)
    twice = sum(times > 1 for times in Counter(ids(run.sink.accepted)).values())
    assert result.accepted == 60
    assert twice <= result.possibly_repeated


@pytest.mark.parametrize("known", [True, False], ids=["when it was staged", "later"])
def test_a_row_too_long_for_any_request_is_a_dead_letter(staged: Any, *, known: bool) -> None:
    """Its row, its raw record and the reason; its neighbours arrive."""
    run = staged()
    lines = b"".join(encode(run.rows("devices", n).drop("_record")) for n in range(3)).splitlines()
    limit = sorted(map(len, lines))[40] + 2
    if known:
        run = staged(body_limit_bytes=limit)
    run.budget(body_limit_bytes=limit)
    result = run.upload("devices", 0, 2)
    letters = dead_letters(run)
    assert 0 < result.dead_lettered < 60
    assert (result.accepted, len(letters)) == (60 - result.dead_lettered, result.dead_lettered)
    for letter in letters:
        assert (letter["status"], letter["destination"]) == (413, "")
        assert f"a row of {len(letter['row'])} bytes fits into no request of {limit}" in letter["reason"]
        row, record = json.loads(letter["row"]), json.loads(letter["record"])
        assert row["EntityOriginalId"] == str(record["device_id"])
        made = made_by("device42", "assets")
        assert letter["record"] in {made.record(i) for i in range(20 * letter["segment"], 20 * letter["segment"] + 20)}
    assert sorted(ids(run.sink.accepted) + [json.loads(letter["row"])["AssetId"] for letter in letters]) == sorted(
        pl.concat([run.rows("devices", n) for n in range(3)])["AssetId"].to_list()
    )
    summary = run.staging.summary(run.names.receipts("devices", 0, 0, 2))
    assert sum(summary["reasons"].values()) <= result.dead_lettered


@pytest.mark.parametrize("status", [400, 413])
def test_a_row_that_is_refused_is_found_by_halving_and_set_aside_alone(status: int, staged: Any) -> None:
    """The chunk is halved down to the row; no neighbour is refused or repeated."""
    run = staged()
    bad = [run.rows("devices", n)["AssetId"][4 * n + 1] for n in range(3)]

    def refuse(body: bytes) -> Answer | None:
        return Answer(status, "a row is at fault") if any(name in ids([body]) for name in bad) else None

    run.sink.refuse = refuse
    result = run.upload("devices", 0, 2)
    assert (result.accepted, result.dead_lettered, result.possibly_repeated) == (57, 3, 0)
    letters = dead_letters(run)
    assert [json.loads(letter["row"])["AssetId"] for letter in letters] == bad
    assert [letter["segment"] for letter in letters] == [0, 1, 2]
    assert {letter["status"] for letter in letters} == {status}
    assert all("a row is at fault" in letter["reason"] for letter in letters)
    made = made_by("device42", "assets")
    assert [letter["record"] for letter in letters] == [made.record(20 * n + 4 * n + 1) for n in range(3)]
    accepted = Counter(ids(run.sink.accepted))
    assert len(accepted) == 57
    assert set(accepted.values()) == {1}


def test_a_body_that_the_service_calls_too_long_is_halved(staged: Any, ingestion: Any, emulator: Any) -> None:
    """413 from the emulator, twice: two halves instead, and every row once."""
    run = staged(sink=ingestion)
    emulator.control("faults", {"fail_next": ["413", "413"]})
    result = run.upload("devices", 0, 2)
    assert (result.accepted, result.dead_lettered, result.possibly_repeated) == (60, 0, 0)
    query = (
        f"CAASM_Assets_CL | where EntitySnapshotId == '{run.run.run_id}' | summarize n = count(), k = dcount(AssetId)"
    )
    [table] = emulator.kql(query).json()["tables"]
    assert table["rows"] == [[60, 60]]


def test_answers_that_are_lost_are_counted_as_possibly_repeated(staged: Any, ingestion: Any, emulator: Any) -> None:
    """The emulator stores the rows and drops the connection: the retry makes duplicates, and the result says how many at most."""
    run = staged(sink=ingestion)
    run.deps = replace(run.deps, sending=Budget(in_flight=2, attempts=8, first_wait_s=0.001, longest_wait_s=0.01))
    emulator.control("faults", {"fail_next": ["drop-after", "204", "drop-before", "429", "500"]})
    result = run.upload("devices", 0, 2)
    query = (
        f"CAASM_Assets_CL | where EntitySnapshotId == '{run.run.run_id}' | summarize n = count(), k = dcount(AssetId)"
    )
    [table] = emulator.kql(query).json()["tables"]
    rows, different = table["rows"][0]
    assert different == 60
    assert 60 < rows <= 60 + result.possibly_repeated
    assert result.accepted == 60


def test_a_dcr_that_refuses_every_row_stops(staged: Any) -> None:
    """It is not the rows: compare the stream; a row that was ever accepted says otherwise."""
    run = staged()
    run.sink.refuse = lambda _: Answer(400, "no such column")
    with pytest.raises(Stop, match=r"no such column.*compare its stream declaration"):
        run.upload("devices", 0, 2)
    assert len(run.sink.posted) < 120
    assert run.staging.summary(run.names.receipts("devices", 0, 0, 2)) == {}


@pytest.mark.parametrize("status", [403, 404])
def test_a_refusal_of_the_identity_stops_with_its_remedy(status: int, staged: Any) -> None:
    """At once; the next call sends everything."""
    run = staged()
    run.sink.refuse = lambda _: Answer(status, "denied")
    remedy = {403: "Monitoring Metrics Publisher", 404: "immutable id"}[status]
    with pytest.raises(Stop, match=f"{status} from the DCR: denied: .*{remedy}"):
        run.upload("devices", 0, 2)
    assert len(run.sink.posted) <= 2
    run.sink.refuse = lambda _: None
    assert run.upload("devices", 0, 2).accepted == 60


def test_rows_that_an_older_version_staged_stop_with_a_remedy(staged: Any) -> None:
    """They have another name: it is not that somebody deleted them."""
    run = staged()
    name = run.names.rows("devices", 0, 1)
    run.staging.create(name.removesuffix("arrows") + "parquet", b"", {})
    assert run.upload("devices", 0, 0).accepted == 20
    run.staging.delete(name)
    with pytest.raises(Stop, match=r"older version .*\"fresh\": true"):
        run.upload("devices", 1, 2)


def test_a_pack_whose_rows_give_other_bytes_stops(staged: Any) -> None:
    """Another version of the app, half-way: the receipts would not fit."""
    run = staged()
    run.sink.refuse = lambda _: Answer(429, "", 0.011)
    with pytest.raises(TryAgain):
        run.upload("devices", 0, 2)
    run.sink.refuse = lambda _: None
    name = run.names.pack("devices", 0, 0, 2)
    run.staging.put_json(name, {**run.staging.find_json(name), "digests": ["0" * 32]}, {})
    with pytest.raises(Stop, match="frozen with other bytes"):
        run.upload("devices", 0, 2)
    assert run.sink.accepted == []


@pytest.mark.parametrize("limit", [1536, 4096])
@pytest.mark.parametrize("later", [False, True], ids=["then-raw", "then-wire"])
@pytest.mark.parametrize("mode", [False, True], ids=["raw", "wire"])
def test_a_frozen_pack_keeps_its_chunks_whatever_mode_and_limit_are_set_later(
    staged: Any, limit: int, *, mode: bool, later: bool
) -> None:
    """The second try sends the very bodies that the first one tried, and not one row less."""
    run = staged(compressed=mode, body_limit_bytes=2048)
    run.sink.refuse = lambda _: Answer(429, "", 0.011) if len(run.sink.posted) > 2 else None
    with pytest.raises(TryAgain):
        run.upload("devices", 0, 2)
    tried = list(run.sink.posted)
    run.sink.refuse = lambda _: None
    run.budget(compressed=later, body_limit_bytes=limit)
    assert run.upload("devices", 0, 2).accepted == 60
    assert set(tried) <= set(run.sink.accepted)
    assert set(Counter(ids(run.sink.accepted)).values()) == {1}


def test_wire_mode_fills_the_compressed_body(staged: Any) -> None:
    """Fewer requests for the same rows, none over the limit as it goes over the wire."""
    raw, wire = staged(), staged(compressed=True)
    assert raw.upload("devices", 0, 2).accepted == wire.upload("devices", 0, 2).accepted == 60
    assert sorted(ids(raw.sink.accepted)) == sorted(ids(wire.sink.accepted))
    assert all(len(body) <= SMALL for body in wire.sink.wired)
    assert 3 * len(wire.sink.posted) <= len(raw.sink.posted)
    assert max(map(len, wire.sink.posted)) > SMALL


def test_the_chunks_of_a_pack_are_shared_out_among_the_dcrs_and_stay_with_theirs(staged: Any) -> None:
    """Both DCRs get about half; a body that is tried again goes to the DCR that it was tried at, halves included."""
    run = staged()
    first, second = run.sink, type(run.sink)(run.sink.sink)
    place = run.deps.destinations[0]
    doors = (Door(first, name="DCR a"), Door(second, name="DCR b"))
    run.deps = replace(run.deps, destinations=(replace(place, doors=doors),))
    for sink in (first, second):
        sink.refuse = lambda body, sink=sink: Answer(429, "", 0.011) if len(sink.posted) > 3 else None
    with pytest.raises(TryAgain, match=r"DCR [ab]"):
        run.upload("devices", 0, 2)
    tried = [set(sink.posted) for sink in (first, second)]
    for sink in (first, second):
        sink.refuse = lambda body: Answer(413, "too long") if len(ids([body])) > 1 else None
    assert run.upload("devices", 0, 2).accepted == 60
    assert sorted(ids([*first.accepted, *second.accepted])) == sorted({*ids(first.accepted), *ids(second.accepted)})
    assert min(len(ids(first.accepted)), len(ids(second.accepted))) > 15
    for mine, other in ((tried[0], second), (tried[1], first)):
        assert not mine & set(other.posted)


def test_two_uploads_at_once_lose_nothing_and_count_what_both_sent(staged: Any) -> None:
    """Both see each other's tries: what was accepted twice is counted, and both answers have the same rows."""
    run = staged()
    both = threading.Barrier(2)
    first: set[int] = set()

    def together(_: bytes) -> None:
        if threading.get_ident() not in first and len(first) < 2:
            first.add(threading.get_ident())
            both.wait(10)

    run.deps = replace(run.deps, sending=Budget(in_flight=1, attempts=2, first_wait_s=0.001, longest_wait_s=0.01))
    run.sink.refuse = together
    results: list[Any] = []
    copies = [threading.Thread(target=lambda: results.append(run.upload("devices", 0, 2))) for _ in range(2)]
    for copy in copies:
        copy.start()
    for copy in copies:
        copy.join(30)
    assert [(result.rows, result.accepted, result.dead_lettered) for result in results] == [(60, 60, 0)] * 2
    twice = sum(times > 1 for times in Counter(ids(run.sink.accepted)).values())
    assert twice > 0
    assert max(result.possibly_repeated for result in results) >= twice
    summary = run.staging.summary(run.names.receipts("devices", 0, 0, 2))
    assert summary["accepted"] == 60


def test_a_pack_is_cut_at_a_desk_and_sent_without_one(staged: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is transformed while a pack is cut and compressed; what is on its way keeps nobody from working."""
    run = staged()
    free: dict[str, set[bool]] = {"cutting": set(), "sending": set()}

    def look(what: str) -> None:
        got = run.deps.desks.acquire(blocking=False)
        if got:
            run.deps.desks.release()
        free[what].add(got)

    compress = packing.compress
    monkeypatch.setattr(packing, "compress", lambda content: (look("cutting"), compress(content))[1])
    run.deps = replace(run.deps, sending=Budget(in_flight=1, attempts=2, first_wait_s=0.001, longest_wait_s=0.01))
    run.sink.refuse = lambda _: look("sending")
    assert run.upload("devices", 0, 2).accepted == 60
    assert free == {"cutting": {False}, "sending": {True}}


def test_cancelling_between_requests_keeps_the_receipts(staged: Any) -> None:
    """What was accepted has its receipt; nothing is sent after the marker was seen."""
    run = staged()
    ticks = iter(range(0, 100_000, 2))
    run.deps = replace(
        run.deps,
        clock=lambda: float(next(ticks)),
        sending=Budget(in_flight=1, attempts=2, first_wait_s=0.001, longest_wait_s=0.01),
    )
    run.budget(upload_s=1e9)

    def cancelled(_: bytes) -> None:
        if len(run.sink.posted) == 2:
            run.staging.put_json(run.names.cancel, {}, {})

    run.sink.refuse = cancelled
    with pytest.raises(Cancelled):
        run.upload("devices", 0, 2)
    assert len(run.sink.posted) == 2
    assert [line["status"] for line in log_of(run) if "part" in line] == [204, 204]
    assert [line["doubts"] for line in log_of(run) if "end" in line] == [[]]


def test_time_that_is_used_up_leaves_the_rest_to_the_next_call(staged: Any) -> None:
    """The clock of the dependencies decides, for the sender too."""
    run = staged(upload_s=5.0)
    ticks = iter(range(100_000))
    run.deps = replace(run.deps, clock=lambda: float(next(ticks)))
    calls, result = 0, None
    while result is None:
        calls += 1
        assert calls < 60
        with suppress(TryAgain):
            result = run.upload("devices", 0, 2)
    assert calls > 1
    assert result.accepted == 60
    assert result.possibly_repeated == 0
    assert set(Counter(ids(run.sink.accepted)).values()) == {1}


def test_every_destination_gets_every_row_and_keeps_its_own_receipts(staged: Any) -> None:
    """One is out: the other is not sent again to; a dead letter says where it did not go."""
    run = staged()
    recorded = type(run.sink)
    other = recorded(run.sink.sink)
    bad = run.rows("devices", 1)["AssetId"][7]
    streams = run.deps.destinations[0].streams
    run.deps = replace(run.deps, destinations=(*run.deps.destinations, Destination("second", (Door(other),), streams)))
    other.refuse = lambda _: Answer(429, "", 0.011)
    with pytest.raises(TryAgain):
        run.upload("devices", 0, 2)
    assert len(ids(run.sink.accepted)) == 60
    other.refuse = lambda body: Answer(400, "bad row") if bad in ids([body]) else None
    result = run.upload("devices", 0, 2)
    assert len(ids(run.sink.accepted)) == 60
    assert sorted([*ids(other.accepted), bad]) == sorted(ids(run.sink.accepted))
    assert (result.rows, result.accepted, result.dead_lettered) == (60, 59, 1)
    assert [(letter["destination"], letter["segment"]) for letter in dead_letters(run)] == [("second", 1)]
