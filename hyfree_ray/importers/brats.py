"""BraTS 2020 and 2021: gliomas in four MR sequences (Menze et al. 2015, Baid et al. 2021).

BraTS20_Training_001/BraTS20_Training_001_{t1,t1ce,t2,flair,seg}.nii[.gz]   and name_mapping.csv
BraTS2021_00000/BraTS2021_00000_{t1,t1ce,t2,flair,seg}.nii.gz
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hyfree_ray.cohorts.itk_images import itk
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.importers.files import VOLUMES, files_in, image_in, stem
from hyfree_ray.importers.source import LeftOut, Source, SourceCase
from hyfree_ray.importers.volumes import read_label_values, read_one_volume

SEQUENCES = ("t1", "t1ce", "t2", "flair")

CLASSES = {0: 0, 2: 1, 1: 2, 4: 3}
"""BraTS's values to ours: oedema 1, necrotic core 2, enhancing tumour 3, without a gap at 3."""

REGIONS = {"background": 0, "whole tumour": [1, 2, 3], "core": [2, 3], "enhancing": [3]}
"""The regions that BraTS is scored on; each is drawn over the one before."""

_SUBJECT = re.compile(r"BraTS(20_Training|2021)_\d+", re.IGNORECASE)
_EARLIER = re.compile(r"Brats1[789]_([A-Za-z0-9]+)_\w+", re.IGNORECASE)
"""Names of subjects in 2017 to 2019, which hold the institution."""


def brats(root: Path) -> Source:
    """Import with the institutions of `name_mapping.csv` as sites (2020); 2021 does not name
    them.

    Raises:
        HyfreeError: no subject is there, or the mapping does not name a subject's institution.
    """
    if not root.is_dir():
        raise HyfreeError(
            "import.not-found", f"{root}: no such folder; name the folder of the download"
        )
    tables = tuple(sorted(root.rglob("name_mapping*.csv")))
    institutions = _institutions(tables)
    cases: list[SourceCase] = []
    left_out: list[LeftOut] = []
    for folder in sorted(path for path in root.rglob("*") if path.is_dir()):
        if _SUBJECT.fullmatch(folder.name) or _EARLIER.fullmatch(folder.name):
            found, held = _sequences(folder)
            missing = [name for name in (*SEQUENCES, "seg") if name not in found]
            if missing:
                why = f"{folder.name} has no {', '.join(missing)}"
                left_out += [LeftOut(path=path, why=why) for path in held]
            else:
                cases.append(_case(folder, found, institutions, mapped=bool(tables)))
    if not cases:
        first = f"; {left_out[0].why}" if left_out else ""
        raise HyfreeError(
            "import.nothing-found",
            f"{root}: no BraTS20_Training_NNN or BraTS2021_NNNNN with t1, t1ce, t2, flair and seg"
            f" below it{first}; name the folder of the training data",
        )
    return Source(
        name="BraTS",
        root=root,
        channel_names=("T1", "T1ce", "T2", "FLAIR"),
        labels=REGIONS,
        regions_class_order=(1, 2, 3),
        file_ending=".nii.gz",
        cases=cases,
        read_images=lambda case: [read_one_volume(path) for path in case.images],
        read_label=lambda case: _label(case.masks[0]),
        left_out=tuple(left_out),
        tables=tables,
    )


def _sequences(folder: Path) -> tuple[dict[str, Path], list[Path]]:
    """Return a subject's volumes by sequence, and all of them."""
    held = files_in(folder, VOLUMES)
    found = {stem(path).rpartition("_")[2].casefold(): path for path in held}
    wanted = {name: image_in(path) for name, path in found.items() if name in (*SEQUENCES, "seg")}
    return wanted, [wanted.get(stem(path).rpartition("_")[2].casefold(), path) for path in held]


def _case(
    folder: Path, found: Mapping[str, Path], institutions: Mapping[str, str], *, mapped: bool
) -> SourceCase:
    name = folder.name
    own = _EARLIER.fullmatch(name)
    site = own[1] if own else institutions.get(name.casefold())
    if site is None and mapped:
        raise HyfreeError(
            "import.no-site",
            f"{folder}: name_mapping.csv does not say of which institution {name} is; add it there,"
            " or remove the table to import all as one site",
        )
    return SourceCase(
        name=name,
        site=site or name.split("_")[0],
        patient=name,
        images=tuple(found[sequence] for sequence in SEQUENCES),
        masks=(found["seg"],),
    )


def _institutions(tables: tuple[Path, ...]) -> dict[str, str]:
    """Map subjects to institutions, by the names that subjects had in earlier years."""
    found = {}
    for table in tables:
        for cells in _rows(table):
            subject = next((cell for cell in cells if _SUBJECT.fullmatch(cell.strip())), None)
            earlier = [m[1] for cell in cells if (m := _EARLIER.fullmatch(cell.strip()))]
            if len({name.casefold() for name in earlier}) > 1:
                raise HyfreeError(
                    "import.no-site",
                    f"{table}: names {' and '.join(sorted(set(earlier)))} as the institution of"
                    f" {subject or cells[0]}; correct it",
                )
            if subject and earlier:
                found[subject.strip().casefold()] = earlier[-1]
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
    values, image = read_label_values(path)
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
