"""The checks of a data set's files: each whole, on one grid, of one kind, and not a copy."""

from __future__ import annotations

from collections.abc import Sequence

from hyfree_ray.cohorts.checks import CaseFiles, Facts, Files, Problem, dims
from hyfree_ray.cohorts.grids import is_turned
from hyfree_ray.cohorts.image_facts import (
    ELSEWHERE,
    NO_PERMISSION,
    NOT_A_FILE,
    NOT_FINITE,
    FileFacts,
)
from hyfree_ray.cohorts.image_reading import (
    ENDS_EARLY,
    MAX_PIXELS,
    MAX_VOXELS,
    NATURAL_ENDINGS,
    NIBABEL_IO,
    NO_SPACING,
    SHEARED,
    TOO_LARGE,
    UNREADABLE,
)

_GRID_VALUES_2D = 6
"""Number of values of a 2D grid: two of the origin, four of the directions."""

_FAULTS = {
    NOT_A_FILE: ("data.not-found", "nnU-Net needs a regular file: put the image itself here"),
    NO_PERMISSION: ("data.no-permission", "give this user the right to read it"),
    ENDS_EARLY: ("data.cut-short", "copy or export it again"),
    NO_SPACING: (
        "data.no-spacing",
        "readers take 1 mm for it: write the distances of its voxels into its header",
    ),
    ELSEWHERE: (
        "data.detached",
        "its header names a file outside its folder; save header and pixels as one file",
    ),
    SHEARED: (
        "data.sheared",
        "ITK reads no shear: resample it to an upright grid, or set overwrite_image_reader_writer"
        " to NibabelIO, which reads the voxels as they are",
    ),
    UNREADABLE: (
        "data.unreadable",
        "it is damaged, or not in the format of its file ending; export it again",
    ),
    TOO_LARGE: (
        "data.too-large",
        f"the limit is {MAX_PIXELS >> 20} million pixels for a slice and"
        f" {MAX_VOXELS >> 20} million for a volume; check its header",
    ),
    NOT_FINITE: ("data.not-finite", "replace them with finite numbers"),
    "grey with transparency": (
        "data.channels",
        "nnU-Net reads grey, RGB or RGBA: save it without transparency",
    ),
    "animated": ("data.animated", "save a single frame as PNG"),
    "hidden content": (
        "data.hidden-content",
        "it carries text, a profile or other data besides the image; save the image alone",
    ),
}
"""The code of each fault of a file, and how to fix it."""


def check_files(facts: Facts) -> list[Problem]:
    """Check each file by itself: readable, whole, of sensible size, finite."""
    problems = [
        Problem(code=code, where=path, what=f"{fault} ({fact.why})" if fact.why else fault, fix=fix)
        for fault, (code, fix) in _FAULTS.items()
        for path, fact in facts.items()
        if fact.fault == fault
    ]
    return problems + [
        Problem(
            code="data.reader-says",
            where=path,
            what=fact.said[0],
            fix="check its header",
            fatal=False,
        )
        for path, fact in facts.items()
        if fact.said
    ]


def check_axes(facts: Facts, ending: str, reader: str) -> list[Problem]:
    """Check that images have two axes and volumes three, as nnU-Net's `reader` requires.

    NibabelIO accepts an image only if it is stored as a volume of one slice.
    """
    problems = []
    allowed = (2,) if ending in NATURAL_ENDINGS else (2, 3)
    fix = (
        "volumes must be NIfTI, NRRD or MetaImage: convert them"
        if ending in NATURAL_ENDINGS
        else "split it into 2D images or 3D volumes, one file per channel"
    )
    for path, fact in facts.items():
        if fact.fault:
            continue
        if len(fact.shape) not in allowed:
            what = f"{dims(fact.shape)} pixels on {len(fact.shape)} axes"
            problems.append(Problem(code="data.axes", where=path, what=what, fix=fix))
        elif reader == NIBABEL_IO and len(fact.place) == _GRID_VALUES_2D:
            what = "two axes, but nnU-Net expects a volume here"
            flat = "save it as a volume of one slice, or set overwrite_image_reader_writer to"
            problems.append(
                Problem(code="data.axes", where=path, what=what, fix=f"{flat} SimpleITKIO")
            )
    return problems


