"""Random sequences of changes and loads: after every complete run the view is the inventory, exactly. `SEQUENCES=100` for more of them than one a source.

Records are created, changed, touched, deleted and re-created between the loads, and come and go at the front of the list while some loads page through it; other loads are
cancelled and never taken up; product and sink fail at random. A model follows what the README promises and nothing else: what a load that did not
end complete may have left behind is unknown until the next complete one, which has to put it right.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from local.products.synthetic import Inventory
from local.truth import ABSENCES, FILTERED, KINDS, as_sent, kind_of
from sources.registry import SOURCES

SEQUENCES = int(os.environ.get("SEQUENCES", "1"))
STEPS = 5
POOL = 700
TODAY = datetime.now(UTC).date()
TRUTH = Inventory(POOL, POOL, seed=1, epoch=TODAY)

FAULTS = {"rate": 0.06, "kinds": ["429", "503", "drop", "drop-mid-body", "expired-token"]}
SINK_FAULTS = {"rate": 0.06, "kinds": ["429", "503", "drop-before", "drop-after", "expired-token"], "retry_after_s": 1}
SIZES = {
    "PAGE_RECORDS": "60",
    "EXPORT_SEGMENT_BYTES": "1048576",
    "UPLOAD_PACK_BYTES": "1048576",
    "UPLOAD_BODY_LIMIT_BYTES": "100000",
}
VIEWS = {"CAASM_Assets_CL": "CAASM_Assets", "CAASM_Findings_CL": "CAASM_Findings"}


@pytest.fixture(scope="module")
def runs(stack_of: Callable[..., Any]) -> Any:
    size = ["--assets", str(POOL), "--findings", str(POOL), "--seed", "1", "--epoch", TODAY.isoformat()]
    return stack_of(*size, **SIZES)


@dataclass
class Listing:
    """What the product has of one stream: record number → days of its last change and its last touch, in the order of export."""

    source: str
    stream: str
    records: dict[int, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.product, self.kind = kind_of(self.source, self.stream)
        self.synthetic = TRUTH.stream(self.product, self.kind)

    def ids(self, numbers: Iterable[int]) -> list[str]:
        named = self.synthetic.ids_of(pa.array(list(numbers), pa.uint64()))
        return [next(iter(as_sent([name]))) for name in named]

    def versions(self) -> dict[str, int]:
        """Id → day of the last change, of all that is there."""
        return dict(zip(self.ids(self.records), (days[0] for days in self.records.values()), strict=True))

    def change(self, chance: random.Random, day: int) -> None:
        """A day goes by. About a twentieth each comes, changes and goes, a third is touched; what comes back stands where it likes."""
        share = chance.choice([0.0, 0.01, 0.05, 0.08])
        for number in list(self.records):
            dice = chance.random()
            if dice < share:
                del self.records[number]
            elif dice < 2 * share:
                self.records[number] = (day, day)
            elif dice < 2 * share + 0.3:
                self.records[number] = (self.records[number][0], day)
        absent = [number for number in range(self.synthetic.count) if number not in self.records]
        new = chance.sample(absent, min(len(absent), round(share * len(self.records)) + chance.randrange(3)))
        order = [*self.records.items()]
        for number in new:
            order.insert(chance.choice([0, len(order), chance.randrange(len(order) + 1)]), (number, (day, day)))
        self.records = dict(order)


@dataclass
class Subject:
    """What is known of one id in the view. `sure`: it is there; `run`: whose row it is, None for unknown; `version`: what the index has of it, None for unknown."""

    sure: bool
    run: str | None
    version: int | None
    absent: int = 0


@dataclass
class Model:
    """The view of one stream, as far as it can be known."""

    source: str
    subjects: dict[str, Subject] = field(default_factory=dict)

    def complete(self, run: str, mode: str, there: dict[str, int], coming: set[str], going: set[str]) -> None:
        """A load has ended complete; `coming` and `going`: ids that came and went while it read, and may have been seen or not."""
        partial = mode == "delta" and self.source in FILTERED
        for key, version in there.items():
            known = self.subjects.get(key)
            if mode == "full" or known is None or (known.version is not None and known.version != version):
                self.subjects[key] = Subject(sure=True, run=run, version=version)
            elif known.version is None:
                self.subjects[key] = Subject(sure=True, run=None, version=version)
            else:
                known.sure, known.absent = True, 0
        moved = bool(coming or going)
        for key in self.subjects.keys() - there.keys() if not partial else set():
            subject = self.subjects[key]
            subject.absent += not moved
            subject.sure &= not moved
            if subject.absent >= ABSENCES[self.source]:
                del self.subjects[key]
        for key in coming | going:
            self.subjects[key] = Subject(sure=False, run=None, version=None)

    def broken_off(self, there: dict[str, int], moving: set[str]) -> None:
        """A load has not ended complete: it may have sent anything that was there; what was in the view is still in it."""
        for key in there.keys() | moving:
            known = self.subjects.get(key, Subject(sure=False, run=None, version=None))
            # It deletes nothing, and absences count from complete load to complete load.
            self.subjects[key] = Subject(known.sure, run=None, version=None, absent=known.absent)

    def check(self, view: dict[str, str], there: dict[str, int]) -> None:
        """The view has everything that it must have, in the right load's row, and nothing that it cannot have."""
        missing = {key for key, subject in self.subjects.items() if subject.sure} - view.keys()
        assert not missing, f"{len(missing)} ids are missing in the view, as {min(missing)}"
        assert there.keys() <= view.keys()
        strange = view.keys() - self.subjects.keys()
        assert not strange, f"{len(strange)} ids should not be in the view, as {min(strange)}"
        for key, run in view.items():
            known = self.subjects[key]
            assert known.run in {None, run}, f"{key}: the view has the row of {run}, {known.run} sent it last"


