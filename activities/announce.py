"""Writes a run's ledger into CAASM_Runs_CL: a row per stream, through the same ingestion path as everything else.

Invariant: it never changes what the run came to. The manifest stands before it is tried; an outage is tried again, a refusal is noted in the manifest. A row that is
written twice has the same key.
"""

from __future__ import annotations

import json
import re
from typing import Any

from activities.deps import Deps
from contracts import JsonDict, Run, Stop
from sentinel import packing
from sentinel.ingestion import Part, Sent
from sentinel.tables import RUNS
from sources.registry import SOURCES
from staging import Names


def announce(manifest: JsonDict, deps: Deps) -> None:
    """Send the run's rows, once. Raises TryAgain when the destination is out."""
    run = Run(manifest["run_id"], manifest["source"], manifest["mode"], manifest["started_at"], manifest["since"])
    mark = f"{Names(run.source, run.run_id).prefix}announced-{manifest['status']}.json"
    if deps.staging.exists(mark):
        return
    lines = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows(manifest, deps)).encode()
    chunks, oversize = packing.cut(lines, deps.budgets.body_limit_bytes)
    refused = [f"a row of {chunk.end - chunk.start} bytes fits into no request" for chunk in oversize]
    for destination in deps.destinations:
        sender = deps.sender(destination, RUNS.name, run)
        sender.cancelled = lambda: False  # a run that was cancelled is announced too

        def settled(sent: Sent) -> None:
            if not sent.accepted:
                refused.append(sent.reason)

        try:
            sender.send(lines, [Part(chunk) for chunk in chunks], settled, lambda _: None)
        except Stop as error:
            refused.append(error.reason)
    if refused:
        manifest["notes"] = [*manifest["notes"], f"{RUNS.name} does not have this run: {refused[0]}"]
        return
    deps.staging.create(mark, b"{}", {"rows": len(chunks)})


def rows(manifest: JsonDict, deps: Deps) -> list[dict[str, Any]]:
    """The rows of CAASM_Runs_CL as JSON objects, without fields that have no value."""
    source = SOURCES.get(manifest["source"])
    streams: dict[str, JsonDict] = manifest["streams"] or {"": {}}
    counts = [column.name for column in RUNS.columns if column.type == "long"]
    made = []
    for name, ledger in streams.items():
        row = {
            "TimeGenerated": deps.now().strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "RunStreamId": f"{manifest['run_id']}/{name}",
            "RunId": manifest["run_id"],
            # A run of a source that there is not fails, and is announced like any other.
            "EntityVendor": source.vendor if source is not None else None,
            "EntityProduct": source.product if source is not None else None,
            "SourceName": manifest["source"],
            "SourceStream": name or None,
            "RunMode": manifest["mode"],
            "RunStatus": manifest["status"],
            "StartedAt": manifest["started_at"],
            "ChangedSince": manifest["since"],
            "Reasons": manifest["reasons"][:20] or None,
            "Notes": manifest["notes"][:20] or None,
            **{count: ledger.get(_snake(count)) for count in counts},
        }
        made.append({key: value for key, value in row.items() if value is not None})
    return made


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
