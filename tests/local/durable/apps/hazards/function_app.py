"""Patterns that azure-functions-durable 1.x punishes; the tests hold activities back at GATES to see what waits for what."""

import threading
from collections import Counter, defaultdict
from datetime import timedelta

import azure.durable_functions as df
import azure.functions as func

app = df.DFApp(http_auth_level=func.AuthLevel.ANONYMOUS)
GATES: defaultdict[str, threading.Event] = defaultdict(threading.Event)
ATTEMPTS: Counter[str] = Counter()


def retried(context, key, fails, gated=False):
    spec = {"key": key, "fails": fails, "gated": gated}
    return context.call_activity_with_retry("act", df.RetryOptions(20, 4), spec)


def called(context, key, gated=False, fails=0):
    return context.call_activity("act", {"key": key, "gated": gated, "fails": fails})


@app.activity_trigger(input_name="spec")
def act(spec: dict) -> str:
    if spec["gated"] and not GATES[spec["key"]].wait(20):
        raise TimeoutError(f"the test never opened gate {spec['key']!r}")
    ATTEMPTS[spec["key"]] += 1
    if ATTEMPTS[spec["key"]] <= spec["fails"]:
        raise ValueError(f"attempt {ATTEMPTS[spec['key']]}")
    return spec["key"]


@app.orchestration_trigger(context_name="context")
def window(context: df.DurableOrchestrationContext):
    """The sliding-window idiom, two wide: A and C wait at their gates, B and D do not."""
    keys = ["A", "B", "C", "D"]
    pending, done = [], 0
    while keys or pending:
        while keys and len(pending) < 2:
            key = keys.pop(0)
            pending.append(called(context, key, gated=key in "AC"))
        first = yield context.task_any(pending)
        pending.remove(first)
        done += 1
        context.set_custom_status(done)
    return done


@app.orchestration_trigger(context_name="context")
def lanes(context: df.DurableOrchestrationContext):
    """The same work as two lanes, each a plain loop."""
    yield context.task_all([context.call_sub_orchestrator("lane", keys) for keys in ("AC", "BD")])
    return 4


@app.orchestration_trigger(context_name="context")
def lane(context: df.DurableOrchestrationContext):
    for key in context.get_input():
        yield called(context, key, gated=key in "AC")


@app.orchestration_trigger(context_name="context")
def race_then_all(context: df.DurableOrchestrationContext):
    """task_any over retrying activities, task_all over the same, then one more activity."""
    tasks = [retried(context, "quick", 0), retried(context, "failing", 2, gated=True)]
    yield context.task_any(tasks)
    yield context.task_all(tasks)
    return (yield called(context, "after"))


@app.orchestration_trigger(context_name="context")
def partial_failure(context: df.DurableOrchestrationContext):
    """One task of a task_all fails at once, the other waits at its gate; then one more activity."""
    try:
        yield context.task_all([called(context, "failing", fails=9), called(context, "sibling", gated=True)])
    except Exception:  # noqa: BLE001  # the SDK raises no narrower type
        context.set_custom_status("caught")
    return (yield called(context, "after"))


@app.orchestration_trigger(context_name="context")
def early_return(context: df.DurableOrchestrationContext):
    """Returns while an activity is still running."""
    yield context.task_any([called(context, "slow", gated=True), called(context, "fast")])
    context.set_custom_status("returning")
    return "returned"


@app.orchestration_trigger(context_name="context")
def timeout(context: df.DurableOrchestrationContext):
    """Wins the race against a timer, and cancels it or not."""
    timer = context.create_timer(context.current_utc_datetime + timedelta(seconds=0.3))
    yield context.task_any([timer, called(context, "quick")])
    if context.get_input()["cancel"]:
        timer.cancel()
    return "returned"


@app.orchestration_trigger(context_name="context")
def retry_times(context: df.DurableOrchestrationContext):
    """Three attempts, all in vain."""
    options = df.RetryOptions(50, 3)
    yield context.call_activity_with_retry("act", options, {"key": "vain", "fails": 9, "gated": False})


@app.orchestration_trigger(context_name="context")
def early_event(context: df.DurableOrchestrationContext):
    """An event arrives before the orchestrator waits for it."""
    yield called(context, "before", gated=True)
    first = yield context.wait_for_external_event("go")
    second = yield context.wait_for_external_event("go")
    return [first, second]
