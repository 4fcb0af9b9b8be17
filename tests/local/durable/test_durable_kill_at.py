"""A kill at a chosen point: the right delivery, on the right side of the work, and a process that is really gone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from local.durable.kill_at import KillAt

APPS = Path(__file__).parent / "apps"
ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("point", "events"),
    [
        ("work:2", ["run", "complete", "kill", "run", "complete"]),
        ("WORK:2:end", ["run", "complete", "run", "kill", "complete"]),
    ],
)
def test_a_kill_strikes_the_delivery_that_was_named(point: str, events: list[str]) -> None:
    """Deliveries of other activities do not count, and there is one kill."""
    seen: list[str] = []
    at = KillAt.parse(point)
    at.kill = lambda: seen.append("kill")
    for name, says in (("work", True), ("other", False), ("Work", True), ("other", False)):
        at.deliver(
            SimpleNamespace(name=name),
            lambda says=says: seen.append("run") if says else None,
            lambda _, says=says: seen.append("complete") if says else None,
        )
    assert seen == events
    at.deliver(SimpleNamespace(name="work"), lambda: None, lambda _: None)
    assert seen == events


@pytest.mark.parametrize("text", ["", "diff", "diff:0", "diff:x", ":1", "diff:1:middle", "diff:1:end:2"])
def test_what_is_no_point_is_refused(text: str) -> None:
    """With what one looks like."""
    with pytest.raises(ValueError, match="upload:2:end"):
        KillAt.parse(text)


def test_a_host_goes_on_where_it_was_killed(start_process, tmp_path):  # type: ignore[no-untyped-def]  # the fixtures of a directory without types
    """`--kill-at` ends the process by SIGKILL; on its journal the next one ends what it had begun."""
    journal = ["--journal", str(tmp_path / "state.db")]
    host = start_process("demo", *journal, "--kill-at", "square:3:end")
    instance = host.start("fan", {"n": 5})["id"]
    assert host.process.wait(20) == -9
    host = start_process("demo", *journal)
    assert host.wait({"statusQueryGetUri": f"{host.durable}/instances/{instance}"})["output"] == 30


def test_two_kinds_of_kills_are_too_many() -> None:
    """Chaos and a chosen point at once are refused."""
    command = [sys.executable, "-m", "local.durable", str(APPS / "demo"), "--chaos", "1", "--kill-at", "square:1"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 2
    assert "use one of them" in ended.stderr
