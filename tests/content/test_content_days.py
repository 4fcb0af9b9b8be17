"""What two days of loads changed, as the content tells it, against the stored rows of the two runs compared without KQL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from local.detections import hunt
from local.load import run_load
from local.sentinel.query import Workspace
from local.stack import Stack
from sentinel.content.detections import Detection, rules

Row = dict[str, Any]
TRACKED = ("Criticality", "IsInternetFacing", "HasEdr", "Environment", "OwnerName", "DvcIpAddr")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store directory after a full load of Device42 on two days, between which a good part of the inventory changes."""
    directory = tmp_path_factory.mktemp("days")
    life = ["--created", "0.05", "--changed", "0.4", "--deleted", "0.06"]
    for day in ("0", "1"):
        with Stack(directory, ["--assets", "500", "--findings", "10", "--seed", "1", "--day", day, *life]) as stack:
            assert run_load(stack, "device42", "full", lambda _: None).status == "complete"
    return directory / "sentinel"


@pytest.fixture(scope="module")
def days(store: Path) -> tuple[dict[str, Row], dict[str, Row]]:
    """The rows of the first and of the second run, by asset; what is gone is a row in the second."""
    rows = pl.read_parquet(store / "CAASM_Assets_CL" / "*.parquet")
    first, second = (rows.filter(pl.col("TimeGenerated") == at) for at in sorted(rows["TimeGenerated"].unique()))
    return _by_asset(first), _by_asset(second)


def _by_asset(frame: pl.DataFrame) -> dict[str, Row]:
    return {row["AssetId"]: row for row in frame.iter_rows(named=True)}


def test_what_changed_is_what_the_rows_say(store: Path, days: tuple[dict[str, Row], dict[str, Row]]) -> None:
    """New, gone, and different in one of the tracked columns; an asset that changed in others alone is not named."""
    before, after = days
    wanted = {}
    for key, row in after.items():
        if row["EntityIsDeleted"]:
            wanted[key] = ("gone", before[key]["AssetName"])
        elif key not in before:
            wanted[key] = ("new", row["AssetName"])
        elif any(
            (row[name] or False) != (before[key][name] or False) or (row[name] is None) != (before[key][name] is None)
            for name in TRACKED
        ):
            wanted[key] = ("changed", row["AssetName"])
    (answer,) = hunt(Workspace(store), "ChangedSinceLastRun")
    found = answer.named_rows()
    assert {row["AssetId"]: (row["Change"], row["AssetName"]) for row in found} == wanted
    assert len(found) == len(wanted)
    assert {change for change, _ in wanted.values()} == {"new", "gone", "changed"}


def test_critical_assets_that_vanished_or_lost_their_edr(
    store: Path, days: tuple[dict[str, Row], dict[str, Row]]
) -> None:
    """By what the first run said of them."""
    before, after = days
    vanished = {
        key for key, row in after.items() if row["EntityIsDeleted"] and before[key]["Criticality"] == "Critical"
    }
    lost = {
        key
        for key, row in after.items()
        if row["Criticality"] == "Critical" and row["HasEdr"] is False and key in before and before[key]["HasEdr"]
    }
    found = {
        one.file: _found(store, one) for one in rules() if one.file in ("CriticalAssetVanished", "CriticalAssetLostEdr")
    }
    assert found["CriticalAssetVanished"] == vanished != set()
    assert found["CriticalAssetLostEdr"] == lost


def _found(store: Path, rule: Detection) -> set[str]:
    answer = Workspace(store).query(rule.query)
    at = [column.name for column in answer.columns].index("AssetId")
    return {row[at] for row in answer.rows}
