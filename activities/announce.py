"""Writes a run's ledger into CAASM_Runs_CL: a row per stream (also for one that is left out, or it would look like one that fails), through the same ingestion path as everything else.

Invariant: it never changes what a run came to, nor keeps it from ending, and no row is lost: a run waits in `announce/` until its rows are accepted, and every run
that is closed sends what waits there for its source. Rows that are written twice have the same key.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from activities.deps import Deps
from contracts import JsonDict, Run, Stop, TryAgain
from sentinel import packing
from sentinel.ingestion import Part, Sent
from sentinel.tables import RUNS
from sources.registry import SOURCES
from staging import Names

LEFT_OUT: Final = "left out"
"""RunStatus of a stream that the settings leave out: CAASM_Runs has no row of it as long as that is its last word."""

PATIENCE_S: Final = 30.0
"""How long a closing run tries; its rows can wait for the next one."""

REFUSED_AT_MOST: Final = 5
"""Runs whose rows may be refused before the others are left to the next closing run."""


def announce(manifest: JsonDict, deps: Deps) -> None:
    """Send the rows of the run, and those of earlier runs of its source that are still waiting; a note where that could not be done."""
    waiting = f"announce/{manifest['source']}/"
    own = f"{waiting}{manifest['run_id']}.json"
    deps.staging.put_json(own, {}, {})
    others = [blob.name for blob in deps.staging.list(waiting) if blob.name != own]
    refused = 0
    # Its own first: rows of an old run that are refused for ever must not keep the ones of this run out.
    for name in (own, *others):
        run_id = name.removeprefix(waiting).removesuffix(".json")
        told = manifest if name == own else deps.staging.find_json(Names(manifest["source"], run_id).manifest)
        try:
            if told is not None:
                _send(told, deps)
        except (TryAgain, Stop) as error:
            manifest["notes"] = [*manifest["notes"], f"{RUNS.name} does not have run {run_id} yet: {error.reason}"]
            refused += 1
            if isinstance(error, TryAgain) or refused == REFUSED_AT_MOST:
                return
        else:
            deps.staging.delete(name)


def _send(manifest: JsonDict, deps: Deps) -> None:
    run = Run(manifest["run_id"], manifest["source"], manifest["mode"], manifest["started_at"], manifest["since"])
    lines = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows(manifest, deps)).encode()
    chunks, _ = packing.cut(lines, deps.budgets.body_limit_bytes)
    for destination in deps.destinations:
        refused: list[str] = []
        sender = deps.sender(destination, RUNS.name, run)
        sender.cancelled = lambda: False  # a run that was cancelled is announced too
        sender.until = deps.clock() + PATIENCE_S

        def settled(sent: Sent, refused: list[str] = refused) -> None:
            if not sent.accepted:
                refused.append(sent.reason)

        sender.send(lines, [Part(chunk) for chunk in chunks], settled, lambda _: None)
        if refused:
            raise Stop(refused[0])


def rows(manifest: JsonDict, deps: Deps) -> list[dict[str, Any]]:
    """The rows of CAASM_Runs_CL as JSON objects, without fields that have no value. A stream that is left out has a status of its own and no counts."""
    source = SOURCES.get(manifest["source"])
    left_out = {name: {"status": LEFT_OUT} for name in manifest.get("left_out", [])}
    streams: dict[str, JsonDict] = (manifest["streams"] or {"": {}}) | left_out
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
            "RunStatus": ledger.get("status", manifest["status"]),
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
