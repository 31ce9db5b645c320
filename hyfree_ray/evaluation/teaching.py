"""What images with labels teach: a small U-Net trained on them alone, tested on real images.

"Train on synthetic, test on real" (Esteban et al. 2017, arXiv 1706.02633). The network is the same
small one whatever it is trained on, so that its Dice after synthetic images can be divided by its
Dice after real ones.

Shapes: N images, C channels, H height, W width, K structures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import Tensor, nn
from torch.nn import functional

from hyfree_ray.cohorts.label_sets import IGNORE, Labels, foreground, mask_of

MAX_SIDE = 96
"""Longer images are averaged down to this, and their masks with them."""
STEPS, BATCH, RATE = 150, 12, 3e-3
WIDTHS = (8, 16, 32, 32)
"""Features by level."""


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Images with their labels, in [-1, 1]."""

    images_NCHW: npt.NDArray[np.float32]
    labels_NHW: npt.NDArray[np.uint8]
    labels: Labels
    """`dataset.json`'s."""

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return images_NCHW, masks_NKHW and annotated_N1HW, as they are trained on."""
        masks = [mask_of(self.labels_NHW, classes) for classes in foreground(self.labels).values()]
        annotated_NHW = self.labels_NHW != self.labels.get(IGNORE, -1)
        arrays = (self.images_NCHW, np.stack(masks, axis=1), annotated_NHW[:, None])
        images, masks_NKHW, annotated = (
            _small(torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)))
            for array in arrays
        )
        return images, (masks_NKHW >= 0.5).float(), (annotated >= 0.5).float()


def _small(values: Tensor) -> Tensor:
    factor = -(-max(values.shape[2:]) // MAX_SIDE)
    return functional.avg_pool2d(values, factor, ceil_mode=True) if factor > 1 else values


def taught_dice(
    teacher: Labelled,
    real: Labelled,
    patients_N: npt.NDArray[np.int64],
    *,
    seed: int,
    device: str = "cpu",
    steps: int = STEPS,
) -> float | None:
    """Return the Dice on real images of a network that was trained on the teacher's alone.

    Dice of each structure over all images of a patient, averaged over structures, then patients.

    Args:
        teacher: what the network is trained on.
        real: what it is tested on, of other patients.
        patients_N: whose image each of the real ones is.
        seed: of weights and batches.
        device: of the training.
        steps: of the training.

    Returns:
        None if no real image has any structure.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _trained(teacher, steps, np.random.default_rng(seed), device)
    images, masks, annotated = real.tensors()
    with torch.no_grad():
        parts = [network(_padded(part.to(device))).cpu() for part in images.split(64)]
    height, width = images.shape[2:]
    found = (torch.cat(parts)[..., :height, :width] > 0).float() * annotated
    masks = masks * annotated
    by_patient = []
    for patient in np.unique(patients_N):
        of_patient = torch.from_numpy(patients_N == patient)
        one, other = found[of_patient], masks[of_patient]
        present_K = other.sum(dim=(0, 2, 3)) > 0
        dice_K = 2 * (one * other).sum(dim=(0, 2, 3)) / (one + other).sum(dim=(0, 2, 3))
        if present_K.any():
            by_patient.append(float(dice_K[present_K].mean()))
    return float(np.mean(by_patient)) if by_patient else None


def _network(channels: int, structures: int) -> nn.Module:
    levels = len(WIDTHS)
    return PlainConvUNet(
        input_channels=channels,
        n_stages=levels,
        features_per_stage=WIDTHS,
        conv_op=nn.Conv2d,
        kernel_sizes=3,
        strides=(1, *([2] * (levels - 1))),
        n_conv_per_stage=1,
        num_classes=structures,
        n_conv_per_stage_decoder=1,
        conv_bias=True,
        norm_op=nn.InstanceNorm2d,
        norm_op_kwargs={"affine": True},
        nonlin=nn.LeakyReLU,
    )


def _padded(images: Tensor) -> Tensor:
    """Add air to the far edges until the strides divide the sides."""
    step = 2 ** (len(WIDTHS) - 1)
    down, right = (-side % step for side in images.shape[2:])
    return functional.pad(images, (0, right, 0, down), value=-1.0)


def _trained(teacher: Labelled, steps: int, rng: np.random.Generator, device: str) -> nn.Module:
    images, masks, annotated = (one.to(device) for one in teacher.tensors())
    height, width = images.shape[2:]
    network = _network(images.shape[1], masks.shape[1]).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimiser, steps, power=0.9)
    for _ in range(steps):
        drawn = torch.from_numpy(rng.integers(0, len(images), BATCH)).to(device)
        logits = network(_padded(images[drawn]))[..., :height, :width]
        loss = _loss(logits, masks[drawn], annotated[drawn])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.eval()


def _loss(logits: Tensor, masks: Tensor, annotated: Tensor) -> Tensor:
    """Cross-entropy and soft Dice over the batch, as nnU-Net's, of annotated pixels."""
    entropy = functional.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    found, masks = logits.sigmoid() * annotated, masks * annotated
    common = (found * masks).sum(dim=(0, 2, 3))
    dice = (2 * common + 1) / ((found + masks).sum(dim=(0, 2, 3)) + 1)
    return (entropy * annotated).mean() - dice.mean()
