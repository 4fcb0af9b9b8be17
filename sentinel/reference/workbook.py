"""The workbook, sentinel/content/workbooks/CAASM.json: tabs of charts, declared here as data, written as the gallery's JSON by `make generate`.

Invariant: every query reads the product parameter and nothing else that a workbook substitutes, so `queries()` gives texts that run anywhere. A chart of the present
state asks the functions over their own window, whatever the reader's time range; a chart of history is cut by the time range through the query API's timespan.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

PATH: Final = "sentinel/content/workbooks/CAASM.json"

TITLE: Final = "CAASM: inventory, coverage, exposure"

_RESOURCE: Final = {"queryType": 0, "resourceType": "microsoft.operationalinsights/workspaces"}
_WINDOW_MS: Final = 14 * 86_400_000
"""Of the functions (their `lookback`)."""
_RANGES_MS: Final = [days * 86_400_000 for days in (1, 7, 14, 30, 60, 90)]
_DEFAULT_RANGE_MS: Final = 30 * 86_400_000
_NAMESPACE: Final = uuid.UUID("6f5f1f0a-2f0c-4b8e-9d0e-8c7a3c1d2e4b")

_OF_PRODUCT: Final = "| where '*' in ({Product}) or EntityProduct in ({Product})"
_ALL_PRODUCTS: Final = "'*'"
_BY_LEVEL: Final = (
    "case({0} == 'Critical', 0, {0} == 'High', 1, {0} == 'Medium', 2, {0} == 'Low', 3, {0} == 'Informational', 4, 5)"
)


class Chart(NamedTuple):
    """A query and how it is drawn. `of` names what it reads first; the filter on products is put after that. `history`: the time range applies."""

    name: str
    title: str
    view: str
    of: str
    kql: str
    width: int = 100
    history: bool = False

    @property
    def query(self) -> str:
        """The whole query, with the workbook's parameter in it."""
        return f"{self.of}\n{_OF_PRODUCT}\n{self.kql.strip()}"


class Tab(NamedTuple):
    """Charts that answer one question, with what a reader has to know of them."""

    name: str
    title: str
    words: str
    charts: tuple[Chart, ...]


