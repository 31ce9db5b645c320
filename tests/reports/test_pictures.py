"""Legend: N images, C channels, H height, W width."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from hyfree_ray.reports.pictures import _COLOURS, contact_sheet, distance_histogram, nearest_pairs


def corner(rows: int = 4, channels: int = 1, dtype: type = np.uint8) -> Any:
    """Non-square images, bright in the upper left, wider than high."""
    images_NCHW: Any = np.full((rows, channels, 20, 50), 10, dtype)
    images_NCHW[:, :, :10, :15] = 200
    return images_NCHW


def labels(rows: int = 4) -> Any:
    labels_NHW = np.zeros((rows, 20, 50), np.uint8)
    labels_NHW[:, 5:15, 20:40] = 1
    labels_NHW[:, 8:12, 25:30] = 2
    return labels_NHW


def pixels(path: Path) -> Any:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def near(picture_HWC: Any, colour: str) -> int:
    """Pixels of about this colour."""
    wanted = np.array([round(255 * part) for part in to_rgb(colour)])
    return int((np.abs(picture_HWC - wanted).max(-1) < 12).sum())


def test_labels_are_outlined_each_in_its_own_colour(tmp_path: Path) -> None:
    contact_sheet(tmp_path / "with.png", corner(), labels(), "site-1", columns=2)
    contact_sheet(tmp_path / "without.png", corner(), None, "site-1", columns=2)
    for colour in _COLOURS[:2]:
        assert near(pixels(tmp_path / "with.png"), colour) > 20
        assert near(pixels(tmp_path / "without.png"), colour) == 0
    assert near(pixels(tmp_path / "with.png"), _COLOURS[2]) == 0


def test_images_keep_their_orientation_and_proportions(tmp_path: Path) -> None:
    contact_sheet(tmp_path / "one.png", corner(1), None, "", columns=1)
    picture = pixels(tmp_path / "one.png").mean(-1)
    dark = np.argwhere(picture < 5)
    (top, left), (bottom, right) = dark.min(0), dark.max(0)
    height, width = bottom - top + 1, right - left + 1
    assert width / height == pytest.approx(50 / 20, rel=0.05)
    assert picture[top + height // 4, left + width // 6] > 250
    assert picture[top + height // 4, right - width // 6] < 5
    assert picture[bottom - height // 4, left + width // 6] < 5


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_any_number_of_channels_of_any_type_is_drawn(
    tmp_path: Path, channels: int, dtype: type
) -> None:
    contact_sheet(tmp_path / "sheet.png", corner(5, channels, dtype), labels(5), "site-1", 3)
    assert pixels(tmp_path / "sheet.png").min() < 30


def test_three_channels_are_shown_in_colour(tmp_path: Path) -> None:
    images_NCHW = corner(3, 3)
    images_NCHW[:, 1:] = 10
    contact_sheet(tmp_path / "sheet.png", images_NCHW, None, "", 3)
    assert near(pixels(tmp_path / "sheet.png"), "#ff0000") > 100


def test_one_hot_pixel_does_not_turn_the_rest_black(tmp_path: Path) -> None:
    images_NCHW = corner(4, 1, np.float32)
    images_NCHW[0, 0, 19, 49] = 1e6
    contact_sheet(tmp_path / "sheet.png", images_NCHW, None, "", 4)
    inner = pixels(tmp_path / "sheet.png")[50:-10]
    assert ((inner > 200).all(-1) & (inner < 256).all(-1)).mean() > 0.05
    nearest_pairs(tmp_path / "pairs.png", images_NCHW, corner(4, 1, np.float32), [0.1] * 4)


def test_constant_images_are_drawn(tmp_path: Path) -> None:
    contact_sheet(tmp_path / "sheet.png", np.zeros((2, 1, 8, 12), np.uint8), None, "", 2)
    assert (tmp_path / "sheet.png").stat().st_size > 0


def test_at_most_24_images_are_drawn(tmp_path: Path) -> None:
    contact_sheet(tmp_path / "a.png", corner(24), labels(24), "site-1")
    contact_sheet(tmp_path / "b.png", corner(40), labels(40), "site-1")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_names_are_text_and_not_formulas(tmp_path: Path) -> None:
    names = {"background": 0, "$\\frac{a$": 1, "b": 2}
    contact_sheet(tmp_path / "sheet.png", corner(), labels(), "$\\broken{ site", 4, names)
    assert (tmp_path / "sheet.png").exists()


def test_pairs_are_two_rows_of_equal_windows(tmp_path: Path) -> None:
    real_NCHW = corner(3)
    synthetic_NCHW = (real_NCHW // 2).astype(np.uint8)
    nearest_pairs(tmp_path / "pairs.png", synthetic_NCHW, real_NCHW, np.array([0.1, 0.2, 0.3]))
    picture = pixels(tmp_path / "pairs.png").mean(-1)
    # The synthetic images are half as bright, and have to look so beside the real ones.
    assert ((picture > 100) & (picture < 140)).sum() > 1000


def test_distances_of_released_and_held_out_images_are_drawn_beside_the_threshold(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(0)
    released_N, held_out_M = rng.normal(0.6, 0.1, 300), rng.normal(0.62, 0.1, 40)
    distance_histogram(tmp_path / "both.png", released_N, held_out_M, 0.4)
    distance_histogram(tmp_path / "alone.png", released_N, held_out_M[:0], 0.4)
    # Two thresholds inside the range that is drawn anyway: the line moves, and nothing else.
    distance_histogram(tmp_path / "moved.png", released_N, held_out_M, 0.5)
    both, alone, moved = (pixels(tmp_path / f"{name}.png") for name in ("both", "alone", "moved"))
    assert both.shape == alone.shape == moved.shape
    assert (both != alone).any()
    changed_HW = (both != moved).any(-1)
    columns = np.flatnonzero(changed_HW.any(0))
    assert 2 <= len(columns) <= 8
    assert changed_HW.any(1).mean() > 0.7
