"""Closes a run: the ledger from what is really there, the manifest, and last of all the watermark.

Invariant: a run is complete only when every lane ended where its data ended, every page was read and the ledger adds up; only a complete run moves the
watermark, by one conditional write, and never backwards. The manifest is written whatever happened.
"""

from __future__ import annotations

from typing import Final

from activities.announce import announce
from activities.deps import Deps, source_of
from activities.index import DROPPED, KEPT, key_hash_of
from activities.ledger import COUNTS, RECORDS, StreamLedger, compute
from activities.orphans import count_orphans
from contracts import CloseRequest, JsonDict, Plan, Run
from staging import Names, current_name, unsettled_name, watermark_name

COMPLETE: Final = "complete"
INCOMPLETE: Final = "incomplete"
FAILED: Final = "failed"


def close_run(request: CloseRequest, deps: Deps) -> JsonDict:
    """Write the manifest and return it. May run twice: the manifest is computed from the same blobs, the watermark is moved once."""
    run = Run.from_wire(request.run)
    names = deps.names(run)
    wire = deps.staging.find_json(names.plan)
    plan = Plan.from_wire(wire) if wire is not None else None
    lanes = plan.lanes if plan is not None else []
    parents = {name: of["parent"] for name, of in (plan.streams if plan is not None else {}).items() if "parent" in of}
    streams = dict.fromkeys([*(lane["stream"] for lane in lanes), *parents])
    ledgers = compute(deps.staging.list(names.prefix), names, streams, parents)
    uncounted = [] if request.failed else _count_orphans(deps, run, ledgers)
    for stream, sums in request.diffs.items():
        for name in ("duplicates", "created", "updated"):
            setattr(ledgers[stream], name, sums[name])
        ledgers[stream].tombstones = 0 if sums["gone_rule"] == KEPT else sums["tombstones"]
    reasons = [*request.reasons, *_gaps(request, ledgers, lanes)]
    status = FAILED if request.failed or plan is None else INCOMPLETE if reasons else COMPLETE
    if status == COMPLETE and plan is not None and not _commit(request, deps, run, plan):
        status = INCOMPLETE
        reasons.append(
            "another load of this source was committed meanwhile: this one compared with what no longer counts"
        )
    # A record that several streams are made of is one record.
    counted = {
        name: [of for stream, of in ledgers.items() if not (name in RECORDS and stream in parents)] for name in COUNTS
    }
    totals = {name: sum(getattr(ledger, name) for ledger in of) for name, of in counted.items()}
    manifest: JsonDict = {
        "v": 1,
        "run_id": run.run_id,
        "source": run.source,
        "mode": run.mode,
        "since": run.since,
        "started_at": run.started_at,
        "closed_at": _closed_at(deps, names.manifest),
        "status": status,
        "cancelled": request.cancelled,
        "reasons": reasons[:50],
        "notes": [
            *(plan.notes if plan is not None else []),
            *request.notes,
            *uncounted,
            *_notes(request, ledgers, run),
        ],
        "totals": totals,
        "streams": {stream: ledger.to_wire() for stream, ledger in ledgers.items()},
        "left_out": plan.left_out if plan is not None else [],
        **_traffic(ledgers, deps.budgets.body_limit_bytes, compressed=deps.budgets.compressed),
    }
    headline = {name: manifest[name] for name in ("run_id", "source", "mode", "started_at", "status", "totals")}
    deps.staging.put_json(names.manifest, manifest, headline)
    if status != FAILED:
        # What is incomplete would stay so; what failed or was cancelled can be taken up where it stands.
        deps.staging.put_json(current_name(run.source), {"run_id": run.run_id, "resumable": False}, {})
    notes = len(manifest["notes"])
    announce(manifest, deps)
    if len(manifest["notes"]) > notes:
        deps.staging.put_json(names.manifest, manifest, headline)
    return manifest


def _closed_at(deps: Deps, manifest: str) -> str:
    """Now, or when another copy closed the run; one that failed is closed anew when it has been taken up."""
    standing = deps.staging.find_json(manifest)
    if standing is not None and standing["status"] != FAILED and "closed_at" in standing:
        return str(standing["closed_at"])
    return deps.now().isoformat(timespec="microseconds")


def _gaps(request: CloseRequest, ledgers: dict[str, StreamLedger], lanes: list[JsonDict]) -> list[str]:
    """Where the ledgers do not add up, lanes did not end, or their own counts are others."""
    found = []
    for stream, ledger in ledgers.items():
        found += ledger.gaps(stream)
        lanes_of = sum(lane["stream"] == stream for lane in lanes)
        if ledger.finished_lanes != lanes_of:
            found.append(
                f"{stream}: {lanes_of - ledger.finished_lanes} of {lanes_of} lanes did not reach the end of their data"
            )
        counted = request.counts.get(stream, {})
        for name in ("exported", "accepted"):
            if name in counted and counted[name] != getattr(ledger, name):
                found.append(
                    f"{stream}: the lanes counted {counted[name]} {name}, the blobs say {getattr(ledger, name)}"
                )
    return found


def _keys(sums: JsonDict, *, whole: bool) -> int:
    """The keys that the run's index has for the next one: what it found, and what it did not find and keeps."""
    if not whole:
        return int(sums["known"] + sums["created"])
    kept = {DROPPED: 0, KEPT: sums["gone"]}.get(sums["gone_rule"], sums["gone"] - sums["tombstones"])
    return int(sums["keys"] + kept)


