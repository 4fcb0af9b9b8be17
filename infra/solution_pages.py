"""What people see of the solution in the portal: the data connector's page, and what is asked when it is installed.

Invariant: nothing is configured here. The connector only tells whether rows come in; the installation asks for the workspace alone, which is all that mainTemplate.json takes.
"""

from __future__ import annotations

from infra.solution_arm import WORKSPACES, Item, Json
from sentinel.tables import TABLES


def connector(words: Json) -> Json:
    """The data connector's page: that rows come in, and where to read how."""
    names = [table.name for table in TABLES]
    return {
        "id": "CaasmSentinel",
        "title": "CAASM (via caasm-sentinel)",
        "publisher": words["publisher"],
        "descriptionMarkdown": "The inventory of a CAASM platform through the Function App caasm-sentinel and the Logs Ingestion API. A load is complete only when its ledger adds up.",
        "graphQueries": [
            {"metricName": f"Rows in {name}", "legend": name, "baseQuery": name} for name in names
        ],
        "sampleQueries": [
            {"description": "Critical assets without EDR", "query": "CAASM_Assets\n| where Criticality == 'Critical' and HasEdr == false"},
            {"description": "Is the inventory complete?", "query": "CAASM_Runs"},
        ],
        "dataTypes": [
            {"name": name, "lastDataReceivedQuery": f"{name}\n| summarize Time = max(TimeGenerated)\n| where isnotempty(Time)"}
            for name in names
        ],
        "connectivityCriterias": [
            {"type": "IsConnectedQuery", "value": ["CAASM_Runs_CL\n| summarize LastLogReceived = max(TimeGenerated)\n| project IsConnected = LastLogReceived > ago(8d)"]}
        ],
        "availability": {"status": 1, "isPreview": False},
        "permissions": {
            "resourceProvider": [
                {
                    "provider": WORKSPACES,
                    "permissionsDisplayText": "read and write permissions on the workspace are required.",
                    "providerDisplayName": "Workspace",
                    "scope": "Workspace",
                    "requiredPermissions": {"write": True, "read": True, "delete": True},
                }
            ],
            "customs": [{"name": "Function App", "description": "Contributor and User Access Administrator, to deploy caasm-sentinel (docs/deployment.md)."}],
        },
        "instructionSteps": [
            {"title": "", "description": "Deploy caasm-sentinel with `azd up`: it makes the tables, the data collection rule and the app that fills them. See docs/deployment.md of its repository."}
        ],
    }  # fmt: skip


def create_ui(found: list[Item], words: Json) -> Json:
    """createUiDefinition.json: which workspace, and what will be there."""
    counted = {"DataConnector": "Data Connectors", "Parser": "Parsers", "Workbook": "Workbooks", "AnalyticsRule": "Analytic Rules", "HuntingQuery": "Hunting Queries", "Playbook": "Playbooks"}  # fmt: skip
    counts = ", ".join(f"**{name}:** {sum(item.kind == kind for item in found)}" for kind, name in counted.items())
    steps = [
        {
            "name": name.lower().replace(" ", ""),
            "label": name,
            "bladeTitle": name,
            "elements": [
                {
                    "name": f"{item.kind.lower()}{at}",
                    "type": "Microsoft.Common.Section",
                    "label": item.display_name,
                    "elements": [{"name": f"{item.kind.lower()}{at}-text", "type": "Microsoft.Common.TextBlock", "options": {"text": item.description}}],
                }
                for at, item in enumerate((item for item in found if item.kind == kind), 1)
            ],
        }
        for kind, name in counted.items()
    ]  # fmt: skip
    chosen = "filter(basics('getLAWorkspace').value, (filter) => contains(toLower(filter.id), toLower(resourceGroup().name)))"
    return {
        "$schema": "https://schema.management.azure.com/schemas/0.1.2-preview/CreateUIDefinition.MultiVm.json#",
        "handler": "Microsoft.Azure.CreateUIDef",
        "version": "0.1.2-preview",
        "parameters": {
            "config": {
                "isWizard": False,
                "basics": {
                    "description": f"{words['logo']}\n\n{words['description']}\n\n{counts}",
                    "subscription": {"resourceProviders": ["Microsoft.OperationsManagement/solutions", f"{WORKSPACES}/providers/alertRules", "Microsoft.Insights/workbooks", "Microsoft.Logic/workflows"]},
                    "location": {"metadata": {"hidden": "Hiding location, we get it from the log analytics workspace"}, "visible": False},
                    "resourceGroup": {"allowExisting": True},
                },
            },
            "basics": [
                {
                    "name": "getLAWorkspace",
                    "type": "Microsoft.Solutions.ArmApiControl",
                    "toolTip": "This filters by workspaces that exist in the Resource Group selected",
                    "condition": "[greater(length(resourceGroup().name),0)]",
                    "request": {"method": "GET", "path": "[concat(subscription().id,'/providers/Microsoft.OperationalInsights/workspaces?api-version=2020-08-01')]"},
                },
                {
                    "name": "workspace",
                    "type": "Microsoft.Common.DropDown",
                    "label": "Workspace",
                    "placeholder": "Select a workspace",
                    "toolTip": "This dropdown will list only workspaces that exist in the Resource Group selected",
                    "constraints": {"allowedValues": f"[map({chosen}, (item) => parse(concat('{{\"label\":\"', item.name, '\",\"value\":\"', item.name, '\"}}')))]", "required": True},
                    "visible": True,
                },
            ],
            "steps": steps,
            "outputs": {
                "workspace-location": "[first(map(filter(basics('getLAWorkspace').value, (filter) => and(contains(toLower(filter.id), toLower(resourceGroup().name)),equals(filter.name,basics('workspace')))), (item) => item.location))]",
                "location": "[location()]",
                "workspace": "[basics('workspace')]",
            },
        },
    }  # fmt: skip
