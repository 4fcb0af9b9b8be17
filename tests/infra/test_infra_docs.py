"""The pages on deployment and security name what there is."""

from __future__ import annotations

import json
import re

import pytest

from infra.check import ROOT

PAGES = ("deployment.md", "security.md")


def parameters() -> set[str]:
    return set(re.findall(r"^param (\w+)", (ROOT / "infra" / "main.bicep").read_text(), re.MULTILINE))


def test_azd_s_variables_are_in_the_page() -> None:
    """Every variable of infra/main.parameters.json that azd does not set by itself is explained, and no other."""
    text = (ROOT / "infra" / "main.parameters.json").read_text()
    own = {"AZURE_ENV_NAME", "AZURE_LOCATION", "AZURE_PRINCIPAL_ID"}
    page = (ROOT / "docs" / "deployment.md").read_text()
    table = page.split("| azd variable |")[1].split("\n\n")[0]
    assert set(re.findall(r"`([A-Z]+_[A-Z_]+)`", table)) == set(re.findall(r"\$\{([A-Z_]+)", text)) - own


@pytest.mark.parametrize("page", PAGES)
def test_parameters_that_a_page_names_exist(page: str) -> None:
    """`name=value` of the template's parameters."""
    named = set(re.findall(r"`([a-z]\w+)=[^`]*`", (ROOT / "docs" / page).read_text()))
    assert named
    assert named <= parameters()


def test_the_security_page_names_every_role() -> None:
    """Those that the templates give are those that it explains."""
    page = (ROOT / "docs" / "security.md").read_text()
    roles = [role["name"] for role in json.loads((ROOT / "infra" / "roles.json").read_text()).values()]
    shortened = {
        "Storage Queue Data Contributor": "Queue and Table Data Contributor",
        "Storage Table Data Contributor": "Queue and Table Data Contributor",
    }
    assert [role for role in roles if shortened.get(role, role) not in page] == []


def test_what_the_workflow_makes_is_there() -> None:
    """Targets of the Makefile and templates that it names."""
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {target for line in re.findall(r"run: make ([\w ]+)", workflow) for target in line.split()} <= targets
    templates = re.findall(r"--file (\S+)", workflow)
    assert templates
    assert all((ROOT / name).is_file() for name in templates)
