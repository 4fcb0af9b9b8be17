"""Checks of the Sentinel content: `check()` finds what is wrong with rules, hunting queries, functions and transformations.

Invariant: no finding means that Microsoft's language service takes every query against the generated schema, that each column that something around
a query names is in its result with a type that it can have there, and that no demand of the community's validators is broken (`templates`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from local.contentcheck import templates
from local.kqlcheck import Analysis, Finding, Query, Schema, analyse
from local.kqlcheck import check as check_queries
from local.kqlcheck import transforms as dcr
from sentinel.content import KqlFunction
from sentinel.content.detections import Detection, hunting, rules


def check() -> list[Finding]:
    """Everything that is wrong with what is shipped; raises NodeError where the language service cannot be had."""
    return [*check_queries([]), *dcr.check(), *examine(rules(), hunting())]


def examine(
    given_rules: Sequence[Detection],
    given_hunting: Sequence[Detection],
    schema: Schema | None = None,
    stored: Sequence[KqlFunction] | None = None,
) -> list[Finding]:
    """Everything that is wrong with these rules and hunting queries. `schema` and `stored` as for kqlcheck."""
    every = [*given_rules, *given_hunting]
    found = [
        Finding(one.file, "YML001", words)
        for group, is_rule in ((given_rules, True), (given_hunting, False))
        for one in group
        for words in templates.problems(one, rule=is_rule)
    ]
    found += [Finding("content", "YML002", words) for words in templates.repeated(every)]
    asked = [one for one in every if isinstance(one.document.get("query"), str)]
    texts = list(dict.fromkeys(one.query for one in asked))
    analyses = dict(zip(texts, analyse([Query(text, text) for text in texts], schema, stored), strict=True))
    for one in asked:
        found += [replace(finding, query=one.file) for finding in analyses[one.query].findings]
        found += _columns(one, analyses[one.query])
    return found


def _columns(detection: Detection, analysis: Analysis) -> list[Finding]:
    if not analysis.columns:
        return []  # the query itself has been found wrong
    found = []
    for who, column in templates.named_columns(detection):
        kind = analysis.columns.get(column)
        if kind is None:
            found.append(Finding(detection.file, "YML003", f"{who}: the query's result has no column {column}"))
        elif who.startswith(("entity ", "alertSeverity")) and kind != "string":
            found.append(Finding(detection.file, "YML004", f"{who}: the column {column} is {kind}, not string"))
        elif kind == "dynamic":
            found.append(Finding(detection.file, "YML004", f"{who}: the column {column} is dynamic; make a text of it"))
    return found
