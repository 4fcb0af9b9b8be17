"""Results: merging parts, the README's figures, the picture."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from bench import plot, report, results, stages, upload

JsonDict = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]
HERE = {"cpu": "A", "python": "3.11.7"}


def load(source: str, assets: int, **more: object) -> JsonDict:
    """A line of `end_to_end` with just what merging and drawing look at."""
    rates = {"source_mb_per_app_cpu_s": 20.0, "source_mb_per_s": 10.0, "peak_memory_mb": 300.0, "engine_share": 0.01}
    return {"source": source, "assets": assets, "relations": True, **rates, **more}


def test_a_load_replaces_the_line_of_its_source_and_size_only() -> None:
    """The others stay, in order of source and size."""
    old = results.merged({}, {"end_to_end": [load("tenable", 10), load("device42", 1000), load("device42", 10)]}, HERE)
    new = results.merged(old, {"end_to_end": [load("device42", 10, peak_memory_mb=1.0)]}, HERE)
    assert [(line["source"], line["assets"], line["peak_memory_mb"]) for line in new["end_to_end"]] == [
        ("device42", 10, 1.0),
        ("device42", 1000, 300.0),
        ("tenable", 10, 300.0),
    ]


def test_loads_with_and_without_relations_stand_side_by_side() -> None:
    """The app's default first; neither replaces the other, and the README tells them apart."""
    lines = [load("device42", 10, relations=False), load("device42", 10, peak_memory_mb=1.0)]
    new = results.merged({}, {"end_to_end": lines}, HERE)
    assert [(line["relations"], line["peak_memory_mb"]) for line in new["end_to_end"]] == [(True, 1.0), (False, 300.0)]


def test_parts_that_are_not_measured_stay() -> None:
    """Stages are replaced by source, the upload's comparison as a whole."""
    first = {"stages": [{"source": "tenable", "step": 1}, {"source": "device42", "step": 1}], "upload": {"ratio": 8}}
    old = results.merged({}, first, HERE)
    new = results.merged(old, {"stages": [{"source": "tenable", "step": 2}]}, HERE)
    assert new["stages"] == [{"source": "device42", "step": 1}, {"source": "tenable", "step": 2}]
    assert new["upload"] == {"ratio": 8}
    assert results.merged(old, {"upload": {"ratio": 9}}, HERE)["upload"] == {"ratio": 9}


def test_what_another_machine_measured_is_dropped() -> None:
    """Figures of two machines, or of two Pythons, are never side by side."""
    old = results.merged({}, {"end_to_end": [load("tenable", 10)], "upload": {"ratio": 8}}, HERE)
    new = results.merged(old, {"stages": [{"source": "tenable"}]}, HERE | {"python": "3.12.1"})
    assert (new["end_to_end"], new["upload"]) == ([], {})


def test_the_engines_share_is_the_largest_at_the_largest_size() -> None:
    """Small loads, which it weighs more in, do not decide."""
    lines = [
        load("tenable", 10, engine_share=0.5),
        *(load(s, 99, engine_share=x) for s, x in (("a", 0.02), ("b", 0.03))),
    ]
    assert results.engine_share(lines) == 0.03
    assert results.engine_share([]) is None


def step(activity: str, name: str, cpu_s: float) -> JsonDict:
    """A line of `stages`: 100 records, 10 MB."""
    of = {"source": "tenable", "stream": "assets", "records": 100, "source_mb": 10.0}
    return of | {"activity": activity, "step": name, "cpu_s": cpu_s}


def test_the_readme_tells_what_each_kind_of_work_would_allow() -> None:
    """MB per CPU second if there were nothing else; a comparison stands by itself, whatever its steps."""
    steps = [
        step("export", "HTTP", 1.0),
        step("transform", "flatten", 1.5),
        step("transform", "the rest of it", 0.1),
        step("upload", "compress", 0.5),
        step("upload", "send", 1.0),
        step("diff", "blob read", 0.9),
    ]
    said = report.stages_table(steps)
    assert set(stages.STEPS.values()) >= report.TRANSPORT
    assert said.endswith("| Tenable assets | 100 | 100,000 | 5 | 5 | 11 | 100 | **2** |")


def ways(**rates: int) -> dict[str, JsonDict]:
    """Ways to send, by their rows per CPU second."""
    return {name: {"rows_per_cpu_s": rate, "requests": 10, "wire_mb": 1.0} for name, rate in rates.items()}


