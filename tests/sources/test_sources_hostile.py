"""A source that breaks every promise: the walk stays bounded, ends with a reason where data is missing, and gives no record twice."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from contracts import JsonDict, Stop, TryAgain
from sources.authentication import Headers
from sources.model import Paging, Source, Stream
from sources.paging import ExportJob, OffsetLimit, PageNumber
from sources.reader import Ended, Page, Paused, Reader

SECRET = "s3cr3t-that-nobody-may-see"


def declared(paging: Paging) -> Source:
    """A source of one stream, `records`, with one secret in a header."""
    stream = Stream("records", "CAASM_Assets_CL", paging)
    return Source("acme", "Acme", "Acme", "", ("api_key",), Headers({"Authorization": "Bearer {api_key}"}), (stream,))


NUMBERS = PageNumber("/records", 5)
ENVELOPED = PageNumber("/records", 5, records_key="items")
OFFSETS = OffsetLimit("/records", 5, records_key="items", total_key="total")
JOB = ExportJob("/export", {"chunk_size": 5}, poll_s=2.0)


def encoded(values: Any) -> bytes:
    return json.dumps(values, separators=(",", ":")).encode()


def numbered(first: int, count: int) -> list[JsonDict]:
    return [{"id": n} for n in range(first, first + count)]


@pytest.fixture
def walked(listen: Any, reader_of: Any) -> Callable[..., tuple[list[int], list[Page], Ended, Any]]:
    """A function that walks all lanes against an `answer` and gives the ids, the pages set aside, the last end, the server."""

    def run(paging: Paging, answer: Callable[[Any], Any], *, lanes: int = 1, most_requests: int = 200) -> Any:
        def bounded(asked: Any) -> Any:
            assert len(server.asked) <= most_requests, "the walk does not end"
            return answer(asked)

        server = listen(bounded)
        source = declared(paging)
        reader: Reader = reader_of(source, server.url, secrets={"api_key": SECRET}, attempts=3)
        answers: list[bytes] = []
        while (probe := paging.probe(lanes, answers)) is not None:
            answers.append(reader.fetch(probe)[1])
        start = paging.start(answers, lanes, None)
        ids: list[int] = []
        aside: list[Page] = []
        ended = None
        for cursor in start.cursors:
            for item in _through_pauses(reader, source.streams[0], cursor):
                if isinstance(item, Ended):
                    ended = item if ended is None or item.problem else ended
                elif item.problem:
                    assert not item.records
                    aside.append(item)
                else:
                    ids += [json.loads(bytes(record))["id"] for record in item.records]
        assert ended is not None
        assert all(asked.headers["Authorization"] == f"Bearer {SECRET}" for asked in server.asked)
        return ids, aside, ended, server

    return run


def _through_pauses(reader: Reader, stream: Stream, cursor: JsonDict) -> Iterator[Page | Ended]:
    for _ in range(50):
        for item in reader.walk(stream, cursor):
            if isinstance(item, Paused):
                cursor = item.cursor
                break
            yield item
            if isinstance(item, Ended):
                return
    raise AssertionError("the source is never ready")


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("paging", [NUMBERS, ENVELOPED, OFFSETS], ids=["numbers", "enveloped", "offsets"])
def test_a_page_parameter_that_is_ignored_ends_the_walk_with_a_reason(
    paging: Any, lanes: int, walked: Any, reply: Any
) -> None:
    """The same records for ever, with a stamp that differs each time: each lane takes them once and ends before a dozen requests."""

    def answer(asked: Any) -> Any:
        items = numbered(0, 5)
        if paging is NUMBERS:
            return reply(encoded(items))
        return reply(encoded({"stamp": asked.query, "total": 5, "items": items}))

    ids, aside, ended, server = walked(paging, answer, lanes=lanes)
    assert "does not follow the page parameter" in ended.problem
    assert sorted(set(ids)) == list(range(5))
    walks = 1 if paging is OFFSETS else lanes
    assert len(ids) == 5 * walks
    assert aside
    assert len(server.asked) <= 12 * walks + 1


@pytest.mark.parametrize("lanes", [1, 2, 3, 7])
@pytest.mark.parametrize("server_size", [1, 3, 4, 8, 50])
def test_a_server_with_a_page_size_of_its_own_gives_each_record_once(
    server_size: int, lanes: int, walked: Any, reply: Any
) -> None:
    """Smaller or larger than what was asked for, in any number of lanes."""

    def answer(asked: Any) -> Any:
        offset = int(asked.query["offset"])
        return reply(encoded({"total": 37, "items": numbered(offset, max(0, min(server_size, 37 - offset)))}))

    ids, _, ended, _ = walked(OFFSETS, answer, lanes=lanes)
    assert sorted(ids) == list(range(37))
    assert ended.problem == ""


@pytest.mark.parametrize("total", [0, 1, 12, 1_000_000, -3, None, "37", True, 3.5], ids=str)
@pytest.mark.parametrize("lanes", [1, 2, 7])
def test_a_total_that_lies_loses_nothing(total: Any, lanes: int, walked: Any, reply: Any) -> None:
    """Too small, too large, negative, absent, no number: the walk goes to the empty page."""

    def answer(asked: Any) -> Any:
        offset = int(asked.query["offset"])
        items = numbered(offset, max(0, min(5, int(asked.query["limit"]), 37 - offset)))
        return reply(encoded({"total": total, "items": items}))

    ids, _, ended, _ = walked(OFFSETS, answer, lanes=lanes)
    assert sorted(ids) == list(range(37))
    assert ended.problem == ""


@pytest.mark.parametrize("step", [-2, 2])
def test_a_total_that_moves_does_not_bend_the_walk(step: int, walked: Any, reply: Any) -> None:
    """It only cut the lanes at the start."""
    seen = [40]

    def answer(asked: Any) -> Any:
        seen[0] += step
        offset = int(asked.query["offset"])
        items = numbered(offset, max(0, min(5, int(asked.query["limit"]), 37 - offset)))
        return reply(encoded({"total": seen[0], "items": items}))

    ids, _, _, _ = walked(OFFSETS, answer, lanes=3)
    assert sorted(ids) == list(range(37))


@pytest.mark.parametrize("paging", [NUMBERS, ENVELOPED], ids=["bare", "enveloped"])
def test_a_short_page_is_no_end_and_an_empty_one_is(paging: Any, walked: Any, reply: Any) -> None:
    """Page sizes 5, 2, 5, 1, 0."""
    sizes = [5, 2, 5, 1]

    def answer(asked: Any) -> Any:
        page = int(asked.query["page"])
        items = numbered(sum(sizes[:page]), sizes[page]) if page < len(sizes) else []
        return reply(encoded(items if paging is NUMBERS else {"items": items}))

    ids, _, ended, server = walked(paging, answer)
    assert ids == list(range(13))
    assert ended.problem == ""
    assert len(server.asked) == 5


def test_204_is_the_end(walked: Any, reply: Any) -> None:
    """No content behind the last page, as Qualys answers."""

    def answer(asked: Any) -> Any:
        page = int(asked.query["page"])
        return reply(encoded(numbered(page * 5, 5))) if page < 3 else reply(status=204)

    ids, _, ended, _ = walked(NUMBERS, answer)
    assert ids == list(range(15))
    assert ended.problem == ""


@pytest.mark.parametrize(
    ("paging", "broken"),
    [
        (NUMBERS, b""),
        (NUMBERS, b"null"),
        (NUMBERS, b"  \n"),
        (NUMBERS, b"<html><body>Please log in</body></html>"),
        (NUMBERS, b'[{"id":5},{"id":6'),
        (NUMBERS, b'{"error":"out of memory"}'),
        (NUMBERS, b"[" * 100_000),
        (NUMBERS, b'[{"id":"\xff\xfe"'),
        (NUMBERS, b"\xff\xfe"),
        (OFFSETS, b""),
        (OFFSETS, b"null"),
        (OFFSETS, b"[]"),
        (OFFSETS, b'{"total":15}'),
        (OFFSETS, b'{"total":15,"items":null}'),
        (OFFSETS, b'{"total":15,"items":{}}'),
        (OFFSETS, b'{"total":15,"items":[{"id":5}'),
    ],
)
def test_a_page_that_stays_broken_is_set_aside_and_the_rest_is_walked(
    paging: Any, broken: bytes, walked: Any, reply: Any
) -> None:
    """With status 200, three times: it is named with its body, its neighbours come, and nothing takes it for the end of the data."""

    def answer(asked: Any) -> Any:
        offset = int(asked.query["offset"]) if paging is OFFSETS else 5 * int(asked.query["page"])
        if offset == 5:
            return reply(broken)
        items = numbered(offset, max(0, min(5, 15 - offset)))
        return reply(encoded(items if paging is NUMBERS else {"total": 15, "items": items}))

    ids, aside, ended, server = walked(paging, answer)
    assert ids == [*range(5), *range(10, 15)]
    [page] = aside
    assert page.number == (5 if paging is OFFSETS else 1)
    assert page.body == broken
    assert page.problem
    assert ended.problem == ""
    assert len(server.asked) == 3 + 3


@pytest.mark.parametrize("paging", [NUMBERS, OFFSETS], ids=["numbers", "offsets"])
def test_a_source_that_turns_into_a_login_page_ends_the_walk_with_a_reason(
    paging: Any, walked: Any, reply: Any
) -> None:
    """Every page from some point on is HTML with status 200: a few tries, then the end, not for ever."""

    def answer(asked: Any) -> Any:
        offset = int(asked.query["offset"]) if paging is OFFSETS else 5 * int(asked.query["page"])
        if offset >= 10:
            return reply(b"<html>")
        return reply(encoded(numbered(offset, 5) if paging is NUMBERS else {"total": 99, "items": numbered(offset, 5)}))

    ids, aside, ended, server = walked(paging, answer)
    assert ids == list(range(10))
    assert len(aside) == 3
    assert "cannot be read" in ended.problem
    assert len(server.asked) == 2 + 9


def test_a_redirect_is_not_followed_and_nothing_is_sent_there(walked: Any, listen: Any, reply: Any) -> None:
    """Another host would get the credentials; the remedy names the setting."""
    elsewhere = listen(lambda _: reply(b"[]"))
    with pytest.raises(Stop, match=r"307.*not followed.*ACME_URL"):
        walked(NUMBERS, lambda _: reply(status=307, headers={"Location": elsewhere.url + "/records"}))
    assert elsewhere.asked == []


def test_an_answer_over_the_limit_is_refused_without_being_read_whole(listen: Any, reader_of: Any, reply: Any) -> None:
    """Plain, compressed, or in chunks behind a length that does not hold: a page that would fill the memory is Stop, with what to do."""
    big = b"[" + b" " * 3_000_000 + b"]"
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(big), big)
    bodies = {
        "/plain": reply(big),
        "/gzip": reply(gzip.compress(big), headers={"Content-Encoding": "gzip"}),
        "/chunks": reply(chunks, headers={"Content-Length": "5", "Transfer-Encoding": "chunked"}, sent=2_000_000),
    }
    server = listen(lambda asked: bodies[asked.path])
    for path in bodies:
        reader = reader_of(declared(NUMBERS), server.url, secrets={"api_key": SECRET}, page_limit_bytes=1_000_000)
        with pytest.raises(Stop, match="more than 1000000 bytes: set PAGE_RECORDS"):
            list(reader.walk(Stream("records", "CAASM_Assets_CL", PageNumber(path, 5)), {"page": 0, "step": 1}))
    assert len(server.asked) == len(bodies)


def test_gzip_answers_are_read_up_to_the_limit(walked: Any, reply: Any) -> None:
    """Asked for, and decompressed; a page of exactly the limit passes."""

    def answer(asked: Any) -> Any:
        assert asked.headers["Accept-Encoding"] == "gzip"
        page = int(asked.query["page"])
        items = numbered(page * 500, 500) if page < 3 else []
        return reply(gzip.compress(encoded(items)), headers={"Content-Encoding": "gzip"})

    ids, _, ended, _ = walked(NUMBERS, answer)
    assert ids == list(range(1500))
    assert ended.problem == ""


@pytest.mark.parametrize("compressed", [False, True])
def test_a_body_that_breaks_off_is_fetched_again_whole(compressed: bool, walked: Any, reply: Any) -> None:
    """Half of the bytes that were promised are no page; the next try has all."""
    drops = [True, True]

    def answer(asked: Any) -> Any:
        page = int(asked.query["page"])
        body = encoded(numbered(page * 5, 5) if page < 2 else [])
        headers = {"Content-Encoding": "gzip"} if compressed else {}
        body = gzip.compress(body) if compressed else body
        if page == 1 and drops:
            drops.pop()
            return reply(body, headers=headers, sent=len(body) // 2)
        return reply(body, headers=headers)

    ids, _, ended, server = walked(NUMBERS, answer)
    assert ids == list(range(10))
    assert ended.problem == ""
    assert len(server.asked) == 5


# ------------------------------------------------------------------------------------------------ export jobs


class Job:
    """An export job's server: what each status says, what each chunk is."""

    def __init__(self, reply: Any, statuses: list[JsonDict], chunks: dict[int, bytes], adopt: bool = False) -> None:
        self.reply, self.statuses, self.chunks, self.adopt = reply, statuses, chunks, adopt
        self.fetched: list[int] = []
        self.polls = 0

    def __call__(self, asked: Any) -> Any:
        if asked.method == "POST" and asked.path == "/export":
            answer = {"active_job_id": "j1", "failure_reason": "busy"} if self.adopt else {"export_uuid": "j1"}
            return self.reply(encoded(answer), status=409 if self.adopt else 200)
        if asked.path == "/export/j1/status":
            self.polls += 1
            return self.reply(encoded(self.statuses[min(self.polls, len(self.statuses)) - 1]))
        found = re.fullmatch(r"/export/j1/chunks/(\d+)", asked.path)
        assert found, asked.path
        number = int(found.group(1))
        self.fetched.append(number)
        if number not in self.chunks:
            return self.reply(b'{"error":"no such chunk"}', status=404)
        return self.reply(self.chunks[number])


