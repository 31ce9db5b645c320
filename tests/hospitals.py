"""A small data set of uneven hospitals, in one folder and in one folder each."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import SimpleITK as sitk

CASES = {"alpha": (5, 2), "beta": (6, 1), "gamma": (7, 2)}
"""Patients, and slices of each."""

SIX = {f"site-{number}": (6 + number, 2) for number in range(1, 7)}
"""Hospitals of the names that the local cluster has machines for."""


def write_hospitals(root: Path) -> tuple[Path, dict[str, Path]]:
    """Returns the folder of all, and each hospital's own."""
    own = {name: root / name / "data" for name in CASES}
    for name in CASES:
        write_data(own[name], [name])
    write_data(root / "all", list(CASES))
    return root / "all", own


def write_data(
    root: Path, hospitals: Collection[str], cases: Mapping[str, tuple[int, int]] = CASES
) -> None:
    """The data of some hospitals in one folder; a hospital's are the same in any company."""
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    lines, count = ["case,site,patient"], 0
    for name in hospitals:
        patients, slices = cases[name]
        for patient in range(patients):
            for number in range(slices):
                case = f"{name}_{patient}_{number}"
                _write_case(root, case, np.random.default_rng([*name.encode(), patient, number]))
                lines.append(f"{case},{name},{name}-{patient}")
                count += 1
    described = {
        "name": "Hospitals",
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "organ": 1},
        "numTraining": count,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(described))
    (root / "sites.csv").write_text("\n".join(lines) + "\n")


def _write_case(root: Path, case: str, random: np.random.Generator) -> None:
    """A bright ellipse in noise, 36 by 28 pixels."""
    rows, columns = np.mgrid[:36, :28]
    middle, radii = random.uniform(11, 17, 2), random.uniform(5, 9, 2)
    organ_HW = ((rows - middle[0]) / radii[0]) ** 2 + ((columns - middle[1]) / radii[1]) ** 2 < 1
    image_HW = random.normal(100, 20, organ_HW.shape) + 120 * organ_HW
    for array_HW, file in (
        (image_HW.round().astype(np.int16), f"imagesTr/{case}_0000.nii.gz"),
        (organ_HW.astype(np.uint8), f"labelsTr/{case}.nii.gz"),
    ):
        image = sitk.GetImageFromArray(array_HW)
        image.SetSpacing((1.5, 2.0))
        sitk.WriteImage(image, str(root / file))
