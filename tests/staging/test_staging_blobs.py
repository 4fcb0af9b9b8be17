"""Staging against a real blob service: written once, appended by several, swapped only if unchanged, and errors that say what to do."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ServiceRequestError
from azure.core.pipeline.transport import RequestsTransport
from azure.storage.blob import BlobServiceClient, ContainerClient

from contracts import CaasmError, Stop, TryAgain
from local.azurite import Azurite
from staging import Names, Staging, storage_errors, watermark_name
from transport import transport


def at_once(count: int, work: Any) -> list[Any]:
    """What `work(n)` gives in so many threads that begin together."""
    both = threading.Barrier(count)
    found: list[Any] = [None] * count

    def one(n: int) -> None:
        both.wait(10)
        try:
            found[n] = work(n)
        except CaasmError as error:
            found[n] = error

    threads = [threading.Thread(target=one, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return found


def test_a_blob_is_written_once_and_the_summary_is_the_first_s(staging: Staging) -> None:
    """The second writer gets the summary of what is there."""
    assert staging.summary("a") is None
    assert staging.create("a", b"one", {"n": 1}) == {"n": 1}
    assert staging.create("a", b"two", {"n": 2}) == {"n": 1}
    assert staging.read("a") == b"one"
    assert staging.summary("a") == {"n": 1}


def test_blobs_are_read_ahead_in_order(staging: Staging) -> None:
    """One after the other as they are asked for; one that is gone stops whoever comes to it, and not before."""
    for name in "abc":
        staging.create(name, name.encode(), {})
    assert [*staging.read_ahead([])] == []
    assert [*staging.read_ahead(iter("abc"))] == [b"a", b"b", b"c"]
    reading = staging.read_ahead(["a", "gone", "b"])
    assert next(reading) == b"a"
    with pytest.raises(Stop, match="gone"):
        next(reading)


def test_what_is_read_soon_is_kept_for_one_reader(staging: Staging) -> None:
    """As much as may be: the newest, and only of whoever wrote the blob. Others, and later readers, read what is there."""
    container = staging._container
    keeping = Staging(container, keep_bytes=5)
    for name in "abc":
        keeping.create(name, name.encode() * 2, {}, read_soon=True)
        container.upload_blob(name, b"there", overwrite=True)
    assert [keeping.read(name) for name in "abc"] == [b"there", b"bb", b"cc"]
    assert keeping.read("b") == b"there"
    keeping.create("b", b"lost", {}, read_soon=True)
    keeping.create("larger", b"larger", {}, read_soon=True)
    keeping.create("later", b"late", {})
    for name in ("larger", "later"):
        container.upload_blob(name, b"there", overwrite=True)
    assert [keeping.read(name) for name in ("b", "larger", "later")] == [b"there"] * 3
    for _ in range(4):
        # Written again after somebody deleted it: it takes its room once.
        keeping.create("again", b"again", {}, read_soon=True)
        container.delete_blob("again")
    assert keeping.read("again") == b"again"
    keeping.create("d", b"dd", {}, read_soon=True)
    keeping.forget()
    container.upload_blob("d", b"there", overwrite=True)
    assert keeping.read("d") == b"there"


def test_of_several_writers_at_once_one_wins_and_all_answer_alike(staging: Staging) -> None:
    """Content and summary are of the same one."""
    answers = at_once(6, lambda n: staging.create("a", b"%d" % n, {"n": n}))
    assert len({answer["n"] for answer in answers}) == 1
    assert staging.read("a") == b"%d" % answers[0]["n"]


def test_summaries_are_any_json(staging: Staging) -> None:
    """Quotes, line breaks, other scripts, emoji: metadata is ASCII on the wire."""
    summary = {"reason": 'a "quoted"\r\n line, ünïcode, 漢字, 😀, \x00\x7f', "cursor": {"done": [[1, 2]]}}
    staging.create("a", b"", summary)
    assert staging.summary("a") == summary
    assert [blob.summary for blob in staging.list("")] == [summary]


@pytest.mark.parametrize(
    "summary",
    [
        {"cursor": {"job": "j", "done": [[3 * n, 3 * n + 1] for n in range(5_000)]}, "records": 1},
        {"reasons": {f"{n}: " + "\N{PILE OF POO}" * 300: n for n in range(5)}},
    ],
    ids=["5,000 gaps", "reasons in escaped letters"],
)
def test_a_summary_of_any_size_comes_back(staging: Staging, summary: dict[str, Any]) -> None:
    """What metadata does not hold is kept beside the blob: the writer, the second writer, a look and a listing all get the whole of it."""
    assert staging.create("a", b"one", summary) == summary
    assert staging.create("a", b"two", {**summary, "n": 2}) == summary
    assert staging.summary("a") == summary
    assert [blob.summary for blob in staging.list("") if blob.name == "a"] == [summary]
    assert [blob.summary for blob in staging.list("") if blob.name != "a"] == [{}, {}]
    staging.append("log", [{"n": 1}])
    staging.describe("log", summary)
    assert staging.summary("log") == summary


def test_whether_a_blob_is_there_is_one_request(staging: Staging) -> None:
    """A summary beside it is not asked for: it may be gone, and the blob is there."""
    staging.create("a", b"one", {"long": "x" * 9_000})
    for beside in [blob.name for blob in staging.list("a.")]:
        staging.delete(beside)
    assert staging.exists("a")
    with pytest.raises(Stop):
        staging.summary("a")


def test_large_summaries_of_writers_at_once_do_not_mix(staging: Staging) -> None:
    """Content and summary are of the same one, also when the summary is a blob of its own."""
    answers = at_once(4, lambda n: staging.create("a", b"%d" % n, {"n": n, "long": "x" * 9_000}))
    assert len({answer["n"] for answer in answers}) == 1
    assert staging.read("a") == b"%d" % answers[0]["n"]


def test_what_is_not_there(staging: Staging) -> None:
    """None, False, no lines; only `read` insists."""
    assert staging.find("a") is None
    assert staging.find_json("a") is None
    assert not staging.exists("a")
    assert staging.log("a") == []
    assert list(staging.list("a")) == []
    with pytest.raises(Stop, match=r"'a' is not in the staging container: .*lifecycle rule"):
        staging.read("a")


def test_lines_of_several_writers_are_all_in_the_log(staging: Staging) -> None:
    """Also when all of them find no blob: none creates it anew over the others' lines."""
    for turn in range(4):
        name = f"log-{turn}"

        def write(n: int, name: str = name) -> None:
            for k in range(3):
                staging.append(name, [{"by": n, "k": k}, {"by": n, "k": k, "again": True}])

        assert at_once(5, write) == [None] * 5
        lines = staging.log(name)
        assert len(lines) == 30
        assert [line["k"] for line in lines if line["by"] == 2] == [0, 0, 1, 1, 2, 2]
        pairs = list(zip(lines[::2], lines[1::2], strict=True))
        assert all(second == {**first, "again": True} for first, second in pairs), "an append was torn apart"


