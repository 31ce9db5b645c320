"""How fast the generators train and sample, beside a direct formulation of the same algorithm.

    python benchmarks/generator.py [--quick] [--width 128] [--threads 1] [--device cuda]

The direct formulation has a weight for each sample in a grouped convolution, contiguous float32
tensors, strided depthwise filters, a loop over parameters for Adam and the average. It gives the
same numbers (checked first) and stands for what such code usually looks like. Both are timed in
turn, so that a change of the machine's speed hits both, and one thread by its CPU
seconds. N images, C channels, H, W, I in, O out.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from hyfree_ray.errors import HyfreeError
from hyfree_ray.generator_plan import GeneratorPlan, Size
from hyfree_ray.generators.average import Average, keep_share
from hyfree_ray.generators.flow.train import BACKEND as FLOW
from hyfree_ray.generators.loop import compute_of
from hyfree_ray.generators.stylegan2 import loss, ops
from hyfree_ray.generators.stylegan2.train import (
    BACKEND,
    BATCH_SIZE,
    COMPILE_FROM,
    LEARNING_RATE,
    StyleGan2Learner,
)
from hyfree_ray.unet_plan import UNetPlan

PUBLISHED = {
    128: "StyleGAN2-ADA on one V100, 128x128: 12.8-13.7 s/kimg",
    256: "StyleGAN2-ADA on one V100, 256x256, half channels: 21.6-24.2 s/kimg",
}


def plan_of(size: Size, width: int, levels: int = 4) -> GeneratorPlan:
    """One channel, `levels` halvings."""
    strides = ((1, 1), *((2, 2),) * levels)
    unet = UNetPlan(
        patch_size=size,
        spacing=(1.0, 1.0),
        strides=strides,
        kernel_sizes=((3, 3),) * len(strides),
        features_per_stage=tuple(min(32 * 2**k, 512) for k in range(len(strides))),
        batch_size=12,
        channels=1,
        normalization_schemes=("ZScoreNormalization",),
    )
    return GeneratorPlan.derive(unet, max_channels=width)


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


def _direct_downsample(x_NCHW: Tensor, stride: Size) -> Tensor:
    padding = (stride[0] - 1, stride[1] - 1)
    return F.conv2d(x_NCHW, _taps(x_NCHW, stride), None, stride, padding, groups=x_NCHW.shape[1])


def _direct_from_image(image_NCHW: Tensor, weight_OI: Tensor, bias_O: Tensor) -> Tensor:
    return F.conv2d(image_NCHW, weight_OI[:, :, None, None], bias_O)


@contextmanager
def direct_operations() -> Iterator[None]:
    """The networks' operations in their direct form."""
    with mock.patch.multiple(
        ops,
        modulated_convolution=_direct_modulated,
        to_image=_direct_to_image,
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
    """The four parts of a learner's step, and how often each is due."""

    def __init__(self, plan: GeneratorPlan, *, precision: str, device: str, direct: bool) -> None:
        compute = compute_of(device, precision)
        torch.manual_seed(0)
        self.direct = direct
        # A training long enough to be compiled, where that is done.
        self.learner = learner = StyleGan2Learner(plan, compute, images_shown=COMPILE_FROM)
        if direct:
            for module in (learner.generator, learner.discriminator):
                for parameter in module.parameters():
                    parameter.data = parameter.data.contiguous()
            learner._generator_adam = _plain_adam(learner.generator, learner._generator_adam)
            learner._discriminator_adam = _plain_adam(
                learner.discriminator, learner._discriminator_adam
            )
            learner._average = _PlainAverage(learner.generator)
        self.random = torch.Generator(compute.device).manual_seed(0)
        images = torch.rand(BATCH_SIZE, plan.channels, *plan.patch_size) * 2 - 1
        self.images = images.to(compute.device)
        random = self.random
        self.parts: dict[str, tuple[float, Callable[[], object]]] = {
            "generator": (1.0, lambda: learner._generator_step(random)),
            "path length": (1 / loss.PATH_EVERY, lambda: learner._path_step(random)),
            "discriminator": (1.0, lambda: learner._discriminator_step(self.images, random)),
            "r1": (1 / loss.R1_EVERY, lambda: learner._r1_step(self.images, random)),
            "average": (1.0, lambda: learner._average.update(10_000, BATCH_SIZE)),
        }

    def seconds(self) -> dict[str, float]:
        """One run of each part."""
        found = {}
        for name, (_, part) in self.parts.items():
            _synchronise(self.images.device)
            start = _now()
            if self.direct:
                with direct_operations():
                    part()
            else:
                part()
            _synchronise(self.images.device)
            found[name] = _now() - start
        return found

    def iteration(self, rounds: list[dict[str, float]]) -> float:
        """Seconds of an average iteration: each part's median, as often as it is due."""
        return sum(
            share * statistics.median(times[name] for times in rounds)
            for name, (share, _) in self.parts.items()
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


def _check_equal(plan: GeneratorPlan) -> float:
    """Largest difference between the two formulations' images, over the images' scale."""
    ours = Phases(plan, precision="fp32", device="cpu", direct=False).learner.generator
    latents = torch.randn(4, plan.latent_size)
    noises = [torch.randn(4, 1, *size) for size in ours.synthesis.noise_sizes]
    with torch.no_grad():
        fast = ours(latents, noises)
        with direct_operations():
            slow = ours(latents, noises)
    return float((fast - slow).abs().max() / slow.abs().max())


def _peak(dtype: torch.dtype, channels: int, device: str) -> float:
    """FLOP/s of a 3x3 convolution at 64x64, channels_last: what the machine can do at best."""
    layout = torch.channels_last
    x = torch.randn(8, channels, 64, 64, device=device, dtype=dtype).to(memory_format=layout)
    weight = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
    weight = weight.to(memory_format=layout)
    best = math.inf
    with torch.no_grad():
        for _ in range(12):
            _synchronise(x.device)
            start = _now()
            F.conv2d(x, weight, padding=1)
            _synchronise(x.device)
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
    plan = plan_of(size, width)
    print(f"plan: {size[0]}x{size[1]}, width {width}, batch {BATCH_SIZE}, rate {LEARNING_RATE}")
    print(f"largest difference between the formulations: {_check_equal(plan):.1e}")
    variants = {
        "direct fp32": Phases(plan, precision="fp32", device="cpu", direct=True),
        "ours fp32": Phases(plan, precision="fp32", device="cpu", direct=False),
        "ours bf16": Phases(plan, precision="bf16", device="cpu", direct=False),
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
        utilisation[name] = operations / iteration[name] / _peak(dtype, width, "cpu")
    for name, seconds in iteration.items():
        line = f"{name}: {seconds * 1e3:.0f} ms an iteration, {seconds * 125:.1f} s/kimg, "
        line += f"{iteration['direct fp32'] / seconds:.2f}x, {operations / seconds / 1e9:.0f} GF/s"
        if name in utilisation:
            line += f", {utilisation[name]:.0%} of the convolution peak"
        print(line)
    ratio = iteration["direct fp32"] / iteration["ours bf16"]
    weights = variants["ours bf16"].learner.averaged()
    sampler = BACKEND.sampler(plan, compute_of("cpu", "bf16"), weights)
    alone, together = (_images_per_second(sampler, batch, 64) for batch in (1, 16))
    plain = BACKEND.sampler(plan, compute_of("cpu", "fp32"), weights)
    with direct_operations():
        direct = _images_per_second(plain, 1, 32)
    print(
        f"stylegan2 sampling, images/s: {together:.0f} in batches of 16, {alone:.0f} one by one, "
        f"{direct:.0f} one by one in the direct form"
    )
    _flow(size)
    print(f"arrow: {_arrow_milliseconds(size):.3f} ms an image")
    # The default schedule has all of the algorithm's passes: the two ratios are one.
    print(
        f"ratio_same={ratio:.2f} ratio_default={ratio:.2f} "
        f"utilisation={utilisation['ours bf16']:.2f} sampling_ratio={together / direct:.2f}"
    )


def _flow(size: Size) -> None:
    plan, compute = plan_of(size, 64), compute_of("cpu", "bf16")
    learner = FLOW.learner(plan, compute, images_shown=10_000)
    images = learner.prepare(torch.rand(learner.batch_size, 1, *size) * 2 - 1)
    random, seconds = torch.Generator().manual_seed(0), []
    for step in range(12):
        start = _now()
        learner.step(images, step, random)
        seconds.append(_now() - start)
    cost = statistics.median(seconds[2:]) / learner.batch_size * 1e3
    rate = _images_per_second(FLOW.sampler(plan, compute, learner.averaged()), 16, 64)
    print(f"flow, width 64, bf16: {cost:.1f} s/kimg, {rate:.0f} images/s")


def accelerator(device: str, rounds: int) -> None:
    """Seconds for 1000 images at full width, beside published figures."""
    for side, published in PUBLISHED.items():
        phases = Phases(
            plan_of((side, side), 512, levels=int(math.log2(side)) - 2),
            precision="bf16",
            device=device,
            direct=False,
        )
        times = [phases.seconds() for _ in range(rounds + 5)][5:]
        cost = phases.iteration(times) * 1e3 / BATCH_SIZE
        print(f"{side}x{side}, full width, bf16: {cost:.1f} s/kimg ({published})")


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
