"""Several networks as one model: averaged on the case's grid, whatever plan each has."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from click.testing import CliRunner
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from hyfree_ray.cli import main
from hyfree_ray.segmenters.nnunet.data import plan_and_preprocess
from hyfree_ray.segmenters.nnunet.ensemble import (
    ENSEMBLE_FILE,
    Ensemble,
    load_model,
    members_of,
    write_ensemble,
)
from hyfree_ray.segmenters.nnunet.model import Model
from hyfree_ray.segmenters.nnunet.train import train
from hyfree_ray.segmenters.plan_caps import PlanCaps
from tests.refusals import refuses
from tests.segmenters.test_nnunet import SHORT, cases_of, dataset_json, ignore, prepared, trained

__all__ = ["dataset_json", "prepared", "trained"]

OTHER_CAPS = PlanCaps(working_size=24, base_features=4, max_features=8, batch_size=4)


@pytest.fixture(scope="module")
def coarser(
    phantom_folder: Path, dataset_json: dict, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A network of another plan, which numbers the labels the other way round."""
    root = tmp_path_factory.mktemp("coarser")
    swapped = root / "labels"
    swapped.mkdir()
    cases = []
    for case in cases_of(phantom_folder)[:12]:
        label = sitk.ReadImage(str(case.label))
        array = sitk.GetArrayFromImage(label)
        turned = sitk.GetImageFromArray(np.choose(array, [0, 2, 1]).astype(array.dtype))
        turned.CopyInformation(label)
        sitk.WriteImage(turned, str(swapped / case.label.name))
        cases.append(replace(case, label=swapped / case.label.name))
    names = [name for name, _ in sorted(dataset_json["labels"].items(), key=lambda one: one[1])]
    labels = dict(zip((names[0], names[2], names[1]), (0, 1, 2), strict=True))
    described = {**dataset_json, "labels": labels}
    plan_and_preprocess(root, cases, described, OTHER_CAPS, validation=[cases[-1].name])
    train(root, root / "trained", schedule=SHORT, seed=2, device="cpu", report=ignore)
    return root / "trained"


@pytest.fixture
def both(trained: Path, coarser: Path, tmp_path: Path) -> Path:
    write_ensemble(tmp_path / "both" / "model", [trained / "model", coarser / "model"])
    return tmp_path / "both"


def test_the_softmax_of_members_is_averaged_by_the_names_of_labels(both: Path) -> None:
    first, second = (Model(folder, "cpu") for folder in members_of(both / "model"))
    assert first.plan.patch_size != second.plan.patch_size
    assert first.dataset_json["labels"] != second.dataset_json["labels"]
    image_CZHW = np.random.default_rng(3).normal(size=(1, 1, 71, 53)).astype(np.float32)
    found = load_model(both / "model", "cpu")
    one, other = (model.probabilities(image_CZHW, (1.0, 4.0, 5.0)) for model in (first, second))
    np.testing.assert_allclose(one.sum(axis=0), 1, atol=1e-4)
    expected_ZHW = ((one + other[[0, 2, 1]]) / 2).argmax(axis=0)
    np.testing.assert_array_equal(found.segment(image_CZHW, (1.0, 4.0, 5.0)), expected_ZHW)
    slice_HW = found.segment_slice(image_CZHW[:, 0], (4.0, 5.0))
    assert slice_HW.shape == (71, 53)


def test_of_one_member_the_ensemble_is_the_model(trained: Path, tmp_path: Path) -> None:
    write_ensemble(tmp_path, [trained / "model"])
    image_CZHW = np.random.default_rng(4).normal(size=(1, 1, 60, 80)).astype(np.float32)
    alone, one = Model(trained / "model", "cpu"), load_model(tmp_path, "cpu")
    assert isinstance(one, Ensemble)
    given = (image_CZHW, (1.0, 4.0, 4.0))
    np.testing.assert_array_equal(one.segment(*given), alone.segment(*given))


def test_nnunets_predictor_on_both_exports_averages_to_the_same_voxels(
    both: Path, phantom_folder: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for case in cases_of(phantom_folder)[-2:]:
        shutil.copy(case.images[0], images)

    def call(*arguments: str | Path) -> None:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output

    call("predict", "--model", both, "-i", images, "-o", tmp_path / "ours", "--device", "cpu")
    call("export-model", "--model", both, "-o", tmp_path / "exported", "--ending", ".nii.gz")
    total: dict[str, np.ndarray] = {}
    for position, order in enumerate(([0, 1, 2], [0, 2, 1])):
        (results,) = (tmp_path / "exported" / f"member-{position}").iterdir()
        predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(results), (0,), "checkpoint_final.pth")
        out = tmp_path / f"theirs-{position}"
        out.mkdir()
        predictor.predict_from_files_sequential(str(images), str(out), save_probabilities=True)
        for file in out.glob("*.npz"):
            shown = np.load(file)["probabilities"][order]
            total[file.stem] = total.get(file.stem, 0) + shown
    assert len(total) == 2
    for case, probabilities_OZHW in total.items():
        ours = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "ours" / f"{case}.nii.gz")))
        np.testing.assert_array_equal(ours, probabilities_OZHW.argmax(axis=0).reshape(ours.shape))


def test_an_ensemble_from_elsewhere_does_not_choose_how_many_folders_are_read(
    tmp_path: Path,
) -> None:
    for count in (0, 1 << 20, "2", True, None):
        (tmp_path / ENSEMBLE_FILE).write_text(json.dumps({"members": count}))
        with refuses("model.bad-weights"):
            load_model(tmp_path, "cpu")
