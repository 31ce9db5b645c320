"""The two tables of a cohort, `dataset.json` and `sites.csv`, each read and checked alone."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyfree_ray.cohorts.image_reading import (
    NATURAL_ENDINGS,
    NATURAL_IO,
    NIBABEL_IO,
    READERS,
    SIMPLEITK_IO,
)
from hyfree_ray.cohorts.label_sets import read_labels
from hyfree_ray.cohorts.look_alikes import one_script, shows_all, skeletons
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.files import replacing
from hyfree_ray.core.parties import ORACLE, POOL
from hyfree_ray.core.strict_json import checked_name

MAX_CSV_BYTES = 16 << 20
MAX_JSON_BYTES = 16 << 20
MAX_SITE_NAME_BYTES = 100


READER_KEY = "overwrite_image_reader_writer"
"""nnU-Net's entry in `dataset.json` for the class that reads the images."""

NNUNET_READERS = {
    ending: (NATURAL_IO,)
    if ending in NATURAL_ENDINGS
    else (SIMPLEITK_IO, NIBABEL_IO)
    if ".nii" in ending
    else (SIMPLEITK_IO,)
    for ending in READERS
}
"""nnU-Net's readers that give an array as it is stored, by ending."""
NNUNET_DEFAULTS = {
    **{ending: readers[0] for ending, readers in NNUNET_READERS.items() if ending != ".tiff"},
    ".nii": NIBABEL_IO,
}
"""nnU-Net's readers where none is named; it reads .tiff as volumes, which are not accepted."""


_COLUMNS = {name: name for name in ("case", "site", "patient")}
"""The columns that a table of cases needs, as they are spelled in lower case."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of `sites.csv`."""

    line: int
    case: str
    site: str
    patient: str
    columns: tuple[tuple[str, str], ...] = ()
    """Further columns of the table: name and cell."""


def and_more(problems: Sequence[object]) -> str:
    return f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""


def _read_text(path: Path, limit: int, fix: str) -> str:
    if not path.is_file():
        raise HyfreeError("data.not-found", f"{path}: no such file; {fix}")
    if path.stat().st_size > limit:
        raise HyfreeError(
            "data.too-large",
            f"{path}: larger than {limit >> 20} MiB; check that it is the right file",
        )
    content = _read_bytes(path)
    wide = content[:2] in (b"\xff\xfe", b"\xfe\xff")  # as Excel writes "Unicode text"
    if not wide and b"\0" in content[:2]:
        raise HyfreeError(
            "data.bad-text",
            f"{path}: UTF-16 that does not say so; save it as UTF-8 (in Excel: CSV UTF-8)",
        )
    try:
        return content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise HyfreeError(
            "data.bad-text",
            f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8 (in Excel: CSV UTF-8)",
        ) from None


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise HyfreeError(
            "data.no-permission",
            f"{path}: cannot be read ({error.strerror}); correct its access rights",
        ) from None


def composed(name: str) -> str:
    """Return a name in Unicode's composed form (NFC): file systems and tables use either."""
    return unicodedata.normalize("NFC", name)


def read_dataset_json(path: Path) -> dict[str, Any]:
    text = _read_text(path, MAX_JSON_BYTES, "an nnU-Net raw data set needs one")
    try:
        parsed = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise HyfreeError(
            "data.bad-json", f"{path}: not valid JSON ({error.msg}, {where}); correct it"
        ) from None
    except RecursionError:
        raise HyfreeError("data.bad-json", f"{path}: nested too deeply; correct it") from None
    if not isinstance(parsed, dict):
        raise HyfreeError(
            "data.bad-json", f"{path}: not a JSON object; see nnU-Net's dataset format"
        )
    return parsed


