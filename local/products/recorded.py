"""Recorded pages as a stream: served as the recorded bytes where a request coincides with a page, re-sliced elsewhere.

A record is never decoded or encoded again: slices are cut from the recorded text, so no byte of a record changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

_PAGE = re.compile(r"(?P<kind>.+)-(?P<number>\d{4,})\.json")
_SERVED = {
    "cycognito": ("assets_domain", "assets_webapp", "assets_iprange", "findings_issues"),
    "device42": ("assets",),
    "tenable_io": ("assets", "findings_vulns"),
}


class _Devices(msgspec.Struct):
    devices: list[msgspec.Raw] = msgspec.field(name="Devices")


@dataclass(frozen=True)
class RecordedStream:
    """The pages of one stream in order: record texts, and the wire body of each page by (first record, stop)."""

    product: str
    kind: str
    texts: list[bytes]
    pages: dict[tuple[int, int], bytes] = field(repr=False)

    @property
    def count(self) -> int:
        return len(self.texts)

    @property
    def page_size(self) -> int:
        """The largest number of records on a recorded page."""
        return max((stop - first for first, stop in self.pages), default=0)

    def slice(self, first: int, count: int) -> bytes:
        """The records' texts with commas between them, cut at the stream's end."""
        return b",".join(self.texts[first : first + count])

    def page(self, first: int, count: int) -> bytes | None:
        """The recorded body, when a page holds exactly the records that these numbers ask for."""
        return self.pages.get((first, min(first + count, self.count)))

    def ids(self) -> Iterator[str]:
        """The ids of the records, in order; a Tenable finding has none and gives (asset, plugin, port, protocol)."""
        for text in self.texts:
            record = msgspec.json.decode(text)
            if self.kind == "findings_vulns":
                port = record["port"]
                yield f"{record['asset']['uuid']}/{record['plugin']['id']}/{port['port']}/{port['protocol']}"
            else:
                yield str(record["id"])


def _read(folder: Path, product: str, kind: str) -> RecordedStream | None:
    files = sorted(
        (int(match["number"]), path)
        for path in folder.glob(f"{product}/wire/{kind}-*.json")
        if (match := _PAGE.fullmatch(path.name)) and match["kind"] == kind
    )
    if not files:
        return None
    # The pages can come from several recordings of one account, which overlap; where the records are listed beside them, each is served once.
    once = (folder / product / f"{kind}.ndjson").exists()
    texts: list[bytes] = []
    seen: set[bytes] = set()
    pages: dict[tuple[int, int], bytes] = {}
    for _, path in files:
        body = path.read_bytes()
        if product == "device42":
            raws = msgspec.json.decode(body, type=_Devices).devices
        else:
            raws = msgspec.json.decode(body, type=list[msgspec.Raw])
        fresh = [bytes(raw) for raw in raws if not once or _same(bytes(raw)) not in seen]
        if len(fresh) != len(raws):
            body = b"[" + b",".join(fresh) + b"]"
        pages[len(texts), len(texts) + len(fresh)] = body
        texts.extend(fresh)
        seen.update(_same(text) for text in fresh)
    return RecordedStream(product, kind, texts, pages)


def _same(text: bytes) -> bytes:
    """What two recordings of one record have in common, whatever the order of its keys."""
    return msgspec.json.encode(msgspec.json.decode(text), order="sorted")


def read_folder(folder: Path) -> dict[tuple[str, str], RecordedStream]:
    """The streams found as `<product>/wire/<kind>-NNNN.json`, by product and kind; a product may be absent.

    Raises FileNotFoundError when the folder has no page of any product.
    """
    streams = {
        (product, kind): stream
        for product, kinds in _SERVED.items()
        for kind in kinds
        if (stream := _read(folder, product, kind)) is not None
    }
    if not streams:
        raise FileNotFoundError(
            f"no recorded page such as cycognito/wire/assets_domain-0000.json under {str(folder)!r}"
        )
    return streams
