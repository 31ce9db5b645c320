"""How well does what StyleGAN3 draws move as one? EQ-T in decibels, at full precision.

    python benchmarks/equivariance.py [--size 64 48] [--width 16] [--layers 8] [--seeds 3]
    python benchmarks/equivariance.py --trained DIR --snapshot 00009300

The last line has the mean over fresh networks, or that of a trained one (`generators.train` writes
DIR, in a store the folder of a `train_generator`), where images are moved by up to an eighth of a
side, and how many decibels more that is than of the same network whose leaky ReLUs are not
filtered (those of a pixel each, between the same changes of size).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from hyfree_ray.generators import trained
from hyfree_ray.generators.adversarial import ops
from hyfree_ray.generators.stylegan3 import filters
from hyfree_ray.generators.stylegan3.config import StyleGan3Config
from hyfree_ray.generators.stylegan3.equivariance import translation_equivariance
from hyfree_ray.generators.stylegan3.networks import Generator
from hyfree_ray.generators.stylegan3.plan import Layer, StyleGan3Plan, derive
from hyfree_ray.segmenters.unet_plan import UNetPlan

IMAGES, MOVES, HALVINGS = 8, 12, 4
SETTLING = 20
"""Batches after which a fresh network's magnitudes are its own, at a half-life of one."""


def activate_by_pixel(x_NCHW: Tensor, before: Layer, after: Layer) -> Tensor:
    """Change the size as ever, and bend each sample alone."""
    axes = (filters.resampling(before, after, axis, x_NCHW.shape[2 + axis]) for axis in (0, 1))
    rows, columns = (torch.from_numpy(down @ up).to(x_NCHW.dtype) for up, down in axes)
    return ops.activate(rows @ x_NCHW @ columns.T) * ops.ACTIVATION_GAIN


def fresh(size: tuple[int, int], width: int, layers: int, seed: int) -> Generator:
    """A generator whose magnitudes have settled."""
    stages = HALVINGS + 1
    unet = UNetPlan(
        patch_size=size,
        spacing=(1.0, 1.0),
        strides=((1, 1), *((2, 2),) * HALVINGS),
        kernel_sizes=((3, 3),) * stages,
        features_per_stage=(32,) * stages,
        batch_size=8,
        channels=1,
        normalization_schemes=("ZScoreNormalization",),
    )
    torch.manual_seed(seed)
    generator = Generator(derive(unet, StyleGan3Config(max_channels=width, layers=layers)))
    with torch.no_grad(), mock.patch(f"{Generator.__module__}.MAGNITUDE_DECAY", 0.5):
        for _ in range(SETTLING):
            generator(torch.randn(IMAGES, generator.latent_size), [])
    return generator.eval()


def moves_of(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Moves of up to an eighth of each side, uniform."""
    random = np.random.default_rng(0)
    down, right = (random.integers(-side // 8, side // 8, MOVES, endpoint=True) for side in size)
    return [(int(one), int(other)) for one, other in zip(down, right, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs=2, default=(64, 48))
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trained", type=Path)
    parser.add_argument("--snapshot")
    options = parser.parse_args()
    torch.set_num_threads(1)
    size = (options.size[0], options.size[1])
    if options.trained is not None:
        _, _, plan = trained(options.trained)
        assert isinstance(plan, StyleGan3Plan)
        generator = Generator(plan).eval()
        file = options.trained / "snapshots" / f"{options.snapshot}.safetensors"
        generator.load_state_dict(load_file(file))
        generators, size = [generator], plan.patch_size
    else:
        generators = [
            fresh(size, options.width, options.layers, seed) for seed in range(options.seeds)
        ]
    filtered, plain = [], []
    for generator in generators:
        filtered.append(translation_equivariance(generator, images=IMAGES, moves=moves_of(size)))
        module = f"{filters.__name__}.filtered_activation"
        with mock.patch(module, activate_by_pixel):
            plain.append(translation_equivariance(generator, images=IMAGES, moves=moves_of(size)))
        print(f"filtered {filtered[-1]:.1f} dB, by pixel {plain[-1]:.1f} dB", flush=True)
    mean = float(np.mean(filtered))
    print(f"eq_t={mean:.1f} more_than_by_pixel={mean - float(np.mean(plain)):.1f}")


if __name__ == "__main__":
    main()
