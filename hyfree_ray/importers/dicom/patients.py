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
    birth date or sex identifies nobody: each study then counts as a patient, and never all as one.
    """
    people: dict[str, set[str]] = defaultdict(set)
    for header in headers:
        people[_folded(header)].add(_person(header))
    keys = [
        ("study", header.study or str(header.path.parent))
        if _NO_IDENTITY.fullmatch(_folded(header)) or _contradict(people[_folded(header)])
        else ("patient", _folded(header))
        for header in headers
    ]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys), start=1)}
    named = [f"patient_{numbers[key]:04d}" for key in keys]
    without = sum(kind == "study" for kind, _ in keys)
    if not without:
        return named, []
    studies = len({key for key in keys if key[0] == "study"})
    return named, [
        f"{without} cases have no patient's identity (PatientID is empty, such as ANONYMOUS, or"
        f" shared by different people): each of their {studies} studies counts as a patient;"
        " correct the column patient of sites.csv where one person has several"
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
