"""The language service finds what is wrong with a query, and nothing in what is right."""

from __future__ import annotations

from pathlib import Path

import pytest

from local import kqlcheck, node_packages
from local.kqlcheck import Analysis, Query, analyse, check, transforms
from sentinel.content import KqlFunction, KqlTransform, functions
from sentinel.contract import fits
from sentinel.tables import ASSETS, FINDING_REPORTS, TABLES

GOOD = {
    "join": """
        CAASM_Findings | where Severity in ('Critical', 'High')
        | join kind=inner (CAASM_Assets(7d) | where IsInternetFacing == true) on AssetId
        | mv-expand Cve = CveIds to typeof(string)
        | summarize Count = count(), Seen = max(LastSeen) by DvcHostname, Cve
        | where Seen > ago(1d)""",
    "alerts": "SecurityAlert | mv-expand E = parse_json(Entities) | project Host = tolower(tostring(E.HostName)) | distinct Host",
    "incidents": "SecurityIncident | where Labels !has 'Redirected' | project IncidentNumber, Title",
    "watchlist": "CAASM_Assets | where AssetId in ((_GetWatchlist('CriticalAssets') | project SearchKey))",
    "standard column": "CAASM_Runs_CL | project _TimeReceived, Type",
    "let": "let top = 5; CAASM_Assets_CL | take top",
}

BAD = {
    "unknown column": ("CAASM_Assets | project DvcHostnam", "KS142"),
    "a column of another table": ("CAASM_Assets | where CveId == ''", "KS142"),
    "unknown table": ("CAASM_Asset_CL | count", "KS204"),
    "unknown function": ("CAASM_Assets | extend A = lowercase(DvcHostname)", "KS211"),
    "text against a time": ("CAASM_Assets | where LastSeen > '2026-01-01'", "KS106"),
    "number against a text": ("CAASM_Findings | where Severity >= 3", "KS106"),
    "text in a number": ("CAASM_Findings | where RiskScore has '7'", "KS106"),
    "join keys of two types": (
        "CAASM_Assets | join (CAASM_Findings) on $left.OpenFindings == $right.FindingId",
        "KS242",
    ),
    "argument count": ("CAASM_Assets | extend A = tolower()", "KS119"),
    "syntax": ("CAASM_Assets | where", "KS"),
    "nothing": ("  \n", "CHK001"),
    "a workbook's parameter": ("CAASM_Assets | where LastSeen > {TimeRange:start}", "KS"),
}


@pytest.fixture(scope="module")
def analyses() -> dict[str, Analysis]:
    """Every query of this module, analysed by one process."""
    queries = [Query(name, text) for name, text in GOOD.items()]
    queries += [Query(name, text) for name, (text, _) in BAD.items()]
    queries += [Query("lines", "CAASM_Assets\n| project AssetId\n| where Nix == 1")]
    return {one.name: one for one in analyse(queries)}


@pytest.mark.parametrize("name", GOOD)
def test_nothing_is_found_in_a_query_that_is_right(analyses: dict[str, Analysis], name: str) -> None:
    """Tables of the contract and of Sentinel, stored functions, standard columns."""
    assert analyses[name].findings == []


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_found(analyses: dict[str, Analysis], name: str) -> None:
    """With the service's own code."""
    assert any(found.code.startswith(BAD[name][1]) for found in analyses[name].findings), analyses[name].findings


def test_a_finding_says_where(analyses: dict[str, Analysis]) -> None:
    """Line and column of the query, from 1."""
    (found,) = analyses["lines"].findings
    assert (found.line, found.column) == (3, 9)
    assert str(found).startswith("lines:3:9 KS142 ")


def test_an_analysis_says_what_comes_out(analyses: dict[str, Analysis]) -> None:
    """The result's columns with their types, as an entity mapping needs them."""
    assert analyses["join"].columns == {"DvcHostname": "string", "Cve": "string", "Count": "long", "Seen": "datetime"}
    assert analyses["let"].tables == ["CAASM_Assets_CL"]


def test_the_schema_is_that_of_the_contract(analyses: dict[str, Analysis]) -> None:
    """Every column of every table, as KQL types name them."""
    assert set(kqlcheck.contract()["tables"]) == {table.name for table in TABLES}
    everything = analyses["let"].columns
    for column in ASSETS.columns:
        assert everything[column.name] == {"boolean": "bool"}.get(column.type, column.type)
        assert fits(column.example, column.type)


def test_shipped_functions_and_transformations_have_no_finding() -> None:
    """Each body by itself, with the others there to be called."""
    assert check([]) == []
    assert transforms.check() == []