def test_a_log_s_summary_comes_last_and_does_not_touch_its_lines(staging: Staging) -> None:
    """No summary: not done. Appending keeps it."""
    staging.append("log", [{"a": 1}])
    assert staging.summary("log") == {}
    staging.describe("log", {"done": True})
    staging.append("log", [{"a": 2}])
    assert staging.summary("log") == {"done": True}
    assert staging.log("log") == [{"a": 1}, {"a": 2}]


def test_a_swap_sees_what_is_there_and_may_leave_it(staging: Staging) -> None:
    """None leaves it; the answer is what stands."""
    seen: list[Any] = []

    def first(current: Any) -> Any:
        seen.append(current)
        return {"n": 1}

    assert staging.swap_json("w", first) == {"n": 1}
    assert staging.swap_json("w", lambda current: {"n": current["n"] + 1}) == {"n": 2}
    assert staging.swap_json("w", lambda _: None) == {"n": 2}
    assert staging.swap_json("nothing", lambda _: None) is None
    assert seen == [None]
    assert staging.find_json("w") == {"n": 2}


@pytest.mark.parametrize("there", [False, True])
def test_of_several_swaps_at_once_none_is_lost(there: bool, staging: Staging) -> None:
    """Each that did not get through says so: the count is that of those that did."""
    if there:
        staging.swap_json("w", lambda _: {"n": 0})
    read = threading.Barrier(4)

    def change(current: Any) -> Any:
        read.wait(10)
        return {"n": (current or {"n": 0})["n"] + 1}

    answers = at_once(4, lambda _: staging.swap_json("w", change))
    assert sum(isinstance(answer, TryAgain) for answer in answers) == 3
    assert staging.find_json("w") == {"n": 1}


def test_a_listing_has_names_sizes_and_summaries_in_order(staging: Staging) -> None:
    """Below the prefix, and nothing else."""
    names = Names("acme", "r1")
    for segment in (2, 0, 1):
        staging.create(names.raw("s", 0, segment), b"x" * segment, {"n": segment})
    staging.create(Names("acme", "r10").raw("s", 0, 0), b"", {})
    staging.append(names.receipts("s", 0, 0, 2), [{}])
    found = list(staging.list(names.prefix))
    assert [(blob.name.rpartition("/")[2], blob.bytes, blob.summary) for blob in found] == [
        ("000000.parquet", 0, {"n": 0}),
        ("000001.parquet", 1, {"n": 1}),
        ("000002.parquet", 2, {"n": 2}),
        ("000000-000002.jsonl", 3, {}),
    ]


