"""`CAASM_Assets`, `CAASM_Findings` and `CAASM_Relationships` over rows as the emulator stores them: one row per living key, whatever was sent and how often."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from local.sentinel.decode import decode
from local.sentinel.query import Workspace
from local.sentinel.store import Store
from sentinel.content import functions
from sentinel.tables import ASSETS, BY_NAME, FINDINGS, RELATIONSHIPS, Table

FIRST = datetime(2026, 11, 1, 6, 0, 0, 1, tzinfo=UTC)
VIEWS = {ASSETS.name: "CAASM_Assets", FINDINGS.name: "CAASM_Findings", RELATIONSHIPS.name: "CAASM_Relationships"}
ADDED = {ASSETS.name: {"Username"}, FINDINGS.name: {"Username"}, RELATIONSHIPS.name: set[str]()}
PAYLOAD = {ASSETS.name: "AssetStatus", FINDINGS.name: "OriginalStatus", RELATIONSHIPS.name: "OriginalRelationshipType"}


def row(table: Table, day: float, key: str, says: str = "", *, gone: bool = False, **more: Any) -> dict[str, Any]:
    """A row of the run of that day."""
    moments = {name: value.isoformat() for name, value in more.items() if isinstance(value, datetime)}
    fields = {table.key: key, PAYLOAD[table.name]: says, "EntityIsDeleted": gone, "EntitySnapshotId": f"run-{day}"}
    return {"TimeGenerated": (FIRST + timedelta(days=day)).isoformat(), **fields, **more, **moments}


@dataclass
class Stored:
    """A store directory that runs send to, one file a request, and the views of it."""

    directory: Path
    table: Table
    workspace: Workspace = field(init=False)

    def __post_init__(self) -> None:
        self.workspace = Workspace(self.directory)

    def send(self, *rows: dict[str, Any]) -> None:
        """A request of these rows, received when its first row was made."""
        received = datetime.fromisoformat(rows[0]["TimeGenerated"]).replace(tzinfo=None)
        store = Store(self.directory)
        store.add(self.table.name, decode(json.dumps(rows).encode(), self.table, received).batch)
        store.flush()

    def ask(self, kql: str, day: float) -> list[dict[str, Any]]:
        """Rows of the answer that somebody gets on that day."""
        answer = self.workspace.query(kql, now=FIRST + timedelta(days=day, hours=1))
        return [dict(zip([column.name for column in answer.columns], values, strict=True)) for values in answer.rows]

    def view(self, day: float, parameters: str = "") -> dict[str, str]:
        """What the view says of each key; fails when it has a key twice."""
        rows = self.ask(f"{VIEWS[self.table.name]}({parameters})", day)
        seen = {one[self.table.key]: one[PAYLOAD[self.table.name]] for one in rows}
        assert len(seen) == len(rows)
        return seen


@pytest.fixture(params=(ASSETS, FINDINGS, RELATIONSHIPS), ids=lambda table: table.name)
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Stored:
    """An empty store, for each table."""
    return Stored(tmp_path, request.param)


def test_empty_tables_give_an_empty_view_with_every_column(stored: Stored) -> None:
    """Before the first load a rule must find nothing, not fail."""
    answer = stored.workspace.query(VIEWS[stored.table.name])
    assert answer.rows == []
    assert {column.name for column in answer.columns} == {
        *stored.table.names,
        *ADDED[stored.table.name],
        "_TimeReceived",
    }


def test_full_delta_delete_and_recreate(stored: Stored) -> None:
    """After each run of a life the view is the inventory of that day."""
    t = stored.table
    stored.send(row(t, 0, "p:1", "new"), row(t, 0, "p:2", "new"), row(t, 0, "p:3", "new"))
    assert stored.view(0) == {"p:1": "new", "p:2": "new", "p:3": "new"}
    stored.send(row(t, 1, "p:2", "changed"), row(t, 1, "p:4", "new"))
    assert stored.view(1) == {"p:1": "new", "p:2": "changed", "p:3": "new", "p:4": "new"}
    stored.send(row(t, 2, "p:1", gone=True))
    assert stored.view(2) == {"p:2": "changed", "p:3": "new", "p:4": "new"}
    stored.send(row(t, 3, "p:1", "back"))
    assert stored.view(3) == {"p:1": "back", "p:2": "changed", "p:3": "new", "p:4": "new"}
    stored.send(row(t, 7, "p:1", "back"), row(t, 7, "p:3", "full"))
    assert stored.view(7) == {"p:1": "back", "p:2": "changed", "p:3": "full", "p:4": "new"}


def test_a_row_that_comes_again_is_one_row(stored: Stored) -> None:
    """Within a request, in another request of the run (a chunk sent again), and in a later run."""
    t = stored.table
    once = row(t, 0, "p:1", "same")
    stored.send(once, once)
    stored.send(once)
    stored.send(row(t, 1, "p:1", "same"), row(t, 1, "p:1", "same"))
    assert stored.view(1) == {"p:1": "same"}


def test_a_request_that_arrives_late_does_not_undo_a_newer_run(stored: Stored) -> None:
    """What counts is the time of the run, not the order of arrival."""
    t = stored.table
    stored.send(row(t, 1, "p:1", gone=True), row(t, 1, "p:2", "new"))
    stored.send(row(t, 0, "p:1", "old"), row(t, 0, "p:2", "old"))
    assert stored.view(1) == {"p:2": "new"}


def test_runs_a_microsecond_apart_are_told_apart(stored: Stored) -> None:
    """The order keeps all of TimeGenerated's digits that we write."""
    step = 1 / (24 * 3600 * 1_000_000)
    t = stored.table
    stored.send(row(t, step, "p:1", "later"), row(t, step, "p:2", gone=True))
    stored.send(row(t, 0, "p:1", "earlier"), row(t, 0, "p:2", "earlier"))
    assert stored.view(1) == {"p:1": "later"}


