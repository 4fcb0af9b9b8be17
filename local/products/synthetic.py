"""Synthetic inventories: streams of which record i depends only on (seed, i), rendered a page at a time.

Nothing is stored but templates: any page can be served on demand, in any order, by any process, with identical bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from local.products.columns import numbers
from local.products.layout import Layout

_BLOCK = 65_536


@dataclass(frozen=True)
class Rendering:
    """What a stream's columns are for some record numbers: the template of each record and the slots' texts."""

    template: Any
    slots: Mapping[str, Any]


@dataclass(frozen=True)
class SyntheticStream:
    """One stream of a product: `count` records, numbered from 0."""

    product: str
    kind: str
    count: int
    layout: Layout
    render: Callable[[Any, Any], Rendering]
    """Record numbers and versions (None: all 0) to columns."""
    key: Callable[[Any], Any]
    """Record numbers to the texts that identify the records: the wire ids where a record has one."""
    facts: Callable[[Any], Mapping[str, Any]] | None = None
    """Record numbers to what the product's filters ask for, in the filters' units."""
    states: frozenset[str] = frozenset()
    """The states that any of the records are in, where the product has states."""

    def records(self, index: Any, version: Any = None) -> Any:
        """The records' JSON texts as one large_binary array, each with a comma behind it."""
        rendering = self.render(index, version)
        return self.layout.render(rendering.template, rendering.slots)

    def body(self, index: Any, version: Any = None) -> memoryview:
        """The records' JSON texts with commas between them: an array without its brackets."""
        if len(index) == 0:
            return memoryview(b"")
        out = self.records(index, version)
        end = memoryview(out.buffers()[1]).cast("B").cast("q")[len(out)]
        return memoryview(out.buffers()[2])[: end - 1]

    def slice(self, first: int, count: int) -> memoryview:
        """The body of records first .. first + count - 1, cut at the stream's end."""
        return self.body(numbers(first, max(0, min(count, self.count - first))))

    def record(self, i: int, version: int = 0) -> bytes:
        """The JSON text of one record."""
        return bytes(self.body(numbers(i, 1), pa.array([version], pa.uint64())))

    def ids(self, first: int = 0, count: int | None = None) -> Iterator[str]:
        """The ids of the records, in their order: the truth that a load is compared with."""
        stop = self.count if count is None else min(self.count, first + count)
        for start in range(first, stop, _BLOCK):
            index = numbers(start, min(_BLOCK, stop - start))
            yield from pc.cast(self.key(index), pa.large_string()).to_pylist()

    def matching(self, keep: Callable[[Mapping[str, Any]], Any]) -> Any:
        """The numbers of the records whose facts `keep` (facts to a boolean column) accepts, in order."""
        if self.facts is None:
            raise ValueError(f"{self.product} {self.kind} has no facts to filter by")
        blocks = []
        for start in range(0, self.count, _BLOCK):
            index = numbers(start, min(_BLOCK, self.count - start))
            blocks.append(pc.filter(index, keep(self.facts(index))))
        return pa.concat_arrays(blocks) if blocks else numbers(0, 0)


@dataclass(frozen=True)
class Inventory:
    """What the synthetic products hold: `assets` and `findings` records of each product.

    Shares are of findings: `orphan_share` (CyCognito) and `tenable_orphan_share` point at assets that are not exported,
    `big_output_share` has a plugin output of half a megabyte, `fixed_share` is in the state FIXED.
    """

    assets: int
    findings: int
    seed: int = 1
    orphan_share: float = 0.3
    tenable_orphan_share: float = 0.005
    big_output_share: float = 0.001
    fixed_share: float = 0.0

    def streams(self) -> dict[tuple[str, str], SyntheticStream]:
        """All streams, by product and kind (the names of the recorded files)."""
        from local.products import synthetic_cycognito, synthetic_device42, synthetic_tenable, synthetic_tenable_vulns

        made = [
            *synthetic_cycognito.streams(self.assets, self.findings, self.seed, self.orphan_share),
            synthetic_device42.stream(self.assets, self.seed),
            synthetic_tenable.stream(self.assets, self.seed),
            synthetic_tenable_vulns.stream(self),
        ]
        return {(stream.product, stream.kind): stream for stream in made}

    def stream(self, product: str, kind: str) -> SyntheticStream:
        """One stream, e.g. ("cycognito", "assets_domain"), ("tenable_io", "findings_vulns")."""
        return self.streams()[product, kind]

    def ids(self, product: str, kind: str) -> list[str]:
        """The exact ids of all records of a stream, in the order of export."""
        return list(self.stream(product, kind).ids())

    def count(self, product: str, kind: str) -> int:
        """The number of records of a stream."""
        return self.stream(product, kind).count
