"""Faults on demand: which ingestion requests fail, and how, decided by a seed and the request's number alone.

The same seed, rate and kinds give the same faults to the same sequence of requests; scripted answers come before drawn ones.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any, Final

KINDS: Final = frozenset(
    {
        "429",
        "429-no-retry-after",
        "500",
        "502",
        "503",
        "408",
        "drop-before",
        "drop-after",
        "expired-token",
        "slow",
    }
)
"""What a drawn fault can be. drop-before closes the connection and takes nothing; drop-after stores the rows and then closes it without an
answer, which makes duplicates of an honest retry; expired-token is one 401; slow waits and then answers as always."""


class Faults:
    """The faults that are in force; `configure` replaces them all."""

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        self.configure(settings or {})

    def configure(self, settings: Mapping[str, Any]) -> None:
        """Take `{"seed", "rate", "kinds", "retry_after_s", "slow_s", "fail_next"}`, all optional; request numbers start again at 0.

        `fail_next` lists the next answers in order: a status, one of `KINDS`, or 204 for "as always". Raises ValueError.
        """
        unknown = settings.keys() - {"seed", "rate", "kinds", "retry_after_s", "slow_s", "fail_next"}
        if unknown:
            raise ValueError(f"unknown fault settings: {sorted(unknown)}")
        kinds = [str(kind) for kind in settings.get("kinds", sorted(KINDS))]
        if not kinds or not KINDS.issuperset(kinds):
            raise ValueError(f"kinds must be some of {sorted(KINDS)}, not {kinds}")
        script = [str(answer) for answer in settings.get("fail_next", [])]
        bad = [
            answer for answer in script if answer not in KINDS and not (answer.isdigit() and 200 <= int(answer) <= 599)
        ]
        if bad:
            raise ValueError(f"fail_next takes statuses and kinds, not {bad}")
        rate = float(settings.get("rate", 0.0))
        if not 0 <= rate <= 1:
            raise ValueError(f"rate must be within 0 and 1, not {rate}")
        self._seed = int(settings.get("seed", 0))
        self._rate = rate
        self._kinds = kinds
        self._script = deque(script)
        self._number = 0
        self.retry_after_s = int(settings.get("retry_after_s", 0))
        self.slow_s = float(settings.get("slow_s", 0.2))
        self.counts: Counter[str] = Counter()

    def draw(self) -> str | None:
        """What happens to the next request: a kind, a scripted status, or None for an answer as always."""
        number = self._number
        self._number += 1
        if self._script:
            fault: str | None = self._script.popleft()
            fault = None if fault == "204" else fault
        else:
            chance = random.Random(f"{self._seed}:{number}")
            fault = chance.choice(self._kinds) if chance.random() < self._rate else None
        if fault is not None:
            self.counts[fault] += 1
        return fault
