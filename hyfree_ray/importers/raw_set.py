"""The writing of an import: an nnU-Net raw data set with `sites.csv`, and an account of it.

`import.json` says of every file of the download whether it was taken, and if not, why; and by
which rules the files were read. `contact_sheet.png` shows the first cases.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hyfree_ray.cohorts.grids import is_turned
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.folders import check_free, filling
from hyfree_ray.importers.files import every_file, why_ignored
from hyfree_ray.importers.look import Look
from hyfree_ray.importers.saving import save
from hyfree_ray.importers.source import LeftOut, Source, SourceCase

ACCOUNT = "import.json"
SHEET = "contact_sheet.png"


def write_raw_set(
    source: Source, out: Path, report: Callable[[int, int], None] = lambda done, total: None
) -> Look:
    """Write `imagesTr`, `labelsTr`, `dataset.json`, `sites.csv` and the account; all or nothing.

    Args:
        source: the data set to write.
        out: a folder that does not exist yet, or is empty.
        report: called with (cases done, cases in all).

    Returns:
        What a person should see of it.

    Raises:
        HyfreeError: `out` is taken, nothing was found, or a file cannot be read.
    """
    check_free(out, "OUT")
    if not source.cases:
        raise HyfreeError(
            "import.nothing-found",
            f"{source.name}: no cases found; see 'hyfree-ray import --help'",
        )
    _refuse_equal_names(source)
    look = Look(source.labels)
    left_out = every_left_out(source)
    with filling(out, "OUT") as partial:
        for folder in ("imagesTr", "labelsTr"):
            (partial / folder).mkdir(parents=True)
        for done, case in enumerate(source.cases, start=1):
            _write_case(source, case, partial, look)
            report(done, len(source.cases))
        _write_tables(source, partial)
        account = _account(source, left_out, look)
        (partial / ACCOUNT).write_text(
            json.dumps(account, indent=1, ensure_ascii=False) + "\n", "utf-8"
        )
        look.write_sheet(partial / SHEET)
    return look


def every_left_out(source: Source) -> list[LeftOut]:
    """Return every file of the download that is not taken, with the reason, sorted."""
    taken = {path for case in source.cases for path in (*case.images, *case.masks)}
    taken |= set(source.tables)
    known = {one.path: one for one in source.left_out if one.path not in taken}
    rest = [path for path in every_file(source.root) if path not in taken and path not in known]
    others = [
        LeftOut(path=path, why=why_ignored(path) or "neither an image nor a mask of this data set")
        for path in rest
    ]
    return sorted([*known.values(), *others], key=lambda one: one.path)


def _account(source: Source, left_out: list[LeftOut], look: Look) -> dict[str, Any]:
    """Return what `import.json` holds; names of people are not in it."""
    shown = _Shown(source)
    taken = {path: case.name for case in source.cases for path in (*case.images, *case.masks)}
    taken |= dict.fromkeys(source.tables, "")
    return {
        "name": source.name,
        "rules": [shown.text(note) for note in source.notes],
        "labels": dict(source.labels),
        "meanings": dict(source.meanings),
        "label_shares": look.mean_shares(),
        "warnings": look.warnings(),
        "taken": [{"file": shown.path(path), "case": case} for path, case in sorted(taken.items())],
        "left_out": [
            {"file": shown.path(one.path), "why": shown.text(one.why)} for one in left_out
        ],
    }


class _Shown:
    """Shows paths below the download's folder, without names of people."""

    def __init__(self, source: Source) -> None:
        self.root = source.root
        words = "|".join(re.escape(word) for word in source.hidden)
        self.people = re.compile(words, re.IGNORECASE) if words else None

    def path(self, path: Path) -> str:
        return self.text(path.relative_to(self.root).as_posix())

    def text(self, text: str) -> str:
        text = text.replace(f"{self.root}/", "")
        text = text.encode("utf-8", "replace").decode()  # names of files need not be text
        return self.people.sub("***", text) if self.people else text


def _refuse_equal_names(source: Source) -> None:
    first: dict[str, SourceCase] = {}
    for case in source.cases:
        other = first.setdefault(case.name.casefold(), case)
        if other is not case:
            raise HyfreeError(
                "import.same-name",
                f"{case.images[0]}: would be named {case.name}, like {other.images[0]}; rename one",
            )


def _write_case(source: Source, case: SourceCase, out: Path, look: Look) -> None:
    ending = source.file_ending
    images = source.read_images(case)
    files = case.images if len(case.images) == len(images) else (None,) * len(images)
    for channel, (image, file) in enumerate(zip(images, files, strict=True)):
        save(image, out / "imagesTr" / f"{case.name}_{channel:04d}{ending}", file, ending)
    label = None
    if case.masks:
        label = source.read_label(case)
        if label.GetSize() != images[0].GetSize():
            raise HyfreeError(
                "import.size-differs",
                f"{case.masks[0]}: size {label.GetSize()} differs from {images[0].GetSize()} of"
                f" {case.images[0]}; remove the case or correct it",
            )
        places = [(*one.GetOrigin(), *one.GetDirection()) for one in (label, images[0])]
        if is_turned(*places):
            raise HyfreeError(
                "import.turned",
                f"{case.masks[0]}: by its header it is mirrored or turned against"
                f" {case.images[0]}, and voxels are paired by their order; save both in one"
                " orientation",
            )
        mask = case.masks[0] if len(case.masks) == 1 else None
        save(label, out / "labelsTr" / f"{case.name}{ending}", mask, ending)
    look.add(case.name, case.site, images, label)


def _write_tables(source: Source, out: Path) -> None:
    dataset: dict[str, Any] = {
        "name": source.name,
        "channel_names": {str(k): name for k, name in enumerate(source.channel_names)},
        "labels": dict(source.labels),
        "numTraining": len(source.cases),
        "file_ending": source.file_ending,
    }
    if source.regions_class_order:
        dataset["regions_class_order"] = list(source.regions_class_order)
    (out / "dataset.json").write_text(json.dumps(dataset, indent=1) + "\n")
    further = sorted({name for case in source.cases for name in case.columns})
    rows: list[Mapping[str, str]] = [
        {"case": case.name, "site": case.site, "patient": case.patient, **case.columns}
        for case in sorted(source.cases, key=lambda case: case.name)
    ]
    with (out / "sites.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(
            file, ["case", "site", "patient", *further], restval="", lineterminator="\n"
        )
        table.writeheader()
        table.writerows(rows)
