"""KQL over the emulator's files: the query API through the real LogsQueryClient, the Python API, and agreement with polars."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from azure.core.exceptions import HttpResponseError
from azure.monitor.query import LogsQueryClient, LogsQueryResult

from local.sentinel.decode import decode
from local.sentinel.process import LoopbackCredential, Server
from local.sentinel.query import QueryError, Workspace
from local.sentinel.store import Store
from local.sentinel.timespan import Interval, parse_duration, parse_timespan
from sentinel.tables import ASSETS, FINDINGS, TABLES, Column, Table

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
NAIVE = NOW.replace(tzinfo=None)


def asset_rows(count: int) -> list[dict[str, Any]]:
    """Assets with gaps, the same in every run."""
    chance = random.Random(5)
    return [
        {
            "TimeGenerated": (NOW - timedelta(hours=i % 40)).isoformat(),
            "AssetId": f"s:{i % (count // 2)}",
            "AssetType": chance.choice(["Computer", "Domain", None]),
            "HasEdr": chance.choice([True, False, None]),
            "RiskScore": chance.choice([None, round(chance.random() * 10, 3)]),
            "OpenFindings": chance.randrange(5),
            "Tags": chance.choice([None, [], ["env=prod"], ["env=prod", "Team A"], ["dmz"]]),
        }
        for i in range(count)
    ]


def finding_rows(count: int) -> list[dict[str, Any]]:
    """Findings, some on assets that nobody listed."""
    chance = random.Random(6)
    return [
        {
            "TimeGenerated": NOW.isoformat(),
            "FindingId": f"f:{i}",
            "AssetId": f"s:{chance.randrange(count)}",
            "Severity": chance.choice(["Critical", "Low"]),
            "CveIds": [f"CVE-2026-{chance.randrange(9)}" for _ in range(chance.randrange(3))],
        }
        for i in range(count)
    ]


def fill(directory: Path, table: Table, *bodies: list[dict[str, Any]]) -> None:
    """One file for each list of rows."""
    store = Store(directory)
    for rows in bodies:
        store.add(table.name, decode(json.dumps(rows).encode(), table, NAIVE).batch)
        store.flush()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that no process serves, two files a table."""
    directory = tmp_path_factory.mktemp("filled")
    assets, findings = asset_rows(200), finding_rows(300)
    fill(directory, ASSETS, assets[:90], assets[90:])
    fill(directory, FINDINGS, findings[:1], findings[1:])
    return directory


@pytest.fixture(scope="module")
def workspace(filled: Path) -> Workspace:
    """The Python API over it."""
    return Workspace(filled)


def frame(directory: Path, table: Table) -> pl.DataFrame:
    """The same rows as polars reads them, strings never null, as in KQL."""
    read = pl.concat(pl.read_parquet(path) for path in sorted((directory / table.name).glob("*.parquet")))
    return read.with_columns(pl.col(pl.String).fill_null(""))


def answer(workspace: Workspace, kql: str) -> list[tuple[Any, ...]]:
    """The rows of a query, in an order of their own."""
    return sorted((tuple(row) for row in workspace.query(kql, now=NOW).rows), key=repr)


def polars_rows(lazy: pl.DataFrame) -> list[tuple[Any, ...]]:
    """The rows of a frame in the same order."""
    return sorted(lazy.rows(), key=repr)


def test_counting_by_a_column_equals_polars(workspace: Workspace, filled: Path) -> None:
    """summarize with count, sum and max; a null string is a group of its own, named ''."""
    kql = "CAASM_Assets_CL | summarize n=count(), s=sum(OpenFindings), m=max(RiskScore) by AssetType, HasEdr"
    expected = (
        frame(filled, ASSETS)
        .group_by("AssetType", "HasEdr")
        .agg(pl.len(), pl.col("OpenFindings").sum().cast(pl.Int64), pl.col("RiskScore").max())
    )
    assert answer(workspace, kql) == polars_rows(expected)


def test_the_latest_row_of_each_asset_equals_polars(workspace: Workspace, filled: Path) -> None:
    """arg_max(TimeGenerated, *), what every reader of the tables begins with."""
    kql = "CAASM_Assets_CL | summarize arg_max(TimeGenerated, *) by AssetId | project AssetId, TimeGenerated, OpenFindings"
    expected = (
        frame(filled, ASSETS)
        .sort("TimeGenerated")
        .group_by("AssetId")
        .last()
        .select("AssetId", pl.col("TimeGenerated").dt.replace_time_zone("UTC"), "OpenFindings")
    )
    rows = answer(workspace, kql)
    assert [row[:2] for row in rows] == [row[:2] for row in polars_rows(expected)]
    assert all(row[1].tzinfo is UTC for row in rows)


