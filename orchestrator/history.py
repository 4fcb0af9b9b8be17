"""How much history one execution of the run has written, counted by what each step costs at worst.

Invariant: it counts what the code has waited for, which is the same in every replay; the history itself is longer in a later one. Whoever asks before
each step and continues as new when it is full stays below 500 events, whatever the number of streams, parts and tries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

EVENTS_PER_STEP: Final = 4
"""Scheduled and completed, and the episode that takes the completion: OrchestratorStarted, OrchestratorCompleted."""

FULL_EVENTS: Final = 380
"""A step that begins below it may still be an activity with all its tries and waits (84 events), or a turn of 25 streams."""


@dataclass(slots=True)
class History:
    """The events of this execution, at worst; the first episode has three."""

    events: int = 3

    def waited(self, steps: int = 1) -> None:
        """Note activities, timers or sub-orchestrations that were waited for."""
        self.events += EVENTS_PER_STEP * steps

    @property
    def full(self) -> bool:
        """Whether the run has to continue as new before its next step."""
        return self.events >= FULL_EVENTS
