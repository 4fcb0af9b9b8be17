"""One way for all tests here to flatten records: a fixed run, records as Python values or as their JSON text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec
import polars as pl
import pytest

from transforms.registry import TRANSFORMS
from transforms.rows import Envelope, Flattened, flatten

ENVELOPE = Envelope("run-of-tests", datetime(2025, 3, 4, 5, 6, 7, 890_000, tzinfo=UTC), "Snapshot")


def _text(record: Any) -> bytes:
    return bytes(record) if isinstance(record, bytes | msgspec.Raw) else json.dumps(record, ensure_ascii=False).encode()


@pytest.fixture(scope="session")
def flattened() -> Callable[..., Flattened]:
    """A function from a stream's name ("source/stream") and its records to their rows and rejects; more arguments as of `flatten`."""

    def run(name: str, records: Iterable[Any], **how: Any) -> Flattened:
        source, stream = name.split("/")
        texts = pl.Series([_text(record) for record in records], dtype=pl.Binary)
        return flatten(TRANSFORMS[source, stream], texts, ENVELOPE, **how)

    return run
