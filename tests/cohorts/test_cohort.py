"""The cohort: what it reads, and what it remembers of files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from hyfree_ray.cohorts.cohort import read_cohort
from tests.raw_data import edit_json, make, refusal, write


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
    write(root / f"imagesTr/{names[0]}_0000.nii.gz", np.zeros((1, 26, 17), np.int16))
    read_cohort(root)


def test_labels_stored_as_whole_floats_are_taken(tmp_path: Path) -> None:
    root, names = make(tmp_path / "x", ending=".nii.gz")
    write(root / f"labelsTr/{names[0]}.nii.gz", np.full((26, 17), 2, np.float64))
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


def digests(root: Path, cache: Path | None = None) -> dict[str, str]:
    sites = read_cohort(root, digest_cache=cache).sites
    return {case.name: case.digest for cases in sites.values() for case in cases}


def test_a_digest_changes_with_the_image_and_with_the_label_only(tmp_path: Path) -> None:
    root, names = make(tmp_path / "x")
    first = digests(root)
    for path in (f"imagesTr/{names[0]}_0000.png", f"labelsTr/{names[1]}.png"):
        write(root / path, np.ones((26 + int(names[0][5]), 17), np.uint8))
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
    refusal(root, "data.unreadable", f"labelsTr/{names[3]}.png", digest_cache=cache)


def test_the_cache_remembers_what_was_wrong_with_a_file(tmp_path: Path) -> None:
    root, names = make(tmp_path / "x")
    write(root / f"labelsTr/{names[0]}.png", np.full((26, 17), 9, np.uint8))
    cache = tmp_path / "digests.json"
    code = "data.unknown-labels"
    first = refusal(root, code, digest_cache=cache)
    assert refusal(root, code, digest_cache=cache) == first


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
