"""How fast the generators train and sample, beside a direct formulation of the same algorithm.

    python benchmarks/generator.py [--quick] [--width 128] [--threads 1] [--device cuda]

Needs torch, numpy and pyarrow; in a checkout the package itself need not be installed.
The direct formulation has a weight for each sample in a grouped convolution, contiguous float32
tensors, strided depthwise filters, a loop over parameters for Adam and the average. It gives the
same numbers (checked first) and stands for what such code usually looks like. Both are timed in
turn, so that a change of the machine's speed hits both, and one thread by its CPU
seconds. On CUDA both backends are timed compiled, where that works, and eager.

N images, C channels, H, W, I in, O out.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout, not installed

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.generators import GENERATORS, SAMPLE_BATCH
from hyfree_ray.generators.adversarial import loss, ops
from hyfree_ray.generators.adversarial.plan import MIN_BATCH as BATCH_SIZE
from hyfree_ray.generators.average import Average, keep_share
from hyfree_ray.generators.cuda import COMPILE_FROM
from hyfree_ray.generators.flow import FLOW
from hyfree_ray.generators.plan import GeneratorPlan, Size
from hyfree_ray.generators.protocol import Backend, Learner, compute_of
from hyfree_ray.generators.stylegan2 import STYLEGAN2
from hyfree_ray.generators.stylegan2.plan import StyleGan2Plan
from hyfree_ray.generators.stylegan2.train import (
    BACKEND,
    LEARNING_RATE,
    StyleGan2Learner,
)
from hyfree_ray.segmenters.unet_plan import UNetPlan

WARM_UP = 2
"""Rounds that are not counted."""
LAZY = math.lcm(loss.PATH_EVERY, loss.R1_EVERY)
"""Steps after which each part of StyleGAN2's step has come up as often as it is due."""

PUBLISHED = {
    128: "StyleGAN2-ADA on one V100, 128x128: 12.8-13.7 s/kimg",
    256: "StyleGAN2-ADA on one V100, 256x256, half channels: 21.6-24.2 s/kimg",
}


def unet_of(size: Size, levels: int = 4) -> UNetPlan:
    """One channel, `levels` halvings."""
    strides = ((1, 1), *((2, 2),) * levels)
    return UNetPlan(
        patch_size=size,
        spacing=(1.0, 1.0),
        strides=strides,
        kernel_sizes=((3, 3),) * len(strides),
        features_per_stage=tuple(min(32 * 2**k, 512) for k in range(len(strides))),
        batch_size=12,
        channels=1,
        normalization_schemes=("ZScoreNormalization",),
    )


# --- the direct formulation ---------------------------------------------------------------------


def _taps(x_NCHW: Tensor, stride: Size) -> Tensor:
    rows, columns = (torch.tensor(ops.binomial(s), dtype=x_NCHW.dtype) for s in stride)
    return torch.outer(rows, columns).expand(x_NCHW.shape[1], 1, -1, -1)


