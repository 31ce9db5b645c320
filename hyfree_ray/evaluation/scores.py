"""The scores of a run: one row a case, label and metric, in a file that people script against."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.files import replacing

PRIMARY = "dice"
"""The metric that models are chosen and compared by, and that figures show."""

_DECIMALS = 6
# A spreadsheet takes a cell that begins with one of these as a formula; site names come from users.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")


@dataclass(frozen=True, kw_only=True, order=True)
class ScoreRow:
    """One number. The order of the fields is the order of the columns and of the rows."""

    run: str
    round: int
    seed: int
    fold: int
    regime: str
    """One of `regimes.REGIMES`."""
    train_site: str
    """Whose model it is; `POOL` for the general one."""
    test_site: str
    patient: int
    """An index within the test site; the map to patients stays there."""
    case: int
    """An index within the test site, as `patient`."""
    label: str
    metric: str
    """The name of one of `metrics.METRICS`."""
    value: float


COLUMNS = tuple(field.name for field in dataclasses.fields(ScoreRow))
_NUMBERS = frozenset({"round", "seed", "fold", "patient", "case"})


def csv_text(rows: Iterable[ScoreRow]) -> str:
    """Write the rows, sorted, as CSV. Equal rows in any order give equal text.

    Text that a spreadsheet would take as a formula gets an apostrophe in front.

    Raises:
        ValueError: a value that is not finite, or two values for the same thing.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    before: tuple[object, ...] | None = None
    for row in sorted(rows):
        cells = [getattr(row, name) for name in COLUMNS]
        if not math.isfinite(row.value) or tuple(cells[:-1]) == before:
            raise ValueError(f"not finite, or the second value of the same thing: {row}")
        before = tuple(cells[:-1])
        text = [_cell(cell) if isinstance(cell, str) else str(cell) for cell in cells[:-1]]
        writer.writerow([*text, repr(round(float(row.value), _DECIMALS) + 0.0)])  # no minus zero
    return stream.getvalue()


def write_results(path: Path, rows: Iterable[ScoreRow]) -> None:
    """Write `csv_text` whole or not at all."""
    content = csv_text(rows).encode()
    with replacing(path) as file:
        file.write(content)


def read_results(path: Path) -> list[ScoreRow]:
    """Read what `write_results` wrote.

    Raises:
        HyfreeError: no such file, or one that is not ours; names the line.
    """
    try:
        lines = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise HyfreeError(
            "run.damaged", f"{path}: cannot be read as a table of results ({error})"
        ) from error
    if not lines or tuple(lines[0]) != COLUMNS:
        raise HyfreeError("run.damaged", f"{path}: line 1: the columns are not {','.join(COLUMNS)}")
    return [_row(path, number, cells) for number, cells in enumerate(lines[1:], start=2)]


def _row(path: Path, number: int, cells: list[str]) -> ScoreRow:
    try:
        named = dict(zip(COLUMNS, cells, strict=True))
        whole = {name: int(named[name]) for name in _NUMBERS}
        texts = {
            name: cell.removeprefix("'")
            for name, cell in named.items()
            if name not in _NUMBERS and name != "value"
        }
        row = ScoreRow(**whole, **texts, value=float(named["value"]))  # type: ignore[arg-type]
        if not math.isfinite(row.value):
            raise ValueError(f"the value {row.value}")
    except ValueError as error:
        raise HyfreeError(
            "run.damaged", f"{path}: line {number}: not a row of results ({error})"
        ) from error
    return row


def _cell(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text


_OF_A_MASK = frozenset({"patient", "case", "label", "outcome"})


def measured(row: Mapping[str, Any]) -> dict[str, float | None]:
    """Return what the stage `score` measured of one mask, by metric."""
    return {name: value for name, value in row.items() if name not in _OF_A_MASK}


def dice_by_patient(rows: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Average Dice over labels, then cases; patients with nothing measured are left out."""
    cases: dict[int, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row[PRIMARY] is not None:
            cases[row["patient"]][row["case"]].append(row[PRIMARY])
    return {
        patient: fmean(map(fmean, of_patient.values())) for patient, of_patient in cases.items()
    }


def mean_over_patients(dice: Mapping[int, float]) -> float:
    """0 where nothing was measured."""
    return fmean(dice.values()) if dice else 0.0
