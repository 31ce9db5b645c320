"""Augmentation: what a network is shown changes, and nothing else of its training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hyfree_ray.cohorts.phantom import draw_phantom_site
from hyfree_ray.segmenters.nnunet.augmentation import TRAINERS, RandomIntensityNetwork
from hyfree_ray.segmenters.nnunet.data import (
    RawCase,
    nnunet_environment,
    plan_and_preprocess,
)
from hyfree_ray.segmenters.nnunet.model import Model
from hyfree_ray.segmenters.nnunet.schedule import Schedule
from hyfree_ray.segmenters.nnunet.train import make_trainer, train
from hyfree_ray.segmenters.plan_caps import PlanCaps

SHORT = Schedule(epochs=2, iterations=2, validation_iterations=1)
CAPS = PlanCaps(working_size=32, base_features=4, max_features=8, batch_size=4)
LABELS = {"background": 0, "organ": 1, "lesion": 2}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("augmented")
    draw_phantom_site(2, 0, root / "data")
    labels = sorted((root / "data" / "labelsTr").iterdir())[:10]
    cases = [
        RawCase(
            name=label.name.removesuffix(".nii.gz"),
            images=(root / "data/imagesTr" / label.name.replace(".nii.gz", "_0000.nii.gz"),),
            label=label,
        )
        for label in labels
    ]
    dataset = {"channel_names": {"0": "MR"}, "labels": LABELS, "file_ending": ".nii.gz"}
    plan_and_preprocess(root / "prepared", cases, dataset, CAPS, validation=[cases[-1].name])
    return root / "prepared"


def trained(
    prepared: Path, folder: Path, augmentation: str, stop_after: int | None = None
) -> dict[str, torch.Tensor]:
    def report(step: int, total: int, metrics: Mapping[str, float]) -> None:
        if step == stop_after:
            raise KeyboardInterrupt

    train(
        prepared,
        folder,
        schedule=SHORT,
        seed=1,
        device="cpu",
        report=report,
        kind=TRAINERS[augmentation],
    )
    return load_file(folder / "model" / "weights.safetensors")


@pytest.mark.parametrize("augmentation", ["none", "da5", "da5+gin"])
def test_a_network_whose_images_are_augmented_otherwise_is_another_and_resumes_bit_for_bit(
    prepared: Path, tmp_path: Path, augmentation: str
) -> None:
    plain = trained(prepared, tmp_path / "plain", "nnunet")
    whole = trained(prepared, tmp_path / "whole", augmentation)
    assert plain.keys() == whole.keys()
    assert not all(torch.equal(plain[name], whole[name]) for name in plain)
    with pytest.raises(KeyboardInterrupt):
        trained(prepared, tmp_path / "cut", augmentation, stop_after=2)
    resumed = trained(prepared, tmp_path / "cut", augmentation)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    image_CZHW = np.random.default_rng(0).normal(size=(1, 1, 70, 50)).astype(np.float32)
    model = Model(tmp_path / "whole" / "model", "cpu")
    assert model.segment(image_CZHW, (1.0, 1.0, 1.5)).shape == (1, 70, 50)


def shown(prepared: Path, folder: Path, augmentation: str) -> tuple[set[float], set[float]]:
    """Return the values of pixels in two batches of a training, and those in its cases."""
    with nnunet_environment(prepared, results=folder, augmenters=0):
        trainer = make_trainer(
            TRAINERS[augmentation],
            prepared,
            folder,
            schedule=SHORT,
            seed=1,
            device="cpu",
            report=lambda *_: None,
        )
        loader, _ = trainer.get_dataloaders()
        seen = {float(v) for _ in range(2) for v in next(loader)["data"].numpy().ravel()}
        cases, _ = trainer.get_tr_and_val_datasets()
        values = {float(v) for n in cases.identifiers for v in np.ravel(cases.load_case(n)[0][:])}
    return seen, values


def test_a_network_that_is_shown_images_as_they_are_sees_no_other_pixels_and_no_mirrors(
    prepared: Path, tmp_path: Path
) -> None:
    seen, values = shown(prepared, tmp_path / "none", "none")
    assert len(seen) > 100
    assert seen <= values | {0.0}  # the padding
    augmented, values = shown(prepared, tmp_path / "nnunet", "nnunet")
    assert not augmented <= values | {0.0}
    trained(prepared, tmp_path / "whole", "none")
    details = json.loads((tmp_path / "whole" / "model" / "model.json").read_text())
    assert details["inference_allowed_mirroring_axes"] is None


def test_a_random_network_changes_intensities_and_keeps_size_norm_and_place() -> None:
    torch.manual_seed(3)
    image_CHW = torch.zeros(2, 24, 33)
    image_CHW[:, 5:12, 9:20] = 4.0
    random = RandomIntensityNetwork()
    seen = [random(image=image_CHW.clone(), segmentation=None)["image"] for _ in range(20)]
    for changed_CHW in seen:
        assert changed_CHW.shape == image_CHW.shape
        assert changed_CHW.norm() == pytest.approx(float(image_CHW.norm()), rel=1e-4)
        # Four layers of 3x3 see four pixels far: what is farther from an edge is flat.
        inside, outside = changed_CHW[:, 9, 13:16], changed_CHW[:, 17:20, 25:29]
        assert float(inside.std(dim=1).max()) < 1e-4
        assert float(outside.flatten(1).std(dim=1).max()) < 1e-3
    assert len({round(float(one[0, 8, 14]), 4) for one in seen}) > 15
