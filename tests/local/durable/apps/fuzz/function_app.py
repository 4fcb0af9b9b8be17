"""An orchestrator that runs a program: steps of operations, awaited together, one after another, or after a race."""

import threading
import time
from collections import Counter
from datetime import timedelta

import azure.durable_functions as df
import azure.functions as func

app = df.DFApp(http_auth_level=func.AuthLevel.ANONYMOUS)
ATTEMPTS: Counter[str] = Counter()
LOCK = threading.Lock()


@app.activity_trigger(input_name="spec")
def act(spec: dict) -> str:
    time.sleep(spec["ms"] / 1000)
    with LOCK:
        ATTEMPTS[spec["key"]] += 1
        attempt = ATTEMPTS[spec["key"]]
    if attempt <= spec["fails"]:
        raise ValueError(f"attempt {attempt}")
    return f"{spec['key']}={attempt}"


@app.entity_trigger(context_name="context", entity_name="tally")
def tally(context: df.DurableEntityContext):
    value = context.get_state(lambda: 0) + 1
    context.set_state(value)
    context.set_result(value)


def task_of(context, op, path):
    spec = {"key": path, "ms": op["ms"], "fails": op.get("fails", 0)}
    return {
        "act": lambda: context.call_activity("act", spec),
        "retry": lambda: context.call_activity_with_retry("act", df.RetryOptions(5, 4), spec),
        "sub": lambda: context.call_sub_orchestrator("program", {"steps": op["steps"], "path": path}),
        "timer": lambda: context.create_timer(context.current_utc_datetime + timedelta(milliseconds=op["ms"])),
        "entity": lambda: context.call_entity(df.EntityId("tally", path), "add", 1),
    }[op["kind"]]()


@app.orchestration_trigger(context_name="context")
def program(context: df.DurableOrchestrationContext):
    spec, out = context.get_input(), []
    for number, step in enumerate(spec["steps"]):
        path = f"{spec['path']}/{number}"
        tasks = [task_of(context, op, f"{path}.{i}") for i, op in enumerate(step["ops"])]
        if step["how"] == "each":
            got = []
            for task in tasks:
                result = yield task
                got += [result]
        else:
            if step["how"] == "any":
                yield context.task_any(tasks)
            got = yield context.task_all(tasks)
        out.append(got)
        if step["signal"]:
            context.signal_entity(df.EntityId("tally", path), "add", 1)
        context.set_custom_status({"step": number})
    return out
