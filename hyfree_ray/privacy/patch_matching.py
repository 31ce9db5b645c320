"""The close comparison: lay a candidate over a sample, patch by patch.

Each patch of the sample finds its place in the posed candidate within a small window; an affine map
through these places (by weighted least squares, outliers downweighted) improves the pose, and the
patches are matched again. What remains is a correlation for each patch, which follows bends that no
affine map describes, and tells which parts of an image were copied.

Shapes: K candidates, N samples, M training images, P patches in py x px, S shifts, h, w on the
grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from hyfree_ray.privacy.pose_search import COMPARED, Candidates
from hyfree_ray.privacy.texture import Band, centred, resized, texture, warped

PATCH, STRIDE = 12, 6

WINDOWS = (4, 3)
"""Pixels either way in which a patch is looked for, in each round."""

BAND = Band(fine=0.5, coarse=2.5, contrast=4.0)

OUTLIER = 1.5
"""Pixels by which a patch may be off the affine map before it loses its weight."""

BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Matches:
    """The match of each patch of each candidate."""

    correlation_KP: torch.Tensor
    """0 to 1, of either sign."""
    weight_KP: torch.Tensor
    """Texture in the sample's patch: a flat one tells nothing."""
    rows: int
    """Number of patches down; P is `rows` times those across."""


def match(samples_N1hw: torch.Tensor, known_M1hw: torch.Tensor, candidates: Candidates) -> Matches:
    """Match every candidate with its sample."""
    samples_Nhw = texture(resized(samples_N1hw, COMPARED), BAND)
    known_M1hw = resized(known_M1hw, COMPARED)
    correlation, weight = [], []
    for start in range(0, len(candidates.sample_K), BATCH):
        part = slice(start, start + BATCH)
        found = _match(
            samples_Nhw[candidates.sample_K[part]],
            known_M1hw[candidates.known_K[part]],
            candidates.linear_K22[part],
            candidates.shift_K2[part],
        )
        correlation.append(found[0])
        weight.append(found[1])
    rows = len(range(0, samples_Nhw.shape[1] - PATCH + 1, STRIDE))
    weight_KP = torch.cat(weight)
    return Matches(
        correlation_KP=torch.cat(correlation), weight_KP=weight_KP.clamp_max(1.0), rows=rows
    )


def _match(
    samples_Khw: torch.Tensor,
    known_K1hw: torch.Tensor,
    linear_K22: torch.Tensor,
    shift_K2: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    height, width = samples_Khw.shape[1:]
    patches_KPQ = samples_Khw.unfold(1, PATCH, STRIDE).unfold(2, PATCH, STRIDE).flatten(3)
    shape = (patches_KPQ.shape[1], patches_KPQ.shape[2])
    patches_KPQ = patches_KPQ.flatten(1, 2)
    patches_KPQ = patches_KPQ - patches_KPQ.mean(dim=2, keepdim=True)
    places_P2 = _places(height, width, shape)
    for last, window in zip((False, True), WINDOWS, strict=True):
        wider = (height + 2 * window, width + 2 * window)
        posed_Khw = texture(warped(known_K1hw, linear_K22, shift_K2, wider), BAND)
        found_KP, moved_KP2 = _search(patches_KPQ, posed_Khw, shape, window)
        if not last:
            weight_KP = _weight(patches_KPQ)
            change_K32 = _affine(places_P2, moved_KP2, found_KP**4 * weight_KP)
            shift_K2 = shift_K2 + torch.einsum("kij,kj->ki", linear_K22, change_K32[:, 2])
            linear_K22 = linear_K22 @ (torch.eye(2) + change_K32[:, :2].transpose(1, 2))
    return found_KP, _weight(patches_KPQ)


def _weight(patches_KPQ: torch.Tensor) -> torch.Tensor:
    """Return weight_KP: the patches' contrast, which is 1 or little more where there is texture."""
    contrast_KP: torch.Tensor = patches_KPQ.norm(dim=2) / PATCH
    return contrast_KP.clamp_max(1.0)


def _places(height: int, width: int, shape: tuple[int, int]) -> torch.Tensor:
    """Return places_P2 (x, y) of the patches' centres."""
    down = centred(height)[: shape[0] * STRIDE : STRIDE] + (PATCH - 1) / 2
    across = centred(width)[: shape[1] * STRIDE : STRIDE] + (PATCH - 1) / 2
    return torch.stack(torch.meshgrid(across, down, indexing="xy"), dim=-1).flatten(0, 1)


def _search(
    patches_KPQ: torch.Tensor, posed_Khw: torch.Tensor, shape: tuple[int, int], window: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each patch's highest correlation_KP, of either sign, and its shift_KP2 (x, y)."""
    count, patches = patches_KPQ.shape[:2]
    size = PATCH + 2 * window
    around = posed_Khw.unfold(1, size, STRIDE).unfold(2, size, STRIDE)
    around = around[:, : shape[0], : shape[1]].reshape(count * patches, size, size)
    kernels = patches_KPQ.reshape(count * patches, 1, PATCH, PATCH)
    product = functional.conv2d(around[None], kernels, groups=count * patches)[0]
    # Two products with a matrix: pooling takes six times as long.
    box = torch.ones(size, size).triu().tril(PATCH - 1)[: size - PATCH + 1] / PATCH
    mean, square = box @ around @ box.T, box @ (around * around) @ box.T
    length = ((square - mean * mean).clamp_min(0) * PATCH**2).sqrt().clamp_min(1e-3)
    own = kernels.flatten(1).norm(dim=1).clamp_min(1e-3)
    correlation = (product.abs() / (length * own[:, None, None])).view(count, patches, -1)
    found_KP, at_KP = correlation.clamp_max(1.0).max(dim=2)
    across = 2 * window + 1
    moved_KP2 = torch.stack((at_KP % across, at_KP // across), dim=2).float() - window
    return found_KP, moved_KP2


def _affine(
    places_P2: torch.Tensor, moved_KP2: torch.Tensor, weight_KP: torch.Tensor
) -> torch.Tensor:
    """Return change_K32: moved is [place, 1] @ change, by least squares reweighted three times."""
    terms_P3 = torch.cat((places_P2, torch.ones(len(places_P2), 1)), dim=1)
    # Without a prior, a few matched patches in a corner would turn the whole image.
    prior_33 = torch.diag(torch.tensor([COMPARED, COMPARED, 2e-3]))
    robust_KP = weight_KP
    for _ in range(3):
        weighted_K3P = terms_P3.T * robust_KP[:, None]
        total_K11 = robust_KP.mean(dim=1)[:, None, None].clamp_min(1e-9)
        change_K32: torch.Tensor = torch.linalg.solve(
            weighted_K3P @ terms_P3 + prior_33 * total_K11, weighted_K3P @ moved_KP2
        )
        off_KP = (moved_KP2 - terms_P3 @ change_K32).norm(dim=2)
        robust_KP = weight_KP / (1 + (off_KP / OUTLIER) ** 2) ** 2
    return change_K32
