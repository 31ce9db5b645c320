"""A release as a site writes it, and its manifest. N rows, C channels, H height, W width."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from hyfree_ray.border import release as module
from hyfree_ray.border import release_arrow
from hyfree_ray.border.manifest import RELEASE_VERSION, Limits, Manifest
from hyfree_ray.border.release import ReleaseMetadata, repeated_rows, write_release
from tests.refusals import refuses
from tests.release_files import (
    EXPERIMENT,
    METADATA,
    ROUND,
    arrow,
    pixels,
    put,
    read,
    refused,
    tensor,
    write,
)

# ---- what an honest site writes ----


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_what_was_written_is_read(tmp_path: Path, dtype: type) -> None:
    manifest = write(tmp_path, rows=600, dtype=dtype)
    release = read(tmp_path)
    images_NCHW, labels_NHW = pixels(600, dtype)
    np.testing.assert_array_equal(release.images_NCHW, images_NCHW)
    np.testing.assert_array_equal(release.labels_NHW, labels_NHW)
    assert release.images_NCHW.dtype == dtype
    assert release.metadata == METADATA
    assert release.manifest == manifest
    assert (manifest.rows, manifest.nonce, manifest.round) == (600, "n1", ROUND)


def test_manifest_and_metadata_survive_json() -> None:
    manifest = Manifest(
        site="Łódź", experiment="e", round=0, nonce="n", rows=1, sha256="0" * 64, bytes=1
    )
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert ReleaseMetadata.from_json(METADATA.to_json()) == METADATA


def test_physical_values_are_stored_times_scale_plus_offset_per_channel(tmp_path: Path) -> None:
    write(tmp_path)
    release = read(tmp_path)
    physical = release.physical(slice(1, 3))
    assert physical.shape == (2, 2, 6, 4)
    assert physical.dtype == np.float32
    np.testing.assert_allclose(physical[:, 0], release.images_NCHW[1:3, 0] * 0.5 - 100)
    np.testing.assert_allclose(physical[:, 1], release.images_NCHW[1:3, 1] * 2.0)


def test_the_file_is_equal_byte_for_byte_when_written_again(tmp_path: Path) -> None:
    assert write(tmp_path / "a") == write(tmp_path / "b")


def test_the_file_can_be_memory_mapped_and_has_bounded_batches(tmp_path: Path) -> None:
    write(tmp_path, rows=600)
    before = pa.total_allocated_bytes()
    with pa.memory_map(str(tmp_path / "release.arrow")) as file, pa.ipc.open_file(file) as reader:
        batches = [reader.get_batch(k) for k in range(reader.num_record_batches)]
        assert [batch.num_rows for batch in batches] == [256, 256, 88]
        assert pa.total_allocated_bytes() - before < 64 << 10


def test_rows_that_were_left_out_do_not_travel(tmp_path: Path) -> None:
    """Case 92: a view of an Arrow table, whose memory holds the dropped rows too."""
    images_NCHW, labels_NHW = pixels(20)
    kept = slice(3, 9)
    # As a filter would leave them: views of Arrow's memory, which holds the dropped rows too.
    parent = tensor(images_NCHW)
    write_release(
        tmp_path,
        METADATA,
        parent[kept].to_numpy_ndarray(),
        labels_NHW[kept],
        experiment=EXPERIMENT,
        round_number=ROUND,
        nonce="n",
    )
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for row in range(20):
        inside = kept.start <= row < kept.stop
        assert (images_NCHW[row].tobytes() in written) == inside
        assert (images_NCHW[row, 0, 2:5].tobytes() in written) == inside


def test_nothing_is_left_when_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_site_learns_before_writing_what_the_pool_would_refuse(tmp_path: Path) -> None:
    images_NCHW, labels_NHW = pixels()
    known: dict[str, Any] = {"experiment": EXPERIMENT, "round_number": ROUND, "nonce": "n"}
    with refuses("release.labels"):
        write_release(tmp_path, METADATA, images_NCHW, labels_NHW + np.uint8(7), **known)
    with refuses("release.duplicates"):
        write_release(tmp_path, METADATA, images_NCHW[[0, 1, 0, 2, 3]], labels_NHW, **known)
    with refuses("release.shape"):
        write_release(tmp_path, METADATA, images_NCHW.swapaxes(2, 3), labels_NHW, **known)
    broken = dataclasses.replace(METADATA, scale=(1.0, float("nan")))
    with refuses("release.metadata"):
        write_release(tmp_path, broken, images_NCHW, labels_NHW, **known)
    assert list(tmp_path.iterdir()) == []


def test_repeated_rows_are_all_but_the_first() -> None:
    images_NCHW, _ = pixels(4)
    assert repeated_rows(images_NCHW[[0, 1, 0, 2, 1]]).tolist() == [False, False, True, False, True]


# ---- what the pool refuses ----


def test_a_file_like_ours_from_another_writer_is_read(tmp_path: Path) -> None:
    release = read(put(tmp_path, arrow()))
    np.testing.assert_array_equal(release.images_NCHW, pixels()[0])


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"site": "site-2"}, "site"),
        ({"experiment": "f" * 64}, "experiment"),
        ({"round": 2}, "round"),
        ({"rows": 4}, "rows"),
        ({"rows": 0}, "rows"),
        ({"rows": 10**9}, "rows"),
        ({"bytes": 1}, "bytes"),
        ({"sha256": "0" * 64}, "sha256"),
        ({"sha256": "x"}, "manifest"),
        ({"version": RELEASE_VERSION - 1}, "manifest"),
        ({"version": True}, "manifest"),
        ({"round": 3.0}, "manifest"),
        ({"nonce": ""}, "manifest"),
        ({"nonce": "a\nb"}, "manifest"),
        ({"extra": 1}, "manifest"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    tmp_path: Path, changes: dict[str, Any], rule: str
) -> None:
    """Cases 37 and 52: another site's, experiment's or round's; other rows, bytes or hash."""
    assert refused(put(tmp_path, arrow(), **changes)) == rule


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"version": 1, "version": 1}',
        "[" * 30000,
        "\xff",
        "9" * 20000,
        '{"version": NaN}',
    ],
    ids=["empty", "list", "bare", "twice", "deep", "no-utf-8", "long-number", "nan"],
)
def test_a_manifest_that_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    write(tmp_path)
    (tmp_path / "manifest.json").write_bytes(text.encode("latin-1"))
    assert refused(tmp_path) == "manifest"


