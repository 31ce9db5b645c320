"""`hyfree-ray check`: all that is wrong, at once; and what `simulate` does with it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner, Result

from hyfree_ray.cli import main
from hyfree_ray.cohorts.cohort import read_cohort, survey
from hyfree_ray.core.errors import HyfreeError
from tests.raw_data import edit_csv, edit_json, make, write
from tests.refusals import refused, refuses


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def check(root: Path, code: int) -> list[str]:
    result = call("check", root, "--store", root.parent / "store")
    assert result.exit_code == code, result.output
    assert not (root.parent / "store").exists()
    return result.stdout.splitlines()


def test_a_good_set_is_called_good_with_what_its_sites_hold(tmp_path: Path) -> None:
    root, names = make(tmp_path / "x", ending=".nii.gz")
    lines = check(root, 0)
    assert lines[-1] == f"{len(names)} cases at 2 sites: good"
    assert any("north" in line and " 9 " in line and " 6 " in line for line in lines)


def test_everything_that_is_wrong_is_listed_with_file_and_mend(tmp_path: Path) -> None:
    root, _ = make(tmp_path / "x", ending=".nii.gz")
    grey = np.zeros((26, 17), np.uint8)
    (root / "labelsTr/north1_0.nii.gz").unlink()
    (root / "imagesTr/north2_0_0000.nii.gz").write_bytes(b"no image")
    write(root / "labelsTr/north0_0.nii.gz", grey + 9)
    write(root / "labelsTr/north0_1.nii.gz", grey[:-1])
    write(root / "labelsTr/south0_0.nii.gz", grey)
    write(root / "labelsTr/south0_1.nii.gz", grey)
    edit_csv(root, "south2_1,south,south-2", "south2_1,south,north-2")
    edit_csv(root, "south3_0,", "south9_9,")
    lines = check(root, 2)
    wrong = [problem for problem in survey(root).problems if problem.fatal]
    assert [(problem.code, problem.where) for problem in wrong] == [
        ("data.patient-in-two-sites", "sites.csv, line 15"),
        ("data.no-label", "imagesTr/north1_0_0000.nii.gz"),
        ("data.no-image", "sites.csv, line 16"),
        ("data.unreadable", "imagesTr/north2_0_0000.nii.gz"),
        ("data.size-differs", "labelsTr/north0_1.nii.gz"),
        ("data.unknown-labels", "labelsTr/north0_0.nii.gz"),
    ]
    errors = [line for line in lines if line.startswith("error: ")]
    assert errors == [f"error: {problem.line()}" for problem in wrong]
    assert all("; " in line for line in errors), "what to do"
    (note,) = (line for line in lines if line.startswith("note: "))
    assert note.startswith("note: labelsTr/north0_1.nii.gz: ")
    assert "(and 2 more)" in note
    assert lines[-1].startswith("6 problems")


def test_what_check_lists_first_is_what_simulate_stops_at(tmp_path: Path) -> None:
    root, names = make(tmp_path / "x")
    for name in names[:3]:
        write(root / f"labelsTr/{name}.png", np.full((26 + int(name[5]), 17), 5, np.uint8))
    (first, second, third, _) = check(root, 2)
    with pytest.raises(HyfreeError) as caught:
        read_cohort(root)
    assert str(caught.value) == first.removeprefix("error: ").replace("; ", " (and 2 more); ", 1)
    assert second != third
    result = call("simulate", "--data", root, "--store", tmp_path / "s", "--dry-run")
    assert result.exit_code == 2
    assert refused(result, "data.unknown-labels") == str(caught.value)


def test_tables_that_cannot_be_read_do_not_hide_the_files(tmp_path: Path) -> None:
    root, _ = make(tmp_path / "x")
    (root / "sites.csv").unlink()
    (root / "imagesTr/north1_0_0000.png").write_bytes(b"")
    lines = check(root, 2)
    assert len(lines) == 3
    assert lines[0].startswith("error: " + str(root / "sites.csv"))
    assert lines[1].startswith("error: imagesTr/north1_0_0000.png: ")
    edit_json(root, labels={})
    assert len(check(root, 2)) == 3
    assert str(tmp_path / "nowhere") in check(tmp_path / "nowhere", 2)[0]


def copy(old: str, new: str) -> Callable[[Path], None]:
    """The same pixels again, compressed otherwise."""

    def apply(root: Path) -> None:
        image = sitk.ReadImage(str(root / old))
        sitk.WriteImage(image, str(root / new), useCompression=True, compressionLevel=1)

    return apply


def test_an_image_under_two_patients_is_a_leak_however_it_is_compressed(tmp_path: Path) -> None:
    root, _ = make(tmp_path / "x")
    for old, new in (("north0_0", "south0_1"), ("north1_0", "north0_1"), ("north4_0", "north4_1")):
        copy(f"imagesTr/{old}_0000.png", f"imagesTr/{new}_0000.png")(root)
        copy(f"labelsTr/{old}.png", f"labelsTr/{new}.png")(root)
    # A patient's own image twice leaks nothing.
    at_home, elsewhere = survey(root).problems
    assert {at_home.code, elsewhere.code} == {"data.copied-image"}
    assert at_home.where == "imagesTr/north1_0_0000.png"
    assert "imagesTr/north0_1_0000.png, of another patient" in at_home.what
    assert elsewhere.where == "imagesTr/south0_1_0000.png"
    assert "imagesTr/north0_0_0000.png, of site north" in elsewhere.what
    assert not any("south-0" in line for line in check(root, 2))


def test_sites_that_label_different_structures_are_refused_with_the_difference(
    tmp_path: Path,
) -> None:
    root, names = make(tmp_path / "x")
    for name in names:
        if name.startswith("south"):
            label = np.ones((26 + int(name[5]), 17), np.uint8)
            write(root / f"labelsTr/{name}.png", label)
    with refuses("data.structures-differ", "south: ", "lesion", "north"):
        read_cohort(root)
    assert read_cohort(root, own_sites=False).labels["lesion"] == 2


def test_outliers_of_spacing_and_grids_elsewhere_are_told_and_stop_nothing(tmp_path: Path) -> None:
    root, _ = make(tmp_path / "x", ending=".nrrd")
    for kind in ("imagesTr/north0_0_0000", "labelsTr/north0_0"):
        image: Any = sitk.ReadImage(str(root / f"{kind}.nrrd"))
        image.SetSpacing((9.0, 1.0))
        sitk.WriteImage(image, str(root / f"{kind}.nrrd"))
    image = sitk.ReadImage(str(root / "labelsTr/south1_0.nrrd"))
    image.SetOrigin((50.0, 0.0))
    sitk.WriteImage(image, str(root / "labelsTr/south1_0.nrrd"))
    moved, outlier = survey(root).problems
    assert (moved.code, moved.where) == ("data.place", "labelsTr/south1_0.nrrd")
    assert "imagesTr/south1_0_0000.nrrd" in moved.what
    assert (outlier.code, outlier.where) == ("data.spacing-outlier", "imagesTr/north0_0_0000.nrrd")
    assert all(part in outlier.what for part in ("1x9 mm", "north", "1x1"))
    notes = [line for line in check(root, 0) if line.startswith("note")]
    assert notes == [f"note: {moved.line()}", f"note: {outlier.line()}"]
    result = call("simulate", "--data", root, "--store", tmp_path / "s", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "what the sites hold" in result.output


def test_images_among_volumes_are_refused(tmp_path: Path) -> None:
    root, names = make(tmp_path / "x", ending=".nii.gz")
    volume = np.random.default_rng(0).integers(0, 3, (4, 26, 17)).astype(np.uint8)
    for name in (f"imagesTr/{names[0]}_0000", f"labelsTr/{names[0]}"):
        write(root / f"{name}.nii.gz", volume)
    found = survey(root)
    assert found.problems[0].code == "data.images-and-volumes"
    assert (
        sum(problem.code == "data.images-and-volumes" for problem in found.problems)
        == len(names) - 1
    )


def test_volumes_in_pictures_formats_are_refused(tmp_path: Path) -> None:
    root, names = make(tmp_path / "x", ending=".tif")
    write(root / f"imagesTr/{names[0]}_0000.tif", np.zeros((4, 26, 17), np.uint8))
    with refuses("data.axes", names[0], "4x26x17", "3 axes", "NIfTI, NRRD or MetaImage"):
        read_cohort(root)


def test_a_simulation_deals_patients_out_by_any_partition(
    phantom_folder: Path, tmp_path: Path
) -> None:
    root = phantom_folder
    for how, sites in (("size-skew", 3), ("dirichlet", 2)):
        options = ["--data", root, "--partition", how, "--sites", str(sites), "--dry-run"]
        result = call("simulate", *options, "--store", tmp_path / "s")
        assert result.exit_code == 0, result.output
        assert f"{sites} sites" in result.output
        assert f"site-{sites}" in result.output
    wrong = call("simulate", "--data", root, "--partition", "magic", "--store", tmp_path / "s")
    refused(wrong, "partition.unknown", "--partition magic", "natural, random")


def test_a_thousand_cases_are_checked_in_seconds(tmp_path: Path) -> None:
    root = tmp_path / "x"
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = ["case,site,patient"]
    for index in range(1000):
        pixels = rng.integers(0, 255, (64, 48)).astype(np.uint8)
        write(root / f"imagesTr/c{index:04d}_0000.png", pixels)
        write(root / f"labelsTr/c{index:04d}.png", (pixels > 99).astype(np.uint8))
        lines.append(f"c{index:04d},{'ab'[index % 2]},p{index}")
    (root / "sites.csv").write_text("\n".join(lines))
    dataset = '{"channel_names": {"0": "x"}, "labels": {"background": 0, "y": 1},'
    (root / "dataset.json").write_text(dataset + '"file_ending": ".png"}')
    heard: list[tuple[int, int]] = []
    begun = time.monotonic()
    found = survey(root, report=lambda done, total: heard.append((done, total)))
    assert time.monotonic() - begun < 20
    assert found.problems == ()
    assert heard[-1] == (2000, 2000)
    assert len(heard) == 2000
