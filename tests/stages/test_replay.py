"""Replay: what is drawn has the share asked for, and validation never sees a synthetic image."""

from __future__ import annotations

from collections import Counter

import pytest

from hyfree_ray.stages.replay import in_proportion


@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
@pytest.mark.parametrize(("real", "synthetic"), [(3, 10), (10, 3), (4, 4), (40, 1200)])
def test_the_share_is_synthetic_and_each_image_of_a_kind_is_drawn_equally_often(
    real: int, synthetic: int, share: float
) -> None:
    names = in_proportion(
        [f"real_{n}" for n in range(real)], [f"synthetic_{n}" for n in range(synthetic)], share
    )
    kinds = Counter(name.split("_")[0] for name in names)
    assert kinds["synthetic"] / kinds.total() == pytest.approx(share, abs=1 / kinds.total())
    times = Counter(names)
    for kind in ("real", "synthetic"):
        often = [count for name, count in times.items() if name.startswith(kind)]
        assert max(often) - min(often) <= 1
    assert len(times) == real + synthetic


def test_without_a_release_there_are_the_real_ones() -> None:
    assert in_proportion(["a", "b"], [], 0.5) == ["a", "b"]
