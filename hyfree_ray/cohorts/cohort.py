"""A cohort: an nnU-Net raw data set plus `sites.csv`, read and checked before anything runs."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hyfree_ray.cohorts.checks import (
    FOLDS,
    CaseFiles,
    Problem,
    check_alike,
    check_listed,
    check_pairs,
    check_patients,
    check_rounded,
)
from hyfree_ray.cohorts.file_checks import (
    check_axes,
    check_channels,
    check_constant,
    check_copies,
    check_files,
    check_geometry,
)
from hyfree_ray.cohorts.image_facts import FileFacts, gather_facts
from hyfree_ray.cohorts.label_checks import check_label_values, check_shares, check_structures
from hyfree_ray.cohorts.raw_files import case_of, check_unicode_forms, file_names
from hyfree_ray.cohorts.site_checks import check_bits, check_scales, check_sizes, check_spacings
from hyfree_ray.cohorts.tables import (
    Row,
    check_site_names,
    cohort_name,
    composed,
    read_dataset_json,
    read_description,
    read_sites_csv,
    reader_of,
    rows_of_cases,
)
from hyfree_ray.core.errors import HyfreeError

_Read = TypeVar("_Read")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One image and its label."""

    name: str
    patient: str
    images: tuple[str, ...]
    """Paths relative to the cohort's root: one per channel, or one file that holds all channels."""
    label: str
    digest: str
    """sha256 over the file digests of the images and of the label."""
    shape: tuple[int, ...] = ()
    """(height, width) or (slices, height, width); empty: a 2D image of unknown size."""
    spacing: tuple[float, ...] = ()
    """mm, in the order of `shape`; empty for formats without spacing."""
    intensity: tuple[float, float] = (0.0, 0.0)
    """Mean and standard deviation of the first channel."""
    label_pixels: tuple[tuple[int, int], ...] = ()
    """Label values with the number of pixels of each."""
    columns: tuple[tuple[str, str], ...] = ()
    """Further columns of `sites.csv`: name and cell."""


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """A checked data set: its cases by site, sorted."""

    name: str
    root: Path
    channel_names: tuple[str, ...]
    labels: dict[str, Any]
    """As `label_sets` reads them."""
    file_ending: str
    sites: Mapping[str, tuple[Case, ...]]
    dataset_json: dict[str, Any]
    left_out: int = 0
    """Cases in `imagesTr` but not in `sites.csv`, which take no part."""
    notes: tuple[Problem, ...] = ()
    """Warnings about the data that stop nothing."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """A site's cases by purpose; no patient is in two parts."""

    train: tuple[Case, ...]
    val: tuple[Case, ...]
    test: tuple[Case, ...]


@dataclass(frozen=True, kw_only=True)
class Survey:
    """The result of reading a data set."""

    problems: tuple[Problem, ...]
    cohort: Cohort | None
    """None if one of the problems is fatal."""


