"""What azure-functions-durable 1.x punishes in production, documented by tests: the order of events, not their times.

They follow from the extension replaying the action list strictly in order. A test that fails here after an upgrade of the SDK
is good news: the rule that it documents may be dropped from the pipeline's design.
"""

import inspect
import sys
from datetime import datetime, timedelta

import azure.durable_functions as df
import pytest

from local.durable.history import EVENT_NAMES, history_json


@pytest.fixture
def host(open_host):
    """The hazards app."""
    return open_host("hazards")


@pytest.fixture
def gates(host):
    """Opens the gate that an activity waits at."""
    found = sys.modules["function_app"].GATES
    yield lambda key: found[key].set()
    for gate in found.values():
        gate.set()


def events_of(host, instance_id):
    """The raw history, in order: 'scheduled A', 'completed A', 'failed A', 'timer', 'fired', or the event's name."""
    names, seen = {}, []
    for event in history_json(host.engine.history(instance_id), []):
        kind = EVENT_NAMES[event["EventType"]]
        if kind == "TaskScheduled":
            names[event["EventId"]] = event["Input"].split('"key": "')[1].split('"')[0]
            seen.append(f"scheduled {names[event['EventId']]}")
        elif kind in ("TaskCompleted", "TaskFailed"):
            seen.append(f"{kind.removeprefix('Task').lower()} {names[event['TaskScheduledId']]}")
        else:
            seen.append(kind)
    return seen


def test_a_sliding_window_waits_for_the_newest_task_whichever_finishes(host, gates, until):
    """Reference 5.1: D is free to start when A is done, and starts only when C, the last one added, is."""
    run = host.hub.start("window")
    until(lambda: events_of(host, run), lambda events: "scheduled C" in events)
    gates("A")
    until(lambda: host.hub.status(run)["customStatus"], lambda done: done == 2)  # the orchestrator has asked for D
    assert "scheduled D" not in events_of(host, run)
    gates("C")
    assert host.hub.wait(run)["output"] == 4
    events = events_of(host, run)
    assert events.index("completed A") < events.index("completed C") < events.index("scheduled D")


def test_lanes_of_sub_orchestrations_do_not_wait_for_each_other(host, gates, until):
    """The pattern to use instead: the second lane finishes while the first one's activity still runs."""
    run = host.hub.start("lanes")
    lanes = until(
        lambda: [s for s in host.hub.instances()[0] if s["name"] == "lane"],
        lambda found: any(status["runtimeStatus"] == "Completed" for status in found),
    )
    assert sorted(status["runtimeStatus"] for status in lanes) == ["Completed", "Running"]
    gates("A")
    gates("C")
    assert host.hub.wait(run)["output"] == 4


def test_a_race_over_retrying_activities_breaks_what_follows_it(host, gates, until):
    """Reference 5.2: the SDK numbers the call after the race before the loser's later attempts; the host the other way."""
    run = host.hub.start("race_then_all")
    until(lambda: events_of(host, run), lambda events: "completed quick" in events)
    gates("failing")
    status = host.hub.wait(run)
    assert status["runtimeStatus"] == "Failed", status


def test_a_failed_task_does_not_cut_its_batch_short(host, gates, until):
    """Reference 5.3: the orchestrator has caught the failure, and still nothing is scheduled until the sibling is done."""
    run = host.hub.start("partial_failure")
    until(lambda: host.hub.status(run)["customStatus"], lambda status: status == "caught")
    assert "scheduled after" not in events_of(host, run)
    gates("sibling")
    assert host.hub.wait(run)["output"] == "after"
    events = events_of(host, run)
    assert events.index("failed failing") < events.index("completed sibling") < events.index("scheduled after")


def test_an_orchestration_completes_only_when_no_activity_is_open(host, gates, until):
    """Reference 5.4: it has returned, and runs on."""
    run = host.hub.start("early_return")
    until(lambda: host.hub.status(run)["customStatus"], lambda status: status == "returning")
    assert host.hub.status(run)["runtimeStatus"] == "Running"
    gates("slow")
    assert host.hub.wait(run)["output"] == "returned"


@pytest.mark.parametrize("cancel", [True, False], ids=["cancelled", "left open"])
def test_a_timeout_timer_holds_the_orchestration_open_unless_it_is_cancelled(host, cancel):
    """Reference 5.4: the timer that was not cancelled fires before the orchestration may complete."""
    run = host.hub.start("timeout", {"cancel": cancel})
    assert host.hub.wait(run)["output"] == "returned"
    assert ("TimerFired" in events_of(host, run)) is not cancel


def test_retries_wait_the_same_time_each(host):
    """Reference 5.5: no backoff, and one more timer, due at once, after the last attempt."""
    run = host.hub.start("retry_times")
    assert host.hub.wait(run)["runtimeStatus"] == "Failed"
    now, delays = None, []
    for event in history_json(host.engine.history(run), []):
        if event["EventType"] == 12:
            now = datetime.fromisoformat(event["Timestamp"])
        elif event["EventType"] == 10:
            delays.append(datetime.fromisoformat(event["FireAt"]) - now)
    assert delays == [timedelta(milliseconds=50), timedelta(milliseconds=50), timedelta(0)]
    assert list(inspect.signature(df.RetryOptions.__init__).parameters)[1:] == [
        "first_retry_interval_in_milliseconds",
        "max_number_of_attempts",
    ]


@pytest.mark.filterwarnings("ignore:Potential duplicate Task completion")  # what the SDK says of its own fault
def test_an_event_that_comes_before_it_is_awaited_is_delivered_twice(host, gates, until):
    """The SDK's issue 507: the second wait gets the first event again."""
    run = host.hub.start("early_event")
    until(lambda: events_of(host, run), lambda events: "scheduled before" in events)
    host.hub.raise_event(run, "go", 1)
    until(lambda: events_of(host, run), lambda events: "EventRaised" in events)
    gates("before")
    until(lambda: events_of(host, run), lambda events: "completed before" in events)
    host.hub.raise_event(run, "go", 2)
    assert host.hub.wait(run)["output"] == [1, 1]
