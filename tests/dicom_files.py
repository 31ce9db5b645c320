"""DICOM files as scanners, anonymisers and annotators leave them; small and not square."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

ROWS, COLUMNS = 11, 8
SPACING = (0.9, 0.7)
"""Between rows, between columns."""
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def uid(*parts: object) -> str:
    """The same identifier for the same parts."""
    return str(generate_uid(entropy_srcs=[str(part) for part in parts]))


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1000, (ROWS, COLUMNS)).astype(np.int16)


def write_slice(path: Path, pixels_HW: np.ndarray, **tags: Any) -> Path:
    """Write one image; `tags` override a CT's, and None removes one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    sop = tags.pop("SOPInstanceUID", None) or uid(path)
    meta.MediaStorageSOPClassUID = tags.get("SOPClassUID", CTImageStorage)
    meta.MediaStorageSOPInstanceUID = sop
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    values: dict[str, Any] = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": sop,
        "Modality": "CT",
        "PatientID": "SECRET-1",
        "PatientName": "Mustermann^Max",
        "PatientBirthDate": "",
        "PatientSex": "",
        "StudyDate": "20200101",
        "StudyTime": "120000",
        "StudyID": "1",
        "AccessionNumber": "1",
        "ReferringPhysicianName": "",
        "StudyInstanceUID": uid("study"),
        "SeriesInstanceUID": uid("series"),
        "SeriesNumber": 1,
        "InstanceNumber": 1,
        "FrameOfReferenceUID": uid("frame"),
        "PositionReferenceIndicator": "",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "ImagePositionPatient": [0.0, 0.0, 0.0],
        "ImageOrientationPatient": list(AXIAL),
        "PixelSpacing": list(SPACING),
        "SliceThickness": 3.0,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels_HW.shape[0],
        "Columns": pixels_HW.shape[1],
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "RescaleSlope": 1,
        "RescaleIntercept": 0,
        **tags,
    }
    for name, value in values.items():
        if value is not None:
            setattr(dataset, name, value)
    dataset.PixelData = np.ascontiguousarray(pixels_HW).tobytes()
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_stack(
    folder: Path,
    heights: Sequence[float] = (0, 3, 6, 9),
    *,
    seed: int = 0,
    names: str = "IM{}",
    **tags: Any,
) -> np.ndarray:
    """Write slices at these heights (mm); returns their pixels in that order."""
    volume = np.stack([pixels(100 * seed + k) for k in range(len(heights))])
    for k, height in enumerate(heights):
        own = {
            "ImagePositionPatient": [0.0, 0.0, float(height)],
            "InstanceNumber": k + 1,
            "SOPInstanceUID": uid(folder, seed, k),
            **tags,
        }
        write_slice(folder / names.format(k), volume[k], **own)
    return volume


def write_contours(path: Path, source: Path, structures: dict[str, list[np.ndarray]]) -> None:
    """Write an RTSTRUCT of a series: for each structure its contours, (n, 3) in mm."""
    image = pydicom.dcmread(source)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    meta.MediaStorageSOPInstanceUID = uid(path)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, uid(path)
    dataset.Modality, dataset.SeriesInstanceUID = "RTSTRUCT", uid(path, "series")
    for name in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        setattr(dataset, name, image.get(name))
    rois, drawn = [], []
    for number, (name, contours) in enumerate(structures.items(), start=1):
        roi = Dataset()
        roi.ROINumber, roi.ROIName = number, name
        rois.append(roi)
        found = []
        for points in contours:
            contour, reference = Dataset(), Dataset()
            reference.ReferencedSOPInstanceUID = image.SOPInstanceUID
            contour.ContourImageSequence = Items([reference])
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(points)
            contour.ContourData = [float(number) for number in points.ravel()]
            found.append(contour)
        item = Dataset()
        item.ReferencedROINumber, item.ContourSequence = number, Items(found)
        drawn.append(item)
    dataset.StructureSetROISequence = Items(rois)
    dataset.ROIContourSequence = Items(drawn)
    dataset.save_as(path, enforce_file_format=True)
