"""`CAASM_Runs_CL`, the ledger: what became of each stream of each run."""

from __future__ import annotations

from typing import Final

from sentinel.contract import Column, Table

_COUNTS: Final = (
    ("Exported", "Records that the source gave.", 5000),
    ("Staged", "Records read back from staging.", 5000),
    ("Flattened", "Records that became rows.", 4998),
    ("Rejected", "Records that could not become rows; they are kept with their reasons.", 2),
    ("Filtered", "Records that were left out on purpose.", 0),
    ("Rows", "Rows that the records gave.", 4998),
    ("Accepted", "Rows that the ingestion API accepted.", 4990),
    ("Unchanged", "Rows that were not sent because the last complete run had them.", 8),
    ("DeadLettered", "Rows that were refused; they are kept with their reasons.", 0),
    ("Deleted", "Tombstones that were accepted: subjects that are gone.", 3),
    ("Created", "Subjects that the last complete run did not have.", 12),
    ("Updated", "Subjects that say something else than in the last complete run.", 140),
    ("Duplicates", "Records that came more than once in this run.", 0),
    ("PossiblyRepeated", "Rows that may be in the table twice, because an answer was lost.", 0),
    ("Orphans", "Findings on assets that the run did not export.", 0),
    ("FailedPages", "Pages that could not be read.", 0),
    ("BytesSent", "Bytes of the requests before compression.", 11534336),
    ("Requests", "Requests made to the ingestion API.", 11),
)

RUNS: Final = Table(
    name="CAASM_Runs_CL",
    stream="Custom-CAASM_Runs",
    key="RunStreamId",
    description="The ledger: one row per stream of a run, also of runs that failed. Content can refuse to judge an incomplete inventory.",
    retention_days=365,
    columns=(
        Column("TimeGenerated", "datetime", "When the run was closed.", "2026-11-20T02:06:41.000000Z", hashed=False),
        Column(
            "RunStreamId", "string", "Key of the row: the run and the stream.", "tenable-20261120T020000Z-3f1c9a/assets"
        ),
        Column(
            "RunId",
            "string",
            "The run; joins to EntitySnapshotId of the other tables.",
            "tenable-20261120T020000Z-3f1c9a",
        ),
        Column("EntityVendor", "string", "Vendor of the product.", "Tenable", asim="EntityVendor"),
        Column("EntityProduct", "string", "Product that was loaded.", "Vulnerability Management", asim="EntityProduct"),
        Column("SourceName", "string", "The source's name in this app, e.g. tenable.", "tenable"),
        Column(
            "SourceStream",
            "string",
            "The stream; empty in the row of a run that failed before it knew its streams.",
            "assets",
        ),
        Column("RunMode", "string", "full or delta.", "full"),
        Column(
            "RunStatus",
            "string",
            "complete, incomplete or failed; left out for a stream of relations that the app's settings leave out.",
            "complete",
        ),
        Column(
            "StartedAt",
            "datetime",
            "When the run was started: the TimeGenerated of its rows.",
            "2026-11-20T02:00:00.000000Z",
        ),
        Column(
            "ChangedSince",
            "datetime",
            "Since when the source was asked for changes; absent when it was exported whole.",
            "2026-11-19T01:00:00.000000Z",
        ),
        Column(
            "Reasons",
            "dynamic",
            "Why the run is not complete.",
            ("assets: 1 of 4 lanes did not reach the end of their data",),
        ),
        Column(
            "Notes", "dynamic", "What else is worth knowing about the run.", ("unchanged rows saved 81 MB of 90 MB",)
        ),
        *(Column(name, "long", description, example) for name, description, example in _COUNTS),
    ),
)
