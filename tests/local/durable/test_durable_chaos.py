"""Chaos: each thing that happens to a delivery happens as drawn, is survived, and is drawn alike for the same seed."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import azure.durable_functions as df
import pytest

from local.durable.chaos import LOG_SUFFIX, Chaos, Fate, Rates, drawn, read_log, tally, told
from local.durable.host import Host

APPS = Path(__file__).parent / "apps"
ROOT = Path(__file__).parents[3]

CALM = {"repeat": 0.0, "twins": 0.0, "lose": 0.0, "delay": 0.0, "kill": 0.0}
BRIEF = {"delay_s": (0.01, 0.05), "visibility_s": (0.01, 0.05), "kill_s": (0.001, 0.01)}


def rates(**more: float) -> Rates:
    return Rates(**{**CALM, **BRIEF, **more})


def request(name: str = "work", value: object = 1) -> SimpleNamespace:
    """The little of an ActivityRequest that chaos looks at."""
    return SimpleNamespace(name=name, input=SimpleNamespace(value=json.dumps(value)))


def fan_app(ran: Counter) -> df.DFApp:
    """A fan-out of six whose activity counts its runs."""
    app, lock = df.DFApp(), threading.Lock()

    @app.activity_trigger(input_name="i")
    def square(i):
        with lock:
            ran[i] += 1
        return i * i

    @app.orchestration_trigger(context_name="context")
    def fan(context):
        done = yield context.task_all([context.call_activity("square", i) for i in range(6)])
        return sum(done)

    return app


@pytest.mark.parametrize(
    ("kind", "runs", "counted"),
    [
        ("repeat", 2, {"repeats": 6, "reruns": 6}),
        ("twins", 2, {"repeats": 6, "twins": 6}),
        ("lose", 2, {"repeats": 6, "lost": 6}),
        ("delay", 1, {"delays": 6}),
    ],
)
def test_a_fan_out_survives(kind, runs, counted, tmp_path):
    """The result is right, each activity ran as often as its fate says, and the log has it."""
    ran: Counter = Counter()
    log = tmp_path / "chaos.jsonl"
    with Host(functions=fan_app(ran), deliver=Chaos(1, rates(**{kind: 1.0}), log=log).deliver) as host:
        assert host.run("fan")["output"] == 55
    assert ran == dict.fromkeys(range(6), runs)
    assert {name: count for name, count in tally(log).items() if count} == {"deliveries": 6, **counted}


def test_a_repeat_hands_over_its_first_or_its_second_result():
    """Which one is drawn; the other is dropped, so an orchestration sees one."""
    handed = set()
    for seed in range(20):
        results, events = iter("12"), []
        Chaos(seed, rates(repeat=1.0)).deliver(request(), lambda r=results: next(r), events.append)
        assert len(events) == 1
        handed |= set(events)
    assert handed == {"1", "2"}


def test_twins_run_at_the_same_time_and_the_first_to_finish_is_heard():
    """Both have begun before either ends; the slower one's result goes nowhere."""
    both, handed, order = threading.Barrier(2), threading.Event(), iter(["fast", "slow"])
    heard: list[str] = []

    def run():
        both.wait(20)
        mine = next(order)
        assert mine == "fast" or handed.wait(20)
        return mine

    def complete(response):
        heard.append(response)
        handed.set()

    Chaos(1, rates(twins=1.0)).deliver(request(), run, complete)
    assert heard == ["fast"]


def seed_that_kills(point: str) -> int:
    return next(s for s in range(99) if drawn(s, told("work", "1"), 0, rates(kill=1.0)).kill == point)


