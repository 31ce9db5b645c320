"""Volumes: cut along the plan's axis for training, predicted and scored whole."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from hyfree_ray.border.release import ReleaseMetadata, read_release, write_release
from hyfree_ray.cohorts.cohort import read_cohort
from hyfree_ray.cohorts.image_facts import inspect_file
from hyfree_ray.core.files import write_json
from hyfree_ray.core.stage import Context
from hyfree_ray.federation.hospital import Site
from hyfree_ray.federation.simulation import sites_of
from hyfree_ray.generators.view import GeneratorView
from hyfree_ray.privacy.sampling import quantise, restore
from hyfree_ray.segmenters.nnunet.data import use_on_volumes
from hyfree_ray.segmenters.nnunet.model import Model
from hyfree_ray.segmenters.nnunet.reading import cut_masks, cut_slices, read_image, read_label
from hyfree_ray.segmenters.nnunet.schedule import Schedule
from hyfree_ray.segmenters.nnunet.train import train
from hyfree_ray.segmenters.plan_caps import PlanCaps
from hyfree_ray.stages.data import prepare, prepare_for_general
from hyfree_ray.stages.pooling import pool_releases
from hyfree_ray.stages.replay import write_real_slices
from hyfree_ray.stages.scoring import score
from tests.conftest import REAL_DATA
from tests.refusals import refuses

CAPS = PlanCaps(working_size=32, base_features=4, max_features=16, batch_size=6)
SHORT = Schedule(epochs=4, iterations=40, validation_iterations=2)
SPACING = (1.0, 1.25, 5.0)
"""Of the drawn volumes: the slices lie along the last axis."""


def draw(root: Path, *, spacing: dict[str, tuple[float, float, float]] | None = None) -> Path:
    """Two sites of five and six CT-like volumes with a bright organ, in HU."""
    spacing = spacing or {"north": SPACING, "south": SPACING}
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    lines = ["case,site,patient"]
    for index, site in enumerate(["north"] * 5 + ["south"] * 6):
        rng = np.random.default_rng(index)
        shape = (34, 26, 6 + index % 3)
        grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
        label = (grid[0] - 0.2) ** 2 / 0.3 + grid[1] ** 2 / 0.1 + grid[2] ** 2 < 1
        pixels = np.where(label, 60, -400) + rng.normal(0, 15, shape)
        for name, array in (
            (f"imagesTr/v{index:02d}_0000", pixels.astype(np.int16)),
            (f"labelsTr/v{index:02d}", label.astype(np.uint8)),
        ):
            image: Any = sitk.GetImageFromArray(array)
            image.SetSpacing(spacing[site][::-1])
            sitk.WriteImage(image, str(root / f"{name}.nii.gz"))
        lines.append(f"v{index:02d},{site},p{index}")
    (root / "sites.csv").write_text("\n".join(lines) + "\n")
    dataset = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 1}}
    (root / "dataset.json").write_text(json.dumps({**dataset, "file_ending": ".nii.gz"}))
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("volumes") / "data")


@pytest.fixture(scope="module")
def site(data: Path) -> Site:
    return sites_of(read_cohort(data), 0)["south"]


def run_prepare(site: Site, out: Path) -> dict[str, Any]:
    assert site.folder is not None
    return prepare(
        Context(out=out, owner=site.name),
        data=site.folder,
        cases=site.part("train", "val"),
        dataset=site.dataset,
        caps=CAPS.model_dump(),
    )


@pytest.fixture(scope="module")
def prepared(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared")
    write_json(out / "result.json", run_prepare(site, out))
    return out


@pytest.fixture(scope="module")
def trained(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train(prepared, folder, schedule=SHORT, seed=1, device="cpu", report=lambda *_: None)
    return folder


def test_a_generator_sees_the_slices_that_the_headers_promised(site: Site, prepared: Path) -> None:
    result = json.loads((prepared / "result.json").read_text())
    slices = {case["name"]: 6 + int(case["name"][1:]) % 3 for case in site.cases}
    assert site.training_images == sum(slices[case["name"]] for case in site.part("train"))
    assert result["training_images"] == site.training_images
    view = GeneratorView.load(prepared / "view.npz")
    assert len(view.images_NCHW) == sum(slices[c["name"]] for c in site.part("train", "val"))
    assert view.images_NCHW.shape[2:] == tuple(result["patch_size"])
    # Physical height and width: those of the volumes' first two axes.
    height, width = (np.array((34, 26)) * SPACING[:2]) / view.spacing
    covered_HW = (view.images_NCHW > -1).any(axis=(0, 1))
    assert abs(covered_HW.any(axis=1).sum() - height) <= 1
    assert abs(covered_HW.any(axis=0).sum() - width) <= 1


def test_a_plan_keeps_hounsfield_units_comparable_between_images(prepared: Path) -> None:
    plans = json.loads((prepared / "plans.json").read_text())
    assert plans["configurations"]["2d"]["normalization_schemes"] == ["CTNormalization"]
    assert plans["transpose_forward"] == [2, 0, 1]
    view = GeneratorView.load(prepared / "view.npz")
    physical_NCHW = view.physical(view.images_NCHW)
    assert -460 < physical_NCHW.min() < -410
    assert 80 < physical_NCHW.max() < 130


def test_thin_slices_are_thinned_and_blank_ones_left_out() -> None:
    image_CZHW = np.zeros((2, 20, 12, 9), np.float32)
    image_CZHW[1, 4:, 2:10, 1:8] = np.random.default_rng(0).random((16, 8, 7)) + 1
    image_CZHW[:, 14] = 0.5
    slices, spacing = cut_slices(image_CZHW, (1.0, 0.7, 0.9), 0)
    assert spacing == (0.7, 0.9)
    # Of 2, 6, 10, 14 and 18 the first is outside of the content and the fourth is constant.
    assert len(slices) == 3
    np.testing.assert_array_equal(slices[0], image_CZHW[:, 6])
    flat, spacing = cut_slices(image_CZHW[:, 6:7], (999.0, 0.7, 0.9), 0)
    assert len(flat) == 1
    assert flat[0].shape == (2, 8, 7)


@pytest.mark.parametrize("axis", [0, 2])
def test_masks_are_cut_where_their_slices_are(axis: int) -> None:
    label_ZHW = np.arange(20 * 12 * 9).reshape(20, 12, 9) % 251
    image_CZHW = np.zeros((2, 20, 12, 9), np.float32)
    image_CZHW[:, 3:17, 2:10, 1:8] = label_ZHW[3:17, 2:10, 1:8] + 1
    spacing = [1.0, 1.0, 1.0]
    spacing[axis] = 3.0
    slices, _ = cut_slices(image_CZHW, spacing, axis)
    masks = cut_masks(label_ZHW, image_CZHW, spacing, axis)
    assert len(slices) == len(masks) > 3
    for image_CHW, label_HW in zip(slices, masks, strict=True):
        np.testing.assert_array_equal(image_CHW[1], label_HW + 1)


def test_a_volume_is_segmented_whole_as_its_slices_are_alone(data: Path, trained: Path) -> None:
    """With CT normalisation a slice does not depend on the others: any mix of axes would show."""
    dataset = json.loads((data / "dataset.json").read_text())
    image_CZHW, spacing = read_image([data / "imagesTr/v07_0000.nii.gz"], dataset)
    assert spacing == SPACING
    model = Model(trained / "model", "cpu")
    whole_ZHW = model.segment(image_CZHW, spacing)
    assert whole_ZHW.shape == image_CZHW.shape[1:]
    assert 0.02 < whole_ZHW.mean() < 0.6
    for k in range(image_CZHW.shape[3]):
        one_HW = model.segment_slice(image_CZHW[..., k], SPACING[:2])
        np.testing.assert_array_equal(one_HW, whole_ZHW[..., k])


def test_a_model_made_on_slices_segments_a_volume_slice_by_slice(
    data: Path, trained: Path, tmp_path: Path
) -> None:
    """nnU-Net's z-score is over all that it is given: a slice in training, a volume in use."""
    dataset = json.loads((data / "dataset.json").read_text())
    image_CZHW, spacing = read_image([data / "imagesTr/v07_0000.nii.gz"], dataset)
    image_CZHW[..., 3] = -1000
    found = {}
    for on_slices in (True, False):
        folder = tmp_path / str(on_slices)
        shutil.copytree(trained / "model", folder)
        plans = json.loads((folder / "plans.json").read_text())
        plans["configurations"]["2d"]["normalization_schemes"] = ["ZScoreNormalization"]
        (folder / "plans.json").write_text(json.dumps(plans))
        if on_slices:
            use_on_volumes(folder, 2)
        model = Model(folder, "cpu")
        found[on_slices] = model.segment(image_CZHW, spacing)
    assert found[True].shape == image_CZHW.shape[1:]
    for k in range(image_CZHW.shape[3]):
        one_HW = model.segment_slice(image_CZHW[..., k], SPACING[:2])
        np.testing.assert_array_equal(found[True][..., k], one_HW if k != 3 else 0)
    assert (found[True] != found[False]).any()


