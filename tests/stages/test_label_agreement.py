"""Agreement of a release's labels with a model that never saw it, and who is replayed by it."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from hyfree_ray.border.release import Release, read_release, write_release
from hyfree_ray.config.experiment import Experiment
from hyfree_ray.core.stage import Context
from hyfree_ray.federation.pool import PoolParty
from hyfree_ray.runners.local import LocalRunner
from hyfree_ray.segmenters.nnunet import model as nnunet_model
from hyfree_ray.stages.pooling import label_agreement

SITE = "site-1"


@pytest.fixture
def store(whole: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of a finished run's store."""
    return Path(shutil.copytree(whole[0], tmp_path / "store"))


def general_of(store: Path) -> Path:
    return next(store.glob("pool/stages/train_general-*"))


def release_of(store: Path, site: str) -> tuple[Path, Release]:
    folder = next(store.glob(f"pool/received/{site}/release-*"))
    federation = json.loads((folder / "manifest.json").read_text())["experiment"]
    return folder, read_release(folder, site=site, experiment=federation)


def dataset_of(release: Release) -> dict[str, object]:
    channels = {str(i): name for i, name in enumerate(release.metadata.channel_names)}
    return {"channel_names": channels, "labels": release.metadata.label_names}


def agreement(store: Path, labels_NHW: np.ndarray, out: Path) -> dict:
    _, release = release_of(store, SITE)
    out.mkdir()
    write_release(
        out,
        release.metadata,
        release.images_NCHW,
        labels_NHW,
        experiment=release.manifest.experiment,
        nonce="n" * 32,
    )
    return label_agreement(
        Context(out=out, owner="pool", device="cpu"),
        release=out,
        model=general_of(store),
        site=SITE,
        dataset=dataset_of(release),
        federation=release.manifest.experiment,
    )


class Bright:
    """In the place of a trained network: what is brighter than the image's mean has the label."""

    def __init__(self, folder: Path, device: str) -> None:
        assert folder.is_dir()
        assert device == "cpu"

    def segment(self, image_CZHW: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
        assert len(spacing) == 3
        return (image_CZHW[0] > image_CZHW[0].mean()).astype(np.uint8)


def test_labels_that_the_model_would_give_agree_wholly_and_moved_ones_less(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nnunet_model, "Model", Bright)
    _, release = release_of(store, SITE)
    physical_NCHW = release.physical()
    labels_NHW = (physical_NCHW > physical_NCHW.mean(axis=(1, 2, 3), keepdims=True))[:, 0]
    same = agreement(store, labels_NHW.astype(np.uint8), tmp_path / "same")
    assert same["mean"] == 1.0
    assert same["dice"].keys() == release.metadata.label_names.keys() - {"background"}
    moved = agreement(store, np.roll(labels_NHW, 5, axis=2).astype(np.uint8), tmp_path / "moved")
    assert 0 < moved["mean"] < 0.95


def test_without_any_label_there_is_nothing_to_agree_on(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bright, "segment", lambda _, image, spacing: np.zeros_like(image[0]))
    monkeypatch.setattr(nnunet_model, "Model", Bright)
    _, release = release_of(store, SITE)
    found = agreement(store, np.zeros_like(release.labels_NHW), tmp_path / "blank")
    assert found["mean"] is None


def test_a_release_whose_labels_do_not_agree_is_not_replayed(
    store: Path, smoke: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nnunet_model, "Model", Bright)
    records = {
        site: json.loads((release_of(store, site)[0] / "record.json").read_text())
        for site in ("site-1", "site-2")
    }
    keys = {site: record["key"] for site, record in records.items()}
    _, release = release_of(store, SITE)
    unet = smoke.budget.unet.model_copy(update={"epochs": 1, "iterations": 1})
    budget = smoke.budget.model_copy(update={"unet": unet})

    def replayed(least: float) -> tuple[dict[str, float], tuple[str, ...]]:
        pool = PoolParty(
            "a key",
            release.manifest.experiment,
            dataset_of(release),
            smoke.model_copy(update={"min_label_agreement": least, "budget": budget}),
            store / "pool",
            LocalRunner("cpu"),
        )
        agreement = asyncio.run(pool.label_agreement(keys))
        return agreement, asyncio.run(pool.share_for_replay(keys)).sites

    agreement, everybody = replayed(0.0)
    assert agreement == {}
    assert everybody == ("site-1", "site-2")
    agreement, nobody = replayed(1.0)
    assert nobody == ()
    assert agreement.keys() == keys.keys()
    best = max(agreement, key=lambda site: agreement[site])
    assert agreement[best] > min(agreement.values())
    assert replayed(agreement[best])[1] == (best,)
