"""The cohort: what it refuses, and in which words."""

from __future__ import annotations

import re
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
    assert "no such folder" in refusal(tmp_path / "nowhere")
    for name in ("dataset.json", "sites.csv"):
        root, _ = make(tmp_path / name)
        (root / name).unlink()
        assert re.search(f"{name}: no such file; .*write", refusal(root))
    for name in ("imagesTr", "labelsTr"):
        root, _ = make(tmp_path / name)
        (root / name).rename(root / "elsewhere")
        assert f"{name}: no such folder" in refusal(root)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{\n 'labels': 1}", r"not valid JSON .*line 2, column 2"),
        (b"[1]", "a JSON object is expected"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"name": "\xff"}', "not UTF-8"),
    ],
)
def test_a_dataset_json_that_does_not_parse_is_refused(
    tmp_path: Path, content: bytes, said: str
) -> None:
    root, _ = make(tmp_path / "x")
    (root / "dataset.json").write_bytes(content)
    assert re.search(said, refusal(root))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"channel_names": {"1": "a"}}, "channel_names must be like"),
        ({"channel_names": []}, "channel_names must be like"),
        ({"labels": {}}, "labels must be like"),
        ({"labels": {"background": 0}}, "without gaps"),
        ({"labels": {"background": 0, "organ": 2}}, "without gaps"),
        ({"labels": {"background": 0, "organ": "1"}}, "whole number"),
        ({"labels": {"background": 0, "organ": [1, "2"]}}, "whole number"),
        ({"labels": {"nothing": 0, "organ": 1}}, '"background": 0 in labels'),
        ({"labels": {"background": 0, "organ": 1, "tumour": 1}}, "have the same value"),
        ({"labels": {"background": 0, "whole": [1, 2], "core": [2]}}, "a list of 2: the class"),
        ({"labels": {"background": 0, "ignore": 1, "organ": 2}}, "highest one ignore's"),
        ({"labels": {"background": 0, "organ": 1, "ignore": [2]}}, "whole number"),
        ({"file_ending": ".jpg"}, r"file_ending '\.jpg' is not one of \.png"),
        ({"file_ending": None}, "file_ending None"),
        ({"channel_names": {"0": None}}, "the name 'None' of a channel or label is not a text"),
        ({"channel_names": {"0": "a\nb"}}, r"'a\\nb' .* cannot be printed"),
        ({"labels": {"background": 0, "": 1, "organ": 2}}, "the name '' of a channel or label"),
        (
            {"labels": {"background": 0, **{f"l{k}": k for k in range(1, 300)}}},
            "300 label values; at most 256",
        ),
        ({"overwrite_image_reader_writer": "os.system"}, "'os.system', .* to NaturalImage2DIO"),
        ({"overwrite_image_reader_writer": ["SimpleITKIO"]}, "to NaturalImage2DIO"),
    ],
)
def test_a_dataset_json_that_describes_nothing_usable_is_refused(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    root, _ = make(tmp_path / "x")
    edit_json(root, **changes)
    assert re.search(said, refusal(root))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("case,site,patient", "case,hospital,patient", "needs one column named site;"),
        ("case,site,patient", "case;site;patient", "needs one column named case, site, patient;"),
        ("north1_0,north,north-1", "north1_0,north,", "line 4: a cell is missing or empty"),
        (
            "north1_0,north,north-1",
            "north1_0,north,north-1,x",
            "line 4: a cell is missing or empty",
        ),
        ("north1_0,north,north-1", '"north1_0,north,north-1', "not a CSV"),
        ("north1_0,", "north0_0,", r"line 4: case north0_0 is listed twice; keep one"),
        ("north1_0,", "north9_9,", r"line 4: case north9_9 has no image in imagesTr;"),
        ("south", "../south", "is not safe as a folder's name"),
    ],
)
def test_a_sites_csv_with_a_bad_row_is_refused_with_its_line(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    root, _ = make(tmp_path / "x")
    edit_csv(root, old, new)
    assert re.search(said, refusal(root))


def test_an_empty_or_huge_sites_csv_is_refused(tmp_path: Path) -> None:
    root, _ = make(tmp_path / "x")
    for content, said in (
        ("", "needs one column"),
        ("case,site,patient\n", "names no case"),
        ("case,site,patient\n" + "\n" * MAX_CSV_BYTES, "larger than 16 MiB"),
    ):
        (root / "sites.csv").write_text(content)
        assert said in refusal(root)


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
    message = refusal(root)
    assert message.startswith("sites.csv: site name ")
    assert "is not safe as a folder's name" in message
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
    assert "differ only in case or Unicode form" in refusal(root)


def test_a_patient_in_two_sites_is_refused_without_naming_the_patient(tmp_path: Path) -> None:
    """Case 66."""
    root, _ = make(tmp_path / "x")
    edit_csv(root, "south-0", "north-0")
    message = refusal(root)
    assert "the patient of case south0_0 (south) is also in site north (and 1 more);" in message
    assert "north-0" not in message


def test_a_site_of_four_patients_is_refused_unless_sites_are_made_anew(tmp_path: Path) -> None:
    """Case 34."""
    root, _ = make(tmp_path / "x")
    lines = (root / "sites.csv").read_text().splitlines()
    (root / "sites.csv").write_text("\n".join(line for line in lines if "south-4" not in line))
    assert refusal(root) == (
        "south: 4 patients cannot fill 5 folds; merge it with another site or leave it out"
    )
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
    write(root / "labelsTr/north0_0.nii.gz", np.zeros((10, 7), np.uint8), spacing=(2.0, 1.0))


@pytest.mark.parametrize(
    ("ending", "spoil", "said"),
    [
        (
            ".png",
            remove("labelsTr/north[01]_0.png"),
            r"^imagesTr/north0_0_0000.png: no label .*1 more",
        ),
        (".png", remove("imagesTr/south2_1_*"), r"^labelsTr/south2_1.png: no image"),
        (
            ".png",
            remove("imagesTr/north0_0_0001*"),
            "dataset.json names 2 channels, the case has _0000",
        ),
        (".png", put("imagesTr/north0_0_0001.png", GREY[:-1]), "size 9x7 differs from 10x7"),
        (".png", put("labelsTr/north0_0.png", GREY.T.copy()), "size 7x10 differs from 10x7"),
        (".png", put("labelsTr/north0_0.png", GREY + 3), r"label value 3 is not in .*\(0, 1, 2\)"),
        (
            ".png",
            put("labelsTr/north0_0.png", np.zeros((10, 7, 3), np.uint8), vector=True),
            "one channel",
        ),
        (
            ".png",
            put("imagesTr/north0_0_0000.png", np.zeros((10, 7, 3), np.uint8), vector=True),
            "2 chan",
        ),
        (".png", bytes_of("imagesTr/north0_0_0000.png", b""), "unreadable"),
        (
            ".png",
            bytes_of("imagesTr/north0_0_0000.png", b"\x89PNG\r\n\x1a\n" + b"x" * 50),
            "unreadable",
        ),
        (".nii.gz", spaced, "spacing 1x2 differs from 1x1"),
        (".nii.gz", put("labelsTr/north0_0.nii.gz", GREY + 0.5), "not whole numbers"),
        (".nii.gz", put("labelsTr/north0_0.nii.gz", GREY * np.nan), "NaN or infinite"),
        (".nii.gz", put("labelsTr/north0_0.nii.gz", GREY.astype(np.int16) - 1), "label value -1"),
        (".nii.gz", put("imagesTr/north0_0_0000.nii.gz", GREY / 1.0 + np.inf), "NaN or infinite"),
        (
            ".nii.gz",
            put("imagesTr/north0_0_0000.nii.gz", np.zeros((4, 10, 7))),
            "size 10x7 differs from 4x10x7",
        ),
    ],
)
def test_files_that_cannot_be_used_are_refused_by_name(
    tmp_path: Path, ending: str, spoil: Callable[[Path], None], said: str
) -> None:
    """Cases 61, 62 and 63."""
    root, _ = make(tmp_path / "x", ending=ending, channels=2)
    spoil(root)
    message = refusal(root)
    assert re.search(said, message)
    assert "Tr/" in message


def test_another_format_under_the_ending_is_refused(tmp_path: Path) -> None:
    """Case 60."""
    root, names = make(tmp_path / "x")
    write(tmp_path / "y.bmp", GREY)
    (tmp_path / "y.bmp").rename(root / f"imagesTr/{names[0]}_0000.png")
    assert "of another format" in refusal(root)


def test_a_header_that_claims_too_many_pixels_is_refused_unread(tmp_path: Path) -> None:
    """Case 58."""
    root, names = make(tmp_path / "x")
    path = root / f"imagesTr/{names[0]}_0000.png"
    content = bytearray(path.read_bytes())
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    path.write_bytes(content)
    assert "too large" in refusal(root)


def test_many_bad_files_are_one_line_with_a_count(tmp_path: Path) -> None:
    root, names = make(tmp_path / "x")
    for path in root.glob("labelsTr/*"):
        pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        write(path, pixels + 7)
    assert f"(and {len(names) - 1} more)" in refusal(root)
