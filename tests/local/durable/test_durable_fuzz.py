"""Random orchestrations against their known results: the local replay numbers tasks exactly as the SDK does."""

import random

import pytest

RUNS = 40


def operation(rng, depth, *, racing):
    kinds = ["act", "act", "retry", "retry", "timer", "entity"] + (["sub"] if depth < 2 else [])
    kind = rng.choice(kinds)
    if racing and kind == "retry":
        kind = "act"  # no action after a race may depend on a retry still under way: test_durable_hazards
    found = {"kind": kind, "ms": rng.choice([0, 1, 3, 8])}
    if kind == "retry":
        found["fails"] = rng.choice([0, 1, 2, 3])
    if kind == "sub":
        found["steps"] = program(rng, depth + 1)
    return found


def program(rng, depth=0):
    steps = []
    for _ in range(rng.randint(1, 2 if depth else 4)):
        how = rng.choice(["all", "any", "each"])
        ops = [operation(rng, depth, racing=how == "any") for _ in range(rng.randint(1, 3 if depth else 5))]
        steps.append({"how": how, "signal": rng.random() < 0.2, "ops": ops})
    return steps


def expected(steps, path):
    def result(op, where):
        return {
            "act": lambda: f"{where}=1",
            "retry": lambda: f"{where}={op['fails'] + 1}",
            "timer": lambda: None,
            "entity": lambda: 1,
            "sub": lambda: expected(op["steps"], where),
        }[op["kind"]]()

    return [[result(op, f"{path}/{i}.{j}") for j, op in enumerate(step["ops"])] for i, step in enumerate(steps)]


@pytest.mark.parametrize("journalled", [False, True], ids=["in memory", "journal"])
def test_random_orchestrations_give_their_known_results(open_host, tmp_path, journalled):
    """Twelve at a time; a completion that the SDK takes for a duplicate would be a warning, so an error."""
    host = open_host("fuzz", journal=tmp_path / "fuzz.db" if journalled else None)
    rng = random.Random(20 + journalled)
    programs = {f"r{number}": program(rng) for number in range(RUNS)}
    names = list(programs)
    wrong = {}
    for first in range(0, RUNS, 12):
        batch = names[first : first + 12]
        for name in batch:
            host.hub.start("program", {"steps": programs[name], "path": name}, name)
        for name in batch:
            status = host.hub.wait(name)
            if (status["runtimeStatus"], status["output"]) != ("Completed", expected(programs[name], name)):
                wrong[name] = status
    assert wrong == {}
