"""The three trainings of the method: generator, a site's segmenter, the general segmenter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyfree_ray.core.stage import Context, Folder, stage
from hyfree_ray.evaluation.regimes import REGIMES, Augmentation
from hyfree_ray.segmenters.record import Optimiser


@stage(version=7, device=True)
def train_generator(
    context: Context,
    *,
    prepared: Folder,
    generator: Mapping[str, Any],
    images_shown: int,
    snapshots: int,
    mirror: bool,
    precision: str,
    seed: int,
) -> dict[str, Any]:
    """Train a site's generator on its training images, with their masks where it learns them.

    Args:
        context: where to.
        prepared: the site's plan and view.
        generator: its name, `config`: its own settings by value, and how it comes by masks.
        images_shown: the training's length.
        snapshots: of averaged weights, at most.
        mirror: whether a mirrored image is as good as the image.
        precision: of its activations.
        seed: of this training alone.
    """
    from hyfree_ray import generators
    from hyfree_ray.generators.pairing import draws_masks
    from hyfree_ray.generators.view import GeneratorView
    from hyfree_ray.segmenters.unet_plan import UNetPlan

    view = GeneratorView.load(prepared / "view.npz")
    record = generators.GENERATORS[generator["name"]]
    masks_NHW = view.masks_NHW if draws_masks(generator["pairing"]) else None
    plan = generators.train(
        generator["name"],
        config=record.configured(generator["config"]),
        unet=UNetPlan.read(Path(prepared)),
        images_NCHW=view.images_NCHW[view.training_N],
        masks_NHW=None if masks_NHW is None else masks_NHW[view.training_N],
        pairing=generator["pairing"],
        mask_encoding=generator["mask_encoding"],
        patients_N=view.patients_N[view.training_N],
        images_shown=images_shown,
        seed=seed,
        workdir=context.out,
        device=context.device,
        precision=precision,
        mirror=mirror,
        snapshots=snapshots,
        progress=context.progress,
        saved=context.saved,
    )
    return {
        "images_shown": images_shown,
        "snapshots": sorted(file.name for file in (context.out / "snapshots").iterdir()),
        "derivation": list(plan.steps),
        "guarantee": generators.guarantee(context.out),
    }


COPIES = "copies.npy"
"""Samples of a generator that copies, float32 in [-1, 1]."""

COPIED_IMAGES = 8
COPYING = 5 * COPIED_IMAGES
"""Images shown to make a generator copy, over how often its own training shows each image."""
COPY_SAMPLES = 48


@stage(version=2, device=True)
def overtrain_generator(
    context: Context,
    *,
    prepared: Folder,
    generator: Mapping[str, Any],
    images_shown: int,
    precision: str,
    seed: int,
) -> dict[str, Any]:
    """Train a generator on a few of a site's images until it copies them, and sample it.

    The filter is tested on these samples, and nothing else is done with them: `copies.npy` stays at
    the site.

    Args:
        context: where to.
        prepared: the site's plan and view.
        generator: as in `train_generator`, the one whose samples the filter judges.
        images_shown: the training's length.
        precision: of its activations.
        seed: of the choice of images, of the training and of the samples.

    Returns:
        The training images that it copies, by their number among these.
    """
    import numpy as np

    from hyfree_ray import generators
    from hyfree_ray.core.seeds import seed_of
    from hyfree_ray.generators.pairing import draws_masks
    from hyfree_ray.generators.view import GeneratorView
    from hyfree_ray.segmenters.unet_plan import UNetPlan

    view = GeneratorView.load(prepared / "view.npz")
    training_N = np.flatnonzero(view.training_N)
    order_N = np.random.default_rng(seed).permutation(len(training_N))
    copied_K = np.sort(order_N[:COPIED_IMAGES])
    real_K = training_N[copied_K]
    masks_NHW = view.masks_NHW if draws_masks(generator["pairing"]) else None
    generators.train(
        generator["name"],
        config=generators.GENERATORS[generator["name"]].configured(generator["config"]),
        unet=UNetPlan.read(Path(prepared)),
        images_NCHW=view.images_NCHW[real_K],
        masks_NHW=None if masks_NHW is None else masks_NHW[real_K],
        pairing=generator["pairing"],
        mask_encoding=generator["mask_encoding"],
        images_shown=images_shown,
        seed=seed_of(seed, "training"),
        workdir=context.out,
        device=context.device,
        precision=precision,
        mirror=False,
        snapshots=1,
        progress=context.progress,
        saved=context.saved,
    )
    (snapshot,) = (context.out / "snapshots").iterdir()
    drawn = generators.sample(
        context.out,
        snapshot.name,
        start=0,
        count=COPY_SAMPLES,
        seed=seed_of(seed, "samples"),
        device=context.device,
        precision=precision,
    )
    np.save(context.out / COPIES, np.concatenate(list(drawn)))
    return {"copied": copied_K.tolist(), "images_shown": images_shown}


@stage(version=5, device=True)
def train_segmenter(
    context: Context,
    *,
    role: str,
    prepared: Folder,
    segmenter: str,
    epochs: int,
    iterations: int,
    validation_iterations: int,
    optimiser: Optimiser,
    warmup: float,
    precision: str,
    seed: int,
    initial: Folder | None = None,
    augmentation: Augmentation = "nnunet",
) -> dict[str, Any]:
    """Train nnU-Net in one of its roles: a regime's name, shown by progress and tables."""
    from hyfree_ray.segmenters.nnunet.augmentation import TRAINERS
    from hyfree_ray.segmenters.nnunet.schedule import Schedule
    from hyfree_ray.segmenters.nnunet.train import train

    assert role in REGIMES
    return train(
        Path(prepared),
        context.out,
        schedule=Schedule(
            epochs=epochs,
            iterations=iterations,
            validation_iterations=validation_iterations,
            optimiser=optimiser,
            warmup=warmup,
            precision=precision,
        ),
        seed=seed,
        device=context.device,
        report=context.progress,
        segmenter=segmenter,
        each_epoch=lambda epoch: context.saved(epoch, epochs),
        initial=None if initial is None else initial / "model",
        kind=TRAINERS[augmentation],
    )


