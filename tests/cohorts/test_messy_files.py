"""Files as disks, converters and spreadsheets leave them: said to be what they are, or refused."""

from __future__ import annotations

import csv
import gzip
import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from hyfree_ray.cli import main
from hyfree_ray.cohorts import site_checks
from hyfree_ray.cohorts.cohort import read_cohort, survey
from hyfree_ray.cohorts.file_ends import why_incomplete
from hyfree_ray.cohorts.image_facts import inspect_file
from hyfree_ray.cohorts.image_reading import ENDS_EARLY
from hyfree_ray.cohorts.label_sets import read_labels
from hyfree_ray.cohorts.tables import read_sites_csv
from hyfree_ray.segmenters.nnunet import rereading
from tests.raw_data import SITES, edit_json, make, refusal, write
from tests.refusals import refused, refuses

VOLUME = np.random.default_rng(0).integers(0, 900, (5, 12, 9)).astype(np.int16)


def check(root: Path, *options: str) -> Result:
    return CliRunner().invoke(
        main, ["check", str(root), "--store", str(root.parent / "store"), *options]
    )


def codes(root: Path) -> set[str]:
    return {problem.code for problem in survey(root).problems}


# ---------------------------------------------------------------- whole or cut short


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha", ".gipl"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
def test_a_volume_cut_short_is_known_by_its_length(
    tmp_path: Path, ending: str, part: float
) -> None:
    path = tmp_path / f"x{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(VOLUME), str(path))
    whole = path.read_bytes()
    assert why_incomplete(whole, ending) == ""
    path.write_bytes(whole[: max(int(part * len(whole)), len(whole) - VOLUME.nbytes)])
    assert inspect_file(path, ending, is_label=False).fault in (ENDS_EARLY, "unreadable")
    if ending != ".nrrd" or part > 0.5:
        assert why_incomplete(path.read_bytes(), ending)


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
def test_a_compressed_volume_cut_short_is_known(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"x{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(VOLUME), str(path), True)
    whole = path.read_bytes()
    assert why_incomplete(whole, ending) == ""
    assert why_incomplete(whole[:-40], ending)


def test_a_compressed_stream_that_holds_too_little_is_known() -> None:
    image = nib.Nifti1Image(VOLUME.T, np.eye(4)).to_bytes()
    assert why_incomplete(gzip.compress(image), ".nii.gz") == ""
    assert "ends early" in why_incomplete(gzip.compress(image[:-50]), ".nii.gz")
    damaged = bytearray(gzip.compress(image))
    damaged[-6] ^= 1  # of the checksum
    assert "damaged" in why_incomplete(bytes(damaged), ".nii.gz")


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif"])
def test_a_picture_cut_short_is_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"x{ending}"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 33)).astype(np.uint8)).save(path)
    assert inspect_file(path, ending, is_label=False).fault == ""
    path.write_bytes(path.read_bytes()[:-100])
    assert inspect_file(path, ending, is_label=False).fault


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    ending=st.sampled_from([".nii", ".nii.gz", ".nrrd", ".mha", ".gipl", ".png", ".bmp", ".tif"]),
    keep=st.floats(0, 0.999),
)
def test_no_file_that_was_cut_is_called_whole(
    tmp_path_factory: pytest.TempPathFactory, ending: str, keep: float
) -> None:
    path = tmp_path_factory.mktemp("cut") / f"x{ending}"
    if ending in (".png", ".bmp", ".tif"):
        Image.fromarray(VOLUME[0].astype(np.uint8)).save(path)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(VOLUME), str(path))
    whole = path.read_bytes()
    before = inspect_file(path, ending, is_label=False)
    path.write_bytes(whole[: int(keep * len(whole))])
    after = inspect_file(path, ending, is_label=False)
    assert after.fault or after.content == before.content  # a trailer may be cut: the image may not


def test_check_calls_a_volume_cut_short_an_error(tmp_path: Path) -> None:
    root, names = make(tmp_path / "x", ending=".nii.gz")
    path = root / f"labelsTr/{names[3]}.nii.gz"
    path.write_bytes(path.read_bytes()[:-20])
    said = check(root)
    assert said.exit_code == 2
    assert names[3] in said.output
    refusal(root, "data.cut-short", names[3])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    root, names = make(tmp_path / "x")
    (root / f"imagesTr/{names[0]}_0000.png").chmod(0)
    refusal(root, "data.no-permission", names[0])


