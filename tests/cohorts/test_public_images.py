"""Public images: who knows the seed has them, in any size."""

from __future__ import annotations

import numpy as np

from hyfree_ray.cohorts.public_images import draw_public_images, levels_of


def test_an_image_depends_on_the_seed_and_its_number_alone() -> None:
    few, more = (draw_public_images(count, 2, (40, 28), 7) for count in (3, 5))
    np.testing.assert_array_equal(few, more[:3])
    assert len({image.tobytes() for image in more}) == 5
    assert not np.array_equal(few, draw_public_images(3, 2, (40, 28), 8))
    assert (more.shape, more.dtype) == ((5, 2, 40, 28), np.uint8)


def test_every_second_image_is_cut_to_an_ellipse_and_no_other() -> None:
    images_NCHW = draw_public_images(6, 1, (48, 64), 1)
    dark_N = (images_NCHW == 0).mean(axis=(1, 2, 3))
    assert (dark_N[::2] == 0).all()
    assert ((dark_N[1::2] > 0.2) & (dark_N[1::2] < 0.8)).all()
    assert images_NCHW[:, :, :2, :2].max(axis=(1, 2, 3))[1::2].max() == 0


def test_another_size_shows_the_same_image() -> None:
    small, large = (draw_public_images(4, 1, size, 3)[:, 0] for size in ((32, 48), (64, 96)))
    halved = large.reshape(4, 32, 2, 48, 2).mean(axis=(2, 4))
    for one, other in zip(small, halved, strict=True):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.9


def test_slopes_differ_from_fine_grain_to_soft_clouds() -> None:
    images_NHW = draw_public_images(16, 1, (64, 64), 2)[::2, 0].astype(float)
    steps_N = np.abs(np.diff(images_NHW, axis=2)).mean(axis=(1, 2)) / images_NHW.std(axis=(1, 2))
    assert steps_N.max() > 5 * steps_N.min()


def test_ct_keeps_its_own_scale() -> None:
    scale_C, offset_C = levels_of(("CT", "MR"))
    assert (offset_C[0], offset_C[0] + 255 * scale_C[0]) == (-1000.0, 1000.0)
    assert (scale_C[1], offset_C[1]) == (1.0, 0.0)