def test_joins_equal_polars(workspace: Workspace, filled: Path) -> None:
    """An inner join over expanded CVEs, and the findings whose asset nobody listed."""
    assets, findings = frame(filled, ASSETS), frame(filled, FINDINGS)
    inner = (
        "CAASM_Findings_CL | where Severity == 'Critical' | mv-expand Cve = CveIds to typeof(string) | where isnotempty(Cve) "
        "| join kind=inner (CAASM_Assets_CL | distinct AssetId) on AssetId | summarize n=count() by Cve"
    )
    expected = (
        findings.filter(pl.col("Severity") == "Critical")
        .explode("CveIds")
        .filter(pl.col("CveIds").is_not_null())
        .join(assets.select("AssetId").unique(), on="AssetId")
        .group_by("CveIds")
        .len()
    )
    assert answer(workspace, inner) == polars_rows(expected)
    anti = "CAASM_Findings_CL | join kind=leftanti CAASM_Assets_CL on AssetId | project FindingId"
    assert answer(workspace, anti) == polars_rows(findings.join(assets, on="AssetId", how="anti").select("FindingId"))


@pytest.mark.parametrize(
    "condition",
    [
        "set_has_element(Tags, 'env=prod')",
        "array_index_of(Tags, 'env=prod') >= 0",
        "Tags has_any ('prod')",
        "Tags has 'env=prod'",
        "tostring(Tags) contains 'env='",
    ],
)
def test_array_functions_work_on_dynamic_columns(workspace: Workspace, filled: Path, condition: str) -> None:
    """Each way of asking for a tag finds the rows that polars finds."""
    expected = frame(filled, ASSETS).filter(pl.col("Tags").list.contains("env=prod")).height
    assert answer(workspace, f"CAASM_Assets_CL | where {condition} | count") == [(expected,)]
    assert expected > 10


def test_array_lengths_and_texts(workspace: Workspace) -> None:
    """array_length, indexing and tostring see JSON, and a dynamic value comes back as what it is."""
    kql = (
        "CAASM_Assets_CL | where array_length(Tags) == 2 | take 1 | project Tags, n=array_length(Tags), "
        "head=tostring(Tags[0]), text=tostring(Tags)"
    )
    assert workspace.query(kql, now=NOW).rows == [[["env=prod", "Team A"], 2, "env=prod", '["env=prod","Team A"]']]


def test_ago_and_now_are_those_of_the_caller(workspace: Workspace, filled: Path) -> None:
    """A given `now` decides what is recent."""
    expected = frame(filled, ASSETS).filter(pl.col("TimeGenerated") > NAIVE - timedelta(hours=5)).height
    assert answer(workspace, "CAASM_Assets_CL | where TimeGenerated > ago(5h) | count") == [(expected,)]
    assert workspace.query("print t=now()", now=NOW).rows == [[NOW]]


def test_a_null_string_is_empty(workspace: Workspace) -> None:
    """A column that was never sent is '' and not null; other types are null."""
    kql = "CAASM_Assets_CL | where DvcOs == '' and isempty(DvcOs) and isnull(SevereFindings) | count"
    assert workspace.query(kql).rows == [[200]]


def test_a_timespan_restricts_every_table(workspace: Workspace, filled: Path) -> None:
    """Both ends are included; without one there is no restriction."""
    span = Interval(NAIVE - timedelta(hours=3), NAIVE - timedelta(hours=1))
    expected = frame(filled, ASSETS).filter(pl.col("TimeGenerated").is_between(span.start, span.end)).height
    assert workspace.query("CAASM_Assets_CL | count", timespan=span).rows == [[expected]]
    assert workspace.query("CAASM_Findings_CL | count", timespan=span).rows == [[0]]
    assert workspace.query("CAASM_Assets_CL | count").rows == [[200]]


def test_tables_without_rows_have_all_their_columns(tmp_path: Path) -> None:
    """Every table of the contract answers, in a directory that does not even exist."""
    empty = Workspace(tmp_path / "none")
    kinds = {"boolean": "bool"}
    for table in TABLES:
        columns, rows = empty.query(table.name)
        expected = [(column.name, kinds.get(column.type, column.type)) for column in table.columns]
        assert columns == [*expected, ("_TimeReceived", "datetime")]
        assert rows == []


