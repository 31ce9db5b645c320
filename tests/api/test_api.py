"""The package's own names: light to import, and the same as on the command line."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import hyfree_ray
from hyfree_ray.cli import main
from hyfree_ray.evaluation.metrics import METRICS
from tests.refusals import refuses

HEAVY = {"torch", "ray", "mlflow", "pandas", "numpy", "pydantic"}


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = f"import hyfree_ray, sys; dir(hyfree_ray); print(*sorted({HEAVY} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_every_name_is_where_the_package_says() -> None:
    for name in hyfree_ray._HOMES:
        assert getattr(hyfree_ray, name).__name__ == name
        assert name in dir(hyfree_ray)
    with pytest.raises(AttributeError, match="no attribute 'simulat'"):
        hyfree_ray.simulat  # noqa: B018


def test_arguments_are_the_commands_options_with_the_same_defaults() -> None:
    """But for those that say how it prints, and `--folds`, which is several runs."""
    arguments = inspect.signature(hyfree_ray.simulate).parameters
    options = {
        option.opts[0].removeprefix("--").replace("-", "_"): option
        for option in main.commands["simulate"].params
        if option.expose_value
    }
    printing = {"dry_run", "calibrate", "folds", "format", "log_format"}
    assert arguments.keys() == options.keys() - printing
    context = main.commands["simulate"].make_context("simulate", [])
    for name, argument in arguments.items():
        default: Any = context.params[options[name].name]
        unset = {"set": None, "store": None}  # () and what the environment says, or hyfree-store
        assert argument.default == unset.get(name, default), name


def test_it_runs_where_an_event_loop_runs_already_as_in_a_notebook(
    whole: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = whole
    monkeypatch.setenv("HYFREE_STORE", str(store))

    async def cell() -> hyfree_ray.Run:
        return hyfree_ray.simulate(budget="smoke", ray="off", precision="fp32")

    assert asyncio.run(cell()).folder == next((store / "runs").iterdir())


def test_what_is_wrong_is_refused_before_a_store_is_made(tmp_path: Path) -> None:
    store = tmp_path / "s"
    with refuses("option.out-of-range", "--sites 0"):
        hyfree_ray.simulate(sites=0, store=store, ray="off")
    with refuses("config.unknown-key", "budget.unet.epochs"):
        hyfree_ray.simulate(set={"budget.unet.epoch": 3}, store=store, ray="off")
    with refuses("data.not-found", "none"):
        hyfree_ray.simulate(data=tmp_path / "none", store=store, ray="off")
    assert not store.exists()


def test_only_records_can_be_registered_and_under_a_name_of_their_own() -> None:
    with refuses("extension.broken", "a str cannot be registered", "Generator", "Metric"):
        hyfree_ray.register("dice")
    with refuses("name.taken", "'dice'"):
        hyfree_ray.register(METRICS["dice"])
