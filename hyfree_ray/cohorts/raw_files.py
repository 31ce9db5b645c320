"""The files of an nnU-Net raw data set, by their names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from hyfree_ray.cohorts.checks import Problem
from hyfree_ray.cohorts.tables import composed, read_dataset_json, read_description
from hyfree_ray.core.errors import HyfreeError


def case_names(root: Path) -> list[str]:
    """Return the cases of a data set's `imagesTr`, sorted.

    Raises:
        HyfreeError: `dataset.json` or `imagesTr` cannot be read, or holds no case.
    """
    _, _, ending = read_description(read_dataset_json(root / "dataset.json"))
    names = [case_of(name, ending) for name in file_names(root / "imagesTr")]
    found = sorted({composed(name) for name in names if name})
    if not found:
        raise HyfreeError(
            "data.no-cases",
            f"{root / 'imagesTr'}: no images named CASE_0000{ending}; name them so",
        )
    return found


def case_of(name: str, ending: str) -> str:
    """Return the case of an image's file name; empty if it is not named as one."""
    found = re.fullmatch(rf"(.+)_\d{{4}}{re.escape(ending)}", name, re.DOTALL)
    return found[1] if found else ""


def file_names(folder: Path) -> list[str]:
    """Return the names in a folder of a raw data set, sorted, but for hidden ones."""
    if not folder.is_dir():
        raise HyfreeError(
            "data.not-found", f"{folder}: no such folder; an nnU-Net raw data set needs one"
        )
    return sorted(path.name for path in folder.iterdir() if path.name[0] != ".")


def check_unicode_forms(names: Mapping[str, Sequence[str]]) -> list[Problem]:
    """Refuse two cases whose names differ in Unicode's form alone."""
    first: dict[str, str] = {}
    return [
        Problem(
            code="data.case-twice",
            where=names[name][0],
            what=f"another case has this name in another Unicode form ({first[composed(name)]!a})",
            fix="rename one of them",
        )
        for name in sorted(names)
        if first.setdefault(composed(name), name) != name
    ]
