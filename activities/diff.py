"""Compares one part of a stream's keys with the last complete run: what is new, what has changed, what is gone.

Invariant: a part holds all rows of its keys, so a key is judged once; of rows with one key the last one read counts and the others are duplicates. Three blobs are
written, each once: the new index, the keys that are gone, and for a delta which rows to send. Tombstones are staged for every key that
may be deleted; whether they are sent is decided by the run, which sees all parts (a guard needs the whole).
"""

from __future__ import annotations

import io
from datetime import datetime
from typing import Final

import polars as pl

from activities.deps import Deps, source_of
from activities.index import SCHEMA, base_of, within
from activities.transform import frame_bytes
from contracts import TOMBSTONE_LANE, DiffRequest, DiffResult, Run, Stop
from sentinel.tables import BY_NAME, Table
from staging import watermark_name
from transforms.rows import schema

NO_HASH: Final = 0
"""The hash of a key whose row is not sure; a real one is 0 once in 10^19."""

_ROW: Final = {"lane": pl.Int32(), "segment": pl.Int32(), "row": pl.UInt32()}


def diff(request: DiffRequest, deps: Deps) -> DiffResult:
    """Judge the keys of a part. Raises TryAgain when storage is out, Stop when a segment is gone."""
    run = Run.from_wire(request.run)
    names = deps.names(run)
    done = deps.staging.summary(names.index(request.stream, request.part))
    if done is not None:
        return DiffResult.from_wire(done)
    deps.check_cancelled(run)
    found = _found(request, deps, run)
    last = found.unique("key", keep="last", maintain_order=True)
    watermark = deps.staging.find_json(watermark_name(run.source)) if run.base else None
    if (watermark or {}).get("run_id") != run.base:
        raise Stop(
            "another load of this source was committed meanwhile",
            "start the load again: it then compares with that one",
        )
    base = base_of(deps.staging, run.source, request.stream, watermark, request.part, request.parts)
    judged = last.join(base.select("key", was="hash"), on="key", how="left")
    created = pl.col("was").is_null()
    updated = ~created & (pl.col("was") != pl.col("hash"))
    gone = base.join(last.select("key"), on="key", how="anti").with_columns(missing=pl.col("missing") + 1)
    if not request.whole:
        gone = gone.clear()
    tombstones = gone if request.proven else gone.filter(pl.col("missing") >= 2)
    counts = judged.select(created=created.sum(), updated=updated.sum()).row(0, named=True)
    result = DiffResult(
        rows=found.height,
        keys=last.height,
        duplicates=found.height - last.height,
        created=counts["created"],
        updated=counts["updated"],
        unchanged=last.height - counts["created"] - counts["updated"],
        gone=gone.height,
        tombstones=tombstones.height,
        known=base.height,
    )
    table = BY_NAME[source_of(run.source).stream(request.stream).table]
    rows = _tombstones(tombstones, table, run, request.stream)
    deps.staging.create(
        names.rows(request.stream, TOMBSTONE_LANE, request.part), frame_bytes(rows), {"tombstones": rows.height}
    )
    verdicts = judged.filter(created | updated).select(*_ROW)
    deps.staging.create(names.verdicts(request.stream, request.part), frame_bytes(verdicts), {"rows": verdicts.height})
    deps.staging.create(names.gone(request.stream, request.part), frame_bytes(gone), {"keys": gone.height})
    # Two versions of a key in one run carry the same time, and a reader may see either: the next delta sends it once more.
    unsure = found.group_by("key").agg(unsure=pl.col("hash").n_unique() > 1)
    hashed = pl.when(~pl.col("unsure")).then(pl.col("hash")).otherwise(pl.lit(NO_HASH, pl.UInt64))
    placed = last.join(unsure, on="key", how="left", maintain_order="left")
    current = placed.select("key", "part", hash=hashed, missing=pl.lit(0, pl.UInt8))
    if not request.whole:
        # What a partial export does not name is still there.
        current = pl.concat([current, base.join(last.select("key"), on="key", how="anti")])
    written = deps.staging.create(
        names.index(request.stream, request.part), frame_bytes(current.select(*SCHEMA)), result.to_wire()
    )
    return DiffResult.from_wire(written)


def _found(request: DiffRequest, deps: Deps, run: Run) -> pl.DataFrame:
    """The keys of the part that the run's segments hold, in the order in which they were read."""
    prefix = f"{deps.names(run).prefix}keys/{request.stream}/"
    empty = {"key": pl.String(), "part": pl.UInt64(), "hash": pl.UInt64(), **_ROW}
    frames = [pl.DataFrame(schema=empty)]
    for blob in deps.staging.list(prefix):
        lane, segment = (int(part) for part in blob.name.removeprefix(prefix).removesuffix(".parquet").split("/"))
        keys = pl.read_parquet(io.BytesIO(deps.staging.read(blob.name))).with_row_index("row")
        placed = keys.filter(within(request.part, request.parts)).with_columns(
            lane=pl.lit(lane, pl.Int32), segment=pl.lit(segment, pl.Int32)
        )
        frames.append(placed.select(*empty))
    return pl.concat(frames)


def _tombstones(gone: pl.DataFrame, table: Table, run: Run, stream: str) -> pl.DataFrame:
    """Rows that say that their subjects are gone: the envelope and the key, nothing else."""
    source = source_of(run.source)
    values = {
        "TimeGenerated": pl.lit(datetime.fromisoformat(run.started_at), pl.Datetime("us", "UTC")),
        "EntityFeedType": pl.lit("Changefeed"),
        "EntitySnapshotId": pl.lit(run.run_id),
        "EntityIsDeleted": pl.lit(value=True),
        "EntityVendor": pl.lit(source.vendor),
        "EntityProduct": pl.lit(source.product),
        "EntityOriginalId": pl.col("key").str.strip_prefix(f"{run.source}:"),
        "SourceStream": pl.lit(stream),
        table.key: pl.col("key"),
    }
    return gone.select(
        *(values.get(name, pl.lit(None)).cast(kind).alias(name) for name, kind in schema(table).items()),
        _record=pl.lit(None, pl.Int32),
    )
