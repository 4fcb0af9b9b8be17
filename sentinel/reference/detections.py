"""Analytics rules and hunting queries as JSON for Bicep: infra/generated/rules.json and hunting.json.

Invariant: an entry has all that its resource's properties take, in the API's spelling (PT1H, GreaterThan), so that a template adds nothing but whether a
rule is enabled. A rule's resource is named by its GUID, as the portal and Sentinel Repositories name it.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any, Final

from sentinel.content.detections import Detection, hunting, rules, span

_OPERATORS: Final = {"gt": "GreaterThan", "lt": "LessThan", "eq": "Equal", "ne": "NotEqual"}

NO_SUPPRESSION: Final = "PT5H"
"""The API demands a duration also where suppression is off; this is the portal's."""


def rules_json() -> str:
    """`[{file, id, kind, properties}]`: alertRules resources of Microsoft.SecurityInsights but for `enabled`."""
    return _text([_rule(rule) for rule in rules()])


def hunting_json() -> str:
    """`[{file, id, properties}]`: savedSearches resources of the category Hunting Queries."""
    return _text([_hunting(query) for query in hunting()])


def _rule(rule: Detection) -> dict[str, Any]:
    document = rule.document
    properties = {
        "displayName": rule.name,
        "description": rule.description,
        "severity": document["severity"],
        "query": rule.query,
        "queryFrequency": iso(span(document["queryFrequency"])),
        "queryPeriod": iso(span(document["queryPeriod"])),
        "triggerOperator": _OPERATORS[document["triggerOperator"]],
        "triggerThreshold": document["triggerThreshold"],
        "suppressionEnabled": False,
        "suppressionDuration": NO_SUPPRESSION,
        "tactics": document["tactics"],
        "techniques": document["relevantTechniques"],
        "entityMappings": document.get("entityMappings", []),
        "customDetails": document.get("customDetails", {}),
    }
    for name in ("alertDetailsOverride", "eventGroupingSettings"):
        if name in document:
            properties[name] = document[name]
    properties["incidentConfiguration"] = _incidents(document.get("incidentConfiguration"))
    return {"file": rule.file, "id": document["id"], "kind": document["kind"], "properties": properties}


def _incidents(given: dict[str, Any] | None) -> dict[str, Any]:
    if given is None:
        return {"createIncident": True}
    grouping = given["groupingConfiguration"]
    return {**given, "groupingConfiguration": {**grouping, "lookbackDuration": iso(span(grouping["lookbackDuration"]))}}


def _hunting(query: Detection) -> dict[str, Any]:
    document = query.document
    return {
        "file": query.file,
        "id": document["id"],
        "properties": {
            "category": "Hunting Queries",
            "displayName": query.name,
            "query": query.query,
            "version": 2,
            "tags": [
                {"name": "description", "value": query.description},
                {"name": "tactics", "value": ",".join(document["tactics"])},
                {"name": "techniques", "value": ",".join(document["relevantTechniques"])},
            ],
        },
    }


def iso(duration: timedelta) -> str:
    """A duration of whole minutes as ISO 8601: PT5M, PT1H, P14D."""
    minutes = duration // timedelta(minutes=1)
    if minutes % 1440 == 0:
        return f"P{minutes // 1440}D"
    return f"PT{minutes // 60}H" if minutes % 60 == 0 else f"PT{minutes}M"


def _text(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