TABS: Final = (
    Tab(
        "coverage",
        "Coverage",
        "What protects what. *Unknown* means that the product cannot tell, which is not the same as missing. Streams without a complete load in 14 days are left out.",
        (
            Chart(
                "inventory", "Inventory by product", "table", "CAASM_Assets",
                """
| summarize Assets = count(), Critical = countif(Criticality == 'Critical'), InternetFacing = countif(IsInternetFacing == true),
    WithoutEdr = countif(HasEdr == false), WithoutOwner = countif(isempty(Username)), LastLoad = max(TimeGenerated) by EntityProduct
| order by Assets desc""",
            ),
            Chart(
                "controls", "Assets by control", "categoricalbar", "CAASM_Coverage",
                "| summarize Assets = count() by Control, Coverage\n| order by Control asc, Coverage asc", 50,
            ),
            Chart(
                "edr-by-criticality", "EDR by criticality", "categoricalbar", "CAASM_Coverage",
                f"""
| where Control == 'EDR'
| summarize Assets = count() by Criticality, Coverage
| extend _Level = {_BY_LEVEL.format("Criticality")}
| order by _Level asc, Coverage asc
| project-away _Level""", 50,
            ),
            Chart(
                "coverage-against-criticality", "Coverage against criticality, in percent of the assets of which it is known", "table", "CAASM_Coverage",
                f"""
| summarize Covered = countif(Coverage == 'Covered'), Missing = countif(Coverage == 'Missing'), Unknown = countif(Coverage == 'Unknown') by Criticality, Control
| extend CoveredPercent = iff(Covered + Missing == 0, real(null), round(100.0 * Covered / (Covered + Missing), 1))
| extend _Level = {_BY_LEVEL.format("Criticality")}
| order by _Level asc, Control asc
| project-away _Level""",
            ),
            Chart(
                "gaps", "Critical and important assets that lack a control (first 250)", "table", "CAASM_Coverage",
                """
| where Coverage == 'Missing' and Criticality in ('Critical', 'High')
| summarize _Missing = make_set(Control), InternetFacing = max(toint(coalesce(IsInternetFacing, false)))
    by AssetName, Criticality, AssetType, Environment, Owner = Username, EntityProduct
| extend Missing = strcat_array(array_sort_asc(_Missing), ', ')
| project-away _Missing
| order by Criticality asc, InternetFacing desc, AssetName asc
| take 250""",
            ),
        ),
    ),
    Tab(
        "exposure",
        "Exposure",
        "*Critical*: on the internet, with an exploited or exploitable critical finding. *High*: exploited, or on the internet with severe findings. Products of which a stream is incomplete are left out.",
        (
            Chart(
                "levels", "Assets by exposure level", "categoricalbar", "CAASM_Exposure",
                """
| summarize Assets = count() by ExposureLevel, EntityProduct
| order by ExposureLevel asc""", 50,
            ),
            Chart(
                "internet", "Facing the internet", "piechart", "CAASM_Exposure",
                "| summarize Assets = count() by FacesInternet = case(isnull(IsInternetFacing), 'Unknown', IsInternetFacing, 'Yes', 'No')", 50,
            ),
            Chart(
                "most-exposed", "The most exposed assets (first 100)", "table", "CAASM_Exposure",
                f"""
| where ExposureLevel in ('Critical', 'High', 'Medium')
| extend _Level = {_BY_LEVEL.format("ExposureLevel")}
| order by _Level asc, KnownExploited desc, OpenCritical desc, OpenHigh desc, AssetName asc
| take 100
| project AssetName, ExposureLevel, Criticality, IsInternetFacing, HasEdr, OpenCritical, OpenHigh, KnownExploited, HighestCvss, Owner = Username, DvcIpAddr, EntityProduct""",
            ),
            Chart(
                "vulnerabilities", "Vulnerabilities by reach (first 50)", "table", "CAASM_Findings",
                """
| where FindingStatus == 'Open' and isnotempty(CveId)
| summarize Assets = dcount(AssetId), KnownExploited = countif(IsKnownExploited == true), Exploitable = countif(IsExploitAvailable == true), Cvss = max(CvssScore), Epss = max(EpssScore)
    by CveId
| order by KnownExploited desc, Assets desc, CveId asc
| take 50""",
            ),
        ),
    ),
    Tab(
        "severity",
        "Severity over time",
        "Full loads say everything, deltas only what has changed: a point of the first chart is a day with a full load. With several products, choose one to compare days.",
        (
            Chart(
                "open-by-day", "Open findings of full loads by severity", "timechart", "CAASM_Findings_CL",
                """
| where EntityFeedType == 'Snapshot' and FindingStatus == 'Open' and coalesce(EntityIsDeleted, false) == false
| summarize Findings = dcount(FindingId) by Severity, bin(TimeGenerated, 1d)
| order by TimeGenerated asc, Severity asc""", 100, True,
            ),
            Chart(
                "now-by-severity", "Open findings now", "categoricalbar", "CAASM_Findings",
                f"""
| where FindingStatus == 'Open'
| summarize Findings = count() by Severity, FindingType
| extend _Level = {_BY_LEVEL.format("Severity")}
| order by _Level asc, FindingType asc
| project-away _Level""", 50,
            ),
            Chart(
                "changes", "What loads said: created, updated, gone", "timechart", "CAASM_Runs_CL",
                """
| summarize arg_max(TimeGenerated, *) by RunStreamId
| summarize Created = sum(Created), Updated = sum(Updated), Gone = sum(Deleted) by bin(StartedAt, 1d)
| order by StartedAt asc""", 50, True,
            ),
        ),
    ),
    Tab(
        "ownership",
        "Ownership",
        "Whose assets they are, as the products say. An asset without an owner is nobody's to mend.",
        (
            Chart(
                "owned", "Assets with and without an owner, by criticality", "categoricalbar", "CAASM_Assets",
                f"""
| summarize Assets = count() by Criticality, Owner = iff(isempty(Username), 'Nobody', 'Known')
| extend _Level = {_BY_LEVEL.format("Criticality")}
| order by _Level asc, Owner asc
| project-away _Level""", 50,
            ),
            Chart(
                "organizations", "Exposure by organisation", "table", "CAASM_Exposure",
                """
| mv-expand Organization = Organizations to typeof(string)
| where isnotempty(Organization)
| summarize Assets = count(), Exposed = countif(ExposureLevel in ('Critical', 'High')), OpenCritical = sum(OpenCritical), OpenHigh = sum(OpenHigh) by Organization
| order by Exposed desc, OpenCritical desc, Organization asc
| take 100""", 50,
            ),
            Chart(
                "owners", "Owners by what is exposed (first 100)", "table", "CAASM_Exposure",
                """
| where isnotempty(Username)
| summarize Assets = count(), Critical = countif(Criticality == 'Critical'), Exposed = countif(ExposureLevel in ('Critical', 'High')),
    WithoutEdr = countif(HasEdr == false), OpenCritical = sum(OpenCritical), OpenHigh = sum(OpenHigh) by Owner = Username
| order by Exposed desc, OpenCritical desc, WithoutEdr desc, Owner asc
| take 100""",
            ),
        ),
    ),
    Tab(
        "compliance",
        "Compliance evidence",
        "What was in scope, what was covered, and the proof that the inventory behind it was whole: a run is complete when both lines of its ledger add up.",
        (
            Chart(
                "completeness", "Is the inventory whole and current?", "table", "CAASM_Runs",
                """
| project EntityProduct, SourceStream, IsComplete, IsCurrent, LastFullAt, LastCompleteAt, LastRunStatus, LastRunMissing, Runs, NotComplete, LastRunId
| order by EntityProduct asc, SourceStream asc""",
            ),
            Chart(
                "controls-by-environment", "Controls by environment", "table", "CAASM_Coverage",
                """
| summarize InScope = count(), Covered = countif(Coverage == 'Covered'), Missing = countif(Coverage == 'Missing'), Unknown = countif(Coverage == 'Unknown'),
    InventoryOf = min(InventoryCompleteAt) by Control, Environment
| extend CoveredPercentOfScope = round(100.0 * Covered / InScope, 1)
| order by Control asc, Environment asc""",
            ),
            Chart(
                "age", "Age of open findings, by when the product first saw them", "table", "CAASM_Findings",
                f"""
| where FindingStatus == 'Open' and isnotnull(FirstSeen)
| extend _Days = datetime_diff('day', now(), FirstSeen)
| summarize To30Days = countif(_Days <= 30), To90Days = countif(_Days > 30 and _Days <= 90), To180Days = countif(_Days > 90 and _Days <= 180), Older = countif(_Days > 180)
    by Severity
| extend _Level = {_BY_LEVEL.format("Severity")}
| order by _Level asc
| project-away _Level""",
            ),
            Chart(
                "ledger", "The ledger of the loads (last 200)", "table", "CAASM_Runs_CL",
                """
| summarize arg_max(TimeGenerated, *) by RunStreamId
| where isnotempty(SourceStream) and RunStatus != 'left out'
| extend AddsUp = Exported == Staged and Staged == Flattened + Rejected + Filtered and Rows == Accepted + DeadLettered + Unchanged
| top 200 by StartedAt desc
| project StartedAt, EntityProduct, SourceStream, RunMode, RunStatus, AddsUp, Exported, Staged, Flattened, Rejected, Filtered, Rows, Accepted, DeadLettered, Unchanged, PossiblyRepeated, RunId""",
                100, True,
            ),
        ),
    ),
    Tab(
        "pipeline",
        "Pipeline",
        "How the loads themselves are doing. A product without a complete load for a day is stale; rules refuse inventories that are not complete.",
        (
            Chart(
                "runs-by-day", "Streams loaded, by status", "timechart", "CAASM_Runs_CL",
                """
| summarize arg_max(TimeGenerated, *) by RunStreamId
| where RunStatus != 'left out'
| summarize Streams = count() by RunStatus, bin(StartedAt, 1d)
| order by StartedAt asc""", 50, True,
            ),
            Chart(
                "rows-by-day", "Rows accepted", "timechart", "CAASM_Runs_CL",
                """
| summarize arg_max(TimeGenerated, *) by RunStreamId
| summarize Rows = sum(Accepted) by EntityProduct, bin(StartedAt, 1d)
| order by StartedAt asc""", 50, True,
            ),
            Chart(
                "runs", "Loads (last 100), with the reasons of those that are not complete", "table", "CAASM_Runs_CL",
                """
| summarize arg_max(TimeGenerated, *) by RunStreamId
| where RunStatus != 'left out'
| summarize _Status = make_set(RunStatus), _Reasons = make_set(tostring(Reasons)), Ended = max(TimeGenerated), Streams = count(),
    Exported = sum(Exported), Accepted = sum(Accepted), SetAside = sum(Rejected) + sum(DeadLettered), FailedPages = sum(FailedPages), BytesSent = sum(BytesSent), Requests = sum(Requests)
    by RunId, EntityProduct, RunMode, StartedAt
| extend Minutes = round((Ended - StartedAt) / 1m, 1), Status = strcat_array(array_sort_asc(_Status), ', '), Reasons = strcat_array(_Reasons, ' ')
| top 100 by StartedAt desc
| project StartedAt, EntityProduct, RunMode, Status, Minutes, Streams, Exported, Accepted, SetAside, FailedPages, BytesSent, Requests, Reasons, RunId""",
                100, True,
            ),
        ),
    ),
)  # fmt: skip

