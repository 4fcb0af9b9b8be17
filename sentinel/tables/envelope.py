"""The columns that every row of the inventory has, whatever it is about: which run and product it is of, and what was done to it.

Invariant: the envelope stands first in a table, and these columns mean the same in all of them, so that one query can go over several tables.
"""

from __future__ import annotations

from typing import Final

from sentinel.contract import Column

ENVELOPE: Final = (
    Column(
        "TimeGenerated",
        "datetime",
        "When the run started; the same for every row of a run. The source's own times have columns of their own.",
        "2026-11-20T02:00:00.000000Z",
        hashed=False,
    ),
    Column(
        "EntityFeedType",
        "string",
        "Snapshot: a row of a full load. Changefeed: a row of a delta load.",
        "Snapshot",
        asim="EntityFeedType",
        hashed=False,
    ),
    Column(
        "EntitySnapshotId",
        "string",
        "The run that sent the row; joins to RunId of CAASM_Runs_CL.",
        "tenable-20261120T020000Z-3f1c9a",
        asim="EntitySnapshotId",
        hashed=False,
    ),
    Column(
        "EntityIsDeleted",
        "boolean",
        "True when the source no longer has the subject, or says that it was deleted.",
        False,
        asim="EntityIsDeleted",
    ),
    Column("EntityVendor", "string", "Vendor of the product that the row comes from.", "Tenable", asim="EntityVendor"),
    Column(
        "EntityProduct", "string", "Product that the row comes from.", "Vulnerability Management", asim="EntityProduct"
    ),
    Column(
        "EntityOriginalId",
        "string",
        "The subject's identifier as the product gives it.",
        "5f0e5d2c-7c0a-4c1e-9f39-2f1d0b7f6a11",
        asim="EntityOriginalId",
    ),
    Column(
        "SourceStream",
        "string",
        "The stream of the source that gave the record, e.g. domains or vulnerabilities.",
        "assets",
    ),
)
"""First in each table of the inventory."""

SOURCE_UPDATED_AT: Final = Column(
    "SourceUpdatedAt",
    "datetime",
    "When the product last changed its record.",
    "2026-11-19T22:45:00.000000Z",
    hashed=False,
)

FIELDS_TRUNCATED: Final = Column(
    "FieldsTruncated",
    "dynamic",
    "Names of the columns whose value was cut to 64 KB in this row; absent when none was.",
    ("Evidence",),
)