def status(state: str, available: Any, **more: Any) -> JsonDict:
    return {"status": state, "chunks_available": available, **more}


def test_a_running_job_is_adopted_and_a_growing_list_out_of_order_is_fetched_once(walked: Any, reply: Any) -> None:
    """409 names the job; chunks may begin at 0, be empty or null, come in any order and more at each poll."""
    chunks = {0: encoded(numbered(0, 5)), 1: b"null", 2: b"[]", 3: b"", 7: encoded(numbered(5, 5))}
    statuses = [
        status("QUEUED", []),
        status("PROCESSING", [3, 1]),
        status("PROCESSING", [3, 1, 0]),
        status("processing", None),
        status("FINISHED", [7, 3, 2, 1, 0], chunks_failed=None),
    ]
    job = Job(reply, statuses, chunks, adopt=True)
    ids, aside, ended, _ = walked(JOB, job)
    assert ids == list(range(10))
    assert (aside, ended.problem) == ([], "")
    assert sorted(job.fetched) == [0, 1, 2, 3, 7]


@pytest.mark.parametrize("state", ["ERROR", "CANCELLED"])
def test_a_job_that_ends_badly_gives_its_chunks_and_a_reason(state: str, walked: Any, reply: Any) -> None:
    """What was done by then comes, also what the last status added."""
    chunks = {n: encoded(numbered(5 * n, 5)) for n in range(3)}
    job = Job(reply, [status("PROCESSING", [0, 1]), status(state, [0, 1, 2])], chunks)
    ids, _, ended, _ = walked(JOB, job)
    assert ids == list(range(15))
    assert f"ended as {state} after 3 chunks" in ended.problem


