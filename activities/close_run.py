"""Closes a run: the ledger from what is really there, the manifest, and last of all the watermark.

Invariant: a run is complete only when every lane ended where its data ended, every page was read and the ledger adds up; only a complete run moves the
watermark, by one conditional write, and never backwards. The manifest is written whatever happened.
"""

from __future__ import annotations

from typing import Final

from activities.deps import Deps, source_of
from activities.ledger import COUNTS, StreamLedger, compute
from activities.orphans import count_orphans
from contracts import CloseRequest, JsonDict, Plan, Run
from staging import watermark_name

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
    streams = list(dict.fromkeys(lane["stream"] for lane in lanes))
    ledgers = compute(deps.staging.list(names.prefix), names, streams)
    if not request.failed:
        _count_orphans(deps, run, ledgers)
    reasons = [*request.reasons]
    for stream, ledger in ledgers.items():
        reasons += ledger.gaps(stream)
        ended = sum(lane["stream"] == stream for lane in lanes)
        if ledger.finished_lanes != ended:
            reasons.append(
                f"{stream}: {ended - ledger.finished_lanes} of {ended} lanes did not reach the end of their data"
            )
        counted = request.counts.get(stream, {})
        for name in ("exported", "rows", "accepted"):
            if name in counted and counted[name] != getattr(ledger, name):
                reasons.append(
                    f"{stream}: the lanes counted {counted[name]} {name}, the blobs say {getattr(ledger, name)}"
                )
    status = FAILED if request.failed or plan is None else INCOMPLETE if reasons else COMPLETE
    totals = {name: sum(getattr(ledger, name) for ledger in ledgers.values()) for name in COUNTS}
    manifest: JsonDict = {
        "v": 1,
        "run_id": run.run_id,
        "source": run.source,
        "mode": run.mode,
        "since": run.since,
        "started_at": run.started_at,
        "status": status,
        "cancelled": request.cancelled,
        "reasons": reasons[:50],
        "notes": [*(plan.notes if plan is not None else []), *_notes(request, ledgers)],
        "totals": totals,
        "streams": {stream: ledger.to_wire() for stream, ledger in ledgers.items()},
        **_traffic(ledgers, deps.budgets.body_limit_bytes),
    }
    headline = {name: manifest[name] for name in ("run_id", "source", "mode", "started_at", "status", "totals")}
    deps.staging.put_json(names.manifest, manifest, headline)
    if status == COMPLETE:
        deps.staging.swap_json(watermark_name(run.source), lambda current: _forward(current, run, streams))
    return manifest


def _forward(current: JsonDict | None, run: Run, streams: list[str]) -> JsonDict | None:
    if current is not None and current["up_to"] >= run.started_at:
        return None
    if set(streams) != {stream.name for stream in source_of(run.source).streams}:
        # A load of some streams says nothing about the others.
        return None
    return {"v": 1, "run_id": run.run_id, "up_to": run.started_at, "mode": run.mode}


def _count_orphans(deps: Deps, run: Run, ledgers: dict[str, StreamLedger]) -> None:
    tables = {stream.name: stream.table for stream in source_of(run.source).streams}
    prefix = deps.names(run).prefix + "rows/"
    blobs = [blob.name for blob in deps.staging.list(prefix) if blob.summary.get("rows")]

    def of(stream: str) -> list[str]:
        return [name for name in blobs if name.startswith(f"{prefix}{stream}/")]

    asset_streams = [name for name in ledgers if tables[name] == "CAASM_Assets_CL"]
    assets = [name for stream in asset_streams for name in of(stream)]
    rows = sum(ledgers[stream].rows for stream in asset_streams)
    if not asset_streams or run.mode == "delta":
        # Without the whole inventory beside them, no finding can be called an orphan.
        return
    for stream, ledger in ledgers.items():
        if tables[stream] == "CAASM_Findings_CL":
            ledger.orphans = count_orphans(deps.staging, assets, of(stream), rows)


def _notes(request: CloseRequest, ledgers: dict[str, StreamLedger]) -> list[str]:
    notes = []
    for stream, ledger in ledgers.items():
        first, last = request.expected.get(stream), request.totals.get(stream)
        differing = dict.fromkeys(total for total in (first, last) if total not in {None, ledger.exported})
        notes += [
            f"{stream}: the source named a total of {total}, it gave {ledger.exported} records" for total in differing
        ]
        if first is not None and last is not None and first != last:
            notes.append(f"{stream}: the source's total moved from {first} to {last} while it was read")
        if ledger.unknown_severity:
            notes.append(f"{stream}: the severity of {ledger.unknown_severity} rows cannot be read and is Unknown")
        if ledger.orphans:
            notes.append(
                f"{stream}: {ledger.orphans} findings are on assets that the export does not have; they were sent"
            )
    return notes


def _traffic(ledgers: dict[str, StreamLedger], limit: int) -> JsonDict:
    chunks = sum(ledger.chunks for ledger in ledgers.values())
    sent = sum(ledger.bytes_sent for ledger in ledgers.values())
    requests = sum(ledger.requests for ledger in ledgers.values())
    return {
        "requests": requests,
        "chunks": chunks,
        "bytes_exported": sum(ledger.bytes_exported for ledger in ledgers.values()),
        "bytes_sent": sent,
        "bytes_wire": sum(ledger.bytes_wire for ledger in ledgers.values()),
        "fill": round(sent / (requests * limit), 4) if requests else 0.0,
    }
