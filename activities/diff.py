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
from activities.index import KEY_HASH, NO_HASH, base_of, compact, doubted, key_hash_of, within
from activities.rows import Rows, of_older_version
from contracts import TOMBSTONE_LANE, DiffRequest, DiffResult, Run, Stop
from sentinel.tables import BY_NAME, Table
from staging import Names, watermark_name
from transforms.identity import KEYS_SCHEMA
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
    if request.part and key_hash_of(deps.staging, names, request.stream) != KEY_HASH:
        # The parts before were other ones: between them and these keys would be lost, whether the run found any or not.
        raise of_older_version("keys")
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
    tombstones = Rows(table, deps.budgets.body_limit_bytes)
    tombstones.add(_tombstones(judged.tombstones, table, run, request.stream))
    deps.staging.create(
        names.rows(request.stream, TOMBSTONE_LANE, request.part),
        tombstones.contents()[0],
        {"tombstones": judged.tombstones.height},
    )
    where = (request.stream, request.part)
    if judged.verdicts is not None:
        verdicts = parquet.of_frame(judged.verdicts)
        deps.staging.create(names.verdicts(*where), verdicts, {"rows": judged.verdicts.height})
    deps.staging.create(names.gone(*where), parquet.of_frame(judged.gone), {"keys": judged.gone.height})
    written = deps.staging.create(names.index(*where), judged.index, judged.result.to_wire() | {"key_hash": KEY_HASH})
    return DiffResult.from_wire(written)


@dataclass(frozen=True, slots=True)
class _Judged:
    """What a part came to: its figures, the new index's blob, the keys that are gone, those of them to be deleted, the rows that a delta sends."""

    result: DiffResult
    index: bytes
    gone: pl.DataFrame
    tombstones: pl.DataFrame
    verdicts: pl.DataFrame | None


def _unsure(base: pl.DataFrame) -> int:
    """The keys whose row is not sure."""
    return int((base["hash"] == NO_HASH).sum())


def _judge(request: DiffRequest, found: pl.DataFrame, base: pl.DataFrame, doubts: int) -> _Judged:
    """Judge the part slice by slice: a join takes several times the memory of what it joins."""
    slices = max(1, -(-max(found.height, base.height) // KEYS_PER_SLICE))
    counts: Counter[str] = Counter(keys=0)
    index = parquet.Frames()
    gone, verdicts = [base.clear()], [pl.DataFrame(schema=_ROW)]
    delta = Run.from_wire(request.run).mode == "delta"
    for at in range(slices):
        share = within(request.part * slices + at, request.parts * slices)
        rows, known = found.filter(share), base.filter(share)
        by = _told_apart_by(rows, known)
        last = rows.unique(by, keep="last", maintain_order=True)
        judged = last.join(known.select(by, was="hash"), on=by, how="left")
        created = pl.col("was").is_null()
        updated = ~created & (pl.col("was") != pl.col("hash"))
        counts.update(
            keys=last.height, **judged.select(created=created.sum(), updated=updated.sum()).row(0, named=True)
        )
        if delta:
            verdicts.append(judged.filter(created | updated).select(*_ROW))
        missing = known.join(last, on=by, how="anti")
        current = _current(rows, last, by)
        if request.whole:
            gone.append(missing)
        else:
            # What a partial export does not name is still there.
            current = pl.concat([current, missing])
        index.add(current)
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
    return _Judged(result, index.content(), missing, tombstones, pl.concat(verdicts) if delta else None)


def _told_apart_by(rows: pl.DataFrame, known: pl.DataFrame) -> str:
    """The column that tells these keys apart: their hash, in a fraction of the time and memory that texts take, unless two keys have the same."""
    ordered = pl.concat([rows.select("key_hash", "key"), known.select("key_hash", "key")]).sort("key_hash")
    hashed, key = pl.col("key_hash"), pl.col("key")
    shared = ordered.select(((hashed == hashed.shift()) & (key != key.shift())).any()).item()
    return "key" if shared else "key_hash"


def _current(rows: pl.DataFrame, last: pl.DataFrame, by: str) -> pl.DataFrame:
    """The new index's entries of what was found: `last` is the row of each key that counts, `rows` are all."""
    hashed = pl.col("hash")
    if rows.height > last.height:
        # Two versions of a key in one run carry the same time, and a reader may see either: the next delta sends it once more.
        unsure = rows.group_by(by).agg(pl.col("hash").n_unique()).filter(pl.col("hash") > 1)
        hashed = pl.when(pl.col(by).is_in(unsure[by].implode())).then(pl.lit(NO_HASH, pl.UInt64)).otherwise("hash")
    return last.select("key", "key_hash", hash=hashed, missing=pl.lit(0, pl.UInt8))


def _found(request: DiffRequest, deps: Deps, run: Run) -> pl.DataFrame:
    """The keys of the part that the run's segments hold, in the order in which they were read."""
    prefix = f"{deps.names(run).prefix}keys/{request.stream}/"
    empty = {"key": pl.String(), "key_hash": pl.UInt64(), "hash": pl.UInt64(), **_ROW}
    frames = [pl.DataFrame(schema=empty)]
    names = [blob.name for blob in deps.staging.list(prefix)]
    for name, content in zip(names, deps.staging.read_ahead(names), strict=True):
        lane, segment = (int(part) for part in name.removeprefix(prefix).removesuffix(".parquet").split("/"))
        keys = _keys(content)
        if request.parts > 1:
            keys = compact(keys.filter(within(request.part, request.parts)))
        placed = keys.with_columns(lane=pl.lit(lane, pl.Int32), segment=pl.lit(segment, pl.Int32))
        frames.append(placed.select(*empty))
    return pl.concat(frames)


def _keys(content: bytes) -> pl.DataFrame:
    try:
        return pl.read_parquet(io.BytesIO(content), columns=list(KEYS_SCHEMA)).with_row_index("row")
    except pl.exceptions.ColumnNotFoundError:
        # Its parts, some of which may be compared already, are other ones.
        raise of_older_version("keys") from None


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
