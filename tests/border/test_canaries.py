"""The scan for what may not cross: each kind of leak is found where it is planted."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import SimpleITK as sitk
import torch
from PIL import Image

from hyfree_ray.reports.pictures import contact_sheet
from tests.canaries import Canaries, is_pickle
from tests.release_files import release_of


@pytest.fixture(scope="module")
def canaries(whole: tuple[Path, str]) -> Canaries:
    return Canaries.of(whole[0] / "sites")


@pytest.mark.parametrize("kind", ["case", "patient", "path", "distance", "pixels", "pickle"])
def test_the_scan_finds_each_kind_of_bytes(canaries: Canaries, kind: str) -> None:
    for canary in (canaries.bytes_[kind][0], canaries.bytes_[kind][-1]):
        text = b"some text before" + canary + b"and after"
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("inner.gz", gzip.compress(text))
        for content in (text, gzip.compress(text), stream.getvalue()):
            assert kind in canaries.found(content)
    assert canaries.found(b"nothing to see: 0.05, site-1, 48 images") == []


def test_patients_are_searched_for_apart_from_their_cases(canaries: Canaries) -> None:
    (one, *_) = canaries.bytes_["patient"]
    assert canaries.found(b'{"patient": "' + one + b'"}') == ["patient"]


# ---- images, in every format that a party or a tool of ours writes ----


def arrow(images_NCHW: np.ndarray, folder: Path) -> bytes:
    return release_of(images_NCHW, folder)


def png(images_NCHW: np.ndarray, folder: Path) -> bytes:
    return saved(Image.fromarray(images_NCHW[-1, 0]), "PNG")


def png_of_16_bits(images_NCHW: np.ndarray, folder: Path) -> bytes:
    return saved(Image.fromarray(images_NCHW[-1, 0].astype(np.uint16) * 201), "PNG")


def coloured_jpeg(images_NCHW: np.ndarray, folder: Path) -> bytes:
    return saved(Image.fromarray(images_NCHW[-1, 0]).convert("RGB"), "JPEG")


def saved(image: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def sheet(images_NCHW: np.ndarray, folder: Path) -> bytes:
    """As the pool draws a release: scaled up, windowed, with outlines and a title."""
    labels_NHW = np.zeros((len(images_NCHW), *images_NCHW.shape[2:]), np.uint8)
    labels_NHW[:, 5:20, 7:18], labels_NHW[:, 9:12, 9:12] = 1, 2
    names = {"background": 0, "organ": 1, "lesion": 2}
    contact_sheet(folder / "sheet.png", images_NCHW, labels_NHW, "Samples", label_names=names)
    return (folder / "sheet.png").read_bytes()


def nifti(images_NCHW: np.ndarray, folder: Path, name: str = "volume.nii") -> bytes:
    volume_ZHW = images_NCHW[:, 0].astype(np.float32) * 3 - 1000
    sitk.WriteImage(sitk.GetImageFromArray(volume_ZHW), str(folder / name))
    return (folder / name).read_bytes()


def nifti_gz(images_NCHW: np.ndarray, folder: Path) -> bytes:
    return nifti(images_NCHW, folder, "volume.nii.gz")


def npy(images_NCHW: np.ndarray, folder: Path) -> bytes:
    np.save(folder / "a.npy", images_NCHW.astype(np.float64).transpose(2, 3, 0, 1) / 255)
    return (folder / "a.npy").read_bytes()


def npz(images_NCHW: np.ndarray, folder: Path) -> bytes:
    np.savez_compressed(folder / "a.npz", x=images_NCHW.reshape(len(images_NCHW), -1))
    return (folder / "a.npz").read_bytes()


def weights(images_NCHW: np.ndarray, folder: Path) -> bytes:
    return safetensors.numpy.save({"conv.weight": (images_NCHW / 127.5 - 1).astype(np.float16)})


def zipped(images_NCHW: np.ndarray, folder: Path) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("picture.png", png(images_NCHW, folder))
    return stream.getvalue()


WRITERS: list[Callable[[np.ndarray, Path], bytes]] = [
    *(arrow, png, png_of_16_bits, coloured_jpeg, sheet),
    *(nifti, nifti_gz, npy, npz, weights, zipped),
]


@pytest.mark.parametrize("write", WRITERS)
def test_the_scan_finds_copies_and_near_copies_among_others(
    canaries: Canaries, tmp_path: Path, write: Callable[[np.ndarray, Path], bytes]
) -> None:
    rng = np.random.default_rng(0)
    for real_NCHW in canaries.real_NCHW:
        real = real_NCHW[3:4]
        fresh = rng.integers(0, 256, (6, *real.shape[1:]), dtype=np.uint8)
        near = np.clip(real.astype(int) + rng.integers(-3, 4, real.shape), 0, 255).astype(np.uint8)
        assert canaries.found(write(fresh, tmp_path)) == []
        for planted in (real, near):
            content = write(np.concatenate([fresh, planted]), tmp_path)
            assert "copy" in canaries.found(content)


def test_the_scan_finds_an_image_as_it_came_from_the_scanner(canaries: Canaries) -> None:
    levels = canaries.raw_HW[7].astype(float)
    shown = 255 * (levels - levels.min()) / np.ptp(levels)
    assert "copy" in canaries.found(saved(Image.fromarray(shown.astype(np.uint8)), "PNG"))


def test_pickles_are_known_by_their_start() -> None:
    stream = io.BytesIO()
    torch.save({"a": torch.zeros(3)}, stream)
    assert is_pickle(stream.getvalue())
    assert is_pickle(pickle.dumps([1, 2]))
    assert not is_pickle(struct.pack("<d", 0.5))
