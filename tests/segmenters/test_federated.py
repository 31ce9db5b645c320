"""Federated averaging: weighted by cases, validated after averaging, resumed like any training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hyfree_ray.cohorts.phantom import draw_phantom_site
from hyfree_ray.core.stage import Context
from hyfree_ray.segmenters.nnunet.data import nnunet_environment, read_splits
from hyfree_ray.segmenters.nnunet.federated import FederatedTrainer, train_federated
from hyfree_ray.segmenters.nnunet.train import ResumableTrainer, Schedule, make_trainer
from hyfree_ray.stages.comparison import prepare_together

SHORT = Schedule(epochs=3, iterations=2, validation_iterations=1)
CAPS = {"working_size": 32, "base_features": 4, "max_features": 16, "batch_size": 4}
CASES = {2: (12, 4), 3: (8, 4)}
"""Training and validation cases by phantom site."""


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two uneven sites, prepared in one place."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("together")
    data, cases = {}, []
    for position, (index, (training, validation)) in enumerate(CASES.items()):
        folder = root / f"site-{index}"
        draw_phantom_site(index, 0, folder)
        data[f"data_{position}"] = folder
        labels = sorted((folder / "labelsTr").iterdir())[: training + validation]
        cases.append(
            [
                {
                    "name": label.name.removesuffix(".nii.gz"),
                    "images": [f"imagesTr/{label.name.replace('.nii.gz', '_0000.nii.gz')}"],
                    "label": f"labelsTr/{label.name}",
                    "part": "train" if number < training else "val",
                }
                for number, label in enumerate(labels)
            ]
        )
    dataset = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "organ": 1, "lesion": 2},
        "file_ending": ".nii.gz",
    }
    context = Context(out=root / "out", owner="oracle")
    found = prepare_together(context, cases=cases, dataset=dataset, caps=CAPS, **data)
    assert found["training_images"] == 20
    return root / "out"


def unheard(epoch: int, epochs: int, metrics: Mapping[str, float]) -> None:
    """A report that nobody reads."""


def test_each_site_has_a_split_of_its_own_after_that_of_all(together: Path) -> None:
    everything, *of_sites = read_splits(together)
    assert [(len(split.train), len(split.val)) for split in of_sites] == list(CASES.values())
    assert [*of_sites[0].train, *of_sites[1].train] == everything.train
    assert not set(of_sites[0].train) & set(of_sites[1].train)


def test_the_average_is_weighted_by_training_cases(together: Path, tmp_path: Path) -> None:
    common = {"schedule": SHORT, "device": "cpu", "report": unheard}
    with nnunet_environment(together, results=tmp_path, augmenters=0):
        server = make_trainer(FederatedTrainer, together, tmp_path, seed=1, **common)
        server.sites = [
            make_trainer(ResumableTrainer, together, tmp_path, seed=fold, fold=fold, **common)
            for fold in (1, 2)
        ]
        server._average()
    one, other = (site.bare_network().state_dict() for site in server.sites)
    for name, averaged in server.bare_network().state_dict().items():
        torch.testing.assert_close(averaged, 0.6 * one[name] + 0.4 * other[name])


class KilledError(Exception):
    pass


def test_a_killed_federated_training_resumes_to_the_same_weights(
    together: Path, tmp_path: Path
) -> None:
    def train(folder: Path, report: object) -> dict[str, torch.Tensor]:
        train_federated(together, folder, schedule=SHORT, seed=5, device="cpu", report=report)  # type: ignore[arg-type]
        return load_file(folder / "model" / "weights.safetensors")

    def kill(epoch: int, epochs: int, metrics: Mapping[str, float]) -> None:
        if epoch == 2:
            raise KilledError

    whole = train(tmp_path / "whole", unheard)
    with pytest.raises(KilledError):
        train(tmp_path / "killed", kill)
    again = train(tmp_path / "killed", unheard)
    assert whole.keys() == again.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, again[name]), name
