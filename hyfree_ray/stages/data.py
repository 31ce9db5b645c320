"""From a site's raw data to what its trainings read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hyfree_ray.budget import PlanCaps
from hyfree_ray.stage import Context, stage

Cases = Sequence[Mapping[str, Any]]
"""Cases as JSON: name, patient (index), images, label (relative to the data), part."""


@stage(version=1)
def draw_phantom(context: Context, *, index: int, seed: int, phantom: int) -> dict[str, Any]:
    """Draw the phantom site `index` as a raw data set (`phantom` is the phantom's version)."""
    from hyfree_ray.phantom import draw_phantom_site

    assert phantom >= 1
    draw_phantom_site(index, seed, context.out)
    return {"images": len(list((context.out / "imagesTr").iterdir()))}


@stage(version=1, private=("cases",))
def prepare(
    context: Context,
    *,
    data: Path,
    cases: Cases,
    dataset: Mapping[str, Any],
    caps: Mapping[str, Any],
) -> dict[str, Any]:
    """Plan nnU-Net on a site's own training and validation cases, preprocess, build the view.

    Writes `plans.json`, `dataset.json`, `preprocessed/` and `view.npz` (real images: they stay).
    """
    import numpy as np

    from hyfree_ray.generator_view import build_view
    from hyfree_ray.segmenters.nnunet.data import (
        crop_to_content,
        plan_and_preprocess,
        read_image,
        read_label,
    )

    labels: Mapping[str, int] = dataset["labels"]
    plan = plan_and_preprocess(
        context.out,
        raw_cases(data, cases),
        dataset,
        PlanCaps(**caps),
        validation=[case["name"] for case in cases if case["part"] == "val"],
    )
    slices, patients, training = [], [], []
    shares: dict[str, list[float]] = {name: [] for name, value in labels.items() if value != 0}
    for case in cases:
        image_CZHW, spacing = read_image([data / name for name in case["images"]], dataset)
        for image_CHW in crop_to_content(image_CZHW).transpose(1, 0, 2, 3):
            slices.append((image_CHW, (spacing[1], spacing[2])))
            patients.append(case["patient"])
            training.append(case["part"] == "train")
        label_ZHW = read_label(data / case["label"], dataset)
        for name, of_label in shares.items():
            of_label.append(float((label_ZHW == labels[name]).mean()))
    view = build_view(
        slices,
        patients,
        training,
        patch=plan.patch_size,
        target_spacing=plan.spacing,
        site=context.owner,
    )
    view.save(context.out / "view.npz")
    return {
        "patch_size": list(plan.patch_size),
        "spacing": list(plan.spacing),
        "strides": [list(stride) for stride in plan.strides],
        "features": list(plan.features_per_stage),
        "batch_size": plan.batch_size,
        "training_images": int(view.training_N.sum()),
        "validation_images": int((~view.training_N).sum()),
        "smaller_than_patch": sum(
            max(
                image.shape[1] * s[0] / plan.spacing[0] / plan.patch_size[0],
                image.shape[2] * s[1] / plan.spacing[1] / plan.patch_size[1],
            )
            < 0.9
            for image, s in slices
        ),
        "patients": len(set(patients)),
        "label_share": {name: float(np.mean(of_label)) for name, of_label in shares.items()},
    }


@stage(version=1, private=("cases",))
def prepare_for_general(
    context: Context,
    *,
    data: Path,
    cases: Cases,
    dataset: Mapping[str, Any],
    general: Path,
    caps: Mapping[str, Any],
) -> dict[str, Any]:
    """Preprocess a site's own cases for the general model's plan (METHOD: not for its own)."""
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


def raw_cases(data: Path, cases: Cases) -> list[Any]:
    """Cases as nnU-Net reads them, under the data set's folder."""
    from hyfree_ray.segmenters.nnunet.data import RawCase

    return [
        RawCase(
            name=case["name"],
            images=tuple((data / name).resolve() for name in case["images"]),
            label=(data / case["label"]).resolve(),
        )
        for case in cases
    ]
