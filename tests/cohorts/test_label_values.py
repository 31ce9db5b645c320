"""Sites that number the same structures in their own ways: labels are known by their names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from hyfree_ray.border.gate import Gate
from hyfree_ray.border.manifest import MANIFEST_FILE, key_of
from hyfree_ray.border.quality_card import QualityGate
from hyfree_ray.border.release import RELEASE_FILE, ReleaseMetadata, write_release
from hyfree_ray.border.signing import signing_key
from hyfree_ray.cohorts.cohort import read_cohort
from hyfree_ray.cohorts.label_sets import LabelEncoding, with_values
from hyfree_ray.commands.pool import pool
from hyfree_ray.config.experiment import Experiment
from hyfree_ray.config.resolution import resolve_experiment
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.keys import digest_of
from hyfree_ray.core.parcels import Parcel
from hyfree_ray.core.stage import Context
from hyfree_ray.federation.hospital import Site
from hyfree_ray.federation.parcel_folders import write_parcel
from hyfree_ray.federation.release_versions import RELEASE_VERSIONS
from hyfree_ray.federation.simulation import sites_of
from hyfree_ray.segmenters.nnunet.data import nnunet_environment
from hyfree_ray.segmenters.nnunet.model import load_weights
from hyfree_ray.segmenters.nnunet.reading import read_label
from hyfree_ray.segmenters.nnunet.schedule import Schedule
from hyfree_ray.segmenters.nnunet.train import (
    ResumableTrainer,
    make_trainer,
    put_outputs_in_order,
    train,
)
from hyfree_ray.stages.data import prepare, prepare_for_general
from hyfree_ray.stages.pooling import check_release, pool_releases, read_releases, write_slices
from hyfree_ray.stages.scoring import score
from tests.cards import card
from tests.discs import write_discs
from tests.refusals import refuses

CAPS = {"working_size": 32, "base_features": 4, "max_features": 16, "batch_size": 6}

PLAIN = {"background": 0, "liver": 1, "tumour": 2}
SWAPPED = {"background": 0, "tumour": 1, "liver": 2, "ignore": 3}
REGIONS = ({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "rim": [3]}, [1, 2, 3])
OTHER_REGIONS = ({"background": 0, "whole": [3, 1, 2], "core": [1, 2], "rim": [1]}, [3, 2, 1])


def dataset_of(labels: dict[str, Any], order: list[int] | None = None) -> dict[str, Any]:
    found = {"channel_names": {"0": "MR"}, "labels": labels, "file_ending": ".nii.gz"}
    return found if order is None else {**found, "regions_class_order": order}


def draw(root: Path, labels: dict[str, Any]) -> Path:
    """Five patients of a liver with a brighter tumour, in the values that `labels` gives them."""
    return write_discs(
        root,
        {**dataset_of(labels), "name": "Livers"},
        patients=5,
        values=lambda liver, tumour: np.where(tumour, labels["tumour"], labels["liver"] * liver),
    )


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, Site]:
    """The same patients at two hospitals that number their structures differently."""
    root = tmp_path_factory.mktemp("livers")
    found = [draw(root / str(number), labels) for number, labels in enumerate((PLAIN, SWAPPED))]
    one, other = (sites_of(read_cohort(folder), 0)["a"] for folder in found)
    return one, other


@pytest.fixture(scope="module")
def model(sites: tuple[Site, Site], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the first hospital."""
    prepared, out = tmp_path_factory.mktemp("prepared"), tmp_path_factory.mktemp("model")
    site = sites[0]
    prepare(Context(out=prepared, owner="a"), **given(site), caps=CAPS)
    schedule = Schedule(epochs=2, iterations=60, validation_iterations=1)
    train(prepared, out, schedule=schedule, seed=1, device="cpu", report=lambda *_: None)
    return out


def given(site: Site, *parts: str) -> dict[str, Any]:
    cases = site.part(*(parts or ("train", "val")))
    return {"data": site.folder, "cases": cases, "dataset": site.dataset}


def scores(site: Site, model: Path, out: Path) -> list[dict[str, Any]]:
    out.mkdir()
    context = Context(out=out, owner="a")
    told = {"model": model, "segmenter": "nnunet", "regime": "general", "train_site": "pool"}
    rows: list[dict[str, Any]] = score(context, **given(site, "test"), **told)["rows"]
    return sorted(rows, key=lambda row: (row["case"], row["label"]))


def test_a_model_is_scored_by_the_names_of_its_labels(
    sites: tuple[Site, Site], model: Path, tmp_path: Path
) -> None:
    one, other = (scores(site, model, tmp_path / str(k)) for k, site in enumerate(sites))
    assert one == other
    assert {row["label"] for row in one} == {"liver", "tumour"}
    assert all(row["dice"] > 0.5 for row in one)


