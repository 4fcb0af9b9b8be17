"""Findings on assets that the run's asset streams did not give: kept, and counted.

Invariant: memory is bounded by `ASSETS_PER_PASS` and `FINDINGS_AT_ONCE`, not by the inventory: what is compared are the 64-bit hashes that a run's keys segments hold, one
share of the hash range a pass. A collision (about 1 in 10^9 at ten million assets) could hide an orphan.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import polars as pl

from staging import Staging
from transforms.identity import ABOUT

ASSETS_PER_PASS = 4_000_000

FINDINGS_AT_ONCE = 1_000_000
"""So many are held and looked up among the assets together."""


def count_orphans(staging: Staging, asset_keys: Sequence[str], finding_keys: Sequence[str], assets: int) -> int | None:
    """How many findings name an asset that is not there, by the keys segments of both; None when an older version staged some, which do not say what they are about.

    `assets`: how many asset rows there are; it only sets the passes.
    """
    if not finding_keys:
        return 0
    passes = max(1, -(-assets // ASSETS_PER_PASS))
    orphans = 0
    try:
        for share in range(passes):
            # Looked up in order, not in a hash table: that takes several times what is in it.
            known = pl.concat([_NONE, *_hashes(staging, asset_keys, "key_hash", share, passes)]).sort()
            for named in _gathered(_hashes(staging, finding_keys, ABOUT, share, passes)):
                orphans += len(named) - _among(named, known)
    except pl.exceptions.ColumnNotFoundError:
        return None
    return orphans


def _among(named: pl.Series, known: pl.Series) -> int:
    """How many of the hashes are among the known ones, which are in order."""
    if known.is_empty():
        return 0
    named = named.sort()
    at = known.search_sorted(named).clip(upper_bound=len(known) - 1)
    return int((known.gather(at) == named).sum())


_NONE = pl.Series("hash", [], pl.UInt64)


def _hashes(staging: Staging, blobs: Sequence[str], column: str, share: int, passes: int) -> Iterator[pl.Series]:
    for content in staging.read_ahead(blobs):
        hashes = pl.read_parquet(io.BytesIO(content), columns=[column])[column].drop_nulls().alias("hash")
        yield hashes.filter(hashes % passes == share) if passes > 1 else hashes


def _gathered(parts: Iterator[pl.Series]) -> Iterator[pl.Series]:
    pending: list[pl.Series] = []
    for part in parts:
        pending.append(part)
        if sum(map(len, pending)) >= FINDINGS_AT_ONCE:
            yield pl.concat(pending)
            pending = []
    yield pl.concat([_NONE, *pending])
