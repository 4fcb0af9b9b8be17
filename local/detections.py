"""Rules and hunting queries on a loaded workspace: what `python -m local rules` and `hunt` compute, without printing it.

Invariant: a query is run as it is shipped, at one moment for all of them, and a rule fires by its own operator and threshold.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from local.sentinel.foreign import ALERTS
from local.sentinel.query import Workspace
from sentinel.content.detections import Detection, hunting, rules

_OPERATORS: Final[Mapping[str, Callable[[int, int], bool]]] = {
    "gt": operator.gt,
    "lt": operator.lt,
    "eq": operator.eq,
    "ne": operator.ne,
}
_SEVERITIES: Final = ("High", "Medium", "Low", "Informational")
_PLACEHOLDER: Final = re.compile(r"\{\{(\w+)\}\}")
_READS_ALERTS: Final = re.compile(r"\b(SecurityAlert|CAASM_AlertAssets)\b")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a detection found: the columns of its result and the rows. `note`: what a reader has to know of it, or empty."""

    detection: Detection
    columns: list[str]
    rows: list[list[Any]]
    note: str = ""

    def named_rows(self) -> list[dict[str, Any]]:
        """Each row by its columns' names."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert that a rule would raise for a row: title, severity, entities (type, then identifiers with a value), custom details."""

    title: str
    severity: str
    entities: list[tuple[str, dict[str, str]]]
    details: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Whether a rule fires, and the alert of each row (with one alert for all rows they are what that would be about)."""

    answer: Answer
    fires: bool
    alerts: list[Alert]


class UnknownNameError(ValueError):
    """No hunting query of that name; the text says which there are."""


def hunt(workspace: Workspace, name: str | None = None, now: datetime | None = None) -> list[Answer]:
    """The answers of every hunting query, or of the one whose file has that name (case does not count); raises UnknownNameError."""
    known = hunting()
    chosen = [one for one in known if name is None or one.file.lower() == name.lower()]
    if not chosen:
        raise UnknownNameError(f"there is no hunting query {name!r}: {', '.join(one.file for one in known)}")
    return _ask(workspace, chosen, now)


def evaluate(workspace: Workspace, now: datetime | None = None) -> list[Evaluation]:
    """What every rule would do if it ran now."""
    return [_evaluation(answer) for answer in _ask(workspace, rules(), now)]


def _ask(workspace: Workspace, detections: list[Detection], now: datetime | None) -> list[Answer]:
    moment = now or datetime.now(UTC)
    no_alerts = workspace.query(f"{ALERTS} | take 1", now=moment).rows == []
    found = []
    for one in detections:
        answer = workspace.query(one.query, now=moment)
        note = f"{ALERTS} is empty here: `python -m local alerts` puts some in"
        shown = note if no_alerts and _READS_ALERTS.search(one.query) else ""
        found.append(Answer(one, [column.name for column in answer.columns], answer.rows, shown))
    return found


def _evaluation(answer: Answer) -> Evaluation:
    document = answer.detection.document
    fires = _OPERATORS[document["triggerOperator"]](len(answer.rows), document["triggerThreshold"])
    alerts = [_alert(answer.detection, row) for row in answer.named_rows()] if fires else []
    return Evaluation(answer, fires, sorted(alerts, key=lambda one: (_SEVERITIES.index(one.severity), one.title)))


def _alert(rule: Detection, row: Mapping[str, Any]) -> Alert:
    override = rule.document.get("alertDetailsOverride", {})
    title = override.get("alertDisplayNameFormat", rule.name)
    severity = row.get(override.get("alertSeverityColumnName", "")) or rule.document["severity"]
    return Alert(
        " ".join(_PLACEHOLDER.sub(lambda match: str(row[match[1]]), title).split()),
        str(severity),
        _entities(rule, row),
        {key: row[column] for key, column in rule.document.get("customDetails", {}).items()},
    )


def _entities(rule: Detection, row: Mapping[str, Any]) -> list[tuple[str, dict[str, str]]]:
    """As Sentinel makes them: an identifier without a value is none, and so is an entity without any."""
    found: dict[str, dict[str, str]] = {}
    for kind, identifier, column in rule.mapped_columns:
        if row[column]:
            found.setdefault(kind, {})[identifier] = str(row[column])
    return list(found.items())


def entity_text(entity: tuple[str, dict[str, str]]) -> str:
    """An entity in a line: the FQDN of a host, the address of an IP, any other's first identifier."""
    _, identifiers = entity
    if "HostName" in identifiers and "DnsDomain" in identifiers:
        return f"{identifiers['HostName']}.{identifiers['DnsDomain']}"
    return next(iter(identifiers.values()))


def as_json(evaluations: list[Evaluation]) -> list[dict[str, Any]]:
    """The evaluations as plain objects."""
    return [
        {
            "rule": evaluation.answer.detection.file,
            "name": evaluation.answer.detection.name,
            "severity": evaluation.answer.detection.document["severity"],
            "fires": evaluation.fires,
            "results": len(evaluation.answer.rows),
            "note": evaluation.answer.note,
            "alerts": [
                {
                    "title": alert.title,
                    "severity": alert.severity,
                    "entities": [{"type": kind, **identifiers} for kind, identifiers in alert.entities],
                    "details": alert.details,
                }
                for alert in evaluation.alerts
            ],
        }
        for evaluation in evaluations
    ]
