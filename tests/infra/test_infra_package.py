"""The deployable package: what is in it, that it is all that the app needs, and that the app runs from it."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import platform
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from infra.check import ROOT
from infra.package import PackageError, build, files, host_json, ignored, rules
from local.load import run_load
from local.stack import Stack
from native.build import zig_at_hand

SMALL = {
    "FIRST_TURN_SECONDS": "0.2",
    "LONGEST_TURN_SECONDS": "2",
    "FIRST_WAIT_SECONDS": "0.05",
    "LONGEST_WAIT_SECONDS": "0.5",
}


AZURE_IS_HERE = (platform.system(), platform.machine()) == ("Linux", "x86_64")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory, kernel: str) -> Path:
    """The package, unpacked into an empty folder."""
    folder = tmp_path_factory.mktemp("package")
    with zipfile.ZipFile(build(out=folder / "build", with_kernel=kernel)) as zipped:
        zipped.extractall(folder / "app")
    return folder / "app"


def test_the_package_has_nothing_else(unpacked: Path, kernel: str) -> None:
    """The app's packages and four files beside them; nothing that is only local, a test, a measurement or a page, and no compiler."""
    assert {path.name for path in unpacked.iterdir()} == {
        "activities", "contracts.py", "doctor", "function_app.py", "host.json", "memory.py", "native", "orchestrator", "requirements.txt", "sentinel", "settings.py", "sources",
        "staging.py", "transforms", "transport.py",
    }  # fmt: skip
    inside = [path for path in unpacked.rglob("*") if path.is_file() and path.parent != unpacked]
    assert {path.suffix for path in inside if path.parent != unpacked / "native"} == {".py"}
    libraries = [] if kernel == "off" else ["kernel.so"]
    assert sorted(path.name for path in inside if path.parent == unpacked / "native") == sorted(
        [path.name for path in (ROOT / "native").glob("*.[chp]*") if path.name != "build.py"] + libraries
    )


def test_the_package_has_what_it_imports(unpacked: Path) -> None:
    """Every module of ours that a packaged file imports, wherever in the file, is packaged."""
    ours = {
        path.name.removesuffix(".py")
        for path in ROOT.iterdir()
        if path.suffix == ".py" or (path.is_dir() and any(path.glob("*.py")))
    }
    missing = []
    for path in unpacked.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for name in names:
                place = unpacked / name.replace(".", "/")
                if name.split(".")[0] in ours and not (place.with_suffix(".py").exists() or place.is_dir()):
                    missing.append(f"{path.relative_to(unpacked)} imports {name}")
    assert missing == []


def test_the_app_runs_from_the_package(unpacked: Path, tmp_path: Path, kernel: str) -> None:
    """A load of a small inventory is complete, and the app calls itself well; the process sees the package and local/, nothing else of the repository.

    Where this machine is like Azure's, the package's kernel is in use.
    """
    simulator = ["--assets", "300", "--findings", "300"]
    switch = "" if kernel != "off" and AZURE_IS_HERE else "off"
    settings = {**SMALL, "PYTHONPATH": "", "NATIVE_KERNEL": switch}
    with Stack(tmp_path, simulator, app_dir=unpacked, app_settings=settings) as stack:
        outcome = run_load(stack, "tenable", "full", lambda _: None)
        status, health = stack.call_app("GET", "/api/health")
        logged = stack.parts["app"].log.read_text()
    assert (status, health["status"]) == (200, "ok")
    (found,) = (one["seen"] for one in health["findings"] if one["id"] == "kernel.use")
    assert found == ("switched off (NATIVE_KERNEL=off)" if switch else "in use")
    assert logged.count("worker begins") == 1
    assert found in next(line for line in logged.splitlines() if "worker begins" in line)
    assert {"taskhub.answer", "dcr.role", "storage.role", "product.key"} <= {one["id"] for one in health["findings"]}
    assert (outcome.status, outcome.reasons) == ("complete", [])
    streams = outcome.manifest["streams"]
    assert [streams[name]["accepted"] for name in ("assets", "vulnerabilities")] == [300, 300]


