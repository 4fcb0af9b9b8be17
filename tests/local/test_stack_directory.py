"""Whose a stack's directory is: commands at the same time do not take each other's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from local.stack import LOCK, Stack, StackError


@pytest.fixture
def begin() -> Iterator[Callable[[Path], Stack]]:
    """A function: a stack that has a directory anew, and of which nothing is started."""
    begun: list[Stack] = []

    def anew(directory: Path) -> Stack:
        begun.append(Stack(directory, None, "http://127.0.0.1:9").begin_anew())
        return begun[-1]

    yield anew
    for stack in begun:
        stack.stop()


def test_commands_at_the_same_time_have_directories_of_their_own(
    begin: Callable[[Path], Stack], tmp_path: Path
) -> None:
    """The second leaves what the first has where it is, and so does the third."""
    first = begin(tmp_path / "state" / "last")
    (first.directory / "blobs").mkdir()
    (first.directory / "blobs" / "one").write_text("the first's")
    others = [begin(tmp_path / "state" / "last").directory.name for _ in range(2)]
    assert (first.directory.name, others) == ("last", ["last-2", "last-3"])
    assert (first.directory / "blobs" / "one").read_text() == "the first's"


def test_the_next_command_begins_with_nothing(begin: Callable[[Path], Stack], tmp_path: Path) -> None:
    """In the same directory once it is free, whose lock stays the same file: whoever waits for it has it open."""
    first = begin(tmp_path / "last")
    (first.directory / "blobs").mkdir()
    (first.directory / "blobs" / "one").write_text("the first's")
    (first.directory / "products.json").write_text("{}")
    lock = (first.directory / LOCK).stat().st_ino
    first.stop()
    second = begin(tmp_path / "last")
    assert [(path.name, path.stat().st_ino) for path in second.directory.iterdir()] == [(LOCK, lock)]


def test_a_directory_that_was_named_is_waited_for(
    begin: Callable[[Path], Stack], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not replaced by another: what it keeps is what the command is about."""
    begin(tmp_path)
    monkeypatch.setattr("local.stack.WAIT_S", 0.0)
    other = Stack(tmp_path, None, "http://127.0.0.1:9")
    with pytest.raises(StackError, match="in use by another command"):
        other.start()
    assert other.parts == {}
