"""`python -m local doctor --settings`: what is printed, what is written, the exit code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from local import cli


@pytest.fixture
def settings(ward: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The whole installation's settings as a local.settings.json."""
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    monkeypatch.setenv("COLUMNS", "200")
    path = tmp_path / "local.settings.json"
    path.write_text(json.dumps({"IsEncrypted": False, "Values": ward.environment}))
    return path


def test_a_whole_installation_is_told_as_ok(settings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line a finding, in columns; the same as JSON; exit code 0."""
    out = tmp_path / "report.json"
    assert cli.main(["doctor", "--settings", str(settings), "--json", str(out)]) == 0
    told = capsys.readouterr().out
    report = json.loads(out.read_text())
    lines = [line for line in told.splitlines() if line.startswith("✓")]
    assert len(lines) == len(report["findings"])
    assert (
        len({line.index(f" {finding['subject']} ") for line, finding in zip(lines, report["findings"], strict=True)})
        == 1
    )
    assert "0 wrong" in told
    assert "canary" not in told + out.read_text()


def test_what_is_wrong_is_told_with_its_remedy(settings: Path, ward: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1; the remedy and where the runbook says more stand below the finding."""
    ward.emulator.control("identity", {})
    settings.write_text(json.dumps({"Values": {**ward.environment, "TENABLE_SECRET_KEY": "canary-other"}}))
    assert cli.main(["doctor", "--settings", str(settings), "--source", "tenable"]) == 1
    told = capsys.readouterr().out
    wrong, remedy = told[told.index("✗") :].splitlines()[:2]
    assert wrong.startswith("✗ product.key")
    assert remedy == "  → write a valid key into the vault and restart the app  (docs/runbook.md#key-rotation)"
    assert "canary" not in told


@pytest.mark.parametrize("content", [None, "no JSON", "[]", '{"Values": 3}'])
def test_a_file_that_is_none_is_refused(
    tmp_path: Path, content: str | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its name, without what is in it."""
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    path = tmp_path / "settings.json"
    if content is not None:
        path.write_text(content)
    assert cli.main(["doctor", "--settings", str(path)]) == 1
    assert "no settings like local.settings.json's" in capsys.readouterr().out