# ---------------------------------------------------------------- what a digest follows


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
def test_a_digest_follows_pixels_that_lie_beside_their_header(tmp_path: Path, ending: str) -> None:
    root, names = make(tmp_path / "x", ending=ending)
    header = root / f"imagesTr/{names[0]}_0000{ending}"
    pixels = np.arange(442, dtype=np.int16).reshape(26, 17)
    data = root / "imagesTr/apart.raw"
    data.write_bytes(pixels.tobytes())
    header.write_text(
        "ObjectType = Image\nNDims = 2\nBinaryData = True\nDimSize = 17 26\n"
        "ElementType = MET_SHORT\n"
        "ElementDataFile = apart.raw\n"
        if ending == ".mha"
        else "NRRD0004\ntype: short\ndimension: 2\nsizes: 17 26\nencoding: raw\nendian: little\n"
        "data file: apart.raw\n"
    )
    cache = tmp_path / "facts.json"

    def digest() -> str:
        cases = read_cohort(root, digest_cache=cache).sites["north"]
        return next(case.digest for case in cases if case.name == names[0])

    first = digest()
    assert digest() == first
    data.write_bytes((pixels + 1).tobytes())
    assert digest() != first


def test_pixels_outside_the_folder_are_refused(tmp_path: Path) -> None:
    root, names = make(tmp_path / "x", ending=".mha")
    (root / "other.raw").write_bytes(bytes(884))
    (root / f"imagesTr/{names[0]}_0000.mha").write_text(
        "ObjectType = Image\nNDims = 2\nBinaryData = True\nDimSize = 17 26\n"
        "ElementType = MET_SHORT\n"
        "ElementDataFile = ../other.raw\n"
    )
    refusal(root, "data.detached", names[0])


# ---------------------------------------------------------------- read as nnU-Net reads


def form(kind: str, path: Path, pixels: np.ndarray) -> None:
    if kind == "float64":
        tifffile.imwrite(path, pixels.astype(np.float64) / 3)
    elif kind == "float16":
        tifffile.imwrite(path, pixels.astype(np.float16))
    elif kind == "tiles":
        tifffile.imwrite(path, pixels, tile=(16, 16))
    elif kind == "big-endian":
        tifffile.imwrite(path, pixels, byteorder=">")


@pytest.mark.parametrize("kind", ["float64", "float16", "tiles", "big-endian"])
def test_forms_of_tiff_are_read_as_nnunet_reads_them(tmp_path: Path, kind: str) -> None:
    root, names = make(tmp_path / "x", ending=".tif")
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(0, 255, (26, 18)).astype(np.uint8)
        form(kind, root / f"imagesTr/{name}_0000.tif", pixels)
        write(root / f"labelsTr/{name}.tif", pixels % 3)
    cohort = read_cohort(root)
    case = cohort.sites["north"][0]
    stored = tifffile.imread(root / case.images[0]).astype(np.float64)
    assert case.intensity == pytest.approx((stored.mean(), stored.std()))
    assert rereading.read_again(cohort) == []


def test_a_tiff_in_which_0_is_white_is_noted(tmp_path: Path) -> None:
    root, names = make(tmp_path / "x", ending=".tif")
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(0, 255, (26, 18)).astype(np.uint8)
        how = "miniswhite" if number == 1 else "minisblack"
        tifffile.imwrite(root / f"imagesTr/{name}_0000.tif", pixels, photometric=how)
        write(root / f"labelsTr/{name}.tif", pixels % 3)
    noted = [note for note in read_cohort(root).notes if "white" in note.what]
    assert [note.where for note in noted] == [f"imagesTr/{names[1]}_0000.tif"]


@pytest.mark.parametrize("ending", [".png", ".bmp"])
def test_one_bit_masks_hold_0_and_1(tmp_path: Path, ending: str) -> None:
    root, names = make(tmp_path / "x", ending=ending)
    edit_json(root, labels={"background": 0, "organ": 1})
    for name in names:
        with Image.open(root / f"imagesTr/{name}_0000{ending}") as image:
            size = image.size
        mask = Image.new("1", size)
        mask.paste(1, (1, 2, 5, 8))
        mask.save(root / f"labelsTr/{name}{ending}")
    cohort = read_cohort(root)
    assert [value for value, _ in cohort.sites["north"][0].label_pixels] == [0, 1]
    assert rereading.read_again(cohort) == []


