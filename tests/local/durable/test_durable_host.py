"""The host itself: the in-process API, its end, its limits, its command line, and the repairs of the engine."""

import asyncio
import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import azure.durable_functions as df
import pytest

from local.durable.engine import EngineError
from local.durable.functions import AppNotIndexedError, index
from local.durable.host import Host
from local.durable.limits import PAYLOAD_BYTES
from local.durable.triggers import paths

APPS = Path(__file__).parent / "apps"
ROOT = Path(__file__).parents[3]


def app_of(*functions, **activities) -> df.DFApp:
    """An app of undecorated orchestrators and activities."""
    app = df.DFApp()
    for function in functions:
        app.orchestration_trigger(context_name="context")(function)
    for name, activity in activities.items():
        activity.__name__ = name
        app.activity_trigger(input_name="value")(activity)
    return app


def calls(context):
    """Calls the activity `work` with its input."""
    return (yield context.call_activity("work", context.get_input()))


def test_a_host_runs_an_app_object_without_a_network():
    """start, wait, status and history; the same object can be hosted again."""

    def work(value):
        return value * 2

    app = app_of(calls, work=work)
    for _ in range(2):
        with Host(functions=app) as host:
            status = host.run("calls", 21)
            assert (status["runtimeStatus"], status["output"]) == ("Completed", 42)
            kinds = [event["EventType"] for event in host.hub.history(status["instanceId"])]
            assert kinds == ["ExecutionStarted", "TaskCompleted", "ExecutionCompleted"]


def test_close_ends_every_thread_even_with_work_under_way(until):
    """An async activity is cancelled, a sync one waited for, a timer forgotten; the result that comes late is dropped."""
    running, release = threading.Event(), threading.Event()

    def work(value):
        running.set()
        release.wait(20)
        return value

    async def nap(value):
        await asyncio.sleep(60)

    def waits(context):
        timer = context.create_timer(context.current_utc_datetime + timedelta(hours=1))
        yield context.task_all([timer, context.call_activity("work", 1), context.call_activity("nap", 1)])

    before = set(threading.enumerate())
    host = Host(functions=app_of(waits, work=work, nap=nap))
    host.hub.start("waits")
    assert running.wait(20)
    threading.Timer(0.05, release.set).start()
    host.close()
    until(lambda: set(threading.enumerate()) - before, lambda left: not left)
    with pytest.raises(EngineError, match="closed"):
        host.hub.start("waits")


def test_host_json_bounds_the_activities_that_run_side_by_side():
    """maxConcurrentActivityFunctions is the most that ever run together."""
    lock, running, peak = threading.Lock(), 0, 0
    both = threading.Barrier(2)

    def work(value):
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
        both.wait(20)  # passes only when two run together
        with lock:
            running -= 1

    def fan(context):
        yield context.task_all([context.call_activity("work", i) for i in range(12)])

    config = {"extensions": {"durableTask": {"maxConcurrentActivityFunctions": 2}}}
    with Host(functions=app_of(fan, work=work), config=config) as host:
        assert host.run("fan")["runtimeStatus"] == "Completed"
    assert peak == 2


def test_deliver_is_the_seam_for_how_an_activity_is_run_and_completed():
    """Run twice and completed twice, as at-least-once delivery may: the orchestration sees one result."""
    ran = []

    def work(value):
        ran.append(value)
        return len(ran)

    def twice(request, run, complete):
        complete(run())
        complete(run())

    def chain(context):
        first = yield context.call_activity("work", "a")
        yield context.create_timer(context.current_utc_datetime + timedelta(milliseconds=50))
        return first

    with pytest.warns(UserWarning, match="duplicate"), Host(functions=app_of(chain, work=work), deliver=twice) as host:
        assert host.run("chain")["output"] == 1
    assert ran == ["a", "a"]