def test_the_ratio_counts_making_the_list_unless_the_list_is_given() -> None:
    """1,000 rows: 10 ms given the list, 10 ms to make it; ours 2 ms."""
    line = upload.line(ways(ours=500_000, sdk=100_000), 1000, 5_000_000, 5, 0.01)
    assert line["sdk_rows_per_cpu_s"] == 50_000
    assert (line["ratio"], line["ratio_given_dicts"]) == (10.0, 5.0)
    assert line["requests_wire"] is None


def test_the_summary_has_the_worst_shapes_rates_and_the_requests_of_all() -> None:
    """Requests of a way that was not measured for every shape are not added up."""
    shapes = {
        "good": upload.line(ways(ours=900, sdk=100, ours_wire=900), 100, 1, 9, 0.0),
        "bad": upload.line(ways(ours=300, sdk=100), 100, 1, 8, 0.0),
    }
    summary = upload.summary(shapes)
    assert (summary["worst"], summary["ratio"], summary["ours_rows_per_cpu_s"]) == ("bad", 3.0, 300)
    assert (summary["requests_ours"], summary["requests_fewest"], summary["requests_wire"]) == (20, 17, None)


def test_batches_by_rows_and_bytes_keep_every_row_and_both_limits() -> None:
    """Bodies are JSON arrays; a row that is too long for any stands alone."""
    rows = [{"n": n, "text": "é" * (n % 40)} for n in range(300)] + [{"text": "x" * 2000}]
    bodies = list(upload.by_count_and_bytes(rows, 50, 1500))
    assert [row for body in bodies for row in json.loads(body)] == rows
    assert all(len(json.loads(body)) <= 50 for body in bodies)
    assert [len(json.loads(body)) for body in bodies if len(body) > 1500] == [1]
    assert [len(batch) for batch in upload.by_count(rows, 100)] == [100, 100, 100, 1]


def test_the_picture_is_well_formed_and_has_a_point_for_each_figure() -> None:
    """Two figures of throughput and one of memory a line, beside the three points of the legend; within the frame."""
    picture = plot.svg([load(source, size) for source in plot.COLOURS for size in (10_000, 1_000_000)])
    root = ET.fromstring(picture)
    circles = root.findall("{*}circle")
    assert len(circles) == 3 + 3 * 2 * 3
    assert all(0 < float(c.attrib["cx"]) < plot.WIDTH and 0 < float(c.attrib["cy"]) < plot.HEIGHT for c in circles)
    assert "1 M" in picture
    assert plot.svg([load("tenable", 10)]).count("<polyline") == 3


@pytest.mark.parametrize("top", [0.3, 7.0, 49.0, 50.0, 81.0, 553.0, 4096.0])
def test_axes_end_at_a_round_figure_above_what_they_show(top: float) -> None:
    """And not far above it, with a handful of steps."""
    rounded = plot.rounded_up(top)
    assert top <= rounded <= 1.6 * top
    assert rounded / plot.step_of(rounded) == pytest.approx(round(rounded / plot.step_of(rounded)))
    assert 3 <= rounded / plot.step_of(rounded) <= 8


def test_the_readme_and_the_picture_say_what_was_measured() -> None:
    """README and docs/bench.svg are made from bench/results.json: `python -m bench report` writes them anew."""
    found = results.read(results.FILE)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme == report.placed(readme, found)
    assert (ROOT / "docs" / "bench.svg").read_text(encoding="utf-8") == plot.svg(found["end_to_end"])
    line = found["end_to_end"][-1]
    assert f"**{line['source_mb_per_app_cpu_s']:.1f}**" in readme


@pytest.mark.parametrize(("kernel", "said"), [(True, "with the kernel, on"), (False, "without the kernel, on")])
def test_the_readme_says_whether_the_kernel_was_in_use(kernel: bool, said: str) -> None:
    """What was measured before there was one says nothing of it."""
    found = results.read(results.FILE)
    measured_on = report.markdown({**found, "machine": {**found["machine"], "kernel": kernel}}).splitlines()[0]
    assert said in measured_on


def test_a_readme_without_markers_is_refused() -> None:
    """Instead of being replaced, or left with old figures."""
    with pytest.raises(ValueError, match="must hold"):
        report.placed("# A readme\n", {})