def read_description(dataset: Mapping[str, Any]) -> tuple[tuple[str, ...], dict[str, Any], str]:
    """Return channel names in order, labels by name (see `read_labels`), and the file ending."""
    channels = dataset.get("channel_names")
    if (
        not isinstance(channels, dict)
        or not channels
        or set(channels) != {str(index) for index in range(len(channels))}
    ):
        raise HyfreeError(
            "data.bad-channels", 'dataset.json: channel_names must be like {"0": "T1", "1": "T2"}'
        )
    for name in (*channels.values(), *_keys_of(dataset.get("labels"))):
        _check_name(name)
    labels = read_labels(dataset)
    ending = dataset.get("file_ending")
    if not isinstance(ending, str) or ending not in READERS:
        known = ", ".join(READERS)
        raise HyfreeError(
            "data.unknown-format",
            f"dataset.json: file_ending {ending!r} is not one of {known}; convert the images",
        )
    reader_of(dataset, ending)
    return tuple(channels[str(index)] for index in range(len(channels))), labels, ending


def _keys_of(labels: Any) -> Iterable[str]:
    return labels if isinstance(labels, dict) else ()


def _check_name(name: Any) -> None:
    """Check a name of a channel or label: it travels with releases, which accept no others."""
    try:
        checked_name(f"the name {str(name)[:40]!a} of a channel or label", name)
    except ValueError as error:
        raise HyfreeError("data.bad-name", f"dataset.json: {error}; rename it") from None


def reader_of(dataset: Mapping[str, Any], ending: str) -> str:
    """Return nnU-Net's reader for a data set.

    Raises:
        HyfreeError: the reader does not read its files, or not as they are stored.
    """
    named = dataset.get(READER_KEY, "None")
    known = NNUNET_READERS[ending]
    if named == "None" and ending in NNUNET_DEFAULTS:
        return NNUNET_DEFAULTS[ending]
    if named not in known:
        raise HyfreeError(
            "data.unknown-format",
            f"dataset.json: nnU-Net would read {ending} with {str(named)[:40]!a}, which is not"
            f" supported; set {READER_KEY} to {' or '.join(known)}",
        )
    return str(named)


def cohort_name(dataset: Mapping[str, Any], root: Path) -> str:
    """Return the data set's name, made fit for a folder's name: runs are named after it."""
    folder = re.sub(r"^Dataset\d+_", "", root.resolve().name)
    name = dataset.get("name")
    name = name if isinstance(name, str) and name else folder
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:64] or "cohort"


def read_sites_csv(path: Path) -> list[Row]:
    """Read `sites.csv`, as any spreadsheet writes it: separated by commas, semicolons or tabs.

    Raises:
        HyfreeError: a column or a cell is missing, or a case is listed twice.
    """
    fix = "write one with the columns case, site, patient"
    lines = _read_text(path, MAX_CSV_BYTES, fix).splitlines(keepends=True)
    skipped = next((n for n, line in enumerate(lines) if line.strip(" \t\r\n,;|")), 0)
    stated = re.fullmatch(r"sep=(.)", lines[skipped].strip()) if lines else None  # Excel's own
    skipped += 1 if stated else 0
    separator = stated[1] if stated else _separator(lines[skipped:])
    reader = csv.reader(lines[skipped:], strict=True, delimiter=separator)
    rows: list[Row] = []
    try:
        header = _filled(next(reader, []))
        names = [_COLUMNS.get(cell.casefold(), cell) for cell in header]
        missing = [name for name in _COLUMNS if names.count(name) != 1]
        if missing:
            raise HyfreeError(
                "data.bad-table", f"{path}: needs one column named {', '.join(missing)}; {fix}"
            )
        for cells in reader:
            if not (filled := _filled(cells)):
                continue
            cells = filled + [""] * (min(len(cells), len(header)) - len(filled))
            line = reader.line_num + skipped
            row = dict(zip(names, cells, strict=False))
            values = {name: row.get(name, "") for name in _COLUMNS}
            values["case"] = composed(values["case"])
            if len(cells) != len(header) or not all(values.values()):
                raise HyfreeError(
                    "data.bad-table",
                    f"{path}, line {line}: a cell is missing, empty or superfluous;"
                    f" give case, site and patient in each row",
                )
            columns = tuple((name, cell) for name, cell in row.items() if name not in values)
            rows.append(Row(line=line, **values, columns=columns))
    except csv.Error as error:
        raise HyfreeError(
            "data.bad-table",
            f"{path}, line {reader.line_num + skipped}: not a CSV ({error}); correct it",
        ) from None
    if not rows:
        raise HyfreeError("data.no-cases", f"{path}: lists no cases; {fix}")
    first = {row.case: row for row in reversed(rows)}
    twice = [row for row in rows if first[row.case] is not row]
    if twice:
        raise HyfreeError(
            "data.case-twice",
            f"{path}, line {twice[0].line}: case {twice[0].case} is listed twice{and_more(twice)};"
            " keep one row per case",
        )
    return rows