def test_files_of_different_shapes_are_one_table(tmp_path: Path) -> None:
    """Lists in one file, other JSON in the next, and a file from before a column existed."""
    older = Table(ASSETS.name, ASSETS.stream, ASSETS.key, ASSETS.description, ASSETS.columns[:12])
    fill(tmp_path, older, [{"AssetId": "old"}])
    fill(tmp_path, ASSETS, [{"AssetId": "list", "Tags": ["a"]}], [{"AssetId": "object", "Tags": {"k": ["a"]}}])
    rows = answer(Workspace(tmp_path), "CAASM_Assets_CL | project AssetId, Tags, DvcOs")
    assert rows == [("list", ["a"], ""), ("object", {"k": ["a"]}, ""), ("old", None, "")]
    assert answer(Workspace(tmp_path), "CAASM_Assets_CL | where Tags.k[0] == 'a' | project AssetId") == [("object",)]


def test_rows_of_different_shapes_in_one_flush_become_two_files(tmp_path: Path) -> None:
    """A batch with other JSON does not force its shape on the others."""
    store = Store(tmp_path)
    for value in (["a"], {"k": 1}):
        body = json.dumps([{"AssetId": "x", "Tags": value}]).encode()
        store.add(ASSETS.name, decode(body, ASSETS, NAIVE).batch)
    store.flush()
    assert len(list((tmp_path / ASSETS.name).iterdir())) == 2
    assert answer(Workspace(tmp_path), "CAASM_Assets_CL | project Tags") == [(["a"],), ({"k": 1},)]


def test_stored_functions_are_kept_with_the_workspace(filled: Path, workspace: Workspace) -> None:
    """Name, parameters and body; another Workspace on the directory has them too; one that does not parse is refused."""
    workspace.add_function("RiskyAssets", "least:real = 9.0", "CAASM_Assets_CL | where RiskScore >= least")
    counted = [Workspace(filled).query(f"RiskyAssets({least}) | count").rows[0][0] for least in ("", "5.0")]
    scores = frame(filled, ASSETS)["RiskScore"].drop_nulls()
    assert counted == [(scores >= 9).sum(), (scores >= 5).sum()]
    with pytest.raises(QueryError) as refused:
        workspace.add_function("Broken", "", "CAASM_Assets_CL | where (")
    assert refused.value.code == "SyntaxError"


@pytest.mark.parametrize(
    ("kql", "code"),
    [
        ("CAASM_Assets_CL | where", "SyntaxError"),
        ("", "SyntaxError"),
        ("NoSuchTable | count", "SemanticError"),
        ("CAASM_Assets_CL | project NoSuchColumn", "SemanticError"),
        ("CAASM_Assets_CL | make-series count() on TimeGenerated step 1h", "NotInEmulator"),
        (".drop table CAASM_Assets_CL", "NotInEmulator"),
    ],
)
def test_a_bad_query_is_refused_with_a_code(workspace: Workspace, kql: str, code: str) -> None:
    """Syntax, meaning, and what the engine does not know are told apart."""
    with pytest.raises(QueryError) as refused:
        workspace.query(kql)
    assert refused.value.code == code
    assert str(refused.value)


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("PT1H", NAIVE - timedelta(hours=1), NAIVE),
        ("P1DT30M", NAIVE - timedelta(days=1, minutes=30), NAIVE),
        ("PT86400.0S", NAIVE - timedelta(days=1), NAIVE),
        ("2026-11-01/P2W", datetime(2026, 11, 1), datetime(2026, 11, 15)),  # noqa: DTZ001 - naive and UTC
        ("2026-11-01T00:00:00Z/2026-11-02T00:00:00Z", datetime(2026, 11, 1), datetime(2026, 11, 2)),  # noqa: DTZ001 - naive and UTC
        ("PT1H/2026-11-02", datetime(2026, 11, 1, 23), datetime(2026, 11, 2)),  # noqa: DTZ001 - naive and UTC
    ],
)
def test_a_timespan_is_a_duration_or_an_interval(text: str, start: datetime, end: datetime) -> None:
    """Every form that ISO 8601 and the SDK have."""
    assert parse_timespan(text, NAIVE) == Interval(start, end)