@stage(version=5, device=True, distributed=True)
def train_general(
    context: Context,
    *,
    prepared: Folder,
    segmenter: str,
    epochs: int,
    iterations: int,
    validation_iterations: int,
    optimiser: Optimiser,
    workers: int,
    precision: str,
    seed: int,
    augmentation: Augmentation = "nnunet",
) -> dict[str, Any]:
    """Train the general nnU-Net on the pooled releases, in `workers` processes."""
    arguments: dict[str, Any] = {
        "prepared": str(prepared),
        "out": str(context.out),
        "owner": context.owner,
        "segmenter": segmenter,
        "epochs": epochs,
        "iterations": iterations,
        "validation_iterations": validation_iterations,
        "optimiser": optimiser,
        "precision": precision,
        "seed": seed,
        "augmentation": augmentation,
    }
    if context.launch is None:
        assert workers == 1, "several workers need a launcher"
        train_general_worker(device=context.device, **arguments)
    else:
        context.launch(train_general_worker, arguments, workers, context.out)
    return {"workers": workers, **_read_result(context.out)}


def train_general_worker(
    *,
    prepared: str,
    out: str,
    owner: str,
    segmenter: str,
    epochs: int,
    iterations: int,
    validation_iterations: int,
    optimiser: Optimiser,
    precision: str,
    seed: int,
    device: str,
    augmentation: Augmentation,
    report: Any = None,
) -> None:
    """Run one process of the general training; `report` is called on all ranks after each epoch."""
    from hyfree_ray.core.files import write_json
    from hyfree_ray.segmenters.nnunet.augmentation import TRAINERS
    from hyfree_ray.segmenters.nnunet.schedule import Schedule
    from hyfree_ray.segmenters.nnunet.train import train

    context = Context(out=Path(out), owner=owner, device=device)

    def progress(step: int, total: int, metrics: Mapping[str, float]) -> None:
        context.progress(step, total, metrics)

    result = train(
        Path(prepared),
        Path(out),
        schedule=Schedule(
            epochs=epochs,
            iterations=iterations,
            validation_iterations=validation_iterations,
            optimiser=optimiser,
            precision=precision,
        ),
        seed=seed,
        device=device,
        report=progress,
        segmenter=segmenter,
        each_epoch=report,
        kind=TRAINERS[augmentation],
    )
    if result["rank"] == 0:
        write_json(Path(out) / "training.json", result)


def _read_result(out: Path) -> dict[str, Any]:
    import json

    result: dict[str, Any] = json.loads((out / "training.json").read_text())
    result.pop("rank")
    return result
