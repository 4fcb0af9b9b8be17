"""The snapshot index of a source: per stream the keys of the last complete run, what each said (its hash), and how often in a row it was missing.

Invariant: an index is only believed through the watermark, which names the run that wrote it and, per stream, its parts and its rule for the keys that
that run did not find: `dropped` (tombstones were sent for all of them), `suspects` (for those that had been missing before; the others
are kept and wait for a second run), `kept` (none were sent, and their absence does not count).
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Final

import polars as pl

from contracts import JsonDict, Stop
from staging import INDEX, Names, Staging, watermark_name
from transforms.identity import hashed

SCHEMA: dict[str, pl.DataType] = {
    "key": pl.String(),
    "key_hash": pl.UInt64(),
    "hash": pl.UInt64(),
    "missing": pl.UInt8(),
}
"""An index part: key, the key's hash (it decides the part), the row's hash, complete runs in a row that did not have it."""

KEY_HASH: Final = "xxh3"
"""The kind of hash that decides a key's part, as the index's own summaries and the watermark say it; they say none where an older version wrote the index, with BLAKE2b."""

DROPPED, SUSPECTS, KEPT = "dropped", "suspects", "kept"

SPAN = 2**64

NO_HASH: Final = 0
"""The hash of a key whose row is not sure; a real one is 0 once in 10^19."""


def bounds(part: int, parts: int) -> tuple[int, int]:
    """The key hashes of a part: from the first to below the second."""
    return part * SPAN // parts, (part + 1) * SPAN // parts


def within(part: int, parts: int) -> pl.Expr:
    """Whether a row's key hash belongs to the part."""
    low, high = bounds(part, parts)
    column = pl.col("key_hash")
    above = column >= pl.lit(low, pl.UInt64)
    return above if high == SPAN else above & (column < pl.lit(high, pl.UInt64))


def key_hash_of(staging: Staging, names: Names, stream: str) -> str | None:
    """By which kind of hash a run's index of the stream was cut into parts: its first part says it, the others follow it."""
    first = staging.summary(names.index(stream, 0))
    return None if first is None else first.get("key_hash")


def compact(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with texts of its own: what a filter leaves holds on to all texts that it was taken from, of other parts too."""
    return pl.DataFrame(frame.to_arrow(compat_level=pl.CompatLevel.oldest()))


def base_of(
    staging: Staging, source: str, stream: str, watermark: JsonDict | None, part: int, parts: int
) -> pl.DataFrame:
    """The base index's keys of a part, whatever the number of parts it was written in."""
    frames = [pl.DataFrame(schema=SCHEMA)]
    if watermark is not None and stream in watermark.get("streams", {}):
        frames += _parts(staging, Names(source, watermark["run_id"]), stream, watermark["streams"][stream], part, parts)
    return pl.concat(frames)


def doubted(staging: Staging, names: Names, stream: str, base: pl.DataFrame, part: int, parts: int) -> pl.DataFrame:
    """The base's part, in doubt about every key of which that run may have sent another row: one that the base does not know, one that had changed, or a tombstone.

    The run was never committed. Such a key is sent again when it is there, and deleted when it is gone.
    """
    known = base.select("key", "hash")
    doubt = [pl.DataFrame(schema={"key": pl.String(), "key_hash": pl.UInt64()})]
    for blob in staging.list(f"{names.prefix}keys/{stream}/"):
        sent = _placed(staging.find(blob.name), part, parts)
        if sent is not None:
            doubt.append(compact(sent.join(known, on=["key", "hash"], how="anti").select("key", "key_hash")))
    for blob in staging.list(f"{INDEX}{names.source}/{names.run_id}/{stream}/"):
        gone = _placed(staging.find(blob.name), part, parts) if blob.name.endswith("-gone.parquet") else None
        if gone is not None:
            doubt.append(compact(gone.select("key", "key_hash")))
    keys = pl.concat(doubt).unique("key")
    if keys.is_empty():
        return base
    unsure = keys.join(base.select("key", "missing"), on="key", how="left").select(
        "key", "key_hash", hash=pl.lit(NO_HASH, pl.UInt64), missing=pl.col("missing").fill_null(0)
    )
    return pl.concat([base.join(keys, on="key", how="anti"), unsure])


def _placed(content: bytes | None, part: int, parts: int) -> pl.DataFrame | None:
    return None if content is None else _keyed(content).filter(within(part, parts))


def _parts(staging: Staging, names: Names, stream: str, of: JsonDict, part: int, parts: int) -> Iterator[pl.DataFrame]:
    low, high = bounds(part, parts)
    for at in range(of["parts"]):
        # Of an older version, whose key hash was another one, any part may have the key.
        from_, to = bounds(at, of["parts"]) if of.get("key_hash") == KEY_HASH else (0, SPAN)
        if to <= low or from_ >= high:
            continue
        inside = low <= from_ and to <= high
        blobs = [names.index(stream, at)] + ([] if of["gone_rule"] == DROPPED else [names.gone(stream, at)])
        for name in blobs:
            frame = _read(staging, name, names.source)
            frame = frame if inside else compact(frame.filter(within(part, parts)))
            if name == blobs[0]:
                yield frame
            elif of["gone_rule"] == SUSPECTS:
                yield frame.filter(pl.col("missing") < 2)
            else:
                yield frame.with_columns(missing=pl.col("missing") - 1)


def _read(staging: Staging, name: str, source: str) -> pl.DataFrame:
    content = staging.find(name)
    if content is None:
        raise Stop(
            f"{name!r} is gone, a part of the last complete run's index: what has changed or gone cannot be told",
            f"keep {INDEX} out of lifecycle rules; to go on without it, delete {watermark_name(source)!r} and load in full",
        )
    return _keyed(content).select(*SCHEMA)


def _keyed(content: bytes) -> pl.DataFrame:
    """The frame with its keys' hashes, which an older version had by another name and of another kind."""
    frame = pl.read_parquet(io.BytesIO(content))
    return frame if "key_hash" in frame.columns else frame.with_columns(hashed(frame["key"]).alias("key_hash"))
