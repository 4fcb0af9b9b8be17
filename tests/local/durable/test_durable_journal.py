"""Runs survive the host's death on the journal: nothing recorded is repeated, nothing scheduled is lost."""

import json
from collections import Counter
from pathlib import Path

import azure.durable_functions as df

from local.durable.host import Host


def test_runs_survive_two_kills(start_process, tmp_path):
    """A chain, a fan-out in children, continue-as-new, an entity and a waiting instance, killed twice with SIGKILL."""
    log = tmp_path / "chain.log"
    options = ("--journal", str(tmp_path / "state.db"))
    host = start_process("demo", *options)
    steps = 8
    links = {
        "chain": host.start("slow_steps", {"n": steps, "file": str(log), "s": 0.05}),
        "fan": host.start("paced_batched", {"n": 100, "ms": 20, "batch": 20}),
        "continued": host.start("counting", {"i": 0, "to": 60}),
        "entity": host.start("entity_caller", {"key": "crash"}),
        "waiting": host.start("approval"),
    }
    host.wait(links["entity"])
    host.until(links["waiting"], lambda status: status["customStatus"] == "waiting")

    def rebased(name):
        return {"statusQueryGetUri": links[name]["statusQueryGetUri"].split("/runtime/")[1].join(["/runtime/", ""])}

    killed_during = []
    for reached in (2, 5):
        host.until(
            rebased("chain"), lambda _, reached=reached: log.exists() and len(log.read_text().splitlines()) >= reached
        )
        killed_during.append(host.call("GET", rebased("chain")["statusQueryGetUri"])[2]["runtimeStatus"])
        host.end(kill=True)
        host = start_process("demo", *options)
    assert killed_during == ["Running", "Running"]
    assert host.wait(rebased("chain"))["output"] == [list(range(steps)), [2470, 25]]
    assert host.wait(rebased("fan"))["output"] == 100
    continued = host.wait(rebased("continued"))
    assert (continued["output"], continued["customStatus"]) == ({"finished": 60}, {"at": 60})
    assert host.call("GET", f"{host.durable}/entities/counter/crash")[2] == 8
    for body in (1, 2):
        where = f"{host.durable}/instances/{links['waiting']['id']}/raiseEvent/go"
        assert host.call("POST", where, body)[0] == 202
    assert host.wait(rebased("waiting"))["output"] == [1, 2]
    runs = Counter(int(line.split()[0]) for line in log.read_text().splitlines())
    assert set(runs) == set(range(steps))
    # only the step that a kill interrupted, between its line and its record, may have run again
    assert sum(runs.values()) <= steps + 2


def reopened(app: df.DFApp, journal: Path) -> Host:
    return Host(functions=app, journal=journal)


def waiting_app() -> df.DFApp:
    """An orchestrator that waits for two events."""
    app = df.DFApp()

    @app.orchestration_trigger(context_name="context")
    def waits(context):
        context.set_custom_status("waiting")
        first = yield context.wait_for_external_event("go")
        second = yield context.wait_for_external_event("go")
        return sorted([first, second])

    return app


def test_an_event_that_reaches_a_suspended_instance_is_in_the_journal(tmp_path, until):
    """It is delivered after a restart and a resume."""
    app, journal = waiting_app(), tmp_path / "state.db"
    with reopened(app, journal) as host:
        run = host.hub.start("waits")
        host.hub.suspend(run)
        until(lambda: host.hub.status(run)["runtimeStatus"], lambda status: status == "Suspended")
        host.hub.raise_event(run, "go", 1)
    with reopened(app, journal) as host:
        assert host.hub.status(run)["runtimeStatus"] == "Suspended"
        host.hub.resume(run)
        host.hub.raise_event(run, "go", 2)
        assert host.hub.wait(run)["output"] == [1, 2]


def test_a_finished_instance_is_still_there_after_a_restart_and_stays_purged(tmp_path):
    """Status, output and history are read from the journal."""
    app, journal = waiting_app(), tmp_path / "state.db"
    with reopened(app, journal) as host:
        run = host.hub.start("waits", {"a": 1})
        for value in (1, 2):
            host.hub.raise_event(run, "go", value)
        before = host.hub.wait(run), host.hub.history(run)
    with reopened(app, journal) as host:
        assert json.dumps((host.hub.status(run), host.hub.history(run))) == json.dumps(before)
        assert host.hub.purge(run) == 1
    with reopened(app, journal) as host:
        assert host.hub.status(run) is None
