"""The cohort: what it refuses, by which code, and what it names."""

from __future__ import annotations

import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from hyfree_ray.cohorts.cohort import read_cohort
from hyfree_ray.cohorts.partitions import partition
from hyfree_ray.cohorts.tables import MAX_CSV_BYTES
from tests.raw_data import GREY, edit_csv, edit_json, make, refusal, write

# ---------------------------------------------------------------- what is refused: tables


def test_a_missing_folder_or_table_is_named(tmp_path: Path) -> None:
    refusal(tmp_path / "nowhere", "data.not-found", "nowhere")
    for name in ("dataset.json", "sites.csv"):
        root, _ = make(tmp_path / name)
        (root / name).unlink()
        refusal(root, "data.not-found", name)
    for name in ("imagesTr", "labelsTr"):
        root, _ = make(tmp_path / name)
        (root / name).rename(root / "elsewhere")
        refusal(root, "data.not-found", name)


@pytest.mark.parametrize(
    ("content", "code", "where"),
    [
        (b"{\n 'labels': 1}", "data.bad-json", "line 2, column 2"),
        (b"[1]", "data.bad-json", ""),
        (b"[" * 200_000, "data.bad-json", ""),
        (b'{"name": "\xff"}', "data.bad-text", "byte 10"),
    ],
)
def test_a_dataset_json_that_does_not_parse_is_refused(
    tmp_path: Path, content: bytes, code: str, where: str
) -> None:
    root, _ = make(tmp_path / "x")
    (root / "dataset.json").write_bytes(content)
    refusal(root, code, "dataset.json: ", where)


@pytest.mark.parametrize(
    ("changes", "code", "name"),
    [
        ({"channel_names": {"1": "a"}}, "data.bad-channels", "channel_names"),
        ({"channel_names": []}, "data.bad-channels", "channel_names"),
        ({"labels": {}}, "data.bad-labels", "labels"),
        ({"labels": {"background": 0}}, "data.bad-labels", "values"),
        ({"labels": {"background": 0, "organ": 2}}, "data.bad-labels", "values"),
        ({"labels": {"background": 0, "organ": "1"}}, "data.bad-labels", "'organ'"),
        ({"labels": {"background": 0, "organ": [1, "2"]}}, "data.bad-labels", "'organ'"),
        ({"labels": {"nothing": 0, "organ": 1}}, "data.bad-labels", '"background": 0'),
        ({"labels": {"background": 0, "organ": 1, "tumour": 1}}, "data.bad-labels", "same value"),
        ({"labels": {"background": 0, "whole": [1, 2], "core": [2]}}, "data.bad-regions", "of 2"),
        ({"labels": {"background": 0, "ignore": 1, "organ": 2}}, "data.bad-labels", "ignore"),
        ({"labels": {"background": 0, "organ": 1, "ignore": [2]}}, "data.bad-labels", "'ignore'"),
        ({"file_ending": ".jpg"}, "data.unknown-format", "'.jpg'"),
        ({"file_ending": None}, "data.unknown-format", "None"),
        ({"channel_names": {"0": None}}, "data.bad-name", "'None'"),
        ({"channel_names": {"0": "a\nb"}}, "data.bad-name", r"'a\nb'"),
        ({"labels": {"background": 0, "": 1, "organ": 2}}, "data.bad-name", "''"),
        (
            {"labels": {"background": 0, **{f"l{k}": k for k in range(1, 300)}}},
            "data.bad-labels",
            "256",
        ),
        ({"overwrite_image_reader_writer": "os.system"}, "data.unknown-format", "'os.system'"),
        (
            {"overwrite_image_reader_writer": ["SimpleITKIO"]},
            "data.unknown-format",
            "NaturalImage2DIO",
        ),
    ],
)
def test_a_dataset_json_that_describes_nothing_usable_is_refused(
    tmp_path: Path, changes: dict[str, Any], code: str, name: str
) -> None:
    root, _ = make(tmp_path / "x")
    edit_json(root, **changes)
    refusal(root, code, "dataset.json: ", name)


