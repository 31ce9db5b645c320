"""A small raw data set that is good, and how to spoil it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from hyfree_ray.cohorts.cohort import read_cohort
from tests.refusals import refuses

GREY = np.zeros((26, 17), np.uint8)

SITES = {"north": 6, "south": 5}
"""Patients a site; a patient of an even number has two cases."""


def write(
    path: Path,
    pixels: np.ndarray,
    *,
    vector: bool = False,
    spacing: tuple[float, float] | None = None,
) -> None:
    image: Any = sitk.GetImageFromArray(pixels, isVector=vector)
    if spacing:
        image.SetSpacing(spacing)
    sitk.WriteImage(image, str(path))


def make(
    root: Path, *, ending: str = ".png", channels: int = 1, in_one_file: bool = False
) -> tuple[Path, list[str]]:
    """A good data set of 16 non-square cases at two uneven sites; its root and its case names."""
    rng = np.random.default_rng(0)
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    lines, names = ["case,site,patient"], []
    for site, patients in SITES.items():
        for patient in range(patients):
            for part in range(2 - patient % 2):
                name = f"{site}{patient}_{part}"
                names.append(name)
                lines.append(f"{name},{site},{site}-{patient}")
                shape = (26 + patient, 17)
                kind = np.uint8 if ending in (".png", ".bmp") else np.int16
                if in_one_file:
                    pixels = rng.integers(0, 255, (*shape, channels)).astype(kind)
                    write(root / f"imagesTr/{name}_0000{ending}", pixels, vector=True)
                else:
                    for channel in range(channels):
                        pixels = rng.integers(0, 255, shape).astype(kind)
                        write(root / f"imagesTr/{name}_{channel:04d}{ending}", pixels)
                label = rng.integers(0, 3, shape).astype(np.uint8)
                write(root / f"labelsTr/{name}{ending}", label)
    dataset = {
        "name": "Two sites",
        "channel_names": {str(k): f"c{k}" for k in range(channels)},
        "labels": {"background": 0, "organ": 1, "lesion": 2},
        "numTraining": len(names),
        "file_ending": ending,
    }
    (root / "dataset.json").write_text(json.dumps(dataset))
    (root / "sites.csv").write_text("\n".join(lines) + "\n")
    return root, names


def edit_json(root: Path, **changes: Any) -> None:
    path = root / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_csv(root: Path, old: str, new: str) -> None:
    path = root / "sites.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def refusal(root: Path, code: str, *names: str, **options: Any) -> str:
    """The message in which a cohort is refused with this code, which has the names."""
    with refuses(code, *names) as caught:
        read_cohort(root, **options)
    message = str(caught.value)
    assert len(message) < 400
    return message
