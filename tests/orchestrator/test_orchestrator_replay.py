"""Orchestrators are replayed: whatever happens, the same history gives the same actions, without I/O, at any wall clock."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest

import contracts
from contracts import CLOSE_RUN, DIFF, EXPORT, OPEN_RUN, TOMBSTONE_LANE, TRANSFORM, UPLOAD

FORBIDDEN_EVENTS = ("open", "socket.", "subprocess.", "os.", "shutil.", "tempfile.", "urllib.", "time.sleep", "import")
_watched = False


def _audit(event: str, _arguments: Any) -> None:
    if _watched and event.startswith(FORBIDDEN_EVENTS):
        raise AssertionError(f"an orchestrator did {event}")


sys.addaudithook(_audit)


@contextmanager
def no_io() -> Iterator[None]:
    """Every file, socket, process or import inside is an error."""
    global _watched  # noqa: PLW0603 - an audit hook cannot be taken back, only told to be quiet
    _watched = True
    try:
        yield
    finally:
        _watched = False


def scripted(answers: dict[tuple[str, int], Any]) -> Callable[..., Any]:
    """A script that gives those answers to the nth call of an activity; an exception is raised."""

    def script(name: str, message: Any, nth: int) -> Any:
        answer = answers.get((name, nth))
        if isinstance(answer, Exception):
            raise answer
        return answer

    return script


def always(name: str, answer: Any, since: int = 1) -> Callable[..., Any]:
    """A script that gives one answer to every call of an activity from the nth on."""

    def script(called: str, message: Any, nth: int) -> Any:
        if called != name or nth < since:
            return None
        if isinstance(answer, Exception):
            raise answer
        return answer

    return script


def burying(*answers: Any) -> Callable[..., Any]:
    """A script that gives those answers to the first uploads of tombstones."""
    left = list(answers)

    def script(called: str, message: Any, nth: int) -> Any:
        if called != UPLOAD or message["lane"] != TOMBSTONE_LANE or not left:
            return None
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return script


STOP = contracts.stop(contracts.Stop("403 from the source", "renew the key"))
CANCELLED = contracts.stop(contracts.Cancelled("the run was cancelled"))

DELTA: dict[str, Any] = {"mode": "delta", "plant": {"known": 100, "gone": 4}}

SCENARIOS: dict[str, tuple[Any, dict[str, Any]]] = {
    "a delta with changes and deletions": (None, DELTA),
    "a full load with deletions": (None, {"plant": {"known": 100, "gone": 4}}),
    "a delta compared in 110 parts": (None, {"mode": "delta", "plant": {"known": 27_500_000, "gone": 400}}),
    "the guard refuses": (None, {"mode": "delta", "plant": {"known": 100, "gone": 50}}),
    "the guard is lifted": (None, {"allow": True, "plant": {"known": 100, "gone": 50}}),
    "page numbers prove nothing": (None, {"mode": "delta", "plant": {"known": 100, "gone": 4, "stability": "none"}}),
    "diff again": (scripted({(DIFF, 1): contracts.again("503"), (DIFF, 2): contracts.again("429", 90.0)}), DELTA),
    "diff breaks": (scripted({(DIFF, 2): OSError("the worker was lost")}), DELTA),
    "diff breaks always": (always(DIFF, MemoryError("out of memory"), 2), DELTA),
    "diff stops": (always(DIFF, STOP, 2), DELTA),
    "cancelled while comparing": (always(DIFF, CANCELLED, 2), DELTA),
    "what has changed is sent in the end": (scripted({(UPLOAD, 1): contracts.again("429", 30.0)}), DELTA),
    "what has changed is refused": (always(UPLOAD, STOP, 2), DELTA),
    "tombstones are sent in the end": (lambda: burying(contracts.again("429"), OSError("lost")), DELTA),
    "tombstones are refused": (lambda: burying(STOP), DELTA),
    "cancelled while burying": (lambda: burying(CANCELLED), DELTA),
    "a delta's completions come twice": (None, {**DELTA, "twice": True}),
    "a delta's sub-orchestrations fail": (
        None,
        {**DELTA, "lose": lambda name, nth: name == "stream" and nth in {3, 4}},
    ),
    "a delta is hard to close": (
        scripted({(CLOSE_RUN, 1): contracts.again("storage is out"), (CLOSE_RUN, 2): OSError("lost")}),
        DELTA,
    ),
    "three streams of eight lanes": (None, {**DELTA, "lanes": {"assets": 8, "findings": 8, "users": 8}, "segments": 2}),
    "all is well": (None, {}),
    "activities of different lengths": (
        None,
        {"seconds": lambda name: {EXPORT: 1.0, TRANSFORM: 0.3, UPLOAD: 4.7}.get(name, 1.0)},
    ),
    "again without a wait": (scripted({(EXPORT, 2): contracts.again("503"), (UPLOAD, 1): contracts.again("429")}), {}),
    "again with a wait": (scripted({(EXPORT, 2): contracts.again("429", 700.0)}), {}),
    "given up": (always(UPLOAD, contracts.again("503"), 2), {}),
    "stop in export": (always(EXPORT, STOP, 6), {}),
    "stop in upload": (always(UPLOAD, STOP, 2), {}),
    "stop in open_run": (always(OPEN_RUN, STOP), {}),
    "cancelled": (always(EXPORT, CANCELLED, 5), {}),
    "an activity breaks": (scripted({(TRANSFORM, 2): OSError("the worker was lost")}), {}),
    "an activity breaks always": (always(TRANSFORM, MemoryError("out of memory"), 4), {}),
    "completions come twice": (None, {"twice": True}),
    "close_run needs four tries": (
        scripted(
            {(CLOSE_RUN, n): contracts.again("storage is out") for n in (1, 2)} | {(CLOSE_RUN, 3): OSError("lost")}
        ),
        {},
    ),
    "sub-orchestrations fail once": (None, {"lose": lambda name, nth: (name, nth) in {("stream", 2), ("lane", 4)}}),
    "sub-orchestrations fail always": (None, {"lose": lambda name, nth: name == "stream"}),
}


_early: dict[str, Any] = {}


def recorded(plant: Any, drive: Any, name: str, start: datetime) -> Any:
    """The scenario, driven to its end; the early one only once."""
    if start == EARLY and name in _early:
        return _early[name]
    script, given = SCENARIOS[name]
    options = dict(given)
    lanes, segments = options.pop("lanes", {"assets": 2, "findings": 1}), options.pop("segments", 4)
    more, mode, allow = options.pop("plant", {}), options.pop("mode", "full"), options.pop("allow", False)
    if script is not None and script.__code__.co_argcount == 0:
        script = script()
    driven = drive(plant(lanes, segments, script=script or (lambda *_: None), **more), start, **options)
    try:
        driven.load(mode, allow_deletes=allow)
    except Exception as error:
        if type(error).__name__ != "OrchestrationFailedError":
            raise
    if start == EARLY:
        _early[name] = driven
    return driven


def shifted(text: str, start: datetime) -> str:
    """The text with every time in it as seconds since `start`."""
    pattern = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00)"
    return re.sub(pattern, lambda at: f"{(datetime.fromisoformat(at[0]) - start).total_seconds():.6f}", text)


EARLY = datetime.fromisoformat("2026-03-01T12:00:00+00:00")


@pytest.mark.filterwarnings("ignore:Potential duplicate Task completion")
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_replay_gives_the_same_actions_without_io(plant: Any, drive: Any, replay_answer: Any, name: str) -> None:
    """Each episode of the run, replayed later and in silence, schedules what it did, and each longer history extends the shorter one's actions."""
    driven = recorded(plant, drive, name, EARLY)
    before: dict[tuple[str, int], list[Any]] = {}
    for episode in driven.episodes:
        with no_io():
            answer = replay_answer(episode.name, episode.body)
        assert answer == episode.answer
        actions = json.loads(answer)[0]
        shorter = before.get((episode.instance, episode.execution), [])
        assert actions[: len(shorter)] == shorter
        before[episode.instance, episode.execution] = actions


@pytest.mark.filterwarnings("ignore:Potential duplicate Task completion")
@pytest.mark.parametrize("name", SCENARIOS)
def test_another_clock_gives_the_same_actions(plant: Any, drive: Any, name: str) -> None:
    """The same run begun five years later, over the end of a year, takes the same steps at the same distances from its start."""
    late = EARLY + timedelta(days=5 * 365 + 305, hours=11, minutes=59, seconds=58, microseconds=123_456)
    first, second = (recorded(plant, drive, name, start) for start in (EARLY, late))
    assert [shifted(episode.answer, EARLY) for episode in first.episodes] == [
        shifted(episode.answer, late) for episode in second.episodes
    ]


def test_the_watch_for_io_watches() -> None:
    """The hook that the other tests rely on does refuse a file."""
    with pytest.raises(AssertionError, match="did open"), no_io():
        open(__file__).close()  # noqa: PTH123 - the plain way is what is refused
