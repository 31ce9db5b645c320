"""A site's real cases and the pool's synthetic ones, prepared for fine-tuning that does not forget.

Fine-tuning on real images alone overwrites what the general model knew of other sites. With replay
part of each batch (a quarter, in expectation, by default: docs/RESULTS.md) is drawn from the other
sites' releases in their natural proportions, the rest from the site's real training images
(experience replay, Rolnick et al. 2019, arXiv 1811.11682; rehearsal on generated data, Shin et al.
2017, arXiv 1705.08690).

Shapes: C channels, Z slices, H height, W width.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hyfree_ray.cohorts.site_case import Cases
from hyfree_ray.core.stage import Context, Folder, stage
from hyfree_ray.segmenters.plan_caps import PlanCaps


@stage(version=5, private=("cases",))
def prepare_replay(
    context: Context,
    /,
    *,
    data: Folder,
    cases: Cases,
    dataset: Mapping[str, Any],
    general: Folder,
    caps: Mapping[str, Any],
    releases_of: Sequence[str],
    share: float,
    federation: str,
    **releases: Folder,
) -> dict[str, Any]:
    """Preprocess own real cases and other sites' releases for the general model's plan.

    Args:
        context: where to.
        data: the site's raw data set.
        cases: its training and validation cases. Validation is on real images alone.
        dataset: channels and labels.
        general: the general model.
        caps: the budget's, on nnU-Net's plan.
        releases_of: sites whose releases are replayed, in order.
        share: share of synthetic images among those drawn.
        federation: key of the federation that the releases were made for.
        releases: `release_<position in releases_of>`.
    """
    from hyfree_ray.core.files import remove_tree
    from hyfree_ray.segmenters.nnunet.data import (
        Split,
        preprocess_for,
        use_on_volumes,
        write_splits,
    )

    real = write_real_slices(context.out / "slices", "real", data, cases, dataset)
    synthetic = write_releases(context.out / "slices", releases_of, releases, federation, dataset)
    validation = [case.name for case, part in real if part == "val"]
    plan = preprocess_for(
        context.out,
        [case for case, _ in real] + synthetic,
        as_mha(dataset),
        general / "model",
        PlanCaps(**caps),
        validation=validation,
    )
    use_on_volumes(context.out, slice_axis_of(cases))
    training = [case.name for case, part in real if part == "train"]
    drawn = in_proportion(training, [case.name for case in synthetic], share)
    write_splits(context.out, [Split(train=drawn, val=validation)])
    remove_tree(context.out / "slices")
    return {
        "patch_size": list(plan.patch_size),
        "batch_size": plan.batch_size,
        "real": len(training),
        "synthetic": len(synthetic),
    }


def in_proportion(real: Sequence[str], synthetic: Sequence[str], share: float) -> list[str]:
    """Repeat names until `share` of them are synthetic.

    Names of one kind are repeated equally often, to within one, and every name at least once;
    without synthetic names the real ones are returned as they are.
    """
    if not synthetic:
        return list(real)
    count = max(len(real) / (1 - share), len(synthetic) / share)
    return [
        name
        for kind, part in ((real, 1 - share), (synthetic, share))
        for name in itertools.islice(itertools.cycle(kind), round(count * part))
    ]


def as_mha(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same task in MetaImage files, the format that real and synthetic slices share."""
    return {
        "channel_names": dataset["channel_names"],
        "labels": dataset["labels"],
        "file_ending": ".mha",
        **{key: dataset[key] for key in ("regions_class_order",) if key in dataset},
    }


def slice_axis_of(cases: Cases) -> int:
    """Return the axis that a site's volumes are cut along; 0 for 2D images."""
    return int(cases[0].get("slice_axis", 0))


def write_releases(
    folder: Path,
    sites: Sequence[str],
    releases: Mapping[str, Folder],
    federation: str,
    dataset: Mapping[str, Any],
) -> list[Any]:
    """Write the releases as raw cases, with the values that labels have in `dataset`.

    Raises:
        ReleaseError: the rule that one breaks.
        HyfreeError: one has other structures.
    """
    from hyfree_ray.cohorts.label_sets import LabelEncoding
    from hyfree_ray.stages.pooling import read_releases, write_slices

    encoding = LabelEncoding.of(dataset)
    found = enumerate(read_releases(sites, releases, federation))
    return [
        case
        for position, (_, release) in found
        for case in write_slices(folder, f"synthetic{position:03d}", release, encoding)
    ]


def write_real_slices(
    folder: Path, prefix: str, data: Folder, cases: Cases, dataset: Mapping[str, Any]
) -> list[tuple[Any, str]]:
    """Write real cases slice by slice as MetaImage; return each with its part.

    nnU-Net reads a data set by one reader: real images have to come in the releases' format.
    """
    from hyfree_ray.segmenters.nnunet.data import RawCase
    from hyfree_ray.segmenters.nnunet.reading import read_image, read_label
    from hyfree_ray.stages.pooling import write_mha

    folder.mkdir(parents=True, exist_ok=True)
    written: list[tuple[Any, str]] = []
    for number, case in enumerate(cases):
        image_CZHW, spacing = read_image([data / name for name in case["images"]], dataset)
        label_ZHW = read_label(data / case["label"], dataset)
        axis = slice_axis_of([case])
        height, width = (spacing[k] for k in range(3) if k != axis)
        spacing_xy = (width, height)
        for z in range(label_ZHW.shape[axis]):
            image_CHW, label_HW = image_CZHW.take(z, axis=1 + axis), label_ZHW.take(z, axis=axis)
            name = f"{prefix}_{number:06d}_{z:04d}"
            files = tuple(_channel_files(folder, name, image_CHW, spacing_xy))
            write_mha(folder / f"{name}.mha", label_HW, spacing_xy)
            raw = RawCase(name=name, images=files, label=folder / f"{name}.mha")
            written.append((raw, case["part"]))
    return written


def _channel_files(
    folder: Path, name: str, image_CHW: Iterable[Any], spacing_xy: tuple[float, float]
) -> Iterable[Path]:
    from hyfree_ray.stages.pooling import write_mha

    for channel, image_HW in enumerate(image_CHW):
        path = folder / f"{name}_{channel:04d}.mha"
        write_mha(path, image_HW, spacing_xy)
        yield path