def test_names_of_different_requests_differ() -> None:
    """Every part of a request is in its blob's name."""
    one, other = Names("a", "r1"), Names("a", "r2")
    made = [
        name
        for names in (one, other)
        for stream in ("s", "t")
        for lane in (0, 1)
        for name in (
            *(of(stream, lane, n) for of in (names.raw, names.rows, names.rejects, names.failed_pages) for n in (0, 1)),
            *(
                of(stream, lane, first, last)
                for of in (names.pack, names.receipts, names.dead_letters)
                for first, last in ((0, 0), (0, 1), (1, 1))
            ),
        )
    ]
    made += [name for names in (one, other) for name in (names.plan, names.manifest, names.cancel)]
    made += [watermark_name("a"), watermark_name("b")]
    assert len(set(made)) == len(made)
    assert not any(name.startswith(one.prefix) for name in (one.manifest, other.plan, watermark_name("a")))


def test_put_json_replaces_and_a_container_is_made_once(staging: Staging, blob_service: BlobServiceClient) -> None:
    """Both may be called again."""
    staging.put_json("m", {"n": 1}, {"h": 1})
    staging.put_json("m", {"n": 2}, {"h": 2})
    assert (staging.find_json("m"), staging.summary("m")) == ({"n": 2}, {"h": 2})
    fresh = Staging(blob_service.get_container_client("made-once"))
    fresh.ensure()
    fresh.ensure()
    assert list(fresh.list("")) == []


