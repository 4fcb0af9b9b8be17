"""The benchmark itself, on inventories so small that nothing can be read from its figures but that they are there."""

from __future__ import annotations

import hashlib

import pytest

from bench import load, pace, report, stages, upload
from bench.__main__ import main
from sentinel.packing import BODY_LIMIT_BYTES


def test_a_whole_load_is_measured() -> None:
    """All figures of a line, and those that follow from one another."""
    line = load.measure("device42", 200)
    assert (line["source"], line["assets"], line["records"]) == ("device42", 200, 200)
    assert line["rows"] > 200, "relations are rows of the same records"
    assert line["source_mb"] > 0.2
    assert line["app_cpu_s"] > 0
    assert 0 < line["engine_share"] < 1
    assert set(line["other_cpu_s"]) == {"azurite", "products", "sentinel"}
    assert line["requests"] == line["requests_fewest"] == 2
    assert line["fill"] == pytest.approx(line["json_mb"] * 1e6 / (2 * BODY_LIMIT_BYTES), rel=0.05)
    assert line["foreign_share"] is None or 0 <= line["foreign_share"] <= 1
    assert 5 < line["history_events_max"] < 500
    assert 50 < line["peak_memory_mb"] < 2000
    assert line["dcrs"] == load.DCRS
    assert line["pace"] > 0
    assert line["of_dcr_quota"] == pytest.approx(line["json_mb"] / line["wall_s"] * 60 / 2000, abs=0.001)


def test_the_work_by_which_the_pace_is_measured_is_always_the_same() -> None:
    """To the byte: else lines of different hours would differ by it. Whoever changes it cannot compare with what was measured before."""
    lines = pace.content()
    assert hashlib.sha256(lines).hexdigest() == "902b51eec2da1a12f17003c0f069b3fbccfa5602b8d59a00edb6f6d9c0da2124"
    assert pace.pace(lines[: lines.index(b"\n") + 1] * 10) > 0


def test_a_load_without_relations_is_measured() -> None:
    """By the app's own setting: as many rows as records."""
    line = load.measure("device42", 200, relations=False)
    assert line["rows"] == line["records"] == 200
    assert line["relations"] is False


def test_only_loads_are_measured_without_relations(capsys: pytest.CaptureFixture[str]) -> None:
    """Refused before anything is measured."""
    with pytest.raises(SystemExit):
        main(["--without-relations"])
    assert "--without-relations" in capsys.readouterr().err


def test_stages_are_measured_apart() -> None:
    """Every activity has lines, and the steps that each cannot do without."""
    lines = stages.measure("device42", 200)
    steps = {(line["activity"], line["step"]) for line in lines}
    assert {activity for activity, _ in steps} == set(stages.ACTIVITIES)
    assert {("export", "HTTP"), ("transform", "decode the declared fields"), ("upload", "send")} <= steps
    assert sum(line["share"] for line in lines) == pytest.approx(1, abs=0.01)
    assert "encode NDJSON" in report.profile_text(lines)


def test_the_ways_to_upload_are_compared() -> None:
    """Every way sends all rows; the one of 100 rows a call in two requests."""
    shape = upload.compare("device42", "devices", 200, 1)
    assert shape["rows"] == 200
    assert shape["requests_ours"] == shape["requests_fewest"] == 1
    assert shape["ways"]["100_rows"]["requests"] == 2
    assert all(way["rows_per_cpu_s"] > 0 for way in shape["ways"].values())
    assert shape["ours_us_per_row"]["encode NDJSON"] > 0
