"""Pixels of DICOM images, however they are stored: the values that a viewer shows, or a refusal."""

from __future__ import annotations

import io
import locale
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from PIL import Image as pil
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.pixels.processing import convert_color_space
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from hyfree_ray.cohorts.itk_images import reading_quietly
from hyfree_ray.importers.dicom import dicom
from tests.dicom_files import pixels, uid, write_slice, write_stack

pytestmark = pytest.mark.filterwarnings("ignore")

RGB = np.zeros((11, 8, 3), np.uint8)
RGB[..., 0], RGB[:5, :, 1], RGB[:, :4, 2] = 200, 90, 250
GREY = np.random.default_rng(0).integers(0, 4096, (11, 8)).astype(np.uint16)


def read(root: Path) -> np.ndarray:
    """The only case's pixels: one channel, or channels last."""
    source = dicom(root)
    (case,) = source.cases
    channels = [sitk.GetArrayFromImage(image) for image in source.read_images(case)]
    assert len(channels) == len(source.channel_names)
    return channels[0] if len(channels) == 1 else np.stack(channels, axis=-1)


def write_picture(path: Path, stored: np.ndarray, photometric: str, **tags: Any) -> Any:
    """Write a photograph of 8 bits; returns it to be changed."""
    given = {
        "Modality": "OP",
        "ImagePositionPatient": None,
        "ImageOrientationPatient": None,
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelRepresentation": 0,
        "PhotometricInterpretation": photometric,
        "SamplesPerPixel": 1 if stored.ndim == 2 else 3,
        **({} if stored.ndim == 2 else {"PlanarConfiguration": 0}),
        **tags,
    }
    write_slice(path, stored, **given)
    return pydicom.dcmread(path)


def encapsulated(dataset: Any, path: Path, content: bytes, syntax: UID) -> None:
    dataset.PixelData = encapsulate([content])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path)


# ---------------------------------------------------------------- compressions


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_compressed_slices_have_the_values_of_plain_ones(tmp_path: Path, syntax: UID) -> None:
    expected = write_stack(tmp_path)
    for path in tmp_path.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.compress(syntax)
        dataset.save_as(path)
    np.testing.assert_array_equal(read(tmp_path), expected)


def compressed(image: Any, path: Path, compressor: str) -> Any:
    """Write an image with ITK's encoder, which pydicom lacks; returns the data set."""
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.UseCompressionOn()
    writer.SetCompressor(compressor)
    writer.SetFileName(str(path))
    with reading_quietly():
        writer.Execute(image)
    packed = pydicom.dcmread(path)
    path.unlink()
    return packed


@pytest.mark.parametrize("compressor", ["JPEG", "JPEG2000"])
def test_lossless_jpeg_has_the_values_of_plain_slices_and_slopes_of_each(
    tmp_path: Path, compressor: str
) -> None:
    """JPEG lossless has no decoder in pydicom: ITK's reads it, without slopes."""
    expected = write_stack(tmp_path / "in")
    for k, path in enumerate(sorted((tmp_path / "in").iterdir())):
        image = sitk.ReadImage(str(path), imageIO="GDCMImageIO")
        packed = compressed(image, tmp_path / "packed.dcm", compressor)
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = packed.file_meta.TransferSyntaxUID
        assert dataset.file_meta.TransferSyntaxUID.is_compressed
        dataset["PixelData"] = packed["PixelData"]
        dataset.RescaleSlope, dataset.RescaleIntercept = k + 1.5, -7
        dataset.save_as(path)
    before = locale.setlocale(locale.LC_ALL)
    found = read(tmp_path / "in")
    assert locale.setlocale(locale.LC_ALL) == before
    slopes = np.arange(4)[:, None, None] + 1.5
    np.testing.assert_allclose(found, expected * slopes - 7)


