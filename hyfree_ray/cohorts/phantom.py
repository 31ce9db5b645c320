"""The built-in cohort: "MR-like" abdominal slices of several hospitals, drawn from a seed.

A patient is a body with fat, spine, kidneys, bowel, a large organ (label 1) with vessels, cysts and
lesions (label 2), and a smaller organ of nearly the same grey. Sites differ in patients, matrix,
spacing, order of the greys (T1-, T2- or fat-suppressed looks), noise, blur, shading and lesions.

`benchmarks/phantom.py` measures, on real data only, the possible gain.
H, W: rows and columns of a slice.
"""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from hyfree_ray.cohorts.cohort import Case, Cohort
from hyfree_ray.cohorts.phantom_anatomy import Array, draw_patient
from hyfree_ray.cohorts.phantom_sites import MAX_SITES, site_style
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.seeds import seed_of

PHANTOM_VERSION = 2
NAME = "Phantom"
LABELS = {"background": 0, "organ": 1, "lesion": 2}
FILE_ENDING = ".nii.gz"


def phantom_cohort(sites: int, seed: int, root: Path) -> Cohort:
    """Return the cohort of `sites` phantom sites without drawing anything.

    Paths of cases are relative to the folder that a site is drawn into. A case's digest replaces
    that of its files: it is derived from the version, the seed and the names.
    """
    if not 1 <= sites <= MAX_SITES:
        raise HyfreeError(
            "option.out-of-range", f"--sites {sites}: the phantom has only 1 to {MAX_SITES} sites"
        )
    names = {index: f"site-{index}" for index in range(1, sites + 1)}
    cases = {
        names[index]: tuple(case for case, _ in _site_cases(index, seed))
        for index in sorted(names, key=names.__getitem__)
    }
    return Cohort(
        name=NAME,
        root=root,
        channel_names=("MR",),
        labels=LABELS,
        file_ending=FILE_ENDING,
        sites=cases,
        dataset_json=_dataset_json(sum(len(members) for members in cases.values())),
    )


def draw_phantom_site(index: int, seed: int, out: Path) -> None:
    """Write site `index` as an nnU-Net raw data set of 2D NIfTI files, with its `sites.csv`."""
    style = site_style(index, seed)
    cases = _site_cases(index, seed)
    for folder in ("imagesTr", "labelsTr"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    drawn: dict[str, list[tuple[Array, NDArray[np.uint8]]]] = {}
    for case, number in cases:
        if case.patient not in drawn:
            count = sum(other.patient == case.patient for other, _ in cases)
            drawn = {case.patient: draw_patient(style, _rng(seed, index, case.patient), count)}
        image_HW, label_HW = drawn[case.patient][number]
        _write(image_HW.round().astype(np.int16), style.spacing, out / case.images[0])
        _write(label_HW, style.spacing, out / case.label)
    (out / "dataset.json").write_text(json.dumps(_dataset_json(len(cases)), indent=1))
    with (out / "sites.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("case", "site", "patient"))
        table.writerows((case.name, f"site-{index}", case.patient) for case, _ in cases)


def _site_cases(index: int, seed: int) -> list[tuple[Case, int]]:
    """Return the cases of a site in order, each with its number among its patient's slices."""
    style = site_style(index, seed)
    minimum, maximum = style.slices
    cases = []
    for number in range(1, style.patients + 1):
        patient = f"site-{index}_p{number:03d}"
        slices = _rng(seed, index, patient, "slices").integers(minimum, maximum, endpoint=True)
        for part in range(slices):
            name = f"{patient}_s{part}"
            digest = hashlib.sha256(f"{PHANTOM_VERSION} {seed} {name}".encode())
            case = Case(
                name=name,
                patient=patient,
                images=(f"imagesTr/{name}_0000{FILE_ENDING}",),
                label=f"labelsTr/{name}{FILE_ENDING}",
                digest=digest.hexdigest(),
            )
            cases.append((case, part))
    return cases


def _dataset_json(cases: int) -> dict[str, Any]:
    return {
        "name": NAME,
        "channel_names": {"0": "MR"},
        "labels": LABELS,
        "numTraining": cases,
        "file_ending": FILE_ENDING,
    }


def _write(pixels_HW: NDArray[Any], spacing: tuple[float, float], path: Path) -> None:
    itk: Any = sitk  # SimpleITK has no type annotations
    image = itk.GetImageFromArray(pixels_HW)
    image.SetSpacing(spacing[::-1])
    itk.WriteImage(image, str(path))


def _rng(seed: int, index: int, *parts: str) -> np.random.Generator:
    return np.random.default_rng(seed_of(seed, "phantom", index, *parts))
