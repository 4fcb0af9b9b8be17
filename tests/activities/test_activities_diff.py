"""The diff of a run with the last complete one, on real blobs: judged against a model, in any number of parts, over generations of runs."""

from __future__ import annotations

import io
import uuid
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from activities.diff import diff
from activities.index import KEY_HASH, bounds
from contracts import TOMBSTONE_LANE, DiffRequest, DiffResult, Plan, Run, Stop
from sentinel.tables import ASSETS
from sentinel.text import texts
from staging import Names, watermark_name
from transforms.identity import keys
from transforms.rows import schema

Inventory = dict[str, int]
TIME = datetime(2026, 11, 20, 10, tzinfo=UTC)


class _Runs:
    """Runs of one source over given inventories: {key: version} per segment; what is staged is what a transform stages."""

    def __init__(self, bench: Any, *, clash: bool = False) -> None:
        self.bench, self.clash = bench("device42"), clash
        self.source = "device42"
        self.base: str | None = None

    def stage(self, segments: list[list[tuple[str, int]]]) -> Run:
        run = Run(uuid.uuid4().hex, self.source, "delta", "2026-11-20T10:00:00.000000+00:00", None, self.base)
        for number, rows in enumerate(segments):
            plain = [
                {"TimeGenerated": TIME, "AssetId": f"device42:{key}", "AssetName": f"v{version}"}
                for key, version in rows
            ]
            frame = pl.DataFrame([dict.fromkeys(ASSETS.names) | row for row in plain], schema=schema(ASSETS))
            content = io.BytesIO()
            staged = keys(frame["AssetId"], texts(frame, ASSETS).tails())
            if self.clash:
                # Four hashes for all keys.
                staged = staged.with_columns(pl.col("key_hash") // 2**62 * 2**62)
            staged.write_parquet(content)
            self.bench.staging.create(Names(self.source, run.run_id).keys("devices", 0, number), content.getvalue(), {})
        return run

    def first(self, rows: list[tuple[str, int]]) -> Run:
        """A committed run of these rows, the first of the source."""
        self.bench.staging.delete(watermark_name(self.source))
        run = self.stage([rows])
        self.judge(run, 1)
        self.commit(run, 1, "dropped")
        return run

    def after(self, broken: list[Run], rows: list[tuple[str, int]]) -> Run:
        """A run of these rows; what the `broken` runs have sent was not committed when it was opened."""
        run = self.stage([rows])
        plan = Plan(run.to_wire(), [], {}, {}, unsettled=[earlier.run_id for earlier in broken])
        self.bench.staging.put_json(Names(self.source, run.run_id).plan, plan.to_wire(), {})
        return run

    def judge(self, run: Run, parts: int, *, whole: bool = True, proven: bool = True) -> dict[str, int]:
        results = [
            diff(DiffRequest(run.to_wire(), "devices", at, parts, whole, proven), self.bench.deps)
            for at in range(parts)
        ]
        assert diff(DiffRequest(run.to_wire(), "devices", 0, parts, whole, proven), self.bench.deps) == results[0]
        names = list(DiffResult.__dataclass_fields__)
        return {name: sum(getattr(result, name) for result in results) for name in names}

    def commit(self, run: Run, parts: int, rule: str) -> None:
        mark = {
            "run_id": run.run_id,
            "streams": {"devices": {"parts": parts, "gone_rule": rule, "key_hash": KEY_HASH, "keys": 0}},
        }
        self.bench.staging.put_json(watermark_name(self.source), mark, {})
        self.base = run.run_id

    def as_of_old(self, run: Run, parts: int) -> None:
        """Rewrite what the run left as an older version wrote it: with another hash of the keys, by another name, and in parts by that."""
        names = Names(self.source, run.run_id)
        for name in (names.index, names.gone):
            frame = _of_old(self.blobs(lambda part, name=name: name("devices", part), parts))
            for part in range(parts):
                low, high = bounds(part, parts)
                share = frame.filter(pl.col("part").is_between(low, high - 1))
                self.replace(name("devices", part), share)
        keys_name = names.keys("devices", 0, 0)
        self.replace(keys_name, _of_old(pl.read_parquet(io.BytesIO(self.bench.staging.read(keys_name)))))
        mark = self.bench.staging.find_json(watermark_name(self.source))
        if mark["run_id"] == run.run_id:
            del mark["streams"]["devices"]["key_hash"]
            self.bench.staging.put_json(watermark_name(self.source), mark, {})

    def replace(self, name: str, frame: pl.DataFrame) -> None:
        content = io.BytesIO()
        frame.write_parquet(content)
        self.bench.staging.delete(name)
        self.bench.staging.create(name, content.getvalue(), {})

    def blobs(self, name: Any, parts: int) -> pl.DataFrame:
        return pl.concat([pl.read_parquet(io.BytesIO(self.bench.staging.read(name(part)))) for part in range(parts)])

    def verdicts(self, run: Run, parts: int) -> list[tuple[int, int]]:
        frame = self.blobs(lambda part: Names(self.source, run.run_id).verdicts("devices", part), parts)
        return sorted(frame.select("segment", "row").rows())

    def tombstones(self, run: Run, parts: int) -> pl.DataFrame:
        names = Names(self.source, run.run_id)
        blobs = [self.bench.staging.read(names.rows("devices", TOMBSTONE_LANE, part)) for part in range(parts)]
        return pl.concat([self.bench.rows_of(content, "devices") for content in blobs])


def _of_old(frame: pl.DataFrame) -> pl.DataFrame:
    hashes = [int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big") for key in frame["key"]]
    others = [name for name in frame.columns if name not in {"key", "key_hash"}]
    return frame.select("key", pl.Series("part", hashes, dtype=pl.UInt64), *others)


inventories = st.dictionaries(st.sampled_from("abcdefghijkl"), st.integers(1, 2), max_size=10)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(generations=st.lists(st.tuples(inventories, st.integers(1, 4)), min_size=2, max_size=4), clash=st.booleans())
def test_every_key_is_judged_as_a_model_judges_it(
    bench: Any, generations: list[tuple[Inventory, int]], *, clash: bool
) -> None:
    """Created, updated, unchanged, gone; the parts of this run and of the base may be any number, and keys may share a hash."""
    runs = _Runs(bench, clash=clash)
    runs.bench.staging.delete(watermark_name("device42"))
    before: Inventory = {}
    for inventory, parts in generations:
        items = sorted(inventory.items())
        half = len(items) // 2
        run = runs.stage([items[:half], items[half:]])
        found = runs.judge(run, parts)
        created = inventory.keys() - before.keys()
        updated = {key for key in inventory.keys() & before.keys() if inventory[key] != before[key]}
        gone = before.keys() - inventory.keys()
        assert (found["created"], found["updated"], found["gone"]) == (len(created), len(updated), len(gone))
        assert found["unchanged"] == len(inventory) - len(created) - len(updated)
        assert len(runs.verdicts(run, parts)) == len(created) + len(updated)
        assert set(runs.tombstones(run, parts)["EntityOriginalId"]) == gone
        runs.commit(run, parts, "dropped")
        before = inventory


def test_tombstones_are_rows_of_the_table(bench: Any) -> None:
    """The key, the product's identifier, deleted, and the table's own columns."""
    runs = _Runs(bench)
    runs.first([("a", 1), ("b", 1)])
    run = runs.stage([[("a", 1)]])
    assert runs.judge(run, 2)["tombstones"] == 1
    frame = runs.tombstones(run, 2)
    assert frame.drop("_record").schema == pl.Schema(schema(ASSETS))
    row = frame.row(0, named=True)
    assert (row["AssetId"], row["EntityOriginalId"], row["EntityIsDeleted"]) == ("device42:b", "b", True)
    assert (row["EntitySnapshotId"], row["EntityProduct"]) == (run.run_id, "Device42")


def test_a_key_must_be_missing_twice_where_nothing_is_proven(bench: Any) -> None:
    """The first absence is kept in the index, the second gives the tombstone; a key that is back counts anew."""
    runs = _Runs(bench)
    runs.judge(first := runs.stage([[("a", 1), ("b", 1), ("c", 1)]]), 1, proven=False)
    runs.commit(first, 1, "suspects")
    runs.judge(second := runs.stage([[("a", 1)]]), 2, proven=False)
    assert runs.tombstones(second, 2).height == 0
    runs.commit(second, 2, "suspects")
    third = runs.stage([[("a", 1), ("c", 1)]])
    found = runs.judge(third, 3, proven=False)
    assert (found["tombstones"], found["unchanged"]) == (1, 2)
    assert runs.tombstones(third, 3)["EntityOriginalId"].to_list() == ["b"]
    runs.commit(third, 3, "suspects")
    assert runs.judge(runs.stage([[("a", 1)]]), 1, proven=False)["tombstones"] == 0


def test_what_was_kept_on_doubt_is_still_known(bench: Any) -> None:
    """A run that deleted nothing hands its missing keys on, and their absence did not count."""
    runs = _Runs(bench)
    runs.judge(first := runs.stage([[("a", 1), ("b", 1)]]), 1, proven=False)
    runs.commit(first, 1, "dropped")
    runs.judge(second := runs.stage([[("a", 1)]]), 1, proven=False)
    runs.commit(second, 1, "kept")
    found = runs.judge(runs.stage([[("a", 1)]]), 1, proven=False)
    assert (found["gone"], found["tombstones"], found["known"]) == (1, 0, 2)


def test_a_partial_export_deletes_nothing_and_forgets_nothing(bench: Any) -> None:
    """What a changed-since export does not name is still there."""
    runs = _Runs(bench)
    runs.judge(first := runs.stage([[("a", 1), ("b", 1)]]), 2)
    runs.commit(first, 2, "dropped")
    found = runs.judge(second := runs.stage([[("a", 2), ("n", 1)]]), 1, whole=False)
    assert (found["created"], found["updated"], found["gone"]) == (1, 1, 0)
    runs.commit(second, 1, "kept")
    assert runs.judge(runs.stage([[("a", 2), ("b", 1), ("n", 1)]]), 3)["unchanged"] == 3


def test_of_rows_with_one_key_the_last_counts_and_is_sent_again_next_time(bench: Any) -> None:
    """Duplicates are counted; two versions of one key leave the reader unsure, so the next delta sends the key once more."""
    runs = _Runs(bench)
    run = runs.stage([[("a", 1), ("b", 1)], [("a", 2), ("b", 1)]])
    found = runs.judge(run, 1)
    assert (found["rows"], found["keys"], found["duplicates"]) == (4, 2, 2)
    assert runs.verdicts(run, 1) == [(1, 0), (1, 1)]
    runs.commit(run, 1, "dropped")
    again = runs.judge(runs.stage([[("a", 2), ("b", 1)]]), 1)
    assert (again["updated"], again["unchanged"]) == (1, 1)


def test_a_run_is_only_compared_with_its_own_base(bench: Any) -> None:
    """Another load that was committed meanwhile stops this one, before it could call anything gone."""
    runs = _Runs(bench)
    runs.judge(first := runs.stage([[("a", 1)]]), 1)
    runs.commit(first, 1, "dropped")
    run = runs.stage([[("b", 1)]])
    runs.commit(runs.stage([[("a", 1)]]), 1, "dropped")
    with pytest.raises(Stop, match="committed meanwhile"):
        runs.judge(run, 1)


def test_what_an_uncommitted_run_may_have_sent_is_in_doubt(bench: Any) -> None:
    """It sent another version of one key, one that is new, and one as it was: the next run sends the first again, deletes the second, and not the third."""
    runs = _Runs(bench)
    runs.first([("changed", 1), ("same", 1)])
    broken = runs.stage([[("changed", 2), ("same", 1), ("brief", 1)]])
    run = runs.after([broken], [("changed", 1), ("same", 1)])
    found = runs.judge(run, 2)
    assert (found["created"], found["updated"], found["unchanged"], found["tombstones"]) == (0, 1, 1, 1)
    assert runs.tombstones(run, 2)["EntityOriginalId"].to_list() == ["brief"]


def test_a_tombstone_of_an_uncommitted_run_is_in_doubt(bench: Any) -> None:
    """It may have been sent: when the key is there after all, it is sent again although nothing has changed."""
    runs = _Runs(bench)
    runs.first([("back", 1), ("same", 1)])
    broken = runs.stage([[("same", 1)]])
    assert runs.judge(broken, 1)["tombstones"] == 1
    found = runs.judge(runs.after([broken], [("back", 1), ("same", 1)]), 3)
    assert (found["updated"], found["unchanged"], found["gone"]) == (1, 1, 0)


def test_subjects_in_doubt_are_counted_once(bench: Any) -> None:
    """Whichever of the broken runs had them, and in whichever part; those that the index itself does not know for sure are not of them."""
    runs = _Runs(bench)
    runs.first([("twice", 1), ("twice", 2), ("changed", 1), ("same", 1)])
    broken = [runs.stage([[("changed", version), ("same", 1), ("brief", 1), ("twice", 2)]]) for version in (2, 3)]
    run = runs.after([*broken, runs.stage([[("last", 1)]])], [("twice", 2), ("changed", 1), ("same", 1)])
    found = runs.judge(run, 3)
    assert (found["doubted"], found["updated"], found["unchanged"], found["gone"]) == (3, 2, 1, 2)
    assert runs.judge(runs.stage([[("same", 1)]]), 2)["doubted"] == 0


def test_an_index_of_an_older_version_is_compared_as_any(bench: Any) -> None:
    """Its keys were hashed in another way, so each of its parts may hold any key; the keys that are missing for the first time are in it too."""
    runs = _Runs(bench)
    letters = "abcdefghijklmnop"
    runs.judge(first := runs.stage([[(key, 1) for key in letters + "z"]]), 1, proven=False)
    runs.commit(first, 1, "suspects")
    runs.judge(second := runs.stage([[(key, 1) for key in letters]]), 4, proven=False)
    runs.commit(second, 4, "suspects")
    runs.as_of_old(second, 4)
    third = runs.stage([[(key, 1 + (key == "b")) for key in letters[1:]] + [("new", 1)]])
    found = runs.judge(third, 3, proven=False)
    assert (found["known"], found["created"], found["updated"], found["unchanged"]) == (17, 1, 1, 14)
    assert (found["gone"], runs.tombstones(third, 3)["EntityOriginalId"].to_list()) == (2, ["z"])
    runs.commit(third, 3, "suspects")
    assert runs.judge(runs.stage([[(key, 1) for key in letters]]), 2, proven=False)["known"] == 17


def test_a_run_of_an_older_version_that_was_never_committed_leaves_its_keys_in_doubt(bench: Any) -> None:
    """What it may have sent and deleted is found by the keys themselves."""
    runs = _Runs(bench)
    runs.first([("changed", 1), ("same", 1), ("back", 1)])
    broken = runs.stage([[("changed", 2), ("same", 1), ("brief", 1)]])
    runs.judge(broken, 2)
    runs.as_of_old(broken, 2)
    run = runs.after([broken], [("changed", 1), ("same", 1), ("back", 1)])
    found = runs.judge(run, 2)
    assert (found["updated"], found["unchanged"], found["tombstones"], found["doubted"]) == (2, 1, 1, 3)


def test_a_run_that_an_older_version_began_stops_with_a_remedy(bench: Any) -> None:
    """Some of its parts may be compared already, and those were other ones."""
    runs = _Runs(bench)
    run = runs.stage([[("a", 1)]])
    name = Names("device42", run.run_id).keys("devices", 0, 0)
    runs.replace(name, _of_old(pl.read_parquet(io.BytesIO(runs.bench.staging.read(name)))))
    with pytest.raises(Stop, match="older version") as stopped:
        runs.judge(run, 1)
    assert '"fresh": true' in stopped.value.remedy


def test_parts_of_two_versions_are_never_put_together(bench: Any) -> None:
    """Where an older version compared the first part, the others stop: also of a stream that gave no keys, whose segments would not show it."""
    runs = _Runs(bench)
    runs.first([(key, 1) for key in "abcdefgh"])
    run = runs.stage([])
    requests = [DiffRequest(run.to_wire(), "devices", part, 2, whole=True, proven=True) for part in range(2)]
    diff(requests[0], runs.bench.deps)
    name = Names("device42", run.run_id).index("devices", 0)
    content, summary = runs.bench.staging.read(name), runs.bench.staging.summary(name)
    del summary["key_hash"]
    runs.bench.staging.delete(name)
    runs.bench.staging.create(name, content, summary)
    with pytest.raises(Stop, match="older version"):
        diff(requests[1], runs.bench.deps)