@pytest.mark.parametrize("text", ["P", "PT", "1h", "P1M", "P1Y", "", "PT1H "])
def test_what_is_no_duration_is_refused(text: str) -> None:
    """Months and years have no fixed length, so they are none either."""
    with pytest.raises(ValueError, match="no ISO 8601 duration"):
        parse_duration(text)


@pytest.fixture(scope="module")
def queried(shared_server: Server) -> Iterator[tuple[Server, LogsQueryClient]]:
    """An emulator with ten rows from a moment ago, and the real query client."""
    rows = [{"AssetId": f"a{i}", "Tags": ["x"], "HasEdr": True, "RiskScore": 1.5, "OpenFindings": i} for i in range(10)]
    assert shared_server.ingest(json.dumps(rows).encode()).status == 204
    with LogsQueryClient(LoopbackCredential(), endpoint=shared_server.url) as client:
        yield shared_server, client


def test_the_real_query_client_reads_back(queried: tuple[Server, LogsQueryClient]) -> None:
    """Names, types and values come out of LogsQueryClient as they do from the service, without any flush."""
    kql = (
        "CAASM_Assets_CL | where OpenFindings == 3 "
        "| project AssetId, TimeGenerated, Tags, HasEdr, RiskScore, OpenFindings, Model, d=1d+2h, LastSeen"
    )
    result = queried[1].query_workspace("w", kql, timespan=None, enforce_https=False)
    assert isinstance(result, LogsQueryResult)
    (table,) = result.tables
    assert table.name == "PrimaryResult"
    assert table.columns_types == [
        "string",
        "datetime",
        "dynamic",
        "bool",
        "real",
        "int",
        "string",
        "timespan",
        "datetime",
    ]
    (row,) = table.rows
    assert list(row)[2:] == ['["x"]', True, 1.5, 3, "", "1.02:00:00", None]
    assert abs(row["TimeGenerated"] - datetime.now(UTC)) < timedelta(minutes=5)


def test_the_real_query_client_passes_a_timespan(queried: tuple[Server, LogsQueryClient]) -> None:
    """A duration that covers the rows, and an interval that does not."""
    counts = []
    for span in (timedelta(hours=1), (datetime(2020, 1, 1, tzinfo=UTC), datetime(2020, 1, 2, tzinfo=UTC))):
        result = queried[1].query_workspace("w", "CAASM_Assets_CL | count", timespan=span, enforce_https=False)
        assert isinstance(result, LogsQueryResult)
        counts.append(result.tables[0].rows[0][0])
    assert counts == [10, 0]


def test_a_bad_query_is_the_service_s_400(queried: tuple[Server, LogsQueryClient]) -> None:
    """BadArgumentError around an inner error, which the SDK shows."""
    server, client = queried
    with pytest.raises(HttpResponseError) as raised:
        client.query_workspace("w", "CAASM_Assets_CL | where", timespan=None, enforce_https=False)
    assert raised.value.status_code == 400
    error = server.kql("CAASM_Assets_CL | where").json()["error"]
    assert (error["code"], error["innererror"]["code"]) == ("BadArgumentError", "SyntaxError")
    assert error["message"] == "The request had some invalid properties"
    assert error["innererror"]["message"] in str(raised.value)
    assert server.kql("print 1", timespan="soon").status == 400
    assert server.request("POST", "/v1/workspaces/w/query", b"{}").status == 401
    assert server.request("POST", "/v1/workspaces/w/query", b"{}", {"Authorization": "Bearer x"}).status == 400


def test_functions_can_be_added_over_http(launch: Callable[..., Server]) -> None:
    """POST /_control/functions, then call it; one that does not parse is a 400."""
    server = launch()
    server.control("functions", [{"name": "Two", "body": "print n=2"}])
    assert server.kql("Two()").json()["tables"][0]["rows"] == [[2]]
    bad = json.dumps([{"name": "Broken", "body": "print ("}]).encode()
    assert server.request("POST", "/_control/functions", bad).status == 400


def test_a_column_of_another_contract_is_queried_too(tmp_path: Path) -> None:
    """The tables are an argument, so a test or a bench can bring its own."""
    own = Table(
        "Own_CL",
        "Custom-Own",
        "Key",
        "One.",
        (Column("TimeGenerated", "datetime", "When."), Column("Key", "long", "K.")),
    )
    fill(tmp_path, own, [{"Key": 2**62}])
    assert Workspace(tmp_path, tables=[own]).query("Own_CL | project Key").rows == [[2**62]]
