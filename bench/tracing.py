"""CPU time of named functions, exclusive of the named functions that they call.

Invariant: the whole process's CPU time is told apart, to whichever named function is innermost at the moment, so the parts add up to the whole. That is only
true while one thing happens at a time: whoever traces keeps one request in flight. A thread pool that works for a waiting function (polars' own) counts
for that function.
"""

from __future__ import annotations

import functools
import importlib
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

Clock = Callable[[], float]


class Trace:
    """CPU seconds and calls by (outermost part, innermost part). `clock`: of the process; another for tests."""

    def __init__(self, clock: Clock = time.process_time) -> None:
        self._clock = clock
        self._open: list[str] = []
        self._since = clock()
        self.seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
        self.calls: Counter[tuple[str, str]] = Counter()

    def _switch(self) -> None:
        now = self._clock()
        if self._open:
            self.seconds[self._open[0], self._open[-1]] += now - self._since
        self._since = now

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens inside for `name`, but for what is counted for parts within it; outside of every part nothing is counted."""
        self._switch()
        self._open.append(name)
        self.calls[self._open[0], name] += 1
        try:
            yield
        finally:
            self._switch()
            self._open.pop()

    @contextmanager
    def watching(self, names: Mapping[str, str]) -> Iterator[list[str]]:
        """Count calls of the functions `names` ("module:attribute" to the part's name) while inside; gives those that are not there."""
        saved: list[tuple[Any, str, Any]] = []
        absent: list[str] = []
        try:
            for place, name in names.items():
                found = find(place)
                if found is None:
                    absent.append(place)
                    continue
                owner, attribute = found
                saved.append((owner, attribute, owner.__dict__[attribute]))
                setattr(owner, attribute, self._watched(getattr(owner, attribute), name))
            yield absent
        finally:
            for owner, attribute, original in reversed(saved):
                setattr(owner, attribute, original)

    def _watched(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def watched(*args: Any, **named: Any) -> Any:
            with self.part(name):
                return function(*args, **named)

        return watched


def find(place: str) -> tuple[Any, str] | None:
    """The object and attribute that "module:attribute" or "module:Class.attribute" names, or None when there is no such thing."""
    module, _, path = place.partition(":")
    *outer, attribute = path.split(".")
    try:
        owner = functools.reduce(getattr, outer, importlib.import_module(module))
    except (ImportError, AttributeError):
        return None
    return (owner, attribute) if attribute in vars(owner) else None