@pytest.mark.parametrize("broken", [b"<html>", b'[{"id":1},', b'{"message":"chunk failed"}', None])
def test_a_chunk_that_stays_broken_is_set_aside(broken: bytes | None, walked: Any, reply: Any) -> None:
    """Unreadable, or not there at all (404): named, never silently dropped, and the others come."""
    chunks = {1: encoded(numbered(0, 5)), 3: encoded(numbered(5, 5))} | ({2: broken} if broken else {})
    job = Job(reply, [status("FINISHED", [1, 2, 3])], chunks)
    ids, aside, ended, _ = walked(JOB, job)
    assert ids == list(range(10))
    assert [page.number for page in aside] == [2]
    assert ended.problem == ""
    assert job.fetched.count(2) == 3


def test_chunks_that_the_job_calls_failed_are_tried_and_set_aside(walked: Any, reply: Any) -> None:
    """A failed chunk that is there after all is taken; one that is not makes the run incomplete."""
    chunks = {1: encoded(numbered(0, 5)), 2: encoded(numbered(5, 5))}
    job = Job(reply, [status("FINISHED", [1], chunks_failed=[2, 3])], chunks)
    ids, aside, _, _ = walked(JOB, job)
    assert ids == list(range(10))
    assert [page.number for page in aside] == [3]


