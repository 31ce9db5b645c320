"""Labels of public images: masks alone cross, and what crosses is read as hostile input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyfree_ray.border.public_labels import (
    LABELS_FILE,
    LABELS_MANIFEST_FILE,
    MAX_SIDE,
    read_labels,
    write_labels,
)
from tests.refusals import refuses

NAMES = {"background": 0, "organ": 1, "lesion": 2}
ROWS = 7


def put(folder: Path, **changes: Any) -> np.ndarray:
    labels_NHW = np.random.default_rng(5).integers(0, 3, (ROWS, 20, 28), dtype=np.uint8)
    about: dict[str, Any] = {"site": "site-1", "experiment": "e", "spacing": (2.0, 1.5)}
    write_labels(folder, labels_NHW, **about, slice_axis=0, label_names=NAMES)
    path = folder / LABELS_MANIFEST_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return labels_NHW


def read(folder: Path) -> np.ndarray:
    return read_labels(folder, site="site-1", experiment="e", rows=ROWS)[1]


def test_labels_are_read_as_they_were_written_and_nothing_else_is_in_the_files(
    tmp_path: Path,
) -> None:
    labels_NHW = put(tmp_path)
    np.testing.assert_array_equal(read(tmp_path), labels_NHW)
    assert (tmp_path / LABELS_FILE).read_bytes() == labels_NHW.tobytes()
    assert json.loads((tmp_path / LABELS_MANIFEST_FILE).read_text()).keys() == {
        *("version", "site", "experiment", "round", "rows", "height", "width", "spacing"),
        *("slice_axis", "label_names", "regions", "sha256", "pool", "federation"),
    }


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"site": "site-2"}, "site"),
        ({"experiment": "another"}, "experiment"),
        ({"round": 2}, "round"),
        ({"experiment": f"a-b-{'0' * 32}"}, "manifest"),
        ({"rows": 8}, "rows"),
        ({"rows": 1 << 39}, "rows"),
        ({"height": 28, "width": 21}, "bytes"),
        ({"height": MAX_SIDE + 1}, "manifest"),
        ({"height": True}, "manifest"),
        ({"spacing": [1e9, 1.0]}, "values"),
        ({"spacing": [1.0]}, "manifest"),
        ({"sha256": "0" * 64}, "sha256"),
        ({"label_names": {"background": 0, "organ": 1}}, "labels"),
        ({"label_names": {"background": 0, "organ": 7}}, "manifest"),
        ({"more": 1}, "manifest"),
        ({"version": 2}, "manifest"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], rule: str) -> None:
    put(tmp_path, **changes)
    with refuses(f"release.{rule}"):
        read(tmp_path)


def test_a_changed_mask_a_longer_file_and_a_link_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "changed")
    file = tmp_path / "changed" / LABELS_FILE
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(bytes(content))
    with refuses("release.sha256"):
        read(tmp_path / "changed")
    file.write_bytes(bytes(content) + b"more")
    with refuses("release.too-large"):
        read(tmp_path / "changed")
    put(tmp_path / "linked")
    linked = tmp_path / "linked" / LABELS_FILE
    linked.rename(tmp_path / "elsewhere")
    linked.symlink_to(tmp_path / "elsewhere")
    with refuses("release.not-a-file"):
        read(tmp_path / "linked")
