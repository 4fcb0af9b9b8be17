"""The watchlist of critical assets: what the load says, in a form that a refresh can compare."""

from __future__ import annotations

import csv
import io
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from local.cli import main
from local.sentinel.query import Workspace
from local.watchlist import NOT_IN_ITEMS, SEARCH_KEY, watchlist_csv

Rows = list[dict[str, Any]]


def test_it_has_the_critical_assets_and_no_other(workspace: Workspace, loaded: Path) -> None:
    """As polars finds them in the stored rows, each once, by its key."""
    rows = list(csv.DictReader(io.StringIO(watchlist_csv(workspace))))
    stored = pl.read_parquet(loaded / "CAASM_Assets_CL" / "*.parquet")
    wanted = stored.filter(pl.col("Criticality") == "Critical").get_column("AssetId").unique().sort().to_list()
    assert [row[SEARCH_KEY] for row in rows] == wanted
    assert wanted
    assert not NOT_IN_ITEMS & set(rows[0])


def test_an_item_has_a_name_of_its_own_that_stays(ask: Callable[[str], Rows]) -> None:
    """A GUID that follows from the key."""
    rows = ask("CAASM_CriticalAssets")
    assert len({uuid.UUID(row["ItemId"]) for row in rows}) == len(rows)
    assert {row["AssetId"]: row["ItemId"] for row in rows} == {
        row["AssetId"]: row["ItemId"] for row in ask("CAASM_CriticalAssets(7d)")
    }


def test_a_revision_changes_with_what_the_item_says(ask: Callable[[str], Rows]) -> None:
    """Two assets that differ in their name alone have two revisions, and no column of the item is left out of it."""
    rows = ask("CAASM_CriticalAssets")
    said = {tuple(v for k, v in row.items() if k not in {*NOT_IN_ITEMS, "AssetId", "Revision"}) for row in rows}
    assert len({row["Revision"] for row in rows}) == len(said)


def test_the_command_writes_it(loaded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """To a file or to its output; without a load it says so."""
    out = tmp_path / "critical.csv"
    assert main(["watchlist", "--keep", str(loaded.parent), "--out", str(out)]) == 0
    assert "items of CAASM_CriticalAssets" in capsys.readouterr().out
    assert main(["watchlist", "--keep", str(loaded.parent)]) == 0
    assert capsys.readouterr().out == out.read_text(encoding="utf-8")
    assert main(["watchlist", "--keep", str(tmp_path)]) == 1
    assert "no load to ask" in capsys.readouterr().out
