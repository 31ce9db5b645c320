"""The tables of docs/RESULTS.md that the scores in this folder make.

    python docs/results/tables.py

Dice minus `local2x`, at home / at the other hospitals, each the mean of the sites with its
interval over test patients. The intervals of a column hold together in 95 %: half of the 5 % is for
the two of the question that was stated before, half for all others. Folds of one seed are pooled;
seeds stand beside each other. `--screens` prints the contrasts of each data set by hospital.
"""

from __future__ import annotations

import gzip
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))  # from a checkout, installed or not

from hyfree_ray.evaluation.regimes import CONTROL  # noqa: E402
from hyfree_ray.evaluation.scores import ScoreRow, read_results  # noqa: E402
from hyfree_ray.results.comparisons import estimates_of, read_together, verdicts_of  # noqa: E402
from hyfree_ray.results.contrasts import Contrast, Estimate  # noqa: E402
from hyfree_ray.results.summary import TESTED, SiteOutcome  # noqa: E402
from hyfree_ray.results.table import (  # noqa: E402
    contrast_rows,
    contrast_tables,
    render_verdicts,
    table_text,
)

REGIMES = ("finetuned", "general", "personalised", "chosen", "real-all")
REAL = (("LungCXR", "Lung"), ("PolypRGB", "Polyp"))
"""Whose patients are the same in every seed."""
COHORTS = (*REAL, ("Phantom", "phantom"))
HALF = "-half"
"""Of files of runs that replayed half of each batch."""


def read(stem: str) -> list[ScoreRow]:
    """The rows of one run."""
    return rows_of(gzip.decompress((HERE / f"{stem}.csv.gz").read_bytes()))