def test_missing_files_are_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / "nowhere") == "missing"
    write(tmp_path)
    (tmp_path / "release.arrow").unlink()
    assert refused(tmp_path) == "missing"


def test_files_over_the_limits_are_refused(tmp_path: Path) -> None:
    """Cases 47, 48 and 51: limits are stated up front."""
    write(tmp_path)
    assert refused(tmp_path, limits=Limits(file_bytes=100)) == "too-large"
    assert refused(tmp_path, limits=Limits(manifest_bytes=10)) == "too-large"
    assert refused(tmp_path, limits=Limits(rows=4)) == "rows"
    assert refused(tmp_path, limits=Limits(side=5)) == "shape"
    assert refused(tmp_path, limits=Limits(channels=1)) == "shape"
    assert refused(tmp_path, limits=Limits(highest_label=1)) == "labels"
    assert refused(tmp_path, limits=Limits(metadata_bytes=300)) in ("metadata", "layout")


@pytest.mark.parametrize("name", ["release.arrow", "manifest.json"])
@pytest.mark.parametrize("kind", ["symlink", "fifo", "folder", "device"])
def test_links_pipes_and_devices_are_refused_without_waiting(
    tmp_path: Path, name: str, kind: str
) -> None:
    """Case 55."""
    write(tmp_path)
    path = tmp_path / name
    path.rename(tmp_path / "elsewhere")
    if kind == "symlink":
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    assert refused(tmp_path) == "not-a-file"


def test_content_that_was_swapped_is_refused(tmp_path: Path) -> None:
    """Case 54: before it was hashed."""
    write(tmp_path / "a")
    other = tmp_path / "b"
    images_NCHW, labels_NHW = pixels(seed=1)
    write_release(
        other,
        METADATA,
        images_NCHW,
        labels_NHW,
        experiment=EXPERIMENT,
        round_number=ROUND,
        nonce="n2",
    )
    (other / "release.arrow").replace(tmp_path / "a" / "release.arrow")
    assert refused(tmp_path / "a") == "sha256"


def test_a_file_swapped_after_it_was_hashed_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Case 54: what is parsed are the bytes that were hashed."""
    write(tmp_path)
    path = tmp_path / "release.arrow"
    whole = path.read_bytes()
    check = release_arrow.declared

    def swap_first(file: memoryview, **limits: int) -> Any:
        path.write_bytes(bytes(len(whole)))
        return check(file, **limits)

    monkeypatch.setattr(module, "declared", swap_first)
    np.testing.assert_array_equal(read(tmp_path).images_NCHW, pixels()[0])


@pytest.mark.parametrize("kind", ["empty", "byte", "magic", "text"])
def test_files_that_are_not_arrow_are_refused(tmp_path: Path, kind: str) -> None:
    """Case 38."""
    file = {"empty": b"", "byte": b"A", "magic": b"ARROW1\0\0", "text": b"patient,case\n" * 40}
    assert refused(put(tmp_path, file[kind])) == "magic"


def test_truncations_at_every_64_bytes_are_refused(tmp_path: Path) -> None:
    """Case 39."""
    file = arrow()
    for length in range(0, len(file), 64):
        assert refused(put(tmp_path, file[:length])) == "magic"
        # And with an honest end, so that the footer is not where it should be.
        rule = refused(put(tmp_path, file[:length] + file[-10:]))
        assert rule in ("layout", "schema", "magic", "endianness")