@pytest.mark.parametrize(
    ("point", "events"),
    [
        ("before", ["kill", "run", "complete"]),
        ("during", ["run", "kill", "complete"]),
        ("after", ["run", "kill", "complete"]),
    ],
)
def test_a_kill_strikes(point, events):
    """Before the activity, while it runs, or between its success and its completion; never more often than allowed."""
    seen: list[str] = []
    running, killed = threading.Event(), threading.Event()

    def kill():
        # Some milliseconds from the start, which a busy machine may need to begin; the activity does not end without it.
        assert point != "during" or running.wait(20)
        seen.append("kill")
        killed.set()

    def run():
        seen.append("run")
        running.set()
        assert point != "during" or killed.wait(20)

    chaos = Chaos(seed_that_kills(point), rates(kill=1.0), kills=1, kill=kill)
    chaos.deliver(request(), run, lambda _: seen.append("complete"))
    assert seen == events
    chaos.deliver(request(), lambda: None, lambda _: None)
    assert seen == events


def test_the_same_seed_does_the_same_to_another_run():
    """Instance ids and run ids do not count; function, input and the number of the delivery do."""
    message = {"run": {"run_id": "a"}, "stream": "devices", "segment": 3}
    assert told("export", json.dumps(message)) == told("export", json.dumps({**message, "run": {"run_id": "b"}}))
    assert told("export", json.dumps(message)) != told("export", json.dumps({**message, "segment": 4}))
    assert told("export", json.dumps(message)) != told("upload", json.dumps(message))

    def fates(seed: int) -> list[Fate]:
        return [drawn(seed, f"export-{n}", attempt, Rates()) for n in range(50) for attempt in range(3)]

    assert fates(1) == fates(1)
    assert fates(1) != fates(2)
    assert len({fate.does for fate in fates(1)}) == 4


def test_rates_are_shares():
    """Of many deliveries, about as many as the rates say."""
    fates = [drawn(3, f"export-{n}", 0, Rates()) for n in range(4000)]
    does = Counter(fate.does for fate in fates)
    measured = {
        **does,
        "delay": sum(fate.delay_s > 0 for fate in fates),
        "kill": sum(fate.kill != "" for fate in fates),
    }
    for name in CALM:
        assert measured[name] / 4000 == pytest.approx(getattr(Rates(), name), abs=0.015), name


def test_a_successor_counts_on_from_the_log(tmp_path):
    """So the same activity does not meet the same end for ever."""
    log = tmp_path / "chaos.jsonl"
    for _ in range(2):
        chaos = Chaos(1, rates(), log=log)
        chaos.deliver(request(), lambda: None, lambda _: None)
        chaos.deliver(request(value=2), lambda: None, lambda _: None)
    lines = read_log(log)
    assert [line["attempt"] for line in lines] == [0, 0, 1, 1]
    assert len({line["work"] for line in lines}) == 2


def test_a_host_that_is_killed_again_and_again_ends_with_the_right_result(start_process, tmp_path):
    """`--chaos` with a journal: SIGKILL from within, started again, until the fan-out is done."""
    journal = tmp_path / "state.db"
    # That seed kills at one of any 8 deliveries of this activity.
    rate = json.dumps({**BRIEF, "kill": 0.25})
    options = ("--journal", str(journal), "--chaos", "1130", "--chaos-rates", rate, "--chaos-kills")
    host = start_process("demo", *options, "0")
    instance = host.start("paced_batched", {"n": 200, "ms": 10, "batch": 50})["id"]
    host.end(kill=True)
    for _ in range(2):
        command = [sys.executable, "-m", "local.durable", str(APPS / "demo"), *options, "1"]
        assert subprocess.run(command, cwd=ROOT, capture_output=True, timeout=30, check=False).returncode == -9
    host = start_process("demo", *options, "0")
    assert host.wait({"statusQueryGetUri": f"{host.durable}/instances/{instance}"})["output"] == 200
    assert tally(journal.with_suffix(LOG_SUFFIX))["kills"] == 2


def test_without_a_journal_chaos_does_not_kill(start_process):
    """There would be nothing to go on with."""
    options = json.dumps({**CALM, **BRIEF, "kill": 1.0})
    host = start_process("demo", "--chaos", "1", "--chaos-rates", options)
    assert host.run("fan", {"n": 5})["output"] == 30