class Sequence:
    """A source, its listings, and the loads of them, one after the other."""

    def __init__(self, runs: Any, source: str, chance: random.Random) -> None:
        self.runs, self.source, self.chance = runs, source, chance
        self.listings = {name: Listing(source, name) for name in KINDS[source][1]}
        self.models = {name: Model(source) for name in self.listings}
        for listing in self.listings.values():
            numbers = chance.sample(range(listing.synthetic.count), round(listing.synthetic.count * 0.8))
            listing.records = dict.fromkeys(numbers, (0, 0))
        self.done: list[str] = []

    def control(self, part: str, what: str, value: object) -> Any:
        code, answer = self.runs.stack.call("POST", f"{self.runs.stack.parts[part].url}/_control/{what}", value)
        assert code == 200, answer
        return answer

    def serve(self) -> None:
        served = {
            f"{listing.product}/{listing.kind}": [(number, *days) for number, days in listing.records.items()]
            for listing in self.listings.values()
        }
        self.control("products", "inventory", served)

    def step(self, day: int, mode: str, how: str) -> None:
        """A day's changes, and a load: `calm`, `moving` or `cancelled`."""
        self.done.append(f"day {day}: {how} {mode}")
        if day:
            for listing in self.listings.values():
                listing.change(self.chance, day)
        self.serve()
        seed = self.chance.randrange(10_000)
        for part, faults in (("products", FAULTS), ("sentinel", SINK_FAULTS)):
            self.control(part, "faults", {"seed": seed, **faults} if self.chance.random() < 0.6 else {})
        if how == "cancelled":
            self.cancel(mode)
            return
        moves = {"move_while_paging": how == "moving", "every": self.chance.randrange(2, 5)}
        self.control("products", "day", {**moves, "how": self.chance.choice(["insert", "remove", "both"])})
        outcome = self.load(mode)
        moved = self.control("products", "day", {"move_while_paging": False})["moved"]
        if how == "calm":
            assert outcome["status"] == "complete", outcome["reasons"]
        self.settle(outcome["run_id"], outcome["mode"], outcome["status"], moved)

    def start(self, mode: str) -> tuple[str, str]:
        """The run's id and the path of its status. What an earlier load left is not taken up; a listing may lose as much as it likes."""
        asked = {"source": self.source, "mode": mode, "allow_deletes": True, "fresh": True}
        code, started = self.runs.api("POST", "/api/loads", asked)
        assert code == 202, started
        return started["run_id"], started["statusQueryGetUri"].removeprefix(self.runs.stack.parts["app"].url)

    def load(self, mode: str) -> Any:
        run_id, path = self.start(mode)
        deadline = time.monotonic() + 120
        while self.runs.api("GET", path)[0] == 202:
            assert time.monotonic() < deadline, f"{self.done}: the load does not end"
            time.sleep(0.05)  # polls without a pause take a core away from what they wait for
        return self.runs.api("GET", f"/api/loads/{run_id}")[1]

    def cancel(self, mode: str) -> None:
        """A load that is cancelled when it has sent something, or has ended before."""
        run_id, path = self.start(mode)
        enough, deadline = self.chance.randrange(1, 400), time.monotonic() + 120
        while (state := self.runs.api("GET", path))[0] == 202:
            assert time.monotonic() < deadline, f"{self.done}: the load does not end"
            streams = (state[1]["customStatus"] or {}).get("streams", {})
            if sum(stream["accepted"] for stream in streams.values()) >= enough:
                self.runs.api("POST", f"/api/loads/{run_id}/cancel")
                enough = 10**9
            time.sleep(0.02)
        ended = self.runs.api("GET", f"/api/loads/{run_id}")[1]
        self.settle(run_id, ended["mode"], ended["status"], {})

    def settle(self, run_id: str, mode: str, status: str, moved: dict[str, Any]) -> None:
        """Take the load into the models, and compare them with the views."""
        self.done[-1] += f" → {mode} {status}"
        for name, listing in self.listings.items():
            of = moved.get(f"{listing.product}/{listing.kind}", {"inserted": [], "removed": []})
            coming, going = as_sent(of["inserted"]), as_sent(of["removed"])
            there = {key: version for key, version in listing.versions().items() if key not in going}
            listing.records = dict(list(listing.records.items())[len(going) :])
            model = self.models[name]
            if status == "complete":
                model.complete(run_id, mode, there, coming, going)
            else:
                model.broken_off(there, coming | going)
            view = self.view(name)
            try:
                model.check(view, there if status == "complete" else {})
            except AssertionError as error:
                raise AssertionError(f"{self.source} {name} after {'; '.join(self.done)}: {error}") from error

    def view(self, name: str) -> dict[str, str]:
        view = VIEWS[SOURCES[self.source].stream(name).table]
        rows = self.runs.query(f"{view} | where SourceStream == '{name}' | project EntityOriginalId, EntitySnapshotId")
        assert len({row[0] for row in rows}) == len(rows), f"{name}: an id is twice in the view"
        return {str(key): str(run) for key, run in rows}


