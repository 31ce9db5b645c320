"""A release as arrays and as a data set of PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from hyfree_ray import load_release
from hyfree_ray.border import opening
from hyfree_ray.border.signing import signing_key
from tests.cards import card
from tests.refusals import refuses
from tests.release_files import METADATA, described, pixels, put, write


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_arrays_metadata_and_card_are_those_of_the_file(tmp_path: Path, dtype: type) -> None:
    write(tmp_path, dtype=dtype)
    images_NCHW, labels_NHW = pixels(dtype=dtype)
    for path in (tmp_path, str(tmp_path / "release.arrow")):
        release = load_release(path)
        assert release.images.dtype == dtype
        assert (release.images == images_NCHW).all()
        assert (release.labels == labels_NHW).all()
        assert (release.metadata, len(release)) == (METADATA, 5)
        assert release.card.model_dump(mode="json") == card(images=5)


def test_a_data_set_has_images_in_the_sites_units_with_their_masks(tmp_path: Path) -> None:
    write(tmp_path)
    release = load_release(tmp_path)
    pairs = release.dataset()
    assert isinstance(pairs, Dataset)
    assert (len(pairs), len(list(pairs))) == (5, 5)
    image_CHW, label_HW = pairs[-1]
    assert (image_CHW.dtype, label_HW.dtype) == (torch.float32, torch.int64)
    assert torch.equal(image_CHW, torch.from_numpy(release.physical()[4]))
    assert torch.equal(label_HW, torch.from_numpy(release.labels[4].astype(np.int64)))
    images, labels = zip(*DataLoader(pairs, batch_size=2), strict=True)
    assert [tuple(batch.shape) for batch in images] == [(2, 2, 6, 4), (2, 2, 6, 4), (1, 2, 6, 4)]
    assert labels[-1].shape == (1, 6, 4)


def test_a_release_is_hostile_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is checked in a process of its own; only then is it read here."""
    write(tmp_path / "good")
    torn = (tmp_path / "good" / "release.arrow").read_bytes()[:-9]
    put(tmp_path / "torn", torn)
    read = []
    monkeypatch.setattr(opening, "read_release", lambda *_, **__: read.append(1))
    with refuses("release.magic", "torn"):
        load_release(tmp_path / "torn")
    assert read == []
    with refuses("release.not-found", "nowhere"):
        load_release(tmp_path / "nowhere")


def test_a_card_is_of_these_images_but_no_gate_is_asked(tmp_path: Path) -> None:
    put(tmp_path / "other", described(card=card(images=4)))
    with refuses("release.card", "4 images"):
        load_release(tmp_path / "other")
    put(tmp_path / "high", described(card=card(images=5, rejection_rate=0.9)))
    assert load_release(tmp_path / "high").card.rejection_rate == 0.9


def test_with_a_key_the_signature_comes_first(tmp_path: Path) -> None:
    write(tmp_path / "in")
    key = signing_key(tmp_path / "keys")
    public = tmp_path / "public.key"
    public.write_bytes(key.public_key().public_bytes_raw())
    with refuses("release.signature"):
        load_release(tmp_path / "in", key=public)
    manifest = (tmp_path / "in" / "manifest.json").read_bytes()
    (tmp_path / "in" / "manifest.sig").write_bytes(key.sign(manifest))
    assert len(load_release(tmp_path / "in", key=public)) == 5
    public.write_bytes(b"x" * 31)
    with refuses("option.bad-key", "31 bytes"):
        load_release(tmp_path / "in", key=public)
