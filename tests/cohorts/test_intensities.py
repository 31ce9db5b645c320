"""Intensities on their way: from a site's units to what is stored, and back at the pool."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from hyfree_ray.border.manifest import Manifest
from hyfree_ray.border.release import Release, ReleaseMetadata
from hyfree_ray.cohorts.cohort import read_cohort
from hyfree_ray.core.stage import Context
from hyfree_ray.federation.simulation import sites_of
from hyfree_ray.generators.view import GeneratorView, stored_bits
from hyfree_ray.privacy.sampling import max_level, quantise, restore
from hyfree_ray.segmenters.content_box import content_box
from hyfree_ray.stages.data import prepare

CHANNELS = {"0": "T1", "1": "FLAIR", "2": "CT", "3": "noNorm"}
UNITS = ((0.0, 1.7e6), (1e-4, 3e-4), (-1024.0, 3071.0), (-5.0, 250.0))
"""Low and high intensities of each channel."""


def view_of(windows: list[tuple[float, float]], images_NCHW: np.ndarray) -> GeneratorView:
    low_C, high_C = np.array(windows, np.float32).T
    return GeneratorView(
        images_NCHW=images_NCHW,
        patients_N=np.arange(len(images_NCHW)),
        training_N=np.ones(len(images_NCHW), bool),
        low_C=low_C,
        high_C=high_C,
        spacing=(1.0, 2.0),
    )


def at_the_pool(view: GeneratorView, dtype: Any) -> np.ndarray:
    """The view's images in physical units, as the pool has them from a release."""
    stored_NCHW = quantise(view.images_NCHW, dtype)
    channels = range(stored_NCHW.shape[1])
    metadata = ReleaseMetadata(
        site="a",
        channel_names=tuple(f"c{k}" for k in channels),
        label_names={"background": 0, "organ": 1},
        spacing=view.spacing,
        slice_axis=0,
        scale=tuple(float(s) for s in view.step_C(max_level(dtype))),
        offset=tuple(float(o) for o in view.low_C),
        card={},
    )
    manifest = Manifest(
        site="a", experiment="e", round=1, nonce="n", rows=len(stored_NCHW), sha256="", bytes=0
    )
    return Release(
        manifest=manifest,
        metadata=ReleaseMetadata.from_json(metadata.to_json()),
        images_NCHW=stored_NCHW,
        labels_NHW=np.zeros((len(stored_NCHW), *stored_NCHW.shape[2:]), np.uint8),
    ).physical()


windows = st.tuples(
    st.floats(-5e4, 5e4, width=32), st.floats(10, 1e6, width=32), st.floats(-4, 0)
).map(lambda drawn: (drawn[0], drawn[0] + drawn[1] * 10 ** drawn[2] + abs(drawn[0]) * 1e-2))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(windows, min_size=1, max_size=4),
    st.sampled_from([(np.uint8, 200), (np.uint16, 20_000)]),
    st.integers(0, 2**32 - 1),
)
def test_what_is_lost_on_the_way_is_a_small_part_of_the_range(
    some: list[tuple[float, float]], stored: tuple[Any, int], seed: int
) -> None:
    dtype, parts = stored
    rng = np.random.default_rng(seed)
    images_NCHW = rng.uniform(-1, 1, (3, len(some), 5, 8)).astype(np.float32)
    images_NCHW[0, :, 0, :2] = (-1, 1)
    view = view_of(some, images_NCHW)
    lost_C = np.abs(at_the_pool(view, dtype) - view.physical(images_NCHW)).max(axis=(0, 2, 3))
    assert (lost_C < (view.high_C - view.low_C) / parts).all()


def test_eight_bits_are_enough_but_for_ranges_that_dwarf_the_tissue() -> None:
    """Figures of X-rays, photographs, MR (a step is 0.02 of the spread), and of CT."""
    zero = np.zeros(1)
    assert stored_bits(zero, zero + 251, zero + 42.6) == 8
    assert stored_bits(np.zeros(3), np.full(3, 254.0), np.array([39.0, 45.9, 43.5])) == 8
    assert stored_bits(zero, zero + 1761, zero + 323) == 8
    assert stored_bits(zero - 1024, zero + 3071, zero + 30) == 16
    assert stored_bits(np.array([0.0, -1024]), np.array([250.0, 3071]), np.array([40, 30.0])) == 16
    assert stored_bits(zero - 1024, zero + 3071, zero) == 8, "nothing is known of the foreground"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_dark_margins_are_found_at_any_depth(dtype: Any) -> None:
    image_CHW = np.full((2, 20, 30), -1.0, np.float32)
    image_CHW[1, 4:15, 6:25] = 0.2
    assert content_box(quantise(image_CHW, dtype)) == (slice(4, 15), slice(6, 25))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_what_is_stored_and_restored_is_stored_alike(dtype: Any) -> None:
    values = np.arange(max_level(dtype) + 1).astype(dtype).reshape(1, 1, 16, -1)
    np.testing.assert_array_equal(quantise(restore(values), dtype), values)


def draw(root: Path) -> Path:
    """Six patients with four channels of floats, each in units of its own."""
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    lines = ["case,site,patient"]
    for index in range(6):
        rng = np.random.default_rng(index)
        label_HW = np.zeros((40 + index, 28), np.uint8)
        label_HW[10:20, 8:18] = 1
        for channel, (low, high) in enumerate(UNITS):
            unit_HW = rng.uniform(0, 0.9, label_HW.shape) + 0.1 * label_HW
            pixels_HW = (low + unit_HW * (high - low)).astype(np.float32)
            image: Any = sitk.GetImageFromArray(pixels_HW)
            sitk.WriteImage(image, str(root / f"imagesTr/m{index}_{channel:04d}.mha"))
        sitk.WriteImage(sitk.GetImageFromArray(label_HW), str(root / f"labelsTr/m{index}.mha"))
        lines.append(f"m{index},a,p{index}")
    (root / "sites.csv").write_text("\n".join(lines))
    labels = {"background": 0, "organ": 1}
    dataset = {"channel_names": CHANNELS, "labels": labels, "file_ending": ".mha"}
    (root / "dataset.json").write_text(json.dumps(dataset))
    return root


def test_four_channels_of_floats_keep_their_units(tmp_path: Path) -> None:
    site = sites_of(read_cohort(draw(tmp_path / "data")), 0)["a"]
    (tmp_path / "out").mkdir()
    result = prepare(
        Context(out=tmp_path / "out", owner="a"),
        data=tmp_path / "data",
        cases=site.part("train", "val"),
        dataset=site.dataset,
        caps={"working_size": 32, "base_features": 4, "max_features": 8, "batch_size": 4},
    )
    assert result["stored_bits"] == 8
    plans = json.loads((tmp_path / "out" / "plans.json").read_text())
    schemes = plans["configurations"]["2d"]["normalization_schemes"]
    assert schemes == ["ZScoreNormalization"] * 2 + ["CTNormalization", "NoNormalization"]
    view = GeneratorView.load(tmp_path / "out" / "view.npz")
    assert view.images_NCHW.shape[1] == 4
    for channel, (low, high) in enumerate(UNITS):
        assert view.low_C[channel] == pytest.approx(low, abs=0.2 * (high - low))
        assert view.high_C[channel] == pytest.approx(high, abs=0.2 * (high - low))
    pool_NCHW = at_the_pool(view, np.uint8)
    site_NCHW = view.physical(view.images_NCHW)
    lost_C = np.abs(pool_NCHW - site_NCHW).max(axis=(0, 2, 3))
    assert (lost_C < (view.high_C - view.low_C) / 200).all()
