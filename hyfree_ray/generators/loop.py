"""The training loop and the sampling loop that all backends share. N images, C channels, H, W.

A training is cut into intervals, counted in steps. At the start of each the random generator is
seeded anew from the training's seed and the interval's number, and at its end a checkpoint is
written: what comes after a checkpoint depends on the checkpoint alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from hyfree_ray.core.checkpoints import load_checkpoint, save_checkpoint
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.files import replacing, write_json
from hyfree_ray.core.seeds import seed_of
from hyfree_ray.generators import DESCRIPTION, GUARANTEE, MASKS, Samples, mask_encoding, trained
from hyfree_ray.generators.pairing import MaskEncoding, check_masks
from hyfree_ray.generators.plan import GeneratorPlan
from hyfree_ray.generators.protocol import Compute, Learner, PrivateLearner, compute_of
from hyfree_ray.generators.record import Generator, GeneratorConfig
from hyfree_ray.segmenters.unet_plan import UNetPlan

INTERVALS = 30
"""Checkpoints a training: its first and last thirtieth cost as much to lose."""
PROGRESS_EVERY = 5.0
"""Seconds between two reports."""

Progress = Callable[[int, int, dict[str, float]], None]
Saved = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A training's settings; see `hyfree_ray.generators.train`."""

    images_shown: int
    seed: int
    device: str
    precision: str
    mirror: bool
    snapshots: int


def _check(images_NCHW: np.ndarray, plan: GeneratorPlan, settings: Settings) -> None:
    wanted = (plan.seen_channels, *plan.patch_size)
    if images_NCHW.ndim != 4 or images_NCHW.shape[1:] != wanted or len(images_NCHW) == 0:
        raise HyfreeError(
            "generator.bad-images",
            f"generator: training images have shape {images_NCHW.shape}; the plan needs "
            f"(N, {', '.join(map(str, wanted))}) with N > 0; prepare them with the same plan",
        )
    if images_NCHW.dtype != np.float32:
        raise HyfreeError(
            "generator.bad-images",
            f"generator: training images are {images_NCHW.dtype}, not float32",
        )
    if not np.isfinite(images_NCHW).all():
        broken = np.flatnonzero(~np.isfinite(images_NCHW).all(axis=(1, 2, 3)))
        raise HyfreeError(
            "generator.bad-images",
            f"generator: {len(broken)} of {len(images_NCHW)} training images hold NaN or infinite "
            f"values, the first is number {broken[0]}; correct or remove them",
        )
    if np.abs(images_NCHW).max() > 1.001:
        raise HyfreeError(
            "generator.bad-images", "generator: training images exceed [-1, 1]; scale them first"
        )
    if settings.images_shown < 1 or settings.snapshots < 1:
        raise HyfreeError(
            "generator.bad-plan",
            f"generator: {settings.images_shown} images shown and {settings.snapshots} snapshots "
            "requested; both must be at least 1",
        )


def _with_masks(images_NCHW: np.ndarray, masks_NHW: np.ndarray | None) -> np.ndarray:
    """Images with their masks as one more channel of label values."""
    masks_NHW = check_masks(images_NCHW, masks_NHW)
    return np.concatenate([images_NCHW, masks_NHW[:, None].astype(np.float32)], axis=1)


def _known(patients_N: np.ndarray | None, images: int) -> np.ndarray:
    """Return the patient of each image.

    Raises:
        HyfreeError: a private training was asked for without them.
    """
    if patients_N is None or len(patients_N) != images:
        raise HyfreeError(
            "generator.bad-images",
            "generator: a private training needs the patient of each image; give patients_N",
        )
    return patients_N


class _Batches:
    """Training batches: batch i is the same however the training got there.

    Images are taken in a new random order each round, without replacement, so that few images
    are all seen equally often; a batch may reach over the end of a round.
    """

    def __init__(self, images_NCHW: Tensor, batch_size: int, settings: Settings) -> None:
        self._images_NCHW = images_NCHW
        self._batch_size = batch_size
        self._seed = settings.seed
        self._mirror = settings.mirror
        self._round, self._order = -1, np.empty(0, np.int64)

    def _index(self, position: int) -> int:
        number, place = divmod(position, len(self._images_NCHW))
        if number != self._round:
            random = np.random.default_rng(seed_of(self._seed, "order", number))
            self._round, self._order = number, random.permutation(len(self._images_NCHW))
        return int(self._order[place])

    def __call__(self, step: int, random: torch.Generator) -> Tensor:
        first = step * self._batch_size
        index = torch.tensor([self._index(first + i) for i in range(self._batch_size)])
        # Without waiting for what the device still does.
        batch_NCHW = self._images_NCHW[index.to(self._images_NCHW.device, non_blocking=True)]
        if not self._mirror:
            return batch_NCHW
        turned = torch.rand(len(index), 1, 1, 1, generator=random, device=batch_NCHW.device) < 0.5
        return torch.where(turned, batch_NCHW.flip(3), batch_NCHW)