VERBS = {
    "create": lambda staging: staging.create("a", b"", {}),
    "put_json": lambda staging: staging.put_json("a", {}, {}),
    "swap_json": lambda staging: staging.swap_json("a", lambda _: {}),
    "append": lambda staging: staging.append("a", [{}]),
    "list": lambda staging: list(staging.list("")),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_container_that_is_gone_stops_with_its_remedy(verb: str, blob_service: BlobServiceClient) -> None:
    """Never an exception of the SDK, which would be tried again for half an hour."""
    with pytest.raises(Stop, match="container"):
        VERBS[verb](Staging(blob_service.get_container_client("nobody-made-this")))


READS = {**VERBS, "summary": lambda s: s.summary("a"), "find": lambda s: s.find("a"), "exists": lambda s: s.exists("a")}


@pytest.mark.parametrize("verb", [*READS, "ensure"])
def test_storage_that_is_out_is_tried_again(verb: str) -> None:
    """No answer on loopback's port 9."""
    account = "DefaultEndpointsProtocol=http;AccountName=a;AccountKey=a2V5;BlobEndpoint=http://127.0.0.1:9/a;"
    with ContainerClient.from_connection_string(account, "c", retry_total=0) as container:
        verbs = {**READS, "ensure": lambda staging: staging.ensure()}
        with pytest.raises(TryAgain, match="blob storage cannot be reached to"):
            verbs[verb](Staging(container))


@pytest.mark.parametrize("verb", ["list", "find"])
@pytest.mark.parametrize("sends", [lambda: transport({}, local=True), RequestsTransport], ids=["ours", "the SDK's"])
def test_an_answer_that_breaks_off_is_tried_again(
    verb: str, sends: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK says neither a status nor that the connection is at fault."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    with socket.create_server(("127.0.0.1", 0)) as door:

        def break_off() -> None:
            while True:
                guest, _ = door.accept()
                with guest:
                    guest.recv(10_000)
                    guest.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nContent-Range: bytes 0-9/10\r\n\r\n12345")

        threading.Thread(target=break_off, daemon=True).start()
        address = f"http://127.0.0.1:{door.getsockname()[1]}/a"
        account = f"DefaultEndpointsProtocol=http;AccountName=a;AccountKey=a2V5;BlobEndpoint={address};"
        with (
            ContainerClient.from_connection_string(account, "c", retry_total=0, transport=sends()) as container,
            pytest.raises(TryAgain, match="blob storage cannot be reached to"),
        ):
            READS[verb](Staging(container))


def test_what_staging_asks_for_goes_the_shorter_way(azurite: Azurite, container: ContainerClient) -> None:
    """Not through the SDK's session: it would be as right, and take twice the time."""
    with transport({}, local=True) as ours:
        ours.open()
        ours.session.request = None
        with ContainerClient.from_connection_string(
            azurite.connection_string, container.container_name, retry_total=0, transport=ours
        ) as client:
            staging = Staging(client)
            staging.ensure()
            assert staging.create("a", b"one", {"n": 1}, read_soon=True) == {"n": 1}
            assert staging.create("a", b"two", {"n": 2}) == {"n": 1}
            staging.put_json("b", {"n": 1}, {})
            staging.swap_json("b", lambda _: {"n": 2})
            staging.append("c", [{"n": 1}])
            assert (staging.read("a"), staging.find_json("b"), staging.exists("gone")) == (b"one", {"n": 2}, False)
            assert [found.name for found in staging.list("")] == ["a", "b", "c"]
            staging.delete("a")
            assert staging.find("a") is None


@pytest.mark.parametrize("verb", [*READS, "ensure"])
def test_a_key_that_is_not_accepted_stops_with_the_role(verb: str, azurite: Azurite) -> None:
    """Azurite checks signatures as the service does."""
    wrong = azurite.connection_string.replace("AccountKey=Eby8", "AccountKey=AAAA")
    with ContainerClient.from_connection_string(wrong, "c", retry_total=0) as container:
        verbs = {**READS, "ensure": lambda staging: staging.ensure()}
        with pytest.raises(Stop, match="Storage Blob Data Contributor"):
            verbs[verb](Staging(container))


@pytest.mark.parametrize("verb", [*READS, "ensure", "delete", "replaced meanwhile"])
def test_what_the_sdk_raised_and_was_answered_holds_nobody_s_segment(
    verb: str, staging: Staging, is_left: Callable[[Callable[[], object]], bool]
) -> None:
    """A blob that is not there, one that is, one that somebody else replaced."""
    if verb in {"create", "replaced meanwhile"}:
        staging.put_json("a", {}, {})

    def late(_: Any) -> dict[str, int]:
        staging.put_json("a", {"by": 2}, {})
        return {"by": 1}

    verbs = {
        **READS,
        "ensure": lambda staging: staging.ensure(),
        "delete": lambda staging: staging.delete("a"),
        "replaced meanwhile": lambda staging: staging.swap_json("a", late),
    }
    assert not is_left(lambda: verbs[verb](staging))


@pytest.mark.parametrize("verb", READS)
def test_an_error_of_storage_holds_nobody_s_segment(
    verb: str, blob_service: BlobServiceClient, is_left: Callable[[Callable[[], object]], bool]
) -> None:
    """Many activities may wait for storage that is out, or for a container that is gone."""
    account = "DefaultEndpointsProtocol=http;AccountName=a;AccountKey=a2V5;BlobEndpoint=http://127.0.0.1:9/a;"
    with ContainerClient.from_connection_string(account, "c", retry_total=0) as out:
        assert not is_left(lambda: READS[verb](Staging(out)))
    assert not is_left(lambda: READS[verb](Staging(blob_service.get_container_client("nobody-made-this"))))


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (408, TryAgain),
        (409, TryAgain),
        (429, TryAgain),
        (500, TryAgain),
        (503, TryAgain),
        (400, Stop),
        (403, Stop),
        (None, TryAgain),
    ],
)
def test_each_answer_of_the_service_says_what_to_do_next(status: int | None, kind: type[CaasmError]) -> None:
    """An outage is tried again; what somebody has to change is not."""
    error: Exception = ServiceRequestError("no answer")
    if status is not None:
        error = HttpResponseError("m")
        error.status_code = status
    with pytest.raises(kind), storage_errors("test"):
        raise error


def test_a_token_that_cannot_be_had_stops(staging: Staging) -> None:
    """The identity's library raises without a status."""
    with pytest.raises(Stop, match="refuses to test"), storage_errors("test"):
        raise ClientAuthenticationError("no managed identity")


def test_a_blob_that_vanishes_between_two_looks_is_no_success(
    staging: Staging, container: ContainerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there when it is written and gone when its summary is read: try again, do not pretend."""
    staging.create("a", b"one", {"n": 1})
    upload = container.upload_blob

    def vanishing(*args: Any, **options: Any) -> Any:
        try:
            return upload(*args, **options)
        finally:
            container.delete_blob("a")

    monkeypatch.setattr(container, "upload_blob", vanishing)
    with pytest.raises(TryAgain):
        staging.create("a", b"two", {"n": 2})


def test_json_blobs_are_plain_json(staging: Staging) -> None:
    """Anybody may read them with any tool."""
    staging.put_json("m", {"a": [1, "é"]}, {})
    assert json.loads(staging.read("m")) == {"a": [1, "é"]}
