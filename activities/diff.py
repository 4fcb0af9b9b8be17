"""Compares one part of a stream's keys with the last complete run: what is new, what has changed, what is gone.

Invariant: a part holds all rows of its keys, so a key is judged once; of rows with one key the last one read counts and the others are duplicates. Three blobs are
written, each once: the new index, the keys that are gone, and for a delta which rows to send. Tombstones are staged for every key that
may be deleted; whether they are sent is decided by the run, which sees all parts (a guard needs the whole).
"""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import polars as pl

from activities import parquet
from activities.deps import Deps, source_of
from activities.index import NO_HASH, base_of, compact, doubted, within
from activities.rows import Rows
from contracts import TOMBSTONE_LANE, DiffRequest, DiffResult, Run, Stop
from sentinel.tables import BY_NAME, Table
from staging import Names, watermark_name
from transforms.rows import schema

KEYS_PER_SLICE: Final = 65_536
"""Keys that are joined at a time."""

_ROW: Final = {"lane": pl.Int32(), "segment": pl.Int32(), "row": pl.UInt32()}


def diff(request: DiffRequest, deps: Deps) -> DiffResult:
    """Judge the keys of a part. Raises TryAgain when storage is out, Stop when a segment is gone."""
    run = Run.from_wire(request.run)
    names = deps.names(run)
    done = deps.staging.summary(names.index(request.stream, request.part))
    if done is not None:
        return DiffResult.from_wire(done)
    deps.check_cancelled(run)
    watermark = deps.staging.find_json(watermark_name(run.source)) if run.base else None
    if (watermark or {}).get("run_id") != run.base:
        raise Stop(
            "another load of this source was committed meanwhile",
            "start the load again: it then compares with that one",
        )
    base = base_of(deps.staging, run.source, request.stream, watermark, request.part, request.parts)
    unsure = _unsure(base)
    for run_id in (deps.staging.find_json(names.plan) or {}).get("unsettled", []):
        base = doubted(deps.staging, Names(run.source, run_id), request.stream, base, request.part, request.parts)
    judged = _judge(request, _found(request, deps, run), base, doubts=_unsure(base) - unsure)
    table = BY_NAME[source_of(run.source).tables[request.stream]]
    tombstones = Rows(table)
    tombstones.add(_tombstones(judged.tombstones, table, run, request.stream))
    deps.staging.create(
        names.rows(request.stream, TOMBSTONE_LANE, request.part),
        tombstones.contents()[0],
        {"tombstones": judged.tombstones.height},
    )
    where = (request.stream, request.part)
    deps.staging.create(names.verdicts(*where), parquet.of_frame(judged.verdicts), {"rows": judged.verdicts.height})
    deps.staging.create(names.gone(*where), parquet.of_frame(judged.gone), {"keys": judged.gone.height})
    written = deps.staging.create(names.index(*where), parquet.of_frame(judged.index), judged.result.to_wire())
    return DiffResult.from_wire(written)


@dataclass(frozen=True, slots=True)
class _Judged:
    """What a part came to: its figures, the new index, the keys that are gone, those of them to be deleted, the rows that a delta sends."""

    result: DiffResult
    index: pl.DataFrame
    gone: pl.DataFrame
    tombstones: pl.DataFrame
    verdicts: pl.DataFrame


def _unsure(base: pl.DataFrame) -> int:
    """The keys whose row is not sure."""
    return int((base["hash"] == NO_HASH).sum())


def _judge(request: DiffRequest, found: pl.DataFrame, base: pl.DataFrame, doubts: int) -> _Judged:
    """Judge the part slice by slice: a join takes several times the memory of what it joins."""
    slices = max(1, -(-max(found.height, base.height) // KEYS_PER_SLICE))
    counts: Counter[str] = Counter(keys=0)
    empty = base.clear()
    index, gone, verdicts = [empty], [empty], [pl.DataFrame(schema=_ROW)]
    for at in range(slices):
        share = within(request.part * slices + at, request.parts * slices)
        rows, known = found.filter(share), base.filter(share)
        last = rows.unique("key", keep="last", maintain_order=True)
        judged = last.join(known.select("key", was="hash"), on="key", how="left")
        created = pl.col("was").is_null()
        updated = ~created & (pl.col("was") != pl.col("hash"))
        counts.update(
            keys=last.height, **judged.select(created=created.sum(), updated=updated.sum()).row(0, named=True)
        )
        verdicts.append(judged.filter(created | updated).select(*_ROW))
        index.append(_current(rows, last))
        missing = known.join(last, on="key", how="anti")
        # What a partial export does not name is still there.
        (gone if request.whole else index).append(missing)
    missing = pl.concat(gone).with_columns(missing=pl.col("missing") + 1)
    tombstones = missing if request.proven else missing.filter(pl.col("missing") >= 2)
    result = DiffResult(
        rows=found.height,
        keys=counts["keys"],
        duplicates=found.height - counts["keys"],
        created=counts["created"],
        updated=counts["updated"],
        unchanged=counts["keys"] - counts["created"] - counts["updated"],
        gone=missing.height,
        tombstones=tombstones.height,
        known=base.height,
        doubted=doubts,
    )
    return _Judged(result, pl.concat(index), missing, tombstones, pl.concat(verdicts))


def _current(rows: pl.DataFrame, last: pl.DataFrame) -> pl.DataFrame:
    """The new index's entries of what was found: `last` is the row of each key that counts, `rows` are all."""
    # Two versions of a key in one run carry the same time, and a reader may see either: the next delta sends it once more.
    unsure = rows.group_by("key").agg(pl.col("hash").n_unique()).filter(pl.col("hash") > 1)
    hashed = pl.when(pl.col("key").is_in(unsure["key"].implode())).then(pl.lit(NO_HASH, pl.UInt64)).otherwise("hash")
    return last.select("key", "part", hash=hashed, missing=pl.lit(0, pl.UInt8))


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
        frames.append(compact(placed.select(*empty)))
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
