"""The cohort: what it reads, what it refuses and in which words, and how it deals out patients."""

from __future__ import annotations

import json
import os
import re
import unicodedata
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from hyfree_ray.cohort import Case, Split, read_cohort, split_fold
from hyfree_ray.cohort_tables import MAX_CSV_BYTES
from hyfree_ray.errors import HyfreeError
from hyfree_ray.partitions import partition

SITES = {"north": 6, "south": 5}
"""Patients a site; a patient of an even number has two cases."""


def write(
    path: Path,
    pixels: np.ndarray,
    *,
    vector: bool = False,
    spacing: tuple[float, float] | None = None,
) -> None:
    image: Any = sitk.GetImageFromArray(pixels, isVector=vector)
    if spacing:
        image.SetSpacing(spacing)
    sitk.WriteImage(image, str(path))


def make(
    root: Path, *, ending: str = ".png", channels: int = 1, in_one_file: bool = False
) -> tuple[Path, list[str]]:
    """A good data set of 16 non-square cases at two uneven sites; its root and its case names."""
    rng = np.random.default_rng(0)
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    lines, names = ["case,site,patient"], []
    for site, patients in SITES.items():
        for patient in range(patients):
            for part in range(2 - patient % 2):
                name = f"{site}{patient}_{part}"
                names.append(name)
                lines.append(f"{name},{site},{site}-{patient}")
                shape = (10 + patient, 7)
                kind = np.uint8 if ending in (".png", ".bmp") else np.int16
                if in_one_file:
                    pixels = rng.integers(0, 255, (*shape, channels)).astype(kind)
                    write(root / f"imagesTr/{name}_0000{ending}", pixels, vector=True)
                else:
                    for channel in range(channels):
                        pixels = rng.integers(0, 255, shape).astype(kind)
                        write(root / f"imagesTr/{name}_{channel:04d}{ending}", pixels)
                label = rng.integers(0, 3, shape).astype(np.uint8)
                write(root / f"labelsTr/{name}{ending}", label)
    dataset = {
        "name": "Two sites",
        "channel_names": {str(k): f"c{k}" for k in range(channels)},
        "labels": {"background": 0, "organ": 1, "lesion": 2},
        "numTraining": len(names),
        "file_ending": ending,
    }
    (root / "dataset.json").write_text(json.dumps(dataset))
    (root / "sites.csv").write_text("\n".join(lines) + "\n")
    return root, names