def test_frames_of_lossless_jpeg_have_slopes_of_their_own(tmp_path: Path) -> None:
    volume = np.stack([pixels(k) for k in range(4)])
    write_slice(tmp_path / "0", volume[0])
    dataset, parts = pydicom.dcmread(tmp_path / "0"), []
    for pixels_HW in volume:
        image = sitk.GetImageFromArray(pixels_HW[None])
        packed = compressed(image, tmp_path / "packed.dcm", "JPEG")
        parts.append(next(pydicom.encaps.generate_frames(packed.PixelData, number_of_frames=1)))
    dataset.file_meta.TransferSyntaxUID = packed.file_meta.TransferSyntaxUID
    dataset.PixelData = encapsulate(parts)
    dataset["PixelData"].is_undefined_length = True
    dataset.NumberOfFrames, groups = 4, []
    for k in range(4):
        group, place, value = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        place.ImagePositionPatient = [0.0, 0.0, 3.0 * k]
        value.RescaleSlope, value.RescaleIntercept = k + 1, 0
        group.PlanePositionSequence, group.PixelValueTransformationSequence = [place], [value]
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = groups
    dataset.save_as(tmp_path / "0")
    np.testing.assert_array_equal(read(tmp_path), volume * np.arange(1, 5)[:, None, None])


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_every_encoding_of_headers_is_read(tmp_path: Path, syntax: UID) -> None:
    expected = write_stack(tmp_path)
    for path in tmp_path.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.save_as(path)
    np.testing.assert_array_equal(read(tmp_path), expected)


def test_big_endian_files_are_read(tmp_path: Path) -> None:
    expected = write_stack(tmp_path)
    for path in tmp_path.iterdir():
        dataset, swapped = pydicom.dcmread(path), pydicom.Dataset()
        stored = dataset.pixel_array.astype(">i2").tobytes()
        swapped.file_meta, swapped.preamble = dataset.file_meta, b"\0" * 128
        for element in dataset:
            if element.keyword != "PixelData":
                swapped.add(element)
        swapped.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        swapped.add_new(0x7FE00010, "OW", stored)
        dcmwrite(path, swapped, little_endian=False, implicit_vr=False, enforce_file_format=True)
    np.testing.assert_array_equal(read(tmp_path), expected)


@pytest.mark.parametrize("keep", [300, 700])
def test_a_cut_deflated_file_is_left_out_as_damaged(tmp_path: Path, keep: int) -> None:
    write_stack(tmp_path)
    for path in tmp_path.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        dataset.save_as(path)
    path.write_bytes(path.read_bytes()[:keep])
    found = dicom(tmp_path)
    assert [one.path for one in found.left_out] == [path]
    assert "damaged" in found.left_out[0].why


# ---------------------------------------------------------------- colours


def test_rgb_is_three_channels_in_either_order_of_its_bytes(tmp_path: Path) -> None:
    for planar in (0, 1):
        path = tmp_path / f"{planar}" / "a"
        dataset = write_picture(path, RGB, "RGB")
        dataset.PlanarConfiguration = planar
        dataset.PixelData = (np.moveaxis(RGB, -1, 0) if planar else RGB).tobytes()
        dataset.save_as(path)
        np.testing.assert_array_equal(read(path.parent), RGB)


@pytest.mark.parametrize("shared", [False, True])
def test_ybr_becomes_rgb(tmp_path: Path, shared: bool) -> None:
    """Also where two pixels share their colours, so that there are fewer bytes."""
    ybr = convert_color_space(RGB, "RGB", "YBR_FULL")
    dataset = write_picture(tmp_path / "a", ybr, "YBR_FULL_422" if shared else "YBR_FULL")
    if shared:
        pairs = ybr.reshape(-1, 2, 3)
        stored = np.stack([pairs[:, 0, 0], pairs[:, 1, 0], pairs[:, 0, 1], pairs[:, 0, 2]], axis=-1)
        dataset.PixelData = stored.tobytes()
        dataset.save_as(tmp_path / "a")
    assert np.abs(read(tmp_path) - RGB).max() <= 1


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_is_applied(tmp_path: Path, bits: int) -> None:
    indices = (np.arange(88).reshape(11, 8) % 7).astype(np.uint8)
    table = np.random.default_rng(0).integers(0, 256, (256, 3)).astype(np.uint8)
    dataset = write_picture(tmp_path / "a", indices, "PALETTE COLOR")
    for channel, colour in enumerate(("Red", "Green", "Blue")):
        entries = table[:, channel]
        stored = entries if bits == 8 else entries.astype("<u2") * 257
        dataset.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [256, 0, bits])
        dataset.add_new(f"{colour}PaletteColorLookupTableData", "OW", stored.tobytes())
    dataset.save_as(tmp_path / "a")
    np.testing.assert_array_equal(read(tmp_path), table[indices])