def run_score(site: Site, model: Path, out: Path) -> list[dict[str, Any]]:
    assert site.folder is not None
    out.mkdir()
    return score(
        Context(out=out, owner=site.name),
        data=site.folder,
        cases=site.part("test"),
        dataset=site.dataset,
        model=model,
        segmenter="nnunet",
        regime="local",
        train_site=site.name,
    )["rows"]


def test_a_volume_is_one_score_in_mm(site: Site, trained: Path, tmp_path: Path) -> None:
    rows = run_score(site, trained, tmp_path / "score")
    assert [row["case"] for row in rows] == [case["index"] for case in site.part("test")]
    for row in rows:
        assert row["outcome"] == "scored"
        assert 0.3 < row["dice"] <= 1
        assert 0 <= row["nsd"] <= 1
        assert 0 <= row["hd95"] < 34


def release_of(site: str, folder: Path, *, axis: int) -> Path:
    rng = np.random.default_rng(axis)
    images_NCHW = rng.integers(0, 200, (6, 1, 34, 26), dtype=np.uint8)
    labels_NHW = np.zeros((6, 34, 26), np.uint8)
    labels_NHW[:, 10:22, 8:15] = 1
    images_NCHW[:, 0][labels_NHW > 0] += 40
    metadata = ReleaseMetadata(
        site=site,
        channel_names=("CT",),
        label_names={"background": 0, "organ": 1},
        spacing=SPACING[:2],
        slice_axis=axis,
        scale=(2.0,),
        offset=(-400.0,),
        card={},
    )
    write_release(folder, metadata, images_NCHW, labels_NHW, experiment="e", nonce="n")
    assert read_release(folder, site=site, experiment="e").metadata == metadata
    return folder


