"""Regions and `ignore`: from dataset.json through training, releases and scores."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyfree_ray.border.gate import Gate
from hyfree_ray.border.manifest import Addressee
from hyfree_ray.border.quality_card import QualityGate
from hyfree_ray.border.release import read_release
from hyfree_ray.cohorts.cohort import read_cohort
from hyfree_ray.cohorts.label_sets import (
    LabelEncoding,
    class_values,
    foreground,
    mask_of,
    read_labels,
)
from hyfree_ray.core.records import write_record
from hyfree_ray.core.stage import Context
from hyfree_ray.evaluation.metrics import score_case
from hyfree_ray.federation.hospital import Site
from hyfree_ray.federation.simulation import sites_of
from hyfree_ray.generators.view import GeneratorView
from hyfree_ray.privacy.sampling import quantise
from hyfree_ray.segmenters.nnunet.model import Model
from hyfree_ray.segmenters.nnunet.schedule import Schedule
from hyfree_ray.segmenters.nnunet.train import train
from hyfree_ray.stages.data import prepare, prepare_for_general
from hyfree_ray.stages.pooling import check_release, pool_releases
from hyfree_ray.stages.scoring import score
from hyfree_ray.stages.synthesis import label, release
from tests.cards import card
from tests.discs import write_discs
from tests.refusals import refuses
from tests.stage_records import stage_record

LABELS = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
"""Not in the order of the alphabet, which JSON with sorted keys would bring them into."""
ORDER = [1, 2]
CAPS = {"working_size": 32, "base_features": 4, "max_features": 16, "batch_size": 6}
SCHEDULE = Schedule(epochs=3, iterations=40, validation_iterations=2)


def draw(root: Path) -> Path:
    """Six patients of discs with a bright core; a stripe was not annotated."""

    def values(disc_HW: np.ndarray, core_HW: np.ndarray) -> np.ndarray:
        label_HW = disc_HW.astype(np.uint8) + core_HW
        label_HW[:, -5:] = 3
        return label_HW

    dataset = {"channel_names": {"0": "MR"}, "labels": LABELS, "regions_class_order": ORDER}
    return write_discs(root, {**dataset, "file_ending": ".nii.gz"}, patients=6, values=values)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return sites_of(read_cohort(draw(tmp_path_factory.mktemp("regions") / "data")), 0)["a"]


@pytest.fixture(scope="module")
def prepared(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared")
    assert site.folder is not None
    result = prepare(
        Context(out=out, owner="a"),
        data=site.folder,
        cases=site.part("train", "val"),
        dataset=site.dataset,
        caps=CAPS,
    )
    assert result["label_share"]["whole"] > result["label_share"]["core"] > 0.02
    write_record(out, stage_record(result=result))
    return out


@pytest.fixture(scope="module")
def trained(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    result = train(
        prepared, folder, schedule=SCHEDULE, seed=1, device="cpu", report=lambda *_: None
    )
    assert 0 < result["best_ema_pseudo_dice"] <= 1
    return folder


@pytest.fixture(scope="module")
def released(
    site: Site, prepared: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A release of the site's own images, which stand for samples of its generator."""
    samples, out = tmp_path_factory.mktemp("samples"), tmp_path_factory.mktemp("release")
    np.save(
        samples / "accepted.npy", quantise(GeneratorView.load(prepared / "view.npz").images_NCHW)
    )
    audited = tmp_path_factory.mktemp("audit")
    found = {"outcome": "released", "reason": None, "rejection_rate": 0.0}
    images = len(np.load(samples / "accepted.npy"))
    write_record(audited, stage_record(result={**found, "card": card(images=images)}))
    labelled = tmp_path_factory.mktemp("labelled")
    result = label(
        Context(out=labelled, owner="a"),
        samples=samples,
        audit=audited,
        segmenter=trained,
        prepared=prepared,
        dataset=site.dataset,
    )
    write_record(labelled, stage_record(result=result))
    result = release(
        Context(out=out, owner="a"),
        samples=samples,
        audit=audited,
        labelled=labelled,
        prepared=prepared,
        site="a",
        dataset=site.dataset,
        federation="e",
        addressee=asdict(Addressee()),
        seed=0,
    )
    assert result["label_share"]["whole"] >= result["label_share"]["core"]
    return out


def test_a_network_has_an_output_a_region_and_paints_no_ignore(trained: Path) -> None:
    model = Model(trained / "model", "cpu")
    heads = {
        tensor.shape[0]
        for name, tensor in model.network.state_dict().items()
        if "seg_layers" in name and tensor.ndim == 4
    }
    assert heads == {2}
    rows_HW, columns_HW = np.mgrid[:40, :30]
    far_HW = np.hypot(rows_HW - 20, columns_HW - 14)
    image_HW = 50 + 40.0 * ((far_HW < 10).astype(int) + (far_HW < 5))
    label_HW = model.segment_slice(image_HW[None].astype(np.float32), (1.0, 1.0))
    assert set(np.unique(label_HW)) <= {0, 1, 2}
    assert 2 * ((label_HW > 0) & (far_HW < 10)).sum() > (far_HW < 10).sum()