@pytest.mark.parametrize("living_first", [True, False])
def test_alive_counts_before_deleted_within_one_run(stored: Stored, living_first: bool) -> None:
    """No run writes both; if one did, its having seen the thing is the better evidence, even against a newer time in the tombstone."""
    t = stored.table
    rows = [row(t, 0, "p:1", "alive"), row(t, 0, "p:1", gone=True, LastSeen=FIRST, SourceUpdatedAt=FIRST)]
    for one in rows if living_first else reversed(rows):
        stored.send(one)
    assert stored.view(0) == {"p:1": "alive"}


@pytest.mark.parametrize("newer_first", [True, False])
def test_of_two_versions_within_one_run_the_one_that_the_source_changed_last_wins(
    stored: Stored, newer_first: bool
) -> None:
    """An asset that changes while it is paged over is on two pages, in two versions; a version without a time is the older one."""
    t = stored.table
    hour = timedelta(hours=1)
    pairs = [
        (
            row(t, 0, "p:1", "new", SourceUpdatedAt=FIRST),
            row(t, 0, "p:1", "old", SourceUpdatedAt=FIRST - hour, LastSeen=FIRST),
        ),
        (row(t, 0, "p:2", "new", LastSeen=FIRST), row(t, 0, "p:2", "old", LastSeen=FIRST - hour)),
        (row(t, 0, "p:3", "new", SourceUpdatedAt=FIRST - hour), row(t, 0, "p:3", "old", LastSeen=FIRST)),
    ]
    for pair in pairs:
        for one in pair if newer_first else reversed(pair):
            stored.send(one)
    assert stored.view(0) == {"p:1": "new", "p:2": "new", "p:3": "new"}


def test_equal_original_ids_of_two_products_are_two_things(stored: Stored) -> None:
    """And the tombstone of one leaves the other alone."""
    t = stored.table
    stored.send(row(t, 0, "tenable:1", "a", EntityOriginalId="1"), row(t, 0, "device42:1", "b", EntityOriginalId="1"))
    assert stored.view(0) == {"tenable:1": "a", "device42:1": "b"}
    stored.send(row(t, 1, "tenable:1", gone=True, EntityOriginalId="1"))
    assert stored.view(1) == {"device42:1": "b"}


def test_the_row_is_whole(stored: Stored) -> None:
    """A value that the newest row lacks is absent in the view, and not that of an older row."""
    t = stored.table
    items, number, text = ("Attributes", "Port", "ToName") if t is RELATIONSHIPS else ("Tags", "RiskScore", "DvcOs")
    stored.send(row(t, 0, "p:1", "old", FirstSeen=FIRST, **{items: ["a"], number: 9, text: "Windows"}))
    stored.send(row(t, 1, "p:1", "new", **{items: ["b", "c"]}))
    (seen,) = stored.ask(VIEWS[t.name], 1)
    (newest,) = stored.ask(f"{t.name} | where EntitySnapshotId == 'run-1'", 1)
    assert seen == newest | dict.fromkeys(ADDED[t.name], "")
    assert (seen[items], seen[number], seen[text], seen["FirstSeen"]) == (["b", "c"], None, "", None)


def test_the_lookback_is_14_days_unless_told(stored: Stored) -> None:
    """A key whose last row is older is out; a tombstone never falls out before the rows that it is about."""
    t = stored.table
    stored.send(row(t, 0, "p:1", "x"), row(t, 0, "p:2", "x"))
    stored.send(row(t, 1, "p:2", gone=True))
    stored.send(row(t, 10, "p:3", "y"))
    assert stored.view(13.9) == {"p:1": "x", "p:3": "y"}
    assert stored.view(14.5) == {"p:3": "y"}
    assert stored.view(14.5, "30d") == {"p:1": "x", "p:3": "y"}
    assert stored.view(14.5, "1d") == {}


@pytest.mark.parametrize("call", ["{0}", "{0}()", "{0}(14d)", "let span = 14d; {0}(span)"])
def test_the_view_is_called_as_a_table_is(stored: Stored, call: str) -> None:
    """By its bare name, with and without a lookback, and with operators behind it."""
    stored.send(row(stored.table, 0, "p:1", "x"))
    kql = call.format(VIEWS[stored.table.name]) + f" | project {stored.table.key}"
    assert stored.ask(kql, 0) == [{stored.table.key: "p:1"}]


