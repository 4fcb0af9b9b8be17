"""ARM templates of the content: one per item, as Sentinel Repositories deploys them, and the same inside of the solution's main template (packaging V3).

Invariant: a text of the content is never taken for an ARM expression, and an expression inside of a template that is deployed later is kept for
then (`escaped`). The properties of rules and hunting queries are those that infra/generated has for Bicep.
"""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

from sentinel.content import KqlFunction
from sentinel.reference.workbook import TITLE

Json = dict[str, Any]

DEPLOYMENT: Final = "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#"
VERSION: Final = "1.0.0.0"

WORKSPACES: Final = "Microsoft.OperationalInsights/workspaces"
SAVED_SEARCH_API: Final = "2022-10-01"

_SENTINEL: Final = "'/Microsoft.SecurityInsights/'"


class Item(NamedTuple):
    """A piece of content in a solution. `resources` are those of its template; `parent` is the id that its metadata points to, as an ARM expression."""

    kind: str
    short: str
    content_id: str
    display_name: str
    description: str
    version: str
    parent: str
    resources: list[Json]
    file: str
    parameters: Json = {}  # noqa: RUF012 - never changed
    variables: Json = {}  # noqa: RUF012 - never changed


def escaped(value: Any) -> Any:
    """The value with its texts as they are: none is an ARM expression now. What is one becomes one when the template that it stands in is deployed."""
    return _each(value, lambda text: f"[{text}" if text.startswith("[") else text)


def _each(value: Any, change: Any) -> Any:
    if isinstance(value, dict):
        return {key: _each(inner, change) for key, inner in value.items()}
    if isinstance(value, list):
        return [_each(inner, change) for inner in value]
    return change(value) if isinstance(value, str) else value


def template(resources: list[Json], parameters: Json | None = None, **more: Any) -> Json:
    """A deployment template."""
    return {
        "$schema": DEPLOYMENT,
        "contentVersion": VERSION,
        **more,
        "parameters": parameters or {},
        "resources": resources,
    }


def workspace_parameter() -> Json:
    """What Sentinel Repositories hands to each template."""
    return {"workspace": {"type": "string", "metadata": {"description": "Name of the workspace"}}}


def rule(entry: Json) -> Json:
    """An analytics rule that Sentinel Repositories deploys, enabled."""
    return {
        "type": f"{WORKSPACES}/providers/alertRules",
        "apiVersion": "2025-09-01",
        "name": f"[concat(parameters('workspace'),'/Microsoft.SecurityInsights/{entry['id']}')]",
        "kind": entry["kind"],
        "properties": {**escaped(entry["properties"]), "enabled": True},
    }


def saved_search(name: str, properties: Json) -> Json:
    """A hunting query or a function."""
    return {
        "type": f"{WORKSPACES}/savedSearches",
        "apiVersion": SAVED_SEARCH_API,
        "name": f"[concat(parameters('workspace'),'/{name}')]",
        "properties": escaped(properties),
    }


def function_properties(function: KqlFunction) -> Json:
    """The properties of a saved search that is a function."""
    return {
        "category": "CAASM",
        "displayName": function.name,
        "functionAlias": function.name,
        "functionParameters": function.parameters,
        "query": function.body,
        "version": 2,
        "tags": [{"name": "description", "value": function.description}],
    }


def workbook_resource(serialized: str) -> Json:
    """The workbook, in the resource group of the workspace."""
    return {
        "type": "Microsoft.Insights/workbooks",
        "apiVersion": "2023-06-01",
        "name": "[guid(resourceId('Microsoft.OperationalInsights/workspaces', parameters('workspace')), 'caasm-workbook')]",
        "location": "[resourceGroup().location]",
        "kind": "shared",
        "properties": {
            "displayName": TITLE,
            "serializedData": escaped(serialized),
            "version": "1.0",
            "sourceId": "[resourceId('Microsoft.OperationalInsights/workspaces', parameters('workspace'))]",
            "category": "sentinel",
        },
    }


_PLAYBOOK_PARAMETERS: Final[dict[str, tuple[str, str | None, str]]] = {
    "workspaceId": ("WorkspaceId", None, "Workspace ID (GUID) that the CAASM tables are in"),
    "logAnalytics": ("LogAnalyticsEndpoint", "https://api.loganalytics.io", "Endpoint of the query API"),
    "vaultUri": ("VaultUri", None, "Vault with the secrets caasm-ticket-webhook and caasm-function-key, with a slash at its end"),
    "vaultAudience": ("VaultAudience", "https://vault.azure.net", "Audience of key vaults"),
    "functionApp": ("FunctionAppUrl", None, "https:// address of the Function App caasm-sentinel, without a slash at its end"),
    "watchlist": ("WatchlistResourceId", None, "Resource ID of the watchlist CAASM_CriticalAssets"),
}  # fmt: skip
"""Parameter of a definition: the template's parameter, its default, what it is."""


