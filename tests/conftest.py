"""Shared by all tests: small cohorts on disk, and real data where they are."""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hyfree_ray.border import release_guard
from hyfree_ray.cohorts.cohort import Cohort, read_cohort
from hyfree_ray.cohorts.phantom import PHANTOM_VERSION, draw_phantom_site, phantom_cohort
from hyfree_ray.config.experiment import Experiment
from hyfree_ray.config.resolution import resolve_experiment
from hyfree_ray.core.limited_child import ChildEnd
from hyfree_ray.core.log import LOGGER
from hyfree_ray.federation.pool import PoolParty
from hyfree_ray.federation.simulation import Simulation, sites_of
from hyfree_ray.runners.local import LocalRunner
from tests.command import simulate
from tests.submissions import key_of
from tests.toy_processes import dice, program, start, undisturbed
from tests.workers import (
    pytest_cmdline_main,
    pytest_collection_modifyitems,
    pytest_xdist_make_scheduler,
)

__all__ = [
    "dice",
    "program",
    "pytest_cmdline_main",
    "pytest_collection_modifyitems",
    "pytest_xdist_make_scheduler",
    "start",
    "undisturbed",
]

REAL_DATA = Path(os.environ.get("HYFREE_DATA", Path(__file__).parents[2] / "shared" / "data"))
"""Folder with real nnU-Net raw data sets; tests that need one skip where it is absent."""


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c() -> None:
    """What a shell starts in the background ignores Ctrl-C, and so would all that tests start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    """A command that a test calls in this process sets up the log for itself."""
    logger = logging.getLogger(LOGGER)
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.fixture
def real_cohort(tmp_path: Path) -> Callable[[str], Cohort]:
    """Reads a real data set by its folder's name, or skips the test."""

    def read(name: str) -> Cohort:
        folder = REAL_DATA / name
        if not folder.is_dir():
            pytest.skip(f"{name} is not here; set HYFREE_DATA to the folder that holds it")
        return read_cohort(folder, digest_cache=tmp_path / "digests.json")

    return read


@pytest.fixture
def smoke() -> Experiment:
    """The smoke budget, in fp32 so that it is the same on every CPU."""
    experiment, _ = resolve_experiment(
        budget="smoke", generator="flow", device="cpu", overrides=["precision=fp32"]
    )
    return experiment


@pytest.fixture
def phantom_simulation(tmp_path: Path, smoke: Experiment) -> Callable[[int], Simulation]:
    """A simulation of N phantom sites at the smoke budget."""

    def make(sites: int) -> Simulation:
        cohort = phantom_cohort(sites, 0, tmp_path)
        drawn = {
            f"site-{index}": {"index": index, "seed": 0, "phantom": PHANTOM_VERSION}
            for index in range(1, sites + 1)
        }
        found = sites_of(cohort, smoke.fold, phantom=drawn)
        return Simulation(cohort=cohort.name, sites=found, experiment=smoke)

    return make


@pytest.fixture
def simulation(phantom_simulation: Callable[[int], Simulation]) -> Simulation:
    """Three phantom sites."""
    return phantom_simulation(3)


@pytest.fixture
def checked_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Releases are checked in this process: each child would import for half a second first."""

    def check(program: str, tasks: bytes, seconds: float) -> ChildEnd:
        found = [json.dumps(release_guard._verdict(task)).encode() for task in json.loads(tasks)]
        return ChildEnd(lines=found, code=0, late=False)

    monkeypatch.setattr(release_guard, "run_child", check)


@pytest.fixture
def pool(simulation: Simulation, tmp_path: Path, checked_here: None) -> PoolParty:
    """Their pool, which knows their keys."""
    party = simulation.pool_party(tmp_path / "store", LocalRunner("cpu"))
    for site in simulation.sites:
        party.workspace.trust(site, key_of(tmp_path, site).public_key().public_bytes_raw())
    return party


@pytest.fixture(scope="session")
def phantom_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantom site 2 drawn as a raw data set; whoever changes it copies it."""
    folder = tmp_path_factory.mktemp("phantom")
    draw_phantom_site(2, 0, folder)
    return folder


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An uninterrupted run of two sites without Ray: its store and what it printed."""
    store = tmp_path_factory.mktemp("whole") / "store"
    done = simulate(store, "--ray", "off")
    assert done.returncode == 0, done.stderr
    return store, done.stdout
