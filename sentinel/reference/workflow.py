"""Building blocks of Logic Apps workflow definitions (consumption): actions as the language's JSON, with a managed identity wherever one has to say who asks.

Invariant: no action holds a key. What carries one at run time (a secret of the vault, a request made with it) has secure inputs or outputs, and texts that come from
outside (entities, tags, ids) reach KQL only as base64, so that none of them can be more than a text there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

Action = dict[str, Any]
Actions = dict[str, Action]

SCHEMA: Final = (
    "https://schema.management.azure.com/providers/Microsoft.Logic/schemas/2016-06-01/workflowdefinition.json#"
)

_CONNECTION: Final = {"connection": {"name": "@parameters('$connections')['azuresentinel']['connectionId']"}}

INCIDENT: Final = "triggerBody()?['object']"
"""The incident that started the workflow, as an expression."""

LABELS: Final = f"coalesce({INCIDENT}?['properties']?['labels'], json('[]'))"
"""Its tags: objects with a labelName."""

INCIDENT_TRIGGER: Final[Actions] = {
    # Renamed, the trigger breaks.
    "Microsoft_Sentinel_incident": {
        "type": "ApiConnectionWebhook",
        "inputs": {
            "host": _CONNECTION,
            "body": {"callback_url": "@{listCallbackUrl()}"},
            "path": "/incident-creation",
        },
    }
}

SUCCEEDED: Final = ("Succeeded",)
ENDED: Final = ("Succeeded", "Failed", "Skipped", "TimedOut")
ANSWERED: Final = ("Succeeded", "Failed")
"""An HTTP action whose answer is an error has failed."""


def definition(triggers: Actions, actions: Actions, parameters: Mapping[str, str]) -> Action:
    """A workflow definition; `parameters`: name to type."""
    return {
        "$schema": SCHEMA,
        "contentVersion": "1.0.0.0",
        "parameters": {
            name: {"type": kind, **({"defaultValue": {}} if name == "$connections" else {})}
            for name, kind in parameters.items()
        },
        "triggers": triggers,
        "actions": actions,
        "outputs": {},
    }


def after(*names: str, status: Sequence[str] = SUCCEEDED) -> dict[str, list[str]]:
    """runAfter of actions; none: at once."""
    return {name: list(status) for name in names}


def identity(audience: str) -> dict[str, str]:
    """Authentication with the workflow's own identity, for an audience (a parameter's name)."""
    return {"type": "ManagedServiceIdentity", "audience": f"@parameters('{audience}')"}


def kql(query: str, run_after: dict[str, list[str]]) -> Action:
    """Ask the workspace. The query is a workflow text: what it interpolates is base64 (`encoded`)."""
    return {
        "type": "Http",
        "runAfter": run_after,
        "inputs": {
            "method": "POST",
            "uri": "@{parameters('logAnalytics')}/v1/workspaces/@{parameters('workspaceId')}/query",
            "headers": {"Content-Type": "application/json"},
            "body": {"query": query},
            "authentication": identity("logAnalytics"),
        },
    }


def cell(action: str, column: int) -> str:
    """An expression: a value of the first row that a query gave."""
    return f"body('{action}')?['tables']?[0]?['rows']?[0]?[{column}]"


def rows(action: str) -> str:
    """An expression: all rows that a query gave, each an array."""
    return f"coalesce(body('{action}')?['tables']?[0]?['rows'], json('[]'))"


def encoded(expression: str) -> str:
    """A text that stands in KQL between quotes for base64_decode_tostring."""
    return f"@{{base64({expression})}}"


def comment(message: str, run_after: dict[str, list[str]], incident: str = f"@{INCIDENT}?['id']") -> Action:
    """Comment on an incident; HTML."""
    return {
        "type": "ApiConnection",
        "runAfter": run_after,
        "inputs": {
            "host": _CONNECTION,
            "method": "post",
            "path": "/Incidents/Comment",
            "body": {"incidentArmId": incident, "message": message},
        },
    }


def tag(tags: str | list[dict[str, str]], run_after: dict[str, list[str]]) -> Action:
    """Add tags to the incident; those that it has stay."""
    return {
        "type": "ApiConnection",
        "runAfter": run_after,
        "inputs": {
            "host": _CONNECTION,
            "method": "put",
            "path": "/Incidents",
            "body": {"incidentArmId": f"@{INCIDENT}?['id']", "tagsToAdd": {"TagsToAdd": tags}},
        },
    }


def secret(name: str, run_after: dict[str, list[str]]) -> Action:
    """Read a secret of the vault; its value does not show in the run's history."""
    return {
        "type": "Http",
        "runAfter": run_after,
        "inputs": {
            "method": "GET",
            "uri": f"@{{parameters('vaultUri')}}secrets/{name}?api-version=7.4",
            "authentication": identity("vaultAudience"),
        },
        "runtimeConfiguration": {"secureData": {"properties": ["outputs"]}},
    }