def playbook(name: str, definition: Json, metadata: Json) -> Json:
    """azuredeploy.json of a playbook: the workflow with an identity of its own, and the connection that its trigger needs."""
    given: Json = {"PlaybookName": {"type": "string", "defaultValue": name}}
    values: Json = {}
    for parameter in definition["parameters"]:
        if parameter == "resourceManager":
            values[parameter] = {"value": "[environment().resourceManager]"}
        elif parameter != "$connections":
            theirs, default, words = _PLAYBOOK_PARAMETERS[parameter]
            given[theirs] = {
                "type": "string",
                **({"defaultValue": default} if default else {}),
                "metadata": {"description": words},
            }
            values[parameter] = {"value": f"[parameters('{theirs}')]"}
    if "watchlist" in values:
        values["watchlist"] = {
            "value": "[concat(environment().resourceManager, substring(parameters('WatchlistResourceId'), 1))]"
        }
    connected = "$connections" in definition["parameters"]
    workflow: Json = {
        "type": "Microsoft.Logic/workflows",
        "apiVersion": "2019-05-01",
        "name": "[parameters('PlaybookName')]",
        "location": "[resourceGroup().location]",
        "tags": {"hidden-SentinelTemplateName": name, "hidden-SentinelTemplateVersion": "1.0"},
        "identity": {"type": "SystemAssigned"},
        "properties": {"state": "Enabled", "definition": escaped(definition), "parameters": values},
    }
    resources = [workflow]
    more: Json = {"metadata": metadata}
    if connected:
        api = "[concat('/subscriptions/', subscription().subscriptionId, '/providers/Microsoft.Web/locations/', resourceGroup().location, '/managedApis/azuresentinel')]"
        identifier = "[resourceId('Microsoft.Web/connections', variables('ConnectionName'))]"
        more["variables"] = {"ConnectionName": "[concat('azuresentinel-', parameters('PlaybookName'))]"}
        values["$connections"] = {
            "value": {
                "azuresentinel": {
                    "connectionId": identifier,
                    "connectionName": "[variables('ConnectionName')]",
                    "id": api,
                    "connectionProperties": {"authentication": {"type": "ManagedServiceIdentity"}},
                }
            }
        }
        workflow["dependsOn"] = [identifier]
        resources.append(
            {
                "type": "Microsoft.Web/connections",
                "apiVersion": "2016-06-01",
                "name": "[variables('ConnectionName')]",
                "location": "[resourceGroup().location]",
                "kind": "V1",
                "properties": {
                    "displayName": "[variables('ConnectionName')]",
                    "parameterValueType": "Alternative",
                    "api": {"id": api},
                },
            }
        )
    return template(resources, given, **more)


# ------------------------------------------------------------------------------------------------ the main template


def content_template(item: Item, solution: Json) -> Json:
    """The item as a template in the content hub, from which people make what they want."""
    product = (
        f"[concat(take(variables('_solutionId'),50),'-','{item.short}','-', "
        f"uniqueString(concat(variables('_solutionId'),'-','{item.kind}','-','{item.content_id}','-', '{item.version}')))]"
    )
    return {
        "type": f"{WORKSPACES}/providers/contentTemplates",
        "apiVersion": "2023-04-01-preview",
        "name": f"[concat(parameters('workspace'),{_SENTINEL},concat(parameters('workspace'),'-{item.short}-',uniquestring('{item.content_id}')))]",
        "location": "[parameters('workspace-location')]",
        "dependsOn": [
            "[extensionResourceId(resourceId('Microsoft.OperationalInsights/workspaces', parameters('workspace')), 'Microsoft.SecurityInsights/contentPackages', variables('_solutionId'))]"
        ],
        "properties": {
            "description": f"{item.display_name} ({item.kind}) of {solution['name']} {solution['version']}",
            "mainTemplate": {
                "$schema": DEPLOYMENT,
                "contentVersion": item.version,
                "parameters": item.parameters,
                "variables": item.variables,
                "resources": [*item.resources, metadata(item, solution)],
            },
            "packageKind": "Solution",
            "packageVersion": "[variables('_solutionVersion')]",
            "packageName": "[variables('_solutionName')]",
            "packageId": "[variables('_solutionId')]",
            "contentSchemaVersion": "3.0.0",
            "contentId": item.content_id,
            "contentKind": item.kind,
            "displayName": escaped(item.display_name),
            "contentProductId": product,
            "id": product,
            "version": item.version,
        },
    }


