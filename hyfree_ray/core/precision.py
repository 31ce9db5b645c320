"""In which precision a machine's processor trains faster: measured once a store, and kept in it.

A processor's flags do not tell: with `avx512_bf16` an AMD Zen 5 convolves twice as fast in bfloat16
as in float32, an Intel Xeon of model 207 half as fast. So convolutions like those of a training are
timed in both, in a process of its own: whoever asks need not import torch.
"""

from __future__ import annotations

import functools
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.files import write_once
from hyfree_ray.core.isolation import isolated_command

if TYPE_CHECKING:
    import torch

PRECISION_FILE = "precision.json"
"""At the root of a store: the choice that holds for all that `auto` resolves there."""

MARGIN = 1.25
"""A convolution must be so many times as fast in bf16 for bf16 to be taken. About half of a
training's step is convolutions: at 1.25 the step gains a tenth, which is what measurements vary by
beside other jobs, and less would not be worth bf16's rounding."""

CHANNELS = (128, 32)
"""Of the convolutions that are timed; the one that gains least decides."""

PATIENCE_S = 60.0
"""For the measuring process with its imports, on a busy machine."""

_SIDE, _KERNEL = 64, 3
_TURNS, _SECONDS = 5, 0.3
"""Each size is timed for at least so many turns and CPU seconds: figures of a few milliseconds vary
beside other jobs, their medians by 3 %."""

_PROGRAM = "from hyfree_ray.core.precision import main; main()"


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ConvolutionSpeed(_Value):
    """A 3x3 convolution of 64x64 pixels, forwards and backwards, one thread, by its CPU seconds."""

    channels: int = Field(ge=1)
    fp32: float = Field(gt=0)
    """GFLOP/s."""
    bf16: float = Field(gt=0)
    """GFLOP/s."""


class CpuSpeed(_Value):
    """What was measured on one machine."""

    processor: str
    torch: str = ""
    """Its version."""
    convolutions: tuple[ConvolutionSpeed, ...] = ()
    problem: str = ""
    """Why nothing could be measured; empty where it could."""

    @property
    def slowest_gain(self) -> ConvolutionSpeed | None:
        """The convolution that gains least by bf16; None where nothing was measured."""
        return min(self.convolutions, key=lambda one: one.bf16 / one.fp32, default=None)

    @property
    def gain(self) -> float:
        """How many times as fast it is in bf16; 0 where nothing was measured."""
        one = self.slowest_gain
        return 0.0 if one is None else one.bf16 / one.fp32

    def __str__(self) -> str:
        one = self.slowest_gain
        if one is None:
            return f"what bf16 gains could not be measured on {self.processor}: {self.problem}"
        return (
            f"convolutions of {one.channels} channels train at {one.bf16:.0f} GF/s in bf16 and "
            f"{one.fp32:.0f} in fp32 on {self.processor}; bf16 is taken from {MARGIN}x on"
        )


class PrecisionChoice(_Value):
    """A precision, and what it was chosen by: bf16 where it wins clearly on all machines."""

    precision: Literal["fp32", "bf16"]
    machines: tuple[CpuSpeed, ...]

    @classmethod
    def of(cls, machines: Sequence[CpuSpeed]) -> PrecisionChoice:
        """Choose for machines that train one experiment; without any fp32."""
        wins = bool(machines) and all(machine.gain >= MARGIN for machine in machines)
        return cls(precision="bf16" if wins else "fp32", machines=tuple(machines))

    @property
    def reason(self) -> str:
        """Why, in one line: the machine that gains least."""
        if not self.machines:
            return "nothing was measured"
        others = f", which gains least of {len(self.machines)} machines"
        least = min(self.machines, key=lambda machine: machine.gain)
        return f"{least}{others if len(self.machines) > 1 else ''}"


@functools.cache
def measure_cpu(patience_s: float = PATIENCE_S) -> CpuSpeed:
    """Measure this machine's processor, once a process, in a process of its own.

    What goes wrong there, or takes over `patience_s` seconds, is the result's `problem`.
    """
    try:
        done = subprocess.run(
            isolated_command(_PROGRAM),
            capture_output=True,
            text=True,
            timeout=patience_s,
            check=True,
        )
        return CpuSpeed.model_validate_json(done.stdout)
    except subprocess.TimeoutExpired:
        problem = f"it took over {patience_s:g} s"
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines()
        problem = lines[-1][:200] if lines else f"the process ended with code {error.returncode}"
    except (OSError, ValidationError) as error:
        problem = f"the process did not answer ({type(error).__name__})"
    return CpuSpeed(processor=_processor(), problem=problem)