def post_once(uri: str, headers: dict[str, str], body: Any, run_after: dict[str, list[str]]) -> Action:
    """A POST that is made once, whatever becomes of it, and that does not wait for what a 202 has begun; nothing of it shows in the run's history."""
    return {
        "type": "Http",
        "runAfter": run_after,
        "operationOptions": "DisableAsyncPattern",
        "inputs": {
            "method": "POST",
            "uri": uri,
            "headers": {"Content-Type": "application/json", **headers},
            "body": body,
            "retryPolicy": {"type": "none"},
        },
        "runtimeConfiguration": {"secureData": {"properties": ["inputs", "outputs"]}},
    }


def manage(method: str, path: str, run_after: dict[str, list[str]], body: Any = None) -> Action:
    """A request to Azure Resource Manager; `path` is a whole URI."""
    inputs = {"method": method, "uri": path, "authentication": identity("resourceManager")}
    if body is not None:
        inputs["body"] = body
    return {"type": "Http", "runAfter": run_after, "inputs": inputs}


def condition(
    expression: dict[str, Any], then: Actions, run_after: dict[str, list[str]], otherwise: Actions | None = None
) -> Action:
    """If."""
    return {
        "type": "If",
        "runAfter": run_after,
        "expression": expression,
        "actions": then,
        **({"else": {"actions": otherwise}} if otherwise else {}),
    }


def filtered(source: str, where: str, run_after: dict[str, list[str]]) -> Action:
    """Filter array."""
    return {"type": "Query", "runAfter": run_after, "inputs": {"from": f"@{source}", "where": f"@{where}"}}


def selected(source: str, each: Any, run_after: dict[str, list[str]]) -> Action:
    """Select."""
    return {"type": "Select", "runAfter": run_after, "inputs": {"from": f"@{source}", "select": each}}


def each(source: str, actions: Actions, run_after: dict[str, list[str]], at_once: int = 1) -> Action:
    """For each."""
    return {
        "type": "Foreach",
        "runAfter": run_after,
        "foreach": f"@{source}",
        "actions": actions,
        "runtimeConfiguration": {"concurrency": {"repetitions": at_once}},
    }


def variable(name: str, kind: str, value: Any, run_after: dict[str, list[str]]) -> Action:
    """Initialize variable."""
    return {
        "type": "InitializeVariable",
        "runAfter": run_after,
        "inputs": {"variables": [{"name": name, "type": kind, "value": value}]},
    }


def assign(name: str, value: str, run_after: dict[str, list[str]]) -> Action:
    """Set variable; the value must not name the variable."""
    return {"type": "SetVariable", "runAfter": run_after, "inputs": {"name": name, "value": value}}


def stop(status: str, run_after: dict[str, list[str]]) -> Action:
    """Terminate the run."""
    return {"type": "Terminate", "runAfter": run_after, "inputs": {"runStatus": status}}