PRODUCTS: Final = "CAASM_Runs\n| distinct EntityProduct\n| order by EntityProduct asc"
"""What the product parameter offers."""


def queries(products: str = _ALL_PRODUCTS) -> Iterator[tuple[str, str]]:
    """Every query as (tab/chart, text), the product parameter replaced by `products` (quoted, with commas; default: all)."""
    yield "parameters/Product", PRODUCTS
    for tab in TABS:
        for chart in tab.charts:
            yield f"{tab.name}/{chart.name}", chart.query.replace("{Product}", products)


def workbook() -> str:
    """The workbook as the gallery takes it."""
    items: list[dict[str, Any]] = [
        _text("title", f"# {TITLE}\nFrom the tables `CAASM_*_CL`. The time range applies to charts of history."),
        _parameters(),
        _tabs(),
        *(_group(tab) for tab in TABS),
    ]
    return (
        json.dumps(
            {
                "version": "Notebook/1.0",
                "items": items,
                "styleSettings": {},
                "fromTemplateId": "sentinel-CAASM",
                "$schema": "https://github.com/Microsoft/Application-Insights-Workbooks/blob/master/schema/workbook.json",
            },
            indent=1,
            ensure_ascii=False,
        )
        + "\n"
    )


def _id(name: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, name))


def _text(name: str, words: str) -> dict[str, Any]:
    return {"type": 1, "content": {"json": words}, "name": f"text-{name}"}


