"""DICOM, as a scanner or an archive exports it, to NIfTI, with the masks that were drawn on it.

SOURCE/**/anything    files of one or more series, of one or more patients, in any folders
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hyfree_ray.cohorts.itk_images import Image, itk
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.importers.classes import Classes, key_of, labels_of
from hyfree_ray.importers.dicom.headers import (
    COLOURS,
    LABEL_MODALITIES,
    NOT_IMAGES,
    SECONDARY_CAPTURE,
    DicomFile,
    Plane,
    read_header,
    why_no_header,
)
from hyfree_ray.importers.dicom.labels import (
    LabelFile,
    painting_values,
    read_label_file,
    read_label_map,
    stack_for,
)
from hyfree_ray.importers.dicom.patients import patients_of
from hyfree_ray.importers.dicom.pixels import read_plane
from hyfree_ray.importers.dicom.segments import lies_on
from hyfree_ray.importers.dicom.stacks import Stack, fault_of_slopes, stacks_of
from hyfree_ray.importers.dicom.volumes import is_tilted, place_volume, read_volume
from hyfree_ray.importers.files import every_file, why_ignored
from hyfree_ray.importers.source import LeftOut, Source, SourceCase

PICTURE_MODALITIES = (
    "CR", "DX", "RG", "MG", "PX", "IO", "XA", "RF", "US", "ES", "OP", "XC", "GM", "DM",
)  # fmt: skip
"""Modalities whose files are pictures each, never slices of a volume."""

_SCOUT = re.compile(r"LOCALIZER|SCOUT|SCREEN ?SAVE|TOPOGRAM", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What a folder holds."""

    stacks: list[Stack]
    """Volumes, and pictures of one plane."""
    labels: list[DicomFile]
    left_out: list[LeftOut]
    notes: list[str]


def dicom(root: Path, classes: Classes | None = None) -> Source:
    """Import a volume per series and acquisition, or a picture per file, with SEG and RTSTRUCT.

    Names and numbers of patients are dropped: both are numbered anew.

    Args:
        root: the folder of the files.
        classes: the structures to read, drawn in this order.

    Raises:
        HyfreeError: there is no series that can be imported, or there are several modalities.
    """
    if not root.is_dir():
        raise HyfreeError(
            "import.not-found", f"{root}: no such folder; name the folder of the DICOM files"
        )
    found = _find(root)
    _refuse_mixtures(root, found.stacks)
    drawn = _labels_of(found)
    names = [
        name for labels in drawn.values() for label in labels for name in label.structures.values()
    ]
    values = painting_values(classes, names)
    patients, about_patients = patients_of([stack.header for stack in found.stacks])
    cases, by_name = _cases(found.stacks, patients, drawn)
    _refuse_unknown(classes, names)
    shown = _shown_names(classes, names, values)
    return Source(
        name="DICOM",
        root=root,
        channel_names=("R", "G", "B")
        if found.stacks[0].header.colour
        else (found.stacks[0].header.modality,),
        labels=labels_of(list(shown)) if shown else {"background": 0, "foreground": 1},
        file_ending=".nii.gz",
        cases=cases,
        read_images=lambda case: _images(by_name[case.name]),
        read_label=lambda case: _label(
            by_name[case.name],
            drawn[by_name[case.name].planes],
            values,
            painted=classes is not None,
        ),
        left_out=tuple(found.left_out),
        notes=(*found.notes, *about_patients),
        meanings=shown,
        hidden=_people(found.stacks),
    )


def _find(root: Path) -> _Found:
    images, labels, left_out = [], [], []
    for path in every_file(root):
        why = why_ignored(path)
        header = None if why else read_header(path)
        if header is None:
            left_out.append(LeftOut(path=path, why=why or why_no_header(path)))
        elif header.modality in LABEL_MODALITIES:
            labels.append(header)
        elif reason := _why_no_image(header):
            left_out.append(LeftOut(path=path, why=reason))
        else:
            images.append(header)
    images, copies = _without_copies(images)
    pictures = [image for image in images if image.modality in PICTURE_MODALITIES]
    stacks = [
        Stack(header=image, planes=image.planes, fault=_why_no_picture(image)) for image in pictures
    ]
    stacks += stacks_of([image for image in images if image.modality not in PICTURE_MODALITIES])
    damaged = {image.path: "ends before its pixels do" for image in images if image.cut_short}
    good = []
    for stack in stacks:
        broken = next((path for path in stack.files if path in damaged), None)
        fault = f"{broken.name} {damaged[broken]}" if broken else stack.fault
        if fault:
            left_out += [LeftOut(path=path, why=fault) for path in stack.files]
        else:
            good.append(stack)
    if not good:
        raise _nothing(root, left_out, stacks)
    good.sort(
        key=lambda stack: (
            str(stack.files[0].parent),
            stack.header.path.name,
            stack.planes[0].number,
        )
    )
    return _Found(stacks=good, labels=labels, left_out=left_out + copies, notes=_notes(good))


