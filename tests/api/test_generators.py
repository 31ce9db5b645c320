"""A generator trained on plain images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hyfree_ray import train_generator
from tests.pictures import write_pictures
from tests.refusals import refuses

SMOKE = {"budget": "smoke", "device": "cpu", "set": {"precision": "fp32"}}


def test_samples_are_in_the_units_of_the_pictures_and_the_same_next_time(tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures", channels=3)
    generator = train_generator(tmp_path / "pictures", tmp_path / "out", **SMOKE)
    drawn = generator.sample(5)
    height, width = generator.plan.patch_size
    assert drawn.shape == (5, 3, height, width)
    assert height < width, "as the pictures are"
    assert drawn.dtype == np.float32
    assert 0 <= drawn.min() < drawn.max() <= 255
    assert (generator.sample(2) == drawn[:2]).all()
    assert not (generator.sample(2, seed=1) == drawn[:2]).all()
    assert generator.sample(0).shape == (0, 3, height, width)
    again = train_generator(str(tmp_path / "pictures"), str(tmp_path / "out"), **SMOKE)
    assert (again.sample(5) == drawn).all()


def test_an_array_is_taken_as_it_is_and_another_needs_another_folder(tmp_path: Path) -> None:
    images_NHW = np.random.default_rng(0).normal(1000, 50, (6, 36, 44))
    generator = train_generator(images_NHW, tmp_path, generator="stylegan2", **SMOKE)
    assert generator.sample(1).shape[:2] == (1, 1)
    assert 700 < generator.sample(1).mean() < 1300
    for images, more in ((images_NHW + 1, {}), (images_NHW, {"seed": 1})):
        with refuses("generator.other-settings", str(tmp_path)):
            train_generator(images, tmp_path, generator="stylegan2", **SMOKE, **more)
    assert generator.sample(1).shape[:2] == (1, 1)


@pytest.mark.parametrize(
    ("images", "code"),
    [
        (np.zeros((3, 40, 40)), "data.constant-channel"),
        (np.zeros((40, 40)), "generator.bad-images"),
        (np.zeros((0, 40, 40)), "generator.bad-images"),
    ],
)
def test_images_that_cannot_be_trained_on_are_refused(
    tmp_path: Path, images: np.ndarray, code: str
) -> None:
    with refuses(code):
        train_generator(images, tmp_path / "out", **SMOKE)


def test_a_folder_of_no_pictures_or_of_unlike_ones_is_refused(tmp_path: Path) -> None:
    with refuses("generator.bad-images", "pictures", ".png"):
        train_generator(tmp_path / "pictures", tmp_path / "out", **SMOKE)
    write_pictures(tmp_path / "pictures", count=2)
    write_pictures(tmp_path / "colour", count=1, channels=3)
    (tmp_path / "colour" / "00.png").rename(tmp_path / "pictures" / "99.png")
    with refuses("generator.bad-images", "99.png", "3 channels, 00.png has 1"):
        train_generator(tmp_path / "pictures", tmp_path / "out", **SMOKE)
    assert not (tmp_path / "out").exists()
