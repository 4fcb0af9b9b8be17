"""A whole installation: nothing is found, nothing is left behind, and it is done in time."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import azure.functions as func
import pytest

import function_app
from doctor.findings import KINDS


def test_a_whole_installation_has_no_trouble(ward: Any) -> None:
    """Every part is looked at and is well."""
    report = ward.examine()
    assert [finding for finding in report.findings if finding.severity != "ok"] == []
    assert report.status == "ok"
    assert {finding.id for finding in report.findings} == {
        "settings.wrong", "settings.schedule", "taskhub.name", "taskhub.provider", "identity.token", "dcr.role", "clock.ours", "contract.column",
        "contract.table_column", "storage.role", "product.key",
    }  # fmt: skip
    assert {finding.subject for finding in report.findings if finding.id == "product.key"} == {
        "cycognito",
        "device42",
        "tenable",
    }


def test_an_examination_leaves_nothing_behind(ward: Any, container: Any) -> None:
    """No blob, no row, no export job that goes on, and one record at most of each stream."""

    def rows() -> Any:
        return ward.emulator.kql("union CAASM_Assets_CL, CAASM_Findings_CL, CAASM_Runs_CL | count").json()["tables"]

    before = rows()
    ward.examine()
    assert list(container.list_blobs()) == []
    assert rows() == before
    asked = ward.simulator.stats.by_path
    jobs = [path.rsplit("/", 1)[0] for path in asked if path.endswith("/cancel")]
    assert sorted(path.split("/")[1] for path in jobs) == ["assets", "vulns"]
    assert ward.simulator.stats.requests == len(jobs) * 2 + 4 + 1


def test_only_the_products_that_are_asked_for(ward: Any) -> None:
    """The others are not bothered."""
    report = ward.examine("device42")
    assert [finding.subject for finding in report.findings if finding.id == "product.key"] == ["device42"]
    assert set(ward.simulator.stats.by_path) == {"/api/1.0/devices/all/"}


def request(**params: str) -> func.HttpRequest:
    return func.HttpRequest("GET", "http://127.0.0.1/api/health", params=params, body=b"")


def test_the_route_answers_what_is_well(ward: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """200, with the findings, from the settings of the process."""
    monkeypatch.setattr(function_app.os, "environ", ward.environment)
    answer = asyncio.run(function_app.health(request(source="device42")))
    body = json.loads(answer.get_body())
    assert (answer.status_code, body["status"]) == (200, "ok")
    assert set(body["findings"][0]) == {"id", "severity", "subject", "seen", "remedy", "link"}


def test_the_route_answers_503_when_loads_cannot_run(ward: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the settings are refused as a whole, on which every other route stumbles."""
    environment = {**ward.environment, "DEVICE42_PASSWORD": "no", "LANES": "many"}
    monkeypatch.setattr(function_app.os, "environ", environment)
    answer = asyncio.run(function_app.health(request(source="device42")))
    found = {(one["id"], one["severity"]) for one in json.loads(answer.get_body())["findings"]}
    assert answer.status_code == 503
    assert {("product.key", "error"), ("settings.wrong", "error"), ("storage.role", "ok")} <= found


def test_the_route_refuses_a_product_that_there_is_not() -> None:
    """With the names of those that there are."""
    answer = asyncio.run(function_app.health(request(source="nessus")))
    assert answer.status_code == 400
    assert b"tenable" in answer.get_body()


def test_every_kind_of_finding_has_a_remedy() -> None:
    """In one sentence, without a full stop, as remedies are quoted."""
    assert [
        kind for kind, (remedy, anchor) in KINDS.items() if len(remedy) < 10 or remedy.endswith(".") or not anchor
    ] == []
