"""A kill at a chosen point: at the n-th delivery of an activity, before it begins, or when it has done its work and nobody knows yet.

Invariant: one kill, of this process, and before it of the one that started it when that is wanted; every other delivery is a plain one.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Self

PLACES: Final = ("begin", "end")


def end_process(*, with_parent: bool = False) -> None:
    """SIGKILL to this process; before it, with `with_parent`, to the one that started it, so that it cannot start this one again."""
    if with_parent and os.getppid() > 1:
        os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(slots=True)
class KillAt:
    """A point, as "diff:1" or "upload:3:end"; `deliver` is the Deliver that meets it. `name` without case, as durable names are."""

    name: str
    number: int
    place: str
    kill: Callable[[], None] = end_process
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _seen: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """The point that the text names; raises ValueError with what is wrong."""
        name, number, place = [*text.split(":"), "begin"][:3] if text.count(":") in {1, 2} else ("", "", "")
        if not name or not number.isdecimal() or int(number) < 1 or place not in PLACES:
            raise ValueError(f"{text!r} is no point to kill at: use NAME:N or NAME:N:end, such as upload:2:end")
        return cls(name.lower(), int(number), place)

    def deliver(self, request: Any, run: Callable[[], Any], complete: Callable[[Any], None]) -> None:
        """Run the activity and hand its response over, unless this is the delivery and the place to end at."""
        with self._lock:
            self._seen += request.name.lower() == self.name
            due = self._seen == self.number and request.name.lower() == self.name
        if due and self.place == "begin":
            self.kill()
        response = run()
        if due and self.place == "end":
            self.kill()
        complete(response)
