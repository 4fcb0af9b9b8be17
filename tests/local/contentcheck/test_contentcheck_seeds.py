"""What is shipped has no finding, and each seeded mistake has one that names it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from local import contentcheck
from local.contentcheck import templates
from local.kqlcheck import Finding, contract
from sentinel.content.detections import Detection, hunting, rules

Document = dict[str, Any]
RULE = "AlertOnCriticalOrUnderProtectedAsset"
QUERY = "InternetFacingWithoutEdr"


def _put(**more: Any) -> Callable[[Document], None]:
    return lambda document: document.update(more)


def _query(old: str, new: str) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        assert old in document["query"]
        document["query"] = document["query"].replace(old, new)

    return change


def _field(mapping: int, field: int, **more: str) -> Callable[[Document], None]:
    return lambda document: document["entityMappings"][mapping]["fieldMappings"][field].update(more)


def _within(name: str, **more: Any) -> Callable[[Document], None]:
    return lambda document: document[name].update(more)


SEEDS: dict[str, tuple[Callable[[Document], None], str]] = {
    "unknown column": (_query("Criticality == 'Critical'", "Criticalness == 'Critical'"), "KS142"),
    "wrong type": (_query("OpenCritical + OpenHigh", "OpenCritical + Username"), "KS106"),
    "unknown function": (_query("CAASM_Exposure(14d)", "CAASM_Exposures(14d)"), "KS"),
    "syntax": (_query("| where IsCritical", "| whre IsCritical"), "KS"),
    "no query": (_put(query="\n"), "CHK001"),
    "a query over the limit": (_query("14d)", "14d)" + " " * 10_000), "query: 1 to 10,000"),
    "missing entity column": (_field(0, 0, columnName="Hostname"), "entity Host.HostName: the query's result has no column Hostname"),
    "entity column of another type": (_field(0, 0, columnName="OpenSevere"), "the column OpenSevere is long, not string"),
    "missing detail column": (_within("customDetails", Why="Reason"), "custom detail Why: the query's result has no column Reason"),
    "dynamic detail": (_query("Assets = strcat_array(AssetIds, ', ')", "Assets = AssetIds"), "the column Assets is dynamic"),
    "missing column in the title": (_within("alertDetailsOverride", alertDisplayNameFormat="CAASM - {{Nothing}}"), "no column Nothing"),
    "missing severity column": (_within("alertDetailsOverride", alertSeverityColumnName="Severities"), "no column Severities"),
    "four columns in the title": (_within("alertDetailsOverride", alertDisplayNameFormat="CAASM - " + "{{Why}}" * 4), "at most three columns"),
    "unknown override": (_within("alertDetailsOverride", alertTitle="CAASM - x"), "alertDetailsOverride has no 'alertTitle'"),
    "a title that is not told as ours": (_within("alertDetailsOverride", alertDisplayNameFormat="{{Why}}"), "begins with 'CAASM - '"),
    "bad GUID": (_put(id="69575cbd-e611-43ae-8708-9db8ac672cc"), "no GUID"),
    "GUID in upper case": (_put(id="69575CBD-E611-43AE-8708-9DB8AC672CCF"), "no GUID"),
    "name of another": (_put(name="CAASM - Critical asset vanished from the inventory"), "has the name of"),
    "id of another": (_put(id="9648846f-15e9-45ff-ac39-d0b6c5a58d3b"), "has the id of"),
    "name with a full stop": (_put(name="CAASM - Alert."), "full stop"),
    "name of no product": (_put(name="Alert on an asset"), "name begins with"),
    "long description": (_put(description="Identifies " + "x" * 250 + "."), "1 to 255 characters"),
    "description that begins otherwise": (_put(description="Finds things."), "begins with 'Identifies'"),
    "not ASCII": (_put(name="CAASM - Café"), "only ASCII"),
    "severity": (_put(severity="Critical"), "'Critical' is no severity"),
    "period over 14 days": (_put(queryPeriod="15d"), "queryPeriod 15d: from 5 minutes to 14 days"),
    "frequency under 5 minutes": (_put(queryFrequency="4m"), "queryFrequency 4m"),
    "period shorter than frequency": (_put(queryFrequency="1d", queryPeriod="12h"), "shorter than queryFrequency"),
    "long period run often": (_put(queryFrequency="30m"), "at least an hour"),
    "a duration of another kind": (_put(queryPeriod="P14D"), "'P14D' is no duration"),
    "operator": (_put(triggerOperator="ge"), "'ge' is no trigger operator"),
    "threshold": (_put(triggerThreshold=10_001), "up to 10,000"),
    "threshold as text": (_put(triggerThreshold="0"), "up to 10,000"),
    "kind": (_put(kind="NRT"), "kind 'NRT'"),
    "version": (_put(version="1.0"), "three numbers"),
    "tactic": (_put(tactics=["Initial Access", "LateralMovement"]), "'Initial Access' is no tactic"),
    "technique": (_put(relevantTechniques=["T1190", "T1210", "T9999"]), "'T9999' is no technique"),
    "technique of another tactic": (_put(tactics=["InitialAccess"]), "T1210 belongs to none of the tactics"),
    "tactic without a technique": (_put(relevantTechniques=["T1190"]), "no technique of LateralMovement"),
    "connectors that are no list": (_put(requiredDataConnectors="CAASM"), "no list"),
    "entity type": (lambda document: document["entityMappings"][0].update(entityType="Machine"), "'Machine' is no entity type"),
    "identifier": (_field(0, 0, identifier="Hostname"), "Host has no identifier 'Hostname'"),
    "identifiers that do not identify": (_field(0, 0, identifier="NTDomain"), "Host needs one of"),
    "an identifier twice": (_field(0, 1, identifier="HostName"), "each once"),
    "no entities": (_put(entityMappings=[]), "0 entity mappings"),
    "long detail name": (_within("customDetails", AVeryLongNameOfADetail="Why"), "at most 20 characters"),
    "aggregation": (_put(eventGroupingSettings={"aggregationKind": "Each"}), "SingleAlert or AlertPerResult"),
    "matching method": (lambda document: document["incidentConfiguration"]["groupingConfiguration"].update(matchingMethod="All"), "no matching method"),
    "grouping over 7 days": (lambda document: document["incidentConfiguration"]["groupingConfiguration"].update(lookbackDuration="8d"), "to 7 days"),
    "missing field": (lambda document: document.pop("severity"), "severity is missing"),
    "unknown field": (_put(status="Available"), "status is no field of it"),
    "version in the middle": (lambda document: document.update(customDetails=document.pop("customDetails")), "version comes last"),
}  # fmt: skip

SEEDS_OF_HUNTING: dict[str, tuple[Callable[[Document], None], str]] = {
    "a rule's field": (_put(severity="High"), "severity is no field of it"),
    "id of a rule": (_put(id="0af5bbd1-5cde-4bb0-a892-104ccd8e86e9"), "has the id of CriticalAssetLostEdr"),
    "missing entity column": (_query("DvcDomain, DvcIpAddr, Owner", "DvcIpAddr, Owner"), "no column DvcDomain"),
    "version": (_put(version="v1.0.0"), "three numbers"),
}


def _seeded(
    kind: str, original: Detection, seeds: dict[str, tuple[Callable[[Document], None], str]]
) -> list[Detection]:
    """A copy of the original per seed, under an id and a name of its own unless the seed is about these."""
    made = []
    for number, (name, (change, _)) in enumerate(seeds.items()):
        document = copy.deepcopy(original.document)
        own = {"id": f"{number:08x}{document['id'][8:]}", "name": f"CAASM - {kind} {number}"}
        document.update(own)
        change(document)
        made.append(Detection(f"{kind}: {name}", document))
    return made


@pytest.fixture(scope="module")
def findings() -> list[Finding]:
    """Of what is shipped and of every seed, with the language service started once."""
    (rule,) = (one for one in rules() if one.file == RULE)
    (query,) = (one for one in hunting() if one.file == QUERY)
    return contentcheck.examine(
        [*rules(), *_seeded("rule", rule, SEEDS)], [*hunting(), *_seeded("hunting", query, SEEDS_OF_HUNTING)]
    )


def _about(findings: list[Finding], file: str) -> str:
    """Findings of a file, also those of ids and names that it shares."""
    return "\n".join(str(one) for one in findings if one.query == file or one.message.startswith(f"{file} has"))


def test_what_is_shipped_has_no_finding(findings: list[Finding]) -> None:
    """Rules and hunting queries; the tests of kqlcheck say so of functions and transformations."""
    assert [_about(findings, one.file) for one in (*rules(), *hunting()) if _about(findings, one.file)] == []


@pytest.mark.parametrize("seed", SEEDS)
def test_a_mistake_in_a_rule_is_found(findings: list[Finding], seed: str) -> None:
    """Its finding says what is wrong."""
    assert SEEDS[seed][1] in _about(findings, f"rule: {seed}")


@pytest.mark.parametrize("seed", SEEDS_OF_HUNTING)
def test_a_mistake_in_a_hunting_query_is_found(findings: list[Finding], seed: str) -> None:
    """Its finding says what is wrong."""
    assert SEEDS_OF_HUNTING[seed][1] in _about(findings, f"hunting: {seed}")


def test_an_unchanged_copy_has_no_finding() -> None:
    """So that what the seeds find is the seeds'."""
    (rule,) = (one for one in rules() if one.file == RULE)
    (same,) = _seeded("rule", rule, {"same": (lambda _: None, "")})
    assert templates.problems(same, rule=True) == []


def test_a_column_that_the_contract_renames_is_missed() -> None:
    """So a change of sentinel/tables turns the content red until that follows; the check of functions finds what only they name."""
    tables = {name: dict(columns) for name, columns in contract()["tables"].items()}
    tables["CAASM_Assets_CL"]["Covered"] = tables["CAASM_Assets_CL"].pop("HasEdr")
    (rule,) = (one for one in rules() if one.file == "CriticalAssetVanished")
    assert "KS142" in {finding.code for finding in contentcheck.examine([rule], [], tables)}


def test_tactics_and_techniques_are_well_formed() -> None:
    """As ATT&CK writes them, each once a tactic."""
    for texts in templates.TECHNIQUES.values():
        listed = texts.split()
        assert all(len(one) == 5 and one[0] == "T" and one[1:].isdigit() for one in listed)
        assert len(listed) == len(set(listed))
