"""A processor's precision is measured, chosen with a margin, and kept by a store."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyfree_ray.core import precision
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.precision import (
    CHANNELS,
    MARGIN,
    PRECISION_FILE,
    ConvolutionSpeed,
    CpuSpeed,
    PrecisionChoice,
    StorePrecision,
    keep_precision,
    measure_cpu,
    read_precision,
)


def machine(name: str, *speeds: tuple[float, float]) -> CpuSpeed:
    """A machine by its GF/s in fp32 and bf16, wide convolutions first."""
    return CpuSpeed(
        processor=name,
        convolutions=tuple(
            ConvolutionSpeed(channels=channels, fp32=fp32, bf16=bf16)
            for channels, (fp32, bf16) in zip(CHANNELS, speeds, strict=True)
        ),
    )


ZEN = machine("Zen 5", (218.2, 436.9), (203.8, 342.3))
XEON = machine("Xeon 207", (165.0, 93.0), (150.0, 90.0))


@pytest.fixture(autouse=True)
def _measured_anew() -> Iterator[None]:
    measure_cpu.cache_clear()
    yield
    measure_cpu.cache_clear()


def test_a_processor_is_measured_in_another_process_that_alone_imports_torch() -> None:
    code = (
        "import sys\n"
        "from hyfree_ray.core.precision import measure_cpu\n"
        "print(measure_cpu().model_dump_json())\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = CpuSpeed.model_validate_json(done.stdout)
    assert found.problem == ""
    assert found.processor
    assert found.torch
    assert [one.channels for one in found.convolutions] == list(CHANNELS)


def test_bf16_is_taken_where_the_convolution_that_gains_least_wins_clearly() -> None:
    fast, slow = PrecisionChoice.of([ZEN]), PrecisionChoice.of([XEON])
    assert (fast.precision, slow.precision) == ("bf16", "fp32")
    assert "32 channels train at 342 GF/s in bf16 and 204 in fp32 on Zen 5" in fast.reason
    assert "128 channels train at 93 GF/s in bf16 and 165 in fp32 on Xeon 207" in slow.reason
    narrow = machine("m", (100.0, 200.0), (100.0, 100 * MARGIN - 1))
    assert PrecisionChoice.of([narrow]).precision == "fp32"
    just = machine("m", (100.0, 200.0), (100.0, 100 * MARGIN))
    assert PrecisionChoice.of([just]).precision == "bf16"


def test_machines_that_differ_have_the_precision_of_the_one_that_gains_least() -> None:
    choice = PrecisionChoice.of([ZEN, XEON, ZEN])
    assert choice.precision == "fp32"
    assert choice.reason.endswith(", which gains least of 3 machines")
    assert "Xeon 207" in choice.reason
    assert PrecisionChoice.of([ZEN, ZEN]).precision == "bf16"
    assert PrecisionChoice.of([]).precision == "fp32"


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        ("raise ImportError('no torch here')", "ImportError: no torch here"),
        ("import os; os.abort()", "the process ended with code -6"),
        ("print('what is no answer')", "the process did not answer (ValidationError)"),
        ("import time; time.sleep(60)", "it took over 2 s"),
    ],
)
def test_where_nothing_can_be_measured_it_is_fp32_and_the_reason_says_why(
    program: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_PROGRAM", program)
    found = measure_cpu(patience_s=2)
    assert found.problem == problem
    choice = PrecisionChoice.of([ZEN, found])
    assert choice.precision == "fp32"
    assert choice.reason.startswith(f"what bf16 gains could not be measured on {found.processor}")
    assert problem in choice.reason


def test_a_store_is_measured_once_and_nothing_is_written_before_it_is_kept(tmp_path: Path) -> None:
    measured = []

    def measure() -> list[CpuSpeed]:
        measured.append(1)
        return [ZEN]

    first = StorePrecision(tmp_path / "store", measure)
    assert first().precision == first().precision == "bf16"
    assert measured == [1]
    assert not (tmp_path / "store").exists()
    keep_precision(tmp_path / "store", first.measured)
    later = StorePrecision(tmp_path / "store", lambda: [XEON])  # as on another machine
    assert later() == first()
    assert later.measured is None
    keep_precision(tmp_path / "store", later.measured)
    assert read_precision(tmp_path / "store") == PrecisionChoice.of([ZEN])


def test_what_is_kept_holds_the_figures_and_the_processor(tmp_path: Path) -> None:
    keep_precision(tmp_path, PrecisionChoice.of([XEON]))
    kept = json.loads((tmp_path / PRECISION_FILE).read_text())
    assert kept["precision"] == "fp32"
    assert kept["machines"][0]["processor"] == "Xeon 207"
    assert kept["machines"][0]["convolutions"][0] == {"channels": 128, "fp32": 165.0, "bf16": 93.0}


def test_of_two_commands_that_measure_at_once_the_first_counts(tmp_path: Path) -> None:
    keep_precision(tmp_path, PrecisionChoice.of([ZEN]))
    again = machine("Zen 5, busier", (200.0, 400.0), (200.0, 300.0))
    keep_precision(tmp_path, PrecisionChoice.of([again]))
    assert read_precision(tmp_path) == PrecisionChoice.of([ZEN])
    with pytest.raises(HyfreeError) as caught:
        keep_precision(tmp_path, PrecisionChoice.of([XEON]))
    assert caught.value.code == "store.other-precision"
    assert read_precision(tmp_path) == PrecisionChoice.of([ZEN])


@pytest.mark.parametrize("content", ["", "[]", '{"precision": "fp8", "machines": []}', "{"])
def test_a_damaged_choice_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / PRECISION_FILE).write_text(content)
    with pytest.raises(HyfreeError) as caught:
        read_precision(tmp_path)
    assert caught.value.code == "store.bad-precision"
    assert "\n" not in str(caught.value)
