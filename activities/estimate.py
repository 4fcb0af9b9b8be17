"""What a load would cost before it is started: rows, gigabytes, requests, duration, money.

Invariant: nothing is staged and nothing sent; the answer says what it is based on (the last runs, or a sample of pages through the real reader, transform and
encoder), and a figure that nobody can know is absent with a note instead of guessed.
"""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Final

import polars as pl

from activities.deps import Deps, source_of
from activities.sampling import LONGEST_WAIT_S, Sample, sampled
from contracts import JsonDict
from sentinel import packing, text
from sentinel.tables import Table
from sources.model import Source, Stream
from staging import MANIFESTS, watermark_name
from transforms.registry import DERIVED, TRANSFORMS
from transforms.rows import Envelope, Flattened, flatten_together

GB: Final = 1e9
"""Azure Monitor bills by 10^9 bytes."""

AT_MOST: Final = "no delta has run yet and no two full loads can be compared: a delta sends at most this"

HOW_MANY: Final = "tell it (records=N, or --records N)"

DELTAS: Final = 5
"""A delta is estimated from the mean of so many of the last ones."""

FILL: Final = 0.985
"""How full a request is, the last one of each pack included (bench)."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What the figures are turned into time and money by. `price_per_gb`: None when nobody has set it. Rates of 0 are no limit."""

    requests_per_minute: float
    bytes_per_minute: float
    price_per_gb: float | None = None


@dataclass(slots=True)
class Part:
    """One stream of the estimate; `json_bytes` of rows as they are sent, before (`wire_bytes`: after) compression. None: not known."""

    records: int | None
    rows: int | None
    json_bytes: int | None
    wire_bytes: int | None
    sampled: int = 0
    duration_s: float | None = None


def estimate(name: str, mode: str, deps: Deps, terms: Terms, *, sample: bool = False, records: int = 0) -> JsonDict:
    """The estimate of a load of the source. `sample`: not from the last runs. `records`: taken for streams of which nobody knows how many there are.

    Raises Stop when the source is not configured or refuses, TryAgain when it or the storage is out.
    """
    source = source_of(name)
    notes: list[str] = []
    deps.staging.ensure()
    watermark = deps.staging.find_json(watermark_name(name))
    if mode == "delta" and watermark is None:
        mode = "full"
        notes.append("the first load is a full one: there is no complete run to compare with")
    said: list[str] = []
    found = None if sample else _from_runs(name, mode, deps, said)
    if found is not None and not _unlike(source, found[1], deps):
        notes += said
    else:
        keys = {stream: of["keys"] for stream, of in (watermark or {}).get("streams", {}).items()}
        found = _from_pages(name, deps, keys, records, notes)
        if mode == "delta":
            said = []
            _apply_change(found[1], _from_runs(name, mode, deps, said), said, notes)
    based_on, every, duration_s = found
    parts = {stream: part for stream, part in every.items() if stream not in deps.left_out(source)}
    return {
        "source": name,
        "mode": mode,
        "based_on": based_on,
        "streams": {stream: asdict(part) for stream, part in parts.items()},
        **_sums(parts, duration_s, len(deps.destinations), terms),
        "notes": notes,
    }


def _sums(parts: dict[str, Part], duration_s: float | None, destinations: int, terms: Terms) -> JsonDict:
    rows = sum(part.rows or 0 for part in parts.values())
    sent = sum(part.json_bytes or 0 for part in parts.values())
    wire = sum(part.wire_bytes or 0 for part in parts.values())
    raw_requests = sum(_requests(part.json_bytes) for part in parts.values())
    wire_requests = sum(_requests(part.wire_bytes) for part in parts.values())
    quota_s = 60.0 * max(
        sent / terms.bytes_per_minute if terms.bytes_per_minute else 0.0,
        raw_requests / terms.requests_per_minute if terms.requests_per_minute else 0.0,
    )
    gb = sent * destinations / GB
    money = (
        None
        if terms.price_per_gb is None
        else {"amount": round(gb * terms.price_per_gb, 4), "price_per_gb": terms.price_per_gb}
    )
    return {
        "rows": rows,
        "gb": round(gb, 6),
        "gb_wire": round(wire * destinations / GB, 6),
        "destinations": destinations,
        "requests": {"raw": raw_requests * destinations, "wire": wire_requests * destinations},
        "duration_s": None if duration_s is None else round(max(duration_s, quota_s), 1),
        "quota_s": round(quota_s, 1),
        "money": money,
        **(
            {} if money else {"remedy": "for the price set INGESTION_PRICE_PER_GB to what your workspace pays for a GB"}
        ),
    }