def test_a_site_fine_tunes_a_model_of_other_values_and_keeps_its_own(
    sites: tuple[Site, Site], model: Path, tmp_path: Path
) -> None:
    """After one step the model knows what it knew, so its outputs went to the right labels."""
    context = Context(out=tmp_path / "prepared", owner="a")
    prepare_for_general(context, **given(sites[1]), general=model, caps=CAPS)
    train(
        tmp_path / "prepared",
        tmp_path / "tuned",
        schedule=Schedule(epochs=1, iterations=1, validation_iterations=1),
        seed=1,
        device="cpu",
        report=lambda *_: None,
        initial=model / "model",
    )
    written = json.loads((tmp_path / "tuned" / "model" / "dataset.json").read_text())
    assert written["labels"] == SWAPPED
    before, after = (
        scores(sites[1], trained, tmp_path / name)
        for name, trained in (("before", model), ("after", tmp_path / "tuned"))
    )
    for known, now in zip(before, after, strict=True):
        assert now["dice"] == pytest.approx(known["dice"], abs=0.1)


@pytest.mark.parametrize(
    ("own", "given_to"),
    [((PLAIN, None), (SWAPPED, None)), (REGIONS, OTHER_REGIONS), (OTHER_REGIONS, REGIONS)],
)
def test_outputs_of_a_network_change_places_with_their_labels(
    sites: tuple[Site, Site], tmp_path: Path, own: Any, given_to: Any
) -> None:
    import torch
    from safetensors.torch import save_model

    prepared = tmp_path / "prepared"
    prepare(Context(out=prepared, owner="a"), **given(sites[0]), caps=CAPS)
    trainers = []
    for task in (own, given_to):
        (prepared / "dataset.json").write_text(json.dumps(dataset_of(*task)))
        with nnunet_environment(prepared):
            trainers.append(
                make_trainer(
                    ResumableTrainer,
                    prepared,
                    tmp_path,
                    schedule=Schedule(epochs=1, iterations=1, validation_iterations=1),
                    seed=3,
                    device="cpu",
                    report=lambda *_: None,
                )
            )
    first, second = (trainer.bare_network() for trainer in trainers)
    save_model(first, str(tmp_path / "weights.safetensors"))
    (tmp_path / "dataset.json").write_text(json.dumps(dataset_of(*own)))
    load_weights(second, tmp_path / "weights.safetensors")
    put_outputs_in_order(trainers[1], tmp_path)
    height, width = trainers[0].configuration_manager.patch_size
    image_NCHW = torch.randn(1, 1, height, width)
    with torch.inference_mode():
        had, has = first(image_NCHW)[0][0], second(image_NCHW)[0][0]
    outputs = [LabelEncoding.of(dataset_of(*task)).outputs for task in (own, given_to)]
    assert len(outputs[0]) == len(had) == 3
    for name in outputs[0]:
        place, now = (names.index(name) for names in outputs)
        assert torch.equal(had[place], has[now])


# --- releases --------------------------------------------------------------------------------


def experiment() -> Experiment:
    found, _ = resolve_experiment(
        budget="smoke", generator="flow", device="cpu", overrides=["precision=fp32"]
    )
    return found


def release(folder: Path, site: str, task: tuple[dict[str, Any], Any], federation: str) -> Path:
    """Images of bright discs, labelled in the values of the task by what the names say."""
    encoding = LabelEncoding.of(dataset_of(*task))
    names = [name for name in encoding.outputs if name != "background"]
    rng = np.random.default_rng([*site.encode()])
    rows_HW, columns_HW = np.mgrid[:40, :30]
    images, labels = [], []
    for _ in range(6):
        far_HW = np.hypot(rows_HW - 20 - rng.uniform(-4, 4), columns_HW - 14)
        # By name: the first in the alphabet is innermost.
        label_HW = np.zeros(far_HW.shape, np.uint8)
        for step, name in enumerate(sorted(names, reverse=True)):
            label_HW[far_HW < 13 - 4 * step] = encoding.names[name]
        images.append(60 + 20 * (far_HW < 11) + rng.integers(0, 30, far_HW.shape))
        labels.append(label_HW)
    metadata = ReleaseMetadata(
        site=site,
        channel_names=("MR",),
        label_names=encoding.names,
        regions=encoding.regions,
        spacing=(1.0, 1.0),
        slice_axis=0,
        scale=(1.0,),
        offset=(0.0,),
        card=card(images=6),
    )
    write_release(
        folder / site,
        metadata,
        np.stack(images)[:, None].astype(np.uint8),
        np.stack(labels),
        experiment=federation,
        nonce=site,
    )
    return folder / site


