"""A cohort: an nnU-Net raw data set plus `sites.csv`, read and checked before anything runs."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hyfree_ray.cohort_tables import (
    Row,
    and_more,
    check_site_names,
    cohort_name,
    read_dataset_json,
    read_description,
    read_sites_csv,
)
from hyfree_ray.errors import HyfreeError
from hyfree_ray.image_facts import MAX_PIXELS, NATURAL_ENDINGS, FileFacts, gather_facts
from hyfree_ray.seeds import seed_of

FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class Case:
    """One image and its label."""

    name: str
    patient: str
    images: tuple[str, ...]
    """Paths relative to the cohort's root: one a channel, or one file that holds all channels."""
    label: str
    digest: str
    """sha256 over the file digests of the images and of the label."""


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """A checked data set: its cases by site, sorted."""

    name: str
    root: Path
    channel_names: tuple[str, ...]
    labels: dict[str, int]
    file_ending: str
    sites: Mapping[str, tuple[Case, ...]]
    dataset_json: dict[str, Any]
    left_out: int = 0
    """Cases that are in `imagesTr` but not in `sites.csv`, and so take no part."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """A site's cases by what they are for; no patient is in two parts."""

    train: tuple[Case, ...]
    val: tuple[Case, ...]
    test: tuple[Case, ...]


@dataclass(frozen=True)
class _CaseFiles:
    row: Row
    images: tuple[str, ...]
    label: str

    def described(self, facts: Mapping[str, FileFacts]) -> Case:
        digests = [facts[path].sha256 for path in (*self.images, self.label)]
        return Case(
            name=self.row.case,
            patient=self.row.patient,
            images=self.images,
            label=self.label,
            digest=hashlib.sha256("\n".join(digests).encode()).hexdigest(),
        )


def read_cohort(root: Path, *, digest_cache: Path | None = None, fill_folds: bool = True) -> Cohort:
    """Read and check an nnU-Net raw data set of 2D images with its `sites.csv`.

    Args:
        root: holds `imagesTr`, `labelsTr`, `dataset.json` and `sites.csv` (case, site, patient).
        digest_cache: JSON file with what is known of the files; read, and written atomically.
        fill_folds: refuse sites of fewer than five patients. Off only where the sites are about to
            be replaced by `partition_at_random`.

    Raises:
        HyfreeError: the first kind of problem found, with its first case and how many more.
    """
    if not root.is_dir():
        raise HyfreeError(f"{root}: no such folder; give the folder that holds dataset.json")
    dataset_json = read_dataset_json(root / "dataset.json")
    channel_names, labels, ending = read_description(dataset_json)
    rows = read_sites_csv(root / "sites.csv")
    check_site_names(row.site for row in rows)
    _check_patients(rows, fill_folds=fill_folds)
    images, labels_of = _pair_files(root, ending)
    _check_listed(rows, images)
    files = [_CaseFiles(row, images[row.case], labels_of[row.case]) for row in rows]
    facts = gather_facts(
        root,
        ending,
        images=[path for case in files for path in case.images],
        labels=[case.label for case in files],
        cache=digest_cache,
    )
    _check_files(facts)
    _check_channels(files, facts, ending, len(channel_names))
    _check_geometry(files, facts)
    _check_label_values(files, facts, labels)
    sites: dict[str, list[Case]] = defaultdict(list)
    for case in sorted(files, key=lambda case: case.row.case):
        sites[case.row.site].append(case.described(facts))
    return Cohort(
        name=cohort_name(dataset_json, root),
        root=root,
        channel_names=channel_names,
        labels=labels,
        file_ending=ending,
        sites={site: tuple(sites[site]) for site in sorted(sites)},
        dataset_json=dataset_json,
        left_out=len(images) - len(files),
    )


