"""Who may import whom, what an orchestrator may not name, what is deployed, what may be in the repository."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = {
    "function_app", "memory", "settings", "contracts", "staging", "orchestrator", "activities", "sources", "transforms", "sentinel", "transport", "local", "bench",
    "tests", "infra", "doctor", "native",
}  # fmt: skip

MAY_IMPORT: dict[str, set[str]] = {
    "contracts": set(),
    "orchestrator": {"contracts", "orchestrator"},
    "sources": {"contracts", "native.pages", "sources"},
    "staging": {"contracts"},
    "native": {"native"},
    "transforms": {"native", "sentinel.tables", "transforms"},
    "sentinel": {"contracts", "native", "sentinel"},
    "activities": {"contracts", "native.pages", "sources", "staging", "transforms", "sentinel", "activities"},
    "settings": {"contracts", "sentinel.governor", "sentinel.packing", "sentinel.tables", "sources.registry"},
    "doctor": {"contracts", "native", "settings", "sources", "sentinel", "doctor"},
    "memory": set(),
    "transport": set(),
    "function_app": {
        "contracts",
        "memory",
        "native",
        "settings",
        "staging",
        "orchestrator",
        "activities",
        "doctor",
        "sources",
        "transforms",
        "sentinel",
        "transport",
    },
}
"""The table of the house style: first column the importer, then what of ours it may import."""

FORBIDDEN: dict[str, set[str]] = {
    "orchestrator": {
        "os",
        "time",
        "random",
        "uuid",
        "secrets",
        "socket",
        "asyncio",
        "threading",
        "logging",
        "pathlib",
        "urllib",
        "subprocess",
        "azure",
    },
    "transforms": {
        "os",
        "io",
        "socket",
        "urllib",
        "urllib3",
        "pathlib",
        "azure",
        "requests",
        "subprocess",
        "time",
        "random",
    },
    "activities": {"os"},
    "sources": {"os", "azure", "polars", "pyarrow"},
    "sentinel": {"os"},
    "doctor": {"os"},
}
"""What a package imports neither of the standard library nor of others (outside of TYPE_CHECKING)."""


def files(package: str) -> list[Path]:
    """The Python files of one of our packages or modules."""
    module = ROOT / f"{package}.py"
    return [module] if module.exists() else sorted((ROOT / package).rglob("*.py"))


def imports(path: Path, *, typing_too: bool = True, inside_functions: bool = True) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that a file imports, `from a import b` as a.b."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    left_out: set[ast.AST] = set()
    for node in ast.walk(tree):
        guard = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (guard and not typing_too) or (function and not inside_functions):
            left_out.update(child for child in ast.walk(node))
    for node in ast.walk(tree):
        if node in left_out:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def allowed(name: str, may: set[str]) -> bool:
    """Whether an imported name is one of `may` or below it."""
    return any(name == one or name.startswith(one + ".") for one in may)


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_what_the_table_allows(package: str) -> None:
    """On the syntax tree, imports inside of functions and for types included."""
    found = files(package)
    assert found
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in found
        for line, name in imports(path)
        if name.split(".")[0] in OURS and not allowed(name, MAY_IMPORT[package])
    ]
    assert wrong == []


def test_contracts_needs_the_standard_library_only() -> None:
    """Orchestrators import it, and nothing else may come with it."""
    assert all(name.split(".")[0] in sys.stdlib_module_names for _, name in imports(ROOT / "contracts.py"))


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_keeps_out_of_what_is_not_its_business(package: str) -> None:
    """Environment, clock, I/O."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files(package)
        for line, name in imports(path, typing_too=False)
        if name.split(".")[0] in FORBIDDEN[package]
    ]
    assert wrong == []


def test_foreign_functions_are_called_in_two_places() -> None:
    """A wrong pointer ends the worker: what calls C is in native and in memory, and nowhere else that is deployed."""
    users = {
        path.relative_to(ROOT).parts[0]
        for path in deployed()
        for _, name in imports(path)
        if name.split(".")[0] in {"ctypes", "cffi"}
    }
    assert users == {"memory.py", "native"}


def deployed() -> list[Path]:
    """Every Python file that goes to Azure."""
    return [path for package in MAY_IMPORT for path in files(package)]


def tracked() -> list[Path]:
    """Every file of the repository, also those not committed yet."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    return [path for name in listed.decode().split("\0") if name and (path := ROOT / name).is_file()]


def test_only_function_app_and_tools_read_the_environment() -> None:
    """`os.environ` and `getenv` are the composition root's. The kernel's switch is read when it is loaded, as the libraries read theirs."""
    wrong = [
        str(path.relative_to(ROOT))
        for path in deployed()
        if path != ROOT / "function_app.py"
        and path.parent != ROOT / "native"
        and re.search(r"\bos\.environ\b|\bgetenv\(", path.read_text(encoding="utf-8"))
    ]
    assert wrong == []


def test_every_module_of_ours_is_in_the_table() -> None:
    """A new package at the root has to be given its place."""
    roots = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in tracked() if path.suffix == ".py"}
    assert roots <= OURS
    assert set(MAY_IMPORT) <= roots


def test_no_test_imports_tests() -> None:
    """azure-functions-durable installs a package called tests: `from tests…` would find either."""
    paths = [path for path in tracked() if path.suffix == ".py"]
    assert paths
    assert [p for p in paths for _, name in imports(p) if name.split(".")[0] == "tests"] == []
    assert [p for p in paths if p.name == "__init__.py" and p.relative_to(ROOT).parts[0] == "tests"] == []


def test_test_files_have_names_of_their_own() -> None:
    """Under importlib mode two files of one name would hide each other in reports."""
    names = [path.name for path in tracked() if path.name.startswith("test_") and path.suffix == ".py"]
    assert len(names) == len(set(names))


def test_no_link_is_tracked() -> None:
    """A worktree's link to the environment, once merged, replaces the environment by a link to itself."""
    listed = subprocess.run(["git", "ls-files", "-s", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    assert [entry.split("\t")[1] for entry in listed.split("\0") if entry.startswith("120000 ")] == []


def test_no_file_is_larger_than_a_megabyte() -> None:
    """Recorded inventories and stores stay out."""
    assert [str(path.relative_to(ROOT)) for path in tracked() if path.stat().st_size > 1_000_000] == []


# ------------------------------------------------------------------------------------------------ orchestrators


def ruff(code: str) -> list[str]:
    """The rules that a file of that content in orchestrator/ breaks."""
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "ruff",
            "check",
            "--output-format=json",
            "--no-cache",
            "--stdin-filename",
            "orchestrator/offender.py",
            "-",
        ],
        cwd=ROOT,
        input=code,
        capture_output=True,
        text=True,
        check=False,
    )
    return [found["code"] for found in json.loads(run.stdout)]


