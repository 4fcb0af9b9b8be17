"""Transforms one staged segment: raw records in, rows of the table out, and what could not become a row with its reason; the same for derived streams.

Invariant: every record of the segment is in a row, a reject or the filtered count; the blobs of rejects and keys are written before the rows',
so that whoever sees rows can see them, and those of derived streams, with the same lane and segment, before those of the stream itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import polars as pl

from activities import parquet
from activities.deps import Deps
from activities.rows import Rows
from contracts import JsonDict, Run, TransformRequest, TransformResult
from staging import Names
from transforms.decode import Reject
from transforms.registry import DERIVED, TRANSFORMS
from transforms.rows import Envelope, Flattened, Transform, flatten_in_turn

_DERIVED: Final = ("flattened", "rejected", "filtered", "rows", "json_bytes")
"""What a lane has to know of its derived streams."""


def transform(request: TransformRequest, deps: Deps) -> TransformResult:
    """Flatten a segment. Raises TryAgain when storage is out, Stop when the segment is gone."""
    run = Run.from_wire(request.run)
    names = deps.names(run)
    where = (request.stream, request.lane, request.segment)
    done = deps.staging.summary(names.rows(*where))
    if done is not None:
        return TransformResult.from_wire(done)
    deps.check_cancelled(run)
    content = deps.staging.read(names.raw(*where))
    feed_type = "Changefeed" if run.mode == "delta" else "Snapshot"
    envelope = Envelope(run.run_id, datetime.fromisoformat(run.started_at), feed_type)
    transforms = [TRANSFORMS[run.source, request.stream], *(DERIVED[run.source, name] for name in request.derived)]
    with deps.desks:
        own, *others = _made(content, transforms, envelope, deps.budgets.body_limit_bytes)
    derived = {}
    for of in others:
        written = _staged(deps, names, (of.stream, *where[1:]), of, {})
        derived[of.stream] = {"staged": written["records"], **{count: written[count] for count in _DERIVED}}
    return TransformResult.from_wire(_staged(deps, names, where, own, derived))


@dataclass(slots=True)
class _Made:
    """What a transform made of a segment: blobs as they are to be written, and what their summary says."""

    stream: str
    rows: bytes
    keys: bytes
    rejects: bytes | None
    rejected: int
    summary: JsonDict


def _made(content: bytes, transforms: Sequence[Transform], envelope: Envelope, limit: int) -> list[_Made]:
    """A raw segment by each transform, a row group at a time: what flattening takes is ten times what is flattened.

    What was flattened is encoded beside what is flattened next, so that a lane that is alone keeps two cores busy.
    """
    parts = [_Parts(transform, limit, primary=not at) for at, transform in enumerate(transforms)]
    records = 0
    portions: dict[str, int] = {}
    encoding: Future[None] | None = None
    with ThreadPoolExecutor(1, "encode") as press:
        for first, count, group in parquet.groups(content):
            raw = group.collect()
            for of, flattened in flatten_in_turn(transforms, raw["record"], envelope, first=first, portions=portions):
                parts[of].refuse(flattened.rejects, raw, first)
                if encoding is not None:
                    encoding.result()
                encoding = press.submit(parts[of].add, flattened)
                # What is encoded is let go behind it, not when the next is flattened.
                del flattened
            records += count
        if encoding is not None:
            encoding.result()
    return [part.made(records) for part in parts]


def _staged(deps: Deps, names: Names, where: tuple[str, int, int], made: _Made, derived: JsonDict) -> JsonDict:
    """The summary of the rows that are staged there: these ones', or those of whoever was faster."""
    if made.rejects is not None:
        deps.staging.create(names.rejects(*where), made.rejects, {"rejected": made.rejected})
    deps.staging.create(names.keys(*where), made.keys, {})
    return deps.staging.create(names.rows(*where), made.rows, made.summary | {"derived": derived}, read_soon=True)


class _Parts:
    """The rows, keys and rejects of a segment by one transform, as its row groups bring them."""

    def __init__(self, transform: Transform, limit: int, *, primary: bool) -> None:
        self._transform, self._primary = transform, primary
        self._rows = Rows(transform.table, limit)
        self._rejects: list[pl.DataFrame] = []
        self._reasons: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()

    def refuse(self, rejects: Sequence[Reject], raw: pl.DataFrame, first: int) -> None:
        """What was refused of the records `raw`, of which the first is the segment's `first`."""
        if rejects:
            self._rejects.append(_rejects(raw, rejects, first))
            self._reasons.update(reject.reason for reject in rejects)

    def add(self, flattened: Flattened) -> None:
        """Rows, some at a time."""
        rows = flattened.rows
        self._rows.add(rows)
        self._counts.update(
            # A record may give several rows; those that gave any count as flattened.
            flattened=rows["_record"].n_unique(),
            rows=rows.height,
            unknown_severity=_unknown(rows),
            lenient=flattened.lenient,
            truncated=flattened.truncated,
        )

    def made(self, records: int) -> _Made:
        """All of it, of so many records."""
        counts = self._counts
        counts["rejected"] = sum(map(len, self._rejects))
        # Only of what a derived stream is about a record may say nothing.
        filtered = 0 if self._primary else records - counts["flattened"] - counts["rejected"]
        rows, keys = self._rows.contents()
        result = TransformResult.from_wire(
            {"records": records, "filtered": filtered, "json_bytes": self._rows.json_bytes, **counts}
        )
        return _Made(
            stream=self._transform.stream,
            rows=rows,
            keys=keys,
            rejects=parquet.of_frame(pl.concat(self._rejects)) if self._rejects else None,
            rejected=counts["rejected"],
            summary=result.to_wire() | {"reasons": dict(self._reasons.most_common(5))},
        )


def _rejects(raw: pl.DataFrame, rejects: Sequence[Reject], first: int) -> pl.DataFrame:
    """The records that were refused, as they were staged, each with its reason."""
    return raw[[reject.record - first for reject in rejects]].with_columns(
        reason=pl.Series([reject.reason for reject in rejects], dtype=pl.String)
    )


def _unknown(rows: pl.DataFrame) -> int:
    return int((rows["Severity"] == "Unknown").sum()) if "Severity" in rows.columns else 0
