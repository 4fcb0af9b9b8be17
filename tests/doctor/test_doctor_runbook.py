"""The runbook has a section for every remedy, and the pages of docs/ link to what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from doctor.findings import KINDS, RUNBOOK

ROOT = Path(__file__).resolve().parents[2]


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_remedy_s_section_is_there() -> None:
    """A link that leads nowhere helps nobody at night."""
    assert {anchor for _, anchor in KINDS.values()} <= anchors(ROOT / RUNBOOK)


@pytest.mark.parametrize("page", ["runbook.md", "deployment.md", "security.md"])
def test_links_between_pages_lead_somewhere(page: str) -> None:
    """Files and sections alike."""
    here = ROOT / "docs" / page
    links = re.findall(r"\]\((?!http)([^)#]*)(#[^)]+)?\)", here.read_text(encoding="utf-8"))
    assert links
    for name, anchor in links:
        target = (here.parent / name).resolve() if name else here
        assert target.exists(), name
        assert not anchor or anchor[1:] in anchors(target), f"{name}{anchor}"


def test_the_runbook_names_the_occasions() -> None:
    """First load, delta, failures, keys, dead letters, upgrade, cost, quota."""
    wanted = {
        "first-load",
        "delta",
        "failures",
        "key-rotation",
        "dead-letters",
        "upgrade",
        "cost",
        "quota",
        "read-back",
    }
    assert wanted <= anchors(ROOT / RUNBOOK)


def test_what_the_runbook_quotes_is_said() -> None:
    """Somebody looks here for the words that the app said."""
    table = (ROOT / RUNBOOK).read_text(encoding="utf-8").split("## Failures")[1].split("## ")[0]
    quoted = {part for words in re.findall(r'`, "([^"]+)"', table) for part in words.split(" … ")}
    folders = ("activities", "orchestrator", "sentinel", "sources")
    code = " ".join(path.read_text(encoding="utf-8") for folder in folders for path in (ROOT / folder).rglob("*.py"))
    assert len(quoted) > 5
    assert sorted(part for part in quoted if part not in code) == []
