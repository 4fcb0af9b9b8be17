"""The first contact of a run, where the source's answer is not what it should be."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from activities.open_run import open_run
from contracts import LoadRequest, Policy, Stop
from sources.reader import Patience

POLICY = Policy(1000, 2, 1.0, 60.0, 600.0, 2.0, 60.0)
PAGE = b'{"total_count": 3000, "Devices": [{"id": 1}], "offset": 0, "limit": 1}'
HTML = b"<html>try again later</html>"


class _Source:
    """A reader whose answers are given, in order; the last one for ever."""

    patience = Patience()

    def __init__(self, answers: list[bytes]) -> None:
        self.answers, self.asked = list(answers), 0

    def fetch(self, request: Any, *, first_contact: bool = False) -> tuple[int, bytes]:
        self.asked += 1
        return 200, self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.mark.parametrize(
    ("answers", "lanes"), [([PAGE], 2), ([HTML, HTML, PAGE], 2)], ids=["at once", "after two bad answers"]
)
def test_the_total_is_asked_for_until_the_answer_is_one(bench: Any, answers: list[bytes], lanes: int) -> None:
    """A page of a proxy on first contact is asked for again, as any page would be."""
    plan = _open(bench, _Source(answers))
    assert (len(plan.lanes), plan.expected) == (lanes, {"devices": 3000})


def test_an_answer_that_stays_wrong_stops_the_run_with_a_remedy(bench: Any) -> None:
    """After the tries of a page the run stops, and says which setting to look at."""
    source = _Source([HTML])
    with pytest.raises(Stop, match="check DEVICE42_URL"):
        _open(bench, source)
    assert source.asked == Patience().unreadable_attempts


def _open(bench: Any, source: _Source) -> Any:
    made = bench("device42")
    made.deps = dataclasses.replace(made.deps, reader=lambda _: source)
    return open_run(LoadRequest(made.run.run_id, "device42", "full", made.run.started_at), made.deps, POLICY)