def _requests(sent: int | None) -> int:
    return math.ceil((sent or 0) / (packing.BODY_LIMIT_BYTES * FILL))


Found = tuple[str, dict[str, Part], float | None]


def _from_runs(name: str, mode: str, deps: Deps, notes: list[str]) -> Found | None:
    """From the last complete run of that mode (for a delta: the mean of a few, or the last full load's share of change); None without one."""
    headlines = [
        blob.summary for blob in deps.staging.list(f"{MANIFESTS}{name}/") if blob.summary.get("status") == "complete"
    ]
    headlines.sort(key=lambda headline: str(headline["started_at"]), reverse=True)
    same = [headline["run_id"] for headline in headlines if headline["mode"] == mode][
        : DELTAS if mode == "delta" else 1
    ]
    if same:
        manifests = [found for run_id in same if (found := deps.staging.find_json(f"{MANIFESTS}{name}/{run_id}.json"))]
        return _mean(manifests, _named(manifests) if mode == "delta" else f"run {same[0]}")
    full = next((headline["run_id"] for headline in headlines if headline["mode"] == "full"), None)
    manifest = full and deps.staging.find_json(f"{MANIFESTS}{name}/{full}.json")
    if mode != "delta" or not manifest:
        return None
    changed = {stream: _changed(ledger) for stream, ledger in manifest["streams"].items()}
    if any(share is None for share in changed.values()):
        notes.append(AT_MOST)
        return _mean([manifest], f"full run {full}")
    based_on, parts, duration_s = _mean([manifest], f"the share of change that full run {full} found")
    for stream, part in parts.items():
        share = changed[stream] or 0.0
        part.rows, part.json_bytes, part.wire_bytes = (
            round((number or 0) * share) for number in (part.rows, part.json_bytes, part.wire_bytes)
        )
    notes.append(
        "no delta has run yet: it will take about as long as the export of everything, where the product cannot filter what has changed"
    )
    return based_on, parts, duration_s


def _unlike(source: Source, parts: dict[str, Part], deps: Deps) -> bool:
    """Whether runs left out what the settings no longer leave out."""
    return any(derived.name not in parts for stream in parts for derived in deps.derived(source, stream))


def _named(deltas: list[JsonDict]) -> str:
    return "the last delta load" if len(deltas) == 1 else f"the last {len(deltas)} delta loads"


def _apply_change(parts: dict[str, Part], found: Found | None, said: list[str], notes: list[str]) -> None:
    """Of a sample's parts what earlier runs let expect that a delta sends; `said`: their notes."""
    if found is None or AT_MOST in said:
        notes.append(AT_MOST)
        return
    notes.append(f"of the sample as many rows as {found[0]} had")
    for stream, part in parts.items():
        expected = found[1].get(stream)
        if part.rows and expected is not None and expected.rows is not None:
            share = min(1.0, expected.rows / part.rows)
            part.rows, part.json_bytes, part.wire_bytes = (
                round((number or 0) * share) for number in (part.rows, part.json_bytes, part.wire_bytes)
            )


def _changed(ledger: JsonDict) -> float | None:
    """The share of a full load's rows that were new or other than before; None when there was nothing to compare with."""
    if not ledger["rows"]:
        return 0.0
    return (
        None
        if ledger["created"] >= ledger["rows"]
        else min(1.0, (ledger["created"] + ledger["updated"]) / ledger["rows"])
    )