def test_the_two_views_join(tmp_path: Path) -> None:
    """Findings that are open on assets that are there."""
    assets, findings = Stored(tmp_path, ASSETS), Stored(tmp_path, FINDINGS)
    assets.send(row(ASSETS, 0, "p:1"), row(ASSETS, 0, "p:2"))
    findings.send(*(row(FINDINGS, 0, f"p:f{i}", AssetId=f"p:{i}") for i in (1, 1, 2)))
    assets.send(row(ASSETS, 1, "p:2", gone=True))
    joined = assets.ask("CAASM_Findings | join kind=inner CAASM_Assets on AssetId | project FindingId", 1)
    assert joined == [{"FindingId": "p:f1"}]


# ------------------------------------------------------------------------------------------------ against polars

MOMENTS = st.sampled_from([None, FIRST - timedelta(days=2), FIRST - timedelta(microseconds=1), FIRST])
SENT = st.tuples(st.sampled_from(["p:1", "p:2", "q:1", "q:2"]), st.sampled_from("abc"), st.booleans(), MOMENTS, MOMENTS)
RUNS = st.lists(st.lists(SENT, max_size=6), max_size=6)
COLUMNS = ["day", "key", "says", "gone", "updated", "seen"]


def expected(runs: list[list[tuple[Any, ...]]]) -> dict[str, set[str]]:
    """For each living key what its winning rows say, by polars; rows alike in all that decides may say different things."""
    sent = [(day, *one) for day, rows in enumerate(runs) for one in rows]
    moment = pl.Datetime("us", "UTC")
    kinds = dict(zip(COLUMNS, [pl.Int64(), pl.String(), pl.String(), pl.Boolean(), moment, moment], strict=True))
    frame = pl.DataFrame(sent, schema=kinds, orient="row")
    rank = pl.struct("day", ~pl.col("gone"), "updated", "seen").rank("dense")
    never = datetime(1970, 1, 1, tzinfo=UTC)
    ranked = frame.with_columns(pl.col("updated", "seen").fill_null(never)).with_columns(rank=rank)
    best = ranked.filter(pl.col("rank") == pl.col("rank").max().over("key")).filter(~pl.col("gone"))
    return {key: set(says) for key, says in best.group_by("key").agg("says").iter_rows()}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(runs=RUNS, table=st.sampled_from((ASSETS, FINDINGS)), requests=st.integers(1, 3))
def test_any_sequence_of_runs_gives_what_polars_gives(
    runs: list[list[tuple[Any, ...]]], table: Table, requests: int
) -> None:
    """Duplicates, tombstones and re-creations in any order, a run in several requests."""
    with tempfile.TemporaryDirectory() as directory:
        stored = Stored(Path(directory), table)
        for day, sent in enumerate(runs):
            rows = [
                row(table, day, key, says, gone=gone, SourceUpdatedAt=updated, LastSeen=seen)
                for key, says, gone, updated, seen in sent
            ]
            for part in range(requests):
                if rows[part::requests]:
                    stored.send(*rows[part::requests])
        view = stored.view(len(runs))
        wanted = expected(runs)
        assert set(view) == set(wanted)
        assert [key for key, says in view.items() if says not in wanted[key]] == []


# ------------------------------------------------------------------------------------------------ the files


def test_each_loaded_table_has_its_view() -> None:
    """Alike but for the names, with a description that is a sentence, over the table's own key."""
    found = {function.name: function for function in functions()}
    for name, view in VIEWS.items():
        function = found[view]
        assert function.description.endswith(".")
        assert f"by {BY_NAME[name].key}\n" in function.body
        assert function.parameters == "lookback:timespan = 14d"
    relations = found["CAASM_Relationships"].body
    for name, view in VIEWS.items():
        own = relations.replace("CAASM_Relationships", view).replace("RelationshipId", BY_NAME[name].key)
        more = found[view].body.removeprefix(own).strip()
        assert found[view].body.startswith(own)
        assert more.startswith("| extend Username = ") == (ADDED[name] == {"Username"})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("CAASM_Assets_CL\n", "begin with the lines"),
        ("// F()\nCAASM_Assets_CL\n", "begin with the lines"),
        ("// G()\n// Gives.\nCAASM_Assets_CL\n", "name the file"),
    ],
    ids=["no head", "no description", "another name"],
)
def test_a_file_that_is_no_definition_is_refused(tmp_path: Path, text: str, says: str) -> None:
    """With what to do about it."""
    (tmp_path / "F.kql").write_text(text)
    with pytest.raises(ValueError, match=says):
        functions(tmp_path)


def test_a_function_saved_with_the_workspace_goes_before_ours(tmp_path: Path) -> None:
    """As a workspace's own function of that name would; ours is not copied into the workspace."""
    workspace = Workspace(tmp_path)
    assert workspace.query("CAASM_Assets | count").rows == [[0]]
    workspace.add_function("CAASM_Assets", "", "print 1")
    assert workspace.query("CAASM_Assets").rows == [[1]]
    assert list(json.loads((tmp_path / "functions.json").read_text())) == ["CAASM_Assets"]
