"""The folder of a Ray that is started here, where the usual one does not do."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from hyfree_ray.runners import ray_folders
from hyfree_ray.runners.ray_cluster import connect
from hyfree_ray.runners.ray_folders import LONGEST_SOCKET, choose_ray_folder, keep_token
from tests.refusals import refuses


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short temporary folder, which Ray takes by default."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.delenv("RAY_TMPDIR", raising=False)
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def test_a_short_folder_is_rays_own(short: Path) -> None:
    assert choose_ray_folder() == f"{short}/ray"


def test_a_folder_too_long_for_sockets_is_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("slurm" * 12)
    long.mkdir()
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(long))
    found = choose_ray_folder()
    assert not found.startswith(str(long))
    assert len(found + ray_folders._SESSION) <= LONGEST_SOCKET


def test_a_folder_that_others_own_is_exchanged(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (short / "ray").mkdir()
    allowed = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: Path(path) != short / "ray" and allowed(path, mode)
    )
    assert choose_ray_folder() == f"{short}/ray-{os.getuid()}"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with refuses("cluster.no-folder", "RAY_TMPDIR"):
        choose_ray_folder()


def test_a_token_is_kept_in_memory_where_home_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    keep_token()
    assert "RAY_AUTH_TOKEN" not in os.environ
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    keep_token()
    assert len(os.environ.pop("RAY_AUTH_TOKEN")) == 64


def test_auto_without_a_cluster_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with refuses("cluster.unreachable"):
        connect("auto")


AS_ANYBODY = ("setpriv", "--inh-caps=-all", "--bounding-set=-all", "--ambient-caps=-all")
"""Takes root's right to write where modes forbid it."""


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["long TMPDIR", "folder of others", "home of others"])
def test_a_run_starts_a_ray_that_finds_its_folders_unfit(short: Path, fault: str) -> None:
    """Until its first stage has ended; then nothing of it is left."""
    folder = short / ("slurm" * 14 if fault == "long TMPDIR" else "t")
    home = short / "home"
    (folder / "ray").mkdir(parents=True)
    home.mkdir()
    if fault == "folder of others":
        (folder / "ray").chmod(0o555)
    if fault == "home of others":
        home.chmod(0o555)
    if os.geteuid() == 0 and not shutil.which(AS_ANYBODY[0]):
        pytest.skip("root may write everywhere, and there is no setpriv to keep it from that")
    arguments = ("simulate", "--sites", "2", "--budget", "smoke", "--ray", "local", "--store")
    call = [sys.executable, "-c", "from hyfree_ray.cli import main; main()", *arguments]
    told = short / "told"
    with told.open("w") as file:
        run = subprocess.Popen(
            [*(AS_ANYBODY if os.geteuid() == 0 else ()), *call, short / "store"],
            env={**os.environ, "TMPDIR": str(folder), "HOME": str(home)},
            stderr=file,
        )
        processes: list[psutil.Process] = []
        try:
            while "drawing images: done" not in told.read_text():
                assert run.poll() is None, told.read_text()
                time.sleep(0.2)
            processes = psutil.Process(run.pid).children(recursive=True)
            run.send_signal(signal.SIGTERM)
            assert run.wait(60) == 128 + signal.SIGTERM, told.read_text()
        finally:
            run.kill()
    assert processes
    assert psutil.wait_procs(processes, timeout=20)[1] == []
    chosen = "Ray keeps its files in" in told.read_text()
    assert chosen is (fault != "home of others")
