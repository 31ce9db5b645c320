"""Do 10 evaluations of the flow's solver match 25 Euler steps? And what of its training settings?

    python benchmarks/flow.py [--quick] [--phantom 1] [--kimg 9.3] [--seed 0]
    python benchmarks/flow.py --training [--quick]

A flow of the `small` budget's width and length learns a phantom site's images. The same noise is
then followed by each solver. `path error`: mean absolute distance of its images (float32) from
those of 100 steps of the midpoint rule, 200 evaluations. `Frechet` and `KID`: of samples to new
images of the site, of patients that were not trained on, in a space of coarse pixels, spectrum and
histogram; the last row is that of the training images. The last line has ours at 10 over Euler's.

`--training` trains with other learning rates, draws of the time and batch sizes at equal length.
N, M images, C channels, H, W, F features.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from generator import unet_of
from safetensors.torch import load_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout, not installed

from hyfree_ray import generators
from hyfree_ray.cohorts.phantom_anatomy import draw_patient
from hyfree_ray.cohorts.phantom_sites import site_style
from hyfree_ray.evaluation.image_quality import kid
from hyfree_ray.generators.flow import train as flow
from hyfree_ray.generators.flow.config import FlowConfig
from hyfree_ray.generators.flow.plan import derive
from hyfree_ray.generators.protocol import compute_of
from hyfree_ray.generators.view import PERCENTILES, fit_into_patch

PATCH = (56, 64)
"""What the `small` budget makes of the first site's slices."""
WIDTH = 64
TRAINING_IMAGES = 93
SLICES = 2
BATCH = 16
LEAST_SPREAD = 0.01
"""Of a feature, where images hardly differ (a margin, the darkest tenth)."""

Velocity = Callable[[Tensor, float], Tensor]
Solver = Callable[[Velocity, Tensor], Tensor]


def phantom_images(index: int, count: int, seed: int) -> np.ndarray:
    """Slices_NHW of new patients of a phantom site, in the patch, in scanner units."""
    style, random = site_style(index, 0), np.random.default_rng([index, seed])
    target = max(s * m / p for s, m, p in zip(style.spacing, style.matrix, PATCH, strict=True))
    found: list[np.ndarray] = []
    while len(found) < count:
        for image_HW, _ in draw_patient(style, random, SLICES):
            found.append(fit_into_patch(image_HW[None], style.spacing, PATCH, target)[0][0])
    return np.stack(found[:count])


def in_range(images_NHW: np.ndarray, like_NHW: np.ndarray) -> np.ndarray:
    """To [-1, 1] as the site's generator sees it: float32, NCHW."""
    low, high = np.percentile(like_NHW, PERCENTILES)
    scaled_NHW = (images_NHW - low) / (high - low) * 2 - 1
    return np.clip(scaled_NHW, -1, 1).astype(np.float32)[:, None]


# --- distances ----------------------------------------------------------------------------------


def features(images_NCHW: np.ndarray) -> np.ndarray:
    """Coarse pixels, the logarithm of the radial power spectrum, and the histogram's deciles."""
    image_NHW = images_NCHW[:, 0].astype(np.float64)
    count, height, width = image_NHW.shape
    coarse_NF = image_NHW.reshape(count, height // 8, 8, width // 8, 8).mean((2, 4))
    power_NHW = np.abs(np.fft.fft2(image_NHW)) ** 2
    radius_HW = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    ring_P = np.minimum((radius_HW * 32).astype(int), 15).ravel()
    rings_NF = np.stack(
        [power_NHW.reshape(count, -1)[:, ring_P == ring].mean(1) for ring in range(16)], 1
    )
    deciles_NF = np.quantile(image_NHW.reshape(count, -1), np.linspace(0.05, 0.95, 10), axis=1).T
    return np.concatenate([coarse_NF.reshape(count, -1), np.log(rings_NF), deciles_NF], 1)


class Distances:
    """Distances of images to a set that was held out."""

    def __init__(self, held_out_NCHW: np.ndarray) -> None:
        held_MF = features(held_out_NCHW)
        self._centre_F, self._scale_F = held_MF.mean(0), held_MF.std(0)
        self._scale_F = np.maximum(self._scale_F, LEAST_SPREAD)
        self._held_MF = (held_MF - self._centre_F) / self._scale_F

    def _standard(self, images_NCHW: np.ndarray) -> np.ndarray:
        standard_NF: np.ndarray = (features(images_NCHW) - self._centre_F) / self._scale_F
        return standard_NF

    def __call__(self, images_NCHW: np.ndarray) -> tuple[float, float]:
        """Frechet distance of two Gaussians, a feature's mean share of it; KID times 1000."""
        one_NF, other_MF = self._standard(images_NCHW), self._held_MF
        one_FF, other_FF = np.cov(one_NF.T), np.cov(other_MF.T)
        apart = float(((one_NF.mean(0) - other_MF.mean(0)) ** 2).sum())
        # The trace of a product's root, which has real eigenvalues up to rounding.
        joint = float(np.sqrt(np.maximum(np.linalg.eigvals(one_FF @ other_FF).real, 0)).sum())
        frechet = apart + float(np.trace(one_FF) + np.trace(other_FF)) - 2 * joint
        unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (one_NF, other_MF)]
        return frechet / one_NF.shape[1], 1e3 * kid(*unit)


