"""How often intervals were seen to hold the truth, by number of test patients.

`benchmarks/coverage.py` draws numbers of which the truth is known, and writes `coverage.csv`.
"""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

TABLE = Path(__file__).with_name("coverage.csv")


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """What was measured with so many patients of one site and one seed."""

    patients: int
    """That were drawn: the table's nearest number that is no greater."""
    least: float
    most: float
    """Of normal, exponential and lognormal differences, and of the recorded ones together."""
    one_side: float
    """The most that one end missed the truth."""
    rare_failures: float
    """Coverage where 1 patient in 20 loses much: few samples of few patients hold one."""

    def describe(self) -> str:
        """Write it for a table: 95-97 % (rare failures 51 %)."""
        least, most, rare = (f"{100 * v:.0f}" for v in (self.least, self.most, self.rare_failures))
        return f"{least}-{most} % (rare failures {rare} %)"

    def to_json(self) -> dict[str, float]:
        """Return plain JSON values."""
        return asdict(self)


@cache
def read_coverage() -> tuple[Coverage, ...]:
    """Read the table, by number of patients."""
    with TABLE.open(newline="") as file:
        rows = [
            Coverage(
                patients=int(row.pop("patients")),
                **{name: float(value) for name, value in row.items()},
            )
            for row in csv.DictReader(file)
        ]
    return tuple(sorted(rows, key=lambda row: row.patients))


def coverage_at(patients: int) -> Coverage | None:
    """Return what was measured with so many patients; None with fewer than were ever drawn."""
    return next((one for one in reversed(read_coverage()) if one.patients <= patients), None)
