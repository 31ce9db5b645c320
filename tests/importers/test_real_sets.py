"""Real sets, laid out as plain folders, imported back to the bytes that they were."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from hyfree_ray.cli import main
from hyfree_ray.cohorts.cohort import read_cohort
from tests.conftest import REAL_DATA

SETS = ("Dataset301_LungCXR", "Dataset303_PolypRGB", "Dataset304_Hippocampus", "Dataset305_BUSI")


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_a_real_set_comes_back_from_a_plain_folder_byte_by_byte(tmp_path: Path, name: str) -> None:
    root = REAL_DATA / name
    if not root.is_dir():
        pytest.skip(f"{name} is not here; set HYFREE_DATA to the folder that holds it")
    cohort = read_cohort(root)
    files = {}
    for site, cases in cohort.sites.items():
        plain = site.replace(" ", "-")
        named = f"{plain}_" if len(cohort.sites) > 1 else ""
        for folder in ("images", "masks"):
            (tmp_path / "in" / plain / folder).mkdir(parents=True)
        for case in cases:
            (image,) = case.images
            for source, folder in ((image, "images"), (case.label, "masks")):
                target = tmp_path / "in" / plain / folder / f"{case.name}{cohort.file_ending}"
                shutil.copyfile(root / source, target)
            files[f"imagesTr/{named}{case.name}_0000{cohort.file_ending}"] = root / image
            files[f"labelsTr/{named}{case.name}{cohort.file_ending}"] = root / case.label
    done = CliRunner().invoke(main, ["import", "folder", f"{tmp_path}/in", f"{tmp_path}/out"])
    assert done.exit_code == 0, done.output
    found = {
        path.relative_to(tmp_path / "out").as_posix()
        for folder in ("imagesTr", "labelsTr")
        for path in (tmp_path / "out" / folder).iterdir()
    }
    assert found == set(files)
    other = [
        one for one in files if (tmp_path / "out" / one).read_bytes() != files[one].read_bytes()
    ]
    assert other == []