def test_sixteen_bits_of_colour_have_the_values_that_nnunet_gets(tmp_path: Path) -> None:
    root, _ = make(tmp_path / "x", channels=3, in_one_file=True)
    for path in (root / "imagesTr").iterdir():
        _sixteen_bit_rgb(path, np.asarray(Image.open(path)).astype(np.uint16) * 257)
    cohort = read_cohort(root)
    assert max(case.intensity[0] for case in cohort.sites["north"]) < 256
    assert rereading.read_again(cohort) == []


def _sixteen_bit_rgb(path: Path, pixels: np.ndarray) -> None:
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    content = b"\x89PNG\r\n\x1a\n"
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    for kind, data in parts:
        content += struct.pack(">I", len(data)) + kind + data
        content += struct.pack(">I", zlib.crc32(kind + data))
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["palette", "transparent", "grey with alpha"])
def test_a_picture_of_other_channels_than_named_is_an_error(tmp_path: Path, kind: str) -> None:
    root, names = make(tmp_path / "x")
    path = root / f"imagesTr/{names[0]}_0000.png"
    with Image.open(path) as opened:
        grey = opened.convert("L")
    if kind == "grey with alpha":
        Image.merge("LA", (grey, grey)).save(path)
    else:
        picture = grey.convert("RGB").quantize(16)
        picture.save(path, **({"transparency": 0} if kind == "transparent" else {}))
    assert {problem.code for problem in survey(root).problems if problem.fatal} == {"data.channels"}


def test_a_shear_is_named_and_nibabel_reads_it(tmp_path: Path) -> None:
    root, _names = make(tmp_path / "x", ending=".nii.gz")
    affine = np.array([[1, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1.0]])
    for folder in ("imagesTr", "labelsTr"):
        for path in (root / folder).iterdir():
            values = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
            volume = np.repeat(values.T[..., None], 3, axis=2)
            nib.Nifti1Image(volume, affine).to_filename(path)
    refusal(root, "data.sheared", "NibabelIO")
    edit_json(root, overwrite_image_reader_writer="NibabelIO")
    cohort = read_cohort(root)
    assert cohort.sites["north"][0].shape[0] == 3
    assert rereading.read_again(cohort) == []


def test_units_other_than_mm_are_said_and_the_spacing_is_that_of_training(tmp_path: Path) -> None:
    root, _ = make(tmp_path / "x", ending=".nii")
    for folder in ("imagesTr", "labelsTr"):
        for path in (root / folder).iterdir():
            values = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
            image = nib.Nifti1Image(
                np.repeat(values.T[..., None], 4, axis=2), np.diag([1.0, 1, 3, 1])
            )
            image.header.set_xyzt_units("micron")
            image.to_filename(path)
    cohort = read_cohort(root)
    assert cohort.sites["north"][0].spacing == (3, 1, 1)
    assert rereading.read_again(cohort) == []
    assert "data.reader-says" in {note.code for note in cohort.notes}


def test_check_reads_some_cases_again_and_says_what_nnunet_gets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _ = make(tmp_path / "x")

    def other(*given: Any) -> Any:
        image, spacing = original(*given)
        return image + 1, spacing

    original = rereading.read_image
    assert check(root).exit_code == 0
    monkeypatch.setattr(rereading, "read_image", other)
    result = check(root)
    assert result.exit_code == 2
    assert "other intensities" in result.output


# ---------------------------------------------------------------- sizes, bits, regions, shares


@pytest.mark.parametrize("shape", [(6, 6), (3, 40), (1, 32), (14, 14), (22, 14)])
def test_sites_of_pictures_too_small_for_a_plan_are_refused(
    tmp_path: Path, shape: tuple[int, int]
) -> None:
    root, names = make(tmp_path / "x")
    rng = np.random.default_rng(0)
    for number, name in enumerate(names):
        write(root / f"imagesTr/{name}_0000.png", rng.integers(0, 255, shape).astype(np.uint8))
        write(root / f"labelsTr/{name}.png", np.ones(shape, np.uint8))
        if number == 0:
            read_cohort(root)  # nnU-Net pads a small one among others
    refusal(root, "data.too-small", "north")


@pytest.mark.parametrize("length", [1, 6])
def test_volumes_that_are_thin_in_plane_are_refused(tmp_path: Path, length: int) -> None:
    root, _ = make(tmp_path / "x", ending=".nii.gz")
    for path in [*(root / "imagesTr").iterdir(), *(root / "labelsTr").iterdir()]:
        values = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        image: Any = sitk.GetImageFromArray(np.repeat(values[None], 4, axis=0)[:, :20, :length])
        image.SetSpacing((1, 1, 3))
        sitk.WriteImage(image, str(path))
    refusal(root, "data.too-small")


