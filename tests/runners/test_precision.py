"""A run's precision: whose measurement counts, and that a store keeps it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import ray

from hyfree_ray.config.experiment import Runtime
from hyfree_ray.core import precision
from hyfree_ray.core.precision import CHANNELS, PRECISION_FILE, CpuSpeed
from hyfree_ray.runners import ray_cluster
from hyfree_ray.runners.resolve import SimulationOptions, resolve_simulation
from hyfree_ray.runners.run import open_stores, plan_run
from hyfree_ray.scheduling.resources import Execution
from tests.core.test_precision import XEON, ZEN

OPTIONS = SimulationOptions(sites=2, budget="smoke", generator="flow")


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[[CpuSpeed], None]:
    """Pretends that this process runs on a machine."""
    return lambda machine: monkeypatch.setattr(precision, "measure_cpu", lambda: machine)


def runtime(store: Path, address: str = "off") -> Runtime:
    return Runtime(store=store, ray=address, device="cpu")


def test_a_run_keeps_its_precision_and_its_keys_on_another_machine(
    tmp_path: Path, on: Callable[[CpuSpeed], None]
) -> None:
    where = runtime(tmp_path / "store")
    on(ZEN)
    first = resolve_simulation(OPTIONS, where)
    assert first.experiment.precision == "bf16"
    assert not where.store.exists()
    open_stores(plan_run(pickle.loads(pickle.dumps(first)), where, Execution()))
    on(XEON)
    again = resolve_simulation(OPTIONS, where)
    assert (again.key, again.reasons) == (first.key, first.reasons)
    assert again.measured is None
    elsewhere = resolve_simulation(OPTIONS, runtime(tmp_path / "another"))
    assert elsewhere.experiment.precision == "fp32"
    assert elsewhere.key != first.key


def test_nothing_is_measured_or_kept_where_the_precision_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured() -> CpuSpeed:
        raise AssertionError("it was measured")

    monkeypatch.setattr(precision, "measure_cpu", measured)
    where = runtime(tmp_path / "store")
    named = SimulationOptions(sites=2, budget="smoke", generator="flow", precision="bf16")
    found = resolve_simulation(named, where)
    assert found.experiment.precision == "bf16"
    open_stores(plan_run(found, where, Execution()))
    assert not (where.store / PRECISION_FILE).exists()


def test_on_a_cluster_the_machines_that_train_are_measured_and_all_of_them_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on: Callable[[CpuSpeed], None]
) -> None:
    on(ZEN)  # where the command is given
    for machines, expected in (((ZEN, ZEN), "bf16"), ((ZEN, XEON), "fp32")):
        monkeypatch.setattr(ray_cluster, "measure_machines", lambda found=machines: found)
        found = resolve_simulation(OPTIONS, runtime(tmp_path / expected, "head:6379"))
        assert found.experiment.precision == expected
        assert found.measured is not None
        assert found.measured.machines == machines


@pytest.mark.usefixtures("cluster")
def test_each_machine_of_a_cluster_measures_itself() -> None:
    (found,) = ray_cluster.measure_machines()
    assert found.problem == ""
    assert [one.channels for one in found.convolutions] == list(CHANNELS)
    assert ray_cluster.measure_machines() == (found,)  # once a process


@pytest.mark.usefixtures("cluster")
def test_a_machine_that_is_lost_while_it_is_measured_leaves_fp32() -> None:
    assert len(ray.nodes()) == 1
    (found,) = ray_cluster._measure_machines(frozenset({"0" * 56}))
    assert found.problem
    assert precision.PrecisionChoice.of([found]).precision == "fp32"