def _direct_modulated(
    x_NCHW: Tensor, weight_OIHW: Tensor, style_NI: Tensor, stride: Size
) -> tuple[Tensor, Tensor]:
    count, inputs, height, width = x_NCHW.shape
    weight = weight_OIHW[None] * style_NI[:, None, :, None, None]
    weight = weight * (weight.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    kernel, outputs = weight.shape[3:], weight.shape[1]
    x_NCHW = x_NCHW.contiguous().reshape(1, count * inputs, height, width)
    if stride == (1, 1):
        padding = (kernel[0] // 2, kernel[1] // 2)
        out = F.conv2d(x_NCHW, weight.flatten(0, 1), padding=padding, groups=count)
    else:
        turned = weight.flip(3, 4).transpose(1, 2).flatten(0, 1)
        out = F.conv_transpose2d(x_NCHW, turned, stride=stride, groups=count)
        padding = tuple((4 * s - k - 3) // 2 for s, k in zip(stride, kernel, strict=True))
        taps = _taps(out, stride) * math.prod(stride)
        out = F.conv2d(out, taps, padding=padding, groups=out.shape[1])
    out = out.reshape(count, outputs, *out.shape[2:])
    return out, torch.ones(1, 1, 1, 1)


def _direct_to_image(x_NCHW: Tensor, weight_OI: Tensor, style_NI: Tensor) -> Tensor:
    count, _, height, width = x_NCHW.shape
    weight = (weight_OI * style_NI[:, None]).flatten(0, 1)[:, :, None, None]
    out = F.conv2d(x_NCHW.reshape(1, -1, height, width), weight, groups=count)
    return out.reshape(count, -1, height, width)


def _direct_blur(x_NCHW: Tensor, stride: Size, padding: Sequence[int]) -> Tensor:
    if stride == (1, 1):
        return x_NCHW
    taps = _taps(x_NCHW, stride)
    return F.conv2d(x_NCHW, taps, padding=tuple(padding), groups=x_NCHW.shape[1])


def _direct_downsample(x_NCHW: Tensor, stride: Size) -> Tensor:
    padding = (stride[0] - 1, stride[1] - 1)
    return F.conv2d(x_NCHW, _taps(x_NCHW, stride), None, stride, padding, groups=x_NCHW.shape[1])


def _direct_from_image(image_NCHW: Tensor, weight_OI: Tensor, bias_O: Tensor) -> Tensor:
    return ops.activate(F.conv2d(image_NCHW, weight_OI[:, :, None, None], bias_O))


@contextmanager
def direct_operations() -> Iterator[None]:
    """The networks' operations in their direct form."""
    with mock.patch.multiple(
        ops,
        modulated_convolution=_direct_modulated,
        to_image=_direct_to_image,
        blur=_direct_blur,
        downsample=_direct_downsample,
        from_image=_direct_from_image,
    ):
        yield


def _plain_adam(module: nn.Module, like: torch.optim.Adam) -> torch.optim.Adam:
    settings = {key: like.defaults[key] for key in ("lr", "betas", "eps")}
    return torch.optim.Adam(module.parameters(), foreach=False, fused=False, **settings)


class _PlainAverage(Average):
    @torch.no_grad()
    def update(self, images_shown: int, batch_size: int) -> None:
        share = keep_share(images_shown, batch_size)
        for name, value in self.weights.items():
            value.copy_(self._parameters[name].lerp(value, share))


class Phases:
    """The parts of a learner's step, and how often each is due in the paper's algorithm.

    There the discriminator has images drawn anew ("fakes"); ours has those of the generator's step.
    """

    def __init__(self, plan: StyleGan2Plan, *, precision: str, direct: bool) -> None:
        torch.manual_seed(0)
        self.direct = direct
        compute = compute_of("cpu", precision)
        self.learner = learner = StyleGan2Learner(plan, compute, images_shown=1)
        if direct:
            for module in (learner.generator, learner.discriminator):
                for parameter in module.parameters():
                    parameter.data = parameter.data.contiguous()
            learner._generator_adam = _plain_adam(learner.generator, learner._generator_adam)
            learner._discriminator_adam = _plain_adam(
                learner.discriminator, learner._discriminator_adam
            )
            learner._average = _PlainAverage(learner.generator)
        random = torch.Generator().manual_seed(0)
        images = torch.rand(BATCH_SIZE, plan.channels, *plan.patch_size) * 2 - 1
        self.parts: dict[str, tuple[float, Callable[[], object]]] = {
            "generator": (1.0, lambda: learner._generator_step(learner._fakes(random), random)),
            "path length": (1 / loss.PATH_EVERY, lambda: learner._path_step(images, random)),
            "fakes": (1.0, torch.no_grad()(lambda: learner._fakes(random))),
            "discriminator": (1.0, lambda: learner._discriminator_step(images, images, random)),
            "r1": (1 / loss.R1_EVERY, lambda: learner._r1_step(images, random)),
            "average": (1.0, lambda: learner._average.update(10_000, BATCH_SIZE)),
        }

    def seconds(self) -> dict[str, float]:
        """One run of each part."""
        found = {}
        for name, (_, part) in self.parts.items():
            start = _now()
            if self.direct:
                with direct_operations():
                    part()
            else:
                part()
            found[name] = _now() - start
        return found

    def iteration(self, rounds: list[dict[str, float]], *, drawn_anew: bool = True) -> float:
        """Seconds of an average iteration: each part's median, as often as it is due."""
        return sum(
            share * statistics.median(times[name] for times in rounds)
            for name, (share, _) in self.parts.items()
            if drawn_anew or name != "fakes"
        )

    def operations(self) -> float:
        """Floating-point operations of an average iteration."""
        total = 0.0
        for share, part in self.parts.values():
            with FlopCounterMode(display=False) as counter:
                part()
            total += share * counter.get_total_flops()
        return total


def _now() -> float:
    """CPU seconds with one thread, so that what else the machine does is not counted."""
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_initialized()
    return time.process_time() if alone else time.perf_counter()


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _check_equal(plan: StyleGan2Plan) -> float:
    """Largest difference between the two formulations' images, over the images' scale."""
    ours = Phases(plan, precision="fp32", direct=False).learner.generator
    latents = torch.randn(4, plan.latent_size)
    noises = [torch.randn(4, 1, *size) for size in ours.synthesis.noise_sizes]
    with torch.no_grad():
        fast = ours(latents, noises)
        with direct_operations():
            slow = ours(latents, noises)
    return float((fast - slow).abs().max() / slow.abs().max())


def _peak(dtype: torch.dtype, channels: int) -> float:
    """FLOP/s of a 3x3 convolution at 64x64, channels_last: what the machine can do at best."""
    layout = torch.channels_last
    x = torch.randn(8, channels, 64, 64, dtype=dtype).to(memory_format=layout)
    weight = torch.randn(channels, channels, 3, 3, dtype=dtype)
    weight = weight.to(memory_format=layout)
    best = math.inf
    with torch.no_grad():
        for _ in range(12):
            start = _now()
            F.conv2d(x, weight, padding=1)
            best = min(best, _now() - start)
    return 2 * 9 * channels**2 * 8 * 64 * 64 / best


def _images_per_second(sampler: Callable[[list[int]], Tensor], batch: int, count: int) -> float:
    with torch.no_grad():
        sampler(list(range(batch)))
        start = _now()
        for first in range(0, count, batch):
            sampler(list(range(first, first + batch))).cpu()
    return count / (_now() - start)


def _arrow_milliseconds(size: Size) -> float:
    """Cost of writing an image of 16 bits to an Arrow file, the disk included."""
    images = np.random.default_rng(0).integers(0, 2**16, (512, 1, *size), np.uint16)
    kind = pa.fixed_shape_tensor(pa.uint16(), images.shape[1:])
    start = time.perf_counter()
    storage = pa.FixedSizeListArray.from_arrays(pa.array(images.ravel()), images[0].size)
    table = pa.table({"image": pa.ExtensionArray.from_storage(kind, storage)})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.arrow"
        with path.open("wb") as file:
            with pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
            os.fsync(file.fileno())
    return (time.perf_counter() - start) / len(images) * 1e3


def compare(size: Size, width: int, rounds: int) -> None:
    """Print the comparison on a CPU; the last line is for scripts."""
    plan = STYLEGAN2.derive(unet_of(size), STYLEGAN2.config(max_channels=width))
    print(f"plan: {size[0]}x{size[1]}, width {width}, batch {BATCH_SIZE}, rate {LEARNING_RATE}")
    print(f"largest difference between the formulations: {_check_equal(plan):.1e}")
    variants = {
        "direct fp32": Phases(plan, precision="fp32", direct=True),
        "ours fp32": Phases(plan, precision="fp32", direct=False),
        "ours bf16": Phases(plan, precision="bf16", direct=False),
    }
    times: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    for turn in range(rounds + 1):
        for name, variant in variants.items():
            measured = variant.seconds()
            if turn:  # the first is a warm-up
                times[name].append(measured)
    iteration = {name: variant.iteration(times[name]) for name, variant in variants.items()}
    operations = variants["ours fp32"].operations()
    utilisation = {}
    for name, dtype in (("ours fp32", torch.float32), ("ours bf16", torch.bfloat16)):
        utilisation[name] = operations / iteration[name] / _peak(dtype, width)
    for name, seconds in iteration.items():
        line = f"{name}: {seconds * 1e3:.0f} ms an iteration, {seconds * 125:.1f} s/kimg, "
        line += f"{iteration['direct fp32'] / seconds:.2f}x, {operations / seconds / 1e9:.0f} GF/s"
        if name in utilisation:
            line += f", {utilisation[name]:.0%} of the convolution peak"
        print(line)
    direct, trained = iteration["direct fp32"], {}
    for name in ("ours fp32", "ours bf16"):
        trained[name] = variants[name].iteration(times[name], drawn_anew=False)
        line = f"{name}, as it is trained: {trained[name] * 1e3:.0f} ms, "
        print(line + f"{trained[name] * 125:.1f} s/kimg, {direct / trained[name]:.2f}x")
    rates = _sampling(plan, variants["ours bf16"].learner.averaged())
    _flow(size)
    print(f"arrow: {_arrow_milliseconds(size):.3f} ms an image")
    print(
        f"ratio_same={direct / iteration['ours bf16']:.2f} "
        f"ratio_default={direct / trained['ours bf16']:.2f} "
        f"ratio_fp32={direct / trained['ours fp32']:.2f} "
        f"utilisation={utilisation['ours bf16']:.2f} "
        f"sampling_ratio={rates['batches'] / rates['one by one']:.2f}"
    )


def _sampling(plan: StyleGan2Plan, weights: dict[str, Tensor]) -> dict[str, float]:
    """Images per second, printed with what batches gain over one by one, ours and the direct."""
    ours = BACKEND.sampler(plan, compute_of("cpu", "bf16"), weights)
    plain = BACKEND.sampler(plan, compute_of("cpu", "fp32"), weights)
    rates = {
        "batches": _images_per_second(ours, SAMPLE_BATCH, 64),
        "one by one": _images_per_second(ours, 1, 32),
    }
    with direct_operations():
        rates["direct"] = _images_per_second(plain, 1, 32)
    line = f"stylegan2 sampling, images/s: {rates['batches']:.0f} in batches of {SAMPLE_BATCH}"
    for name, words in (
        ("one by one", "one by one, ours in bf16 as the batches are"),
        ("direct", "one by one in the direct form, fp32"),
    ):
        line += f"; {rates[name]:.0f} {words} ({rates['batches'] / rates[name]:.2f}x)"
    print(line)
    return rates


def _pace(learner: Learner, images_NCHW: Tensor, rounds: int, steps: int) -> float:
    """Seconds a step: the median of so many rounds, each of so many steps without a wait."""
    random, seconds = torch.Generator(images_NCHW.device).manual_seed(0), []
    for first in range(0, (rounds + WARM_UP) * steps, steps):
        _synchronise(images_NCHW.device)
        start = _now()
        for step in range(first, first + steps):
            learner.step(images_NCHW, step, random)
        _synchronise(images_NCHW.device)
        seconds.append((_now() - start) / steps)
    return statistics.median(seconds[WARM_UP:])


def _batch(learner: Learner, plan: GeneratorPlan, device: torch.device) -> Tensor:
    images = torch.rand(learner.batch_size, plan.channels, *plan.patch_size, device=device)
    return learner.prepare(images * 2 - 1)


def _flow(size: Size) -> None:
    plan = FLOW.derive(unet_of(size), FLOW.at("small"))
    compute, backend = compute_of("cpu", "bf16"), FLOW.load()
    learner = backend.learner(plan, compute, images_shown=10_000)
    cost = _pace(learner, _batch(learner, plan, compute.device), 10, 1) / learner.batch_size * 1e3
    rate = _images_per_second(backend.sampler(plan, compute, learner.averaged()), SAMPLE_BATCH, 64)
    print(f"flow, width 64, bf16: {cost:.1f} s/kimg, {rate:.0f} images/s")


def accelerator(device: str, rounds: int) -> None:
    """Seconds for 1000 images at full width, compiled and eager, beside published figures."""
    for side, published in PUBLISHED.items():
        print(f"{side}x{side}, one channel, bf16 ({published})")
        for generator in GENERATORS.built_in():
            config = generator.at("paper")
            plan = generator.derive(unet_of((side, side), int(math.log2(side)) - 2), config)
            name = f"{generator.name}, width {config.max_channels}"
            for compiled in (True, False):
                _accelerated(name, generator.load(), plan, device, rounds, compiled)


def _accelerated(
    name: str, backend: Backend, plan: GeneratorPlan, device: str, rounds: int, compiled: bool
) -> None:
    """Print one backend's cost; `compiled` asks for it, what was done is printed."""
    compute = compute_of(device, "bf16")
    torch.manual_seed(0)
    skipped = counters["inductor"]["cudagraph_skips"]
    learner = backend.learner(plan, compute, images_shown=COMPILE_FROM if compiled else 1)
    pace = _pace(learner, _batch(learner, plan, compute.device), rounds, LAZY)
    skipped = counters["inductor"]["cudagraph_skips"] - skipped
    how = "compiled" if learner.compiled else "eager"
    if compiled and not learner.compiled:
        how += ", for compiling FAILED (the reason is above)"
    if skipped:
        how += f", {skipped} CUDA graphs left out"
    rate = _images_per_second(backend.sampler(plan, compute, learner.averaged()), SAMPLE_BATCH, 256)
    cost = pace / learner.batch_size * 1e3
    print(f"  {name}, {how}: {cost:.2f} s/kimg, {rate:.0f} images/s sampled", flush=True)


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few repetitions: within 90 s")
    parser.add_argument("--size", type=int, nargs=2, default=(64, 64), metavar=("H", "W"))
    parser.add_argument("--width", type=int, default=128, help="StyleGAN2's channels at most")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rounds = 3 if arguments.quick else 9
    try:
        compute_of(arguments.device, "bf16")
    except HyfreeError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if arguments.device == "cpu":
        compare(tuple(arguments.size), arguments.width, rounds)
    else:
        accelerator(arguments.device, rounds)


if __name__ == "__main__":
    main()
