"""The checks of a site's files against each other: sizes, spacings, bits and intensities."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import median

from hyfree_ray.cohorts.checks import Facts, Files, Problem, dims
from hyfree_ray.cohorts.slices import PLAN_NEEDS, can_be_planned, slice_axis

OUTLIER_FACTOR = 3.0
"""A spacing is an outlier if it is this many times its site's median, or that fraction of it."""

OTHER_SCALE = 8.0
"""Times by which the spread of an image's intensities differs from what is usual at its site."""

HUGE_VOXELS = 1 << 28
"""Voxels of a volume that a machine is likely not to hold several times in memory."""


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


def check_scales(files: Files, facts: Facts) -> list[Problem]:
    """Report images whose intensities spread far more or less than is usual at their site.

    A generator sees all images of a site on one scale: what spreads little looks flat to it.
    """
    by_site: dict[str, list[str]] = defaultdict(list)
    for case in files:
        if case.row is not None and facts[case.images[0]].sd > 0:
            by_site[case.row.site].append(case.images[0])
    problems = []
    for site, paths in sorted(by_site.items()):
        usual = median(facts[path].sd for path in paths)
        problems += [
            Problem(
                code="data.intensity-outlier",
                where=path,
                what=f"its intensities spread by {facts[path].sd:.3g} about their mean, those of"
                f" {site} usually by {usual:.3g}",
                fix="one scale cannot fit both: check its units, bits and padding",
                fatal=False,
            )
            for path in paths
            if not 1 / OTHER_SCALE <= facts[path].sd / usual <= OTHER_SCALE
        ]
    return problems