def _write_snapshot(workdir: Path, images_shown: int, weights: dict[str, Tensor]) -> None:
    folder = workdir / "snapshots"
    folder.mkdir(exist_ok=True)
    with replacing(folder / f"{images_shown:08d}.safetensors") as file:
        file.write(save({name: value.contiguous().cpu() for name, value in weights.items()}))


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training to be run, or gone on with, in a folder; see `hyfree_ray.generators.train`."""

    generator: Generator
    config: GeneratorConfig
    unet: UNetPlan
    settings: Settings
    workdir: Path
    progress: Progress
    saved: Saved

    def of_masks(self, workdir: Path) -> Training:
        """Return the training of a mask generator, the first half of this one."""
        shown = self.settings.images_shown
        seed = seed_of(self.settings.seed, "masks")
        return replace(
            self,
            settings=replace(self.settings, seed=seed, snapshots=1),
            workdir=workdir,
            progress=lambda done, _, losses: self.progress(done // 2, shown, losses),
            saved=lambda done, _: self.saved(done // 2, shown),
        )

    def for_masks(self) -> Training:
        """Return the training of images for masks, the second half of this one."""
        shown = self.settings.images_shown
        return replace(
            self,
            progress=lambda done, _, losses: self.progress((shown + done) // 2, shown, losses),
            saved=lambda done, _: self.saved((shown + done) // 2, shown),
        )

    def plan(self, images: int, channels: int | None, masks: int, given: bool) -> GeneratorPlan:
        """Derive the plan.

        Args:
            images: how many are trained on.
            channels: as of `run`.
            masks: of these, the last ones that stand for masks.
            given: whether these are not drawn, but drawn for.
        """
        drawn = self.unet.channels if given or channels is None else channels
        plan = self.generator.derive(replace(self.unet, channels=drawn), self.config)
        plan = replace(plan, mask_channels=masks)
        if given:
            step = f"an image is drawn for a mask, whose {masks} channels the networks also see"
            plan = replace(plan, given_channels=masks, steps=plan.with_steps(step)["steps"])
        if self.generator.schedule is None:
            return plan
        shown = self.settings.images_shown
        return self.generator.schedule(plan, self.config, images=images, images_shown=shown)

    def run(
        self,
        images_NCHW: np.ndarray,
        *,
        channels: int | None = None,
        masks: int = 0,
        given: bool = False,
        masks_NHW: np.ndarray | None = None,
        encoding: MaskEncoding | None = None,
        patients_N: np.ndarray | None = None,
    ) -> GeneratorPlan:
        """Train and return the plan.

        Args:
            images_NCHW: with masks as their last channels, where there are any.
            channels: that they have to have in all; None: those of nnU-Net's plan.
            masks: how many channels stand for masks.
            given: whether images are drawn for them.
            masks_NHW: for a generator that learns masks by itself.
            encoding: of the masks that are channels, where the samples are to have them.
            patients_N: for a private training.
        """
        plan = self.plan(len(images_NCHW), channels, masks, given)
        settings, workdir = self.settings, self.workdir
        _check(images_NCHW, plan, settings)
        if self.generator.learns_masks:
            images_NCHW = _with_masks(images_NCHW, masks_NHW)
        compute = compute_of(settings.device, settings.precision)
        torch.manual_seed(seed_of(settings.seed, "weights"))
        learner = self.generator.load().learner(plan, compute, images_shown=settings.images_shown)
        workdir.mkdir(parents=True, exist_ok=True)
        described = {
            "generator": self.generator.name,
            "config": self.config.model_dump(mode="json"),
            "plan": json.loads(plan.to_json()),
        }
        if encoding is not None:
            described["mask_encoding"] = encoding.described()
        write_json(workdir / DESCRIPTION, described)
        # Any device may go on with it.
        identity = json.dumps([described, {**asdict(settings), "device": None}, len(images_NCHW)])
        done = _resume(learner, workdir / "checkpoints", compute.device, identity)
        images = learner.prepare(torch.from_numpy(images_NCHW).to(compute.device))
        if isinstance(learner, PrivateLearner):
            learner.know_patients(images, _known(patients_N, len(images)))
            write_json(workdir / GUARANTEE, learner.guarantee())
        batches = _Batches(images, learner.batch_size, settings)
        told = (self.progress, self.saved)
        _run(learner, batches, done, settings, compute.device, workdir, identity, *told)
        return plan


def _resume(learner: Learner, folder: Path, device: torch.device, identity: str) -> int:
    found = load_checkpoint(folder, device)
    if found is None:
        return 0
    step, state = found
    if state["identity"] != identity:
        raise HyfreeError(
            "generator.other-settings",
            f"{folder.parent} holds a generator trained with other settings or images; "
            "choose another folder or delete this one",
        )
    learner.load_state_dict(state["learner"])
    return step


def _run(
    learner: Learner,
    batches: _Batches,
    done: int,
    settings: Settings,
    device: torch.device,
    workdir: Path,
    identity: str,
    progress: Progress,
    saved: Saved,
) -> None:
    total = -(-settings.images_shown // learner.batch_size)
    interval = -(-total // INTERVALS)
    snapshots = min(settings.snapshots, total)
    snapshot_steps = {-(-total * (k + 1) // snapshots) for k in range(snapshots)}
    random = torch.Generator(device)
    reported = 0.0
    for step in range(done, total):
        if step % interval == 0:
            random.manual_seed(seed_of(settings.seed, "step", step // interval))
        losses = learner.step(batches(step, random), step, random)
        shown = min((step + 1) * learner.batch_size, settings.images_shown)
        last = step + 1 == total
        if step + 1 in snapshot_steps:
            _write_snapshot(workdir, shown, learner.averaged())
        due = (step + 1) % interval == 0 or last
        if due or time.monotonic() - reported > PROGRESS_EVERY:
            reported = time.monotonic()
            values = {key: float(value) for key, value in losses.items()}
            if not all(np.isfinite(list(values.values()))):
                raise HyfreeError(
                    "generator.diverged",
                    f"generator: the loss is no longer finite after {shown} images; "
                    "train with precision fp32, or look for extreme images",
                )
            # Told before it is kept: a kill between the two repeats a point, and loses none.
            progress(shown, settings.images_shown, values)
        if due:
            state: dict[str, Any] = {"identity": identity, "learner": learner.state_dict()}
            save_checkpoint(workdir / "checkpoints", step + 1, state)
            saved(shown, settings.images_shown)


def read_weights(workdir: Path, snapshot: str) -> dict[str, Tensor]:
    path = workdir / "snapshots" / f"{snapshot.removesuffix('.safetensors')}.safetensors"
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise HyfreeError(
            "generator.no-snapshot",
            f"{path} is not a snapshot of a trained generator; train it first",
        ) from error


def sample(
    workdir: Path,
    snapshot: str,
    *,
    start: int,
    count: int,
    seed: int,
    device: str,
    precision: str,
    batch_size: int,
) -> Iterator[Samples]:
    """See `hyfree_ray.generators.sample_with_masks`."""
    generator, _, plan = trained(workdir)
    encoding = mask_encoding(workdir)
    compute = compute_of(device, precision)
    sampler = generator.load().sampler(plan, compute, read_weights(workdir, snapshot))
    draw_masks = _mask_drawer(workdir / MASKS, compute) if plan.given_channels else None
    for first in range(start - start % batch_size, start + count, batch_size):
        numbers = range(first, first + batch_size)
        seeds = [seed_of(seed, "sample", k) for k in numbers]
        masks_NHW = None
        with torch.no_grad():
            if draw_masks is not None and encoding is not None:
                masks_NHW = encoding.decode(draw_masks([seed_of(seed, "mask", k) for k in numbers]))
                given_NKHW = torch.from_numpy(encoding.encode(masks_NHW.cpu().numpy()))
                drawn = sampler(seeds, given_NKHW.to(compute.device))
            else:
                drawn = sampler(seeds)
        if isinstance(drawn, tuple):
            drawn, masks_NHW = drawn
        elif encoding is not None and masks_NHW is None:
            masks_NHW = encoding.decode(drawn[:, -encoding.channels :])
            drawn = drawn[:, : -encoding.channels]
        pairs = generator.emits == "image and mask" or encoding is not None
        if (masks_NHW is not None) != pairs:
            raise HyfreeError(
                "extension.broken",
                f"the generator {generator.name!r} declares to emit {generator.emits}, but its "
                f"sampler {'returns masks' if masks_NHW is not None else 'returns no masks'}",
            )
        asked = slice(max(start - first, 0), start + count - first)
        yield Samples(
            drawn.float().clamp(-1, 1).cpu().contiguous().numpy()[asked],
            None if masks_NHW is None else masks_NHW.to(torch.uint8).cpu().numpy()[asked],
        )


def _mask_drawer(workdir: Path, compute: Compute) -> Callable[[list[int]], Tensor]:
    """Return what draws channels_NKHW of masks by the end of a mask generator's training."""
    generator, _, plan = trained(workdir)
    snapshots = sorted((workdir / "snapshots").glob("*.safetensors"))
    weights = read_weights(workdir, snapshots[-1].name if snapshots else "end")
    sampler = generator.load().sampler(plan, compute, weights)

    def draw(seeds: list[int]) -> Tensor:
        channels_NKHW = sampler(seeds)
        assert isinstance(channels_NKHW, Tensor)
        return channels_NKHW

    return draw
