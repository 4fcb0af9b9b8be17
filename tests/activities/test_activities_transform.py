"""Transforming a segment: every record is a row or a reject, and a second call gives the first's answer."""

from __future__ import annotations

from typing import Any

import pytest

from contracts import Cancelled, Stop
from local.products.synthetic import Inventory, SyntheticStream
from sentinel.tables import BY_NAME
from sources.registry import SOURCES

INVENTORY = Inventory(assets=30, findings=40, big_output_share=0.0)
STREAMS = INVENTORY.streams()


def made_by(product: str, kind: str) -> SyntheticStream:
    """A stream of the inventory."""
    return STREAMS[product, kind]


ODD = [
    (b'{"hostname":"nobody"}', "no identifier: the record cannot be told apart"),
    (b"[1,2]", "not a JSON object but an array"),
    (b"null", "not a JSON object but null"),
    (b'"text"', "not a JSON object but a text"),
    (b"12", "not a JSON object but a number"),
    (b"{not json", "not JSON (JSONDecodeError)"),
    (b"", "not JSON (JSONDecodeError)"),
]


@pytest.mark.parametrize(
    ("source", "stream", "product", "kind"),
    [
        ("cycognito", "domains", "cycognito", "assets_domain"),
        ("cycognito", "issues", "cycognito", "findings_issues"),
        ("device42", "devices", "device42", "assets"),
        ("tenable", "assets", "tenable_io", "assets"),
        ("tenable", "vulnerabilities", "tenable_io", "findings_vulns"),
    ],
)
def test_what_is_no_record_is_rejected_with_its_raw_text_and_reason(
    source: str, stream: str, product: str, kind: str, bench: Any
) -> None:
    """Between good records, which all become rows that know where they came from."""
    run = bench(source)
    made = made_by(product, kind)
    good = [made.record(i) for i in range(3)]
    run.stage(stream, [good[0], *(record for record, _ in ODD), good[1], good[2]])
    result = run.transform(stream)
    assert (result.records, result.flattened, result.rejected, result.filtered) == (10, 3, 7, 0)
    assert result.rows == 3
    rejects = run.table(run.names.rejects(stream, 0, 0)).to_pylist()
    assert [(reject["record"], reject["reason"]) for reject in rejects] == ODD
    assert [reject["ordinal"] for reject in rejects] == list(range(1, 8))
    rows = run.rows(stream)
    table = BY_NAME[SOURCES[source].stream(stream).table]
    assert rows.columns == [*table.names, "_record"]
    assert rows["_record"].to_list() == [0, 8, 9]
    assert set(rows["EntitySnapshotId"]) == {run.run.run_id}
    assert {stamp.isoformat() for stamp in rows["TimeGenerated"]} == {"2026-11-20T10:00:00+00:00"}
    summary = run.staging.summary(run.names.rows(stream, 0, 0))
    assert sum(summary["reasons"].values()) <= 7
    assert "reasons" not in result.to_wire()


def test_a_second_call_reads_nothing_and_answers_alike(bench: Any) -> None:
    """The rows' blob has the answer, even when the raw segment is gone."""
    run = bench("cycognito", INVENTORY)
    run.export("issues", 0, {"at": 0})
    first = run.transform("issues")
    content = run.staging.read(run.names.rows("issues", 0, 0))
    run.deps.staging._container.delete_blob(run.names.raw("issues", 0, 0))
    assert run.transform("issues") == first
    assert run.staging.read(run.names.rows("issues", 0, 0)) == content
    assert first.records == first.rows == 40


def test_only_rejects_are_an_empty_rows_segment(bench: Any) -> None:
    """Nothing to send, and nothing lost."""
    run = bench("device42")
    run.stage("devices", [record for record, _ in ODD])
    result = run.transform("devices")
    assert (result.rows, result.flattened, result.rejected) == (0, 0, 7)
    assert run.rows("devices").height == 0
    assert run.upload("devices").rows == 0
    assert run.sink.posted == []


def test_a_segment_that_was_deleted_stops_with_what_to_do(bench: Any) -> None:
    """A lifecycle rule that is too eager."""
    with pytest.raises(Stop, match="lifecycle rule"):
        bench("device42").transform("devices")


def test_a_cancelled_run_transforms_nothing(bench: Any) -> None:
    """The marker is looked for first."""
    run = bench("device42")
    run.stage("devices", [])
    run.staging.put_json(run.names.cancel, {}, {})
    with pytest.raises(Cancelled):
        run.transform("devices")


def test_a_changefeed_s_rows_say_so(bench: Any) -> None:
    """EntityFeedType follows the run's mode."""
    from dataclasses import replace

    run = bench("tenable")
    run.run = replace(run.run, mode="delta")
    run.stage("assets", [made_by("tenable_io", "assets").record(0)])
    run.transform("assets")
    assert run.rows("assets")["EntityFeedType"].to_list() == ["Changefeed"]
