"""The headers of DICOM files: whose images they hold, and where each image lies.

Tags and rules: DICOM PS3.3, sections C.7.6.2 (image plane), C.7.6.16 (functional groups of
multi-frame files) and C.11.1 (slope and intercept).
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom import config
from pydicom.errors import InvalidDicomError

from hyfree_ray.core.errors import HyfreeError

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
"""SOP class of screenshots; its multi-frame kinds begin alike."""

LABEL_MODALITIES = ("SEG", "RTSTRUCT")

NOT_IMAGES = ("SR", "PR", "KO", "REG", "DOC", "RTPLAN", "RTDOSE", "RTRECORD", "ECG", "AU", "FID")
"""Modalities of reports, presentation states, registrations and plans."""

PALETTE = "PALETTE COLOR"

COLOURS = ("MONOCHROME1", "MONOCHROME2", PALETTE, "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT",
           "YBR_RCT")  # fmt: skip
"""Photometric interpretations that are read."""

SPLITTING = (
    "AcquisitionNumber",
    "TemporalPositionIdentifier",
    "ImageType",
    "TriggerTime",
    "DiffusionGradientOrientation",
    "ReconstructionDiameter",
    "ConvolutionKernel",
    "AcquisitionTime",
    "ContentTime",
)
"""What tells two images at one place of one series apart, the surest first."""


@dataclass(frozen=True, kw_only=True)
class Plane:
    """One image of a file, and its place in the patient (mm, in DICOM's axes)."""

    file: Path
    frame: int
    """Index within the file."""
    sop_instance: str
    size: tuple[int, int]
    """(rows, columns)."""
    position: tuple[float, ...] | None
    """The centre of the first pixel."""
    orientation: tuple[float, ...] | None
    """Directions of a row and of a column."""
    spacing: tuple[float, float] | None
    """(between rows, between columns)."""
    step: float | None
    """SpacingBetweenSlices, mm."""
    slope: float
    intercept: float
    states_slope: bool
    contrast: tuple[str, ...]
    """Echo and b-value: images that differ in these never belong to one volume."""
    marks: tuple[str, ...]
    """Values of `SPLITTING`."""
    number: int
    """InstanceNumber."""


@dataclass(frozen=True, kw_only=True)
class DicomFile:
    """A file's header."""

    path: Path
    modality: str
    sop_class: str
    patient_id: str
    person: str
    """Name, birth date and sex: what tells two people of one PatientID apart."""
    study: str
    series: str
    frame_of_reference: str
    colour: bool
    stored_as: str
    """Its photometric interpretation."""
    image_type: tuple[str, ...]
    description: str
    """Of the series."""
    planes: tuple[Plane, ...] = ()
    cut_short: bool = False
    """Whether the file ends before its pixels do."""


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Accept values that break a rule of DICOM, as real scanners write them, without a word."""
    before = config.settings.reading_validation_mode
    config.settings.reading_validation_mode = config.IGNORE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        config.settings.reading_validation_mode = before


def read_header(path: Path) -> DicomFile | None:
    """Read a file's header; None if it holds no DICOM.

    Raises:
        HyfreeError: the file may not be read.
    """
    with quiet_pydicom(), _opened(path) as file:
        try:
            dataset = _dataset_in(file)
            if dataset is None:
                return None
            at = file.tell()
            return _header(path, dataset, path.stat().st_size - at)
        except (
            *(ValueError, TypeError, KeyError, AttributeError, EOFError, NotImplementedError),
            *(OverflowError, RecursionError, struct.error, zlib.error),
        ):
            return None


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise HyfreeError(
            "import.unreadable",
            f"{path}: cannot be read ({error.strerror}); correct its access rights",
        ) from None


def why_no_header(path: Path) -> str:
    """Return why `read_header` found none in a file."""
    with path.open("rb") as file:
        if not path.stat().st_size:
            return "an empty file"
        file.seek(128)
        marked = file.read(4) == b"DICM"
    return "a DICOM file whose header is damaged or incomplete" if marked else "no DICOM in it"


def _dataset_in(file: Any) -> Any:
    """Read a data set up to its pixels; old exports have no preamble, but a class of object."""
    try:
        return pydicom.dcmread(file, stop_before_pixels=True)
    except InvalidDicomError:
        file.seek(0)
        start = file.read(6)
        # The first element without a preamble is of group 2 or 8, little endian.
        if start[:2] not in (b"\x02\x00", b"\x08\x00") or start[3:4] != b"\x00":
            return None
        file.seek(0)
        found = pydicom.dcmread(file, stop_before_pixels=True, force=True)
        return found if "SOPClassUID" in found else None


def _header(path: Path, dataset: Any, left: int) -> DicomFile | None:
    sop_class = str(dataset.get("SOPClassUID", ""))
    modality = str(dataset.get("Modality", "") or "")
    if not sop_class and not modality:
        return None
    planes = _planes(path, dataset) if "Rows" in dataset and "Columns" in dataset else ()
    stored_as = _text(dataset, "PhotometricInterpretation")
    return DicomFile(
        path=path,
        modality=modality.strip().upper() or "unknown",
        sop_class=sop_class,
        patient_id=_text(dataset, "PatientID"),
        person="|".join(
            _text(dataset, k) for k in ("PatientName", "PatientBirthDate", "PatientSex")
        ),
        study=_text(dataset, "StudyInstanceUID"),
        series=_text(dataset, "SeriesInstanceUID"),
        frame_of_reference=_text(dataset, "FrameOfReferenceUID"),
        colour=int(dataset.get("SamplesPerPixel", 1) or 1) > 1 or stored_as == PALETTE,
        stored_as=stored_as,
        image_type=tuple(str(part) for part in _several(dataset.get("ImageType"))),
        description=_text(dataset, "SeriesDescription"),
        planes=planes,
        cut_short=bool(planes) and left < _pixel_bytes(dataset, len(planes)),
    )


def _pixel_bytes(dataset: Any, frames: int) -> int:
    """Return the length of the pixels as stored; of compressed ones only that there are some."""
    meta = getattr(dataset, "file_meta", None)
    syntax = getattr(meta, "TransferSyntaxUID", None)
    if syntax is not None and syntax.is_deflated:
        return 0  # the header is part of what was compressed
    if syntax is not None and syntax.is_compressed:
        return 1
    samples = int(dataset.get("SamplesPerPixel", 1) or 1)
    if _text(dataset, "PhotometricInterpretation") == "YBR_FULL_422":
        samples = 2  # two pixels share their colours
    bits = int(dataset.get("BitsAllocated", 16))
    return (int(dataset.Rows) * int(dataset.Columns) * samples * frames * bits + 7) // 8


def _planes(path: Path, dataset: Any) -> tuple[Plane, ...]:
    frames = int(dataset.get("NumberOfFrames", 1) or 1)
    shared = _first(dataset.get("SharedFunctionalGroupsSequence"))
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or [None] * frames
    return tuple(
        _plane(path, dataset, index, [part for part in (own, shared) if part is not None])
        for index, own in enumerate(per_frame)
    )


def _plane(path: Path, dataset: Any, index: int, groups: list[Any]) -> Plane:
    def value(name: str, sequence: str = "") -> Any:
        for group in groups:
            item = _first(group.get(sequence)) if sequence else None
            if item is not None and name in item:
                return item.get(name)
        return dataset.get(name)

    spacing = value("PixelSpacing", "PixelMeasuresSequence")
    if spacing is None:
        spacing = dataset.get("ImagerPixelSpacing") or dataset.get("NominalScannedPixelSpacing")
    step = value("SpacingBetweenSlices", "PixelMeasuresSequence")
    echo = value("EffectiveEchoTime", "MREchoSequence") or _either(
        dataset, "EchoNumbers", "EchoTime"
    )
    b_value = value("DiffusionBValue", "MRDiffusionSequence")
    content = {
        "TemporalPositionIdentifier": value("TemporalPositionIndex", "FrameContentSequence"),
        "AcquisitionNumber": value("FrameAcquisitionNumber", "FrameContentSequence"),
    }
    slope = value("RescaleSlope", "PixelValueTransformationSequence")
    return Plane(
        file=path,
        frame=index,
        sop_instance=_text(dataset, "SOPInstanceUID"),
        size=(int(dataset.Rows), int(dataset.Columns)),
        position=_numbers(value("ImagePositionPatient", "PlanePositionSequence"), 3),
        orientation=_numbers(value("ImageOrientationPatient", "PlaneOrientationSequence"), 6),
        spacing=_pair(_numbers(spacing, 2)),
        step=abs(float(step)) or None if step not in (None, "") else None,
        slope=1.0 if slope is None else float(slope),
        intercept=float(value("RescaleIntercept", "PixelValueTransformationSequence") or 0),
        states_slope=slope is not None,
        contrast=(str(echo or ""), "" if b_value is None else str(b_value)),
        marks=tuple(
            str(content[name] if content.get(name) is not None else dataset.get(name, "") or "")
            for name in SPLITTING
        ),
        number=int(dataset.get("InstanceNumber", 0) or 0) if len(groups) < 1 else index,
    )


def _text(dataset: Any, name: str) -> str:
    return str(dataset.get(name, "") or "").strip().strip("\0").strip()


def _either(dataset: Any, *names: str) -> Any:
    return next((dataset.get(name) for name in names if dataset.get(name) not in (None, "")), None)


def _several(value: Any) -> list[Any]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)


def _first(sequence: Any) -> Any:
    return sequence[0] if sequence else None


def _numbers(value: Any, count: int) -> tuple[float, ...] | None:
    if value is None or isinstance(value, str) or len(value) != count:
        return None
    return tuple(float(number) for number in value)


def _pair(numbers: tuple[float, ...] | None) -> tuple[float, float] | None:
    if numbers is None or min(numbers) <= 0:
        return None
    return numbers[0], numbers[1]
