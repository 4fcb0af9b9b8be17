"""What a load would cost before it is started: rows, gigabytes, requests, duration, money.

Invariant: nothing is staged and nothing sent; the answer says what it is based on (the last runs, or a sample of pages through the real reader, transform and
encoder), and a figure that nobody can know is absent with a note instead of guessed.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Final

import pyarrow as pa

from activities.deps import Deps, source_of
from activities.open_run import start_of
from contracts import JsonDict, Run
from sentinel import packing
from sources.model import Stream
from sources.reader import Page, Paused
from staging import MANIFESTS, watermark_name
from transforms.registry import TRANSFORMS
from transforms.rows import Envelope, flatten

GB: Final = 1e9
"""Azure Monitor bills by 10^9 bytes."""

SAMPLE_PAGES: Final = 3
SAMPLE_S: Final = 5.0
"""A stream's sample ends with so many pages, or after this time."""

LONGEST_WAIT_S: Final = 60.0
"""How long a sample waits for an export job's first page."""

HOW_MANY: Final = "tell it (records=N)"

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
    source_of(name)
    notes: list[str] = []
    deps.staging.ensure()
    watermark = deps.staging.find_json(watermark_name(name))
    if mode == "delta" and watermark is None:
        mode = "full"
        notes.append("the first load is a full one: there is no complete run to compare with")
    found = None if sample else _from_runs(name, mode, deps, notes)
    if found is None:
        keys = {stream: of["keys"] for stream, of in (watermark or {}).get("streams", {}).items()}
        found = _from_pages(name, deps, keys, records, notes)
        if mode == "delta":
            notes.append("no delta has run yet and no two full loads can be compared: a delta sends at most this")
    based_on, parts, duration_s = found
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
        return _mean(manifests, f"the last {len(manifests)} delta loads" if mode == "delta" else f"run {same[0]}")
    full = next((headline["run_id"] for headline in headlines if headline["mode"] == "full"), None)
    manifest = full and deps.staging.find_json(f"{MANIFESTS}{name}/{full}.json")
    if mode != "delta" or not manifest:
        return None
    changed = {stream: _changed(ledger) for stream, ledger in manifest["streams"].items()}
    if any(share is None for share in changed.values()):
        notes.append("no delta has run yet and no two full loads can be compared: a delta sends at most this")
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
    parts = {
        stream.name: _sampled(name, stream, deps, keys.get(stream.name) or records or None, notes)
        for stream in source_of(name).streams
    }
    sampled = sum(part.sampled for part in parts.values())
    known = [part.duration_s for part in parts.values() if part.duration_s is not None]
    # Streams are loaded side by side.
    return f"a sample of {sampled:,} records", parts, max(known, default=None)


def _sampled(name: str, stream: Stream, deps: Deps, known: int | None, notes: list[str]) -> Part:
    """One stream's part from its first pages; `known`: how many records there are, if the product does not say."""
    run = Run("estimate", name, "full", deps.now().isoformat(timespec="microseconds"))
    stream = deps.stream(run, stream.name)
    start = start_of(stream, deps.budgets.lanes or stream.lanes, run, deps)
    sample = _pages(name, stream, start.cursors[0], deps)
    texts = [bytes(record) for page in sample.pages for record in page.records]
    envelope = Envelope(run.run_id, datetime.fromisoformat(run.started_at), "Snapshot")
    began = time.thread_time()
    flat = flatten(TRANSFORMS[name, stream.name], pa.array(texts, pa.binary()), envelope)
    lines = packing.encode(flat.rows.drop("_record"))
    _, _, wires = packing.cut_wire(lines)
    worked_s = time.thread_time() - began
    alone = sample.whole and len(start.cursors) == 1
    count = len(texts) if alone else next((n for n in (start.total, sample.total, known) if n is not None), None)
    if count is None:
        notes.append(f"{stream.name}: the product does not say how many records there are: {HOW_MANY}")
        return Part(None, None, None, None, len(texts))
    if count and not texts:
        notes.append(f"{stream.name}: no page came within {LONGEST_WAIT_S:.0f} s: try again later")
        return Part(count, None, None, None)
    scale = count / max(1, len(texts))
    rows, sent, wire = (round(number * scale) for number in (flat.rows.height, len(lines), sum(map(len, wires))))
    return Part(count, rows, sent, wire, len(texts), scale * (sample.fetched_s / len(start.cursors) + worked_s))


@dataclass(slots=True)
class _Sample:
    """The first pages of a lane, the seconds that their requests took, the total that the product names, whether the pages are all of it."""

    pages: list[Page] = field(default_factory=list)
    fetched_s: float = 0.0
    total: int | None = None
    whole: bool = False

    def enough(self) -> bool:
        """Whether no further page is needed."""
        return len(self.pages) >= SAMPLE_PAGES or (bool(self.pages) and self.fetched_s >= SAMPLE_S)

    def take(self, page: Page, took_s: float) -> None:
        """Add a page, unless it could not be read."""
        self.fetched_s += took_s
        self.total = page.total if page.total is not None else self.total
        self.pages += [] if page.problem else [page]


def _pages(name: str, stream: Stream, cursor: JsonDict, deps: Deps) -> _Sample:
    """A sample of a lane. A job that was started for it is cancelled; one that was adopted is somebody else's, and says nothing about how much there is."""
    reader = deps.reader(name)
    sample = _Sample()
    ended, first = False, True
    give_up = time.monotonic() + LONGEST_WAIT_S
    while not ended and not sample.enough() and time.monotonic() < give_up:
        began = time.monotonic()
        for item in reader.walk(stream, cursor, first_contact=first):
            cursor, first = item.cursor, False
            if isinstance(item, Page):
                sample.take(item, time.monotonic() - began)
                began = time.monotonic()
                if sample.enough():
                    break
            elif isinstance(item, Paused):
                time.sleep(max(0.0, min(item.wait_s, give_up - time.monotonic())))
            else:
                ended = True
    sample.whole = ended and not cursor.get("adopted")
    if not ended and not cursor.get("adopted"):
        reader.close(stream, cursor)
    return sample


def spoken(seconds: float | None) -> str:
    """A duration in words of hours, minutes and seconds."""
    return "not known" if seconds is None else str(timedelta(seconds=math.ceil(seconds)))
