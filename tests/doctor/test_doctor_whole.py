"""A whole installation: nothing is found, nothing is left behind, and it is done in time."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

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
        "contract.table_column", "kernel.use", "storage.role", "product.key",
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


class Hub:
    """A durable client, for whom the hub answers or not."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure

    async def get_status(self, instance_id: str) -> None:
        assert instance_id.startswith("load-")
        if self.failure is not None:
            raise self.failure


def ask(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], hub: Any = None, source: str | None = None
) -> Any:
    """Status and body of the route's answer, in a process with that environment."""
    monkeypatch.setattr(function_app.os, "environ", environment)
    answer = asyncio.run(function_app._health(source, hub or Hub()))
    return answer.status_code, json.loads(answer.get_body())


def test_the_route_answers_what_is_well(ward: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """200, with the findings, from the settings of the process."""
    status, body = ask(monkeypatch, ward.environment, source="device42")
    assert (status, body["status"]) == (200, "ok")
    assert set(body["findings"][0]) == {"id", "severity", "subject", "seen", "remedy", "link"}
    assert body["findings"][-1]["id"] == "taskhub.answer"


def test_the_route_answers_503_when_loads_cannot_run(ward: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the settings are refused as a whole, on which every other route stumbles."""
    environment = {**ward.environment, "DEVICE42_PASSWORD": "no", "LANES": "many"}
    status, body = ask(monkeypatch, environment, source="device42")
    found = {(one["id"], one["severity"]) for one in body["findings"]}
    assert status == 503
    assert {("product.key", "error"), ("settings.wrong", "error"), ("storage.role", "ok")} <= found


def test_a_task_hub_that_does_not_answer_is_told(ward: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the kind of its failure alone: the extension's texts quote URLs with keys."""
    status, body = ask(monkeypatch, ward.environment, Hub(RuntimeError("canary")), source="device42")
    assert (status, body["findings"][-1]["id"]) == (503, "taskhub.answer")
    assert "canary" not in json.dumps(body)


def test_the_route_ends_within_its_budget(ward: Any, monkeypatch: pytest.MonkeyPatch, listen: Any, reply: Any) -> None:
    """Whatever a product does; the platform ends a request after 230 s."""
    hang = threading.Event()

    def answer(_: Any) -> Any:
        hang.wait(30)
        return reply(b"[]")

    environment = {**ward.environment, "DEVICE42_URL": listen(answer).url, "HEALTH_SECONDS": "1"}
    status, body = ask(monkeypatch, environment, source="device42")
    hang.set()
    late = [one for one in body["findings"] if one["id"] == "check.late"]
    assert (status, [one["subject"] for one in late]) == (503, ["device42"])
    assert body["seconds"] < 10


def test_the_route_refuses_a_product_that_there_is_not(ward: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the names of those that there are."""
    status, body = ask(monkeypatch, ward.environment, source="nessus")
    assert status == 400
    assert "tenable" in body["remedy"]


def test_an_environment_without_anything_is_examined_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh app says what it lacks, every setting at once, and nothing breaks."""
    status, body = ask(monkeypatch, {})
    assert status == 503
    assert "check.broke" not in {one["id"] for one in body["findings"]}
    lacking = {one["subject"] for one in body["findings"] if one["id"] == "settings.wrong"}
    assert {"STAGING_ACCOUNT_URL", "INGESTION_ENDPOINT", "DCR_IMMUTABLE_ID"} <= lacking


def test_every_kind_of_finding_has_a_remedy() -> None:
    """In one sentence, without a full stop, as remedies are quoted."""
    assert [
        kind for kind, (remedy, anchor) in KINDS.items() if len(remedy) < 10 or remedy.endswith(".") or not anchor
    ] == []
