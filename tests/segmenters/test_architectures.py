"""Architectures by name inside nnU-Net's training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from safetensors.torch import load_file

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.segmenters import NNUNET, SEGMENTERS
from hyfree_ray.segmenters.nnunet.data import nnunet_environment
from hyfree_ray.segmenters.nnunet.folders import write_results_folder
from hyfree_ray.segmenters.nnunet.model import MODEL_FILES, Model
from hyfree_ray.segmenters.nnunet.reading import read_image
from hyfree_ray.segmenters.nnunet.train import ResumableTrainer, make_trainer, train
from tests.refusals import refuses
from tests.segmenters import test_nnunet
from tests.segmenters.architectures import TINY
from tests.segmenters.test_nnunet import SHORT, cases_of, ignore

dataset_json = test_nnunet.dataset_json
prepared = test_nnunet.prepared
trained = test_nnunet.trained


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SEGMENTERS, "_records", dict(SEGMENTERS._records))
    monkeypatch.setattr(SEGMENTERS, "_registered", set())
    SEGMENTERS.register(TINY)


def train_tiny(prepared: Path, folder: Path, **changes: object) -> dict[str, torch.Tensor]:
    settings = {"schedule": SHORT, "seed": 1, "device": "cpu", "report": ignore, **changes}
    train(prepared, folder, segmenter="tiny", **settings)
    return load_file(folder / "model" / "weights.safetensors")


def test_another_architecture_is_trained_resumed_and_used_as_nnunets_is(
    prepared: Path,
    phantom_folder: Path,
    dataset_json: dict,
    tmp_path: Path,
) -> None:
    whole = train_tiny(prepared, tmp_path / "whole")
    assert {name.split(".")[0] for name in whole} == {"0", "2"}

    def interrupt(epoch: int) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_tiny(prepared, tmp_path / "cut", each_epoch=interrupt)
    resumed = train_tiny(prepared, tmp_path / "cut")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    model = Model(tmp_path / "whole" / "model", "cpu", "tiny")
    case = cases_of(phantom_folder)[30]
    image_CZHW, spacing = read_image(case.images, dataset_json)
    assert model.segment(image_CZHW, spacing).shape == image_CZHW.shape[1:]
    images_NCHW = np.random.default_rng(0).normal(100, 9, (5, 1, *model.plan.patch_size))
    features_NF = model.embed(images_NCHW)
    assert features_NF.shape == (5, 8)
    np.testing.assert_allclose(np.linalg.norm(features_NF, axis=1), 1, atol=1e-5)


def test_fine_tuning_starts_from_the_outputs_of_the_same_names(
    prepared: Path, tmp_path: Path
) -> None:
    start = train_tiny(prepared, tmp_path / "start")
    for file in MODEL_FILES:
        (tmp_path / file).write_bytes((tmp_path / "start" / "model" / file).read_bytes())
    dataset = json.loads((tmp_path / "dataset.json").read_text())
    names = [name for name in dataset["labels"] if name != "background"]
    dataset["labels"] = {"background": 0, names[0]: 2, names[1]: 1}
    (tmp_path / "dataset.json").write_text(json.dumps(dataset))
    with nnunet_environment(prepared, results=tmp_path / "nnunet", augmenters=0):
        trainer = make_trainer(
            ResumableTrainer,
            prepared,
            tmp_path / "tuned",
            schedule=SHORT,
            seed=1,
            device="cpu",
            report=ignore,
            segmenter="tiny",
        )
    from hyfree_ray.segmenters.nnunet.model import load_weights
    from hyfree_ray.segmenters.nnunet.train import put_outputs_in_order

    load_weights(trainer.bare_network(), tmp_path / "weights.safetensors")
    put_outputs_in_order(trainer, tmp_path)
    assert torch.equal(trainer.bare_network()[2].weight, start["2.weight"][[0, 2, 1]])


def test_the_default_has_nnunets_own_optimiser(prepared: Path, tmp_path: Path) -> None:
    with nnunet_environment(prepared, results=tmp_path / "nnunet", augmenters=0):
        trainer = make_trainer(
            ResumableTrainer,
            prepared,
            tmp_path,
            schedule=SHORT,
            seed=1,
            device="cpu",
            report=ignore,
        )
    theirs, _ = nnUNetTrainer.configure_optimizers(trainer)
    assert type(trainer.optimizer) is type(theirs)
    assert trainer.optimizer.defaults == theirs.defaults


def test_a_model_from_elsewhere_does_not_choose_the_architecture(
    prepared: Path,
    trained: Path,
    tmp_path: Path,
) -> None:
    """Case 73: neither a plan nor a model's own file names the code that is run."""
    train_tiny(prepared, tmp_path)
    with pytest.raises(HyfreeError, match="architecture 'tiny', not 'nnunet'") as refused:
        Model(tmp_path / "model", "cpu", NNUNET)
    assert refused.value.code == "model.other-segmenter"
    with pytest.raises(HyfreeError, match="architecture 'nnunet', not 'tiny'"):
        Model(trained / "model", "cpu", "tiny")
    with pytest.raises(HyfreeError, match="architecture 'tiny', not 'nnunet'"):
        write_results_folder(tmp_path / "model", tmp_path / "out", ending=None, segmenter=NNUNET)
    with refuses("model.no-export"):
        write_results_folder(tmp_path / "model", tmp_path / "out", ending=None, segmenter="tiny")
    assert not (tmp_path / "out").exists()


def test_a_model_that_was_written_before_architectures_had_names_is_nnunets(
    trained: Path,
    tmp_path: Path,
) -> None:
    for file in MODEL_FILES:
        (tmp_path / file).write_bytes((trained / "model" / file).read_bytes())
    details = json.loads((tmp_path / "model.json").read_text())
    assert details.pop("segmenter") == NNUNET
    (tmp_path / "model.json").write_text(json.dumps(details))
    assert Model(tmp_path, "cpu", NNUNET).plan.patch_size
