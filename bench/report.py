"""Results as text for people: the README's figures, a profile of one source's stages.

Invariant: what stands between the README's markers is made from bench/results.json alone, so a test can tell that they agree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final

from bench.stages import OTHER

JsonDict = dict[str, Any]


BEGIN: Final = "<!-- bench: written by `make bench` from bench/results.json -->"
END: Final = "<!-- /bench -->"

PRODUCTS: Final = {"cycognito": "CyCognito", "device42": "Device42", "tenable": "Tenable"}
SHAPES: Final = {
    "cycognito_issues": "CyCognito issues",
    "device42_devices": "Device42 devices",
    "tenable_findings": "Tenable findings",
}
WAYS: Final = {
    "sdk": "`LogsIngestionClient.upload(list)`",
    "100_rows": "100 rows a call",
    "200_rows_900_kb": "200 rows or 900 KB a call, not compressed",
}

TRANSPORT: Final = frozenset({"HTTP", "blob read", "blob write", "blob look-ups", "receipts", "send"})
"""Steps of a stage (`bench/stages.py`) that move what others made."""

WORK: Final = "split, Parquet, decode, flatten, encode, compress"
MOVE: Final = "HTTP, blobs, sending"
COMPARE: Final = "compare"
REST: Final = "the rest"
KINDS_OF_WORK: Final = (WORK, MOVE, COMPARE, REST)


def markdown(results: JsonDict) -> str:
    """What the README says between its markers."""
    parts = [_measured_on(results)]
    if results["end_to_end"]:
        parts += ["![Throughput and peak memory over the size of the inventory](docs/bench.svg)", _loads(results)]
    if results["stages"]:
        parts.append(stages_table(results["stages"]))
    if results["upload"]:
        parts.append(_uploads(results["upload"]))
    return "\n\n".join(parts)


def placed(readme: str, results: JsonDict) -> str:
    """The README with the figures of the results. Raises ValueError when its markers are not there."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the README must hold {BEGIN!r} and {END!r}")
    return f"{before}{begin}\n{markdown(results)}\n{end}{after}"