def metadata(item: Item, solution: Json) -> Json:
    """What ties a resource to the item and the solution that it comes from."""
    return {
        "type": f"{WORKSPACES}/providers/metadata",
        "apiVersion": "2022-01-01-preview",
        "name": f"[concat(parameters('workspace'),{_SENTINEL},concat('{item.kind}-', last(split({item.parent},'/'))))]",
        "properties": {
            "description": escaped(item.description),
            "parentId": f"[{item.parent}]",
            "contentId": item.content_id,
            "kind": item.kind,
            "version": item.version,
            "source": {"kind": "Solution", "name": solution["name"], "sourceId": "[variables('_solutionId')]"},
            **people(solution),
        },
    }


def people(solution: Json) -> Json:
    """Author and support, as metadata has them."""
    support = {"name": solution["publisher"], "tier": solution["tier"], "link": solution["link"]}
    return {
        "author": {"name": solution["publisher"], "email": solution["email"]},
        "support": {**support, "email": solution["email"]},
    }


def installed(item: Item, solution: Json) -> list[Json]:
    """The item made at once when the solution is installed, not only offered: what others stand on."""
    return [*item.resources, {**metadata(item, solution), "dependsOn": [f"[{item.parent}]"]}]


def main_template(items: list[Item], standing: list[Json], solution: Json) -> Json:
    """mainTemplate.json: a template for each item, `standing` resources that are made at once, and the package that lists all."""
    identifier = f"{solution['publisherId']}.{solution['offerId']}"
    package = {
        "type": f"{WORKSPACES}/providers/contentPackages",
        "apiVersion": "2023-04-01-preview",
        "name": f"[concat(parameters('workspace'),{_SENTINEL}, variables('_solutionId'))]",
        "location": "[parameters('workspace-location')]",
        "properties": {
            "version": solution["version"],
            "kind": "Solution",
            "contentSchemaVersion": "3.0.0",
            "displayName": solution["name"],
            "publisherDisplayName": solution["publisher"],
            "descriptionHtml": solution["description"],
            "contentKind": "Solution",
            "contentProductId": "[variables('_solutioncontentProductId')]",
            "id": "[variables('_solutioncontentProductId')]",
            "icon": solution["logo"],
            "contentId": "[variables('_solutionId')]",
            "parentId": "[variables('_solutionId')]",
            "source": {"kind": "Solution", "name": solution["name"], "sourceId": "[variables('_solutionId')]"},
            **people(solution),
            "dependencies": {
                "operator": "AND",
                "criteria": [
                    {"kind": item.kind, "contentId": item.content_id, "version": item.version} for item in items
                ],
            },
            "firstPublishDate": solution["firstPublishDate"],
            "lastPublishDate": solution["lastPublishDate"],
            "providers": [solution["publisher"]],
            "categories": {"domains": ["Security - Vulnerability Management"]},
        },
    }
    parameters = {
        "location": {
            "type": "string",
            "minLength": 1,
            "defaultValue": "[resourceGroup().location]",
            "metadata": {"description": "Not used, but needed to pass arm-ttk; the region is workspace-location"},
        },
        "workspace-location": {
            "type": "string",
            "defaultValue": "",
            "metadata": {"description": "Region of the workspace"},
        },
        "workspace": {
            "type": "string",
            "defaultValue": "",
            "metadata": {"description": "Workspace that Sentinel is set up in"},
        },
    }
    variables = {
        "_solutionName": solution["name"],
        "_solutionVersion": solution["version"],
        "_solutionId": identifier,
        "_solutioncontentProductId": "[concat(take(variables('_solutionId'),50),'-','sl','-', uniqueString(concat(variables('_solutionId'),'-','Solution','-',variables('_solutionId'),'-', variables('_solutionVersion'))))]",
    }
    resources = [*(content_template(item, solution) for item in items), *standing, package]
    more = {
        "metadata": {"author": solution["publisher"], "comments": f"Solution template for {solution['name']}"},
        "variables": variables,
    }
    return template(resources, parameters, **more)


def text(value: Any) -> str:
    """JSON as files have it."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