def partition_at_random(cohort: Cohort, *, sites: int, seed: int) -> Cohort:
    """The same cases in `sites` sites named site-1 to site-N, equal to within one patient.

    Patients stay whole. A patient's place comes from a hash of the seed and the patient's name.
    """
    cases = [case for site in cohort.sites.values() for case in site]
    patients = {case.patient for case in cases}
    if sites < 1:
        raise HyfreeError(f"--sites {sites}: at least one site is needed")
    if sites * FOLDS > len(patients):
        raise HyfreeError(
            f"--sites {sites}: {len(patients)} patients fill at most {len(patients) // FOLDS} sites"
            f" of {FOLDS} patients; ask for fewer sites"
        )
    ranked = sorted(patients, key=lambda patient: (seed_of(seed, "partition", patient), patient))
    site_of = {patient: rank * sites // len(ranked) for rank, patient in enumerate(ranked)}
    width = len(str(sites))
    parts = {
        f"site-{index + 1:0{width}d}": tuple(
            sorted(
                (case for case in cases if site_of[case.patient] == index),
                key=lambda case: case.name,
            )
        )
        for index in range(sites)
    }
    return replace(cohort, sites=parts)


def split_fold(cases: Sequence[Case], fold: int) -> Split:
    """One site's cases: test = fold `fold`, validation = the next fold, training = the others.

    A patient's fold comes from the rank of its name's hash: a new patient moves at most four.
    """
    if not 0 <= fold < FOLDS:
        raise HyfreeError(f"--fold {fold}: there are {FOLDS} folds; give 0 to {FOLDS - 1}")
    patients = sorted({case.patient for case in cases}, key=_patient_rank)
    if len(patients) < FOLDS:
        raise HyfreeError(f"{len(patients)} patients cannot fill {FOLDS} folds; add patients")
    fold_of = {patient: rank * FOLDS // len(patients) for rank, patient in enumerate(patients)}
    parts: dict[str, list[Case]] = {"train": [], "val": [], "test": []}
    for case in cases:
        part = {0: "test", 1: "val"}.get((fold_of[case.patient] - fold) % FOLDS, "train")
        parts[part].append(case)
    return Split(**{part: tuple(members) for part, members in parts.items()})


def _patient_rank(patient: str) -> tuple[str, str]:
    return (hashlib.sha256(patient.encode()).hexdigest(), patient)


def _check_patients(rows: Sequence[Row], *, fill_folds: bool) -> None:
    """Each patient in one site; enough patients a site. Patients are not named: cases are."""
    first_site: dict[str, str] = {}
    moved = [row for row in rows if first_site.setdefault(row.patient, row.site) != row.site]
    if moved:
        row = moved[0]
        raise HyfreeError(
            f"sites.csv, line {row.line}: the patient of case {row.case} ({row.site}) is also in"
            f" site {first_site[row.patient]}{and_more(moved)}; give each patient one site, or"
            " different people different names"
        )
    patients: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        patients[row.site].add(row.patient)
    small = sorted(site for site in patients if len(patients[site]) < FOLDS)
    if fill_folds and small:
        raise HyfreeError(
            f"{small[0]}: {len(patients[small[0]])} patients cannot fill {FOLDS} folds"
            f"{and_more(small)}; merge it with another site or leave it out"
        )


def _file_names(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise HyfreeError(f"{folder}: no such folder; an nnU-Net raw data set has one")
    return sorted(path.name for path in folder.iterdir() if path.name[0] != ".")


def _pair_files(root: Path, ending: str) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Image files (by channel) and label file of each case, relative to the root."""
    pattern = re.compile(rf"(?P<case>.+)_\d{{4}}{re.escape(ending)}", re.DOTALL)
    images: dict[str, list[str]] = defaultdict(list)
    for name in _file_names(root / "imagesTr"):
        if found := pattern.fullmatch(name):
            images[found["case"]].append(f"imagesTr/{name}")
    labels = {
        name.removesuffix(ending): f"labelsTr/{name}"
        for name in _file_names(root / "labelsTr")
        if name.endswith(ending)
    }
    unlabelled = sorted(images.keys() - labels.keys())
    if unlabelled:
        raise HyfreeError(
            f"{images[unlabelled[0]][0]}: no label {unlabelled[0]}{ending} in labelsTr"
            f"{and_more(unlabelled)}; add the label or take the image away"
        )
    orphans = sorted(labels.keys() - images.keys())
    if orphans:
        raise HyfreeError(
            f"{labels[orphans[0]]}: no image {orphans[0]}_0000{ending} in imagesTr"
            f"{and_more(orphans)}; add the image or take the label away"
        )
    return {case: tuple(paths) for case, paths in images.items()}, labels


def _check_listed(rows: Sequence[Row], images: Mapping[str, tuple[str, ...]]) -> None:
    absent = [row for row in rows if row.case not in images]
    if absent:
        raise HyfreeError(
            f"sites.csv, line {absent[0].line}: case {ascii(absent[0].case)[1:-1]} has no image in"
            f" imagesTr{and_more(absent)}; add the image or take the row out"
        )


def _check_files(facts: Mapping[str, FileFacts]) -> None:
    """Each file by itself: readable, of sensible size, finite, 2D."""
    mends = {
        "unreadable": "it is damaged or of another format than its ending says; write it again",
        "too large": f"a slice may have {MAX_PIXELS >> 20} million pixels; check its header",
        "NaN or infinite pixels": "replace them by numbers",
    }
    for fault, mend in mends.items():
        hit = [path for path, fact in facts.items() if fact.fault == fault]
        if hit:
            raise HyfreeError(f"{hit[0]}: {fault}{and_more(hit)}; {mend}")
    volumes = [path for path, fact in facts.items() if len(fact.shape) != 2]
    if volumes:
        shape = "x".join(str(length) for length in facts[volumes[0]].shape)
        raise HyfreeError(
            f"{volumes[0]}: a volume of {shape}{and_more(volumes)}; only 2D sets are taken, cut it"
            " into slices"
        )


def _check_channels(
    files: Sequence[_CaseFiles], facts: Mapping[str, FileFacts], ending: str, channels: int
) -> None:
    """One file a channel, or (as nnU-Net's NaturalImage2DIO reads) one file with all of them."""
    for case in files:
        numbers = [path.removesuffix(ending)[-4:] for path in case.images]
        held = [facts[path].channels for path in case.images]
        one_each = numbers == [f"{k:04d}" for k in range(channels)] and set(held) == {1}
        all_in_one = ending in NATURAL_ENDINGS and numbers == ["0000"] and held == [channels]
        if not one_each and not all_in_one:
            have = ", ".join(f"_{n} with {k}" for n, k in zip(numbers, held, strict=True))
            raise HyfreeError(
                f"{case.images[0]}: dataset.json names {channels} channels, the case has {have};"
                " give one file a channel (_0000, _0001, ...) or mend channel_names"
            )
        if facts[case.label].channels != 1:
            raise HyfreeError(f"{case.label}: a label has one channel; write it as a grey image")


def _check_geometry(files: Sequence[_CaseFiles], facts: Mapping[str, FileFacts]) -> None:
    """Channels and label of a case lie on one grid."""
    resized, respaced = [], []
    for case in files:
        first = facts[case.images[0]]
        for path in (*case.images[1:], case.label):
            if facts[path].shape != first.shape:
                resized.append((case.images[0], path))
            elif any(
                abs(a - b) > 1e-3 * abs(a)
                for a, b in zip(first.spacing, facts[path].spacing, strict=True)
            ):
                respaced.append((case.images[0], path))
    for pairs, what in ((resized, "size"), (respaced, "spacing")):
        if pairs:
            image, other = pairs[0]
            a, b = (
                "x".join(
                    f"{n:g}" for n in (facts[path].shape if what == "size" else facts[path].spacing)
                )
                for path in (image, other)
            )
            raise HyfreeError(
                f"{other}: {what} {b} differs from {a} of {image}{and_more(pairs)}; bring them to"
                " one grid"
            )


def _check_label_values(
    files: Sequence[_CaseFiles], facts: Mapping[str, FileFacts], labels: Mapping[str, int]
) -> None:
    fractional = [case.label for case in files if facts[case.label].values is None]
    if fractional:
        raise HyfreeError(
            f"{fractional[0]}: label values are not whole numbers{and_more(fractional)}; write the"
            " classes as integers"
        )
    known = set(labels.values())
    strange = [case.label for case in files if not known.issuperset(facts[case.label].values or ())]
    if strange:
        value = min(set(facts[strange[0]].values or ()) - known)
        raise HyfreeError(
            f"{strange[0]}: label value {value} is not in dataset.json"
            f" ({', '.join(str(value) for value in known)}){and_more(strange)}; mend one of them"
        )