BROKEN = {
    "Column": ("CAASM_Assets_CL | where Nix == 1", "KS142"),
    "Parameter": ("CAASM_Assets_CL | where LastSeen > since", "KS142"),
    "Function": ("CAASM_Assets | extend A = nosuch(AssetId)", "KS211"),
    "Types": ("CAASM_Assets(lookback) | where LastSeen > lookback", "KS106"),
}


def test_a_mistake_inside_of_a_function_is_found() -> None:
    """Where the service itself says nothing when the function is called; with the function's name and its own lines."""
    stored = [
        KqlFunction(name, "lookback:timespan = 1d", "", f"// A comment.\n{body}") for name, (body, _) in BROKEN.items()
    ]
    needy = KqlFunction("Needy", "name:string", "", "CAASM_Assets_CL\n| where AssetName == name and Nix == 1")
    found = check([Query("call", "Column()")], stored=[*functions(), *stored, needy])
    errors = {(one.query, one.code, one.line) for one in found if one.code.startswith("KS")}
    assert errors >= {(f"function {name}", code, 2) for name, (_, code) in BROKEN.items()}
    assert ("function Needy", "KS142", 2) in errors
    assert {one.query for one in found} == {f"function {name}" for name in (*BROKEN, "Needy")}


def _transform(body: str, stream: str = FINDING_REPORTS.name) -> KqlTransform:
    return KqlTransform(stream, FINDING_REPORTS.table, "", body)


TRANSFORMS = [
    ("source | project TimeGenerated, Severity = Nix", "KS142"),
    ("CAASM_Assets_CL | project TimeGenerated", "KS204"),
    ("source | summarize TimeGenerated = max(TimeGenerated)", "DCR001"),
    ("source | project TimeGenerated | take 1", "DCR001"),
    ("source | project TimeGenerated, Severity = iff(isempty(CveId), 'a', 'b')", "DCR003"),
    ("source | project TimeGenerated, Severity = coalesce(CveId, 'b')", "DCR003"),
    ("source | where not(isempty(CveId)) | project TimeGenerated", "DCR003"),
    ("source | where CveId in~ ('a') | project TimeGenerated", "DCR002"),
    ("source | where CveId has_any ('a') | project TimeGenerated", "DCR002"),
    ("source | where CvssScore between (1.0 .. 2.0) | project TimeGenerated", "DCR002"),
    ("source | project TimeGenerated, CveIds = dynamic(['a'])", "DCR001"),
    ("source | project TimeGenerated, Description = '" + "x" * 15_400 + "'", "DCR004"),
    ("source", "DCR006"),
    ("source | project TimeGenerated, Port = tostring(Port)", "DCR007"),
    ("source | project Severity = CveId", "DCR008"),
]

SUBSET = r"""
        let score = (given:real) { iif(isnull(given), 0.0, round(given, 1)); };
        source
        | parse FindingTitle with Kind: string ":" *
        | project-rename Title_ = FindingTitle
        | extend Severity = case(score(ReportedScore) >= 9.0, 'Critical', Kind matches regex "^x+$", 'High', 'Low'), References = parse_json('["a"]')
        | project TimeGenerated, Severity, FindingTitle = strcat(Title_, '!'), Port = toint(Port + 1), References"""
"""Let with scalars, parse, rename, case, regular expressions, arithmetic: all documented."""


def test_a_mistake_in_a_transformation_is_found() -> None:
    """In its KQL, in the subset that a rule can run, in what it gives the table; nothing in the documented subset."""
    lost = KqlTransform(FINDING_REPORTS.name, "Nowhere_CL", "", "source | project TimeGenerated")
    found = transforms.examine([*(_transform(body) for body, _ in TRANSFORMS), lost, _transform(SUBSET)])
    codes = [{one.code for one in findings} for findings in found]
    wanted = [*(code for _, code in TRANSFORMS), "DCR005"]
    missed = [(one, got) for one, got in zip(wanted, codes, strict=False) if one not in got]
    assert missed == []
    assert found[-1] == []


def test_a_language_service_that_cannot_be_had_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Never an empty list of findings."""
    script = tmp_path / "node_modules" / "broken.js"
    script.parent.mkdir()
    script.write_text("throw new Error('broken');")
    monkeypatch.setattr(kqlcheck, "install", lambda: (node_packages.ensure_node(), script))
    with pytest.raises(node_packages.NodeError, match="KQL check failed"):
        check([Query("q", "print 1")])
