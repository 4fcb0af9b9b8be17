"""The snapshot index of a source: per stream the keys of the last complete run, what each said (its hash), and how often in a row it was missing.

Invariant: an index is only believed through the watermark, which names the run that wrote it and, per stream, its parts and its rule for the keys that
that run did not find: `dropped` (tombstones were sent for all of them), `suspects` (for those that had been missing before; the others
are kept and wait for a second run), `kept` (none were sent, and their absence does not count).
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import polars as pl

from contracts import JsonDict
from staging import Names, Staging

SCHEMA: dict[str, pl.DataType] = {"key": pl.String(), "part": pl.UInt64(), "hash": pl.UInt64(), "missing": pl.UInt8()}
"""An index part: key, the key's hash (it decides the part), the row's hash, complete runs in a row that did not have it."""

DROPPED, SUSPECTS, KEPT = "dropped", "suspects", "kept"

SPAN = 2**64


def bounds(part: int, parts: int) -> tuple[int, int]:
    """The key hashes of a part: from the first to below the second."""
    return part * SPAN // parts, (part + 1) * SPAN // parts


def within(part: int, parts: int) -> pl.Expr:
    """Whether a row's key hash belongs to the part."""
    low, high = bounds(part, parts)
    column = pl.col("part")
    above = column >= pl.lit(low, pl.UInt64)
    return above if high == SPAN else above & (column < pl.lit(high, pl.UInt64))


def base_of(
    staging: Staging, source: str, stream: str, watermark: JsonDict | None, part: int, parts: int
) -> pl.DataFrame:
    """The base index's keys of a part, whatever the number of parts it was written in."""
    frames = [pl.DataFrame(schema=SCHEMA)]
    if watermark is not None and stream in watermark.get("streams", {}):
        of = watermark["streams"][stream]
        names = Names(source, watermark["run_id"])
        frames += [
            frame.filter(within(part, parts)) for frame in _parts(staging, names, stream, of, part=part, parts=parts)
        ]
    return pl.concat(frames)


def _parts(
    staging: Staging, names: Names, stream: str, of: JsonDict, *, part: int, parts: int
) -> Iterator[pl.DataFrame]:
    low, high = bounds(part, parts)
    for at in range(of["parts"]):
        from_, to = bounds(at, of["parts"])
        if to <= low or from_ >= high:
            continue
        yield pl.read_parquet(io.BytesIO(staging.read(names.index(stream, at))))
        if of["gone_rule"] == DROPPED:
            continue
        content = staging.find(names.gone(stream, at))
        if content is None:
            continue
        gone = pl.read_parquet(io.BytesIO(content))
        if of["gone_rule"] == SUSPECTS:
            yield gone.filter(pl.col("missing") < 2)
        else:
            yield gone.with_columns(missing=pl.col("missing") - 1)