def _processor() -> str:
    """The processor's name; where the system tells none, its kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    fields = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
    if "model name" not in fields:
        return platform.processor() or platform.machine()
    family, model = fields.get("cpu family", "?"), fields.get("model", "?")
    return f"{fields['model name']} (family {family}, model {model})"


class StorePrecision:
    """The choice of a store, which is measured when it is first asked for and not yet kept.

    Args:
        store: its root.
        measure: measures the machines that will train.
    """

    def __init__(
        self, store: Path, measure: Callable[[], Sequence[CpuSpeed]] = lambda: [measure_cpu()]
    ) -> None:
        self._store, self._measure = store, measure
        self.measured: PrecisionChoice | None = None
        """What is to be kept; None where nothing was measured."""

    def __call__(self) -> PrecisionChoice:
        """Return the choice; nothing is written.

        Raises:
            HyfreeError: the store's file is damaged.
        """
        kept = read_precision(self._store)
        if kept is None:
            kept = self.measured = self.measured or PrecisionChoice.of(self._measure())
        return kept


def read_precision(store: Path) -> PrecisionChoice | None:
    """Read the choice that a store keeps; None where it keeps none.

    Raises:
        HyfreeError: its file is damaged.
    """
    file = store / PRECISION_FILE
    try:
        return PrecisionChoice.model_validate_json(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValidationError) as error:
        raise HyfreeError(
            "store.bad-precision",
            f"{file}: is not what a store keeps of its precision; remove it to have it measured "
            "again, or name the precision by --precision",
        ) from error


def keep_precision(store: Path, choice: PrecisionChoice | None) -> None:
    """Keep a choice for all that comes after; the first one stays.

    Args:
        store: the root of a store that is open.
        choice: None: nothing was measured.

    Raises:
        HyfreeError: another command has meanwhile kept another precision.
    """
    if choice is None:
        return
    write_once(store / PRECISION_FILE, choice.model_dump(mode="json"))
    kept = read_precision(store)
    if kept is not None and kept.precision != choice.precision:
        raise HyfreeError(
            "store.other-precision",
            f"{store}: another command has just measured {kept.precision} for this store; give "
            "the same command again",
        )


# --- in the measuring process ---------------------------------------------------------------------


def main() -> None:
    """Print what this machine's processor does, as JSON."""
    import torch

    torch.set_num_threads(1)
    found = tuple(_convolution_speed(channels) for channels in CHANNELS)
    speed = CpuSpeed(processor=_processor(), torch=torch.__version__, convolutions=found)
    sys.stdout.write(speed.model_dump_json())


def _convolution_speed(channels: int) -> ConvolutionSpeed:
    """Time both precisions in turn, so that what else the machine does hits both; medians."""
    import torch

    operations = {
        name: _convolution(channels, dtype)
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
    }
    seconds: dict[str, list[float]] = {name: [] for name in operations}
    for operation in operations.values():  # a warm-up
        operation()
    began = time.process_time()
    while len(seconds["bf16"]) < _TURNS or time.process_time() - began < _SECONDS:
        for name, operation in operations.items():
            start = time.process_time()
            operation()
            seconds[name].append(time.process_time() - start)
    # Backwards are two more products of the same size.
    gflop = 3 * 2 * (channels * _KERNEL * _SIDE) ** 2 / 1e9
    rates = {name: round(gflop / statistics.median(times), 1) for name, times in seconds.items()}
    return ConvolutionSpeed(channels=channels, **rates)


def _convolution(channels: int, dtype: torch.dtype) -> Callable[[], object]:
    import torch

    shapes = ((1, channels, _SIDE, _SIDE), (channels, channels, _KERNEL, _KERNEL))
    image_NCHW, weight_OIHW = (
        torch.randn(shape).to(dtype=dtype, memory_format=torch.channels_last).requires_grad_()
        for shape in shapes
    )

    def run() -> object:
        out_NCHW = torch.nn.functional.conv2d(image_NCHW, weight_OIHW, padding=_KERNEL // 2)
        slope_NCHW = torch.ones_like(out_NCHW)
        return torch.autograd.grad(out_NCHW, (image_NCHW, weight_OIHW), slope_NCHW)

    return run
