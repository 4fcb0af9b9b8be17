"""The workbook: every query is right, answers on a loaded workspace, and heeds the product; the JSON is what the gallery takes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import polars as pl
import pytest

from sentinel.reference.workbook import TABS, queries, workbook

Rows = list[dict[str, Any]]
TOLD_APART = [chart for tab in TABS for chart in tab.charts if "EntityProduct" in chart.kql.splitlines()[-1]]


@pytest.mark.parametrize(("name", "text"), list(queries()), ids=[name for name, _ in queries()])
def test_a_query_answers_on_a_loaded_workspace(ask: Callable[[str], Rows], name: str, text: str) -> None:
    """With rows: no chart is empty after a full load of each product."""
    assert ask(text), name


@pytest.mark.parametrize("chart", TOLD_APART, ids=lambda chart: chart.name)
def test_a_product_that_is_chosen_is_all_that_is_shown(ask: Callable[[str], Rows], chart: Any) -> None:
    """And it is shown, in each chart that names products."""
    text = chart.query.replace("{Product}", "'Device42'")
    rows = ask(text)
    if chart.name not in ("vulnerabilities", "most-exposed"):  # Device42 gives no findings
        assert rows
    assert {row["EntityProduct"] for row in rows} <= {"Device42"}


def test_coverage_against_criticality_is_what_polars_counts(ask: Callable[[str], Rows], loaded: Any) -> None:
    """The same figures from the stored rows, without KQL."""
    texts = {
        f"{tab.name}/{chart.name}": chart.query.replace("{Product}", "'*'") for tab in TABS for chart in tab.charts
    }
    rows = {
        row["Criticality"]: (row["Covered"], row["Missing"], row["Unknown"])
        for row in ask(texts["coverage/coverage-against-criticality"])
        if row["Control"] == "EDR"
    }
    assets = pl.read_parquet(loaded / "CAASM_Assets_CL" / "*.parquet").unique("AssetId")
    wanted = assets.group_by("Criticality").agg(
        (pl.col("HasEdr") == True).sum().alias("Covered"),  # noqa: E712 - polars' own comparison, null is neither
        (pl.col("HasEdr") == False).sum().alias("Missing"),  # noqa: E712 - as above
        pl.col("HasEdr").is_null().sum().alias("Unknown"),
    )
    assert rows == {level: tuple(counts) for level, *counts in wanted.iter_rows()}
    assert rows["Critical"][0]


def items(found: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every item of a workbook, those inside of groups included."""
    for item in found:
        yield item
        yield from items(item["content"].get("items", []))


def test_the_json_holds_together() -> None:
    """Names and ids are unique, each tab's link shows its group, each parameter in a query is declared, each query has a time."""
    book = json.loads(workbook())
    assert book["version"] == "Notebook/1.0"
    all_items = list(items(book["items"]))
    names = [item["name"] for item in all_items]
    assert len(set(names)) == len(names)
    (parameters,) = (item["content"]["parameters"] for item in all_items if item["type"] == 9)
    (links,) = (item["content"]["links"] for item in all_items if item["type"] == 11)
    ids = [one["id"] for one in (*parameters, *links)]
    assert len(set(ids)) == len(ids)
    groups = {item["conditionalVisibility"]["value"]: item for item in all_items if item["type"] == 12}
    assert [link["subTarget"] for link in links] == list(groups) == [tab.name for tab in TABS]
    declared = {one["name"] for one in parameters}
    charts = [item["content"] for item in all_items if item["type"] == 3]
    assert len(charts) == sum(len(tab.charts) for tab in TABS)
    for chart in charts:
        assert set(re.findall(r"\{(\w+)\}", chart["query"])) <= declared
        assert chart.get("timeContextFromParameter") == "TimeRange" or chart["timeContext"]["durationMs"] > 0
    assert {"TimeRange", "Product"} <= declared
    assert len(workbook()) < 200_000
