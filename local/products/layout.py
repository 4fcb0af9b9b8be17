"""Record templates rendered as bytes: a template is a JSON value with marked slots, a page is one join of columns.

The fragments between slots are encoded once by `json`; a slot is filled with text that needs no escaping. So a rendered
record equals the compact JSON text of its own decoded value, which the tests check.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from local.products.columns import pick, text, type_text

_MARK = re.compile('"\ue002([^\ue001]+)\ue001"|\ue000([^\ue001]+)\ue001')


def slot(name: str) -> str:
    """A place inside a JSON string, filled with text that has no quote, backslash or control character."""
    return f"\ue000{name}\ue001"


def raw(name: str) -> str:
    """A place for a whole JSON value: a number, a null, or text with its quotes."""
    return f"\ue002{name}\ue001"


def compact(value: object) -> bytes:
    """JSON as the products write it: no spaces, UTF-8 unescaped."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _split(template: object) -> tuple[list[bytes], list[str]]:
    """A template's fragments and slot names: fragment, slot, fragment, ..., fragment."""
    out = json.dumps(template, separators=(",", ":"), ensure_ascii=False)
    fragments, names, end = [], [], 0
    for mark in _MARK.finditer(out):
        fragments.append(out[end : mark.start()].encode())
        names.append(mark.group(1) or mark.group(2))
        end = mark.end()
    fragments.append(out[end:].encode())
    return fragments, names


class Layout:
    """Templates of one stream, aligned to one order of slots; a template may leave slots out but not reorder them."""

    def __init__(self, templates: Sequence[object], order: Sequence[str]) -> None:
        """`order` names the slots as they follow in the records; a name may come more than once.

        Raises ValueError when a template's slots are not in that order.
        """
        rows: list[list[bytes]] = []
        used: list[list[bool]] = []
        for template in templates:
            fragments, names = _split(template)
            row, present, position = [], [], 0
            for name in order:
                filled = position < len(names) and names[position] == name
                row.append(fragments[position] if filled else b"")
                present.append(filled)
                position += filled
            if position != len(names):
                raise ValueError(f"slot {names[position]!r} is out of the order {list(order)!r}")
            rows.append([*row, fragments[-1] + b","])
            used.append(present)
        self.order = tuple(order)
        self.size = len(templates)
        self._fragments = [self._column([row[k] for row in rows]) for k in range(len(order) + 1)]
        self._used = [self._flags([row[k] for row in used]) for k in range(len(order))]

    @staticmethod
    def _column(values: list[bytes]) -> Any:
        return text(values[0]) if len(set(values)) == 1 else pa.array(values, type_text)

    @staticmethod
    def _flags(values: list[bool]) -> Any:
        return None if all(values) else pa.array(values, pa.bool_())

    def render(self, template: Any, slots: Mapping[str, Any]) -> Any:
        """One text per record, each with a comma behind it: template numbers and a column per slot name.

        At least one slot is a column, not a scalar.
        """
        parts: list[Any] = []
        for k, name in enumerate(self.order):
            parts.append(self._fragment(k, template))
            column, used = slots[name], self._used[k]
            parts.append(column if used is None else pc.if_else(pc.take(used, template), column, text(b"")))
        parts.append(self._fragment(len(self.order), template))
        return pc.binary_join_element_wise(*parts, text(b""))

    def _fragment(self, k: int, template: Any) -> Any:
        fragment = self._fragments[k]
        return fragment if isinstance(fragment, pa.Scalar) else pick(fragment, template)


class Layouts:
    """A stream's templates as they are first, and, for inventories that live, with altered copies behind them."""

    def __init__(
        self,
        templates: Sequence[Any],
        order: Sequence[str],
        altered: Callable[[Any, int], Any],
        lived_order: Sequence[str],
    ) -> None:
        """`altered`: a template's copy 0, 1 or 2, with the slot `revision`, which `lived_order` has in its places."""
        self.templates = templates
        self.first = Layout(templates, order)
        self._altered, self._lived_order = altered, lived_order

    @property
    def size(self) -> int:
        return len(self.templates)

    @cached_property
    def every(self) -> list[Any]:
        """The templates and their copies: template t is altered to t + size, t + 2 * size, t + 3 * size."""
        return [*self.templates, *(self._altered(t, copy) for copy in range(3) for t in self.templates)]

    @cached_property
    def lived(self) -> Layout:
        """The layout of all of them."""
        return Layout(self.every, self._lived_order)
