"""What the community's repository and the service demand of a rule or hunting query beside its KQL: `problems(detection)`.

Invariant: every breach is named in words. Sources: Azure/Azure-Sentinel, .script/tests/detectionTemplateSchemaValidation (limits, tactics, techniques,
entity identifiers); Microsoft Learn, create analytics rules and entity types reference. Where the two differ the stricter one counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Final

from sentinel.content.detections import Detection, span

SEVERITIES: Final = ("Informational", "Low", "Medium", "High")

REQUIRED: Final = (
    "id",
    "name",
    "description",
    "requiredDataConnectors",
    "tactics",
    "relevantTechniques",
    "query",
    "version",
)
REQUIRED_OF_RULES: Final = (
    *REQUIRED, "severity", "queryFrequency", "queryPeriod", "triggerOperator", "triggerThreshold", "kind",
)  # fmt: skip
OPTIONAL: Final = ("entityMappings",)
OPTIONAL_OF_RULES: Final = (
    *OPTIONAL, "customDetails", "alertDetailsOverride", "eventGroupingSettings", "incidentConfiguration",
)  # fmt: skip

TECHNIQUES: Final[Mapping[str, str]] = {
    "Reconnaissance": "T1589 T1590 T1591 T1592 T1593 T1594 T1595 T1596 T1597 T1598",
    "ResourceDevelopment": "T1583 T1584 T1585 T1586 T1587 T1588 T1608",
    "InitialAccess": "T1078 T1091 T1133 T1189 T1190 T1195 T1199 T1200 T1566",
    "Execution": "T1047 T1053 T1059 T1072 T1106 T1129 T1203 T1204 T1559 T1569",
    "Persistence": "T1037 T1053 T1078 T1098 T1133 T1136 T1137 T1176 T1197 T1205 T1505 T1525 T1542 T1543 T1546 T1547 T1554 T1556 T1574",
    "PrivilegeEscalation": "T1037 T1053 T1055 T1068 T1078 T1134 T1484 T1543 T1546 T1547 T1548 T1574 T1611",
    "DefenseEvasion": "T1006 T1014 T1027 T1036 T1055 T1070 T1078 T1112 T1127 T1134 T1140 T1197 T1202 T1205 T1207 T1211 T1216 T1218 T1220 T1221 T1222 T1480 "
    "T1484 T1497 T1535 T1542 T1548 T1550 T1553 T1556 T1562 T1564 T1574 T1578 T1599 T1600 T1601 T1610 T1612",
    "CredentialAccess": "T1003 T1040 T1056 T1110 T1111 T1187 T1212 T1528 T1539 T1552 T1555 T1556 T1557 T1558 T1606",
    "Discovery": "T1007 T1010 T1012 T1016 T1018 T1033 T1040 T1046 T1049 T1057 T1069 T1082 T1083 T1087 T1120 T1124 T1135 T1201 T1217 T1482 T1497 T1518 T1526 "
    "T1538 T1580",
    "LateralMovement": "T1021 T1072 T1080 T1091 T1210 T1534 T1550 T1563 T1570",
    "Collection": "T1005 T1025 T1039 T1056 T1074 T1113 T1114 T1115 T1119 T1123 T1125 T1185 T1213 T1530 T1557 T1560 T1602",
    "Exfiltration": "T1011 T1020 T1029 T1030 T1041 T1048 T1052 T1537 T1567",
    "CommandAndControl": "T1001 T1008 T1071 T1090 T1092 T1095 T1102 T1104 T1105 T1132 T1205 T1219 T1568 T1571 T1572 T1573",
    "Impact": "T1485 T1486 T1489 T1490 T1491 T1495 T1496 T1498 T1499 T1529 T1531 T1561 T1565",
}
"""Tactics of ATT&CK for enterprises, as the validators spell them, and the techniques that belong to each."""

IDENTIFIERS: Final[Mapping[str, tuple[str, str]]] = {
    "Account": ("Name FullName Sid AadUserId PUID ObjectGuid", "NTDomain DnsDomain UPNSuffix AadTenantId IsDomainJoined DisplayName"),
    "AzureResource": ("ResourceId", ""),
    "CloudApplication": ("AppId Name", "InstanceName"),
    "DNS": ("DomainName", ""),
    "Host": ("FullName HostName NetBiosName AzureID OMSAgentID", "DnsDomain NTDomain OSFamily OSVersion IsDomainJoined"),
    "IP": ("Address", ""),
    "URL": ("Url", ""),
}  # fmt: skip
"""Entity types that content about assets maps, the identifiers of which each needs one, and those that it may have beside them."""

_GUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_PLACEHOLDER: Final = re.compile(r"\{\{(\w+)\}\}")
SHORTEST, LONGEST = timedelta(minutes=5), timedelta(days=14)
LONG, SELDOM = timedelta(days=2), timedelta(hours=1)
"""A query over so long a period may run no more often than this."""


def problems(detection: Detection, *, rule: bool) -> list[str]:
    """Everything that is wrong with what is around the query; an empty list when nothing is."""
    document = detection.document
    required, optional = (REQUIRED_OF_RULES, OPTIONAL_OF_RULES) if rule else (REQUIRED, OPTIONAL)
    missing = [f"{name} is missing" for name in required if name not in document]
    if missing:
        return missing
    found = [f"{name} is no field of it" for name in document if name not in (*required, *optional)]
    found += _head(document) + _attack(document) + _entities(document)
    if rule:
        found += _schedule(document) + _details(document) + _overrides(document) + _grouping(document)
    return found


def repeated(detections: Iterable[Detection]) -> list[str]:
    """Ids and names that more than one of them has."""
    seen: dict[str, str] = {}
    found = []
    for one in detections:
        for what in ("id", "name"):
            value = str(one.document.get(what))
            if value in seen:
                found.append(f"{one.file} has the {what} of {seen[value]}: {value}")
            seen[value] = one.file
    return found


def named_columns(detection: Detection) -> list[tuple[str, str]]:
    """What around the query names a column, and the column."""
    document = detection.document
    found = [(f"entity {kind}.{identifier}", column) for kind, identifier, column in detection.mapped_columns]
    found += [(f"custom detail {key}", column) for key, column in document.get("customDetails", {}).items()]
    for key, value in document.get("alertDetailsOverride", {}).items():
        columns = [value] if key.endswith("ColumnName") else _PLACEHOLDER.findall(value)
        found += [(key, column) for column in columns]
    return found


def _head(document: Mapping[str, Any]) -> list[str]:
    name, description, query = (str(document[key]) for key in ("name", "description", "query"))
    sentences = description.strip()
    rules = {
        "id is no GUID in lower case": _GUID.fullmatch(str(document["id"])),
        "name: 1 to 60 characters, without a full stop": 0 < len(name) <= 60 and not name.endswith("."),
        "name begins with 'CAASM - ', by which the rules' own alerts are told": name.startswith("CAASM - "),
        "description: 1 to 255 characters": 0 < len(sentences) <= 255,
        "description begins with 'Identifies' or 'This query searches for', and ends with a full stop": sentences.startswith(
            ("Identifies ", "This query searches for ")
        )
        and sentences.endswith("."),
        "query: 1 to 10,000 characters": 0 < len(query) <= 10_000,
        "version is not three numbers": re.fullmatch(r"\d+\.\d+\.\d+", str(document["version"])),
        "version comes last (in a rule before kind)": [key for key in document if key != "kind"][-1] == "version",
        "only ASCII": all(text.isascii() for text in (name, description, query)),
        "requiredDataConnectors is no list": isinstance(document["requiredDataConnectors"], list),
    }
    return [words for words, kept in rules.items() if not kept]


def _attack(document: Mapping[str, Any]) -> list[str]:
    tactics, techniques = document["tactics"], document["relevantTechniques"]
    found = [f"{tactic!r} is no tactic" for tactic in tactics if tactic not in TECHNIQUES]
    known = {one: TECHNIQUES[one].split() for one in tactics if one in TECHNIQUES}
    every = {technique for texts in TECHNIQUES.values() for technique in texts.split()}
    found += [f"{technique!r} is no technique" for technique in techniques if technique not in every]
    found += [
        f"{technique} belongs to none of the tactics"
        for technique in techniques
        if technique in every and not any(technique in below for below in known.values())
    ]
    return found + [f"no technique of {tactic}" for tactic, below in known.items() if not set(below) & set(techniques)]


def _entities(document: Mapping[str, Any]) -> list[str]:
    mappings = document.get("entityMappings", [])
    found = [] if 1 <= len(mappings) <= 5 else [f"{len(mappings)} entity mappings, 1 to 5 can be"]
    for mapping in mappings:
        kind, fields = mapping["entityType"], [field["identifier"] for field in mapping["fieldMappings"]]
        if kind not in IDENTIFIERS:
            found.append(f"{kind!r} is no entity type that content about assets maps")
            continue
        strong, beside = (set(texts.split()) for texts in IDENTIFIERS[kind])
        found += [f"{kind} has no identifier {name!r}" for name in fields if name not in strong | beside]
        if not strong & set(fields):
            found.append(f"{kind} needs one of {', '.join(sorted(strong))}")
        if not 1 <= len(fields) <= 3 or len(fields) != len(set(fields)):
            found.append(f"{kind}: 1 to 3 identifiers, each once")
    return found


def _schedule(document: Mapping[str, Any]) -> list[str]:
    found = []
    if document["severity"] not in SEVERITIES:
        found.append(f"{document['severity']!r} is no severity: {', '.join(SEVERITIES)}")
    if document["kind"] != "Scheduled":
        found.append(f"kind {document['kind']!r}: only Scheduled is made here")
    if document["triggerOperator"] not in ("gt", "lt", "eq", "ne"):
        found.append(f"{document['triggerOperator']!r} is no trigger operator: gt, lt, eq, ne")
    threshold = document["triggerThreshold"]
    if type(threshold) is not int or not 0 <= threshold <= 10_000:
        found.append(f"triggerThreshold {threshold!r}: a whole number up to 10,000")
    try:
        frequency, period = (span(str(document[name])) for name in ("queryFrequency", "queryPeriod"))
    except ValueError as error:
        return [*found, str(error)]
    for name, value in (("queryFrequency", frequency), ("queryPeriod", period)):
        if not SHORTEST <= value <= LONGEST:
            found.append(f"{name} {document[name]}: from 5 minutes to 14 days")
    if period < frequency:
        found.append(
            f"queryPeriod {document['queryPeriod']} is shorter than queryFrequency {document['queryFrequency']}"
        )
    if period >= LONG and frequency < SELDOM:
        found.append("queryFrequency: at least an hour where queryPeriod is two days or more")
    return found


def _details(document: Mapping[str, Any]) -> list[str]:
    details = document.get("customDetails", {})
    found = [] if len(details) <= 20 else [f"{len(details)} custom details, at most 20"]
    return found + [f"custom detail {key!r}: at most 20 characters" for key in details if len(key) > 20]


_OVERRIDES: Final = {
    "alertDisplayNameFormat": 256,
    "alertDescriptionFormat": 5_000,
    "alertSeverityColumnName": 500,
    "alertTacticsColumnName": 500,
}


def _overrides(document: Mapping[str, Any]) -> list[str]:
    found = []
    for key, value in document.get("alertDetailsOverride", {}).items():
        if key not in _OVERRIDES:
            found.append(f"alertDetailsOverride has no {key!r}")
        elif len(value) > _OVERRIDES[key]:
            found.append(f"{key}: at most {_OVERRIDES[key]} characters")
        elif key.endswith("Format") and len(_PLACEHOLDER.findall(value)) > 3:
            found.append(f"{key}: at most three columns")
        elif key == "alertDisplayNameFormat" and not value.startswith("CAASM - "):
            found.append(f"{key} begins with 'CAASM - ', by which the rules' own alerts are told")
    return found


def _grouping(document: Mapping[str, Any]) -> list[str]:
    found = []
    events = document.get("eventGroupingSettings", {})
    if events.get("aggregationKind", "SingleAlert") not in ("SingleAlert", "AlertPerResult"):
        found.append("eventGroupingSettings: SingleAlert or AlertPerResult")
    grouping = document.get("incidentConfiguration", {}).get("groupingConfiguration")
    if grouping is not None:
        if grouping["matchingMethod"] not in ("AllEntities", "AnyAlert", "Selected"):
            found.append(f"{grouping['matchingMethod']!r} is no matching method")
        if not SHORTEST <= span(grouping["lookbackDuration"]) <= timedelta(days=7):
            found.append("lookbackDuration: from 5 minutes to 7 days")
    return found