def test_bits_are_compared_within_a_site(tmp_path: Path) -> None:
    root, _ = make(tmp_path / "x")
    north = sorted((root / "imagesTr").glob("north*"))
    for path in north:
        pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        write(path, pixels.astype(np.uint16) * 100)
    assert read_cohort(root).sites.keys() == SITES.keys()
    refusal(root, "data.bits-differ", own_sites=False)
    write(north[2], (sitk.GetArrayFromImage(sitk.ReadImage(str(north[2]))) // 100).astype(np.uint8))
    refusal(root, "data.bits-differ", "8", "16")


@pytest.mark.parametrize(
    ("labels", "order", "good"),
    [
        ({"whole": [1, 2], "core": [2]}, [1, 2], True),
        ({"whole": [1, 2], "core": [2]}, [2, 1], False),
        ({"core": [2], "whole": [1, 2]}, [2, 1], False),
        ({"whole": [1, 2, 3], "core": [2, 3], "rim": [3]}, [1, 2, 3], True),
        ({"whole": [1, 2, 3], "core": [2, 3], "rim": [3]}, [1, 3, 2], False),
        ({"left": [1, 3], "right": [2], "tip": [3]}, [1, 2, 3], True),
    ],
)
def test_regions_must_give_a_perfect_network_its_score(
    labels: dict[str, Any], order: list[int], good: bool
) -> None:
    dataset = {"labels": {"background": 0, **labels}, "regions_class_order": order}
    if good:
        assert list(read_labels(dataset))[1:] == list(labels)
    else:
        with refuses("data.bad-regions"):
            read_labels(dataset)


def test_improbable_shares_and_volumes_are_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, names = make(tmp_path / "x", ending=".nii.gz")
    full = np.ones((26, 17), np.uint8)
    write(root / f"labelsTr/{names[0]}.nii.gz", full)
    assert "data.label-share" in codes(root)
    for path in [*(root / "imagesTr").iterdir(), *(root / "labelsTr").iterdir()]:
        values = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        write(path, np.repeat(values[None], 2, axis=0))
    monkeypatch.setattr(site_checks, "HUGE_VOXELS", 100)
    assert "data.odd-volume" in codes(root)


# ---------------------------------------------------------------- sites.csv


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("header", ["case,site,patient", "Case,Site,Patient", "PATIENT,CASE,SITE"])
@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("quoted", [False, True])
def test_a_table_is_read_as_spreadsheets_write_it(
    tmp_path: Path, separator: str, header: str, coding: str, quoted: bool
) -> None:
    order = header.lower().split(",")
    rows = [{"case": "a1", "site": "Köln, Süd", "patient": "p 1"}]
    rows.append({"case": "a2", "site": "B", "patient": "007"})
    path = tmp_path / "sites.csv"
    with path.open("w", newline="", encoding=coding) as file:
        quoting = csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL
        table = csv.writer(file, delimiter=separator, quoting=quoting, lineterminator="\r\n")
        table.writerow(header.split(","))
        table.writerows([row[name] for name in order] for row in rows)
    found = read_sites_csv(path)
    assert [(row.case, row.site, row.patient) for row in found] == [
        tuple(row.values()) for row in rows
    ]
    assert [row.line for row in found] == [2, 3]


def test_a_table_may_state_its_separator(tmp_path: Path) -> None:
    path = tmp_path / "sites.csv"
    path.write_text("sep=;\ncase;site;patient\na;b;c\n")
    assert [(row.line, row.case) for row in read_sites_csv(path)] == [(3, "a")]


def test_empty_lines_and_columns_that_a_spreadsheet_leaves_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "sites.csv"
    path.write_text(",,,,\n\nsep=;\ncase;site;patient;scanner;;\na;b;c;;;\n;;;;;\nd;b;e;x;;\n")
    found = read_sites_csv(path)
    assert [(row.line, row.case, row.patient) for row in found] == [(5, "a", "c"), (7, "d", "e")]
    assert [row.columns for row in found] == [(("scanner", ""),), (("scanner", "x"),)]
    path.write_text("case,site,patient,,\na,b,,,\n")
    with refuses("data.bad-table", "line 2"):
        read_sites_csv(path)


@pytest.mark.parametrize("rounded", ["1.23457E+11", "1,23457E+11", "1E+05"])
def test_ids_that_a_spreadsheet_rounded_are_refused(tmp_path: Path, rounded: str) -> None:
    root, _ = make(tmp_path / "x")
    table = root / "sites.csv"
    lines = [line.split(",") for line in table.read_text().splitlines()]
    quoted = [",".join((case, site, f'"{rounded}"')) for case, site, _ in lines[1:4]]
    rest = [",".join(line) for line in lines[4:]]
    table.write_text("\n".join(["case,site,patient", *quoted, *rest]) + "\n")
    refusal(root, "data.rounded-ids", "text")


def test_a_file_name_in_the_place_of_its_case_is_hinted_at(tmp_path: Path) -> None:
    root, names = make(tmp_path / "x")
    table = root / "sites.csv"
    table.write_text(table.read_text().replace(f"{names[0]},", f"{names[0]}_0000.png,"))
    refusal(root, "data.no-image", f"imagesTr has {names[0]}")


def rename_patients(root: Path, one: str, other: str) -> None:
    """Give the second and third patient of the north these ids."""
    path = root / "sites.csv"
    path.write_text(
        path.read_text().replace("north-1\n", f"{one}\n").replace("north-2\n", f"{other}\n")
    )


@pytest.mark.parametrize(
    ("one", "other"), [("P1", "p1"), ("Max M", "MaxM"), ("Mu\u0308ller", "MÜLLER")]
)
def test_one_patient_typed_in_two_ways_is_refused(tmp_path: Path, one: str, other: str) -> None:
    root, _ = make(tmp_path / "x")
    rename_patients(root, one, other)
    refusal(root, "data.alike-ids")


@pytest.mark.parametrize(("one", "other"), [("007", "7"), ("P-1", "P_1"), ("a.01", "a-1")])
def test_ids_that_are_similar_are_noted(tmp_path: Path, one: str, other: str) -> None:
    root, _ = make(tmp_path / "x")
    rename_patients(root, one, other)
    assert "data.similar-ids" in {note.code for note in read_cohort(root).notes}


def test_zeros_that_excel_dropped_are_hinted_at(tmp_path: Path) -> None:
    root, names = make(tmp_path / "x")
    for folder, ending in (("imagesTr", "_0000.png"), ("labelsTr", ".png")):
        (root / folder / f"{names[0]}{ending}").rename(root / folder / f"001{ending}")
    table = root / "sites.csv"
    table.write_text(table.read_text().replace(f"{names[0]},", "1,"))
    refusal(root, "data.no-image", "001", "Excel")


def test_names_in_two_unicode_forms_are_one(tmp_path: Path) -> None:
    root, names = make(tmp_path / "x")
    for folder, ending in (("imagesTr", "_0000.png"), ("labelsTr", ".png")):
        (root / folder / f"{names[0]}{ending}").rename(root / folder / f"Ko\u0308ln{ending}")
    table = root / "sites.csv"
    table.write_text(table.read_text().replace(f"{names[0]},", "K\u00f6ln,"))
    cohort = read_cohort(root)
    case = next(case for case in cohort.sites["north"] if "ln" in case.name)
    assert (root / case.images[0]).is_file()
    assert (root / case.label).is_file()


def test_a_partition_needs_no_table_and_says_what_it_takes_for_patients(tmp_path: Path) -> None:
    root, names = make(tmp_path / "x")
    (root / "sites.csv").unlink()
    cohort = read_cohort(root, own_sites=False)
    assert len({case.patient for case in cohort.sites["here"]}) == len(names)
    assert "data.no-table" in {note.code for note in cohort.notes}
    refusal(root, "data.not-found", "sites.csv")


def test_check_writes_a_table_to_fill_in_and_never_over_one(tmp_path: Path) -> None:
    root, names = make(tmp_path / "x")
    refused(check(root, "--write-sites"), "output.not-empty", "sites.csv")
    (root / "sites.csv").unlink()
    assert check(root, "--write-sites").exit_code == 0
    assert [row.case for row in read_sites_csv(root / "sites.csv")] == sorted(names)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    cells=st.lists(
        st.lists(st.text("aB1 ü;,\t\"'|\n", max_size=6), min_size=3, max_size=3), max_size=4
    ),
    separator=st.sampled_from(",;\t|"),
)
def test_a_table_is_read_whole_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, cells: list[list[str]], separator: str
) -> None:
    path = tmp_path_factory.mktemp("table") / "sites.csv"
    with path.open("w", newline="") as file:
        table = csv.writer(file, delimiter=separator)
        table.writerow(["case", "site", "patient"])
        table.writerows(cells)
    result = CliRunner().invoke(
        main, ["check", str(path.parent), "--store", str(path.parent / "s")]
    )
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    json.dumps(result.output)
