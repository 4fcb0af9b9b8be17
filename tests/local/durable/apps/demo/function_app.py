"""An app with an orchestrator for each thing that a durable app does."""

import asyncio
import json
import os
import threading
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import azure.durable_functions as df
import azure.functions as func

app = df.DFApp(http_auth_level=func.AuthLevel.ANONYMOUS)
RUNS: Counter[str] = Counter()  # how often an activity really ran, by its key
LOCK = threading.Lock()


@app.route(route="start/{name}", methods=["POST"])
@app.durable_client_input(client_name="client")
async def http_start(req: func.HttpRequest, client):
    body = req.get_json() if req.get_body() else None
    instance = await client.start_new(req.route_params["name"], req.params.get("id"), body)
    return client.create_check_status_response(req, instance)


@app.route(route="stuck", methods=["POST"])
async def http_stuck(req: func.HttpRequest) -> None:
    """Creates a file and then waits, in a thread, for what never comes."""

    def wait() -> None:
        Path(req.params["mark"]).touch()
        threading.Event().wait()

    await asyncio.to_thread(wait)


@app.orchestration_trigger(context_name="context")
def fan(context: df.DurableOrchestrationContext):
    n = context.get_input()["n"]
    done = yield context.task_all([context.call_activity("square", i) for i in range(n)])
    return sum(done)


@app.activity_trigger(input_name="i")
def square(i: int) -> int:
    return i * i


@app.activity_trigger(input_name="ms")
async def nap(ms: int) -> int:
    await asyncio.sleep(ms / 1000)
    return ms


@app.orchestration_trigger(context_name="context")
def retrying(context: df.DurableOrchestrationContext):
    spec = context.get_input()
    options = df.RetryOptions(50, spec.get("attempts", 4))
    return (yield context.call_activity_with_retry("flaky", options, spec))


@app.orchestration_trigger(context_name="context")
def retrying_many(context: df.DurableOrchestrationContext):
    spec = context.get_input()
    options = df.RetryOptions(50, 5)
    out = yield context.task_all(
        [
            context.call_activity_with_retry("flaky", options, {"key": f"{spec['key']}-{i}", "succeed_on": 1 + i % 4})
            for i in range(spec["n"])
        ]
    )
    tail = yield context.call_activity("square", 7)
    return [out, tail]


@app.orchestration_trigger(context_name="context")
def catching(context: df.DurableOrchestrationContext):
    try:
        yield context.call_activity("flaky", {"key": "never", "succeed_on": 99})
    except Exception as ex:  # noqa: BLE001  # the SDK raises no narrower type
        return str(ex)


@app.orchestration_trigger(context_name="context")
def failing(context: df.DurableOrchestrationContext):
    yield context.call_activity("flaky", {"key": "never", "succeed_on": 99})


@app.orchestration_trigger(context_name="context")
def parent_of_failing(context: df.DurableOrchestrationContext):
    try:
        yield context.call_sub_orchestrator("failing", None)
    except Exception as ex:  # noqa: BLE001  # the SDK raises no narrower type
        return "caught: " + str(ex)


@app.orchestration_trigger(context_name="context")
def parent(context: df.DurableOrchestrationContext):
    a = yield context.call_sub_orchestrator("fan", {"n": 5})
    b = yield context.call_sub_orchestrator_with_retry(
        "retrying", df.RetryOptions(50, 3), {"key": "sub", "succeed_on": 5, "attempts": 3}
    )
    return [a, b]


@app.orchestration_trigger(context_name="context")
def counting(context: df.DurableOrchestrationContext):
    state = context.get_input()
    yield context.call_activity("square", state["i"])
    context.set_custom_status({"at": state["i"]})
    if state["i"] < state["to"]:
        context.continue_as_new({"i": state["i"] + 1, "to": state["to"]})
        return
    return {"finished": state["i"]}


@app.orchestration_trigger(context_name="context")
def approval(context: df.DurableOrchestrationContext):
    context.set_custom_status("waiting")
    got = yield context.wait_for_external_event("go")
    again = yield context.wait_for_external_event("go")
    return [got, again]


@app.orchestration_trigger(context_name="context")
def entity_caller(context: df.DurableOrchestrationContext):
    e = df.EntityId("counter", context.get_input()["key"])
    context.signal_entity(e, "add", 3)
    first = yield context.call_entity(e, "add", 4)
    both = yield context.task_all([context.call_entity(e, "add", 1), context.call_entity(e, "get")])
    try:
        yield context.call_entity(e, "explode")
    except Exception as ex:  # noqa: BLE001  # the SDK raises no narrower type
        return [first, both, str(ex)]


@app.entity_trigger(context_name="context", entity_name="counter")
def counter(context: df.DurableEntityContext):
    value = context.get_state(lambda: 0)
    if context.operation_name == "add":
        value += context.get_input()
        context.set_state(value)
    elif context.operation_name == "explode":
        raise RuntimeError("boom")
    context.set_result(value)


@app.orchestration_trigger(context_name="context")
def no_yield(context: df.DurableOrchestrationContext):
    return {"input": context.get_input(), "id": context.instance_id, "guid": str(context.new_guid())}


@app.orchestration_trigger(context_name="context")
def unknown_activity(context: df.DurableOrchestrationContext):
    yield context.call_activity("nope", 1)


