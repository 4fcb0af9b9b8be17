"""Findings on assets that the run's asset streams did not give: kept, and counted.

Invariant: memory is bounded by `ASSETS_PER_PASS`, not by the inventory: identifiers are compared as 64-bit hashes, one share of the hash range a
pass. The hash lives no longer than one call, so it need not be stable; a collision (about 1 in 10^9 at ten million assets) could hide an orphan.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl

from activities.rows import asset_ids
from staging import Staging

ASSETS_PER_PASS = 4_000_000


def count_orphans(staging: Staging, asset_blobs: Sequence[str], finding_blobs: Sequence[str], assets: int) -> int:
    """How many finding rows name an asset that no asset row has. `assets`: how many asset rows there are; it only sets the passes."""
    if not finding_blobs:
        return 0
    passes = max(1, -(-assets // ASSETS_PER_PASS))
    orphans = 0
    for share in range(passes):
        known = _known(staging, asset_blobs, share, passes)
        for hashes in _hashes(staging, finding_blobs, share, passes):
            orphans += int((~hashes.is_in(known)).sum())
    return orphans


def _known(staging: Staging, blobs: Sequence[str], share: int, passes: int) -> pl.Series:
    parts = [hashes.unique() for hashes in _hashes(staging, blobs, share, passes)]
    return pl.concat(parts).unique() if parts else pl.Series("AssetId", [], pl.UInt64)


def _hashes(staging: Staging, blobs: Sequence[str], share: int, passes: int) -> Iterator[pl.Series]:
    for name in blobs:
        hashes = asset_ids(staging.read(name)).drop_nulls().hash(0)
        yield hashes.filter(hashes % passes == share) if passes > 1 else hashes