@pytest.mark.parametrize("kind", ["JPEG", "JPEG2000"])
def test_colours_of_jpeg_are_rgb(tmp_path: Path, kind: str) -> None:
    large = np.kron(RGB, np.ones((8, 8, 1), np.uint8))
    content = io.BytesIO()
    how: dict[str, Any] = {"quality": 98, "subsampling": 0} if kind == "JPEG" else {"no_jp2": True}
    pil.fromarray(large).save(content, kind, **how)
    dataset = write_picture(tmp_path / "a", large, "YBR_FULL" if kind == "JPEG" else "YBR_RCT")
    syntax = JPEGBaseline8Bit if kind == "JPEG" else JPEG2000Lossless
    encapsulated(dataset, tmp_path / "a", content.getvalue(), syntax)
    assert np.abs(read(tmp_path) - large).max() <= (6 if kind == "JPEG" else 0)


def test_slices_in_colour_are_three_volumes(tmp_path: Path) -> None:
    for k in range(4):
        place = {
            "ImagePositionPatient": [0, 0, 3 * k],
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        }
        write_picture(tmp_path / f"{k}", RGB // (k + 1), "RGB", Modality="MR", **place)
    found = read(tmp_path)
    np.testing.assert_array_equal(found, np.stack([RGB // (k + 1) for k in range(4)]))


@pytest.mark.parametrize("photometric", ["HSV", "CMYK", ""])
def test_colours_that_nobody_reads_are_left_out_by_name(tmp_path: Path, photometric: str) -> None:
    write_picture(tmp_path / "a", RGB, photometric)
    write_picture(tmp_path / "b", RGB, "RGB", SeriesInstanceUID=uid("b"))
    found = dicom(tmp_path)
    assert len(found.cases) == 1
    assert [one.path.name for one in found.left_out] == ["a"]
    assert photometric in found.left_out[0].why


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("stored", "high_bit"), [(GREY | 0xF000, 11), (GREY << 4, 15), ((GREY << 2) | 0xC003, 13)]
)
def test_bits_beside_the_pixel_are_not_part_of_it(
    tmp_path: Path, stored: np.ndarray, high_bit: int
) -> None:
    """Old files keep overlays and flags there."""
    bits = {"BitsStored": 12, "HighBit": high_bit, "PixelRepresentation": 0}
    write_slice(tmp_path / "a", stored, Modality="DX", ImagePositionPatient=None, **bits)
    np.testing.assert_array_equal(read(tmp_path), GREY)


def test_pixels_that_are_floats_stay_so(tmp_path: Path) -> None:
    write_stack(tmp_path)
    for k, path in enumerate(sorted(tmp_path.iterdir())):
        dataset = pydicom.dcmread(path)
        for name in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
            delattr(dataset, name)
        dataset.BitsAllocated = 32
        dataset.FloatPixelData = np.full((11, 8), k + 0.25, "<f4").tobytes()
        dataset.save_as(path)
    np.testing.assert_array_equal(read(tmp_path)[:, 0, 0], [0.25, 1.25, 2.25, 3.25])


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
def test_a_table_of_values_is_looked_up(tmp_path: Path, photometric: str) -> None:
    table = np.random.default_rng(1).permutation(4096).astype("<u2")
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "US", [4096, 0, 12])
    item.ModalityLUTType = "OD"
    item.add_new("LUTData", "OW", table.tobytes())
    bits = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0}
    write_slice(
        tmp_path / "a",
        GREY,
        Modality="DX",
        ImagePositionPatient=None,
        PhotometricInterpretation=photometric,
        RescaleSlope=None,
        RescaleIntercept=None,
        ModalityLUTSequence=[item],
        **bits,
    )
    values = table[GREY].astype(int)
    expected = values if photometric == "MONOCHROME2" else 4095 - values
    np.testing.assert_array_equal(read(tmp_path), expected)
