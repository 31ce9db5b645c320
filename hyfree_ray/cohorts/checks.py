"""The checks of a data set: each a function of its tables and of facts about its files.

`hyfree-ray check` prints all problems, `read_cohort` raises the first kind: both use these.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from hyfree_ray.cohorts.image_facts import MAX_PIXELS, MAX_VOXELS, NATURAL_ENDINGS, FileFacts
from hyfree_ray.cohorts.label_sets import IGNORE, Labels, class_values, foreground
from hyfree_ray.cohorts.slices import slice_axis
from hyfree_ray.cohorts.tables import Row

FOLDS = 5

OUTLIER_FACTOR = 3.0
"""A spacing is an outlier if it is this many times its site's median, or that fraction of it."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A fault of a data set, and how to fix it."""

    code: str
    """One of `core.error_codes.CODES`."""
    where: str
    """A file, a line of a table, or a site. Patients are not named: cases are."""
    what: str
    fix: str
    fatal: bool = True
    """Whether nothing can be trained before it is fixed."""

    def line(self, others: int = 0) -> str:
        """Format as one line, with the number of others of its kind."""
        more = f" (and {others} more)" if others else ""
        line = f"{self.where}: {self.what}{more}; {self.fix}"
        return line if line.isprintable() else ascii(line)[1:-1]


@dataclass(frozen=True, kw_only=True)
class CaseFiles:
    """A case's files, and its row of `sites.csv` if that could be read."""

    name: str
    images: tuple[str, ...]
    label: str
    row: Row | None = None


_GRID_VALUES_2D = 6
"""Number of values of a 2D grid: two of the origin, four of the directions."""

Files = Sequence[CaseFiles]
Facts = Mapping[str, FileFacts]


def check_patients(rows: Sequence[Row], *, fill_folds: bool) -> list[Problem]:
    """Check that each patient is at one site and each site has enough patients."""
    first_site: dict[str, str] = {}
    problems = [
        Problem(
            code="data.patient-in-two-sites",
            where=f"sites.csv, line {row.line}",
            what=f"the patient of case {row.case} ({row.site}) is also in site"
            f" {first_site[row.patient]}",
            fix="assign each patient to one site, or give different people different names",
        )
        for row in rows
        if first_site.setdefault(row.patient, row.site) != row.site
    ]
    patients: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        patients[row.site].add(row.patient)
    return problems + [
        Problem(
            code="data.too-few-patients",
            where=site,
            what=f"{len(patients[site])} patients cannot fill {FOLDS} folds",
            fix="merge it with another site or leave it out",
        )
        for site in sorted(patients)
        if fill_folds and len(patients[site]) < FOLDS
    ]


def check_pairs(
    images: Mapping[str, tuple[str, ...]], labels: Mapping[str, str], ending: str
) -> list[Problem]:
    """Check that every image has its label and every label its image."""
    return [
        Problem(
            code="data.no-label",
            where=images[case][0],
            what=f"no label {case}{ending} in labelsTr",
            fix="add the label or remove the image",
        )
        for case in sorted(images.keys() - labels.keys())
    ] + [
        Problem(
            code="data.no-image",
            where=labels[case],
            what=f"no image {case}_0000{ending} in imagesTr",
            fix="add the image or remove the label",
        )
        for case in sorted(labels.keys() - images.keys())
    ]


def check_listed(rows: Sequence[Row], images: Mapping[str, object]) -> list[Problem]:
    """Check that every case of `sites.csv` is there."""
    return [
        Problem(
            code="data.no-image",
            where=f"sites.csv, line {row.line}",
            what=f"case {ascii(row.case)[1:-1]} has no image in imagesTr",
            fix="add the image or remove the row",
        )
        for row in rows
        if row.case not in images
    ]


def check_files(facts: Facts) -> list[Problem]:
    """Check each file by itself: readable, of sensible size, finite."""
    kinds = {
        "not a file": ("data.not-found", "nnU-Net needs a regular file: put the image itself here"),
        "unreadable": (
            "data.unreadable",
            "it is damaged, or not in the format of its file ending; export it again",
        ),
        "too large": (
            "data.too-large",
            f"the limit is {MAX_PIXELS >> 20} million pixels for a slice and"
            f" {MAX_VOXELS >> 20} million for a volume; check its header",
        ),
        "NaN or infinite pixels": ("data.not-finite", "replace them with finite numbers"),
        "animated": ("data.animated", "save a single frame as PNG"),
        "hidden content": (
            "data.hidden-content",
            "it carries text, a profile or other data besides the image; save the image alone",
        ),
    }
    return [
        Problem(code=code, where=path, what=fault, fix=fix)
        for fault, (code, fix) in kinds.items()
        for path, fact in facts.items()
        if fact.fault == fault
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
            what = f"{_dims(fact.shape)} pixels on {len(fact.shape)} axes"
            problems.append(Problem(code="data.axes", where=path, what=what, fix=fix))
        elif reader == "NibabelIO" and len(fact.place) == _GRID_VALUES_2D:
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


def check_label_values(files: Files, facts: Facts, labels: Labels) -> list[Problem]:
    """Check for whole numbers that `dataset.json` names; count masks without any of them."""
    known = class_values(labels) | ({labels[IGNORE]} if IGNORE in labels else set())
    fractional, strange, empty = [], [], []
    for case in files:
        fact = facts[case.label]
        if fact.fault:
            continue
        if fact.values is None:
            what = "label values are not whole numbers"
            fix = "store the classes as integers"
            fractional.append(
                Problem(code="data.fractional-labels", where=case.label, what=what, fix=fix)
            )
        elif not known.issuperset(fact.values):
            value = min(set(fact.values) - known)
            what = f"label value {value} is not in dataset.json ({_join(sorted(known))})"
            strange.append(
                Problem(
                    code="data.unknown-labels",
                    where=case.label,
                    what=what,
                    fix="correct one of them",
                )
            )
        elif fact.values == (0,):
            what = "an empty mask"
            fix = "correct if there is nothing to label; otherwise draw it"
            empty.append(
                Problem(code="data.empty-mask", where=case.label, what=what, fix=fix, fatal=False)
            )
    return fractional + strange + empty


def check_structures(files: Files, facts: Facts, labels: Labels) -> list[Problem]:
    """Refuse sites that label different structures: an absent label does not prove absence."""
    found: dict[str, set[int]] = defaultdict(set)
    for case in files:
        if case.row is not None:
            found[case.row.site] |= set(facts[case.label].values or ())
    everywhere = set().union(*found.values())
    problems = []
    for site in sorted(found):
        lacking = [
            name
            for name, classes in foreground(labels).items()
            if everywhere & set(classes) and not found[site] & set(classes)
        ]
        if lacking and found[site]:
            others = [other for other in sorted(found) if _has(labels, lacking[0], found[other])]
            problems.append(
                Problem(
                    code="data.structures-differ",
                    where=site,
                    what=f"none of its masks has {_join(lacking)}, which {others[0]} labels",
                    fix="all sites must label the same structures: label it, leave the site out,"
                    " or remove the label from dataset.json",
                )
            )
    return problems


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
            what=f"spacing {_dims(spacing)} mm, the median of {site} is {_dims(usual)}",
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
        what=f"{what} {_dims(own)} differs from {_dims(its)} of {image}",
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


def _has(labels: Labels, name: str, values: set[int]) -> bool:
    return bool(values & set(foreground(labels)[name]))


def _dims(numbers: Sequence[float]) -> str:
    return "x".join(f"{number:g}" for number in numbers)


def _join(names: Sequence[object]) -> str:
    return ", ".join(str(name) for name in names)