@pytest.mark.parametrize(
    "where",
    ["activity input", "activity output", "orchestrator output", "sub-orchestration input", "continue-as-new input"],
)
def test_a_payload_over_one_megabyte_fails_as_durable_task_scheduler_would(open_host, where):
    """With the size, the limit and the remedy; half of it passes."""
    host = open_host("demo")
    status = host.run("big", {"where": where, "size": PAYLOAD_BYTES})
    assert status["runtimeStatus"] == "Failed"
    assert "takes at most 1,048,576. Put the data in a blob" in status["output"]
    assert host.run("big", {"where": where, "size": PAYLOAD_BYTES // 2})["runtimeStatus"] == "Completed"


def test_the_limit_counts_bytes_of_utf_8_and_is_exact(open_host):
    """Quotes included, twice over for an orchestrator's input; events too."""
    host = open_host("demo")
    with pytest.raises(ValueError, match="The input of orchestrator function 'no_yield' is 1,048,577 bytes"):
        host.hub.start_json("no_yield", '"' + "x" * (PAYLOAD_BYTES - 1) + '"')
    with pytest.raises(ValueError, match="The input of orchestrator"):
        host.hub.start_json("no_yield", '"' + "ü" * (PAYLOAD_BYTES // 2) + '"')
    run = host.hub.start("approval")
    with pytest.raises(ValueError, match="The data of event 'go'"):
        host.hub.raise_event(run, "go", "x" * PAYLOAD_BYTES)
    host.hub.start_json("no_yield", '"' + "x" * (PAYLOAD_BYTES - 2) + '"')


@pytest.mark.parametrize(("size", "outcome"), [(8190, "Completed"), (8191, "Failed")])
def test_a_custom_status_over_16_kb_of_utf_16_fails_the_orchestration(open_host, size, outcome):
    """8,190 characters and two quotes are exactly 16 KB."""
    status = open_host("demo").run("big", {"where": "custom status", "size": size})
    assert status["runtimeStatus"] == outcome
    assert outcome == "Completed" or "must not exceed 16 KB" in status["output"]


@pytest.mark.parametrize("bad", ["@x", "a/b", "a\\b", "a#b", "a?b", "a\x01b", "x" * 101])
def test_an_instance_id_that_azure_refuses_is_refused(open_host, bad):
    """Reference 5.8."""
    with pytest.raises(ValueError, match="instance ids must not"):
        open_host("demo").hub.start("fan", {"n": 1}, bad)


def test_work_left_by_an_earlier_execution_does_not_reach_a_new_one_of_the_same_id(until):
    """An activity, a timer and a sub-orchestration of a terminated run finish while its successor waits for its own."""
    old_runs, release = threading.Event(), threading.Event()

    def work(value):
        if value == "old":
            old_runs.set()
            release.wait(20)
        return value

    def child(context):
        yield context.wait_for_external_event("end")
        return context.get_input()

    def run(context):
        age = context.get_input()
        timer = context.create_timer(context.current_utc_datetime + timedelta(seconds=0.3 if age == "old" else 0.6))
        tasks = [
            context.call_activity("work", age),
            context.call_sub_orchestrator("child", age, f"child-{age}"),
            timer,
        ]
        started = context.current_utc_datetime
        got = yield context.task_all(tasks)
        return [*got[:2], (context.current_utc_datetime - started).total_seconds() >= 0.6]

    with Host(functions=app_of(run, child, work=work)) as host:
        host.hub.start("run", "old", "source")
        assert old_runs.wait(20)
        until(lambda: host.hub.status("child-old"), lambda status: status and status["runtimeStatus"] == "Running")
        host.hub.terminate("source")
        host.hub.wait("source")
        host.hub.start("run", "new", "source")
        until(lambda: host.hub.status("child-new"), lambda status: status and status["runtimeStatus"] == "Running")
        host.hub.raise_event("child-old", "end")
        assert host.hub.wait("child-old")["output"] == "old"
        release.set()
        host.hub.raise_event("child-new", "end")
        assert host.hub.wait("source")["output"] == ["new", "new", True]


def test_a_resume_that_meets_the_suspending_episode_is_not_forgotten(until):
    """It comes while the orchestrator is still replaying for the suspension, and the instance goes on all the same."""
    hold, replaying, release = threading.Event(), threading.Event(), threading.Event()

    def waits(context):
        if hold.is_set():
            replaying.set()
            release.wait(20)
        return (yield context.wait_for_external_event("go"))

    with Host(functions=app_of(waits)) as host:
        run = host.hub.start("waits")
        until(lambda: host.hub.status(run)["runtimeStatus"], lambda status: status == "Running")
        hold.set()
        host.hub.suspend(run)
        assert replaying.wait(20)
        host.hub.resume(run)
        release.set()
        until(lambda: host.engine.episodes, lambda episodes: episodes >= 2)
        host.hub.raise_event(run, "go", 1)
        assert host.hub.wait(run, 10)["output"] == 1


def test_the_custom_status_outlives_an_execution_that_sets_none(until):
    """After continue-as-new the last one is still shown; upstream shows an empty one."""

    def waits(context):
        if context.get_input() == 0:
            context.set_custom_status("from the first")
            yield context.call_activity("work", 1)
            context.continue_as_new(1)
            return None
        return (yield context.wait_for_external_event("go"))

    def work(value):
        return value

    with Host(functions=app_of(waits, work=work)) as host:
        run = host.hub.start("waits", 0)
        until(
            lambda: host.hub.status(run), lambda status: (status["input"], status["runtimeStatus"]) == ("1", "Running")
        )
        assert host.hub.status(run)["customStatus"] == "from the first"
        host.hub.raise_event(run, "go", 1)
        assert host.hub.wait(run)["customStatus"] == "from the first"


def test_an_event_reaches_the_newest_of_those_that_wait_for_its_name(until):
    """One that lost a race against a timer does not swallow it: the extension keeps a stack of waiters."""

    def races(context):
        timer = context.create_timer(context.current_utc_datetime + timedelta(milliseconds=30))
        yield context.task_any([timer, context.wait_for_external_event("go")])
        context.set_custom_status("again")
        value = yield context.wait_for_external_event("go")
        return (yield context.call_activity("work", value))

    def work(value):
        return value

    with Host(functions=app_of(races, work=work)) as host:
        run = host.hub.start("races")
        until(lambda: host.hub.status(run)["customStatus"], lambda status: status == "again")
        host.hub.raise_event(run, "go", 7)
        assert host.hub.wait(run, 10)["output"] == 7


def test_events_that_come_with_the_one_that_continues_as_new_are_carried_over(until):
    """Both are held while suspended; the first ends the execution, the second belongs to the next."""

    def collects(context):
        value = yield context.wait_for_external_event("go")
        seen = [*context.get_input(), value]
        if len(seen) < 2:
            context.continue_as_new(seen)
            return None
        return seen

    with Host(functions=app_of(collects)) as host:
        run = host.hub.start("collects", [])
        host.hub.suspend(run)
        until(lambda: host.hub.status(run)["runtimeStatus"], lambda status: status == "Suspended")
        for value in (1, 2):
            host.hub.raise_event(run, "go", value)
        host.hub.resume(run)
        assert host.hub.wait(run, 10)["output"] == [1, 2]


def test_an_activity_that_fails_without_a_message_fails():
    """Upstream takes it for a success that returned null."""

    def work(value):
        raise ValueError

    with Host(functions=app_of(calls, work=work)) as host:
        assert host.run("calls", 1)["runtimeStatus"] == "Failed"


def test_an_orchestrator_changed_under_its_instance_is_non_deterministic(tmp_path, until):
    """Its history schedules an activity that the new code does not."""
    release = threading.Event()

    def work(value):
        release.wait(20)

    def other(value):
        return value

    def first(context):
        return (yield context.call_activity("work", 1))

    def second(context):
        return (yield context.call_activity("other", 1))

    first.__name__ = second.__name__ = "changed"
    journal = tmp_path / "state.db"
    with Host(functions=app_of(first, work=work, other=other), journal=journal) as host:
        run = host.hub.start("changed")
        until(lambda: host.hub.status(run)["runtimeStatus"], lambda status: status == "Running")
        host.stop()  # as if killed: the result comes too late
        release.set()
    with Host(functions=app_of(second, work=work, other=other), journal=journal) as host:
        status = host.hub.wait(run)
    assert status["runtimeStatus"] == "Failed"
    assert "Was a change made to the orchestrator code" in status["output"]


@pytest.mark.parametrize(
    ("route", "expected"),
    [
        ("loads", ["/api/loads"]),
        ("loads/{id}", ["/api/loads/{id}"]),
        ("loads/{id:guid}/{n:int?}", ["/api/loads/{id}/{n}", "/api/loads/{id}"]),
        ("files/{*path}", ["/api/files/{path:.*}"]),
        ("{a?}/{b?}", ["/api/{a}/{b}", "/api/{a}", "/api"]),
    ],
)
def test_routes_are_translated(route, expected):
    """Constraints are dropped, optional parts give more paths, a star takes the rest."""
    assert paths("api", route) == expected


def test_two_functions_of_one_name_are_refused(tmp_path):
    """As in Azure."""
    app = app_of(calls)
    app.activity_trigger(input_name="value")(calls)
    with pytest.raises(AppNotIndexedError, match="unique"):
        index(app, tmp_path)


def test_port_0_gives_a_port_that_all_urls_carry(start_process):
    """The ready line, the management URLs and the durableClient binding agree; only loopback listens."""
    host = start_process("demo", "--port", "0")
    assert host.ready["pid"] == host.process.pid
    assert host.url.startswith("http://127.0.0.1:")
    assert host.start("fan", {"n": 1})["statusQueryGetUri"].startswith(host.url)
    binding = host.call("GET", "/api/binding")[2]
    assert binding["statusQueryGetUri"].startswith(f"{host.url}/runtime/webhooks/durabletask/instances/some-id?")


def test_usage_tells_what_the_process_has_used(start_process):
    """CPU grows with work; the longest history is that of the 50-activity fan-out."""
    host = start_process("demo")
    host.run("counting", {"i": 0, "to": 3})
    before = host.call("GET", "/admin/host/usage")[2]
    host.run("fan", {"n": 50})
    after = host.call("GET", "/admin/host/usage")[2]
    assert set(after) == {"cpu_s", "engine_cpu_s", "peak_memory_mb", "pid", "episodes", "history_events_max"}
    assert after["pid"] == host.process.pid
    assert after["cpu_s"] > before["cpu_s"] > 0
    assert 0 < after["engine_cpu_s"] - before["engine_cpu_s"] <= after["cpu_s"] - before["cpu_s"] + 0.05
    assert 20 < after["peak_memory_mb"] < 500
    assert after["episodes"] > before["episodes"] >= 4
    assert before["history_events_max"] < 104 <= after["history_events_max"] < 250


@pytest.mark.parametrize(
    ("app", "message"),
    [
        pytest.param("bad", "parameters ['item'] have no binding", id="binding without parameter"),
        pytest.param("unparsable", "cannot be imported: RuntimeError: no settings", id="import fails"),
        pytest.param("..", "there is no function_app.py", id="no app"),
        pytest.param("absent", "No such file or directory", id="no folder"),
    ],
)
def test_an_app_that_cannot_be_indexed_ends_with_2_and_says_why(app, message):
    """Nothing on stdout."""
    command = [sys.executable, "-W", "ignore", "-m", "local.durable", str(APPS / app)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_within_seconds_even_while_an_activity_runs(start_process, until, number):
    """With exit code 0, though the activity would take a minute."""
    host = start_process("demo")
    links = host.start("paced", {"n": 1, "ms": 60_000})
    host.until(links, lambda status: status["runtimeStatus"] == "Running")
    begun = time.monotonic()
    host.process.send_signal(number)
    assert host.process.wait(10) == 0
    assert time.monotonic() - begun < 4  # about two, and a busy machine


def test_a_signal_ends_the_process_while_an_http_function_waits_in_a_thread(start_process, until, tmp_path):
    """For blob storage that has gone before it, say: the next command waits for this process to leave its directory."""
    host = start_process("demo")
    mark = tmp_path / "waits"
    where = urlsplit(host.url)
    caller = http.client.HTTPConnection(where.hostname, where.port)
    try:
        caller.request("POST", f"/api/stuck?mark={mark}")
        until(mark.exists, bool)
        host.process.terminate()
        assert host.process.wait(10) == 0
    finally:
        caller.close()


def test_a_process_whose_starter_has_gone_meanwhile_ends(start_process, until, tmp_path):
    """Nobody reads what it says when it is ready; the activity that its journal resumed does not keep it."""
    journal = tmp_path / "journal.db"
    host = start_process("demo", "--journal", str(journal))
    links = host.start("paced", {"n": 1, "ms": 60_000})
    host.until(links, lambda status: status["runtimeStatus"] == "Running")
    host.end(kill=True)
    command = [sys.executable, "-W", "ignore", "-m", "local.durable", str(APPS / "demo"), "--journal", str(journal)]
    read, write = os.pipe()
    os.close(read)
    with subprocess.Popen([*command, "--with-parent"], cwd=ROOT, stdout=write, stderr=subprocess.DEVNULL) as orphan:
        os.close(write)
        try:
            assert orphan.wait(20) == 0
        finally:
            orphan.kill()


def test_with_parent_ends_when_the_parent_dies(until):
    """The parent exits at once; the host notices within about a second."""
    parent = (
        "import subprocess, sys\n"
        f"p = subprocess.Popen([sys.executable, '-W', 'ignore', '-m', 'local.durable', {str(APPS / 'demo')!r}, '--with-parent'],"
        " stdout=subprocess.PIPE, text=True)\n"
        "print(p.pid, p.stdout.readline(), flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", parent], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    pid = int(done.stdout.split()[0])
    assert "http://127.0.0.1:" in done.stdout

    def alive():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        stat = Path(f"/proc/{pid}/stat")  # where nobody reaps orphans it stays as a zombie
        return not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"

    try:
        until(alive, lambda value: not value, 10)
    finally:
        if alive():
            os.kill(pid, signal.SIGKILL)