@app.timer_trigger(schedule="0 0 * * * *", arg_name="timer_info")
@app.durable_client_input(client_name="client")
async def nightly(timer_info: func.TimerRequest, client):
    await client.start_new("fan", "nightly", {"n": 3})


@app.orchestration_trigger(context_name="context")
def paced(context: df.DurableOrchestrationContext):
    """flat fan-out of n activities that each take `ms`"""
    spec = context.get_input()
    done = yield context.task_all([context.call_activity("hold", spec["ms"]) for _ in range(spec["n"])])
    return len(done)


@app.orchestration_trigger(context_name="context")
def paced_batched(context: df.DurableOrchestrationContext):
    """the same, as sub-orchestrations of `batch` activities"""
    spec = context.get_input()
    done = yield context.task_all(
        [
            context.call_sub_orchestrator("paced", {"n": min(spec["batch"], spec["n"] - s), "ms": spec["ms"]})
            for s in range(0, spec["n"], spec["batch"])
        ]
    )
    return sum(done)


@app.route(route="wait/{name}", methods=["POST"])
@app.durable_client_input(client_name="client")
async def http_wait(req: func.HttpRequest, client):
    instance = await client.start_new(req.route_params["name"], None, req.get_json())
    return await client.wait_for_completion_or_create_check_status_response(req, instance, 5000, 100)


@app.route(route="echo/{kind:alpha}/{id?}")
def http_echo(req: func.HttpRequest) -> func.HttpResponse:
    seen = {
        "method": req.method,
        "route": dict(req.route_params),
        "q": req.params.get("q"),
        "body": req.get_body().decode(),
    }
    headers = {"x-thread": threading.current_thread().name}
    return func.HttpResponse(json.dumps(seen), status_code=201, mimetype="application/json", headers=headers)


@app.route(route="broken", methods=["GET"])
def http_broken(req: func.HttpRequest) -> str:
    raise RuntimeError("the app's own fault")


@app.route(route="binding", methods=["GET"])
@app.durable_client_input(client_name="client")
async def http_binding(req: func.HttpRequest, client):
    return json.dumps(client.create_http_management_payload("some-id"))


@app.activity_trigger(input_name="spec")
def flaky(spec: dict) -> str:
    with LOCK:
        RUNS[spec["key"]] += 1
        attempt = RUNS[spec["key"]]
    if attempt < spec["succeed_on"]:
        raise ValueError(f"attempt {attempt} of {spec['key']}")
    return f"ok after {attempt}"


@app.activity_trigger(input_name="ms")
def hold(ms: int) -> int:
    time.sleep(ms / 1000)
    return ms


@app.activity_trigger(input_name="spec")
def logged(spec: dict) -> int:
    time.sleep(spec["s"])
    with Path(spec["file"]).open("a") as out:
        out.write(f"{spec['i']} {os.getpid()}\n")
    return spec["i"]


@app.activity_trigger(input_name="size")
def payload(size: int) -> str:
    return "x" * size


@app.activity_trigger(input_name="text")
def measure(text: str) -> int:
    return len(text)


@app.orchestration_trigger(context_name="context")
def timer(context: df.DurableOrchestrationContext):
    before = context.current_utc_datetime
    yield context.create_timer(before + timedelta(seconds=context.get_input()["s"]))
    return (context.current_utc_datetime - before).total_seconds()


@app.orchestration_trigger(context_name="context")
def stale_timer(context: df.DurableOrchestrationContext):
    """Continues as new while a cancelled timer of the old execution is outstanding."""
    state = context.get_input()
    last = state["i"] == 3
    timeout = context.create_timer(context.current_utc_datetime + timedelta(seconds=10 if last else 0.25))
    work = context.call_activity("nap", 500 if last else 30)
    winner = yield context.task_any([work, timeout])
    if winner == timeout:
        return f"timed out at {state['i']}"
    if not timeout.is_completed:
        timeout.cancel()
    if not last:
        context.continue_as_new({"i": state["i"] + 1})
        return None
    return "worked"


@app.orchestration_trigger(context_name="context")
def big(context: df.DurableOrchestrationContext):
    """Moves text of a size through one of the places where a payload may be too large."""
    spec = context.get_input()
    text, where = "x" * spec["size"], spec["where"]
    if where == "custom status":
        context.set_custom_status(text)
        yield context.call_activity("square", 3)
    elif where == "activity input":
        return (yield context.call_activity("measure", text))
    elif where == "activity output":
        return len((yield context.call_activity("payload", spec["size"])))
    elif where == "sub-orchestration input":
        return (yield context.call_sub_orchestrator("size_of_input", text))
    elif where == "continue-as-new input":
        context.continue_as_new({"where": "done", "size": 1, "text": text})
        return None
    elif where == "orchestrator output":
        return text
    return "fine"


@app.orchestration_trigger(context_name="context")
def size_of_input(context: df.DurableOrchestrationContext):
    return len(context.get_input())


@app.orchestration_trigger(context_name="context")
def slow_steps(context: df.DurableOrchestrationContext):
    """A chain of logged activities, a timer, then a sub-orchestration beside an activity."""
    spec, out = context.get_input(), []
    for i in range(spec["n"]):
        done = yield context.call_activity("logged", {"i": i, "file": spec["file"], "s": spec["s"]})
        out += [done]
    yield context.create_timer(context.current_utc_datetime + timedelta(seconds=0.1))
    got = yield context.task_all([context.call_sub_orchestrator("fan", {"n": 20}), context.call_activity("square", 5)])
    return [out, got]
