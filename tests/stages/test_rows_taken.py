"""No site makes the pool its own by the number of its images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hyfree_ray.border.release import ReleaseMetadata, write_release
from hyfree_ray.core.stage import Folder
from hyfree_ray.stages.pooling import MAX_TIMES_MEDIAN, read_releases, rows_taken
from tests.cards import card


def written(root: Path, site: str, rows: int) -> Path:
    rng = np.random.default_rng(rows)
    metadata = ReleaseMetadata(
        site=site,
        channel_names=("MR",),
        label_names={"background": 0, "organ": 1},
        spacing=(2.0, 1.5),
        slice_axis=0,
        scale=(1.0,),
        offset=(0.0,),
        card=card(images=rows),
    )
    images_NCHW = rng.integers(0, 256, (rows, 1, 8, 12), dtype=np.uint8)
    labels_NHW = rng.integers(0, 2, (rows, 8, 12), dtype=np.uint8)
    write_release(root / site, metadata, images_NCHW, labels_NHW, experiment="e", nonce=site)
    return root / site


def test_one_sites_images_are_capped_by_the_others(tmp_path: Path) -> None:
    """Case 111: the flooder's first ones are taken, everybody else's are whole."""
    sizes = {"a": 6, "b": 8, "c": 9, "flood": 500}
    folders: dict[str, Folder] = {
        f"release_{place}": written(tmp_path, site, rows)
        for place, (site, rows) in enumerate(sizes.items())
    }
    found = dict(read_releases(list(sizes), folders, "e"))
    counts = {site: len(one.images_NCHW) for site, one in found.items()}
    assert counts == {"a": 6, "b": 8, "c": 9, "flood": 8 * MAX_TIMES_MEDIAN}
    assert len(found["flood"].labels_NHW) == counts["flood"]
    assert found["flood"].manifest.rows == 500


def test_sites_as_uneven_as_hospitals_are_lose_nothing() -> None:
    """Case 111."""
    for rows in ({"a": 300, "b": 80, "c": 150}, {"a": 30}, {"a": 400, "b": 100}):
        assert rows_taken(rows) == rows
    assert rows_taken({"a": 500, "b": 100}) == {"a": 400, "b": 100}