def _commit(request: CloseRequest, deps: Deps, run: Run, plan: Plan) -> bool:
    """Move the watermark, by one conditional write; False when it is no longer the one that the run was compared with.

    A load of which some streams were not compared says nothing about them and moves nothing; nor does one whose clock stood before the last one's.
    """
    # What is derived of them was compared with them, unless it was left out.
    if not {stream.name for stream in source_of(run.source).streams} <= set(request.diffs):
        return True
    streams = {
        name: {
            "parts": sums["parts"],
            "gone_rule": sums["gone_rule"],
            # Of the blobs, not of this code: an older version may have compared what this one commits.
            "key_hash": key_hash_of(deps.staging, deps.names(run), name),
            "keys": _keys(sums, whole=run.since is None),
        }
        for name, sums in request.diffs.items()
    }

    def forward(current: JsonDict | None) -> JsonDict | None:
        base, up_to = (current["run_id"], current["up_to"]) if current is not None else (None, "")
        if base != run.base or up_to >= run.started_at:
            return None
        return {"v": 1, "run_id": run.run_id, "up_to": run.started_at, "mode": run.mode, "streams": streams}

    standing = (deps.staging.swap_json(watermark_name(run.source), forward) or {}).get("run_id")
    if standing == run.run_id:
        _settle(deps, run, plan)
    return standing in {run.base, run.run_id}


def _settle(deps: Deps, run: Run, plan: Plan) -> None:
    """The index that was committed knows what the run sent, and what those had sent that had ended when it was opened. Who ended since is considered once
    more by the next run, and so is, once, who has not ended: it is under way, or was killed. Settled once: a run that is not in the list has done it.
    """
    since = {
        run_id
        for run_id in plan.unsettled
        if run_id not in plan.ended and deps.staging.exists(Names(run.source, run_id).manifest)
    }

    def settled(current: JsonDict | None) -> JsonDict | None:
        runs = (current or {}).get("runs", {})
        if run.run_id not in runs:
            return None
        left = {}
        for run_id, commits in runs.items():
            considered = run_id in plan.unsettled
            if run_id == run.run_id or run_id in plan.ended or (considered and commits and run_id not in since):
                continue
            left[run_id] = commits + considered
        return {"runs": left}

    deps.staging.swap_json(unsettled_name(run.source), settled)


def _count_orphans(deps: Deps, run: Run, ledgers: dict[str, StreamLedger]) -> list[str]:
    """Count the orphans of each stream of findings; the notes on those whose cannot be counted."""
    tables = source_of(run.source).tables
    asset_streams = [name for name in ledgers if tables[name] == "CAASM_Assets_CL"]
    if not asset_streams or run.mode == "delta":
        # Without the whole inventory beside them, no finding can be called an orphan.
        return []
    prefix = deps.names(run).prefix + "keys/"

    def of(stream: str) -> list[str]:
        return [blob.name for blob in deps.staging.list(f"{prefix}{stream}/")]

    assets = [name for stream in asset_streams for name in of(stream)]
    rows = sum(ledgers[stream].rows for stream in asset_streams)
    notes = []
    for stream, ledger in ledgers.items():
        if tables[stream] == "CAASM_Findings_CL":
            orphans = count_orphans(deps.staging, assets, of(stream), rows)
            ledger.orphans = orphans or 0
            if orphans is None:
                notes.append(
                    f"{stream}: findings on assets that the export does not have were not counted: the run was begun by an older version of the app"
                )
    return notes


def _notes(request: CloseRequest, ledgers: dict[str, StreamLedger], run: Run) -> list[str]:
    notes = []
    if run.mode == "delta" and ledgers:
        rows = sum(ledger.rows for ledger in ledgers.values())
        sent = sum(ledger.accepted for ledger in ledgers.values())
        whole = sum(ledger.json_bytes for ledger in ledgers.values())
        saved = whole - sum(ledger.bytes_sent for ledger in ledgers.values())
        notes.append(f"delta: {sent} of {rows} rows have changed and were sent; that saved about {max(0, saved)} bytes")
    for stream, ledger in ledgers.items():
        first, last = request.expected.get(stream), request.totals.get(stream)
        differing = dict.fromkeys(total for total in (first, last) if total not in {None, ledger.exported})
        notes += [
            f"{stream}: the source named a total of {total}, it gave {ledger.exported} records" for total in differing
        ]
        if first is not None and last is not None and first != last:
            notes.append(f"{stream}: the source's total moved from {first} to {last} while it was read")
        if ledger.duplicates:
            notes.append(f"{stream}: {ledger.duplicates} records came more than once; the last one of each counts")
        if ledger.unknown_severity:
            notes.append(f"{stream}: the severity of {ledger.unknown_severity} rows cannot be read and is Unknown")
        if ledger.orphans:
            notes.append(
                f"{stream}: {ledger.orphans} findings are on assets that the export does not have; they were sent"
            )
    return notes


def _traffic(ledgers: dict[str, StreamLedger], limit: int, *, compressed: bool) -> JsonDict:
    chunks = sum(ledger.chunks for ledger in ledgers.values())
    sent = sum(ledger.bytes_sent for ledger in ledgers.values())
    wire = sum(ledger.bytes_wire for ledger in ledgers.values())
    requests = sum(ledger.requests for ledger in ledgers.values())
    return {
        "requests": requests,
        "chunks": chunks,
        "bytes_exported": sum(ledger.bytes_exported for ledger in ledgers.values()),
        "bytes_sent": sent,
        "bytes_wire": wire,
        "fill": round((wire if compressed else sent) / (requests * limit), 4) if requests else 0.0,
    }
