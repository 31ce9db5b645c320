"""Replay: half of what is drawn is real, and validation never sees a synthetic image."""

from __future__ import annotations

from collections import Counter

from hyfree_ray.stages.replay import half_and_half


def test_real_and_synthetic_are_drawn_equally_often_whichever_are_fewer() -> None:
    for real, synthetic in ((3, 10), (10, 3), (4, 4)):
        names = half_and_half(
            [f"real_{n}" for n in range(real)], [f"synthetic_{n}" for n in range(synthetic)]
        )
        kinds = Counter(name.split("_")[0] for name in names)
        assert kinds["real"] == kinds["synthetic"] == max(real, synthetic)
        times = Counter(names).values()
        assert max(times) - min(times) <= max(real, synthetic) // min(real, synthetic)
        assert len(set(names)) == real + synthetic
