"""The kernel's library: how it is built, when it is used, and what is said when it is not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import native
from native import build as building
from native.build import CACHE, BuildError, build, misfit, zig_at_hand

ROOT = Path(__file__).resolve().parents[2]

ANOTHER = "0" * 64

COMPILERS = [name for name in ("cc", "gcc", "clang") if shutil.which(name)]

needs_compiler = pytest.mark.skipif(not COMPILERS, reason="no C compiler on this machine")

needs_zig = pytest.mark.skipif(not zig_at_hand(), reason="zig is not at hand: `make package` fetches it")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library of the sources as they are, for this machine."""
    if not COMPILERS:
        pytest.skip("no C compiler on this machine")
    return build(tmp_path_factory.mktemp("kernel") / "kernel.so")


@pytest.fixture
def nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a compiler."""
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(building, "CACHE", tmp_path)
    if list(building._compilers()):
        pytest.skip("ziglang is installed here")


# ------------------------------------------------------------------------------------------------ whether it is used


def test_a_library_of_these_sources_is_used(library: Path) -> None:
    """And says so."""
    loaded, state = native.look(str(library))
    assert loaded is not None
    assert state == "in use"


def test_the_library_of_this_process_is_the_one_that_was_built() -> None:
    """`make test` builds it; where there is none, or it is switched off, everything else goes by the libraries' way. One that is named is to be tested."""
    loaded, state = native.loaded()
    assert loaded is native.kernel()
    assert (loaded is not None) == (state == "in use")
    named = os.environ.get(native.SWITCH, "")
    assert loaded is not None or not named or native.is_off(named), state


@pytest.mark.parametrize("switch", ["off", " OFF "])
def test_it_can_be_switched_off(switch: str) -> None:
    """By the app setting, whatever lies there."""
    assert native.look(switch) == (None, "switched off (NATIVE_KERNEL=off)")
    assert native.is_off(switch)