def _mean(manifests: list[JsonDict], based_on: str) -> Found:
    parts: dict[str, Part] = {}
    for stream in {stream: None for manifest in manifests for stream in manifest["streams"]}:
        ledgers = [manifest["streams"][stream] for manifest in manifests if stream in manifest["streams"]]
        records, accepted, deleted, sent, wire = (
            sum(ledger[count] for ledger in ledgers) / len(ledgers)
            for count in ("exported", "accepted", "deleted", "bytes_sent", "bytes_wire")
        )
        parts[stream] = Part(round(records), round(accepted + deleted), round(sent), round(wire))
    took = [
        (datetime.fromisoformat(manifest["closed_at"]) - datetime.fromisoformat(manifest["started_at"])).total_seconds()
        for manifest in manifests
        if "closed_at" in manifest
    ]
    return based_on, parts, sum(took) / len(took) if took else None


def _from_pages(name: str, deps: Deps, keys: dict[str, int], records: int, notes: list[str]) -> Found:
    streams = source_of(name).streams
    with ThreadPoolExecutor(len(streams), "sample") as pool:
        samples = list(pool.map(lambda stream: sampled(name, stream, deps, keys.get(stream.name)), streams))
    parts: dict[str, Part] = {}
    for stream, sample in zip(streams, samples, strict=True):
        parts |= _parts(name, stream, sample, records or None, deps, notes)
    about = [
        stream.name for stream, sample in zip(streams, samples, strict=True) if sample.approximate and sample.records
    ]
    if about:
        notes.append(f"{', '.join(about)}: the number of records is approximate, the product does not say it")
    taken = sum(part.sampled for part in parts.values())
    known = [part.duration_s for part in parts.values() if part.duration_s is not None]
    # Streams are loaded side by side.
    return f"a sample of {taken:,} records", parts, max(known, default=None)


def _parts(
    name: str, stream: Stream, sample: Sample, told: int | None, deps: Deps, notes: list[str]
) -> dict[str, Part]:
    """The part of a stream, and of those that are derived of it, from its sample; `told`: how many records there are, if nothing shows it."""
    count = sample.records if sample.records is not None else told
    texts = [bytes(record) for page in sample.pages for record in page.records]
    transforms = {stream.name: TRANSFORMS[name, stream.name]}
    transforms |= {derived.name: DERIVED[name, derived.name] for derived in deps.derived(source_of(name), stream.name)}
    if count is None:
        notes.append(
            f"{stream.name}: nothing shows how many records there are, and the sums are without it: {HOW_MANY}"
        )
        return {of: Part(None, None, None, None, len(texts) if of == stream.name else 0) for of in transforms}
    if count and not texts:
        notes.append(f"{stream.name}: no page came within {LONGEST_WAIT_S:.0f} s: try again later")
        return {of: Part(count, None, None, None) for of in transforms}
    envelope = Envelope("estimate", deps.now(), "Snapshot")
    began = time.perf_counter()
    flattened = flatten_together([*transforms.values()], pl.Series(texts, dtype=pl.Binary), envelope)
    made = {of: _made(flat, transforms[of].table) for of, flat in zip(transforms, flattened, strict=True)}
    worked_s = time.perf_counter() - began
    scale = count / max(1, len(texts))
    parts = {of: Part(count, *(round(number * scale) for number in numbers)) for of, numbers in made.items()}
    parts[stream.name].sampled = len(texts)
    parts[stream.name].duration_s = scale * (sample.fetched_s / sample.lanes + worked_s)
    return parts


def _made(flat: Flattened, table: Table) -> tuple[int, int, int]:
    """Rows of the sample, their bytes as JSON and compressed."""
    lines = text.texts(flat.rows, table).content.to_pybytes()
    _, _, wires = packing.cut_wire(lines)
    return flat.rows.height, len(lines), sum(map(len, wires))
