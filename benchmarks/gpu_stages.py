"""What `gpu.py` finds out about a device, a function a stage. N images, C channels, H, W."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # a checkout, not installed

FP32_BOUND = 2e-3
"""Largest distance of the weights' changes on the device from the CPU's, over the changes' length,
after a few steps in fp32: cuDNN sums in another order, and Adam takes signs of small gradients."""
BF16_BOUND = 0.75
"""The same in bf16: rounding turns the signs of what is near zero. On a CPU: diffusion and flow
.0006 to .0008, StyleGAN2 and 3 and ProGAN .18 to .25, StyleGAN, which normalises each map, .58."""
COMPILED_BOUND = 0.5
"""Of compiled against eager code, both in bf16."""
LOSS_BOUND = 0.05
"""Of nnU-Net's loss after as many batches on the device, in its own mixed precision."""
STEPS = 6
H200_TFLOPS = 790.0
"""bf16 convolutions' peak that the floor is calculated with."""

Write = Callable[[str, Any], None]
"""Adds a finding by name to the stage's file."""


def missing(packages: Sequence[str]) -> list[str]:
    """List those of some packages that are not installed."""
    return [name for name in packages if importlib.util.find_spec(name) is None]


# --- correctness ---------------------------------------------------------------------------------


@contextlib.contextmanager
def same_random_numbers() -> Iterator[None]:
    """Draw all random numbers on the CPU, whatever device they are for, so that devices agree."""
    import torch
    from torch.overrides import TorchFunctionMode

    drawn_on_cpu: dict[int, torch.Generator] = {}

    def on_cpu(generator: torch.Generator | None) -> torch.Generator | None:
        if generator is None or generator.device.type == "cpu":
            return generator
        if id(generator) not in drawn_on_cpu:
            seeded = torch.Generator().manual_seed(generator.initial_seed())
            drawn_on_cpu[id(generator)] = seeded
        return drawn_on_cpu[id(generator)]

    makes = {torch.rand, torch.randn, torch.randint, torch.randperm}
    fills = {"uniform_", "normal_", "exponential_", "bernoulli_", "log_normal_", "random_"}

    class OnCpu(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            kwargs = dict(kwargs or {})
            if func in makes:
                device = kwargs.pop("device", None)
                kwargs["generator"] = on_cpu(kwargs.get("generator"))
                return func(*args, **kwargs).to(device or "cpu")
            if func in {torch.rand_like, torch.randn_like}:
                like = args[0]
                made = torch.rand if func is torch.rand_like else torch.randn
                generator = on_cpu(kwargs.get("generator"))
                return made(like.shape, dtype=like.dtype, generator=generator).to(like.device)
            if getattr(func, "__name__", "") in fills and args and args[0].device.type != "cpu":
                generator = on_cpu(kwargs.pop("generator", None))
                drawn = torch.empty(args[0].shape, dtype=args[0].dtype)
                getattr(drawn, func.__name__)(*args[1:], generator=generator, **kwargs)
                return args[0].copy_(drawn)
            return func(*args, **kwargs)

    with OnCpu():
        yield


def unet_of(height: int, width: int, channels: int = 1) -> Any:
    """A U-Net's plan that halves until eight pixels are left."""
    from hyfree_ray.segmenters.unet_plan import UNetPlan

    levels = int(math.log2(min(height, width))) - 2
    strides = ((1, 1), *((2, 2),) * levels)
    return UNetPlan(
        patch_size=(height, width),
        spacing=(1.0, 1.0),
        strides=strides,
        kernel_sizes=((3, 3),) * len(strides),
        features_per_stage=tuple(min(32 * 2**k, 512) for k in range(len(strides))),
        batch_size=12,
        channels=channels,
        normalization_schemes=("ZScoreNormalization",) * channels,
    )


def moved(
    generator: Any, device: str, precision: str, *, compiled: bool = False
) -> tuple[Any, bool]:
    """How far a few steps move a generator's weights, as one vector on the CPU in fp32, and whether
    its learner ran compiled code."""
    import torch

    from hyfree_ray.generators.cuda import COMPILE_FROM
    from hyfree_ray.generators.protocol import compute_of

    plan = generator.derive(unet_of(48, 32, channels=2), generator.at("small"))
    torch.manual_seed(0)
    with torch.compiler.set_stance("default" if compiled else "force_eager"):
        # As long in both cases: a rate may follow the length.
        compute = compute_of(device, precision)
        learner = generator.load().learner(plan, compute, images_shown=COMPILE_FROM)
        before = _vector(learner.averaged())
        numbers = torch.Generator().manual_seed(1)
        images = torch.rand(learner.batch_size, 2, 48, 32, generator=numbers) * 2 - 1
        images = learner.prepare(images.to(device))
        random = torch.Generator(device).manual_seed(2)
        with same_random_numbers():
            for step in range(STEPS):
                learner.step(images, step, random)
    return _vector(learner.averaged()) - before, learner.compiled and compiled


def _vector(weights: dict[str, Any]) -> Any:
    import torch

    return torch.cat([weights[name].detach().float().cpu().flatten() for name in sorted(weights)])


def correctness(arguments: argparse.Namespace, until: float, write: Write) -> None:
    """Compare the device with the CPU, bf16 with fp32, compiled with eager, killed with whole."""
    from hyfree_ray.generators import GENERATORS

    for generator in GENERATORS.built_in():
        expected, _ = moved(generator, "cpu", "fp32")
        length = float(expected.norm())
        for precision, bound in (("fp32", FP32_BOUND), ("bf16", BF16_BOUND)):
            found, _ = moved(generator, arguments.device, precision)
            apart = float((found - expected).norm()) / length
            write(f"{generator.name} {precision}", {"apart": apart, "ok": apart <= bound})
        eager, _ = moved(generator, arguments.device, "bf16")
        faster, ran = moved(generator, arguments.device, "bf16", compiled=True)
        apart = float((faster - eager).norm() / eager.norm())
        write(
            f"{generator.name} compiled",
            {"apart": apart, "ran": ran, "ok": apart <= COMPILED_BOUND},
        )
        write(f"{generator.name} resumed", _resumed(generator, arguments.device))
        if time.monotonic() > until:
            return
    if not missing(("nnunetv2",)):
        write("nnunet", _nnunet_like_cpu(arguments.device))


class _Killed(Exception):
    """Stands for the end of a process."""


def _resumed(generator: Any, device: str) -> dict[str, Any]:
    """Kill a training at a checkpoint and go on: how far it ends from one that was not killed."""
    import numpy as np
    from safetensors.torch import load_file

    from hyfree_ray import generators

    images = np.random.default_rng(0).uniform(-1, 1, (24, 1, 48, 32)).astype(np.float32)

    def train(folder: Path, saved: Callable[[int, int], None]) -> Any:
        generators.train(
            generator.name,
            config=generator.at("smoke"),
            unet=unet_of(48, 32),
            images_NCHW=images,
            images_shown=480,
            seed=0,
            workdir=folder,
            device=device,
            precision="fp32",
            mirror=False,
            snapshots=1,
            progress=lambda *_: None,
            saved=saved,
        )
        return _vector(load_file(next((folder / "snapshots").iterdir())))

    def kill(shown: int, total: int) -> None:
        if shown >= total // 2:
            raise _Killed

    with tempfile.TemporaryDirectory() as scratch:
        whole = train(Path(scratch) / "whole", lambda *_: None)
        with contextlib.suppress(_Killed):
            train(Path(scratch) / "killed", kill)
        resumed = train(Path(scratch) / "killed", lambda *_: None)
    apart = float((resumed - whole).norm() / whole.norm())
    return {"apart": apart, "ok": apart <= FP32_BOUND}


@contextlib.contextmanager
def _trainer(device: str, *, size: int | None, batches: int) -> Iterator[Any]:
    """nnU-Net's trainer on a phantom hospital, begun. `size` asks for larger images."""
    from precision import prepared_site

    from hyfree_ray.config.budget import Budget, budget_values
    from hyfree_ray.segmenters.nnunet.data import nnunet_environment
    from hyfree_ray.segmenters.nnunet.train import ResumableTrainer, Schedule, make_trainer

    values = budget_values("small")
    if size is not None:
        values["plan"] = {**budget_values("paper")["plan"], "working_size": size}
    with tempfile.TemporaryDirectory() as scratch:
        prepared = prepared_site(Path(scratch), Budget.model_validate(values))
        with nnunet_environment(prepared, results=Path(scratch) / "results", augmenters=0):
            length = Schedule(
                epochs=10, iterations=batches, validation_iterations=1, precision="fp32"
            )
            trainer = make_trainer(
                ResumableTrainer,
                prepared,
                Path(scratch) / "model",
                schedule=length,
                seed=0,
                device=device,
                report=lambda *_: None,
            )
            trainer.on_train_start()
            trainer.network.train()
            yield trainer


def _nnunet_like_cpu(device: str) -> dict[str, Any]:
    """Losses of a few batches of nnU-Net on the device beside the CPU's."""
    losses = []
    for where in ("cpu", device):
        with _trainer(where, size=None, batches=STEPS) as trainer:
            batches = [next(trainer.dataloader_train) for _ in range(STEPS)]
            losses.append([float(trainer.train_step(batch)["loss"]) for batch in batches])
    apart = max(abs(cpu - other) for cpu, other in zip(*losses, strict=True))
    return {"apart": apart, "ok": apart <= LOSS_BOUND}


# --- speed ---------------------------------------------------------------------------------------


def speed(arguments: argparse.Namespace, until: float, write: Write) -> None:
    """Measure s/kimg and images sampled per second at full width, eager and compiled."""
    import torch
    from generator import LAZY, PUBLISHED, _images_per_second
    from torch.utils.flop_counter import FlopCounterMode

    from hyfree_ray.generators import GENERATORS, SAMPLE_BATCH
    from hyfree_ray.generators.cuda import COMPILE_FROM
    from hyfree_ray.generators.protocol import compute_of

    compute = compute_of(arguments.device, "bf16")
    sides = (16, 32) if arguments.tiny else (128, 256)
    cases = [(g, side) for side in sides for g in GENERATORS.built_in()]
    for generator, side in sorted(cases, key=lambda case: case[0].name != "stylegan2"):
        config = generator.at("smoke" if arguments.tiny else "paper")
        plan = generator.derive(unet_of(side, side), config)
        for compiled in (False, True):
            if time.monotonic() > until:
                return
            torch.manual_seed(0)
            learner = generator.load().learner(
                plan, compute, images_shown=COMPILE_FROM if compiled else 1
            )
            images = torch.rand(learner.batch_size, 1, side, side, device=compute.device) * 2 - 1
            images = learner.prepare(images)
            random = torch.Generator(compute.device).manual_seed(0)

            def steps(images=images, learner=learner, random=random) -> None:  # type: ignore[no-untyped-def]
                for step in range(LAZY):
                    learner.step(images, step, random)

            seconds = _seconds(steps, compute.device, until) / LAZY
            cost = seconds / learner.batch_size * 1e3
            found = {"s_per_kimg": cost, "compiled": learner.compiled}
            if not compiled:
                with FlopCounterMode(display=False) as counter:
                    steps()
                flops = counter.get_total_flops() / LAZY / learner.batch_size * 1e3
                found["floor_s_per_kimg"] = flops / (H200_TFLOPS * 1e12)
                sampler = generator.load().sampler(plan, compute, learner.averaged())
                found["sampled_per_s"] = _images_per_second(sampler, SAMPLE_BATCH, 256)
            if generator.name == "stylegan2" and side in PUBLISHED:
                found["published"] = PUBLISHED[side]
            write(f"{generator.name} {side} {'compiled' if compiled else 'eager'}", found)


def _seconds(work: Callable[[], None], device: Any, until: float, rounds: int = 3) -> float:
    """Seconds of one call: the median of a few, after one that is not counted."""
    import torch

    times = []
    for turn in range(rounds + 1):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if turn:
            times.append(time.perf_counter() - start)
        if times and time.monotonic() > until:
            break
    return statistics.median(times)


def epoch(arguments: argparse.Namespace, until: float, write: Write) -> None:
    """Measure an epoch of nnU-Net: 250 batches of images of 256x256, data loading apart."""
    import torch

    device = torch.device(arguments.device)
    batches = 2 if arguments.tiny else 25
    with _trainer(arguments.device, size=32 if arguments.tiny else 256, batches=batches) as trainer:
        batch = next(trainer.dataloader_train)
        loaded = _seconds(lambda: next(trainer.dataloader_train), torch.device("cpu"), until)
        step = _seconds(lambda: [trainer.train_step(batch) for _ in range(batches)], device, until)
        write(
            "nnunet 256",
            {
                "epoch_s": step / batches * 250,
                "loading_s": loaded * 250,
                "patch": list(trainer.configuration_manager.patch_size),
                "batch": trainer.batch_size,
            },
        )


# --- memory --------------------------------------------------------------------------------------


def memory(arguments: argparse.Namespace, _until: float, write: Write) -> None:
    """Measure a training's memory early, late and afterwards; two at once; one with too little."""
    import torch

    from hyfree_ray.core.device_memory import measured, share_of
    from hyfree_ray.generators import GENERATORS

    on_gpu = arguments.device.startswith("cuda")
    for generator in GENERATORS.built_in():
        peaks = _train_for_memory(generator, arguments)
        write(f"{generator.name} MiB", peaks)
    if on_gpu:
        torch.cuda.empty_cache()
        write("kept between stages MiB", torch.cuda.memory_reserved() / 2**20)
        total = measured("cuda")["device_total_mib"]
        write("share", share_of(peaks["late"], total))
    code = f"import gpu_stages; gpu_stages.train_alone({arguments.device!r}, {arguments.tiny})"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    one = [sys.executable, "-c", code]
    alone = _elapsed([subprocess.Popen(one, env=environment)])
    packed = _elapsed([subprocess.Popen(one, env=environment) for _ in range(2)])
    write("packed", {"alone_s": alone, "two_s": packed, "gain": 2 * alone / packed})
    if on_gpu:
        write("too little memory", _too_little(one, environment))


def _train_for_memory(generator: Any, arguments: argparse.Namespace) -> dict[str, float]:
    import torch

    from hyfree_ray.core.device_memory import measured, reset_peak
    from hyfree_ray.generators.protocol import compute_of

    kind = torch.device(arguments.device).type
    side = 16 if arguments.tiny else 128
    reset_peak(kind)
    plan = generator.derive(
        unet_of(side, side), generator.at("smoke" if arguments.tiny else "paper")
    )
    compute = compute_of(arguments.device, "bf16")
    learner = generator.load().learner(plan, compute, images_shown=1)
    images = torch.rand(learner.batch_size, 1, side, side, device=compute.device) * 2 - 1
    images, random = learner.prepare(images), torch.Generator(compute.device).manual_seed(0)
    peaks = {}
    for step in range(33):
        learner.step(images, step, random)
        if step in {1, 32}:
            peaks["early" if step == 1 else "late"] = measured(kind).get("device_memory_mib", 0.0)
    return peaks


def train_alone(device: str, tiny: bool) -> None:
    """Train StyleGAN2 for a moment: what `memory` starts twice at once. The environment's
    GPU_SHARE caps its memory."""
    import torch

    from hyfree_ray.generators import GENERATORS

    if share := os.environ.get("GPU_SHARE"):
        torch.cuda.set_per_process_memory_fraction(float(share))
    arguments = argparse.Namespace(device=device, tiny=tiny)
    _train_for_memory(GENERATORS["stylegan2"], arguments)


def _too_little(command: Sequence[str], environment: dict[str, str]) -> dict[str, Any]:
    """Give a training a hundredth of the memory: it has to end by name, and succeed with all."""
    capped = {**environment, "GPU_SHARE": "0.005"}
    first = subprocess.run(command, env=capped, capture_output=True, text=True, check=False)
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return {
        "named": "OutOfMemoryError" in first.stderr,
        "retried_ok": again.returncode == 0,
        "ok": first.returncode != 0 and "OutOfMemoryError" in first.stderr and not again.returncode,
    }


def _elapsed(started: Sequence[subprocess.Popen[bytes]]) -> float:
    start = time.perf_counter()
    if any(process.wait() for process in started):
        raise RuntimeError("a training beside another one broke; see above")
    return time.perf_counter() - start


# --- a release -----------------------------------------------------------------------------------


def release(arguments: argparse.Namespace, until: float, write: Write) -> None:
    """Train StyleGAN2 at full width on a hospital's radiographs for the time left; draw a sheet."""
    import numpy as np
    from PIL import Image

    from hyfree_ray import generators

    generator = generators.GENERATORS["stylegan2"]
    side = 16 if arguments.tiny else 128
    files = sorted((arguments.data / "imagesTr").glob("*.png"))[:400]
    rows = [Image.open(file).convert("L").resize((side, side)) for file in files]
    images = np.stack([np.asarray(row, np.float32) for row in rows])[:, None] / 127.5 - 1
    folder = arguments.out / "release"
    write("images", len(images))

    def saved(shown: int, _total: int) -> None:
        write("kimg", shown / 1000)
        if time.monotonic() > until - 20:
            raise _Killed

    with contextlib.suppress(_Killed):
        generators.train(
            generator.name,
            config=generator.at("smoke" if arguments.tiny else "paper"),
            unet=unet_of(side, side),
            images_NCHW=images,
            images_shown=2_000 if arguments.tiny else 2_000_000,
            seed=0,
            workdir=folder,
            device=arguments.device,
            precision="bf16",
            mirror=False,
            snapshots=64,
            progress=lambda *_: None,
            saved=saved,
        )
    snapshots = sorted((folder / "snapshots").glob("*"))
    if not snapshots:
        write("sheet", "no snapshot within the time")
        return
    drawn = generators.sample(
        folder,
        snapshots[-1].name,
        start=0,
        count=48,
        seed=0,
        device=arguments.device,
        precision="bf16",
    )
    grid = np.concatenate([batch[:, 0] for batch in drawn]).reshape(6, 8, side, side)
    sheet = grid.transpose(0, 2, 1, 3).reshape(6 * side, 8 * side)
    pixels = ((sheet.clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    Image.fromarray(pixels).save(arguments.out / "release.png")
    write("sheet", f"release.png, of {snapshots[-1].stem} images shown")