# --- solvers ------------------------------------------------------------------------------------


def euler(velocity: Velocity, x_NCHW: Tensor, steps: int) -> Tensor:
    """One evaluation a step, equal steps."""
    for step in range(steps):
        x_NCHW = x_NCHW + velocity(x_NCHW, step / steps) / steps
    return x_NCHW


def midpoint(velocity: Velocity, x_NCHW: Tensor, steps: int) -> Tensor:
    """Two evaluations a step, of second order; like neither of those that are compared."""
    for step in range(steps):
        half_NCHW = x_NCHW + velocity(x_NCHW, step / steps) / (2 * steps)
        x_NCHW = x_NCHW + velocity(half_NCHW, (step + 0.5) / steps) / steps
    return x_NCHW


EVALUATIONS = FlowConfig().evaluations

SOLVERS: dict[str, tuple[int, Solver]] = {
    "ours": (EVALUATIONS, partial(flow.follow, steps=EVALUATIONS)),
    "Euler, 10": (10, partial(euler, steps=10)),
    "Euler, 25": (25, partial(euler, steps=25)),
}


def trained(
    images_NCHW: np.ndarray, kimg: float, seed: int, precision: str, **config: Any
) -> dict[str, Tensor]:
    """A flow's weights after so many thousand images, as a site's stage trains it."""
    with tempfile.TemporaryDirectory() as folder:
        shown = round(kimg * 1000)
        generators.train(
            "flow",
            config=FlowConfig(max_channels=WIDTH, **config),
            unet=unet_of(PATCH, levels=3),
            images_NCHW=images_NCHW,
            images_shown=shown,
            seed=seed,
            workdir=Path(folder),
            device="cpu",
            precision=precision,
            mirror=False,
            snapshots=1,
            progress=lambda _done, _of, _losses: None,
        )
        return load_file(Path(folder) / "snapshots" / f"{shown:08d}.safetensors")


def drawn(weights: dict[str, Tensor], solver: Solver, count: int, precision: str) -> np.ndarray:
    """Images 0 to `count` of a solver, NCHW, clipped."""
    plan = derive(unet_of(PATCH, levels=3), FlowConfig(max_channels=WIDTH))
    sampler = flow.FlowSampler(plan, compute_of("cpu", precision), weights)
    with torch.no_grad(), mock.patch.object(flow, "follow", lambda v, x, _steps: solver(v, x)):
        batches = [sampler(range(first, first + BATCH)) for first in range(0, count, BATCH)]
    return torch.cat(batches)[:count].clamp(-1, 1).numpy()


# --- the two comparisons ------------------------------------------------------------------------


