"""Models in use: nnU-Net's own predictor on an exported model, and ours on the same images."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from click.testing import CliRunner, Result
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from hyfree_ray.cli import main
from tests.refusals import refused
from tests.segmenters.test_nnunet import cases_of, dataset_json, prepared, trained

__all__ = ["dataset_json", "prepared", "trained"]


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def images(phantom_folder: Path, tmp_path: Path) -> Path:
    """Three cases that the model was not trained on."""
    folder = tmp_path / "images"
    folder.mkdir()
    for case in cases_of(phantom_folder)[-3:]:
        shutil.copy(case.images[0], folder)
    return folder


def test_nnunets_predictor_on_the_export_and_predict_give_the_same_voxels(
    trained: Path, images: Path, tmp_path: Path
) -> None:
    found = foreground_of_equal_voxels(trained, images, tmp_path)
    assert found > 0  # an empty segmentation would be equal to anything


def foreground_of_equal_voxels(model: Path, images: Path, folder: Path) -> int:
    """Voxels of structures that nnU-Net's own predictor and `predict` both find, and no other."""
    out, exported = folder / "ours", folder / "exported"
    result = call("predict", "--model", model, "-i", images, "-o", out, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert f"{len(list(images.iterdir()))} cases segmented" in result.output
    result = call("export-model", "--model", model, "-o", exported, "--ending", ".nii.gz")
    assert result.exit_code == 0, result.output
    (results,) = exported.iterdir()
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(results), (0,), "checkpoint_final.pth")
    theirs = folder / "theirs"
    theirs.mkdir()
    predictor.predict_from_files_sequential(str(images), str(theirs))
    found = 0
    for file in sorted(out.iterdir()):
        ours, other = (sitk.ReadImage(str(place / file.name)) for place in (out, theirs))
        assert ours.GetSpacing() == other.GetSpacing()
        label_HW = sitk.GetArrayFromImage(ours)
        assert np.array_equal(label_HW, sitk.GetArrayFromImage(other))
        found += int((label_HW > 0).sum())
    return found


def test_what_is_segmented_is_not_segmented_again(
    trained: Path, images: Path, tmp_path: Path
) -> None:
    arguments = ("predict", "--model", trained, "-i", images, "-o", tmp_path / "out")
    assert call(*arguments).exit_code == 0
    sorted((tmp_path / "out").iterdir())[0].unlink()
    assert "1 cases segmented" in call(*arguments).output


def test_mistakes_are_one_line(trained: Path, images: Path, tmp_path: Path) -> None:
    nothing = call("predict", "--model", tmp_path, "-i", images, "-o", tmp_path / "o")
    refused(nothing, "model.not-found", str(tmp_path))
    nowhere = call("predict", "--model", trained, "-i", tmp_path / "none", "-o", tmp_path / "o")
    refused(nowhere, "data.no-cases", "none: ", "CASE_0000")
    first = sorted(images.iterdir())[0]
    shutil.copy(first, str(first).replace("_0000", "_0001"))
    channels = call("predict", "--model", trained, "-i", images, "-o", tmp_path / "o")
    refused(channels, "data.channels", "2 files", " 1 ")
    assert not (tmp_path / "o").exists()
    refused(call("export-model", "--model", trained, "-o", images), "output.not-empty")
