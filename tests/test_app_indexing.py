"""The function app as the Functions worker sees it: which functions, how they are bound, and what importing it costs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import contracts

ROOT = Path(__file__).resolve().parents[1]

PROBE = """
import json, sys
import function_app
loaded = set(sys.modules)
from local.durable.functions import index
from pathlib import Path
app = index(function_app.app, Path('.'))
print(json.dumps({
    'loaded': sorted(loaded),
    'functions': {name: {'kind': f.kind, 'async': f.is_async, 'clients': f.clients, 'trigger': f.trigger.get_dict_repr()}
                  for name, f in app.functions.items()},
    'durable': {kind: sorted(table) for kind, table in app.durable.items()},
}, default=str))
"""


def _said(*arguments: str) -> list[str]:
    """The lines that Python prints there, without any setting."""
    run = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"},
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


@pytest.fixture(scope="module")
def indexed() -> Any:
    """The app, imported and indexed in a process of its own, without any setting."""
    return json.loads(_said("-W", "error::SyntaxWarning", "-c", PROBE)[-1])


def test_bound_names_are_those_of_contracts(indexed: Any) -> None:
    """Orchestrators call activities by these names: one that is not bound would fail at run time only."""
    assert indexed["durable"]["orchestrator"] == sorted(contracts.ORCHESTRATORS)
    assert indexed["durable"]["activity"] == sorted(contracts.ACTIVITIES)
    assert indexed["durable"]["entity"] == []


def test_an_app_without_settings_answers_with_facts() -> None:
    """Every activity, whatever it needs first: an orchestrator decides on facts, and an exception's text would stay in its history."""
    called = """
from pathlib import Path
from local.durable.functions import load
for name, function in load(Path('.')).durable['activity'].items():
    answer = function.call(**{function.trigger.name: {}})
    print(name, sorted({'stop', 'again'} & answer.keys()))
"""
    told = dict(line.split(" ", 1) for line in _said("-c", called))
    assert told.keys() == set(contracts.ACTIVITIES)
    assert set(told.values()) <= {"['stop']", "['again']"}


def test_the_http_surface_is_what_users_are_told(indexed: Any) -> None:
    """Start, list, look, cancel, health; each with a durable client."""
    routes = {
        (
            tuple(str(method).rsplit(".", maxsplit=1)[-1] for method in function["trigger"]["methods"]),
            function["trigger"]["route"],
        )
        for function in indexed["functions"].values()
        if function["kind"] == "httpTrigger"
    }
    assert routes == {
        (("POST",), "loads"),
        (("GET",), "loads"),
        (("GET",), "loads/estimate"),
        (("GET",), "loads/{run_id}"),
        (("POST",), "loads/{run_id}/cancel"),
        (("GET",), "health"),
    }
    outer = [f for f in indexed["functions"].values() if f["kind"] in {"httpTrigger", "timerTrigger"}]
    assert len(outer) == 8
    # An estimate starts nothing.
    assert all(f["clients"] == ["client"] for f in outer if f["trigger"].get("route") != "loads/estimate")


def test_no_route_is_anonymous(indexed: Any) -> None:
    """What is wrong with an app is nobody's business who has no key for it."""
    triggers = [f["trigger"] for f in indexed["functions"].values() if f["kind"] == "httpTrigger"]
    assert {str(trigger["authLevel"]).rsplit(".", maxsplit=1)[-1].upper() for trigger in triggers} == {"FUNCTION"}


def test_schedules_are_settings(indexed: Any) -> None:
    """Two timers, whose schedules the platform reads from the app's settings; none fires at start."""
    timers = [f["trigger"] for f in indexed["functions"].values() if f["kind"] == "timerTrigger"]
    assert sorted(timer["schedule"] for timer in timers) == ["%DELTA_SCHEDULE%", "%FULL_SCHEDULE%"]
    assert not any(timer.get("runOnStartup") for timer in timers)


@pytest.mark.parametrize(
    "name", ["polars", "pyarrow", "azure.storage", "azure.monitor", "azure.identity", "local", "activities.upload"]
)
def test_importing_the_app_stays_light(indexed: Any, name: str) -> None:
    """Heavy packages are imported by the activities that need them, so that indexing and an orchestrator's worker start fast."""
    loaded = [module for module in indexed["loaded"] if module == name or module.startswith(name + ".")]
    assert loaded == []


def test_importing_the_app_needs_no_setting_and_builds_nothing(indexed: Any) -> None:
    """The worker indexes the app before anything is configured: the probe ran without an environment."""
    assert "contracts" in indexed["loaded"]
    assert "settings" in indexed["loaded"]