def _nothing(root: Path, left_out: Sequence[LeftOut], stacks: Sequence[Stack]) -> HyfreeError:
    if not stacks:
        seen = next((one for one in left_out if not why_ignored(one.path)), None)
        example = f" ({seen.path.name}: {seen.why})" if seen else ""
        return HyfreeError(
            "import.nothing-found",
            f"{root}: no DICOM series below it{example}; name the folder of the files",
        )
    of_series = {path for stack in stacks for path in stack.files}
    first = next(one for one in left_out if one.path in of_series)
    more = f" (and {len(stacks) - 1} more)" if len(stacks) > 1 else ""
    return HyfreeError(
        "import.no-volume",
        f"{first.path}: its series cannot be imported: {first.why}{more}; export it again, whole",
    )


def _why_no_image(header: DicomFile) -> str:
    if header.modality in NOT_IMAGES:
        return f"{header.modality}: not an image"
    if header.sop_class.startswith(SECONDARY_CAPTURE):
        return "a secondary capture (a screenshot)"
    if any(_SCOUT.search(part) for part in (*header.image_type, header.description)):
        return "a scout (localizer)"
    if "MOSAIC" in header.image_type:
        return "a mosaic: the slices of a volume side by side in one image"
    if not header.planes:
        return "no pixels in it"
    if header.stored_as not in COLOURS:
        return f"its pixels are stored as {header.stored_as!a}, which is not read"
    if len(header.planes) > 1 and header.planes[0].position is None:
        return f"a film of {len(header.planes)} images without positions"
    return ""


def _why_no_picture(image: DicomFile) -> str:
    if len(image.planes) > 1:
        return f"a film of {len(image.planes)} images"
    return fault_of_slopes(image.planes)


def _without_copies(images: Sequence[DicomFile]) -> tuple[list[DicomFile], list[LeftOut]]:
    """Leave out files that hold an image a second time: same identifiers, place and bytes."""
    first: dict[tuple[object, ...], list[DicomFile]] = defaultdict(list)
    kept, copies = [], []
    for image in images:
        planes = [(p.sop_instance, p.position, p.contrast, p.marks) for p in image.planes]
        key = (image.patient_id, image.study, image.series, tuple(planes))
        same = next((o for o in first[key] if _digest(o.path) == _digest(image.path)), None)
        if same is None:
            first[key].append(image)
            kept.append(image)
        else:
            copies.append(LeftOut(path=image.path, why=f"a copy of {same.path}"))
    return kept, copies


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _refuse_mixtures(root: Path, stacks: Sequence[Stack]) -> None:
    modalities = sorted({stack.header.modality for stack in stacks})
    if len(modalities) > 1:
        raise HyfreeError(
            "import.mixed-modalities",
            f"{root}: has series of {', '.join(modalities)}; import one modality at a time",
        )
    for what, is_one in (
        ("a colour image", lambda s: s.header.colour),
        ("a single picture", lambda s: len(s.planes) == 1),
    ):
        one = next((stack for stack in stacks if is_one(stack)), None)
        other = next((stack for stack in stacks if not is_one(stack)), None)
        if one is not None and other is not None:
            raise HyfreeError(
                "import.mixed-kinds",
                f"{one.files[0]}: {what}, and {other.files[0]} is none; import them apart",
            )


def _labels_of(found: _Found) -> dict[tuple[Plane, ...], list[LabelFile]]:
    """Return the label files of each volume; those that have none are left out."""
    drawn: dict[tuple[Plane, ...], list[LabelFile]] = defaultdict(list)
    for header in found.labels:
        label = read_label_file(header)
        stack, why = (
            (None, "no structures in it that can be read")
            if label is None
            else stack_for(label, found.stacks)
        )
        if label is None or stack is None:
            found.left_out.append(LeftOut(path=header.path, why=f"{header.modality}: {why}"))
        else:
            drawn[stack.planes].append(label)
            if header.modality == "SEG" and not lies_on(header.planes, stack):
                found.notes.append(
                    f"{header.path}: lies on another grid than its series: each voxel is what the"
                    " nearest pixel of the segmentation is"
                )
    return drawn