def _parameters() -> dict[str, Any]:
    shared = {"version": "KqlParameterItem/1.0", "isRequired": True}
    time_range = {
        "id": _id("TimeRange"),
        **shared,
        "name": "TimeRange",
        "label": "Time range",
        "type": 4,
        "value": {"durationMs": _DEFAULT_RANGE_MS},
        "typeSettings": {"selectableValues": [{"durationMs": ms} for ms in _RANGES_MS], "allowCustom": True},
    }
    product = {
        "id": _id("Product"),
        **shared,
        "name": "Product",
        "label": "Product",
        "type": 2,
        "multiSelect": True,
        "quote": "'",
        "delimiter": ",",
        "query": PRODUCTS,
        "typeSettings": {"additionalResourceOptions": ["value::all"], "selectAllValue": "*", "showDefault": False},
        "timeContext": {"durationMs": _WINDOW_MS},
        "defaultValue": "value::all",
        "value": ["value::all"],
        **_RESOURCE,
    }
    tab = {
        "id": _id("Tab"),
        **shared,
        "name": "Tab",
        "type": 1,
        "isHiddenWhenLocked": True,
        "value": TABS[0].name,
    }
    content = {
        "version": "KqlParameterItem/1.0",
        "parameters": [time_range, product, tab],
        "style": "pills",
        **_RESOURCE,
    }
    return {"type": 9, "content": content, "name": "parameters"}


def _tabs() -> dict[str, Any]:
    links = [
        {"id": _id(f"link {tab.name}"), "cellValue": "Tab", "linkTarget": "parameter", "linkLabel": tab.title, "subTarget": tab.name, "style": "link"}
        for tab in TABS
    ]  # fmt: skip
    return {"type": 11, "content": {"version": "LinkItem/1.0", "style": "tabs", "links": links}, "name": "tabs"}


def _group(tab: Tab) -> dict[str, Any]:
    content = {
        "version": "NotebookGroup/1.0",
        "groupType": "editable",
        "items": [_text(tab.name, tab.words), *(_chart(tab, chart) for chart in tab.charts)],
    }
    shown = {"parameterName": "Tab", "comparison": "isEqualTo", "value": tab.name}
    return {"type": 12, "content": content, "conditionalVisibility": shown, "name": f"tab-{tab.name}"}


def _chart(tab: Tab, chart: Chart) -> dict[str, Any]:
    when = (
        {"timeContext": {"durationMs": 0}, "timeContextFromParameter": "TimeRange"}
        if chart.history
        else {"timeContext": {"durationMs": _WINDOW_MS}}
    )
    content = {
        "version": "KqlItem/1.0",
        "query": chart.query,
        "size": 0,
        "title": chart.title,
        "noDataMessage": "Nothing to show. Is the inventory complete? See the tab Compliance evidence.",
        **when,
        "showExportToExcel": True,
        **_RESOURCE,
        "visualization": chart.view,
    }
    if chart.view == "table":
        content["gridSettings"] = {"rowLimit": 1000, "filter": True}
    return {
        "type": 3,
        "content": content,
        "customWidth": str(chart.width),
        "name": f"{tab.name}-{chart.name}",
    }