def compare_solvers(options: argparse.Namespace, data: Data) -> None:
    """Print a row a solver."""
    weights = trained(data.training_NCHW, options.kimg, options.seed, options.precision)
    exact_NCHW = drawn(weights, partial(midpoint, steps=100), options.paths, "fp32")
    print("solver      evaluations  path error  Frechet  KID x 1000")
    found: dict[str, tuple[float, float, float]] = {}
    errors_N: dict[str, np.ndarray] = {}
    for name, (evaluations, solver) in SOLVERS.items():
        path_NCHW = drawn(weights, solver, options.paths, "fp32")
        errors_N[name] = np.abs(path_NCHW - exact_NCHW).mean((1, 2, 3))
        error = float(errors_N[name].mean())
        samples_NCHW = drawn(weights, solver, options.samples, options.precision)
        frechet, distance = data.distances(samples_NCHW)
        found[name] = error, frechet, distance
        print(f"{name:10}  {evaluations:11}  {error:10.4f}  {frechet:7.4f}  {distance:10.2f}")
    frechet, distance = data.distances(data.training_NCHW)
    print(f"{'real':10}  {'':11}  {'':10}  {frechet:7.4f}  {distance:10.2f}")
    ours, theirs = found["ours"], found["Euler, 25"]
    nearer = int((errors_N["ours"] < errors_N["Euler, 25"]).sum())
    print(f"nearer to the exact path than with Euler's 25: {nearer} of {options.paths} images")
    print(
        f"path_ratio={ours[0] / theirs[0]:.2f} frechet_ratio={ours[1] / theirs[1]:.2f} "
        f"kid_difference={ours[2] - theirs[2]:+.2f}"
    )


def _logit_normal(_learner: Any, count: int, random: torch.Generator) -> Tensor:
    return torch.randn(count, generator=random, device=random.device).sigmoid()


def _uniform(_learner: Any, count: int, random: torch.Generator) -> Tensor:
    return torch.rand(count, generator=random, device=random.device)


SETTINGS: dict[str, dict[str, Any]] = {
    "ours: uniform by parts, batch and rate as derived": {},
    "uniform, not by parts": {"times": _uniform},
    "logit-normal": {"times": _logit_normal},
    "batches of 16, 4e-3": {"batch_size": 16},
    "batches of 8": {"batch_size": 8},
    "half the rate": {"learning_rate": 1e-3},
    "twice the rate": {"learning_rate": 4e-3, "batch_size": 4},
}


def compare_settings(options: argparse.Namespace, data: Data) -> None:
    """Print a row a setting of the training: other draws of t, learning rates, batches."""
    print("Frechet  KID x 1000  setting")
    for name, changes in SETTINGS.items():
        with ExitStack() as patches:
            for key, value in changes.items():
                if key == "times":
                    patches.enter_context(mock.patch.object(flow.FlowLearner, key, value))
            config = {key: value for key, value in changes.items() if key != "times"}
            weights = trained(
                data.training_NCHW, options.kimg, options.seed, options.precision, **config
            )
        samples_NCHW = drawn(weights, SOLVERS["ours"][1], options.samples, options.precision)
        frechet, distance = data.distances(samples_NCHW)
        print(f"{frechet:7.4f}  {distance:10.2f}  {name}", flush=True)


class Data:
    """A phantom site's training images, and the distances to new ones."""

    def __init__(self, index: int, held_out: int) -> None:
        training_NHW = phantom_images(index, TRAINING_IMAGES, seed=0)
        self.training_NCHW = in_range(training_NHW, training_NHW)
        new_NHW = phantom_images(index, held_out, seed=1)
        self.distances = Distances(in_range(new_NHW, training_NHW))


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="short: within 90 s")
    parser.add_argument("--training", action="store_true", help="compare settings of the training")
    parser.add_argument("--phantom", type=int, default=1, help="index of a phantom site")
    parser.add_argument("--kimg", type=float, help="thousands of images shown; 9.3, quick: 2")
    parser.add_argument("--samples", type=int, help="for the distances; 512, quick: 128")
    parser.add_argument("--paths", type=int, help="images whose path is followed; 32, quick: 8")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for name, full, quick in (("kimg", 9.3, 2.0), ("samples", 512, 128), ("paths", 32, 8)):
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else full)
    torch.set_num_threads(1)
    data = Data(options.phantom, held_out=options.samples)
    (compare_settings if options.training else compare_solvers)(options, data)


if __name__ == "__main__":
    main()
