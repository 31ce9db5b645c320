"""The preparation of a site's raw data for its trainings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from hyfree_ray.cohorts.label_sets import IGNORE
from hyfree_ray.cohorts.phantom_record import DEFAULT_PHANTOM
from hyfree_ray.cohorts.site_case import Cases
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.stage import Context, Folder, stage
from hyfree_ray.segmenters.plan_caps import PlanCaps

if TYPE_CHECKING:
    from hyfree_ray.generators.view import RawSlice
    from hyfree_ray.segmenters.unet_plan import UNetPlan


@stage(version=1)
def draw_phantom(
    context: Context, *, index: int, seed: int, phantom: int, kind: str = DEFAULT_PHANTOM
) -> dict[str, Any]:
    """Draw the phantom site `index` as a raw data set (`phantom` is the phantom's version)."""
    from hyfree_ray.cohorts.phantom_record import PHANTOMS

    assert phantom >= 1
    PHANTOMS[kind].draw_site(index, seed, context.out)
    return {"images": len(list((context.out / "labelsTr").iterdir()))}


@stage(version=4, private=("cases",))
def prepare(
    context: Context,
    *,
    data: Folder,
    cases: Cases,
    dataset: Mapping[str, Any],
    caps: Mapping[str, Any],
    masks: bool = False,
) -> dict[str, Any]:
    """Plan nnU-Net on a site's own training and validation cases, preprocess, build the view.

    Writes `plans.json`, `dataset.json`, `preprocessed/` and `view.npz` (real images and their
    masks: they stay).

    Args:
        context: where to.
        data: the raw data set.
        cases: training and validation cases.
        dataset: channels and labels.
        caps: the budget's, on nnU-Net's plan.
        masks: whether the generator learns masks.

    Raises:
        HyfreeError: a generator is to learn masks with pixels that were not annotated.
    """
    import numpy as np

    from hyfree_ray.generators.view import stored_bits, write_view
    from hyfree_ray.segmenters.nnunet.data import plan_and_preprocess

    if masks and IGNORE in dataset["labels"]:
        raise HyfreeError(
            "generator.bad-images",
            "the generator learns masks, but pixels labelled ignore have none; use a generator of "
            "images",
        )
    plan = plan_and_preprocess(
        context.out,
        raw_cases(data, cases),
        dataset,
        PlanCaps(**caps),
        validation=[case["name"] for case in cases if case["part"] == "val"],
    )
    small: list[bool] = []
    write_view(
        context.out / "view.npz",
        _slices(data, cases, dataset, plan, small),
        patch=plan.patch_size,
        target_spacing=plan.spacing,
        site=context.owner,
    )
    with np.load(context.out / "view.npz") as view:
        training_N = view["training"]
        bits = stored_bits(view["low"], view["high"], np.array(plan.foreground_sd))
    return {
        "patch_size": list(plan.patch_size),
        "spacing": list(plan.spacing),
        "strides": [list(stride) for stride in plan.strides],
        "features": list(plan.features_per_stage),
        "batch_size": plan.batch_size,
        "training_images": int(training_N.sum()),
        "validation_images": int((~training_N).sum()),
        "smaller_than_patch": sum(small),
        "stored_bits": bits,
        "patients": len({case["patient"] for case in cases}),
        "label_share": _label_shares(data, cases, dataset),
    }


def _slices(
    data: Folder,
    cases: Cases,
    dataset: Mapping[str, Any],
    plan: UNetPlan,
    small: list[bool],
) -> Iterator[RawSlice]:
    """Yield the slices that the generator sees, one case in memory at a time.

    Args:
        data: the raw data set.
        cases: training and validation cases.
        dataset: as in `prepare`.
        plan: the site's plan.
        small: gets, for each slice, whether it is smaller than the patch.
    """
    from hyfree_ray.generators.view import RawSlice
    from hyfree_ray.segmenters.nnunet.reading import cut_masks, cut_slices, read_image, read_label

    for case in cases:
        image_CZHW, spacing = read_image([data / name for name in case["images"]], dataset)
        cut, in_plane = cut_slices(image_CZHW, spacing, plan.slice_axis)
        label_ZHW = read_label(data / case["label"], dataset)
        labels = cut_masks(label_ZHW, image_CZHW, spacing, plan.slice_axis)
        for image_CHW, label_HW in zip(cut, labels, strict=True):
            small.append(_is_smaller(image_CHW.shape[1:], in_plane, plan))
            yield RawSlice(
                image_CHW=image_CHW,
                spacing=in_plane,
                patient=case["patient"],
                training=case["part"] == "train",
                label_HW=label_HW,
            )


def _label_shares(data: Folder, cases: Cases, dataset: Mapping[str, Any]) -> dict[str, float]:
    """Return the share of pixels that each label or region takes, the mean over cases."""
    import numpy as np

    from hyfree_ray.cohorts.label_sets import foreground, mask_of
    from hyfree_ray.segmenters.nnunet.reading import read_label

    shares: dict[str, list[float]] = {name: [] for name in foreground(dataset["labels"])}
    for case in cases:
        label_ZHW = read_label(data / case["label"], dataset)
        for name, classes in foreground(dataset["labels"]).items():
            shares[name].append(float(mask_of(label_ZHW, classes).mean()))
    return {name: float(np.mean(of_label)) for name, of_label in shares.items()}


def _is_smaller(size: tuple[int, ...], spacing: tuple[float, float], plan: UNetPlan) -> bool:
    """Return whether a slice leaves more than a tenth of the patch empty along both axes."""
    filled = (
        length * own / target / side
        for length, own, target, side in zip(
            size, spacing, plan.spacing, plan.patch_size, strict=True
        )
    )
    return max(filled) < 0.9


@stage(version=1, private=("cases",))
def prepare_for_general(
    context: Context,
    *,
    data: Folder,
    cases: Cases,
    dataset: Mapping[str, Any],
    general: Folder,
    caps: Mapping[str, Any],
) -> dict[str, Any]:
    """Preprocess a site's own cases for the general model's plan, not for its own."""
    from hyfree_ray.segmenters.nnunet.data import preprocess_for

    plan = preprocess_for(
        context.out,
        raw_cases(data, cases),
        dataset,
        general / "model",
        PlanCaps(**caps),
        validation=[case["name"] for case in cases if case["part"] == "val"],
    )
    return {"patch_size": list(plan.patch_size), "batch_size": plan.batch_size}


def raw_cases(data: Folder, cases: Cases) -> list[Any]:
    """Return cases as nnU-Net reads them, under the data set's folder."""
    from hyfree_ray.segmenters.nnunet.data import RawCase

    return [
        RawCase(
            name=case["name"],
            images=tuple((data / name).resolve() for name in case["images"]),
            label=(data / case["label"]).resolve(),
        )
        for case in cases
    ]
