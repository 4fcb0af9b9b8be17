"""Transforms one staged segment: raw records in, rows of the table out, and what could not become a row with its reason; the same for derived streams.

Invariant: every record of the segment is in a row, a reject or the filtered count; the blobs of rejects and keys are written before the rows',
so that whoever sees rows can see them, and those of derived streams, with the same lane and segment, before those of the stream itself.
"""

from __future__ import annotations

import io
from collections import Counter
from datetime import datetime
from typing import Final

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from activities.deps import Deps
from activities.export import RAW_SCHEMA, parquet
from contracts import JsonDict, Run, TransformRequest, TransformResult
from staging import Names
from transforms.identity import keys
from transforms.registry import DERIVED, TRANSFORMS
from transforms.rows import Envelope, Flattened, Transform, flatten_together

_DERIVED: Final = ("flattened", "rejected", "filtered", "rows", "json_bytes")
"""What a lane has to know of its derived streams."""

REJECTS_SCHEMA = pa.schema([*RAW_SCHEMA, pa.field("reason", pa.string())])


def transform(request: TransformRequest, deps: Deps) -> TransformResult:
    """Flatten a segment. Raises TryAgain when storage is out, Stop when the segment is gone."""
    run = Run.from_wire(request.run)
    names = deps.names(run)
    where = (request.stream, request.lane, request.segment)
    done = deps.staging.summary(names.rows(*where))
    if done is not None:
        return TransformResult.from_wire(done)
    deps.check_cancelled(run)
    with deps.desks:
        return _transformed(request, run, deps)


def _transformed(request: TransformRequest, run: Run, deps: Deps) -> TransformResult:
    names = deps.names(run)
    where = (request.stream, request.lane, request.segment)
    raw = pq.read_table(pa.BufferReader(deps.staging.read(names.raw(*where))), use_threads=False).combine_chunks()
    records = raw["record"].combine_chunks() if raw.num_rows else pa.array([], pa.binary())
    feed_type = "Changefeed" if run.mode == "delta" else "Snapshot"
    envelope = Envelope(run.run_id, datetime.fromisoformat(run.started_at), feed_type)
    transform_of = TRANSFORMS[run.source, request.stream]
    of_derived = [DERIVED[run.source, name] for name in request.derived]
    flattened, *others = flatten_together([transform_of, *of_derived], records, envelope)
    derived = {}
    for of, other in zip(of_derived, others, strict=True):
        written = _staged(deps, names, (of.stream, *where[1:]), of, raw, other, None)
        derived[of.stream] = {"staged": written["records"], **{count: written[count] for count in _DERIVED}}
    return TransformResult.from_wire(_staged(deps, names, where, transform_of, raw, flattened, derived))


def _staged(
    deps: Deps,
    names: Names,
    where: tuple[str, int, int],
    transform_of: Transform,
    raw: pa.Table,
    flattened: Flattened,
    derived: dict[str, dict[str, int]] | None,
) -> JsonDict:
    """The summary of the rows that are staged there: these ones', or those of whoever was faster. `derived` is None for a stream that is derived itself."""
    reasons = Counter(reject.reason for reject in flattened.rejects)
    if flattened.rejects:
        deps.staging.create(names.rejects(*where), _rejects(raw, flattened), {"rejected": len(flattened.rejects)})
    deps.staging.create(names.keys(*where), frame_bytes(keys(flattened.rows, transform_of.table)), {})
    # A record may give several rows; those that gave any count as flattened. Only of what a derived stream is about a record may say nothing.
    fruitful = flattened.rows["_record"].n_unique()
    result = TransformResult(
        records=raw.num_rows,
        flattened=fruitful,
        rejected=len(flattened.rejects),
        filtered=raw.num_rows - fruitful - len(flattened.rejects) if derived is None else 0,
        rows=flattened.rows.height,
        json_bytes=_estimate(flattened),
        unknown_severity=_unknown(flattened),
        lenient=flattened.lenient,
        truncated=flattened.truncated,
        derived=derived or {},
    )
    summary = result.to_wire() | {"reasons": dict(reasons.most_common(5))}
    return deps.staging.create(names.rows(*where), frame_bytes(flattened.rows), summary)


def frame_bytes(frame: pl.DataFrame) -> bytes:
    """The frame as Parquet, LZ4."""
    content = io.BytesIO()
    frame.write_parquet(content, compression="lz4", statistics=False)
    return content.getvalue()


def _rejects(raw: pa.Table, flattened: Flattened) -> bytes:
    rows = raw.take(pa.array([reject.record for reject in flattened.rejects], pa.int64()))
    reasons = pa.array([reject.reason for reject in flattened.rejects], pa.string())
    return parquet(rows.append_column(REJECTS_SCHEMA.field("reason"), reasons))


def _unknown(flattened: Flattened) -> int:
    rows = flattened.rows
    return int((rows["Severity"] == "Unknown").sum()) if "Severity" in rows.columns else 0


def _estimate(flattened: Flattened) -> int:
    """About how many bytes the rows will have as JSON: their size in memory and their field names. It only decides when to upload."""
    rows = flattened.rows
    names = sum((rows.height - rows[name].null_count()) * (len(name) + 6) for name in rows.columns)
    return int(rows.estimated_size()) + names
