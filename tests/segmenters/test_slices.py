"""Cases that are single slices: structures that few of them show are seen in every batch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from hyfree_ray.segmenters.nnunet.data import (
    RawCase,
    nnunet_environment,
    plan_and_preprocess,
    use_on_volumes,
)
from hyfree_ray.segmenters.nnunet.schedule import Schedule
from hyfree_ray.segmenters.nnunet.slices import SliceLoader, taken_by_class
from hyfree_ray.segmenters.nnunet.train import ResumableTrainer, make_trainer
from hyfree_ray.segmenters.plan_caps import PlanCaps

CAPS = PlanCaps(working_size=32, base_features=4, max_features=8, batch_size=6)
DATASET_JSON = {
    "channel_names": {"0": "MR"},
    "labels": {"background": 0, "oedema": 1, "core": 2},
    "file_ending": ".nii.gz",
    "numTraining": 30,
}
RARE = "c03"
"""The one training case with a core; a few more have an oedema, most have nothing."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    raw, root = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("prepared")
    cases = []
    for index in range(30):
        mask_HW = np.zeros((36, 28), np.uint8)
        if index % 6 == 3:
            mask_HW[8:14, 9:12] = 1
        if index == 3:
            mask_HW[10:12, 10] = 2
        noise_HW = np.random.default_rng(index).normal(100 + 50 * (mask_HW > 0), 10, (36, 28))
        for name, array in ((f"c{index:02d}_0000", noise_HW), (f"c{index:02d}", mask_HW)):
            image = sitk.GetImageFromArray(array.astype(np.float32 if "_" in name else np.uint8))
            sitk.WriteImage(image, str(raw / f"{name}.nii.gz"))
        files = (raw / f"c{index:02d}_0000.nii.gz",)
        case = RawCase(name=f"c{index:02d}", images=files, label=raw / f"c{index:02d}.nii.gz")
        cases.append(case)
    validation = [case.name for case in cases[-8:]]
    plan_and_preprocess(root, cases, DATASET_JSON, CAPS, validation=validation)
    return root


def ignore(step: int, total: int, metrics: Mapping[str, float]) -> None:
    """A report that nobody reads."""


def loader_of(prepared: Path, folder: Path) -> Any:
    """The training's loader, as nnU-Net makes it."""
    with nnunet_environment(prepared, results=folder / "nnunet", augmenters=0):
        trainer = make_trainer(
            ResumableTrainer,
            prepared,
            folder,
            schedule=Schedule(epochs=1, iterations=1, validation_iterations=1),
            seed=1,
            device="cpu",
            report=ignore,
        )
        training, _ = trainer.get_dataloaders()
    return training.data_loader


def test_the_rarest_structure_is_seen_as_often_as_any_other(prepared: Path, tmp_path: Path) -> None:
    with taken_by_class():
        loader = loader_of(prepared, tmp_path)
    assert isinstance(loader, SliceLoader)
    batches = [loader.get_indices() for _ in range(400)]
    free = round(loader.batch_size * (1 - loader.oversample_foreground_percent))
    rest = [name for batch in batches for name in batch[:free]]
    shown = [name for batch in batches for name in batch[free:]]
    assert set(rest) == set(loader.indices)  # the others are drawn from all cases
    assert all(int(name[1:]) % 6 == 3 for name in shown)
    # Half of them for its core, and one in as many as there are for its oedema.
    with_oedema = sum(int(name[1:]) % 6 == 3 for name in loader.indices)
    assert shown.count(RARE) / len(shown) == pytest.approx(0.5 + 0.5 / with_oedema, abs=0.05)


def test_sets_of_slices_alone_are_taken_so(prepared: Path, tmp_path: Path) -> None:
    """Hospitals' own volumes and images are loaded as nnU-Net loads them."""
    assert not isinstance(loader_of(prepared, tmp_path / "plain"), SliceLoader)
    use_on_volumes(prepared, axis=0)
    assert isinstance(loader_of(prepared, tmp_path / "slices"), SliceLoader)
