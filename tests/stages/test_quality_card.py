"""The stage that measures a release: its card, its picture, and whether it is sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyfree_ray.border.quality_card import QualityGate, read_quality_card
from hyfree_ray.core.records import write_record
from hyfree_ray.core.stage import Context
from hyfree_ray.privacy.sampling import quantise
from hyfree_ray.stages import quality_card as module
from hyfree_ray.stages.quality_card import COMPARISON, quality_card, real_images
from tests.evaluation import planted
from tests.stage_records import stage_record

GATE = QualityGate().model_dump()


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short trainings, and a labelling network and an embedder that need none."""
    monkeypatch.setattr(module, "FOLDS", 2)
    monkeypatch.setattr(
        "hyfree_ray.stages.synthesis.label_with",
        lambda model, stored_NCHW, view, device: (stored_NCHW[:, 0] > 120).astype(np.uint8),
    )
    monkeypatch.setattr(
        "hyfree_ray.privacy.embedders.load_embedder", lambda *args, **kwargs: _features
    )


def _features(images_NCHW: np.ndarray) -> np.ndarray:
    flat_NF = images_NCHW.reshape(len(images_NCHW), -1)[:, ::97] + 2
    return flat_NF / np.linalg.norm(flat_NF, axis=1, keepdims=True)


def site(
    folder: Path, release: planted.Planted, patients: int = 60, *, later_copy: bool = False
) -> dict[str, Any]:
    """The folders that the stage reads; a third of the patients is held out."""
    real = planted.real(2 * patients, seed=1)
    prepared, samples, labelled = (folder / n for n in ("prepared", "samples", "labelled"))
    for one in (prepared, samples, labelled, folder / "generator"):
        one.mkdir(parents=True)
    np.savez(
        prepared / "view.npz",
        images=real.images_NCHW,
        masks=real.labels_NHW,
        patients=real.patients_N,
        training=real.patients_N % 3 > 0,
        low=np.zeros(2, np.float32),
        high=np.ones(2, np.float32),
        spacing=np.ones(2),
    )
    (prepared / "dataset.json").write_text(json.dumps({"labels": planted.LABELS}))
    np.save(samples / "accepted.npy", quantise(release.images_NCHW))
    np.save(labelled / "labels.npy", release.labels_NHW)
    outcome = {"outcome": "released", "reason": None, "rejection_rate": 0.01}
    write_record(samples, stage_record("synthesise", result={"later_copy": later_copy}))
    write_record(labelled, stage_record("label", result=outcome))
    write_record(folder / "generator", stage_record("train_generator", result={}))
    return {
        "samples": samples,
        "labelled": labelled,
        "segmenter": folder / "segmenter",
        "prepared": prepared,
        "generator": folder / "generator",
    }


def measured(folder: Path, release: planted.Planted, *, later_copy: bool = False) -> dict[str, Any]:
    out = folder / "out"
    folders = site(folder, release, later_copy=later_copy)
    out.mkdir()
    return quality_card(
        Context(out=out, owner="a"),
        **folders,
        gate=GATE,
        images_shown_per_image=100,
        max_steps=15,
        embedder="nnunet",
        seed=0,
    )


def test_a_release_like_real_images_is_sent_with_a_card(tmp_path: Path) -> None:
    found = measured(tmp_path, planted.real(40, seed=2))
    assert found["outcome"] == "released", found["reason"]
    card = read_quality_card(found["card"])
    assert card.compared_with == "held-out"
    assert card.structures["lesion"].labelled is not None
    assert card.taught is not None
    assert (tmp_path / "out" / COMPARISON).is_file()
    assert {"kid", "kid_floor", "density", "coverage"} <= found.keys()


def test_noise_with_good_labels_is_not_sent_and_the_hospital_is_told_what_to_do(
    tmp_path: Path,
) -> None:
    noise = planted.flawed(40)["noise, labelled well"]
    found = measured(tmp_path, noise)
    assert found["outcome"] == "withheld"
    assert "--set budget.generator.images_shown_per_image=200" in found["reason"]


def test_where_later_snapshots_copy_no_longer_training_is_advised(tmp_path: Path) -> None:
    found = measured(tmp_path, planted.flawed(40)["noise, labelled well"], later_copy=True)
    assert found["outcome"] == "withheld"
    assert "images_shown" not in found["reason"]
    assert "patients are needed" in found["reason"]


def test_what_was_withheld_before_is_not_measured(tmp_path: Path) -> None:
    folders = site(tmp_path, planted.real(8, seed=2))
    outcome = {"outcome": "withheld", "reason": "copies", "rejection_rate": 0.9}
    write_record(folders["labelled"], stage_record("label", result=outcome))
    found = quality_card(
        Context(out=tmp_path, owner="a"),
        **folders,
        gate=GATE,
        images_shown_per_image=1,
        max_steps=1,
        embedder="nnunet",
        seed=0,
    )
    assert found == outcome | {"card": None}


@pytest.mark.parametrize(("patients", "which"), [(60, "held-out"), (30, "training")])
def test_with_few_held_out_patients_the_training_patients_are_compared_with(
    tmp_path: Path, patients: int, which: str
) -> None:
    from hyfree_ray.generators.view import GeneratorView

    folders = site(tmp_path, planted.real(8, seed=2), patients)
    view = GeneratorView.load(folders["prepared"] / "view.npz")
    real, found = real_images(view, folders["prepared"], seed=0, folds=2, steps=1)
    assert found == which
    expected = view.training_N if which == "training" else ~view.training_N
    assert len(real.images_NCHW) == expected.sum()