@pytest.mark.parametrize(
    ("old", "new", "code", "where"),
    [
        ("case,site,patient", "case,hospital,patient", "data.bad-table", " site;"),
        ("case,site,patient", "case;site;patient", "data.bad-table", " line 2: "),
        ("north1_0,north,north-1", "north1_0,north,", "data.bad-table", "line 4: "),
        ("north1_0,north,north-1", "north1_0,north,north-1,x", "data.bad-table", "line 4: "),
        ("north1_0,north,north-1", '"north1_0,north,north-1', "data.bad-table", "line "),
        ("north1_0,", "north0_0,", "data.case-twice", "line 4: case north0_0 "),
        ("north1_0,", "north9_9,", "data.no-image", "line 4: case north9_9 "),
        ("south", "../south", "data.bad-site-name", "'../south'"),
    ],
)
def test_a_sites_csv_with_a_bad_row_is_refused_with_its_line(
    tmp_path: Path, old: str, new: str, code: str, where: str
) -> None:
    root, _ = make(tmp_path / "x")
    edit_csv(root, old, new)
    refusal(root, code, "sites.csv", where)


def test_an_empty_or_huge_sites_csv_is_refused(tmp_path: Path) -> None:
    root, _ = make(tmp_path / "x")
    for content, code in (
        ("", "data.bad-table"),
        ("case,site,patient\n", "data.no-cases"),
        ("case,site,patient\n" + "\n" * MAX_CSV_BYTES, "data.too-large"),
    ):
        (root / "sites.csv").write_text(content)
        refusal(root, code, "sites.csv")


@pytest.mark.parametrize(
    "name",
    [
        "a/b",
        "..",
        ".hidden",
        "a..b",
        "x" * 101,
        "a\tb",
        "a\x00b",
        "a\u202eb",
        "=1+1",
        "<b>",
        "end.",
        "-x",
    ],
)
def test_site_names_that_are_unsafe_as_folders_are_refused(tmp_path: Path, name: str) -> None:
    root, _ = make(tmp_path / "x")
    edit_csv(root, ",south,", f",{name},")
    message = refusal(root, "data.bad-site-name")
    assert message.startswith("sites.csv: ")
    assert message.isprintable()


@pytest.mark.parametrize(
    "name", ["Ålesund", "東京 2", "St. Olav_1-b", unicodedata.normalize("NFD", "é")]
)
def test_site_names_in_any_script_are_taken(tmp_path: Path, name: str) -> None:
    root, _ = make(tmp_path / "x")
    (root / "sites.csv").write_text(
        (root / "sites.csv").read_text().replace(",south,", f",{name},"), encoding="utf-8"
    )
    if name[0] != "e":
        assert name in read_cohort(root).sites


@pytest.mark.parametrize(
    "pair", [("Oslo", "oslo"), ("Caf\u00e9", "Cafe\u0301"), ("STRASSE", "straße")]
)
def test_site_names_equal_but_for_case_or_unicode_form_are_refused(
    tmp_path: Path, pair: tuple[str, str]
) -> None:
    """Case 27."""
    root, _ = make(tmp_path / "x")
    text = (root / "sites.csv").read_text()
    for old, new in zip((",north,", ",south,"), pair, strict=True):
        text = text.replace(old, f",{new},")
    (root / "sites.csv").write_text(text, encoding="utf-8")
    refusal(root, "data.bad-site-name", *map(ascii, pair))


def test_a_patient_in_two_sites_is_refused_without_naming_the_patient(tmp_path: Path) -> None:
    """Case 66."""
    root, _ = make(tmp_path / "x")
    edit_csv(root, "south-0", "north-0")
    named = ("south0_0 (south)", "site north", "and 1 more")
    message = refusal(root, "data.patient-in-two-sites", *named)
    assert "north-0" not in message


def test_a_site_of_four_patients_is_refused_unless_sites_are_made_anew(tmp_path: Path) -> None:
    """Case 34."""
    root, _ = make(tmp_path / "x")
    lines = (root / "sites.csv").read_text().splitlines()
    (root / "sites.csv").write_text("\n".join(line for line in lines if "south-4" not in line))
    refusal(root, "data.too-few-patients", "south: 4 ", "5 folds")
    whole = read_cohort(root, own_sites=False)
    assert list(partition(whole, "random", sites=2, seed=0).sites) == ["site-1", "site-2"]


# ---------------------------------------------------------------- what is refused: files


def remove(pattern: str) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        for path in root.glob(pattern):
            path.unlink()

    return apply


