"""A generator trained on plain images, without hospitals. N images, C channels, H, W."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hyfree_ray.config.device import find_device
from hyfree_ray.config.experiment import Experiment
from hyfree_ray.config.loading import as_override
from hyfree_ray.config.resolution import resolve_experiment
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.files import write_once
from hyfree_ray.core.keys import digest_of
from hyfree_ray.core.precision import StorePrecision, keep_precision
from hyfree_ray.core.seeds import seed_of
from hyfree_ray.generators import GENERATORS, sample, train
from hyfree_ray.generators.plan import GeneratorPlan
from hyfree_ray.generators.view import GeneratorView, RawSlice, write_view
from hyfree_ray.importers.files import PICTURES, files_in
from hyfree_ray.importers.pictures import read_picture
from hyfree_ray.segmenters.nnunet.image_plan import plan_for_images
from hyfree_ray.segmenters.unet_plan import UNetPlan

log = logging.getLogger("hyfree_ray")

_VIEW = "view.npz"


class TrainedGenerator:
    """A generator that `train_generator` has trained.

    Args:
        folder: that it was trained in.
        plan: what its networks are built from; `steps` says why.
        device: where it draws.
        precision: of its activations.
    """

    def __init__(self, folder: Path, plan: GeneratorPlan, device: str, precision: str) -> None:
        self.folder = folder
        self.plan = plan
        self._device = device
        self._precision = precision

    def __repr__(self) -> str:
        return f"TrainedGenerator({str(self.folder)!r})"

    def sample(self, n: int, *, seed: int = 0) -> npt.NDArray[np.float32]:
        """Draw `n` images: float32 (n, C, H, W) in the units of those that it was trained on.

        The first n of a seed are the same however many are drawn.
        """
        view = GeneratorView.load(self.folder / _VIEW)
        snapshot = max(file.name for file in (self.folder / "snapshots").iterdir())
        batches = sample(
            self.folder,
            snapshot,
            start=0,
            count=n,
            seed=seed_of(seed, "sample"),
            device=self._device,
            precision=self._precision,
        )
        drawn = [view.physical(images_NCHW) for images_NCHW in batches]
        empty = np.empty((0, self.plan.channels, *self.plan.patch_size), np.float32)
        return np.concatenate([empty, *drawn])


def train_generator(
    images: str | Path | npt.NDArray[Any],
    out: str | Path,
    *,
    budget: str | None = None,
    generator: str | None = None,
    precision: str | None = None,
    seed: int | None = None,
    set: Mapping[str, Any] | None = None,
    device: str = "auto",
) -> TrainedGenerator:
    """Train a generator on 2D images; given again, the call goes on where it stopped.

    As in a simulation: nnU-Net plans a patch and strides from the images' sizes, the generator's
    networks are derived from that plan, and the images are scaled into the patch.

    Example:
        >>> generator = train_generator("x-rays", "x-ray-generator")  # doctest: +SKIP
        >>> generator.sample(16).shape  # doctest: +SKIP
        (16, 1, 64, 56)

    Args:
        images: a folder of PNG, JPEG, BMP or TIFF files of 8 or 16 bits, grey or colour; or an
            array (N, H, W) or (N, C, H, W).
        out: folder for checkpoints and snapshots.
        budget: `smoke`, `small` or `paper`; None: small on a CPU, paper on a GPU.
        generator: a generator's name, or `auto`.
        precision: `fp32`, `bf16` or `auto`, which is measured once and kept in `out`.
        seed: of everything; None: 0.
        set: fields of the experiment by name with dots, e.g. `mirror`, or a setting of the
            generator's own, `generator.config.max_channels`.
        device: `auto`, `cpu` or `cuda`.

    Raises:
        HyfreeError: images or settings that cannot be trained on, or `out` holds another training.
    """
    device = find_device() if device == "auto" else device
    folder = Path(out)
    measured = StorePrecision(folder)
    experiment, _ = resolve_experiment(
        budget=budget,
        generator=generator,
        device=device,
        overrides=[as_override(name, value) for name, value in (set or {}).items()],
        cpu_precision=measured,
        precision=precision,
        seed=seed,
    )
    slices = _slices(images)
    sizes = [(one.image_CHW.shape[1], one.image_CHW.shape[2]) for one in slices]
    unet = plan_for_images(sizes, len(slices[0].image_CHW), experiment.budget.plan)
    _claim(folder, slices, experiment, unet)
    keep_precision(folder, measured.measured)
    if not (folder / _VIEW).exists():
        patch, spacing = unet.patch_size, unet.spacing
        write_view(folder / _VIEW, slices, patch=patch, target_spacing=spacing, site="images")
    plan = _train(experiment, unet, folder, device)
    return TrainedGenerator(folder, plan, device, experiment.precision)


def _claim(
    folder: Path, slices: Sequence[RawSlice], experiment: Experiment, unet: UNetPlan
) -> None:
    """Note in the folder what is trained there, before anything is.

    Raises:
        HyfreeError: something else is.
    """
    pixels = hashlib.sha256()
    for one in slices:
        pixels.update(repr(one.image_CHW.shape).encode() + one.image_CHW.tobytes())
    settings = experiment.model_dump(mode="json", include={"generator", "seed", "mirror", "budget"})
    mine = digest_of([pixels.hexdigest(), settings, experiment.precision, asdict(unet)])
    folder.mkdir(parents=True, exist_ok=True)
    if write_once(folder / "training.json", mine) != mine:
        raise HyfreeError(
            "generator.other-settings",
            f"{folder}: holds a generator of other images or settings; name another folder",
        )


def _train(experiment: Experiment, unet: UNetPlan, folder: Path, device: str) -> GeneratorPlan:
    images_NCHW = GeneratorView.load(folder / _VIEW).images_NCHW
    lengths = experiment.budget.generator
    shown = max(lengths.min_images_shown, lengths.images_shown_per_image * len(images_NCHW))
    chosen = experiment.generator
    return train(
        chosen.name,
        config=GENERATORS[chosen.name].configured(chosen.config),
        unet=unet,
        images_NCHW=images_NCHW,
        images_shown=shown,
        seed=experiment.seed,
        workdir=folder,
        device=device,
        precision=experiment.precision,
        mirror=experiment.mirror,
        snapshots=1,
        progress=lambda done, of, _losses: log.info(f"generator: {done} of {of} images shown"),
    )


def _slices(images: str | Path | npt.NDArray[Any]) -> list[RawSlice]:
    """The images, float32; a pixel counts as a millimetre.

    Raises:
        HyfreeError: there are none, or they are no images.
    """
    if not isinstance(images, np.ndarray):
        found = list(_read(Path(images)))
    elif images.ndim in (3, 4) and len(images):
        found = list(images[:, None] if images.ndim == 3 else images)
    else:
        raise HyfreeError(
            "generator.bad-images",
            f"images: an array of shape {images.shape}; give (N, H, W) or (N, C, H, W)",
        )
    return [
        RawSlice(
            image_CHW=np.asarray(image_CHW, np.float32),
            spacing=(1.0, 1.0),
            patient=number,
            training=True,
        )
        for number, image_CHW in enumerate(found)
    ]


def _read(folder: Path) -> Iterator[npt.NDArray[Any]]:
    """Each image of a folder, image_CHW."""
    files = files_in(folder, PICTURES)
    if not files:
        raise HyfreeError(
            "generator.bad-images",
            f"{folder}: holds no image; those of {', '.join(PICTURES)} are read",
        )
    channels = None
    for file in files:
        pixels = read_picture(file).pixels
        image_CHW = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        if channels not in (None, len(image_CHW)):
            raise HyfreeError(
                "generator.bad-images",
                f"{file}: {len(image_CHW)} channels, {files[0].name} has {channels}; convert it",
            )
        channels = len(image_CHW)
        yield image_CHW
