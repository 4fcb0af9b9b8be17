"""A running simulator on loopback, and clients that walk the products with plain urllib3."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import urllib3

from local.products.simulator import Simulator

RECORDINGS = Path(__file__).resolve().parents[3] / ".." / "shared" / "data"
TENABLE = {"X-ApiKeys": "accessKey=local-access;secretKey=local-secret"}


@dataclass
class Client:
    """Walks of a simulator; each raises when an answer is not 200."""

    url: str
    pool: urllib3.PoolManager

    def send(self, method: str, path: str, headers: dict[str, str], body: Any = None) -> urllib3.BaseHTTPResponse:
        data = None if body is None else json.dumps(body).encode()
        return self.pool.request(method, self.url + path, headers=headers, body=data, retries=False, timeout=10)

    def control(self, path: str, body: Any = None) -> Any:
        method = "GET" if path == "stats" else "POST"
        response = self.send(method, f"/_control/{path}", {}, body)
        assert response.status == 200, response.data
        return response.json()

    def cycognito_page(self, path: str, count: int, number: int) -> urllib3.BaseHTTPResponse:
        headers = {"Authorization": "local-cycognito-key", "Content-Type": "application/json"}
        return self.send("POST", f"{path}?count={count}&offset={number}", headers, [])

    def cycognito(self, path: str, count: int) -> list[Any]:
        """All records of a path: pages until one is empty."""
        records: list[Any] = []
        for number in range(10_000):
            response = self.cycognito_page(path, count, number)
            assert response.status == 200, response.data
            if not (page := response.json()):
                return records
            records += page
        raise AssertionError("the walk does not end")

    def device42_page(self, limit: int, offset: int) -> urllib3.BaseHTTPResponse:
        headers = urllib3.make_headers(basic_auth="local:local")
        return self.send("GET", f"/api/1.0/devices/all/?limit={limit}&offset={offset}&blankasnull=yes", headers)

    def device42(self, limit: int) -> list[Any]:
        """All devices: by the number that came, until none comes."""
        records: list[Any] = []
        while True:
            response = self.device42_page(limit, len(records))
            assert response.status == 200, response.data
            if not (page := response.json()["Devices"]):
                return records
            records += page

    def tenable_start(self, kind: str, body: dict[str, Any]) -> str:
        response = self.send("POST", f"/{kind}/export", TENABLE, body)
        assert response.status == 200, response.data
        return str(response.json()["export_uuid"])

    def tenable_status(self, kind: str, job: str) -> Any:
        return self.send("GET", f"/{kind}/export/{job}/status", TENABLE).json()

    def tenable_chunk(self, kind: str, job: str, number: int) -> urllib3.BaseHTTPResponse:
        return self.send("GET", f"/{kind}/export/{job}/chunks/{number}", TENABLE)

    def tenable(self, kind: str, body: dict[str, Any]) -> list[list[Any]]:
        """The chunks of a new export, by their numbers."""
        job, chunks = self.tenable_start(kind, body), {}
        while True:
            status = self.tenable_status(kind, job)
            for number in status["chunks_available"]:
                if number not in chunks:
                    response = self.tenable_chunk(kind, job, number)
                    assert response.status == 200, response.data
                    assert response.headers["Content-Type"] == "application/octet-stream"
                    chunks[number] = response.json()
            if status["status"] not in {"QUEUED", "PROCESSING"}:
                assert status["status"] == "FINISHED", status
                return [chunks[number] for number in sorted(chunks)]


@pytest.fixture
def serve(simulate: Callable[[Simulator], str]) -> Iterator[Callable[[Simulator], Client]]:
    """A function that runs a Simulator on a free port and gives a Client of it."""
    with urllib3.PoolManager() as pool:
        yield lambda simulator: Client(simulate(simulator), pool)


@pytest.fixture(scope="session")
def recordings() -> Path:
    """The folder of recorded pages, or a skip where it is absent."""
    if not (RECORDINGS / "manifest.json").is_file():
        pytest.skip(f"no recorded pages at {RECORDINGS}")
    return RECORDINGS
