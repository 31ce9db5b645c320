"""Public sets in the layouts that are passed on: halves and strangers are never taken for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hyfree_ray.importers import IMPORTERS
from hyfree_ray.importers.raw_set import every_left_out
from tests.importers.test_importers import brats, lung, mask, picture, polyp, qata, write
from tests.refusals import refuses


def pairs(folder: Path, names: list[str], *, masks: str = "masks", ending: str = "png") -> None:
    for number, name in enumerate(names):
        write(folder / f"images/{name}.png", picture(number, rgb=True))
        write(folder / f"{masks}/{name}.{ending}", mask(number))


def test_an_image_with_the_mask_of_one_lung_is_left_out(tmp_path: Path) -> None:
    root = lung(tmp_path)
    (root / "MontgomerySet/ManualMask/rightMask/MCUCXR_0002_0.png").unlink()
    found = IMPORTERS["lung"](root)
    assert "montgomery_0002" not in {case.name for case in found.cases}
    (why,) = [one.why for one in found.left_out if one.path.name.startswith("MCUCXR_0002")]
    assert "right lung" in why


def test_no_right_masks_at_all_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "CXR_png/MCUCXR_0001_0.png", picture(1))
    write(tmp_path / "ManualMask/leftMask/MCUCXR_0001_0.png", mask(1))
    with refuses("import.nothing-found", "right lung"):
        IMPORTERS["lung"](tmp_path)


def test_kaggles_lungs_are_both_hospitals(tmp_path: Path) -> None:
    part = tmp_path / "Lung Segmentation"
    for number, name in enumerate(("MCUCXR_0001_0", "CHNCXR_0001_0")):
        write(part / f"CXR_png/{name}.png", picture(number))
        suffix = "_mask" if name[0] == "C" else ""
        write(part / f"masks/{name}{suffix}.png", mask(number))
    found = IMPORTERS["lung"](tmp_path)
    assert sorted(case.site for case in found.cases) == ["Montgomery", "Shenzhen"]


def test_frames_of_cvc_are_its_sequences_in_any_layout(tmp_path: Path) -> None:
    pairs(tmp_path / "CVC-ClinicDB", ["1", "2", "26"])
    found = IMPORTERS["polyp"](tmp_path)
    assert {case.site for case in found.cases} == {"CVC"}
    assert len({case.patient for case in found.cases}) == 2


@pytest.mark.parametrize("name", ["ETIS-LaribPolypDB", "CVC-ColonDB", "CVC-300", "mine"])
def test_a_set_that_is_not_known_is_not_kvasir(tmp_path: Path, name: str) -> None:
    pairs(tmp_path / name, ["1", "2"])
    with refuses("import.unknown-set", name):
        IMPORTERS["polyp"](tmp_path)


def test_masks_of_another_ending_are_found(tmp_path: Path) -> None:
    pairs(tmp_path / "Kvasir-SEG", ["a", "b"], ending="bmp")
    assert len(IMPORTERS["polyp"](tmp_path).cases) == 2


def test_institutions_of_2019_are_those_of_2017(tmp_path: Path) -> None:
    root = brats(tmp_path, 2020)
    table = root / "name_mapping.csv"
    table.write_text(table.read_text().replace("Brats17_TCIA02", "BraTS19_TCIA02"))
    sites = {case.site for case in IMPORTERS["brats"](root).cases}
    assert sites == {"CBICA", "TCIA02"}


def test_a_subject_that_the_mapping_lacks_is_an_error(tmp_path: Path) -> None:
    root = brats(tmp_path, 2020)
    table = root / "name_mapping.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]))
    with refuses("import.no-site", "BraTS20_Training_009"):
        IMPORTERS["brats"](root)


def test_a_folder_named_as_a_volume_is_the_volume_in_it(tmp_path: Path) -> None:
    root = brats(tmp_path, 2021)
    folder = root / "BraTS2021_00003"
    volume = folder / "BraTS2021_00003_flair.nii.gz"
    inner = folder / "x.tmp"
    volume.rename(inner)
    volume.mkdir()
    inner.rename(volume / "0000057_brain_flair.nii.gz")
    found = IMPORTERS["brats"](root)
    assert len(found.cases) == 10
    assert not every_left_out(found)


@pytest.mark.parametrize(("kind", "make"), [("qata", qata), ("polyp", polyp), ("lung", lung)])
def test_every_file_of_a_public_set_is_accounted_for(
    tmp_path: Path, kind: str, make: object
) -> None:
    root = make(tmp_path)  # type: ignore[operator]
    (root / "README.md").write_text("x")
    (root / ".DS_Store").write_bytes(b"x")
    write(root / "more/picture.png", np.zeros((4, 5), np.uint8))
    found = IMPORTERS[kind](root)
    taken = {path for case in found.cases for path in (*case.images, *case.masks)}
    left = {one.path for one in every_left_out(found)}
    assert taken | left == {path for path in root.rglob("*") if path.is_file()}
    assert not taken & left


def test_every_file_of_brats_is_accounted_for(tmp_path: Path) -> None:
    root = brats(tmp_path, 2020)
    (root / "BraTS20_Training_004/BraTS20_Training_004_seg.nii.gz").rename(
        root / "BraTS20_Training_004/W39_Segm.nii.gz"
    )
    found = IMPORTERS["brats"](root)
    taken = {path for case in found.cases for path in (*case.images, *case.masks)}
    left = {one.path: one.why for one in every_left_out(found)}
    files = {path for path in root.rglob("*") if path.is_file()}
    assert taken | left.keys() | set(found.tables) == files
    assert "seg" in left[root / "BraTS20_Training_004/W39_Segm.nii.gz"]
