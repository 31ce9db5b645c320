"""The patients of DICOM files: anonymisers leave identifiers empty, or give one to all."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from hyfree_ray.importers.dicom.headers import DicomFile

_NO_IDENTITY = re.compile(
    r"(|0+|x+|-+|_+|\?+|n/?a|na|no ?(id|name)|none|null|nil|unknown|unnamed|test|patient|"
    r"patientid|"
    r"anon\w*|anonym\w*|de-?identified|de-?id|removed|deleted|hidden|confidential|dummy|subject)"
)
"""Values of PatientID that anonymisers write for everybody."""


def patients_of(headers: Sequence[DicomFile]) -> tuple[list[str], list[str]]:
    """Return a new name for each header's patient, and what has to be said about them.

    A PatientID that is empty, a word such as ANONYMOUS, or shared by people of different name,
    birth date or sex identifies nobody: each study then counts as a patient. A study that all of
    them share tells nobody apart either (anonymisers write one for everybody): then each folder.
    """
    people: dict[str, set[str]] = defaultdict(set)
    for header in headers:
        people[_folded(header)].add(_person(header))
    unknown = [
        header
        for header in headers
        if _NO_IDENTITY.fullmatch(_folded(header)) or _contradict(people[_folded(header)])
    ]
    studies = {header.study for header in unknown}
    folders = {header.path.parent for header in unknown}
    by_folder = len(studies) == 1 and len(folders) > 1
    known = {id(header) for header in headers} - {id(header) for header in unknown}
    keys = [
        ("patient", _folded(header))
        if id(header) in known
        else ("unknown", str(header.path.parent) if by_folder else header.study)
        for header in headers
    ]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys), start=1)}
    named = [f"patient_{numbers[key]:04d}" for key in keys]
    if not unknown:
        return named, []
    count, what = (len(folders), "folders") if by_folder else (len(studies), "studies")
    return named, [
        f"{len(unknown)} cases have no patient's identity (PatientID is empty, such as ANONYMOUS,"
        f" or shared by different people{', and all have one study' * by_folder}): each of their"
        f" {count} {what} counts as a patient; correct the column patient of sites.csv where one"
        " person has several, who would else be in training and in test"
    ]


def _folded(header: DicomFile) -> str:
    return " ".join(header.patient_id.casefold().split())


def _person(header: DicomFile) -> str:
    return header.person.casefold()


def _contradict(people: set[str]) -> bool:
    """Return whether two descriptions of a person differ in birth date or sex, both known."""
    for part in (1, 2):
        known = {person.split("|")[part] for person in people} - {"", "o", "none"}
        if len(known) > 1:
            return True
    return False
