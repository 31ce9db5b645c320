"""The alternatives to sharing releases: trainings that need all sites' real data in one place."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from hyfree_ray.cohorts.site_case import Cases
from hyfree_ray.core.stage import Context, Folder, stage
from hyfree_ray.segmenters.plan_caps import PlanCaps
from hyfree_ray.segmenters.record import Optimiser
from hyfree_ray.stages.data import raw_cases
from hyfree_ray.stages.replay import (
    as_mha,
    slice_axis_of,
    write_real_slices,
    write_releases,
)


@stage(version=1, private=("cases",))
def prepare_together(
    context: Context,
    /,
    *,
    cases: Sequence[Cases],
    dataset: Mapping[str, Any],
    caps: Mapping[str, Any],
    federated: bool = False,
    **data: Folder,
) -> dict[str, Any]:
    """Plan nnU-Net on the real cases of all sites together, and preprocess.

    The first split holds all cases, each of the others one site's (for federated averaging).

    Args:
        context: where to.
        cases: training and validation cases, by site.
        dataset: channels and labels.
        caps: the budget's, on nnU-Net's plan.
        federated: plan on the sites' own fingerprints, as if their images stayed where they are.
        data: `data_<position of the site>`, raw data sets.
    """
    from dataclasses import replace

    from hyfree_ray.segmenters.nnunet.data import Split, plan_and_preprocess, write_splits

    raw, splits = [], []
    for position, of_site in enumerate(cases):
        renamed = [
            replace(case, name=f"s{position:03d}_{case.name}")
            for case in raw_cases(data[f"data_{position}"], of_site)
        ]
        names: dict[str, list[str]] = {"train": [], "val": []}
        for case, described in zip(renamed, of_site, strict=True):
            names[described["part"]].append(case.name)
        splits.append(Split(**names))
        raw += renamed
    together = Split(
        train=[name for split in splits for name in split.train],
        val=[name for split in splits for name in split.val],
    )
    plan = plan_and_preprocess(
        context.out,
        raw,
        dataset,
        PlanCaps(**caps),
        validation=together.val,
        parties=[[*split.train, *split.val] for split in splits] if federated else (),
    )
    write_splits(context.out, [together, *splits])
    return {
        "patch_size": list(plan.patch_size),
        "spacing": list(plan.spacing),
        "strides": [list(stride) for stride in plan.strides],
        "batch_size": plan.batch_size,
        "training_images": len(together.train),
    }


@stage(version=4, private=("cases",))
def prepare_mixture(
    context: Context,
    /,
    *,
    cases: Sequence[Cases],
    dataset: Mapping[str, Any],
    caps: Mapping[str, Any],
    synthetic_share: float,
    releases_of: Sequence[str],
    federation: str,
    seed: int,
    **inputs: Folder,
) -> dict[str, Any]:
    """Mix real and synthetic images of all sites, as many as there are real training images.

    A point of a sweep over the proportion at constant size, as in Akbar, Larsson and Eklund (2024,
    arXiv 2306.02986). Larger shares of a kind contain the smaller ones. If the sites released
    fewer images than a share requires, all are taken and the set is smaller.

    Args:
        context: where to.
        cases: training and validation cases, by site; validation is on all real ones.
        dataset: channels and labels.
        caps: the budget's, on nnU-Net's plan.
        synthetic_share: share of synthetic training images.
        releases_of: sites whose releases are given, in order.
        federation: key of the federation that the releases were made for.
        seed: seed of the choice of images.
        inputs: `data_<position of the site>` and `release_<position in releases_of>`.
    """
    from hyfree_ray.core.files import remove_tree
    from hyfree_ray.segmenters.nnunet.data import plan_and_preprocess, use_on_volumes

    slices = context.out / "slices"
    written = [
        pair
        for position, of_site in enumerate(cases)
        for pair in write_real_slices(
            slices, f"s{position:03d}", inputs[f"data_{position}"], of_site, dataset
        )
    ]
    validation = [case for case, part in written if part == "val"]
    real = [case for case, part in written if part == "train"]
    synthetic = write_releases(slices, releases_of, inputs, federation, dataset)
    synthetic_count = round(synthetic_share * len(real))
    chosen_real = _random_subset(real, len(real) - synthetic_count, seed)
    chosen_synthetic = _random_subset(synthetic, synthetic_count, seed)
    plan = plan_and_preprocess(
        context.out,
        [*chosen_real, *chosen_synthetic, *validation],
        as_mha(dataset),
        PlanCaps(**caps),
        validation=[case.name for case in validation],
    )
    use_on_volumes(context.out, slice_axis_of(cases[0]))
    remove_tree(slices)
    return {
        "patch_size": list(plan.patch_size),
        "spacing": list(plan.spacing),
        "strides": [list(stride) for stride in plan.strides],
        "batch_size": plan.batch_size,
        "training_images": len(chosen_real) + len(chosen_synthetic),
        "synthetic": len(chosen_synthetic),
    }


def _random_subset(cases: Sequence[Any], count: int, seed: int) -> list[Any]:
    """Return the first `count` of the cases in a random order."""
    order = list(cases)
    random.Random(seed).shuffle(order)
    return order[:count]


@stage(version=4, device=True)
def train_fedavg(
    context: Context,
    *,
    prepared: Folder,
    segmenter: str,
    epochs: int,
    iterations: int,
    validation_iterations: int,
    optimiser: Optimiser,
    precision: str,
    seed: int,
) -> dict[str, Any]:
    """Train nnU-Net by federated averaging over the sites of `prepare_together`."""
    from hyfree_ray.segmenters.nnunet.federated import train_federated
    from hyfree_ray.segmenters.nnunet.schedule import Schedule

    return train_federated(
        Path(prepared),
        context.out,
        schedule=Schedule(
            epochs=epochs,
            iterations=iterations,
            validation_iterations=validation_iterations,
            optimiser=optimiser,
            precision=precision,
        ),
        seed=seed,
        device=context.device,
        report=context.progress,
        segmenter=segmenter,
    )


@stage(version=1, device=True)
def train_personal_federated(
    context: Context,
    *,
    prepared: Folder,
    method: Literal["fedbn", "ditto"],
    segmenter: str,
    epochs: int,
    iterations: int,
    validation_iterations: int,
    optimiser: Optimiser,
    precision: str,
    seed: int,
) -> dict[str, Any]:
    """Train a network for each site of `prepare_together`, weights exchanged all along.

    Writes `models/<position of the site>/`.
    """
    from hyfree_ray.segmenters.nnunet.personal_federated import train_personal
    from hyfree_ray.segmenters.nnunet.schedule import Schedule

    return train_personal(
        Path(prepared),
        context.out,
        method=method,
        schedule=Schedule(
            epochs=epochs,
            iterations=iterations,
            validation_iterations=validation_iterations,
            optimiser=optimiser,
            precision=precision,
        ),
        seed=seed,
        device=context.device,
        report=context.progress,
        segmenter=segmenter,
    )


@stage(version=1)
def model_of_site(context: Context, *, trained: Folder, position: int) -> dict[str, Any]:
    """Take one site's network out of a federated training, as a model like any other."""
    import shutil

    shutil.copytree(trained / "models" / str(position), context.out / "model", dirs_exist_ok=True)
    return {"position": position}