@pytest.mark.parametrize(
    "tasks", [((PLAIN, None), (SWAPPED, None)), (REGIONS, OTHER_REGIONS)], ids=["plain", "regions"]
)
def test_releases_are_pooled_in_the_values_of_the_first(tmp_path: Path, tasks: Any) -> None:
    folders = {
        f"release_{k}": release(tmp_path, name, task, "e")
        for k, (name, task) in enumerate(zip("ab", tasks, strict=True))
    }
    encoding = LabelEncoding.of(dataset_of(*tasks[0]))
    found = dict(read_releases(["a", "b"], folders, "e"))
    written = write_slices(tmp_path / "slices", "b", found["b"], encoding)
    for case, label_HW in zip(written, found["b"].labels_NHW, strict=True):
        pooled_HW = read_label(case.label, {"file_ending": ".mha"})[0]
        theirs = LabelEncoding.of(dataset_of(*tasks[1])).names
        for name, value in encoding.names.items():
            assert ((pooled_HW == value) == (label_HW == theirs[name])).all()
    (tmp_path / "checked").mkdir()
    check_release(
        Context(out=tmp_path / "checked", owner="pool"),
        release=folders["release_1"],
        site="b",
        dataset=dataset_of(*tasks[0]),
        federation="e",
        gate=Gate(quality=QualityGate(enforced=False)).model_dump(),
    )
    out = tmp_path / "pool"
    context = Context(out=out, owner="pool")
    asked = {"sites": ["a", "b"], "federation": "e", "caps": CAPS}
    assert pool_releases(context, **asked, **folders)["images_by_site"] == {"a": 6, "b": 6}
    pooled = json.loads((out / "dataset.json").read_text())
    assert pooled["labels"] == {n: v for n, v in tasks[0][0].items() if n != "ignore"}
    assert not (out / "slices").exists()


def test_a_federation_is_of_structures_not_of_their_values() -> None:
    def key(labels: dict[str, Any], order: list[int] | None = None) -> str:
        return experiment().task("Livers", dataset_of(labels, order))

    assert key(PLAIN) == key(SWAPPED)
    assert key(*REGIONS) == key(*OTHER_REGIONS)
    keys = {key(PLAIN), key({**PLAIN, "cyst": 3}), key(*REGIONS)}
    assert len({*keys, key({"background": 0, "whole": 1, "core": 2, "rim": 3})}) == 4


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ((PLAIN, None), (SWAPPED, None), ""),
        (REGIONS, OTHER_REGIONS, ""),
        (
            (PLAIN, None),
            ({"background": 0, "liver": 1, "cyst": 2}, None),
            "lacks tumour; has cyst, which the others do not label",
        ),
        (
            REGIONS,
            ({**REGIONS[0], "core": [2]}, REGIONS[1]),
            "defines core as core, here it is core, rim",
        ),
        (
            REGIONS,
            ({"background": 0, "core": [1, 2], "whole": [1, 2, 3], "rim": [2]}, [1, 3, 2]),
            "paints core before whole, here it is after",
        ),
        (
            REGIONS,
            ({"background": 0, "whole": 1, "core": 2, "rim": 3}, None),
            "defines whole as whole, here it is core, rim, whole",
        ),
        (
            ({"background": 0, "whole": 1, "core": 2, "rim": 3}, None),
            REGIONS,
            "defines whole as core, rim, whole, here it is whole",
        ),
    ],
)
def test_what_two_label_sets_have_otherwise_is_said_by_name(
    one: Any, other: Any, said: str
) -> None:
    own, given = LabelEncoding.of(dataset_of(*one)), LabelEncoding.of(dataset_of(*other))
    assert own.differences(given).startswith(said)
    assert bool(own.differences(given)) == bool(said)
    if said:
        with refuses("data.other-labels", said):
            given.values_in(own)


def test_values_that_are_not_named_stay() -> None:
    label_HW = np.array([[0, 1, 2], [3, 2, 1]], np.uint8)
    assert with_values(label_HW, {0: 0, 1: 2, 2: 1}).tolist() == [[0, 2, 1], [3, 1, 2]]
    assert with_values(label_HW, {0: 0, 1: 1}) is label_HW


def test_the_pool_names_the_structures_that_a_hospital_labels_otherwise(tmp_path: Path) -> None:
    folders = []
    cyst = {"background": 0, "liver": 1, "cyst": 2}
    for site, labels in (("alpha", PLAIN), ("gamma", cyst)):
        task = experiment().task("Livers", dataset_of(labels))
        federation = key_of(task, experiment().recipe(RELEASE_VERSIONS))
        made = release(tmp_path / "made", site, (labels, None), federation)
        key = signing_key(tmp_path / site)
        files = {name: (made / name).read_bytes() for name in (RELEASE_FILE, MANIFEST_FILE)}
        files["manifest.sig"] = key.sign(files[MANIFEST_FILE])
        files["public.key"] = key.public_key().public_bytes_raw()
        result = {"outcome": "released", "reason": None, "rejection_rate": 0.1, "images": 6}
        folders.append(tmp_path / "in" / site)
        parcel = Parcel(
            sender=site, stage="release", key=digest_of(site), files=files, result=result
        )
        write_parcel(folders[-1], parcel)
    options = ("--budget", "smoke", "--generator", "flow", "--device", "cpu")
    asked = [*options, "--set", "precision=fp32", "--store", str(tmp_path / "store")]
    # One good release is too few for a model, which keeps this short.
    named = [*map(str, folders), "--out", str(tmp_path / "general")]
    done = CliRunner().invoke(pool, ["train", *named, *asked])
    assert "alpha: accepted: 6 images" in done.output
    (refused,) = (line for line in done.output.splitlines() if line.startswith("gamma: "))
    assert all(name in refused for name in ("(experiment)", "tumour", "cyst"))
    assert isinstance(done.exception, HyfreeError)
    assert done.exception.code == "round.too-few-releases"
    assert not (tmp_path / "general").exists()