def run_pool(out: Path, **releases: Path) -> None:
    pool_releases(
        Context(out=out, owner="pool"),
        sites=["north", "south"],
        federation="e",
        caps=CAPS.model_dump(),
        **releases,
    )


def test_a_model_made_from_slices_is_used_on_volumes_and_fine_tuned_on_them(
    site: Site, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "pool").mkdir()
    run_pool(
        tmp_path / "pool",
        release_0=release_of("north", tmp_path / "r0", axis=2),
        release_1=release_of("south", tmp_path / "r1", axis=2),
    )
    one = Schedule(epochs=1, iterations=2, validation_iterations=1)
    train(
        tmp_path / "pool",
        tmp_path / "general",
        schedule=one,
        seed=1,
        device="cpu",
        report=lambda *_: None,
    )
    assert Model(tmp_path / "general" / "model", "cpu").plan.slice_axis == 2
    assert len(run_score(site, tmp_path / "general", tmp_path / "scores")) == len(site.part("test"))
    prepare_for_general(
        Context(out=tmp_path / "again", owner=site.name),
        data=data,
        cases=site.part("train", "val"),
        dataset=site.dataset,
        general=tmp_path / "general",
        caps=CAPS.model_dump(),
    )
    plans = json.loads((tmp_path / "again" / "plans.json").read_text())
    assert plans["transpose_forward"] == [2, 0, 1]
    train(
        tmp_path / "again",
        tmp_path / "tuned",
        schedule=one,
        seed=1,
        device="cpu",
        report=lambda *_: None,
        initial=tmp_path / "general" / "model",
    )
    assert (tmp_path / "tuned" / "model" / "weights.safetensors").exists()


def test_real_slices_lie_in_the_plane_of_the_released_ones(
    site: Site, data: Path, tmp_path: Path
) -> None:
    cases = site.part("train")[:1]
    written = write_real_slices(tmp_path, "real", data, cases, site.dataset)
    image_ZHW = sitk.GetArrayFromImage(sitk.ReadImage(str(data / cases[0]["images"][0])))
    label_ZHW = sitk.GetArrayFromImage(sitk.ReadImage(str(data / cases[0]["label"])))
    assert len(written) == image_ZHW.shape[2]
    raw, part = written[4]
    assert part == "train"
    slice_HW = sitk.ReadImage(str(raw.images[0]))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(slice_HW), image_ZHW[..., 4])
    assert slice_HW.GetSpacing() == (SPACING[1], SPACING[0])
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(sitk.ReadImage(str(raw.label))), label_ZHW[..., 4]
    )