def test_the_setting_is_read_from_the_environment() -> None:
    """When the library is first asked for."""
    run = subprocess.run(
        [sys.executable, "-c", "import native; print(native.kernel(), native.loaded()[1])"],
        cwd=ROOT,
        env={**os.environ, native.SWITCH: "off"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == "None switched off (NATIVE_KERNEL=off)\n"


def test_a_missing_library_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what builds it."""
    monkeypatch.setattr(native, "LIBRARY", tmp_path / "kernel.so")
    assert native.look("") == (None, "not built: `python -m native.build` builds it")


@pytest.mark.parametrize("switch", ["false", "/nowhere/kernel.so"])
def test_a_setting_that_is_neither_off_nor_a_library_is_said(switch: str) -> None:
    """`NATIVE_KERNEL=false` is no way to have it."""
    assert native.look(switch) == (None, f"NATIVE_KERNEL is neither off nor a library: {switch!r}")


def test_a_library_of_other_sources_is_not_used(library: Path, tmp_path: Path) -> None:
    """It would do what these tests have not seen."""
    stale = tmp_path / "kernel.so"
    stale.write_bytes(library.read_bytes().replace(native.digest().encode(), ANOTHER.encode()))
    loaded, state = native.look(str(stale))
    assert loaded is None
    assert state.startswith("built of other sources")
    assert misfit(stale.read_bytes()) != ""


@pytest.mark.parametrize(
    "content", [b"", b"no library", b"\x7fELF\x02\x01\x01" + bytes(9)], ids=["empty", "text", "a header"]
)
def test_what_is_no_library_is_not_used(tmp_path: Path, content: bytes) -> None:
    """As one for another machine."""
    broken = tmp_path / "kernel.so"
    broken.write_bytes(content)
    loaded, state = native.look(str(broken))
    assert loaded is None
    assert state.startswith("built for another machine (OSError)")


@needs_compiler
def test_a_library_that_is_not_ours_is_not_used(tmp_path: Path) -> None:
    """It lacks the functions."""
    (tmp_path / "other.c").write_text("int other(void) { return 1; }\n")
    subprocess.run([COMPILERS[0], "-shared", "-fPIC", "other.c", "-o", "other.so"], cwd=tmp_path, check=True)
    loaded, state = native.look(str(tmp_path / "other.so"))
    assert loaded is None
    assert state.startswith("built for another machine (AttributeError)")


# ------------------------------------------------------------------------------------------------ how it is built


@needs_compiler
@pytest.mark.parametrize("compiler", COMPILERS)
def test_no_compiler_warns_of_anything(compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that are on this machine."""
    monkeypatch.setenv("CC", compiler)
    assert native.look(str(build(tmp_path / "kernel.so", flags=["-Werror"])))[1] == "in use"


@needs_compiler
def test_only_what_is_meant_to_be_called_can_be(library: Path) -> None:
    """Anything else could take the place of a function of another library."""
    if shutil.which("nm") is None or sys.platform != "linux":
        pytest.skip("needs nm, on Linux")
    listed = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    found = {line.split()[-1] for line in listed.splitlines()} - {"_init", "_fini"}
    code = "".join(path.read_text(encoding="utf-8") for path in native.sources())
    assert found == set(re.findall(r"^KERNEL_API\b[^;{(]*?(\w+)\(", code, re.MULTILINE))


@needs_compiler
def test_the_same_sources_give_the_same_bytes(library: Path, tmp_path: Path) -> None:
    """Wherever they lie and whatever the library is called."""
    assert build(tmp_path / "another.so").read_bytes() == library.read_bytes()


@pytest.mark.parametrize("compiler", ["false", "/nowhere/cc"])
def test_a_compiler_that_fails_leaves_what_there_was(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither half a library nor anything beside it."""
    monkeypatch.setenv("CC", compiler)
    out = tmp_path / "kernel.so"
    out.write_bytes(b"before")
    with pytest.raises(BuildError, match=compiler):
        build(out)
    assert out.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [out]


@needs_compiler
def test_the_next_compiler_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Mac has a cc that only says what to install."""
    monkeypatch.delenv("CC", raising=False)
    (tmp_path / "cc").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "cc").chmod(0o755)
    if not set(COMPILERS) - {"cc"}:
        pytest.skip("there is only cc")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert native.look(str(build(tmp_path / "kernel.so")))[1] == "in use"


@pytest.mark.usefixtures("nothing")
def test_without_a_compiler_it_is_said(tmp_path: Path) -> None:
    """With what to install."""
    with pytest.raises(BuildError, match=r"install one, or .*pip install ziglang"):
        build(tmp_path / "kernel.so")


@pytest.mark.usefixtures("nothing")
@pytest.mark.parametrize(("arguments", "code"), [([], 1), (["--optional"], 0)])
def test_set_up_goes_on_without_a_compiler(
    arguments: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """And says so in one line."""
    monkeypatch.setattr(sys, "argv", ["build", "--out", str(tmp_path / "kernel.so"), *arguments])
    assert building.main() == code
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert "pip install ziglang" in said


# ------------------------------------------------------------------------------------------------ for Azure


@needs_zig
def test_zig_builds_the_same_for_azure_wherever_the_sources_lie(tmp_path: Path) -> None:
    """From two copies of the tree, with nothing kept of an earlier build; Azure can use it."""
    made = []
    for name in ("one", "two"):
        place = tmp_path / name
        (place / ".caasm").mkdir(parents=True)
        shutil.copytree(native.HERE, place / "native", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        if (kept := building._kept_zig()).is_dir():
            (place / ".caasm" / kept.name).symlink_to(kept, target_is_directory=True)
        command = [sys.executable, "-m", "native.build", "--target", "linux-x86_64", "--out", "out.so"]
        subprocess.run(command, cwd=place, check=True)
        made.append((place / "out.so").read_bytes())
    assert made[0] == made[1]
    assert misfit(made[0]) == ""
    assert str(tmp_path).encode() not in made[0]


@needs_zig
def test_zig_warns_of_nothing(tmp_path: Path) -> None:
    """It is clang: another opinion than gcc's."""
    build(tmp_path / "kernel.so", "linux-x86_64", ["-Werror"])


@needs_zig
@pytest.mark.usefixtures("nothing")
def test_an_installed_zig_serves_this_machine_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no other compiler."""
    monkeypatch.setattr(building, "CACHE", CACHE)
    assert native.look(str(build(tmp_path / "kernel.so")))[1] == "in use"


ELF = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00\x3e\x00"


@pytest.mark.parametrize(
    ("library", "reason"),
    [
        (b"\xcf\xfa\xed\xfe" + bytes(60), "it is not for Linux x86_64"),
        (ELF.replace(b"\x3e", b"\xb7"), "it is not for Linux x86_64"),
        (ELF, "it is built of other sources"),
        (ELF + b"%s\0libc.so.6\0GLIBC_2.14\0GLIBC_2.2.5\0libm.so.6\0GLIBC_2.31\0", ""),
        (ELF + b"%s\0libc.so.6\0GLIBC_2.38\0GLIBC_2.4\0", "it needs a newer glibc than 2.31"),
        (ELF + b"%s\0libc.so.6\0GLIBC_ABI_DT_RELR\0", "it needs a newer glibc than 2.31"),
        (ELF + b"%s\0libc.musl-x86_64.so.1\0", "it needs libc.musl-x86_64.so.1"),
        (ELF + b"%s\0libasan.so.8\0libc.so.6\0", "it needs libasan.so.8"),
    ],
    ids=["a Mac's", "ARM", "stale", "fits", "new", "new loader", "musl", "sanitized"],
)
def test_what_azure_cannot_use_is_told(library: bytes, reason: str) -> None:
    """Before it is deployed."""
    assert misfit(library.replace(b"%s", native.digest().encode())) == reason