def test_the_app_does_not_run_without_a_part(unpacked: Path, tmp_path: Path) -> None:
    """So that the test before this one would see a part that .funcignore leaves out."""
    lacking = tmp_path / "app"
    for path in unpacked.rglob("*.py"):
        if path.parent.name != "orchestrator":
            (lacking / path.relative_to(unpacked)).parent.mkdir(parents=True, exist_ok=True)
            (lacking / path.relative_to(unpacked)).write_bytes(path.read_bytes())
    (tmp_path / "local").symlink_to(ROOT / "local", target_is_directory=True)
    run = subprocess.run(
        [sys.executable, "-m", "local.durable", str(lacking)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 2
    assert "No module named 'orchestrator'" in run.stderr


def test_the_same_tree_gives_the_same_package(tmp_path: Path, kernel: str) -> None:
    """Byte for byte, so that a deployment can be compared."""
    made = [
        hashlib.sha256(build(out=tmp_path / name, with_kernel=kernel).read_bytes()).digest() for name in ("one", "two")
    ]
    assert made[0] == made[1]


def test_the_kernel_in_the_tree_is_not_packaged(tmp_path: Path) -> None:
    """It is this machine's: on a Mac, Azure could not use it."""
    (tmp_path / "native").mkdir()
    (tmp_path / ".funcignore").write_bytes((ROOT / ".funcignore").read_bytes())
    for name in ("native/kernel.so", "native/kernel.c", "native/.kernel.so.7.tmp"):
        (tmp_path / name).write_text("")
    assert files(tmp_path) == ["native/kernel.c"]


@pytest.mark.parametrize("content", [b"\xcf\xfa\xed\xfe", b""], ids=["a Mac's", "empty"])
def test_a_kernel_that_azure_cannot_use_is_not_packaged(tmp_path: Path, content: bytes) -> None:
    """Nor is a package left that was built before."""
    (tmp_path / "app.zip").write_bytes(b"before")
    (tmp_path / "kernel.so").write_bytes(content)
    with pytest.raises(PackageError, match="does not run in Azure"):
        build(out=tmp_path, with_kernel=str(tmp_path / "kernel.so"))
    assert not (tmp_path / "app.zip").exists()


def test_a_package_is_without_a_kernel_only_when_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where zig cannot be had it is refused, with the ways out."""
    monkeypatch.setattr("native.build.CACHE", tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    if zig_at_hand():
        pytest.skip("ziglang is installed here")
    with pytest.raises(PackageError, match=r"(?s)ziglang.* could not be fetched.*--kernel FILE.*--kernel off"):
        build(out=tmp_path / "build")
    with zipfile.ZipFile(build(out=tmp_path / "build", with_kernel="off")) as zipped:
        assert "native/kernel.so" not in zipped.namelist()


def test_host_json_is_that_of_the_provider(tmp_path: Path) -> None:
    """The scheduler's connection for the scheduler, with the same task hub; for storage the file as it is."""
    given: dict[str, Any] = json.loads((ROOT / "host.json").read_text())
    assert host_json(given, "storage") == given
    with zipfile.ZipFile(build("scheduler", out=tmp_path, with_kernel="off")) as zipped:
        made = json.loads(zipped.read("host.json"))
    task = made["extensions"]["durableTask"]
    assert task.pop("storageProvider") == {
        "type": "azureManaged",
        "connectionStringName": "DURABLE_TASK_SCHEDULER_CONNECTION_STRING",
    }
    del given["extensions"]["durableTask"]["storageProvider"]
    assert made == given
    with pytest.raises(PackageError, match="netherite"):
        host_json(given, "netherite")


@pytest.mark.parametrize(
    ("path", "folder", "out"),
    [
        (".venv", True, True),
        (".env", False, True),
        ("local", True, True),
        ("local", False, False),
        ("sources/local", True, True),
        ("sentinel/content", True, True),
        ("sources/content", True, False),
        ("local.settings.json", False, True),
        ("settings.py", False, False),
        ("orchestrator/ruff.toml", False, True),
        ("sources/x.pyc", False, True),
        ("native/build.py", False, True),
        ("native/kernel.so", False, False),
    ],
)
def test_funcignore_is_read_as_git_would(path: str, folder: bool, out: bool) -> None:
    """Names anywhere, folders only as folders, paths from the root."""
    assert ignored(path, folder=folder, patterns=rules((ROOT / ".funcignore").read_text())) is out


@pytest.mark.parametrize("line", ["!keep.py", "docs/**", "[ab].py"])
def test_a_pattern_that_is_not_understood_is_refused(line: str) -> None:
    """Not guessed at: a secret file might slip in."""
    with pytest.raises(PackageError, match="only names"):
        rules(f"docs/\n{line}\n")


def test_git_reads_funcignore_alike() -> None:
    """What git would ignore with .funcignore as its list is what is left out here."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    left_out = subprocess.run(
        ["git", "-c", "core.excludesFile=/dev/null", "ls-files", "--cached", "--others", "--ignored", "-X", ".funcignore"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    packaged = set(files())
    assert {name for name in listed if (ROOT / name).is_file()} - set(left_out) == packaged & set(listed)


@pytest.mark.skipif(
    importlib.util.find_spec("azure_functions_runtime") is None, reason="azure-functions-runtime needs Python 3.13"
)
def test_the_worker_s_own_loader_indexes_the_package(unpacked: Path) -> None:
    """On Python 3.13 and later the Functions worker indexes with this package."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from azure_functions_runtime.loader import index_function_app\n"
        "print(len(index_function_app(sys.argv[1] + '/function_app.py')))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(unpacked)],
        cwd=unpacked,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) >= 15
