"""Does the phantom leave something to gain? Real data only; run it before trying any generator.

    python benchmarks/phantom.py [--seed 0] [--sites 5] [--steps 800] [--width 12]

Trains a small plain U-Net at each site (local2x: as many steps as general and fine-tuning together)
and one on all sites' real training data together, at 64 pixels and on fold 0. Prints Dice at every
site (case = mean of labels, then patients, then the site) and the two criteria. Scored are the
fold's test cases and a fresh draw of the same site: five test patients alone leave too much chance.
N images, C channels, H x W pixels, L labels with the background.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn
from torch.nn import functional as F

from hyfree_ray.cohort import Case, read_cohort, split_fold
from hyfree_ray.phantom import LABELS, draw_phantom_site
from hyfree_ray.seeds import seed_of

SIZE_HW = (56, 64)
BATCH = 12
GAIN, LOSS = 0.05, 0.10
"""Criteria in Dice: what pooling gains at the two smallest sites; what foreign sites lose."""


class Slice:
    """A case in memory: the original label and the image fitted into SIZE_HW."""

    def __init__(self, root: Path, case: Case) -> None:
        image_HW, self.label_HW = (
            torch.from_numpy(sitk.GetArrayFromImage(sitk.ReadImage(str(root / name))))
            for name in (case.images[0], case.label)
        )
        self.patient = case.patient
        height, width = self.label_HW.shape
        zoom = min(SIZE_HW[0] / height, SIZE_HW[1] / width)
        self.inner = (round(height * zoom), round(width * zoom))
        image_HW = image_HW.float()
        image_HW = (image_HW - image_HW.mean()) / image_HW.std()
        self.image_CHW = self.fit(image_HW[None], mode="bilinear")
        one_hot_LHW = F.one_hot(self.label_HW.long(), len(LABELS)).permute(2, 0, 1).float()
        self.target_HW = self.fit(one_hot_LHW, mode="bilinear").argmax(0)

    def fit(self, maps_CHW: torch.Tensor, *, mode: str) -> torch.Tensor:
        """Resized to `inner`, padded at the right and below."""
        small = F.interpolate(maps_CHW[None], self.inner, mode=mode, antialias=True)[0]
        pad = (0, SIZE_HW[1] - self.inner[1], 0, SIZE_HW[0] - self.inner[0])
        return F.pad(small[None], pad, mode="replicate")[0]

    def dice(self, logits_LHW: torch.Tensor) -> float:
        """Mean over the labels on the original grid; a label that is in neither is left out."""
        inside = logits_LHW[None, :, : self.inner[0], : self.inner[1]]
        found_HW = F.interpolate(inside, self.label_HW.shape, mode="bilinear")[0].argmax(0)
        scores = []
        for value in range(1, len(LABELS)):
            found, true = found_HW == value, self.label_HW == value
            if found.any() or true.any():
                scores.append(float(2 * (found & true).sum() / (found.sum() + true.sum())))
        return float(np.mean(scores))


def unet(width: int) -> PlainConvUNet:
    """nnU-Net's plain U-Net for 64 pixels, narrowed as in the CPU budgets."""
    return PlainConvUNet(
        input_channels=1,
        n_stages=4,
        features_per_stage=(width, 2 * width, 4 * width, 6 * width),
        conv_op=nn.Conv2d,
        kernel_sizes=3,
        strides=(1, 2, 2, 2),
        n_conv_per_stage=2,
        num_classes=len(LABELS),
        n_conv_per_stage_decoder=2,
        conv_bias=True,
        norm_op=nn.InstanceNorm2d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    )