CLEAN = '"""A module."""\n\nfrom __future__ import annotations\n\nimport json\n\nKEPT = json\n'


@pytest.mark.parametrize(
    "code",
    [
        "from datetime import UTC, datetime\n\nNOW = datetime.now(UTC)\n",
        "import datetime\n\nNOW = datetime.datetime.now(datetime.UTC)\n",
        "import time\n\nNOW = time.time()\n",
        "import random\n\nDRAWN = random\n",
        "from uuid import uuid4\n\nNEW = uuid4\n",
        "import os\n\nREAD = os\n",
        "from activities.export import export\n\nCALLED = export\n",
        "import socket\n\nS = socket\n",
    ],
)
def test_ruff_refuses_what_a_replay_cannot_bear(code: str) -> None:
    """The bans of orchestrator/ruff.toml are in force, and refuse nothing else."""
    assert "TID251" in ruff(f'"""A module."""\n\n{code}')
    assert ruff(CLEAN) == []


# ------------------------------------------------------------------------------------------------ deployment


def names(requirements: Path) -> dict[str, set[str]]:
    """Package names of a locked requirements file, and for each what asked for it."""
    found: dict[str, set[str]] = {}
    current = ""
    for line in requirements.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"^([A-Za-z0-9_.-]+)(?:\[[^]]*\])?==", line):
            current = match[1].lower().replace("_", "-")
            found.setdefault(current, set())
        elif current and line.strip().startswith("#"):
            found[current].add(line.strip("# ").removeprefix("via ").strip())
    return found


def declared(*path: str) -> set[str]:
    """The package names of a list of requirements in pyproject.toml."""
    value = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for key in path:
        value = value[key]
    return {re.split(r"[\[<>=~! ]", one, maxsplit=1)[0].lower() for one in value}


def test_requirements_are_the_declared_dependencies() -> None:
    """What requirements.txt says that we asked for is what pyproject.toml declares."""
    locked = names(ROOT / "requirements.txt")
    asked = {name for name, by in locked.items() if any("pyproject.toml" in one for one in by)}
    assert asked == declared("dependencies")


def test_declared_versions_are_the_locked_ones() -> None:
    """A pin in pyproject.toml is the version in requirements.txt."""
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8").lower()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = [one.lower() for one in project["dependencies"] if "==" in one]
    assert pins
    assert [pin for pin in pins if f"{pin}\n" not in text] == []


@pytest.mark.parametrize(
    "name",
    ["durabletask", "duckdb", "duckdb-kql", "azure-monitor-query", "rich", "hypothesis", "pytest", "mypy", "ruff"],
)
def test_what_is_local_is_not_deployed(name: str) -> None:
    """Neither the engine nor the emulator's database nor tools go to Azure."""
    assert name not in names(ROOT / "requirements.txt")
    assert name in declared("optional-dependencies", "local") | declared("optional-dependencies", "dev") | {"duckdb"}


def test_what_the_app_imports_is_declared() -> None:
    """Every third-party package that deployed code imports is a dependency of ours, not somebody else's by chance."""
    packages = {
        "azure.functions": "azure-functions",
        "azure.durable_functions": "azure-functions-durable",
        "azure.identity": "azure-identity",
        "azure.monitor.ingestion": "azure-monitor-ingestion",
        "azure.storage.blob": "azure-storage-blob",
        "azure.core": "azure-monitor-ingestion",
        "polars_hash": "polars-hash",
    }
    wrong = []
    for path in deployed():
        for line, name in imports(path):
            top = name.split(".")[0]
            if top in OURS or top in sys.stdlib_module_names:
                continue
            package = next((value for key, value in packages.items() if name.startswith(key)), top)
            if package not in declared("dependencies"):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert wrong == []


def test_host_json_is_what_the_design_relies_on() -> None:
    """Valid, extension bundle 4, activities within the function's time, finished instances replaceable, running ones not."""
    host = json.loads((ROOT / "host.json").read_text(encoding="utf-8"))
    assert host["version"] == "2.0"
    assert host["extensionBundle"]["version"].startswith("[4.")
    durable = host["extensions"]["durableTask"]
    assert durable["overridableExistingInstanceStates"] == "NonRunningStates"
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9]{2,44}", durable["hubName"])
    hours, minutes, seconds = map(int, host["functionTimeout"].split(":"))
    # The longest activity budget that settings take is 540 s.
    assert hours * 3600 + minutes * 60 + seconds >= 2 * 540
