"""Fingerprint, plan and preprocessing of a set of cases, in this process.

Shapes: C channels, Z slices, H height, W width.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (
    DatasetFingerprintExtractor,
)
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (
    ExperimentPlanner,
)
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from hyfree_ray.border.foreign_plan import check_plan, check_resampled
from hyfree_ray.cohorts.slices import PLAN_NEEDS
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.guard import check_path
from hyfree_ray.segmenters.nnunet.federated_fingerprint import merge_fingerprints
from hyfree_ray.segmenters.nnunet.reading import reader_of
from hyfree_ray.segmenters.plan_caps import PlanCaps
from hyfree_ray.segmenters.unet_plan import UNetPlan

DATASET = "Dataset001_Party"
"""nnU-Net wants a numbered name. It never tells whose data it is: plans travel between parties."""

MADE_ON_SLICES = "made_on_slices"
"""Our entry in nnU-Net's plans, true where the trained cases are single slices."""

_PLANS_NAME = "nnUNetPlans"

MIN_STAGES = 3
"""Of a U-Net: nnU-Net's deep supervision gives the lowest of its outputs no weight."""

FINGERPRINT_PIXELS = 1e6
"""Foreground pixels that the fingerprint draws, over all cases.

nnU-Net's own figure, 1e8, draws each pixel of a small 2D set a hundred times (with replacement)
and takes seconds and gigabytes; at 1e6 the percentiles differ from it in the third digit.
"""


@dataclass(frozen=True, kw_only=True)
class RawCase:
    """A case as nnU-Net reads it: one image file a channel and a label file."""

    name: str
    images: tuple[Path, ...]
    label: Path


@dataclass(frozen=True, kw_only=True)
class Split:
    """Names of the cases to train and to validate on. A name that stands there twice is drawn
    twice as often."""

    train: Sequence[str]
    val: Sequence[str]


@contextlib.contextmanager
def nnunet_environment(
    root: Path, *, results: Path | None = None, augmenters: int = 1
) -> Iterator[None]:
    """Set the variables that nnU-Net reads: its three folders and its augmentation processes.

    Args:
        root: holds `raw/` and `preprocessed/`.
        results: where nnU-Net puts what it writes beside our checkpoints.
        augmenters: processes; 0 augments in this process. Planning breaks at 0.
    """
    values = {
        "nnUNet_raw": str(root / "raw"),
        "nnUNet_preprocessed": str(root / "preprocessed"),
        "nnUNet_results": str(results or root / "results"),
        "nnUNet_n_proc_DA": str(augmenters),
        # On a GPU nnU-Net compiles its network, for which Triton needs a C compiler.
        "nnUNet_compile": "true" if shutil.which("cc") or shutil.which("gcc") else "false",
    }
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class InProcessFingerprint(DatasetFingerprintExtractor):
    """nnU-Net's fingerprint without its pool of processes, on a choice of cases.

    The statistics are nnU-Net's own (`analyze_case`). A set without any foreground gets the
    intensities 0, which no normalisation but CT's reads, instead of an exception.
    """

    def run_on(self, names: Sequence[str]) -> dict[str, Any]:
        """Write `dataset_fingerprint.json` from the named cases and return it."""
        reader = reader_of(self.dataset_json, self.dataset[names[0]]["images"][0])
        samples = max(1, int(FINGERPRINT_PIXELS // len(names)))
        analysed = [
            self.analyze_case(
                self.dataset[name]["images"], self.dataset[name]["label"], reader, samples
            )
            for name in names
        ]
        fingerprint = {
            "spacings": [[float(s) for s in case[1]] for case in analysed],
            "shapes_after_crop": [[int(n) for n in case[0]] for case in analysed],
            "foreground_intensity_properties_per_channel": {
                str(channel): _intensity_properties(
                    np.concatenate([np.asarray(case[2][channel], np.float64) for case in analysed])
                )
                for channel in range(len(analysed[0][2]))
            },
            "median_relative_size_after_cropping": float(np.median([case[4] for case in analysed])),
        }
        self.write(fingerprint)
        return fingerprint

    def write(self, fingerprint: Mapping[str, Any]) -> None:
        """Write a fingerprint to where the planner reads it."""
        folder = Path(nnUNet_preprocessed) / self.dataset_name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))


def _intensity_properties(values: np.ndarray) -> dict[str, float]:
    if values.size == 0:
        values = np.zeros(1)
    low, median, high = np.percentile(values, (0.5, 50.0, 99.5))
    return {
        "mean": float(values.mean()),
        "median": float(median),
        "std": float(values.std()),
        "min": float(values.min()),
        "max": float(values.max()),
        "percentile_99_5": float(high),
        "percentile_00_5": float(low),
    }