def survey(
    root: Path,
    *,
    digest_cache: Path | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Survey:
    """Read a data set and find all its problems.

    Args:
        root: holds `imagesTr`, `labelsTr`, `dataset.json` and `sites.csv`.
        digest_cache: as in `read_cohort`.
        report: called with (files read, files in all).
    """
    reading = _Reading(root, digest_cache, own_sites=True, report=report)
    problems = tuple(problem for step in reading.steps() for problem in step)
    fatal = any(problem.fatal for problem in problems)
    return Survey(problems=problems, cohort=None if fatal else reading.cohort())


def read_cohort(
    root: Path,
    *,
    digest_cache: Path | None = None,
    own_sites: bool = True,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Cohort:
    """Read and check an nnU-Net raw data set of images or volumes with its `sites.csv`.

    Args:
        root: holds `imagesTr`, `labelsTr`, `dataset.json` and `sites.csv` (case, site, patient).
        digest_cache: JSON file with facts about the files; read, and written atomically.
        own_sites: refuse sites of fewer than five patients, or that do not match each other. Off
            only if a partition is about to replace the sites.
        report: called with (files read, files in all).

    Raises:
        HyfreeError: the first kind of problem found, with its first case and the number of others.
    """
    reading = _Reading(root, digest_cache, own_sites=own_sites, report=report)
    for step in reading.steps():
        reading.notes += [problem for problem in step if not problem.fatal]
        fatal = [problem for problem in step if problem.fatal]
        if fatal:
            others = sum(problem.code == fatal[0].code for problem in fatal) - 1
            raise HyfreeError(fatal[0].code, fatal[0].line(others))
    return reading.cohort()


_NO_TABLE = Problem(
    code="data.no-table",
    where="sites.csv",
    what="there is none: each case counts as a patient",
    fix="where a patient has several cases, list them ('check --write-sites' writes a template)",
    fatal=False,
)


class _Reading:
    """A reading of a data set, step by step: later steps leave out what an earlier one cannot
    read."""

    def __init__(
        self,
        root: Path,
        cache: Path | None,
        *,
        own_sites: bool,
        report: Callable[[int, int], None],
    ) -> None:
        self.root = root
        self.cache = cache
        self.own_sites = own_sites
        self.report = report
        self.dataset: dict[str, Any] | None = None
        self.description: tuple[tuple[str, ...], dict[str, Any], str] | None = None
        self.rows: list[Row] | None = None
        self.images: dict[str, tuple[str, ...]] = {}
        self.labels: dict[str, str] = {}
        self.files: list[CaseFiles] = []
        self.facts: dict[str, FileFacts] = {}
        self.notes: list[Problem] = []
        self.reader = ""
        self.each_a_patient = False

    def steps(self) -> Iterator[list[Problem]]:
        """Yield the problems that each step finds, the cheap steps first."""
        if not self.root.is_dir():
            fix = "name the folder that holds dataset.json"
            yield [
                Problem(code="data.not-found", where=str(self.root), what="no such folder", fix=fix)
            ]
            return
        yield self._read_tables()
        if self.rows is not None:
            yield check_rounded(self.rows)
            yield check_patients(self.rows, fill_folds=self.own_sites)
            yield check_alike(self.rows)
        if self.description is None:
            return
        channel_names, labels, ending = self.description
        problems = self._pair_files(ending)
        yield problems
        if any(problem.code == "data.not-found" for problem in problems):
            return
        if self.each_a_patient:
            self.rows = rows_of_cases(self.images)
            yield [_NO_TABLE]
        if self.rows is not None:
            yield check_listed(self.rows, self.images)
        self.reader = reader_of(self.dataset or {}, ending)
        self._gather_facts(ending)
        yield check_files(self.facts)
        yield check_axes(self.facts, ending, self.reader)
        yield check_channels(self.files, self.facts, ending, len(channel_names))
        yield check_geometry(self.files, self.facts)
        yield check_label_values(self.files, self.facts, labels)
        yield check_copies(self.files, self.facts)
        yield check_constant(self.files, self.facts)
        yield check_sizes(self.files, self.facts)
        yield check_bits(self.files, self.facts, by_site=self.own_sites)
        if self.own_sites:
            yield check_structures(self.files, self.facts, labels)
            yield check_spacings(self.files, self.facts)
            yield check_scales(self.files, self.facts)
            yield check_shares(self.files, self.facts, labels)

    def cohort(self) -> Cohort:
        """Return the data set if no problem was fatal."""
        assert self.dataset is not None
        assert self.description is not None
        channel_names, labels, ending = self.description
        sites: dict[str, list[Case]] = defaultdict(list)
        for case in sorted(self.files, key=lambda case: case.name):
            assert case.row is not None
            sites[case.row.site].append(_described(case, case.row, self.facts))
        return Cohort(
            name=cohort_name(self.dataset, self.root),
            root=self.root,
            channel_names=channel_names,
            labels=labels,
            file_ending=ending,
            sites={site: tuple(sites[site]) for site in sorted(sites)},
            dataset_json=self.dataset,
            left_out=len(self.images) - len(self.files),
            notes=tuple(self.notes),
        )

    def _read_tables(self) -> list[Problem]:
        problems: list[Problem] = []
        self.dataset = _collect(problems, lambda: read_dataset_json(self.root / "dataset.json"))
        if self.dataset is not None:
            dataset = self.dataset
            self.description = _collect(problems, lambda: read_description(dataset))
        if not self.own_sites and not (self.root / "sites.csv").exists():
            self.each_a_patient = True
            return problems
        self.rows = _collect(problems, lambda: read_sites_csv(self.root / "sites.csv"))
        if self.rows is not None:
            rows = self.rows
            _collect(problems, lambda: check_site_names((row.site for row in rows), "sites.csv"))
        return problems

    def _pair_files(self, ending: str) -> list[Problem]:
        """Find image files (by channel) and label file of each case, relative to the root."""
        problems: list[Problem] = []
        images: dict[str, list[str]] = defaultdict(list)
        for name in _collect(problems, lambda: file_names(self.root / "imagesTr")) or []:
            if case := case_of(name, ending):
                images[case].append(f"imagesTr/{name}")
        self.images = {composed(case): tuple(paths) for case, paths in images.items()}
        self.labels = {
            composed(name.removesuffix(ending)): f"labelsTr/{name}"
            for name in _collect(problems, lambda: file_names(self.root / "labelsTr")) or []
            if name.endswith(ending)
        }
        problems += check_unicode_forms(images)
        return problems or check_pairs(self.images, self.labels, ending)

    def _gather_facts(self, ending: str) -> None:
        rows = None if self.rows is None else {row.case: row for row in self.rows}
        self.files = [
            CaseFiles(
                name=case,
                images=self.images[case],
                label=self.labels[case],
                row=None if rows is None else rows[case],
            )
            for case in (self.images if rows is None else rows)
            if case in self.images and case in self.labels
        ]
        self.facts = gather_facts(
            self.root,
            ending,
            images=[path for case in self.files for path in case.images],
            labels=[case.label for case in self.files],
            cache=self.cache,
            reader=self.reader,
            report=self.report,
        )


def _collect(problems: list[Problem], read: Callable[[], _Read]) -> _Read | None:
    """Return what `read` returns; if it refuses, add its error to the problems and return None."""
    try:
        return read()
    except HyfreeError as error:
        where, _, rest = str(error).partition(": ")
        what, semicolon, fix = rest.rpartition("; ")
        if not semicolon:
            what, fix = rest, "correct it"
        problems.append(Problem(code=error.code, where=where, what=what, fix=fix))
        return None


def _described(case: CaseFiles, row: Row, facts: Mapping[str, FileFacts]) -> Case:
    image, label = facts[case.images[0]], facts[case.label]
    digests = [facts[path].sha256 for path in (*case.images, case.label)]
    return Case(
        name=case.name,
        patient=row.patient,
        images=case.images,
        label=case.label,
        digest=hashlib.sha256("\n".join(digests).encode()).hexdigest(),
        shape=image.shape,
        spacing=image.spacing,
        intensity=(image.mean, image.sd),
        label_pixels=tuple(zip(label.values or (), label.counts, strict=True)),
        columns=row.columns,
    )


def split_fold(cases: Sequence[Case], fold: int) -> Split:
    """Split one site's cases: test = fold `fold`, validation = the next fold, training = the
    others.

    A patient's fold comes from the rank of its name's hash: a new patient moves at most four.
    """
    if not 0 <= fold < FOLDS:
        raise HyfreeError(
            "option.out-of-range", f"--fold {fold}: there are {FOLDS} folds; give 0 to {FOLDS - 1}"
        )
    patients = sorted({case.patient for case in cases}, key=_patient_rank)
    if len(patients) < FOLDS:
        raise HyfreeError(
            "data.too-few-patients",
            f"{len(patients)} patients cannot fill {FOLDS} folds; add patients",
        )
    fold_of = {patient: rank * FOLDS // len(patients) for rank, patient in enumerate(patients)}
    parts: dict[str, list[Case]] = {"train": [], "val": [], "test": []}
    for case in cases:
        part = {0: "test", 1: "val"}.get((fold_of[case.patient] - fold) % FOLDS, "train")
        parts[part].append(case)
    return Split(**{part: tuple(members) for part, members in parts.items()})


def _patient_rank(patient: str) -> tuple[str, str]:
    return (hashlib.sha256(patient.encode()).hexdigest(), patient)
