"""What a killed command leaves for the same command: which loads ended, and when it asked for the one that did not."""

from __future__ import annotations

from pathlib import Path

from local.outcome import Outcome
from local.unfinished import Unfinished

COMMAND = {"sources": ["a", "b"], "mode": "full"}


def test_a_load_that_ended_is_kept_for_the_same_command(tmp_path: Path) -> None:
    """Whole; another command knows nothing of it."""
    path = tmp_path / "command.json"
    outcome = Outcome("a-1", "a", "full", "complete", {"streams": {"s": {"accepted": 3}}}, wall_s=1.5)
    Unfinished(path, COMMAND).has_ended(outcome)
    again = Unfinished(path, COMMAND)
    assert again.ended("a") == outcome
    assert again.ended("b") is None
    assert Unfinished(path, {**COMMAND, "mode": "delta"}).ended("a") is None


def test_a_load_that_failed_is_asked_for_again(tmp_path: Path) -> None:
    """It is no end: the next load takes the run up."""
    path = tmp_path / "command.json"
    first = Unfinished(path, COMMAND)
    first.asking("a")
    first.has_ended(Outcome("a-1", "a", "full", "failed"))
    again = Unfinished(path, COMMAND)
    assert again.ended("a") is None
    assert again.asked_at("a") == ""


def test_the_first_time_that_a_load_was_asked_for_counts(tmp_path: Path) -> None:
    """An instance that was created since then is that load's."""
    path = tmp_path / "command.json"
    first = Unfinished(path, COMMAND)
    assert first.asked_at("a") == ""
    first.asking("a")
    asked_at = first.asked_at("a")
    again = Unfinished(path, COMMAND)
    again.asking("a")
    assert again.asked_at("a") == asked_at != ""


def test_nothing_is_left_of_a_command_that_ended(tmp_path: Path) -> None:
    """The next one loads everything."""
    path = tmp_path / "command.json"
    command = Unfinished(path, COMMAND)
    command.has_ended(Outcome("a-1", "a", "full", "complete"))
    command.close()
    assert list(tmp_path.iterdir()) == []