def edit_json(root: Path, **changes: Any) -> None:
    path = root / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_csv(root: Path, old: str, new: str) -> None:
    path = root / "sites.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def refusal(root: Path, **options: Any) -> str:
    with pytest.raises(HyfreeError) as caught:
        read_cohort(root, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


# ---------------------------------------------------------------- what is read


@pytest.mark.parametrize(
    ("ending", "channels", "in_one_file"),
    [(".png", 1, False), (".png", 2, False), (".png", 3, True), (".nii.gz", 4, False)],
)
def test_data_sets_of_any_channel_count_and_format_are_read(
    tmp_path: Path, ending: str, channels: int, in_one_file: bool
) -> None:
    root, names = make(
        tmp_path / "Dataset007_X", ending=ending, channels=channels, in_one_file=in_one_file
    )
    cohort = read_cohort(root)
    assert list(cohort.sites) == ["north", "south"]
    assert sorted(case.name for site in cohort.sites.values() for case in site) == sorted(names)
    assert cohort.name == "Two-sites"
    assert cohort.channel_names == tuple(f"c{k}" for k in range(channels))
    assert cohort.labels == {"background": 0, "organ": 1, "lesion": 2}
    case = cohort.sites["south"][0]
    assert case.patient == "south-0"
    assert len(case.images) == (1 if in_one_file else channels)
    assert all((root / name).is_file() for name in (*case.images, case.label))


def test_endings_that_are_stored_by_other_readers_are_read_too(tmp_path: Path) -> None:
    for ending in (".tif", ".nrrd", ".mha"):
        root, names = make(tmp_path / ending[1:], ending=ending)
        assert sum(map(len, read_cohort(root).sites.values())) == len(names)


def test_a_single_slice_stored_as_a_volume_counts_as_2d(tmp_path: Path) -> None:
    root, names = make(tmp_path / "x", ending=".nii.gz")
    write(root / f"imagesTr/{names[0]}_0000.nii.gz", np.zeros((1, 10, 7), np.int16))
    read_cohort(root)


def test_labels_stored_as_whole_floats_are_taken(tmp_path: Path) -> None:
    root, names = make(tmp_path / "x", ending=".nii.gz")
    write(root / f"labelsTr/{names[0]}.nii.gz", np.full((10, 7), 2, np.float64))
    read_cohort(root)


def test_cases_that_sites_csv_does_not_name_are_left_out_and_counted(tmp_path: Path) -> None:
    root, names = make(tmp_path / "x")
    lines = (root / "sites.csv").read_text().splitlines()
    (root / "sites.csv").write_text("\n".join(line for line in lines if "south" not in line))
    cohort = read_cohort(root)
    assert list(cohort.sites) == ["north"]
    assert cohort.left_out == sum(name.startswith("south") for name in names)


def test_the_name_falls_back_to_the_folder(tmp_path: Path) -> None:
    root, _ = make(tmp_path / "Dataset012_My Set")
    edit_json(root, name=None)
    assert read_cohort(root).name == "My-Set"


def test_a_byte_order_mark_and_blank_lines_do_not_matter(tmp_path: Path) -> None:
    root, names = make(tmp_path / "x")
    text = (root / "sites.csv").read_text().replace("\n", "\r\n") + "\r\n,,\r\n"
    (root / "sites.csv").write_bytes(text.encode("utf-8-sig"))
    assert sum(map(len, read_cohort(root).sites.values())) == len(names)


# ---------------------------------------------------------------- digests and the cache


def digests(root: Path, cache: Path | None = None) -> dict[str, str]:
    sites = read_cohort(root, digest_cache=cache).sites
    return {case.name: case.digest for cases in sites.values() for case in cases}


def test_a_digest_changes_with_the_image_and_with_the_label_only(tmp_path: Path) -> None:
    root, names = make(tmp_path / "x")
    first = digests(root)
    for path in (f"imagesTr/{names[0]}_0000.png", f"labelsTr/{names[1]}.png"):
        write(root / path, np.ones((10 + int(names[0][5]), 7), np.uint8))
    second = digests(root)
    assert {name for name in names if first[name] != second[name]} == {names[0], names[1]}


def test_the_second_reading_opens_no_image(tmp_path: Path) -> None:
    root, names = make(tmp_path / "x")
    cache = tmp_path / "new" / "digests.json"
    first = digests(root, cache)
    changed = cache.stat().st_mtime_ns
    for path in [*root.glob("imagesTr/*"), *root.glob("labelsTr/*")]:
        stat = path.stat()
        path.write_bytes(b"x" * stat.st_size)  # any opening would be noticed
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert digests(root, cache) == first
    assert cache.stat().st_mtime_ns == changed
    os.utime(root / f"labelsTr/{names[3]}.png", ns=(0, 0))
    assert f"labelsTr/{names[3]}.png: unreadable" in refusal(root, digest_cache=cache)


def test_the_cache_remembers_what_was_wrong_with_a_file(tmp_path: Path) -> None:
    root, names = make(tmp_path / "x")
    write(root / f"labelsTr/{names[0]}.png", np.full((10, 7), 9, np.uint8))
    cache = tmp_path / "digests.json"
    assert refusal(root, digest_cache=cache) == refusal(root, digest_cache=cache)


def test_cohorts_share_a_cache_and_a_broken_one_is_made_anew(tmp_path: Path) -> None:
    cache = tmp_path / "digests.json"
    roots = [
        make(tmp_path / name, ending=ending)[0] for name, ending in (("a", ".png"), ("b", ".mha"))
    ]
    expected = [digests(root) for root in roots]
    for broken in ("{", "[]", '{"version": 1}', '{"version": 0, "roots": {}}'):
        cache.write_text(broken)
        assert [digests(root, cache) for root in roots] == expected
        assert len(json.loads(cache.read_text())["roots"]) == 2
    assert not list(tmp_path.glob("*.tmp"))


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


GREY = np.zeros((10, 7), np.uint8)


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


# ---------------------------------------------------------------- folds and partitions


def cases_of(patients: Iterable[str], *, slices: int = 2) -> tuple[Case, ...]:
    return tuple(
        Case(name=f"{patient}_{k}", patient=patient, images=(), label="", digest="")
        for patient in patients
        for k in range(slices)
    )


def patients_in(cases: Iterable[Case]) -> set[str]:
    return {case.patient for case in cases}


def fold_of(cases: tuple[Case, ...]) -> dict[str, int]:
    return {case.patient: fold for fold in range(5) for case in split_fold(cases, fold).test}


names = st.sets(st.text(min_size=1, max_size=6), min_size=6, max_size=40)


@given(names, st.integers(0, 4))
def test_no_patient_is_in_two_parts_and_no_part_is_empty(patients: set[str], fold: int) -> None:
    """Case 66."""
    cases = cases_of(patients)
    split = split_fold(cases, fold)
    parts = [patients_in(part) for part in (split.train, split.val, split.test)]
    assert all(parts)
    assert set.union(*parts) == patients
    assert sum(map(len, parts)) == len(patients)
    assert sum(map(len, (split.train, split.val, split.test))) == len(cases)
    assert patients_in(split.val) == patients_in(split_fold(cases, (fold + 1) % 5).test)


@given(names)
def test_one_more_patient_moves_at_most_four_others(patients: set[str]) -> None:
    before = fold_of(cases_of(sorted(patients)[1:]))
    after = fold_of(cases_of(patients))
    assert sum(after[patient] != fold for patient, fold in before.items()) <= 4


@given(names, st.randoms(use_true_random=False))
def test_folds_depend_on_patient_names_only(patients: set[str], random: Any) -> None:
    shuffled = sorted(patients)
    random.shuffle(shuffled)
    assert fold_of(cases_of(shuffled, slices=1)) == fold_of(cases_of(patients, slices=3))


def test_folds_outside_the_five_and_too_few_patients_are_refused() -> None:
    with pytest.raises(HyfreeError, match=r"--fold 5: .*0 to 4"):
        split_fold(cases_of("abcdef"), 5)
    with pytest.raises(HyfreeError, match="4 patients cannot fill 5 folds"):
        split_fold(cases_of("abcd"), 0)
    assert isinstance(split_fold(cases_of("abcde"), 4), Split)


def test_a_random_partition_is_even_whole_by_patient_and_reproducible(tmp_path: Path) -> None:
    cohort = read_cohort(make(tmp_path / "x")[0])
    parts = partition(cohort, "random", sites=2, seed=1)
    assert list(parts.sites) == ["site-1", "site-2"]
    counts = [len(patients_in(cases)) for cases in parts.sites.values()]
    assert sorted(counts) == [5, 6]
    assert not patients_in(parts.sites["site-1"]) & patients_in(parts.sites["site-2"])
    everyone = {case for cases in cohort.sites.values() for case in cases}
    assert {case for cases in parts.sites.values() for case in cases} == everyone
    assert parts == partition(cohort, "random", sites=2, seed=1)
    assert parts.sites != partition(cohort, "random", sites=2, seed=2).sites


def test_more_sites_than_the_patients_fill_are_refused(tmp_path: Path) -> None:
    cohort = read_cohort(make(tmp_path / "x")[0])
    with pytest.raises(HyfreeError, match="--sites 3: 11 patients fill at most 2 sites"):
        partition(cohort, "random", sites=3, seed=0)
    with pytest.raises(HyfreeError, match="--sites 0"):
        partition(cohort, "random", sites=0, seed=0)
