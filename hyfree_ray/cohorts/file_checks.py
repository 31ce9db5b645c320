"""The checks of a data set's files: each whole, on one grid, of one kind, and not a copy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import median

from hyfree_ray.cohorts.checks import CaseFiles, Facts, Files, Problem, dims
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
    SHEARED,
    TOO_LARGE,
    UNREADABLE,
)
from hyfree_ray.cohorts.slices import PLAN_NEEDS, can_be_planned, slice_axis

OUTLIER_FACTOR = 3.0
"""A spacing is an outlier if it is this many times its site's median, or that fraction of it."""

HUGE_VOXELS = 1 << 28
"""Voxels of a volume that a machine is likely not to hold several times in memory."""

_GRID_VALUES_2D = 6
"""Number of values of a 2D grid: two of the origin, four of the directions."""

_FAULTS = {
    NOT_A_FILE: ("data.not-found", "nnU-Net needs a regular file: put the image itself here"),
    NO_PERMISSION: ("data.no-permission", "give this user the right to read it"),
    ENDS_EARLY: ("data.cut-short", "copy or export it again"),
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
    resized, respaced, moved = [], [], []
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
    return resized + respaced + _flat_cases(files, facts) + moved


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


def check_spacings(files: Files, facts: Facts) -> list[Problem]:
    """Report outliers of the spacing; refuse sites that are cut along different axes."""
    by_site: dict[str, list[str]] = defaultdict(list)
    for case in files:
        if case.row is not None and facts[case.images[0]].spacing:
            by_site[case.row.site].append(case.images[0])
    outliers, axes = [], {}
    for site, paths in sorted(by_site.items()):
        spacings = {path: facts[path].spacing for path in paths}
        lengths = {len(spacing) for spacing in spacings.values()}
        if lengths == {3}:
            axes[site] = slice_axis(list(spacings.values()))
        if len(lengths) == 1:  # a mixture of images and volumes is refused elsewhere
            outliers += _outliers(site, spacings)
    return _different_axes(axes) + outliers


def _outliers(site: str, spacings: Mapping[str, tuple[float, ...]]) -> list[Problem]:
    usual = [median(steps) for steps in zip(*spacings.values(), strict=True)]
    return [
        Problem(
            code="data.spacing-outlier",
            where=path,
            what=f"spacing {dims(spacing)} mm, the median of {site} is {dims(usual)}",
            fix="check its header",
            fatal=False,
        )
        for path, spacing in spacings.items()
        if any(
            not 1 / OUTLIER_FACTOR <= step / middle <= OUTLIER_FACTOR
            for step, middle in zip(spacing, usual, strict=True)
            if middle > 0
        )
    ]


def _different_axes(axes: Mapping[str, int]) -> list[Problem]:
    first = next(iter(axes), "")
    return [
        Problem(
            code="data.slice-axes-differ",
            where=site,
            what=f"its volumes are sliced along axis {axis}, those of {first} along axis"
            f" {axes[first]}",
            fix="permute the axes of one of them: a model is trained on slices of one orientation",
        )
        for site, axis in axes.items()
        if axis != axes[first]
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


def check_sizes(files: Files, facts: Facts) -> list[Problem]:
    """Refuse sites whose images are too small in plane to train on; report volumes of odd size.

    nnU-Net plans on the median: single images that are smaller are padded.
    """
    by_site: dict[str, list[str]] = defaultdict(list)
    for case in files:
        if case.row is not None and len(facts[case.images[0]].shape) in (2, 3):
            by_site[case.row.site].append(case.images[0])
    problems, odd = [], []
    for site, paths in by_site.items():
        spacings = [facts[path].spacing for path in paths if len(facts[path].shape) == 3]
        axis = slice_axis(spacings)
        planes = []
        for path in paths:
            shape = facts[path].shape
            planes.append([n for k, n in enumerate(shape) if len(shape) == 2 or k != axis])
            if len(shape) == 3:
                odd += _odd_volume(path, shape, shape[axis])
        plane = [median(sides) for sides in zip(*planes, strict=True)]
        if not can_be_planned(plane):
            problems.append(_too_small(site, paths[0], plane))
    return problems + odd


def _too_small(site: str, path: str, plane: Sequence[float]) -> Problem:
    return Problem(
        code="data.too-small",
        where=path,
        what=f"{dims(plane)} pixels in plane is the median of {site}; {PLAN_NEEDS}",
        fix="use larger images, or permute the axes if volumes are cut along another",
    )


def _odd_volume(path: str, shape: Sequence[int], slices: int) -> list[Problem]:
    voxels = 1
    for length in shape:
        voxels *= length
    if slices == 1:
        what, fix = "a volume of one slice", "check that the rest of it was exported"
    elif voxels > HUGE_VOXELS:
        what = (
            f"{voxels / 1e6:.0f} million voxels, {4 * voxels / 2**30:.1f} GiB each time it is read"
        )
        fix = "crop or resample it if that is more than the machine has"
    else:
        return []
    return [Problem(code="data.odd-volume", where=path, what=what, fix=fix, fatal=False)]


def check_bits(files: Files, facts: Facts, *, by_site: bool) -> list[Problem]:
    """Refuse pictures of 8 and of 16 bits at one site: one scale of intensities cannot fit both."""
    first: dict[str, str] = {}
    problems = []
    for case in files:
        path = case.images[0]
        if case.row is None or facts[path].spacing or facts[path].fault or not facts[path].bits:
            continue
        other = first.setdefault(case.row.site if by_site else "", path)
        if facts[other].bits != facts[path].bits:
            problems.append(
                Problem(
                    code="data.bits-differ",
                    where=path,
                    what=f"{facts[path].bits} bits a pixel, {other} has {facts[other].bits}",
                    fix="save all images of a site with the same bits and the same scale",
                )
            )
    return problems
