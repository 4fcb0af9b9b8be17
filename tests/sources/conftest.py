"""Readers whose sleeps are written down instead of slept, and whose connections are closed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from local import products
from sources.model import Source
from sources.reader import Patience, Reader
from sources.registry import SOURCES

SECRETS = {
    "cycognito": {"api_key": products.CYCOGNITO_KEY},
    "device42": {"username": products.DEVICE42_USER, "password": products.DEVICE42_PASSWORD},
    "tenable": {"access_key": products.TENABLE_ACCESS_KEY, "secret_key": products.TENABLE_SECRET_KEY},
}


@dataclass
class Slept:
    """The seconds that a reader would have slept."""

    seconds: list[float] = field(default_factory=list)


@pytest.fixture
def slept() -> Slept:
    """What the test's readers slept."""
    return Slept()


@pytest.fixture
def reader_of(slept: Slept) -> Iterator[Callable[..., Reader]]:
    """A function from a source (or its name) and a URL to a Reader with the simulator's secrets."""
    readers: list[Reader] = []

    def make(source: Source | str, url: str, *, secrets: dict[str, str] | None = None, **patience: Any) -> Reader:
        declared = SOURCES[source] if isinstance(source, str) else source
        given = secrets if secrets is not None else SECRETS.get(declared.name, {})
        settings = replace(Patience(timeout_s=5.0), **patience)
        readers.append(Reader(declared, url, given, settings, sleep=slept.seconds.append))
        return readers[-1]

    yield make
    for reader in readers:
        reader.pool.clear()
