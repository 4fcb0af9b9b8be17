"""Opens a run: decides its lanes and, for a delta, since when; writes the plan once, so that a second copy returns the same.

Invariant: after this every later step knows from the plan alone what the run is; nothing that can be refused (unknown source or stream, missing
settings, a container that cannot be written) is found out later than here.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from activities.deps import Deps, source_of
from contracts import JsonDict, LanePlan, LoadRequest, Plan, Policy, Run, Stop, TryAgain
from sources.model import Derived, Source, Start, Stream, UnreadablePageError
from staging import Names, current_name, unsettled_name, watermark_name

OVERLAP: Final = timedelta(hours=1)
"""A delta asks again for what changed in the hour before the watermark: sources index late."""

MOST_UNSETTLED: Final = 50
"""Runs in a row without one that is complete, of which the next one considers what they sent; older ones are dropped, and the plan says so."""


def open_run(request: LoadRequest, deps: Deps, policy: Policy) -> Plan:
    """The plan of the run.

    Raises Stop when the request or the settings are wrong or the source refuses the first request, TryAgain when storage or source are out.
    """
    source = source_of(request.source)
    streams = _streams(source, request.streams)
    deps.reader(source.name)  # is it configured?
    deps.staging.ensure()
    run = Run(request.run_id, source.name, request.mode, request.started_at)
    names = deps.names(run)
    written = deps.staging.find_json(names.plan)
    if written is not None:
        # A second copy, or a run that is taken up again: everything that it staged and sent counts.
        deps.staging.delete(names.cancel)
        return Plan.from_wire(written)
    watermark = deps.staging.find_json(watermark_name(source.name))
    derived = {stream.name: deps.derived(source, stream.name) for stream in streams}
    left_out = [name for name in deps.left_out(source) if source.parents[name] in derived]
    named = [name for stream in streams for name in (stream.name, *(d.name for d in derived[stream.name]))]
    run, notes = _mode(run, streams, named, watermark)
    lanes: list[JsonDict] = []
    expected: dict[str, int | None] = {}
    for stream in streams:
        wanted = deps.budgets.lanes or stream.lanes
        start = start_of(deps.stream(run, stream.name), wanted, run, deps)
        expected[stream.name] = start.total
        lanes += [
            LanePlan(
                stream.name, n, cursor, uploads=run.mode == "full", derived=[d.name for d in derived[stream.name]]
            ).to_wire()
            for n, cursor in enumerate(start.cursors)
        ]
    indexed = watermark.get("streams", {}) if watermark is not None else {}
    unsettled, dropped = _registered(run, deps)
    plan = Plan(
        run=run.to_wire(),
        lanes=lanes,
        expected=expected,
        policy=policy.to_wire(),
        notes=[*notes, *dropped, *_leaving(source, left_out)],
        known={name: indexed[name]["keys"] for name in named if name in indexed},
        streams=_taken(run, streams, derived),
        unsettled=unsettled,
        ended=[run_id for run_id in unsettled if deps.staging.exists(Names(source.name, run_id).manifest)],
        left_out=left_out,
    )
    deps.staging.create(names.plan, _json(plan.to_wire()), {})
    opened = {"run_id": run.run_id, "mode": request.mode, "streams": request.streams, "started_at": run.started_at}
    deps.staging.put_json(current_name(source.name), opened | {"resumable": True}, {})
    return Plan.from_wire(deps.staging.find_json(names.plan) or plan.to_wire())


def _leaving(source: Source, left_out: list[str]) -> list[str]:
    return [f"{', '.join(left_out)} left out: {source.name.upper()}_RELATIONS is false"] if left_out else []


def _taken(run: Run, streams: list[Stream], derived: dict[str, list[Derived]]) -> dict[str, JsonDict]:
    """How each stream's export is to be taken; a derived one's as that of its parent, whose records it is made of."""
    taken: dict[str, JsonDict] = {}
    for stream in streams:
        how: JsonDict = {"whole": run.since is None, "stability": stream.paging.stability}
        taken[stream.name] = how | {"table": stream.table}
        taken |= {d.name: how | {"table": d.table, "parent": stream.name} for d in derived[stream.name]}
    return taken


def _registered(run: Run, deps: Deps) -> tuple[list[str], list[str]]:
    """Note that the run is going to send rows which no index knows until it is committed; the others of which that is true, the newest last, and what is to be said of those that are too many."""

    def register(current: JsonDict | None) -> JsonDict:
        standing = current or {}
        others = [(run_id, commits) for run_id, commits in standing.get("runs", {}).items() if run_id != run.run_id]
        dropped = standing.get("dropped", 0) + max(0, len(others) - MOST_UNSETTLED)
        return {"runs": {**dict(others[-MOST_UNSETTLED:]), run.run_id: 0}, "dropped": dropped}

    standing = deps.staging.swap_json(unsettled_name(run.source), register) or {}
    notes = []
    if dropped := standing["dropped"]:
        notes.append(
            f"{dropped} loads that sent rows and did not end complete are too long ago to be considered: rows that only they sent may be wrong until "
            "a full load renews every row, and subjects that only they had seen and that are gone stay until the views no longer look back to them"
        )
    return [run_id for run_id in standing["runs"] if run_id != run.run_id], notes


def start_of(stream: Stream, lanes: int, run: Run, deps: Deps) -> Start:
    """How the stream's walk begins; a first answer that is not what it should be is asked for again, as a page would be."""
    reader, paging = deps.reader(run.source), stream.paging
    answers: list[bytes] = []
    tries = 0
    while True:
        try:
            probe = paging.probe(lanes, answers)
            if probe is None:
                return paging.start(answers, lanes, run.since)
            tries = 0
        except UnreadablePageError as error:
            tries += 1
            if tries == reader.patience.unreadable_attempts:
                raise Stop(
                    f"{run.source}'s first answer for {stream.name} is not what it should be ({error.reason})",
                    f"check {run.source.upper()}_URL: is it the product's API, and no proxy's page in front of it?",
                ) from error
            probe = paging.probe(lanes, answers := answers[:-1])
        assert probe is not None
        answers.append(reader.fetch(probe, first_contact=True)[1])


def _streams(source: Source, wanted: list[str]) -> list[Stream]:
    known = {stream.name: stream for stream in source.streams}
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        raise Stop(f"{source.name} has no stream {unknown[0]!r}", f"use some of {', '.join(known)}")
    return [known[name] for name in known if name in wanted or not wanted]


def _mode(run: Run, streams: list[Stream], named: list[str], watermark: JsonDict | None) -> tuple[Run, list[str]]:
    """The run as it will really be: a delta needs a complete run to compare with, that knew all that are `named` (streams and what is derived of them);
    what the source cannot filter is exported whole.
    """
    indexed = (watermark or {}).get("streams", {})
    base = watermark["run_id"] if watermark is not None else None
    full = Run(run.run_id, run.source, "full", run.started_at, None, base)
    if run.mode != "delta":
        return full, []
    if watermark is None or any(name not in indexed for name in named):
        return full, ["delta became full: no complete run to compare with"]
    delta = Run(run.run_id, run.source, "delta", run.started_at, None, base)
    if not all(stream.changed_since for stream in streams):
        return delta, []
    since = datetime.fromisoformat(watermark["up_to"]) - OVERLAP
    if since >= datetime.fromisoformat(run.started_at):
        raise TryAgain("the clock stands before the last run's: waiting for it", 60.0)
    return Run(run.run_id, run.source, "delta", run.started_at, since.isoformat(), base), []


def _json(value: JsonDict) -> bytes:
    import json

    return json.dumps(value, indent=1).encode()