class CappedPlanner(ExperimentPlanner):
    """nnU-Net's planner under caps: working resolution, width and batch size are capped.

    Every rule is nnU-Net's; the caps only change what the rules are given. Without caps the plan
    is nnU-Net's own, number for number.
    """

    def __init__(self, dataset_name: str, caps: PlanCaps) -> None:
        super().__init__(dataset_name, plans_name=_PLANS_NAME)
        self.caps = caps
        if caps.base_features is not None:
            self.UNet_base_num_features = caps.base_features
        if caps.max_features is not None:
            self.UNet_max_features_2d = caps.max_features

    def determine_transpose(self) -> tuple[list[int], list[int]]:
        # The slice axis is that of the data's own spacing: capping the in-plane resolution must
        # not turn an isotropic volume on its side.
        slice_axis = int(np.argmax(super().determine_fullres_target_spacing()))
        forward = [slice_axis, *(axis for axis in range(3) if axis != slice_axis)]
        return forward, [forward.index(axis) for axis in range(3)]

    def determine_fullres_target_spacing(self) -> np.ndarray:
        """nnU-Net's target spacing (mm), coarser in-plane where the caps bound the image size."""
        spacing = np.array(super().determine_fullres_target_spacing(), dtype=float)
        if self.caps.working_size is None:
            return spacing
        in_plane = [axis for axis in range(3) if axis != int(np.argmax(spacing))]
        shapes = [
            compute_new_shape(shape, original, spacing)
            for shape, original in zip(
                self.dataset_fingerprint["shapes_after_crop"],
                self.dataset_fingerprint["spacings"],
                strict=True,
            )
        ]
        longest = max(np.median(shapes, axis=0)[in_plane])
        spacing[in_plane] *= max(1.0, longest / self.caps.working_size)
        return spacing

    def get_plans_for_configuration(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        plan: dict[str, Any] = super().get_plans_for_configuration(*args, **kwargs)
        if self.caps.batch_size is not None:
            plan["batch_size"] = min(plan["batch_size"], self.caps.batch_size)
        return plan


def plan_and_preprocess(
    root: Path,
    cases: Sequence[RawCase],
    dataset_json: Mapping[str, Any],
    caps: PlanCaps,
    *,
    validation: Sequence[str],
    fingerprint_on: Sequence[str] | None = None,
    parties: Sequence[Sequence[str]] = (),
) -> UNetPlan:
    """Plan the `2d` configuration on `cases` and preprocess them for it, under `root`.

    Args:
        root: gets `plans.json`, `dataset.json` and `preprocessed/`, which `train` reads.
        cases: training and validation cases.
        dataset_json: nnU-Net's `dataset.json`: channel names, labels, file ending, reader.
        caps: on resolution, width and batch size.
        validation: names of the cases that only select the checkpoint.
        fingerprint_on: names of the cases that the plan is made on (all, where None).
        parties: names of each party's cases, where the plan is made on their fingerprints alone.

    Raises:
        HyfreeError: the images are smaller than a U-Net with one pooling can take.
    """
    with nnunet_environment(root):
        _write_raw(root, cases, dataset_json)
        fingerprint = InProcessFingerprint(DATASET)
        if parties:
            fingerprint.write(merge_fingerprints([fingerprint.run_on(one) for one in parties]))
        else:
            fingerprint.run_on(fingerprint_on or [case.name for case in cases])
        try:
            plans = CappedPlanner(DATASET, caps).plan_experiment()
        except (ValueError, IndexError, ZeroDivisionError) as error:
            raise HyfreeError(
                "data.no-plan",
                f"nnU-Net cannot plan a network for these images ({error}); "
                "check that they are at least 16 pixels high and wide",
            ) from error
        _check_poolings(plans)
        _preprocess(root, cases, plans, validation)
    return UNetPlan.from_plans(plans, channels=len(dataset_json["channel_names"]))


def _check_poolings(plans: Mapping[str, Any]) -> None:
    """Refuse a plan that cannot be trained, before anything is trained beside it.

    Raises:
        HyfreeError: it pools less than twice, so that nnU-Net's loss has no output left.
    """
    planned = plans["configurations"]["2d"]
    if len(planned["architecture"]["arch_kwargs"]["strides"]) < MIN_STAGES:
        height, width = planned["patch_size"]
        raise HyfreeError(
            "data.no-plan",
            f"nnU-Net plans {height}x{width} pixels for these images, too few to pool twice;"
            f" {PLAN_NEEDS}, at the resolution of the budget",
        )


def preprocess_for(
    root: Path,
    cases: Sequence[RawCase],
    dataset_json: Mapping[str, Any],
    model: Path,
    caps: PlanCaps,
    *,
    validation: Sequence[str],
) -> UNetPlan:
    """Preprocess `cases` for the plan of another party's `model`, so that it can be fine-tuned.

    The plan is the model's in everything but the reader of the files, the axis along which this
    party's volumes are cut, and the batch size, which nnU-Net's 5 % rule and the caps bound by
    this party's own data.
    """
    with nnunet_environment(root):
        _write_raw(root, cases, dataset_json)
        found = InProcessFingerprint(DATASET).run_on([case.name for case in cases])
        reader = reader_of(dataset_json, str(cases[0].images[0]))
        plans = json.loads((model / "plans.json").read_text())
        check_plan(plans)
        plans["dataset_name"] = DATASET
        plans.pop(MADE_ON_SLICES, None)
        plans["image_reader_writer"] = reader.__name__
        own = CappedPlanner(DATASET, caps).plan_experiment()
        for name in ("transpose_forward", "transpose_backward"):
            plans[name] = own[name]
        target = plans["configurations"]["2d"]
        for shape, spacing in zip(found["shapes_after_crop"], found["spacings"], strict=True):
            check_resampled(shape, spacing, target["spacing"], own["transpose_forward"][0])
        own_batch = own["configurations"]["2d"]["batch_size"]
        target["batch_size"] = min(target["batch_size"], own_batch)
        (root / "preprocessed" / DATASET / f"{_PLANS_NAME}.json").write_text(json.dumps(plans))
        _preprocess(root, cases, plans, validation)
    return UNetPlan.from_plans(plans, channels=len(dataset_json["channel_names"]))


def _write_raw(root: Path, cases: Sequence[RawCase], dataset_json: Mapping[str, Any]) -> None:
    """A raw data set that names its files where they lie: nothing is copied.

    `dataset.json` without those names goes beside the plan: it is what travels with a model.
    """
    public = {
        key: dataset_json[key]
        for key in ("channel_names", "labels", "file_ending", "regions_class_order")
        if key in dataset_json
    }
    for case in cases:
        for file in (*case.images, case.label):
            check_path(file)
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(public))
    listed = dict(dataset_json)
    listed["numTraining"] = len(cases)
    listed["dataset"] = {
        case.name: {"images": [str(file) for file in case.images], "label": str(case.label)}
        for case in cases
    }
    folder = root / "raw" / DATASET
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(listed))