@pytest.mark.parametrize("number", range(SEQUENCES))
@pytest.mark.parametrize("source", list(KINDS))
def test_after_every_complete_run_the_view_is_the_inventory(runs: Any, source: str, number: int) -> None:
    """Whatever happened before; and two calm full loads at the end leave nothing open: every living id, in the last load's row."""
    chance = random.Random(f"{source} {number}")
    runs.stack.call("POST", f"{runs.stack.parts['products'].url}/_control/reset", {})
    sequence = Sequence(runs, source, chance)
    sequence.models = {name: Model(source, left_over(sequence.view(name))) for name in sequence.listings}
    for day in range(STEPS):
        mode = "full" if day == 0 else chance.choice(["full", "delta", "delta"])
        sequence.step(day, mode, chance.choice(["calm", "calm", "moving", "cancelled"]))
    for day in (STEPS, STEPS + 1):
        sequence.step(day, "full", "calm")
    sequence.serve()
    sequence.done.append("once more")
    outcome = sequence.load("full")
    sequence.settle(outcome["run_id"], "full", outcome["status"], {})
    for name, listing in sequence.listings.items():
        assert sequence.view(name) == dict.fromkeys(listing.versions(), outcome["run_id"])


def left_over(view: dict[str, str]) -> dict[str, Subject]:
    """What an earlier sequence of the source left in the view: known to the source's index, perhaps missing for the second time now."""
    return {key: Subject(sure=False, run=None, version=None) for key in view}
