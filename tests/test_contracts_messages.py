"""Messages across the durable boundary: they come back as they went, stay small, and bear other versions."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import contracts
from contracts import (
    SCHEMA_VERSION,
    Cancelled,
    CloseRequest,
    DiffRequest,
    DiffResult,
    ExportRequest,
    ExportResult,
    LanePlan,
    LoadRequest,
    Message,
    Plan,
    Policy,
    Run,
    Stop,
    TransformRequest,
    TransformResult,
    TryAgain,
    UploadRequest,
    UploadResult,
)

RUN = Run(
    "device42-20261121T015926Z-1a2b3c",
    "device42",
    "delta",
    "2026-11-21T01:59:26.123456+00:00",
    "2026-11-14T01:59:26+00:00",
)
CURSOR = {
    "kind": "export",
    "export_uuid": "0b9a6f3c-7d0e-4f1a-9a51-1b2c3d4e5f60",
    "chunks_done": 123_456,
    "polled": True,
    "next": 99,
}
BIG = 2**53
POLICY = Policy(24 << 20, 2, 2.0, 300.0, 1800.0, 2.0, 120.0)
MESSAGES: list[Message] = [
    LoadRequest(RUN.run_id, RUN.source, RUN.mode, RUN.started_at, ["devices", "vulnerabilities", "web_apps"]),
    RUN,
    POLICY,
    LanePlan("vulnerabilities", 63, CURSOR),
    ExportRequest(RUN.to_wire(), "vulnerabilities", 63, 99_999, CURSOR),
    ExportResult(
        CURSOR,
        staged=True,
        exhausted=False,
        records=BIG,
        pages=BIG,
        bytes=BIG,
        failed_pages=BIG,
        wait_s=3600.5,
        total=BIG,
        cut_short=True,
    ),
    TransformRequest(RUN.to_wire(), "vulnerabilities", 63, 99_999),
    TransformResult(BIG, BIG, BIG, BIG, BIG, BIG, BIG, BIG, BIG),
    UploadRequest(RUN.to_wire(), "vulnerabilities", 63, 99_968, 99_999, verdicts=True),
    UploadResult(BIG, BIG, BIG, BIG, BIG, BIG, BIG, BIG),
    DiffRequest(RUN.to_wire(), "vulnerabilities", 9_998, 9_999, whole=True, proven=False),
    DiffResult(BIG, BIG, BIG, BIG, BIG, BIG, BIG, BIG, BIG),
]
LARGER: list[Message] = [
    Plan(
        RUN.to_wire(),
        [LanePlan("vulnerabilities", 1, CURSOR).to_wire()],
        {"vulnerabilities": None},
        POLICY.to_wire(),
        ["a note"],
    ),
    CloseRequest(
        RUN.to_wire(), {"devices": {"exported": 5}}, ["why"], failed=True, cancelled=False, expected={"devices": 5}
    ),
]


def named(message: Message) -> str:
    """A readable test id."""
    return type(message).__name__


@pytest.mark.parametrize("message", [*MESSAGES, *LARGER], ids=named)
def test_a_message_comes_back_as_it_went(message: Message) -> None:
    """Through JSON, with its schema version."""
    wire = json.loads(json.dumps(message.to_wire()))
    assert wire["v"] == SCHEMA_VERSION
    assert type(message).from_wire(wire) == message


@pytest.mark.parametrize("message", MESSAGES, ids=named)
def test_a_message_is_under_a_kilobyte(message: Message) -> None:
    """With the longest names and the largest counts that are real."""
    assert len(json.dumps(message.to_wire()).encode()) < 1024


@pytest.mark.parametrize("message", [*MESSAGES, *LARGER], ids=named)
def test_other_versions(message: Message) -> None:
    """Unknown fields are left out, absent ones take their default, a newer schema is refused with what to do."""
    wire = message.to_wire()
    assert type(message).from_wire({**wire, "of_tomorrow": 1}) == message
    assert type(message).from_wire({name: value for name, value in wire.items() if name != "v"}) == message
    with pytest.raises(Stop, match="deploy that version again"):
        type(message).from_wire({**wire, "v": SCHEMA_VERSION + 1})
    optional = {f.name for f in dataclasses.fields(message) if f.default is not dataclasses.MISSING}
    short = {name: value for name, value in wire.items() if name not in optional}
    assert all(
        getattr(type(message).from_wire(short), f.name) == f.default
        for f in dataclasses.fields(message)
        if f.name in optional
    )


@pytest.mark.parametrize("message", [*MESSAGES, *LARGER], ids=named)
def test_a_message_is_frozen(message: Message) -> None:
    """What has been sent cannot change."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(message, dataclasses.fields(message)[0].name, "other")


def test_every_message_is_tested() -> None:
    """A new message belongs into the lists above."""
    declared = {value for value in vars(contracts).values() if isinstance(value, type) and issubclass(value, Message)}
    assert declared - {Message} == {type(message) for message in (*MESSAGES, *LARGER)}


@given(reason=st.text(max_size=3000), remedy=st.text(max_size=3000), wait=st.floats(0, 1e6))
def test_answers_that_are_no_result_are_bounded(reason: str, remedy: str, wait: float) -> None:
    """At most 600 characters of a reason and of a remedy, told apart by their key."""
    asked = contracts.again(reason, wait)
    assert asked["again"] == reason[:600]
    assert asked["retry_after_s"] == wait
    refused = contracts.stop(Stop(reason, remedy))
    assert (refused["stop"], refused["remedy"], refused["cancelled"]) == (reason[:600], remedy[:600], False)
    assert "again" not in refused
    assert "stop" not in asked


def test_errors_say_what_to_do_next() -> None:
    """The error tree: Cancelled is a Stop, TryAgain is none; a remedy is part of the text."""
    assert contracts.stop(Cancelled("the run was cancelled"))["cancelled"]
    assert not isinstance(TryAgain("503"), Stop)
    assert str(Stop("403", "give it the role")) == "403: give it the role"
    assert str(Stop("403")) == "403"
    assert TryAgain("429", 7.5).retry_after_s == 7.5


@pytest.mark.parametrize("source", ["tenable", "device42", "cycognito"])
def test_an_instance_id_is_one_that_the_task_hub_takes(source: str) -> None:
    """One per source, without the characters that the extension refuses."""
    found: Any = contracts.instance_id(source)
    assert source in found
    assert not found.startswith("@")
    assert not set("/\\#?") & set(found)
    assert len(found) <= 100
