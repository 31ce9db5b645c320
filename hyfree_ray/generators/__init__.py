"""Generators: one learns a site's images and draws new ones.

A generator is a record (`record.py`), which does not import torch; its learner and sampler
(`protocol.py`) are imported when it is first used. Shapes: N images, C channels, H, W.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.registry import Registry
from hyfree_ray.generators.pairing import Encoding, MaskEncoding, Pairing, check_masks
from hyfree_ray.generators.plan import GeneratorPlan
from hyfree_ray.generators.record import Generator, GeneratorConfig
from hyfree_ray.segmenters.unet_plan import UNetPlan

if TYPE_CHECKING:
    import numpy as np

GENERATORS = Registry(
    "generator",
    "hyfree_ray.generators",
    Generator,
    {
        "diffusion": f"{__name__}.diffusion:DIFFUSION",
        "flow": f"{__name__}.flow:FLOW",
        "progan": f"{__name__}.progan:PROGAN",
        "stylegan1": f"{__name__}.stylegan1:STYLEGAN1",
        "stylegan2": f"{__name__}.stylegan2:STYLEGAN2",
        "stylegan3": f"{__name__}.stylegan3:STYLEGAN3",
    },
)

DESCRIPTION = "generator.json"
"""Which generator it is, with its settings and its plan: all that its snapshots are read by."""

GUARANTEE = "guarantee.json"
"""What a private training bounds, where one was asked for."""

MASKS = "masks"
"""Folder of the mask generator, where images are drawn for masks."""

SAMPLE_BATCH = 16


class Samples(NamedTuple):
    """A batch of what a generator has drawn."""

    images_NCHW: np.ndarray
    """float32 in [-1, 1]."""
    masks_NHW: np.ndarray | None
    """uint8 label values; None of a generator that emits images alone."""


Progress = Callable[[int, int, dict[str, float]], None]
Saved = Callable[[int, int], None]


def train(
    name: str,
    *,
    config: GeneratorConfig,
    unet: UNetPlan,
    images_NCHW: np.ndarray,
    masks_NHW: np.ndarray | None = None,
    patients_N: np.ndarray | None = None,
    images_shown: int,
    seed: int,
    workdir: Path,
    device: str,
    precision: str,
    mirror: bool,
    snapshots: int,
    progress: Progress,
    saved: Saved = lambda step, total: None,
    pairing: Pairing = "joint",
    mask_encoding: Encoding = "one-hot",
) -> GeneratorPlan:
    """Train a generator, or go on with a training that was interrupted in `workdir`.

    Writes `generator.json`, `snapshots/<images shown>.safetensors` (averaged weights) and
    `checkpoints/`; `masks/` holds as much of a mask generator that was trained before. On CPU an
    interrupted training ends with the very weights of one that was not.

    Args:
        name: one of `GENERATORS`.
        config: its settings.
        unet: nnU-Net's plan, from which the generator's is derived.
        images_NCHW: float32 in [-1, 1], of the plan's channels and patch size.
        masks_NHW: uint8 label values of the same pixels, for a generator that learns masks; one of
            images alone learns them as `pairing` says.
        patients_N: whose image each is, for a private training.
        images_shown: the training's length; time is counted in images. A mask generator's is as
            long.
        device: "cpu" or "cuda[:k]".
        precision: "fp32" or "bf16" (of activations; weights are kept in fp32).
        mirror: whether a left-right mirrored image is as good as the image.
        snapshots: at most this many are written, at even distances; the last is the end.
        progress: gets (images shown, of, losses) a few times a minute.
        saved: gets (images shown, of) after each checkpoint; what it raises ends the training.
        pairing: "joint": masks are further channels; "conditional": a mask generator of the same
            kind is trained on the masks alone, then one of images for masks.
        mask_encoding: of masks as channels.

    Returns:
        The generator's plan.

    Raises:
        HyfreeError: images or settings that cannot be trained on, or a `workdir` that holds
            another training.
    """
    from hyfree_ray.generators import loop

    generator = GENERATORS[name]
    settings = loop.Settings(
        images_shown=images_shown,
        seed=seed,
        device=device,
        precision=precision,
        mirror=mirror,
        snapshots=snapshots,
    )
    training = loop.Training(
        generator=generator,
        config=config,
        unet=unet,
        settings=settings,
        workdir=workdir,
        progress=progress,
        saved=saved,
    )
    if masks_NHW is None or generator.learns_masks:
        return training.run(images_NCHW, masks_NHW=masks_NHW, patients_N=patients_N)
    generator.check_pairing(pairing, config)
    encoding = MaskEncoding.of(mask_encoding, check_masks(images_NCHW, masks_NHW))
    if pairing == "conditional":
        masks_NKHW = encoding.encode(masks_NHW)
        count = encoding.channels
        training.of_masks(workdir / MASKS).run(masks_NKHW, channels=count, masks=count)
        training = training.for_masks()
    return training.run(
        encoding.with_masks(images_NCHW, masks_NHW),
        channels=unet.channels + encoding.channels,
        masks=encoding.channels,
        given=pairing == "conditional",
        encoding=encoding,
        patients_N=patients_N,
    )


def guarantee(workdir: Path) -> dict[str, Any] | None:
    """Read what the training in a folder bounds; None where it was not private."""
    try:
        found: dict[str, Any] = json.loads((workdir / GUARANTEE).read_text())
    except FileNotFoundError:
        return None
    return found


def trained(workdir: Path) -> tuple[Generator, GeneratorConfig, GeneratorPlan]:
    """Read which generator `train` trained in a folder, with its settings and its plan.

    Raises:
        HyfreeError: there is none, or one of an earlier version.
    """
    try:
        described = json.loads((workdir / DESCRIPTION).read_text())
    except (OSError, ValueError) as error:
        raise HyfreeError(
            "generator.no-snapshot", f"{workdir} holds no trained generator; train it first"
        ) from error
    if "generator" not in described:
        raise HyfreeError(
            "generator.other-version",
            f"{workdir} holds a generator of an earlier version, which this one does not read; "
            "train it again in another folder",
        )
    generator = GENERATORS[described["generator"]]
    plan = generator.plan.from_json(json.dumps(described["plan"]))
    return generator, generator.configured(described["config"]), plan


def mask_encoding(workdir: Path) -> MaskEncoding | None:
    """Read how the training in a folder had masks as further channels; None: it had none."""
    described = json.loads((workdir / DESCRIPTION).read_text()).get("mask_encoding")
    return None if described is None else MaskEncoding.read(described)


def draws_masks(workdir: Path) -> bool:
    """Return whether the generator that was trained in a folder draws masks with its images."""
    generator, _, _ = trained(workdir)
    return generator.emits == "image and mask" or mask_encoding(workdir) is not None


def sample_with_masks(
    workdir: Path,
    snapshot: str,
    *,
    start: int,
    count: int,
    seed: int,
    device: str,
    precision: str,
    batch_size: int = SAMPLE_BATCH,
) -> Iterator[Samples]:
    """Draw images `start` to `start + count` of the seed's endless series, batch by batch.

    Image k depends on (seed, k) alone: batches are cut at multiples of `batch_size` and computed
    whole, because a convolution's last bits depend on who else is in the batch.

    Args:
        workdir: what `train` wrote.
        snapshot: file name of a snapshot, with or without its suffix.

    Yields:
        At most `batch_size` images each.

    Raises:
        HyfreeError: no such snapshot.
    """
    from hyfree_ray.generators import loop

    return loop.sample(
        workdir,
        snapshot,
        start=start,
        count=count,
        seed=seed,
        device=device,
        precision=precision,
        batch_size=batch_size,
    )


def losses(
    workdir: Path,
    snapshot: str,
    images_NCHW: np.ndarray,
    masks_NHW: np.ndarray | None = None,
    *,
    device: str,
) -> np.ndarray | None:
    """Return loss_N of a snapshot on images, seen in training or not: what it has learnt of them.

    Args:
        workdir: what `train` wrote.
        snapshot: file name of a snapshot.
        images_NCHW: float32 in [-1, 1], of the plan's patch size.
        masks_NHW: their label values, for a generator that draws masks.
        device: where to compute.

    Returns:
        The same noises for all images; None where the backend has no loss of a single image.
    """
    from hyfree_ray.generators import image_losses

    return image_losses.losses(workdir, snapshot, images_NCHW, masks_NHW, device=device)


def sample(workdir: Path, snapshot: str, **series: Any) -> Iterator[np.ndarray]:
    """Draw the images of `sample_with_masks` alone: float32 in [-1, 1], NCHW."""
    return (batch.images_NCHW for batch in sample_with_masks(workdir, snapshot, **series))