def check_channels(files: Files, facts: Facts, ending: str, channels: int) -> list[Problem]:
    """Check for one file per channel, or (as nnU-Net's NaturalImage2DIO reads) one file with
    all."""
    problems = []
    for case in files:
        if any(facts[path].fault for path in (*case.images, case.label)):
            continue
        numbers = [path.removesuffix(ending)[-4:] for path in case.images]
        held = [facts[path].channels for path in case.images]
        one_each = numbers == [f"{k:04d}" for k in range(channels)] and set(held) == {1}
        all_in_one = ending in NATURAL_ENDINGS and numbers == ["0000"] and held == [channels]
        if not one_each and not all_in_one:
            have = ", ".join(f"_{n} with {k}" for n, k in zip(numbers, held, strict=True))
            problems.append(
                Problem(
                    code="data.channels",
                    where=case.images[0],
                    what=f"dataset.json names {channels} channels, the case has {have}",
                    fix="provide one file per channel (_0000, _0001, ...) or correct channel_names",
                )
            )
        if facts[case.label].channels != 1:
            what, fix = "a label must have one channel", "save it as a greyscale image"
            problems.append(
                Problem(code="data.label-channels", where=case.label, what=what, fix=fix)
            )
    return problems


def check_geometry(files: Files, facts: Facts) -> list[Problem]:
    """Check that each case lies on one grid and that all cases are images, or all volumes."""
    resized, respaced, turned, moved = [], [], [], []
    for case in files:
        first = facts[case.images[0]]
        for path in (*case.images[1:], case.label):
            fact = facts[path]
            if first.fault or fact.fault:
                continue
            if fact.shape != first.shape:
                resized.append(_differs("size", path, fact.shape, case.images[0], first.shape))
            elif not _close(first.spacing, fact.spacing):
                respaced.append(
                    _differs("spacing", path, fact.spacing, case.images[0], first.spacing)
                )
            elif is_turned(fact.place, first.place):
                turned.append(_turned(path, case.images[0]))
            elif not _same_place(first, fact):
                moved.append(
                    Problem(
                        code="data.place",
                        where=path,
                        what=f"origin or direction differs from {case.images[0]}",
                        fix="nnU-Net ignores them: check that the pixels match",
                        fatal=False,
                    )
                )
    return resized + respaced + turned + _flat_cases(files, facts) + moved


def _turned(path: str, image: str) -> Problem:
    return Problem(
        code="data.turned",
        where=path,
        what=f"by their headers it is mirrored or turned against {image}",
        fix="nnU-Net pairs voxels by their order and ignores headers: save both in one orientation",
    )


def _flat_cases(files: Files, facts: Facts) -> list[Problem]:
    axes = {case.images[0]: len(facts[case.images[0]].shape) for case in files}
    if not {2, 3} <= set(axes.values()):
        return []
    return [
        Problem(
            code="data.images-and-volumes",
            where=path,
            what="a 2D image among volumes",
            fix="use either 2D images or volumes",
        )
        for path, number in axes.items()
        if number == 2
    ]


def check_copies(files: Files, facts: Facts) -> list[Problem]:
    """Refuse an image under two patients: it would be in both training and test."""
    first: dict[tuple[str, ...], CaseFiles] = {}
    problems = []
    for case in files:
        content = tuple(facts[path].content for path in case.images)
        # A constant image does not identify a patient.
        if case.row is None or not all(content) or all(facts[p].sd == 0 for p in case.images):
            continue
        other = first.setdefault(content, case)
        assert other.row is not None
        if other.row.patient != case.row.patient:
            same = case.row.site == other.row.site
            where = "another patient" if same else f"site {other.row.site}"
            problems.append(
                Problem(
                    code="data.copied-image",
                    where=case.images[0],
                    what=f"the same image as {other.images[0]}, of {where}",
                    fix="duplicates leak from training into test: remove one, or merge patients",
                )
            )
    return problems


def check_constant(files: Files, facts: Facts) -> list[Problem]:
    """Report images of one value, which show nothing: mostly a broken export."""
    return [
        Problem(
            code="data.constant-image",
            where=case.images[0],
            what="all its pixels have the same value",
            fix="it will be trained on as it is: check the export, or remove it",
            fatal=False,
        )
        for case in files
        if all(facts[path].content and facts[path].sd == 0 for path in case.images)
    ]


def _differs(
    what: str, path: str, own: Sequence[float], image: str, its: Sequence[float]
) -> Problem:
    return Problem(
        code="data.size-differs" if what == "size" else "data.spacing-differs",
        where=path,
        what=f"{what} {dims(own)} differs from {dims(its)} of {image}",
        fix="resample them to one grid",
    )


def _close(one: Sequence[float], other: Sequence[float], *, tolerance: float = 0.0) -> bool:
    """Return whether numbers are equal to a thousandth, or (in mm) to `tolerance`."""
    pairs = zip(one, other, strict=True)
    return all(abs(a - b) <= max(1e-3 * abs(a), tolerance) for a, b in pairs)


def _same_place(one: FileFacts, other: FileFacts) -> bool:
    # One slice stored as a volume has more numbers than an image: they are not compared.
    known = len(one.place) == len(other.place)
    return not known or _close(one.place, other.place, tolerance=0.1)
