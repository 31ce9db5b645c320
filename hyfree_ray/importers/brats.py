"""BraTS 2020 and 2021: gliomas in four MR sequences (Menze et al. 2015, Baid et al. 2021).

BraTS20_Training_001/BraTS20_Training_001_{t1,t1ce,t2,flair,seg}.nii[.gz]   and name_mapping.csv
BraTS2021_00000/BraTS2021_00000_{t1,t1ce,t2,flair,seg}.nii.gz
"""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.importers.raw_set import VOLUMES, Source, SourceCase, files_in, itk, read, stem

SEQUENCES = ("t1", "t1ce", "t2", "flair")

CLASSES = {0: 0, 2: 1, 1: 2, 4: 3}
"""BraTS's values to ours: oedema 1, necrotic core 2, enhancing tumour 3, without a gap at 3."""

REGIONS = {"background": 0, "whole tumour": [1, 2, 3], "core": [2, 3], "enhancing": [3]}
"""The regions that BraTS is scored on; each is drawn over the one before."""

_SUBJECT = re.compile(r"BraTS(20_Training|2021)_\d+")
_INSTITUTION = re.compile(r"Brats1\d_([A-Za-z0-9]+)_")


def brats(root: Path) -> Source:
    """Import with the institutions of `name_mapping.csv` as sites (2020); 2021 does not name
    them."""
    if not root.is_dir():
        raise HyfreeError(
            "import.not-found", f"{root}: no such folder; name the folder of the download"
        )
    institutions = _institutions(root)
    cases, left_out = [], []
    for folder in sorted(path for path in root.rglob("BraTS*") if path.is_dir()):
        if not _SUBJECT.fullmatch(folder.name):
            continue
        found = {stem(path).rpartition("_")[2]: path for path in files_in(folder, VOLUMES)}
        missing = [name for name in (*SEQUENCES, "seg") if name not in found]
        if missing:
            left_out.append(f"{folder}: no {', '.join(missing)}")
            continue
        cases.append(
            SourceCase(
                name=folder.name,
                site=institutions.get(folder.name, folder.name.split("_")[0]),
                patient=folder.name,
                images=tuple(found[name] for name in SEQUENCES),
                masks=(found["seg"],),
            )
        )
    if not cases:
        raise HyfreeError(
            "import.nothing-found",
            f"{root}: no BraTS20_Training_NNN or BraTS2021_NNNNN with t1, t1ce, t2, flair and seg"
            " below it; name the folder of the training data",
        )
    return Source(
        name="BraTS",
        channel_names=("T1", "T1ce", "T2", "FLAIR"),
        labels=REGIONS,
        regions_class_order=(1, 2, 3),
        file_ending=".nii.gz",
        cases=cases,
        read_images=lambda case: [read(path) for path in case.images],
        read_label=lambda case: _label(case.masks[0]),
        left_out=tuple(left_out),
    )


def _institutions(root: Path) -> dict[str, str]:
    """Map subjects to institutions, by the names that subjects had in earlier years."""
    found = {}
    for table in sorted(root.rglob("name_mapping*.csv")):
        for cells in _rows(table):
            subject = next((cell for cell in cells if _SUBJECT.fullmatch(cell)), None)
            earlier = next((m[1] for cell in cells if (m := _INSTITUTION.match(cell))), None)
            if subject and earlier:
                found[subject] = earlier
    return found


def _rows(table: Path) -> list[list[str]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            return list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error):
        raise HyfreeError(
            "import.unreadable", f"{table}: cannot be read as a table; download it again"
        ) from None


def _label(path: Path) -> Any:
    image = read(path)
    values = itk.GetArrayFromImage(image)
    strange = set(np.unique(values).tolist()) - set(CLASSES)
    if strange:
        raise HyfreeError(
            "import.bad-labels",
            f"{path}: label value {min(strange)} does not occur in BraTS; download it again",
        )
    label = np.zeros(values.shape, np.uint8)
    for theirs, ours in CLASSES.items():
        label[values == theirs] = ours
    written = itk.GetImageFromArray(label)
    written.CopyInformation(image)
    return written