def _cases(
    stacks: Sequence[Stack],
    patients: Sequence[str],
    drawn: dict[tuple[Plane, ...], list[LabelFile]],
) -> tuple[list[SourceCase], dict[str, Stack]]:
    by_name: dict[str, Stack] = {}
    cases = []
    for number, (stack, patient) in enumerate(zip(stacks, patients, strict=True), start=1):
        name = f"{'series' if len(stack.planes) > 1 else 'image'}_{number:04d}"
        by_name[name] = stack
        cases.append(
            SourceCase(
                name=name,
                site="here",
                patient=patient,
                images=stack.files,
                masks=tuple(label.header.path for label in drawn.get(stack.planes, ())),
            )
        )
    return cases, by_name


def _images(stack: Stack) -> list[Image]:
    """Read a volume, or a picture of one channel or three."""
    if len(stack.planes) > 1:
        return read_volume(stack)
    pixels = read_plane(stack.planes[0])
    images = []
    for channel_HW in np.moveaxis(pixels, -1, 0) if pixels.ndim == 3 else [pixels]:
        whole = (channel_HW == np.round(channel_HW)).all()
        images.append(_picture(channel_HW.astype(np.int32 if whole else np.float32), stack))
    return images


def _picture(pixels_HW: np.ndarray, stack: Stack) -> Image:
    image = itk.GetImageFromArray(pixels_HW)
    image.SetSpacing((stack.planes[0].spacing or (1.0, 1.0))[::-1])
    return image


def _label(
    stack: Stack, labels: Sequence[LabelFile], values: dict[str, int], *, painted: bool
) -> Image:
    """Read the label map of a volume or picture."""
    label_ZHW = read_label_map(labels, stack, values, painted=painted)
    if len(stack.planes) > 1:
        return place_volume(label_ZHW, stack, order=0)
    return _picture(label_ZHW[0], stack)


def _notes(stacks: Sequence[Stack]) -> list[str]:
    """Say how series were divided, and which volumes were set upright."""
    parts: dict[tuple[str, str, str], list[Stack]] = defaultdict(list)
    for stack in stacks:
        parts[stack.header.patient_id, stack.header.study, stack.header.series].append(stack)
    notes = [
        f"{members[0].files[0]}: its series holds {len(members)} volumes, told apart by"
        f" {members[0].split_by or members[-1].split_by}"
        for members in parts.values()
        if len(members) > 1 and any(stack.split_by for stack in members)
    ]
    shared = defaultdict(set)
    for patient, study, series in parts:
        shared[series].add((patient, study))
    notes += [
        f"one SeriesInstanceUID is shared by {len(owners)} patients or studies: divided by them"
        for owners in shared.values()
        if len(owners) > 1
    ]
    volumes = [stack for stack in stacks if len(stack.planes) > 1]
    notes += [
        f"{stack.files[0]}: a tilted gantry: its slices were set upright by interpolation"
        for stack in volumes
        if is_tilted(stack)
    ]
    unknown = [stack for stack in stacks if len(stack.planes) == 1 and not stack.planes[0].spacing]
    if unknown:
        notes.append(
            f"{unknown[0].files[0]}: {len(unknown)} pictures have no pixel spacing: 1 mm is written"
        )
    return notes


def _refuse_unknown(classes: Classes | None, names: Sequence[str]) -> None:
    known = {key_of(name) for name in names}
    for one in classes.named if classes else ():
        if not known & set(one.keys):
            raise HyfreeError(
                "import.bad-labels",
                f"--classes: no structure is called {one.name!a}; there are"
                f" {', '.join(sorted(known)) or 'none'}",
            )


def _shown_names(
    classes: Classes | None, names: Sequence[str], values: dict[str, int]
) -> dict[str, str]:
    """Return each label's name with the structures that it was read from, by value."""
    if classes is not None:
        return {one.name: " + ".join(one.keys) for one in classes.named}
    spelled = {key_of(name): name.strip() for name in reversed(list(names))}
    return {key: f"structure {spelled[key]!a}" for key in values}


def _people(stacks: Sequence[Stack]) -> tuple[str, ...]:
    """Return the parts of patients' names and numbers, which stay out of what is written."""
    parts: set[str] = set()
    for stack in stacks:
        words = re.split(r"[\^=|, ]+", f"{stack.header.person}|{stack.header.patient_id}")
        parts |= {word.casefold() for word in words if len(word) > 2}
    return tuple(sorted(parts, key=len, reverse=True))
