"""The checks of a data set's tables, and what every check returns.

`hyfree-ray check` prints all problems, `read_cohort` raises the first kind: both use these, those
of `file_checks` and those of `label_checks`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from hyfree_ray.cohorts.image_facts import FileFacts
from hyfree_ray.cohorts.tables import Row

FOLDS = 5


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
    """Check that every case of `sites.csv` is there; name the file that is likely meant."""
    meant = {_similar(name): name for name in images}
    problems = []
    for row in rows:
        if row.case in images:
            continue
        other = meant.get(_similar(row.case))
        if other is None:  # a file's name for its case
            stem = re.sub(r"(_\d{4})?(\.[a-z]+)+$", "", row.case, flags=re.IGNORECASE)
            other = stem if stem in images else None
        hint = f"; imagesTr has {ascii(other)[1:-1]}" if other else ""
        if other and row.case.isdigit():
            hint += " (Excel drops leading zeros: format the column as text)"
        problems.append(
            Problem(
                code="data.no-image",
                where=f"sites.csv, line {row.line}",
                what=f"case {ascii(row.case)[1:-1]} has no image in imagesTr{hint}",
                fix="correct its name" if other else "add the image or remove the row",
            )
        )
    return problems


def check_rounded(rows: Sequence[Row]) -> list[Problem]:
    """Refuse ids like 1.23457E+11: a spreadsheet has rounded long numbers, so that many people
    share one id, and who they were is lost."""
    return [
        Problem(
            code="data.rounded-ids",
            where=f"sites.csv, line {row.line}",
            what=f"an id of case {row.case} is a number that a spreadsheet has rounded",
            fix="export the table again with this column formatted as text",
        )
        for row in rows
        if any(re.fullmatch(r"\d([.,]\d+)?[eE]\+\d+", name) for name in (row.case, row.patient))
    ]


def check_alike(rows: Sequence[Row]) -> list[Problem]:
    """Refuse patients that differ only in case, blanks or Unicode form; report similar ids.

    One person under two ids would be in both training and test.
    """
    return (
        [_alike_patients(one, other, fatal=True) for one, other in _alike(rows, _patient, folded)]
        + [
            _alike_patients(one, other, fatal=False)
            for one, other in _alike(rows, _patient, _similar)
            if folded(one.patient) != folded(other.patient)
        ]
        + [
            Problem(
                code="data.similar-ids",
                where=f"sites.csv, line {other.line}",
                what=f"case {other.case} is written like {one.case} (line {one.line})",
                fix="check that they are two cases; some file systems take both names for one",
                fatal=False,
            )
            for one, other in _alike(rows, _case, folded)
        ]
    )


def _patient(row: Row) -> str:
    return row.patient


def _case(row: Row) -> str:
    return row.case


def _alike_patients(one: Row, other: Row, *, fatal: bool) -> Problem:
    how = "case, blanks or Unicode form" if fatal else "punctuation or leading zeros"
    return Problem(
        code="data.alike-ids" if fatal else "data.similar-ids",
        where=f"sites.csv, line {other.line}",
        what=f"the patient of case {other.case} differs from that of case {one.case} (line"
        f" {one.line}) only in {how}",
        fix="give one patient one id, and two people ids that differ",
        fatal=fatal,
    )


def _alike(
    rows: Iterable[Row], name_of: Callable[[Row], str], form: Callable[[str], str]
) -> list[tuple[Row, Row]]:
    """Return pairs of rows whose names differ, but not in this form; one a name."""
    first: dict[str, Row] = {}
    seen: set[str] = set()
    pairs = []
    for row in rows:
        name = name_of(row)
        other = first.setdefault(form(name), row)
        if name_of(other) != name and name not in seen:
            pairs.append((other, row))
        seen.add(name)
    return pairs


def folded(name: str) -> str:
    """Return a name without case, blanks, characters that are not shown, and Unicode form."""
    plain = "".join(unicodedata.normalize("NFKC", name).casefold().split())
    return "".join(char for char in plain if unicodedata.category(char) not in ("Cf", "Cc"))


def _similar(name: str) -> str:
    """Return a name without punctuation and leading zeros, too."""
    bare = re.sub(r"[\W_]+", "-", folded(name)).strip("-")
    return re.sub(r"(?<!\d)0+(?=\d)", "", bare)


def dims(numbers: Sequence[float]) -> str:
    """Return numbers as 3x2x1."""
    return "x".join(f"{number:g}" for number in numbers)


def join(names: Sequence[object]) -> str:
    """Return names with commas."""
    return ", ".join(str(name) for name in names)