def put(path: str, pixels: np.ndarray, *, vector: bool = False) -> Callable[[Path], None]:
    return lambda root: write(root / path, pixels, vector=vector)


def bytes_of(path: str, content: bytes) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        (root / path).write_bytes(content)

    return apply


def spaced(root: Path) -> None:
    write(root / "labelsTr/north0_0.nii.gz", np.zeros((26, 17), np.uint8), spacing=(2.0, 1.0))


RGB = np.zeros((26, 17, 3), np.uint8)
TORN = b"\x89PNG\r\n\x1a\n" + b"x" * 50

Spoil = Callable[[Path], None]

SPOILT_PNG: list[tuple[Spoil, str, str]] = [
    (remove("labelsTr/north[01]_0.png"), "no-label", "imagesTr/north0_0_0000.png: , 1 more"),
    (remove("imagesTr/south2_1_*"), "no-image", "labelsTr/south2_1.png: "),
    (remove("imagesTr/north0_0_0001*"), "channels", "imagesTr/north0_0_0000.png: , _0000"),
    (put("imagesTr/north0_0_0001.png", GREY[:-1]), "size-differs", " 25x17 , 26x17"),
    (put("labelsTr/north0_0.png", GREY.T.copy()), "size-differs", " 17x26 , 26x17"),
    (put("labelsTr/north0_0.png", GREY + 3), "unknown-labels", " 3 , (0, 1, 2)"),
    (put("labelsTr/north0_0.png", RGB, vector=True), "label-channels", "labelsTr/north0_0.png"),
    (put("imagesTr/north0_0_0000.png", RGB, vector=True), "channels", "_0000 with 3"),
    (bytes_of("imagesTr/north0_0_0000.png", b""), "unreadable", "north0_0_0000.png: "),
    (bytes_of("imagesTr/north0_0_0000.png", TORN), "unreadable", "north0_0_0000.png: "),
]
SPOILT_NIFTI: list[tuple[Spoil, str, str]] = [
    (spaced, "spacing-differs", " 1x2 , 1x1"),
    (put("labelsTr/north0_0.nii.gz", GREY + 0.5), "fractional-labels", "north0_0"),
    (put("labelsTr/north0_0.nii.gz", GREY * np.nan), "not-finite", "labelsTr/north0_0"),
    (put("labelsTr/north0_0.nii.gz", GREY.astype(np.int16) - 1), "unknown-labels", " -1 "),
    (put("imagesTr/north0_0_0000.nii.gz", GREY / 1.0 + np.inf), "not-finite", "_0000"),
    (put("imagesTr/north0_0_0000.nii.gz", np.zeros((4, 26, 17))), "size-differs", " 4x26x17"),
]


@pytest.mark.parametrize(
    ("ending", "spoil", "code", "names"),
    [(".png", *one) for one in SPOILT_PNG] + [(".nii.gz", *one) for one in SPOILT_NIFTI],
)
def test_files_that_cannot_be_used_are_refused_by_name(
    tmp_path: Path, ending: str, spoil: Spoil, code: str, names: str
) -> None:
    """Cases 61, 62 and 63."""
    root, _ = make(tmp_path / "x", ending=ending, channels=2)
    spoil(root)
    refusal(root, f"data.{code}", "Tr/", *names.split(", "))


def test_another_format_under_the_ending_is_refused(tmp_path: Path) -> None:
    """Case 60."""
    root, names = make(tmp_path / "x")
    write(tmp_path / "y.bmp", GREY)
    (tmp_path / "y.bmp").rename(root / f"imagesTr/{names[0]}_0000.png")
    refusal(root, "data.unreadable", names[0])


def test_a_header_that_claims_too_many_pixels_is_refused_unread(tmp_path: Path) -> None:
    """Case 58."""
    root, names = make(tmp_path / "x")
    path = root / f"imagesTr/{names[0]}_0000.png"
    content = bytearray(path.read_bytes())
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    path.write_bytes(content)
    refusal(root, "data.too-large", names[0])


def test_many_bad_files_are_one_line_with_a_count(tmp_path: Path) -> None:
    root, names = make(tmp_path / "x")
    for path in root.glob("labelsTr/*"):
        pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        write(path, pixels + 7)
    refusal(root, "data.unknown-labels", f"and {len(names) - 1} more")