def test_a_release_carries_the_regions_in_their_order(released: Path, site: Site) -> None:
    found = read_release(released, site="a", experiment="e")
    assert found.metadata.label_names == {"background": 0, "whole": 1, "core": 2}
    assert found.metadata.regions == (("whole", (1, 2)), ("core", (2,)))
    assert found.labels_NHW.max() <= 2
    painted = LabelEncoding(names=found.metadata.label_names, regions=found.metadata.regions)
    without = {name: value for name, value in LABELS.items() if name != "ignore"}
    assert painted.dataset() == {"labels": without, "regions_class_order": ORDER}
    assert list(painted.dataset()["labels"]) == list(without)
    assert LabelEncoding.of(site.dataset) == painted


def check(released: Path, out: Path, dataset: dict[str, Any]) -> None:
    out.mkdir()
    check_release(
        Context(out=out, owner="pool"),
        release=released,
        site="a",
        dataset=dataset,
        federation="e",
        gate=Gate(quality=QualityGate(enforced=False)).model_dump(),
    )


def test_the_pool_takes_the_regions_of_its_task_and_names_what_differs(
    released: Path, site: Site, tmp_path: Path
) -> None:
    check(released, tmp_path / "good", dict(site.dataset))
    assert (tmp_path / "good" / "samples.png").exists()
    for number, (labels, names) in enumerate(
        (
            ({"background": 0, "whole": [1, 2], "cyst": [2]}, ("cyst", "core")),
            ({"background": 0, "core": [1, 2], "whole": [2]}, (" core ",)),
            ({"background": 0, "whole": 1, "core": 2}, (" whole ",)),
        )
    ):
        with refuses("release.task", *names):
            check(released, tmp_path / str(number), {**site.dataset, "labels": labels})


def test_a_general_model_of_regions_is_fine_tuned_where_ignore_is_used(
    released: Path, site: Site, tmp_path: Path
) -> None:
    pool, general = tmp_path / "pool", tmp_path / "general"
    pool.mkdir()
    pool_releases(
        Context(out=pool, owner="pool"),
        sites=["a"],
        federation="e",
        caps=CAPS,
        release_0=released,
    )
    dataset = json.loads((pool / "dataset.json").read_text())
    assert list(dataset["labels"].items()) == [
        ("background", 0),
        ("whole", [1, 2]),
        ("core", [2]),
    ]
    one: dict[str, Any] = {
        "schedule": Schedule(epochs=1, iterations=2, validation_iterations=1),
        "seed": 1,
        "device": "cpu",
        "report": lambda *_: None,
    }
    train(pool, general, **one)
    assert site.folder is not None
    prepare_for_general(
        Context(out=tmp_path / "again", owner="a"),
        data=site.folder,
        cases=site.part("train", "val"),
        dataset=site.dataset,
        general=general,
        caps=CAPS,
    )
    tuned = train(tmp_path / "again", tmp_path / "tuned", initial=general / "model", **one)
    assert tuned["iterations"] == 2
    own = json.loads((tmp_path / "tuned" / "model" / "dataset.json").read_text())
    assert own["labels"] == LABELS


def test_regions_are_scored_by_name_and_not_where_nothing_was_annotated(
    site: Site, trained: Path, tmp_path: Path
) -> None:
    assert site.folder is not None
    rows = score(
        Context(out=tmp_path, owner="a"),
        data=site.folder,
        cases=site.part("test"),
        dataset=site.dataset,
        model=trained,
        segmenter="nnunet",
        regime="local",
        train_site="a",
    )["rows"]
    assert {row["label"] for row in rows} == {"whole", "core"}
    reference_HW = np.zeros((20, 14), np.uint8)
    reference_HW[4:12, 3:9], reference_HW[6:9, 4:7], reference_HW[:, 11:] = 1, 2, 3
    good_HW = np.where(reference_HW == 3, 0, reference_HW)
    wild_HW = np.where(reference_HW == 3, 2, reference_HW)
    for predicted_HW in (good_HW, wild_HW):
        found = score_case(predicted_HW, reference_HW, LABELS, (1.0, 2.0))
        assert [
            (one.label, *(one.values[name] for name in ("dice", "hd95", "nsd"))) for one in found
        ] == [
            ("whole", 1.0, 0.0, 1.0),
            ("core", 1.0, 0.0, 1.0),
        ]


def test_what_the_labels_are_made_of() -> None:
    labels = read_labels({"labels": LABELS, "regions_class_order": ORDER})
    assert class_values(labels) == {0, 1, 2}
    assert foreground(labels) == {"whole": (1, 2), "core": (2,)}
    assert mask_of(np.array([0, 1, 2, 3]), (1, 2)).tolist() == [False, True, True, False]
    plain = read_labels({"labels": {"background": 0, "b": 2, "a": [1]}})
    assert list(plain.items()) == [("background", 0), ("a", 1), ("b", 2)]


@pytest.mark.parametrize("order", [None, [1], [1, 3], [1, 1]])
def test_regions_without_a_class_order_are_refused(order: Any) -> None:
    with refuses("data.bad-regions", "of 2", "[1, 2]"):
        read_labels({"labels": LABELS, "regions_class_order": order})
