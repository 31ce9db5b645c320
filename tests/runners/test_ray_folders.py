"""The folder of a Ray that is started here, where the usual one does not do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hyfree_ray.runners import ray_folders
from hyfree_ray.runners.ray_cluster import connect
from hyfree_ray.runners.ray_folders import LONGEST_SOCKET, choose_ray_folder, keep_token
from tests.refusals import refuses


def test_a_short_folder_is_rays_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp")
    assert choose_ray_folder() == "/tmp/ray"


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


def test_a_folder_that_others_own_is_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp")
    allowed = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: str(path) != "/tmp/ray" and allowed(path, mode)
    )
    monkeypatch.setattr(Path, "exists", lambda path: True)
    monkeypatch.setattr(Path, "is_dir", lambda path: True)
    assert choose_ray_folder() != "/tmp/ray"
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