def _measured_on(results: JsonDict) -> str:
    of = results["machine"]
    packages = of["packages"]
    versions = ", ".join(f"{name} {packages[name]}" for name in ("polars", "pyarrow", "isal"))
    # Figures of before there was one say nothing of it.
    versions += {True: ", with the kernel", False: ", without the kernel", None: ""}[of.get("kernel")]
    foreign = max((line.get("foreign_share") or 0.0 for line in results["end_to_end"]), default=0.0)
    busy = (
        f" The machine did other things meanwhile (up to {foreign:.0%} of its cores), so the figures are rough."
        if foreign > 0.1
        else ""
    )
    return (
        f"On {of['cores']} cores ({of['cpu']}, {of['memory_gb']} GB, {of['system']}), Python {of['python']}, {versions}, on {results['at'][:10]}, with the "
        "simulators, Azurite and the emulator on the same cores. A CPU second is one of the app's process alone, everything included: HTTP, blobs, the "
        "durable engine, imports."
    ) + busy


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    # The first column is a name, the others are figures.
    rule = ["---", *(["---:"] * (len(head) - 1))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def _loads(results: JsonDict) -> str:
    head = (
        "full load", "assets = findings", "records", "source MB", "MB/s", "records/s", "CPU s", "MB per CPU s",
        "sent MB/s", "of a DCR's quota", "requests", "full", "peak MB", "engine", "events", "pace",
    )  # fmt: skip
    rows = [
        (
            PRODUCTS[line["source"]] + ("" if line["relations"] else ", no relations"),
            f"{line['assets']:,}",
            f"{line['records']:,}",
            f"{line['source_mb']:,.0f}",
            f"{line['source_mb_per_s']:.1f}",
            f"{line['records_per_s']:,}",
            f"{line['app_cpu_s']:,.1f}",
            f"**{line['source_mb_per_app_cpu_s']:.1f}**",
            f"{line['json_mb_per_s']:.1f}",
            f"{line['of_dcr_quota']:.0%}",
            f"{line['requests']:,}",
            f"{line['fill']:.1%}",
            f"{line['peak_memory_mb']:,.0f}",
            f"{line['engine_share']:.1%}",
            f"{line['history_events_max']:,}",
            f"{line['pace']:.0f}" if "pace" in line else "–",
        )
        for line in results["end_to_end"]
    ]
    rules = " or ".join(str(dcrs) for dcrs in sorted({line["dcrs"] for line in results["end_to_end"]}))
    note = (
        "MB are of the records' own JSON, a million bytes each; *full*: of the limit of a request; *engine*: the share of CPU that replays orchestrators, passes "
        "messages and serves HTTP; *events*: the longest history of any instance; *pace*: MB per CPU second of a fixed piece of work without any of the app's "
        "code, before and behind the load, so that lines of different hours can be compared. "
        f"The rows went through {rules} DCRs: through one, no load is faster than its quota of 2 GB a minute, 33.3 sent MB/s."
    )
    return f"{_table(head, rows)}\n\n{note}"


def stages_table(lines: Sequence[JsonDict]) -> str:
    """What each kind of work would allow if there were nothing else, a row per stream."""
    intro = (
        "Where the CPU time goes, without relations: the activities called one after the other, without the durable engine. What each kind of work alone would allow, in MB of source "
        "JSON per CPU second:"
    )
    head = ("stream", "records", "bytes a record", *KINDS_OF_WORK, "all")
    rows = []
    for (source, stream), of_stream in groupby(lines, key=lambda line: (line["source"], line["stream"])):
        steps = list(of_stream)
        records, size_mb = steps[0]["records"], steps[0]["source_mb"]
        spent = Counter[str]()
        for step in steps:
            spent[_kind_of(step)] += step["cpu_s"]
        rates = [_rate(size_mb, spent[kind]) for kind in KINDS_OF_WORK]
        rows.append(
            (
                f"{PRODUCTS[source]} {stream}",
                f"{records:,}",
                f"{1e6 * size_mb / records:,.0f}",
                *rates,
                f"**{_rate(size_mb, spent.total())}**",
            )
        )
    return f"{intro}\n\n{_table(head, rows)}"


def _kind_of(step: JsonDict) -> str:
    if step["activity"] == "diff":
        return COMPARE
    if step["step"] in TRANSPORT:
        return MOVE
    return REST if step["step"] == OTHER else WORK


def _uploads(upload: JsonDict) -> str:
    head = ("rows per CPU second", *(SHAPES[name] for name in upload["shapes"]))
    shapes = list(upload["shapes"].values())
    rows = [("this app: encode, cut, compress, send", *(f"**{s['ours_rows_per_cpu_s']:,}**" for s in shapes))]
    rows.append(
        ("rows to a list, `LogsIngestionClient.upload(list)`", *(f"{s['sdk_rows_per_cpu_s']:,}" for s in shapes))
    )
    rows.append(("**ratio**", *(f"**{s['ratio']:.1f}**" for s in shapes)))
    rows += [
        (f"{text}, given the list", *(f"{s['ways'][way]['rows_per_cpu_s']:,}" for s in shapes))
        for way, text in WAYS.items()
    ]
    rows.append(
        (
            "requests: this app / fewest possible",
            *(f"{s['requests_ours']:,} / {s['requests_fewest']:,}" for s in shapes),
        )
    )
    if upload["requests_wire"] is not None:
        rows.append(("requests in wire mode", *(f"{s['requests_wire']:,}" for s in shapes)))
    rows += [(f"requests: {text}", *(f"{s['ways'][way]['requests']:,}" for s in shapes)) for way, text in WAYS.items()]
    rows.append(
        (
            "MB on the wire: this app / SDK",
            *(f"{s['ways']['ours']['wire_mb']:.1f} / {s['ways']['sdk']['wire_mb']:.1f}" for s in shapes),
        )
    )
    intro = f"The upload path, on the same {shapes[0]['rows']:,} rows each, through the SDK's client to an emulator in another process:"
    over = sum(s["ways"]["sdk"]["requests_over_limit"] for s in shapes)
    sent = sum(s["ways"]["sdk"]["requests"] for s in shapes)
    ours = sum(s["ways"]["ours"]["requests_over_limit"] for s in shapes)
    note = f"Of the SDK's {sent} bodies {over} are over 1,048,576 bytes before compression (it does not count separators), of this app's {ours}."
    return f"{intro}\n\n{_table(head, rows)}\n\n{note}"


def profile_text(lines: Sequence[JsonDict]) -> str:
    """The stages of a source as a table for a terminal: a block per stream, activities with their steps."""
    text: list[str] = []
    for (source, stream), of_stream in groupby(lines, key=lambda line: (line["source"], line["stream"])):
        steps = list(of_stream)
        first = steps[0]
        size_mb = first["source_mb"]
        text += [
            f"{source} {stream}: {first['records']:,} records, {size_mb} MB of source JSON, {first['json_mb']} MB sent",
            _row("", "CPU s", "share", "MB/CPU s", "calls"),
        ]
        whole = sum(step["cpu_s"] for step in steps)
        for activity, group in groupby(steps, key=lambda line: str(line["activity"])):
            inner = list(group)
            cpu_s = sum(step["cpu_s"] for step in inner)
            text.append(_row(activity, f"{cpu_s:.2f}", f"{cpu_s / whole:.0%}", _rate(size_mb, cpu_s), ""))
            text += [
                _row(
                    f"  {s['step']}",
                    f"{s['cpu_s']:.2f}",
                    f"{s['share']:.1%}",
                    _rate(size_mb, s["cpu_s"]),
                    f"{s['calls']:,}",
                )
                for s in inner
            ]
        text += [_row("all", f"{whole:.2f}", "100%", _rate(size_mb, whole), ""), ""]
    return "\n".join(text)


def _row(name: str, *cells: str) -> str:
    return f"{name:<32}" + "".join(f"{cell:>10}" for cell in cells)


def _rate(size_mb: float, cpu_s: float) -> str:
    return f"{size_mb / cpu_s:,.0f}" if cpu_s >= 0.005 else "–"