def rows_of_cases(cases: Iterable[str]) -> list[Row]:
    """Return the rows of a table in which each case is a patient of its own, at one site."""
    return [
        Row(line=line, case=case, site="here", patient=case)
        for line, case in enumerate(sorted(cases), start=2)
    ]


def write_sites_csv(path: Path, cases: Iterable[str]) -> None:
    """Write a table to fill in: each case a patient, all at one site."""
    with replacing(path) as file:
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(_COLUMNS)
        table.writerows((row.case, row.site, row.patient) for row in rows_of_cases(cases))
        file.write(text.getvalue().encode())


def _filled(cells: Sequence[str]) -> list[str]:
    """Return a line's cells without blanks around them and without empty ones at its end, which
    spreadsheets leave of deleted columns."""
    stripped = [cell.strip() for cell in cells]
    while stripped and not stripped[-1]:
        stripped.pop()
    return stripped


def _separator(lines: Sequence[str]) -> str:
    """Return what separates the cells of the header: the one that shows the most columns."""
    header = lines[0] if lines else ""
    return max(",;\t|", key=lambda sign: len(_COLUMNS.keys() & _cells(header, sign)))


def _cells(line: str, separator: str) -> set[str]:
    try:
        return {cell.strip().casefold() for cell in next(csv.reader([line], delimiter=separator))}
    except csv.Error:
        return set()


_RESERVED = skeletons(POOL) | skeletons(ORACLE)


def check_site_names(names: Iterable[str], where: str = "") -> None:
    """Check names of sites, which become names of folders and resources.

    Args:
        names: names of sites in one cohort.
        where: the place where they are written, with which the message begins.

    Raises:
        HyfreeError: one is not safe, or two look alike.
    """
    written = f"{where}: " if where else ""
    known: dict[str, str] = {}
    for name in sorted(set(names)):
        letters = all(
            char in " ._-" or char.isalnum() or unicodedata.category(char)[0] == "M"
            for char in name
        )
        small = len(name.encode()) <= MAX_SITE_NAME_BYTES
        ends = bool(name) and name[0].isalnum() and name[-1] != "."
        if not (letters and small and ends and ".." not in name and shows_all(name)):
            shown = ascii(name[:40]) + ("..." if len(name) > 40 else "")
            raise HyfreeError(
                "data.bad-site-name",
                f"{written}site name {shown} is unsafe as a folder name; use letters, digits, '-',"
                " '_', '.' and spaces, starting with a letter or digit, and at most"
                f" {MAX_SITE_NAME_BYTES} bytes",
            )
        if not one_script(name):
            raise HyfreeError(
                "data.bad-site-name",
                f"{written}site name {name!a} mixes letters of several scripts, or has letters of "
                "an unusual one; write it in one script",
            )
        alike = skeletons(name)
        if alike & _RESERVED:
            raise HyfreeError(
                "data.bad-site-name",
                f"{written}the site name {name!a} is reserved, or looks so; rename it",
            )
        if other := next((known[one] for one in alike if one in known), None):
            raise HyfreeError(
                "data.bad-site-name",
                f"{written}site names {other!a} and {name!a} look alike, or differ only in"
                " case or Unicode form; use one spelling",
            )
        known |= dict.fromkeys(alike, name)
