"""Trials on Ray Tune: real ones, whose work is a few lines of Python."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from hyfree_ray.runners.child import ChildError
from hyfree_ray.runners.ray_tune import run_on_tune


def note(store: Path, name: str, address: str) -> None:
    """Stands for a trial's run: notes its name and where the cluster is."""
    with (store / "began").open("a") as file:
        file.write(f"{name} {address}\n")
    if name == "broken":
        raise ChildError(2, "broken: something is wrong here")


def run(store: Path, names: list[str], told: list[str], parallel: int | None = None) -> None:
    run_on_tune(
        names,
        functools.partial(note, store),
        scratch=store / "tune",
        log_file=store / "logs" / "tune.txt",
        parallel=parallel,
        report=told.append,
    )


@pytest.mark.usefixtures("cluster")
def test_each_trial_runs_once_with_the_clusters_address(tmp_path: Path) -> None:
    told: list[str] = []
    run(tmp_path, ["one", "two", "three"], told)
    assert sorted(told) == ["one", "three", "two"]
    began = [line.split() for line in (tmp_path / "began").read_text().splitlines()]
    assert sorted(name for name, _ in began) == ["one", "three", "two"]
    assert all(address.rpartition(":")[2].isdigit() for _, address in began)
    assert not (tmp_path / "tune").exists()


@pytest.mark.usefixtures("cluster")
def test_a_trial_that_fails_is_named_and_the_others_end(tmp_path: Path) -> None:
    told: list[str] = []
    with pytest.raises(ChildError, match="broken: something is wrong here") as caught:
        run(tmp_path, ["broken", "whole"], told, parallel=1)
    assert caught.value.exit_code == 2
    assert told == ["whole"]
