"""The folder of a Ray that is started here, where the usual one does not do."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

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
