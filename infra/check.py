"""The templates, evaluated offline with bicepcheck: `python -m infra.check` holds every combination of parameters against the resource types.

Invariant: a combination is a parameter file (infra/main.parameters.json, infra/parameters/*.json), so what users copy is what is checked. Without the
checker (`../shared/tools`, or the folder that BICEPCHECK names) nothing is checked, and that is said.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent

TOOLS: Final = Path(os.environ.get("BICEPCHECK", ROOT.parent / "shared" / "tools"))
"""A folder with the package bicepcheck."""

DIRECT_KIND: Final = "Direct"
"""A kind of DCR that the service takes and the SDK's list of kinds does not have (Azure Monitor, structure of a DCR)."""


class CheckerMissingError(RuntimeError):
    """bicepcheck is not on this machine; the text says where it was looked for."""


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource that a deployment would make: its type, its evaluated body (unknown values as «…» texts), the file that declares it."""

    type: str
    body: dict[str, Any]
    file: str

    @property
    def properties(self) -> dict[str, Any]:
        """Its properties; an empty object when it has none."""
        found: dict[str, Any] = self.body.get("properties", {})
        return found


@dataclass(slots=True)
class Deployment:
    """What a template comes to with some parameters: findings in words, and the resources whose conditions hold."""

    findings: list[str]
    resources: list[Resource] = field(default_factory=list)

    def of_type(self, name: str) -> list[Resource]:
        """The resources of a type, e.g. Microsoft.Web/sites."""
        return [resource for resource in self.resources if resource.type.lower() == name.lower()]


def _bicepcheck() -> Any:
    if not (TOOLS / "bicepcheck" / "check.py").is_file():
        raise CheckerMissingError(f"bicepcheck is not at {TOOLS}: set BICEPCHECK to the folder that has it")
    if str(TOOLS) not in sys.path:
        sys.path.insert(0, str(TOOLS))
    tool = importlib.import_module("bicepcheck.check")
    # Roles are told apart by this text; the tool leaves it unknown.
    tool.FUNCS["subscriptionResourceId"] = (2, None, "string", lambda _self, *parts: "/".join(parts))
    return tool


@cache
def _types(tool: Any) -> Any:
    """The checker's resource types, with those of infra/sdk_types.json added."""
    data = json.loads((TOOLS / "bicepcheck" / "types.json").read_text())
    types: list[dict[str, Any]] = data["types"]
    for name, extra in json.loads((ROOT / "infra" / "sdk_types.json").read_text()).items():
        if name in data["resources"]:
            continue
        first = len(types)
        types += [_moved(type_, first) for type_ in extra["types"]]
        data["resources"][name] = {"body": extra["body"] + first, "scopes": None}
        kind, version = name.split("@")
        data["versions"].setdefault(kind.lower(), []).append(version)
    rule = types[data["resources"]["Microsoft.Insights/dataCollectionRules@2023-03-11"]["body"]]
    kinds = types[rule["p"]["kind"][0]]
    kinds["of"] = [*kinds["of"], len(types)]
    types.append({"k": "lit", "v": DIRECT_KIND})
    return tool.Types(data)


def _moved(type_: dict[str, Any], by: int) -> dict[str, Any]:
    """A type whose references to other types are shifted."""
    moved = dict(type_)
    if "p" in moved:
        moved["p"] = {name: [number + by, flags] for name, (number, flags) in moved["p"].items()}
    if "extra" in moved:
        moved["extra"] += by
    of = moved.get("of")
    if isinstance(of, int):
        moved["of"] = of + by
    elif isinstance(of, dict):
        moved["of"] = {value: number + by for value, number in of.items()}
    elif of is not None:
        moved["of"] = [number + by for number in of]
    return moved


def _following_conditions(tool: Any, left_out: set[int]) -> Any:
    """The checker's evaluator of one file, made to note (by identity) what a module under a false condition holds; it is still checked.

    Evaluating a module's parameters may evaluate other modules first, so the conditions of those under way are a stack.
    """
    conditions: list[bool] = []

    class Evaluator(tool.FileEval):  # type: ignore[misc]  # the tool is loaded at run time
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.absent = bool(conditions) and conditions[-1]

        def _do_module(self, node: Any) -> Any:
            absent = node.c.kind == "if" and self.ev(node.c.a, {}) is False
            conditions.append(self.absent or absent)
            try:
                return super()._do_module(node)
            finally:
                conditions.pop()

        def _check_resource(self, resource: Any, *rest: Any) -> None:
            if self.absent:
                left_out.add(id(resource))
            super()._check_resource(resource, *rest)

    return Evaluator


def evaluate(parameters: dict[str, Any], infra: Path = ROOT / "infra", file: str = "main.bicep") -> Deployment:
    """The template of a folder with these parameters. Raises CheckerMissingError."""
    tool = _bicepcheck()
    original, left_out = tool.FileEval, set[int]()
    tool.FileEval = _following_conditions(tool, left_out)
    try:
        checker = tool.Checker(_types(tool))
        checker.run(infra / file, {name: tool._wrap(value) for name, value in parameters.items()})  # noqa: SLF001 - as its own command does
    finally:
        tool.FileEval = original
    made = [
        Resource(found.type, tool.plain(found.body), found.file)
        for found in checker.resources
        if found.condition is not False and id(found) not in left_out
    ]
    return Deployment([str(finding) for finding in checker.diags], made)


def read_parameters(path: Path) -> dict[str, Any]:
    """The values of a parameter file; what azd substitutes (`${NAME=default}`) as its default, or as unknown."""
    tool = _bicepcheck()
    found = {}
    for name, entry in json.loads(path.read_text())["parameters"].items():
        value = entry["value"]
        azd = re.fullmatch(r"\$\{[A-Z0-9_]+(?:=([^}]*))?\}", value) if isinstance(value, str) else None
        if azd:
            value = tool.Unk("any", note=name) if azd[1] is None else _coerced(azd[1])
        found[name] = value
    return found


def _coerced(text: str) -> Any:
    """A text as azd hands it to a parameter that is not a string."""
    if text in ("true", "false"):
        return text == "true"
    return int(text) if text.isdigit() else text


def combinations() -> dict[str, Path]:
    """Every parameter file by its name."""
    examples = sorted((ROOT / "infra" / "parameters").glob("*.json"))
    return {"azd": ROOT / "infra" / "main.parameters.json", **{path.stem: path for path in examples}}


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def main() -> int:
    """Check every combination, its structure and our own rules; 1 when there is a finding."""
    from infra.rules import problems

    failed = False
    try:
        for name, path in combinations().items():
            deployment = evaluate(read_parameters(path))
            found = deployment.findings + problems(deployment)
            failed |= bool(found)
            _say(f"{name}: {len(deployment.resources)} resources, {len(found)} findings")
            for finding in found:
                _say(f"  {finding}")
    except CheckerMissingError as error:
        _say(f"templates not checked: {error}")
        return 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
