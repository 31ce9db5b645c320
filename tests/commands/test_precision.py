"""What commands say of the precision, and what they leave of it in a store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from hyfree_ray.cli import main
from hyfree_ray.cohorts.phantom import draw_phantom_site
from hyfree_ray.commands.site import open_site
from hyfree_ray.core import precision
from hyfree_ray.core.precision import (
    PRECISION_FILE,
    CpuSpeed,
    PrecisionChoice,
    keep_precision,
    read_precision,
)
from hyfree_ray.core.store_root import open_root
from tests.core.test_precision import XEON, ZEN
from tests.refusals import refused


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[[CpuSpeed], None]:
    """Pretends that this process runs on a machine."""
    return lambda machine: monkeypatch.setattr(precision, "measure_cpu", lambda: machine)


def dry_run(store: Path, *options: str) -> list[str]:
    given = ["simulate", "--sites", "2", "--budget", "smoke", "--device", "cpu", "--dry-run"]
    result = CliRunner().invoke(main, [*given, "--store", str(store), *options])
    assert result.exit_code == 0, result.output
    return result.output.splitlines()


def line_of(lines: list[str]) -> str:
    """What the first lines say of the precision."""
    return next(line.strip() for line in lines[:8] if line.startswith("  precision "))


def test_a_dry_run_measures_says_so_and_keeps_nothing(
    tmp_path: Path, on: Callable[[CpuSpeed], None]
) -> None:
    on(XEON)
    lines = dry_run(tmp_path / "s")
    assert line_of(lines) == (
        "precision fp32: convolutions of 128 channels train at 93 GF/s in bf16 and 165 in fp32 on "
        "Xeon 207; bf16 is taken from 1.25x on"
    )
    assert "measured for this plan alone, as fp32" in lines[-1]
    assert not (tmp_path / "s").exists()


def test_a_dry_run_takes_what_the_store_keeps(
    tmp_path: Path, on: Callable[[CpuSpeed], None]
) -> None:
    keep_precision(open_root(tmp_path / "s"), PrecisionChoice.of([ZEN]))
    on(XEON)
    lines = dry_run(tmp_path / "s")
    assert line_of(lines).startswith(
        "precision bf16: convolutions of 32 channels train at 342 GF/s"
    )
    assert "measured" not in lines[-1]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--precision", "fp32"), "precision fp32: as requested"),
        (("--set", "precision=fp32"), "precision fp32: as requested"),
        (("--precision", "fp32", "--set", "precision=bf16"), "precision bf16: as requested"),
        (("--precision", "auto"), "precision bf16: convolutions of 32 channels"),
    ],
)
def test_the_precision_can_be_named(
    tmp_path: Path, on: Callable[[CpuSpeed], None], options: tuple[str, ...], expected: str
) -> None:
    on(ZEN)
    assert line_of(dry_run(tmp_path / "s", *options)).startswith(expected)


def test_a_damaged_choice_is_one_line_of_the_command_and_naming_one_helps(tmp_path: Path) -> None:
    (open_root(tmp_path / "s") / PRECISION_FILE).write_text("{")
    given = ["simulate", "--device", "cpu", "--dry-run", "--store", str(tmp_path / "s")]
    refused(CliRunner().invoke(main, given), "store.bad-precision", PRECISION_FILE)
    assert CliRunner().invoke(main, [*given, "--precision", "fp32"]).exit_code == 0


def test_each_hospital_of_a_federation_by_files_measures_for_its_own_store(
    tmp_path: Path, on: Callable[[CpuSpeed], None], capsys: pytest.CaptureFixture[str]
) -> None:
    draw_phantom_site(2, 0, tmp_path / "data")
    (site,) = {
        line.split(",")[1] for line in (tmp_path / "data/sites.csv").read_text().splitlines()[1:]
    }
    found = {}
    for machine in (ZEN, XEON):
        on(machine)
        store = tmp_path / machine.processor
        _, simulation, _ = open_site(
            data=tmp_path / "data",
            name=site,
            store=store,
            device="cpu",
            config=None,
            overrides=(),
            budget="smoke",
            generator="flow",
            precision=None,
        )
        kept = read_precision(store)
        assert kept is not None
        assert kept.precision == simulation.experiment.precision
        assert kept.reason in capsys.readouterr().err
        found[simulation.experiment.precision] = simulation
    assert found.keys() == {"bf16", "fp32"}
    assert found["bf16"].federation == found["fp32"].federation  # the pool takes both
