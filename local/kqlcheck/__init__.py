"""Semantic checks of KQL with Microsoft's own Kusto language service: `check(queries) -> findings`, one Node process for all of them.

Invariant: no finding means that the service found every table, column and function, that the types agree, and that every column of the result has a type.
Names are resolved against the generated schema (infra/generated/kql-schema.json), the functions of sentinel/content, and the tables and functions of
a Sentinel workspace that content reads (workspace.json), nothing else. What a data collection rule cannot run is found by `transforms`.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

from local import node_packages
from sentinel.content import KqlFunction, functions
from sentinel.reference.resources import kql_schema

HERE: Final = Path(__file__).resolve().parent
CACHE: Final = node_packages.CACHE / "kqlcheck"
_MAIN: Final = "@kusto/language-service-next/Kusto.Language.Bridge.js"

STANDARD_COLUMNS: Final = {
    "TenantId": "string",
    "Type": "string",
    "_ResourceId": "string",
    "_SubscriptionId": "string",
    "_ItemId": "string",
    "_IsBillable": "bool",
    "_BilledSize": "real",
    "_TimeReceived": "datetime",
}
"""Columns that every table of a workspace answers to (Azure Monitor, standard columns)."""

Schema = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Query:
    """A text to check. `source`: it is a transformation, and these are its stream's columns; `parameters`: it is a function's body."""

    name: str
    text: str
    source: Mapping[str, str] | None = None
    parameters: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong where: the service's code (KS142, …) or ours (CHK…, DCR…), line and column from 1."""

    query: str
    code: str
    message: str
    line: int = 1
    column: int = 1
    severity: str = "Error"

    def __str__(self) -> str:
        return f"{self.query}:{self.line}:{self.column} {self.code} {self.message}"


@dataclass(frozen=True, slots=True)
class Analysis:
    """What a query is made of: its findings, the columns of its result with their types, and the tables, functions, tabular operators (as the language
    service calls its nodes) and comparison operators that it uses."""

    name: str
    findings: list[Finding]
    columns: dict[str, str]
    tables: list[str]
    calls: list[str]
    operators: list[str]
    symbols: list[str] = field(default_factory=list)


@cache
def contract() -> dict[str, dict[str, dict[str, str]]]:
    """The generated schema: `tables` and `streams`, each name to its columns and their KQL types."""
    schema: dict[str, dict[str, dict[str, str]]] = json.loads(kql_schema())
    return schema


@cache
def workspace() -> tuple[dict[str, dict[str, str]], list[KqlFunction]]:
    """The tables and functions that a Sentinel workspace has by itself and our content reads."""
    declared = json.loads((HERE / "workspace.json").read_text(encoding="utf-8"))
    stubs = [KqlFunction(one["name"], one["parameters"], "", one["body"]) for one in declared["functions"]]
    return declared["tables"], stubs


def check(
    queries: Iterable[Query], schema: Schema | None = None, stored: Sequence[KqlFunction] | None = None
) -> list[Finding]:
    """Everything that is wrong with the queries and with the bodies of the stored functions, in their order; an empty list when nothing is.

    `schema`: tables and their columns (default: the contract's and the workspace's); `stored`: functions (default: those of sentinel/content).
    Raises NodeError when Node or the language service cannot be had.
    """
    known = functions() if stored is None else list(stored)
    bodies = [Query(f"function {one.name}", one.body, parameters=one.parameters) for one in known]
    return [found for one in analyse([*bodies, *queries], schema, known) for found in one.findings]


def analyse(
    queries: Iterable[Query], schema: Schema | None = None, stored: Sequence[KqlFunction] | None = None
) -> list[Analysis]:
    """The analysis of each query, in their order; arguments and errors as for `check`, which also checks the functions' own bodies."""
    tables, stubs = workspace()
    given = {**tables, **(contract()["tables"] if schema is None else schema)}
    known = {one.name: one for one in (*stubs, *(functions() if stored is None else stored))}
    questions = [_asked(query) for query in queries]
    asked = {
        "tables": {name: {**STANDARD_COLUMNS, **columns} for name, columns in given.items()},
        "functions": [one._asdict() for one in known.values()],
        "queries": questions,
    }
    return [_analysis(answer, query) for answer, query in zip(_run(asked), questions, strict=True)]


def _asked(query: Query) -> dict[str, Any]:
    head = tail = ""
    without = None
    if query.parameters is not None:
        head, tail = f"let __body = ({query.parameters}) {{\n", "\n};\n"
        # A function that can be called without arguments is, so that the types of what it gives are known.
        needed = [one for one in query.parameters.split(",") if one.strip() and "=" not in one]
        tail += "print Nothing = ''" if needed else "__body()"
        without = query.name.removeprefix("function ")
    return {
        "name": query.name,
        "text": query.text,
        "head": head,
        "tail": tail,
        "source": dict(query.source) if query.source is not None else None,
        "without": without,
    }


def _analysis(answer: dict[str, Any], asked: dict[str, Any]) -> Analysis:
    name = answer["name"]
    findings = [Finding(query=name, **found) for found in answer["findings"]]
    if not asked["text"].strip():
        findings.append(Finding(name, "CHK001", "the query is empty"))
    findings += [
        Finding(name, "CHK002", f"the type of the result's column {column} cannot be determined")
        for column, kind in answer["columns"]
        if kind == "unknown"
    ]
    return Analysis(
        name,
        findings,
        dict(answer["columns"]),
        answer["tables"],
        answer["calls"],
        answer["operators"],
        answer["symbols"],
    )


def install() -> tuple[Path, Path]:
    """Node, and the language service's script, both installed when missing; raises NodeError."""
    node = node_packages.ensure_node()
    return node, node_packages.install(HERE, CACHE, _MAIN, node)


def _run(asked: dict[str, Any]) -> list[dict[str, Any]]:
    if not asked["queries"]:
        return []
    node, main = install()
    done = subprocess.run(
        [str(node), str(HERE / "kqlcheck.js"), str(main)],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    if done.returncode:
        raise node_packages.NodeError(f"the KQL check failed: {done.stderr.strip()[-800:]!r}")
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers
