"""Federated averaging: weighted by cases, validated after averaging, resumed like any training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hyfree_ray.cohorts.phantom import draw_phantom_site
from hyfree_ray.core.stage import Context
from hyfree_ray.segmenters.nnunet.data import nnunet_environment, read_splits
from hyfree_ray.segmenters.nnunet.federated import FederatedTrainer, train_federated
from hyfree_ray.segmenters.nnunet.federated_fingerprint import INTENSITIES, merge_fingerprints
from hyfree_ray.segmenters.nnunet.model import Model
from hyfree_ray.segmenters.nnunet.personal_federated import (
    LAMBDA,
    DittoTrainer,
    FedBNTrainer,
    normalisation_weights,
    train_personal,
)
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


def test_a_plan_made_on_fingerprints_is_the_one_made_on_all_images_but_for_percentiles(
    together: Path,
) -> None:
    """The network is the same: patch, spacing, strides, kernels, widths, batch, normalisation."""
    root = together.parent
    cases, data = [], {}
    for position, index in enumerate(CASES):
        labels = sorted((root / f"site-{index}" / "labelsTr").iterdir())[: sum(CASES[index])]
        data[f"data_{position}"] = root / f"site-{index}"
        cases.append(
            [
                {
                    "name": label.name.removesuffix(".nii.gz"),
                    "images": [f"imagesTr/{label.name.replace('.nii.gz', '_0000.nii.gz')}"],
                    "label": f"labelsTr/{label.name}",
                    "part": "train" if number < CASES[index][0] else "val",
                }
                for number, label in enumerate(labels)
            ]
        )
    dataset = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "organ": 1, "lesion": 2},
        "file_ending": ".nii.gz",
    }
    context = Context(out=root / "apart", owner="oracle")
    prepare_together(context, cases=cases, dataset=dataset, caps=CAPS, federated=True, **data)
    pooled, apart = (json.loads((f / "plans.json").read_text()) for f in (together, root / "apart"))
    name = "foreground_intensity_properties_per_channel"
    whole, merged = pooled.pop(name)["0"], apart.pop(name)["0"]
    assert apart == pooled
    assert (merged["min"], merged["max"]) == (whole["min"], whole["max"])
    assert merged["mean"] == pytest.approx(whole["mean"], rel=0.02)
    assert merged["std"] == pytest.approx(whole["std"], rel=0.05)


def test_merged_spread_is_that_of_all_values_together() -> None:
    random = np.random.default_rng(0)
    values = [random.normal(10, 2, 400), random.normal(30, 5, 400), random.normal(0, 1, 400)]
    cases = (4, 4, 4)

    def fingerprint(values: np.ndarray, cases: int) -> dict:
        low, median, high = np.percentile(values, (0.5, 50, 99.5))
        found = {"mean": values.mean(), "std": values.std(), "median": median}
        found |= {"min": values.min(), "max": values.max()}
        found |= {"percentile_00_5": low, "percentile_99_5": high}
        return {
            "spacings": [[1.0, 1.0, 1.0]] * cases,
            "shapes_after_crop": [[1, 20, 30]] * cases,
            INTENSITIES: {"0": found},
            "median_relative_size_after_cropping": 1.0,
        }

    parts = [fingerprint(one, count) for one, count in zip(values, cases, strict=True)]
    merged, every = merge_fingerprints(parts), np.concatenate(values)
    found = merged[INTENSITIES]["0"]
    assert len(merged["spacings"]) == len(merged["shapes_after_crop"]) == 12
    assert found["mean"] == pytest.approx(every.mean())
    assert found["std"] == pytest.approx(every.std())
    assert (found["min"], found["max"]) == (every.min(), every.max())


def personal(
    together: Path, folder: Path, method: Literal["fedbn", "ditto"], stop_after: int | None = None
) -> list[dict[str, torch.Tensor]]:
    """The networks of both sites."""

    def report(epoch: int, epochs: int, metrics: Mapping[str, float]) -> None:
        if epoch == stop_after:
            raise KeyboardInterrupt

    found = train_personal(
        together, folder, method=method, schedule=SHORT, seed=4, device="cpu", report=report
    )
    assert found["exchanged_bytes"] > 0
    return [load_file(folder / "models" / f"{k}" / "weights.safetensors") for k in (0, 1)]


@pytest.mark.parametrize("method", ["fedbn", "ditto"])
def test_a_federated_training_that_ends_with_a_network_a_site_resumes_bit_for_bit(
    together: Path, tmp_path: Path, method: Literal["fedbn", "ditto"]
) -> None:
    whole = personal(together, tmp_path / "whole", method)
    with pytest.raises(KeyboardInterrupt):
        personal(together, tmp_path / "cut", method, stop_after=2)
    resumed = personal(together, tmp_path / "cut", method)
    for one, other in zip(whole, resumed, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    model = Model(tmp_path / "whole" / "models" / "1", "cpu")
    at_home = normalisation_weights(model.network)
    shared = [name for name in whole[0] if name not in at_home]
    assert at_home
    assert shared
    differ = [name for name in whole[0] if not torch.equal(whole[0][name], whole[1][name])]
    assert differ


def test_normalisation_stays_at_home_and_all_else_is_received(
    together: Path, tmp_path: Path
) -> None:
    with nnunet_environment(together, augmenters=0):
        server, site = (
            make_trainer(
                kind,
                together,
                tmp_path,
                schedule=SHORT,
                seed=seed,
                device="cpu",
                report=unheard,
            )
            for kind, seed in ((FedBNTrainer, 1), (ResumableTrainer, 2))
        )
        with torch.no_grad():
            for weight in (*server.network.parameters(), *site.network.parameters()):
                weight.add_(torch.randn_like(weight))
        before = {k: v.clone() for k, v in site.bare_network().state_dict().items()}
        server.receive(site)
        after, shared = site.bare_network().state_dict(), server.bare_network().state_dict()
        at_home = normalisation_weights(site.bare_network())
        # nnU-Net registers a layer under several names.
        places = [
            {after[name].data_ptr() for name in names}
            for names in (at_home, [name for name in after if ".norm." in name])
        ]
        assert places[0] == places[1]
        for name in after:
            expected = before if name in at_home else shared
            assert torch.equal(after[name], expected[name]), name
        server.sites = [site]
        whole = super(FedBNTrainer, server).exchanged()
        assert 0 < len(server.exchanged()) < len(whole)


def test_a_sites_own_network_is_drawn_towards_the_average(
    together: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a great weight of the distance it ends near the average; with none farther away."""

    def distance(weight: float, folder: Path) -> float:
        monkeypatch.setattr(f"{DittoTrainer.__module__}.LAMBDA", weight)
        trainers: list[DittoTrainer] = []
        saved = DittoTrainer.save

        def save(self: DittoTrainer, prepared: Path, out: Path) -> None:
            trainers.append(self)
            saved(self, prepared, out)

        monkeypatch.setattr(DittoTrainer, "save", save)
        personal(together, folder, "ditto")
        server = trainers[-1]
        average = dict(server.bare_network().named_parameters())
        own = dict(server.own[0].bare_network().named_parameters())
        return sum(float((own[name] - average[name]).detach().norm()) for name in own)

    assert LAMBDA > 0
    assert distance(5.0, tmp_path / "near") < distance(0.0, tmp_path / "far")