def test_slices_of_different_planes_are_not_pooled(tmp_path: Path) -> None:
    with refuses("data.slice-axes-differ", "south: ", " axis 1", "north", " axis 2"):
        run_pool(
            tmp_path,
            release_0=release_of("north", tmp_path / "r0", axis=2),
            release_1=release_of("south", tmp_path / "r1", axis=1),
        )


def test_sites_that_are_cut_along_different_axes_are_refused(tmp_path: Path) -> None:
    root = draw(tmp_path / "x", spacing={"north": SPACING, "south": (1.25, 5.0, 1.0)})
    named = ("south: ", " axis 1", "north", " axis 2")
    with refuses("data.slice-axes-differ", *named):
        read_cohort(root)
    with refuses("data.slice-axes-differ", *named):
        sites_of(read_cohort(root, own_sites=False), 0)


def test_real_volumes_are_prepared_whole_by_patient(tmp_path: Path) -> None:
    """Twelve of the hippocampus volumes, 1 mm isotropic, as two sites."""
    real = REAL_DATA / "Dataset304_Hippocampus"
    if not real.is_dir():
        pytest.skip("Dataset304_Hippocampus is not here; set HYFREE_DATA to its folder")
    with (real / "sites.csv").open() as table:
        names = [row["case"] for row in csv.DictReader(table)][:12]
    root = tmp_path / "data"
    lines = ["case,site,patient"]
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    for index, name in enumerate(names):
        for file in (f"imagesTr/{name}_0000.nii.gz", f"labelsTr/{name}.nii.gz"):
            (root / file).symlink_to(real / file)
        lines.append(f"{name},{'east' if index < 7 else 'west'},{name}")
    (root / "sites.csv").write_text("\n".join(lines) + "\n")
    (root / "dataset.json").write_bytes((real / "dataset.json").read_bytes())
    site = sites_of(read_cohort(root), 1)["east"]
    result = run_prepare(site, tmp_path / "out")
    assert result["training_images"] == site.training_images
    lengths = {case["name"]: case["slices"] for case in site.cases}
    for name, count in lengths.items():
        size = sitk.ReadImage(str(root / f"labelsTr/{name}.nii.gz")).GetSize()
        assert abs(count - size[2] / 4) <= 1
    assert set(result["label_share"]) == {"Anterior", "Posterior"}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_what_travels_is_labelled_as_what_was_sent(
    prepared: Path, trained: Path, dtype: Any
) -> None:
    view = GeneratorView.load(prepared / "view.npz")
    sent_NCHW = view.physical(view.images_NCHW)
    taken_NCHW = view.physical(restore(quantise(view.images_NCHW, dtype)))
    assert not np.array_equal(sent_NCHW, taken_NCHW)
    model = Model(trained / "model", "cpu")
    sent, taken = (
        np.stack([model.segment_slice(image_CHW, view.spacing) for image_CHW in images_NCHW[::2]])
        for images_NCHW in (sent_NCHW, taken_NCHW)
    )
    assert 0.01 < sent.mean() < 0.6
    assert 2 * (sent & taken).sum() / (sent.sum() + taken.sum()) > 0.99


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_volumes_of_every_format_are_read_alike(tmp_path: Path, ending: str) -> None:
    pixels = np.random.default_rng(0).normal(0, 300, (5, 12, 9)).astype(np.float32)
    label = (pixels > 100).astype(np.uint8)
    for name, array in (("v_0000", pixels), ("v", label)):
        image: Any = sitk.GetImageFromArray(array)
        image.SetSpacing((0.5, 0.7, 3.0))
        image.SetDirection((-1, 0, 0, 0, 1, 0, 0, 0, -1))
        sitk.WriteImage(image, str(tmp_path / f"{name}{ending}"))
    dataset = {"file_ending": ending}
    found_CZHW, spacing = read_image([tmp_path / f"v_0000{ending}"], dataset)
    np.testing.assert_array_equal(found_CZHW[0], pixels)
    assert spacing == pytest.approx((3.0, 0.7, 0.5))
    np.testing.assert_array_equal(read_label(tmp_path / f"v{ending}", dataset), label)
    facts = inspect_file(tmp_path / f"v_0000{ending}", ending, is_label=False)
    assert facts.shape == (5, 12, 9)
    assert facts.spacing == pytest.approx((3.0, 0.7, 0.5))
    assert facts.fault == ""
