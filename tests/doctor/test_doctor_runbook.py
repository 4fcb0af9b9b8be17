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