def _preprocess(
    root: Path, cases: Sequence[RawCase], plans: Mapping[str, Any], validation: Sequence[str]
) -> None:
    manager = PlansManager(dict(plans))
    configuration = manager.get_configuration("2d")
    preprocessor = configuration.preprocessor_class(verbose=False)
    base = root / "preprocessed" / DATASET
    folder = base / configuration.data_identifier
    shutil.rmtree(folder, ignore_errors=True)  # what a killed attempt left: blosc2 overwrites none
    folder.mkdir(parents=True)
    dataset_json = json.loads((root / "dataset.json").read_text())
    for case in cases:
        images = [str(file) for file in case.images]
        preprocessor.run_case_save(
            str(folder / case.name), images, str(case.label), manager, configuration, dataset_json
        )
    held_out = set(validation)
    training = [case.name for case in cases if case.name not in held_out]
    write_splits(root, [Split(train=training, val=list(validation))])
    (base / "dataset.json").write_text(json.dumps(dataset_json))
    (root / "plans.json").write_text(json.dumps(plans))


def write_splits(root: Path, splits: Sequence[Split]) -> None:
    """Which of the prepared cases are trained on, instead of what preparing them wrote."""
    rows = [{"train": list(split.train), "val": list(split.val)} for split in splits]
    (root / "preprocessed" / DATASET / "splits_final.json").write_text(json.dumps(rows))


def read_splits(root: Path) -> list[Split]:
    """What `write_splits` wrote."""
    text = (root / "preprocessed" / DATASET / "splits_final.json").read_text()
    return [Split(**row) for row in json.loads(text)]


def use_on_volumes(root: Path, axis: int) -> None:
    """Note in the plan in `root` that it was made on slices, cut along `axis` of volumes.

    Models then cut volumes alike (`axis` of slices, height, width as stored), and segment slice
    by slice: nnU-Net normalises what it is given, a slice in training, by itself.
    """
    plans = json.loads((root / "plans.json").read_text())
    forward = [axis, *(other for other in range(3) if other != axis)]
    plans["transpose_forward"] = forward
    plans["transpose_backward"] = [forward.index(own) for own in range(3)]
    plans[MADE_ON_SLICES] = True
    (root / "plans.json").write_text(json.dumps(plans))