def rows_of(table: bytes) -> list[ScoreRow]:
    """The rows of a `results.csv`."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "results.csv"
        file.write_bytes(table)
        return read_results(file)


def read_scaling(stem: str) -> dict[int, list[ScoreRow]]:
    """The rows of a study of one draw of each size and one seed, by the number of sites."""
    header, *lines = gzip.decompress((HERE / f"{stem}.csv.gz").read_bytes()).splitlines()
    by_size: dict[int, list[bytes]] = {}
    for line in lines:
        sites, draw, row = line.split(b",", 2)
        if draw != b"0":
            raise ValueError(f"{stem}: more draws than one")
        by_size.setdefault(int(sites), [header.split(b",", 2)[2]]).append(row)
    return {size: rows_of(b"\n".join(rows) + b"\n") for size, rows in by_size.items()}


def folds_of(cohort: str, seed: int, ending: str = "") -> list[int]:
    """Of which there are scores."""
    stem = f"{cohort}-seed{seed}-fold"
    return [k for k in range(5) if (HERE / f"{stem}{k}{ending}.csv.gz").is_file()]


def contrasts(stems: Iterable[str], regimes: Sequence[str]) -> list[Contrast]:
    """Regimes against the control, of runs that differ in their fold."""
    return contrasts_of_rows([row for stem in stems for row in read(stem)], regimes)


def contrasts_of_rows(rows: Sequence[ScoreRow], regimes: Sequence[str]) -> list[Contrast]:
    """The same, of rows: over all sites, which is what the tables show."""
    found = estimates(rows, regimes)
    return list(read_together([one for one in found if one.plain.site is None]))


def estimates(rows: Sequence[ScoreRow], regimes: Sequence[str]) -> tuple[Estimate, ...]:
    """What contrasts are made of."""
    sites = tuple(sorted({row.test_site for row in rows}))
    return estimates_of(rows, sites, pairs=[(name, CONTROL) for name in regimes])


def over_sites(found: Sequence[Contrast], regime: str) -> str:
    """Own / elsewhere."""
    both = [one for one in found if one.first == regime]
    both.sort(key=lambda one: one.tested != "own")
    return " / ".join(one.format_interval() for one in both)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def named(words: str, folds: Sequence[int]) -> str:
    return f"{words}, fold{'s' if len(folds) > 1 else ''} {' and '.join(map(str, folds))}"


def main_table(seed: int) -> Iterator[str]:
    """A column a cohort, of one seed."""
    known = [(name, words, folds) for name, words in COHORTS if (folds := folds_of(name, seed))]
    found = [
        contrasts((f"{name}-seed{seed}-fold{k}" for k in folds), REGIMES)
        for name, _, folds in known
    ]
    patients = [str(next(one.patients for one in of if one.site is None)) for of in found]
    yield from table(
        [f"seed {seed}", *(named(words, folds) for _, words, folds in known)],
        [
            ["patients", *patients],
            *([name, *(over_sites(of, name) for of in found)] for name in REGIMES),
        ],
    )


def seeds_table(name: str, words: str) -> Iterator[str]:
    """Three seeds of the same patients as one: training noise is in these intervals."""
    seeds = range(3)
    folds = sorted(set.intersection(*(set(folds_of(name, seed)) for seed in seeds)))
    found = contrasts((f"{name}-seed{s}-fold{k}" for s in seeds for k in folds), REGIMES)
    over = [one for one in found if one.site is None]
    yield from table(
        [f"{named(words, folds)}, seeds 0 to 2", "at home", "elsewhere"],
        (
            [regime, *(one.words for tested in TESTED for one in over if _is(one, regime, tested))]
            for regime in REGIMES
        ),
    )


def _is(one: Contrast, regime: str, tested: str) -> bool:
    return (one.first, one.tested) == (regime, tested)


def replay_table() -> Iterator[str]:
    """Half of each batch replayed against a quarter."""
    rows = []
    for name, words in COHORTS:
        folds = folds_of(name, 0, HALF)
        stems = [f"{name}-seed0-fold{k}" for k in folds]
        cells = [
            over_sites(contrasts([f"{stem}{ending}" for stem in stems], REGIMES), "personalised")
            for ending in (HALF, "")
        ]
        rows.append([named(words, folds), *cells])
    yield from table(["personalised, seed 0", "half", "a quarter"], rows)


def twice_table() -> Iterator[str]:
    """Fine-tuning for as many steps as ever, and for twice as many."""
    rows = []
    for name, words in COHORTS:
        stems = [f"{name}-seed0-fold0{ending}" for ending in ("", "-twice")]
        cells = [over_sites(contrasts([stem], REGIMES), "personalised") for stem in stems]
        rows.append([words, *cells])
    yield from table(["personalised, seed 0, fold 0", "N", "2N"], rows)


def scaling_table(stem: str) -> Iterator[str]:
    """The curve of a study: own / elsewhere by the number of sites in the pool."""
    columns = [
        (f"{size} sites", contrasts_of_rows(rows, ("finetuned", "general")))
        for size, rows in read_scaling(stem).items()
    ]
    yield from table(
        [stem, *(words for words, _ in columns)],
        (
            [regime, *(over_sites(found, regime) for _, found in columns)]
            for regime in ("finetuned", "general")
        ),
    )


def settings_table(stem: str) -> Iterator[str]:
    """All settings of one run, over the sites."""
    rows = read(stem)
    regimes = sorted({row.regime for row in rows} - {CONTROL})
    found = contrasts([stem], regimes)
    yield from table(["setting", "own / elsewhere"], ([n, over_sites(found, n)] for n in regimes))


def worst_table() -> Iterator[str]:
    """The hospital that gained least by the shared model, beside the mean."""
    rows = []
    for name, words in COHORTS:
        for seed in range(3):
            if folds := folds_of(name, seed):
                found = contrasts((f"{name}-seed{seed}-fold{k}" for k in folds), ("personalised",))
                cells = [f"{one.format_interval()}; {one.describe_worst()}" for one in found]
                rows.append([f"{named(words, folds)}, seed {seed}", *cells])
    yield from table(["personalised", "at home", "elsewhere"], rows)


def in_the_text() -> Iterator[str]:
    """Figures that stand in sentences."""
    for regime, stems in (
        ("personalised", ["LungCXR-seed0-fold1"]),
        ("chosen", [f"LungCXR-seed2-fold{k}" for k in (0, 1)]),
        ("real-all", [f"PolypRGB-seed2-fold{k}" for k in (0, 1)]),
        ("personalised", ["Phantom-seed0-fold0-labels"]),
        ("personalised", ["Phantom8-seed0-fold0-half"]),
    ):
        yield f"{regime}, {' '.join(stems)}: {over_sites(contrasts(stems, REGIMES), regime)}"


def screens() -> Iterator[str]:
    """Contrasts by hospital and verdicts, as `hyfree-ray results` prints them; seed 0."""
    for name, _ in COHORTS:
        stems = [f"{name}-seed0-fold{k}" for k in folds_of(name, 0)]
        found = estimates([row for stem in stems for row in read(stem)], REGIMES)
        sites = sorted({one.plain.site for one in found if one.plain.site is not None})
        outcomes = [  # the scores do not tell what was released
            SiteOutcome(site=site, outcome="released", images=0, rejection_rate=None)
            for site in sites
        ]
        caveat = "one seed; training noise not included"
        yield f"=== {name}"
        together = read_together(found)
        for part in contrast_tables(contrast_rows(together), caveat, 140):
            yield table_text(part)
        yield table_text(render_verdicts(verdicts_of(found, together, outcomes)))
    yield from in_the_text()


def pages() -> Iterator[str]:
    """All tables, line by line."""
    for seed in (0, 1):
        yield from main_table(seed)
    for name, words in REAL:
        yield from seeds_table(name, words)
    yield from worst_table()
    yield from replay_table()
    yield from twice_table()
    for file in sorted(HERE.glob("*-settings.csv.gz")):
        yield from settings_table(file.name.removesuffix(".csv.gz"))
    for file in sorted(HERE.glob("*-scaling.csv.gz")):
        yield from scaling_table(file.name.removesuffix(".csv.gz"))


if __name__ == "__main__":
    print("\n".join(screens() if "--screens" in sys.argv else pages()))
