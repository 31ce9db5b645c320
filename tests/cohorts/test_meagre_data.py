"""Data that a generator makes little of: few images, blank ones, small ones. All of it is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from hyfree_ray.cli import main
from hyfree_ray.cohorts.cohort import read_cohort
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.stage import Context
from hyfree_ray.federation.simulation import sites_of
from hyfree_ray.federation.site import SiteParty
from hyfree_ray.generators.view import GeneratorView
from hyfree_ray.observing.progress import format_plan
from hyfree_ray.stages.data import prepare
from tests.raw_data import make, write
from tests.stage_records import stage_record

CAPS = {"working_size": 32, "base_features": 4, "max_features": 8, "batch_size": 4}


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def one_site(root: Path, change: Callable[[int, np.ndarray], np.ndarray]) -> Path:
    """Six patients, 40x28, one of them changed."""
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    random = np.random.default_rng(0)
    lines = ["case,site,patient"]
    for index in range(6):
        pixels_HW = change(index, random.integers(40, 255, (40, 28)).astype(np.uint8))
        label_HW = np.zeros_like(pixels_HW)
        label_HW[2:12, 3:9] = 1
        write(root / f"imagesTr/m{index}_0000.png", pixels_HW)
        write(root / f"labelsTr/m{index}.png", label_HW)
        lines.append(f"m{index},a,p{index}")
    (root / "sites.csv").write_text("\n".join(lines))
    labels = {"background": 0, "organ": 1}
    dataset = {"channel_names": {"0": "Xray"}, "labels": labels, "file_ending": ".png"}
    (root / "dataset.json").write_text(json.dumps(dataset))
    return root


def prepared(root: Path, out: Path) -> tuple[dict[str, Any], GeneratorView]:
    site = sites_of(read_cohort(root), 0)["a"]
    out.mkdir()
    result = prepare(
        Context(out=out, owner="a"),
        data=root,
        cases=site.part("train", "val"),
        dataset=site.dataset,
        caps=CAPS,
    )
    return result, GeneratorView.load(out / "view.npz")


def test_a_site_of_few_images_is_told_that_its_release_is_likely_withheld(tmp_path: Path) -> None:
    root, _ = make(tmp_path / "data")
    result = call("simulate", "--data", root, "--store", tmp_path / "s", "--dry-run")
    assert result.exit_code == 0, result.output
    told = [line for line in result.output.splitlines() if "may be withheld" in line]
    assert len(told) == 2
    assert "warning: north has 3 training images; with fewer than 40 a generator" in told[0]


def test_a_hospital_of_few_images_is_told_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _ = make(tmp_path / "data")

    async def stop(_: SiteParty) -> None:
        raise HyfreeError("internal.unexpected", "it went on")

    monkeypatch.setattr(SiteParty, "submit", stop)
    options = ("--data", root, "--site", "north", "--out", tmp_path / "out")
    result = call("site", "contribute", *options, "--store", tmp_path / "s", "--budget", "smoke")
    assert "north has 3 training images" in result.stderr
    assert "may be withheld" in result.stderr


def test_blank_images_are_noted_by_name_and_trained_on_as_they_are(tmp_path: Path) -> None:
    root = one_site(
        tmp_path / "data", lambda k, image: np.full_like(image, 90) if k == 2 else image
    )
    (note,) = read_cohort(root).notes
    assert (note.code, note.where) == ("data.constant-image", "imagesTr/m2_0000.png")
    _, view = prepared(root, tmp_path / "out")
    assert np.isfinite(view.images_NCHW).all()


def test_images_much_smaller_than_the_patch_are_counted_told_and_padded(tmp_path: Path) -> None:
    root = one_site(tmp_path / "data", lambda k, image: image[:16, :12] if k == 1 else image)
    result, view = prepared(root, tmp_path / "out")
    assert result["smaller_than_patch"] == 1
    assert format_plan(stage_record("prepare", owner="a", result=result))[1] == (
        "a: warning: 1 images are smaller than the patch; they are padded with the lowest intensity"
    )
    empty_N = (view.images_NCHW[:, 0] == -1).mean(axis=(1, 2))
    small = int(np.argmax(empty_N))
    assert empty_N[small] > 0.5
    assert (view.images_NCHW[small, :, [0, -1]] == -1).all()


def test_a_site_whose_images_fill_the_patch_hears_no_warning(tmp_path: Path) -> None:
    result, _ = prepared(one_site(tmp_path / "data", lambda _, image: image), tmp_path / "out")
    assert len(format_plan(stage_record("prepare", owner="a", result=result))) == 1
