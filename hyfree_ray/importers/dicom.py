"""DICOM series, as a scanner or an archive exports them, to NIfTI volumes without labels.

SOURCE/**/anything    files of one or more series, of one or more patients
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.importers.raw_set import Source, SourceCase, itk

PATIENT = "0010|0020"
MODALITY = "0008|0060"
MIN_SLICES = 2
"""A scout or a single picture is not a volume."""


def dicom(root: Path) -> Source:
    """Import a volume per series. Names and numbers of patients are dropped: both are numbered
    anew.

    Files without DICOM in them are ignored. Labels are drawn afterwards, into `labelsTr`.
    """
    if not root.is_dir():
        raise HyfreeError(
            "import.not-found", f"{root}: no such folder; name the folder of the DICOM files"
        )
    series, left_out, modalities = [], [], set()
    for files in _series(root):
        if len(files) < MIN_SLICES:
            left_out.append(f"{files[0]}: a series of one slice")
            continue
        header = _header(files[0])
        modalities.add(header.get(MODALITY, "unknown"))
        series.append((header.get(PATIENT, str(Path(files[0]).parent)), tuple(map(Path, files))))
    if not series:
        raise HyfreeError(
            "import.nothing-found",
            f"{root}: no DICOM series below it; name the folder of the files",
        )
    if len(modalities) > 1:
        raise HyfreeError(
            "import.mixed-modalities",
            f"{root}: has series of {', '.join(sorted(modalities))}; import one modality at a time",
        )
    numbers = {name: n for n, name in enumerate(dict.fromkeys(name for name, _ in series), 1)}
    return Source(
        name="DICOM",
        channel_names=(modalities.pop(),),
        labels={"background": 0, "foreground": 1},
        file_ending=".nii.gz",
        cases=[
            SourceCase(
                name=f"series_{number:04d}",
                site="here",
                patient=f"patient_{numbers[patient]:04d}",
                images=files,
            )
            for number, (patient, files) in enumerate(series, start=1)
        ],
        read_images=lambda case: [_volume(case.images)],
        read_label=lambda case: None,
        left_out=tuple(left_out),
    )


def _series(root: Path) -> Iterator[tuple[str, ...]]:
    """Yield the files of each series of each folder, in the order of the slices."""
    reader = itk.ImageSeriesReader()
    shown = itk.ProcessObject.GetGlobalWarningDisplay()
    itk.ProcessObject.SetGlobalWarningDisplay(False)  # it warns of folders without DICOM
    try:
        for folder in (root, *sorted(path for path in root.rglob("*") if path.is_dir())):
            for uid in reader.GetGDCMSeriesIDs(str(folder)):
                yield reader.GetGDCMSeriesFileNames(str(folder), uid)
    finally:
        itk.ProcessObject.SetGlobalWarningDisplay(shown)


def _header(file: str) -> dict[str, str]:
    reader = itk.ImageFileReader()
    reader.SetFileName(file)
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        raise HyfreeError(
            "import.unreadable", f"{file}: its header cannot be read; check the export"
        ) from None
    return {
        key: reader.GetMetaData(key).strip()
        for key in (PATIENT, MODALITY)
        if reader.HasMetaDataKey(key)
    }


def _volume(files: tuple[Path, ...]) -> Any:
    reader = itk.ImageSeriesReader()
    reader.SetFileNames([str(file) for file in files])
    try:
        return reader.Execute()
    except RuntimeError:
        raise HyfreeError(
            "import.unreadable",
            f"{files[0]}: its series of {len(files)} slices is not a volume; check the export",
        ) from None