def augment(
    images_NCHW: torch.Tensor, targets_NHW: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mirroring, scaling, turning, brightness, contrast, gamma, noise, as often as nnU-Net."""
    count = len(images_NCHW)

    def draw(low: float, high: float, share: float, neutral: float) -> torch.Tensor:
        values = low + (high - low) * torch.rand(count, generator=generator)
        return torch.where(torch.rand(count, generator=generator) < share, values, neutral)

    zoom, turn = draw(0.7, 1.4, 0.2, 1.0), draw(-np.pi, np.pi, 0.2, 0.0)
    flip_y, flip_x = (draw(-1, -1, 0.5, 1.0) for _ in range(2))
    ratio = SIZE_HW[0] / SIZE_HW[1]
    cos, sin, zero = turn.cos() / zoom, turn.sin() / zoom, torch.zeros(count)
    rows = [
        torch.stack([cos * flip_x, -sin * ratio * flip_x, zero], 1),
        torch.stack([sin / ratio * flip_y, cos * flip_y, zero], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), list(images_NCHW.shape), align_corners=False)
    images_NCHW = F.grid_sample(images_NCHW, grid, padding_mode="border", align_corners=False)
    targets_NHW = F.grid_sample(
        targets_NHW[:, None].float(), grid, mode="nearest", align_corners=False
    )[:, 0].long()

    def per_image(values: torch.Tensor) -> torch.Tensor:
        return values.view(-1, 1, 1, 1)

    images_NCHW = images_NCHW * per_image(draw(0.75, 1.25, 0.15, 1.0))
    images_NCHW = images_NCHW * per_image(draw(0.75, 1.25, 0.15, 1.0))
    low, high = images_NCHW.amin((1, 2, 3), True), images_NCHW.amax((1, 2, 3), True)
    unit = ((images_NCHW - low) / (high - low + 1e-6)) ** per_image(draw(0.7, 1.5, 0.3, 1.0))
    images_NCHW = unit * (high - low) + low
    noise = torch.randn(images_NCHW.shape, generator=generator)
    return images_NCHW + noise * per_image(draw(0, 0.3, 0.1, 0.0)), targets_NHW


def train(slices: Sequence[Slice], *, steps: int, width: int, seed: int) -> PlainConvUNet:
    """SGD with Nesterov momentum, polynomial decay, cross-entropy and batch Dice (nnU-Net's)."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = unet(width).to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(
        network.parameters(), lr=0.01, momentum=0.99, nesterov=True, weight_decay=3e-5
    )
    decay = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: (1 - step / steps) ** 0.9)
    images_NCHW = torch.stack([each.image_CHW for each in slices])
    targets_NHW = torch.stack([each.target_HW for each in slices])
    for _ in range(steps):
        rows = torch.randint(len(slices), (BATCH,), generator=generator)
        x_NCHW, t_NHW = augment(images_NCHW[rows], targets_NHW[rows], generator)
        logits_NLHW = network(x_NCHW.to(memory_format=torch.channels_last))
        chance = logits_NLHW.softmax(1)[:, 1:]
        true = F.one_hot(t_NHW, len(LABELS)).permute(0, 3, 1, 2)[:, 1:]
        overlap, total = (chance * true).sum((0, 2, 3)), (chance + true).sum((0, 2, 3))
        loss = F.cross_entropy(logits_NLHW, t_NHW) - ((2 * overlap + 1) / (total + 1)).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 12)
        optimiser.step()
        decay.step()
    return network.eval()


@torch.inference_mode()
def score(network: PlainConvUNet, slices: Sequence[Slice]) -> float:
    """Dice of a site: case = mean of labels, then the mean by patient, then by site."""
    logits_NLHW = network(torch.stack([each.image_CHW for each in slices]))
    by_patient: dict[str, list[float]] = {}
    for each, logits_LHW in zip(slices, logits_NLHW, strict=True):
        by_patient.setdefault(each.patient, []).append(each.dice(logits_LHW))
    return float(np.mean([np.nanmean(scores) for scores in by_patient.values()]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sites", type=int, default=5)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--width", type=int, default=12, help="channels of the first stage")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    parts: dict[str, dict[str, list[Slice]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for index in range(1, asked.sites + 1):
            root = Path(folder) / str(index)
            draw_phantom_site(index, asked.seed, root)
            ((name, cases),) = read_cohort(root).sites.items()
            split = split_fold(cases, 0)
            fresh = Path(folder) / f"fresh-{index}"
            draw_phantom_site(index, seed_of(asked.seed, "fresh"), fresh)
            ((_, others),) = read_cohort(fresh).sites.items()
            parts[name] = {
                "train": [Slice(root, case) for case in split.train],
                "test": [Slice(root, case) for case in split.test]
                + [Slice(fresh, case) for case in others],
            }
    report(parts, seed=asked.seed, steps=asked.steps, width=asked.width)


def report(parts: dict[str, dict[str, list[Slice]]], *, seed: int, steps: int, width: int) -> None:
    """Train and score all, print the table and the criteria."""
    names = list(parts)
    print(f"Dice, seed {seed}, {steps} steps".ljust(30) + "".join(f"{name:>9}" for name in names))
    table: dict[str, list[float]] = {}
    pooled = [each for name in names for each in parts[name]["train"]]
    for row, slices in [*((name, parts[name]["train"]) for name in names), ("pooled", pooled)]:
        start = time.monotonic()
        network = train(slices, steps=steps, width=width, seed=seed_of(seed, "benchmark", row))
        table[row] = [score(network, parts[name]["test"]) for name in names]
        cells = "".join(f"{dice:9.3f}" for dice in table[row])
        spent = f"{time.monotonic() - start:7.0f} s"
        print(f"{row:8} ({len(slices):3d} images)".ljust(30) + cells + spent, flush=True)
    smallest = sorted(names, key=lambda name: len(parts[name]["train"]))[:2]
    gains = {name: table["pooled"][k] - table[name][k] for k, name in enumerate(names)}
    losses = {
        name: table[name][k] - float(np.mean([d for j, d in enumerate(table[name]) if j != k]))
        for k, name in enumerate(names)
    }
    for what, least, values, judged in (
        ("pooled - local2x", GAIN, gains, smallest),
        ("own - foreign", LOSS, losses, names),
    ):
        verdict = "PASS" if min(values[name] for name in judged) >= least else "FAIL"
        shown = ", ".join(f"{name} {value:+.3f}" for name, value in values.items())
        print(f"{verdict} {what} >= {least:.2f} at {', '.join(judged)}: {shown}")


if __name__ == "__main__":
    main()