@pytest.mark.parametrize(
    "answer", [b"<html>", b"[]", b"{}", b"null", b'{"export_uuid":7}', b'{"export_uuid":null}', b"\xff", b""]
)
def test_a_job_that_cannot_be_created_ends_with_a_reason(answer: bytes, walked: Any, reply: Any) -> None:
    """The answer to the creation is not what it should be."""
    ids, aside, ended, server = walked(JOB, lambda _: reply(answer))
    assert (ids, aside) == ([], [])
    assert "the export job cannot be read" in ended.problem
    assert len(server.asked) == 3


def test_a_server_that_is_down_is_no_end(walked: Any, reply: Any) -> None:
    """500 for ever is TryAgain: what is behind it is not known."""
    with pytest.raises(TryAgain, match="answered 500"):
        walked(NUMBERS, lambda _: reply(status=500))


def test_a_lane_that_stops_before_its_end_cancels_its_job() -> None:
    """The product's limit of running exports is not used up; a job that is not there needs nothing."""
    assert JOB.close({"since": None}) is None
    request = JOB.close({"job": "j1", "state": "PROCESSING", "done": []})
    assert request is not None
    assert (request.method, request.path) == ("POST", "/export/j1/cancel")
    assert JOB.close({"job": "j1", "state": "FINISHED"}) is None
