"""What a study's file asks to be read from its runs, as a page, figures and numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyfree_ray.core.files import replacing, write_json
from hyfree_ray.evaluation.regimes import record_of
from hyfree_ray.results.finished import Finished
from hyfree_ray.results.ranks import ALPHA, Ranks, agreement, complete, rank_methods
from hyfree_ray.studies.grids import Reading
from hyfree_ray.studies.tables import (
    ALL_LABELS,
    Beside,
    Dice,
    Line,
    Measured,
    by_data_set,
    kid_beside_dice,
    lines,
    measure,
    mixing_curve,
    what_is_missing,
)
from hyfree_ray.studies.trials import Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "report.md"

_FIGURES = ("mixing", "ranks", "kid")


@dataclass(frozen=True, kw_only=True)
class Findings:
    """A page of Markdown, its figures, and the same as numbers."""

    page: str
    numbers: Mapping[str, Any]
    figures: Mapping[str, Callable[[Any], Figure]] = field(default_factory=dict)
    """By name; each is called with a theme."""

    def write(self, folder: Path) -> None:
        """Write `report.md`, `report.json` and the figures into a study's folder."""
        from hyfree_ray.reports.figures import drawn

        for name in _FIGURES:  # of what the file asked for before
            for ending in ("svg", "png"):
                (folder / f"{name}.{ending}").unlink(missing_ok=True)
        for name, draw in self.figures.items():
            figure = drawn(name, draw)
            for ending, content in (("svg", figure.light_svg), ("png", figure.png)):
                with replacing(folder / f"{name}.{ending}") as file:
                    file.write(content)
        with replacing(folder / PAGE) as file:
            file.write(self.page.encode())
        write_json(folder / "report.json", dict(self.numbers))


def find(reading: Reading, trials: Sequence[Trial], runs: Mapping[str, Finished]) -> Findings:
    """Read what a study asks for from its runs.

    Args:
        reading: what is asked for.
        trials: all of the study.
        runs: by the trials' names.
    """
    measured = measure(trials, runs, reading.regimes)
    parts: list[_Part] = []
    if reading.table:
        parts.append(_table(lines(measured, reading.table)))
    if reading.mixing:
        parts.append(_mixing(lines(measured, reading.mixing)))
    if reading.ranks:
        parts.append(_ranks(measured, reading.ranks))
    if reading.kid:
        parts.append(_kid(kid_beside_dice(trials, runs, reading.kid), reading.kid))
    missing = list(what_is_missing(trials, runs))
    warnings = sorted({run.summary.warning for run in runs.values()} - {""})
    regimes = [f"- `{name}`: {record_of(name).label}" for name in reading.regimes]
    blocks = ["\n".join(part.text) for part in parts]
    blocks += ["\n".join(["**Regimes**", "", *regimes])]
    if missing:
        blocks.append("\n".join(["**Releases**", "", *(f"- {line}" for line in missing)]))
    blocks = [*(f"**{line}**" for line in warnings), *blocks]
    numbers: dict[str, Any] = {part.name: part.numbers for part in parts}
    return Findings(
        page="\n\n".join(blocks) + "\n",
        numbers={**numbers, "releases": missing},
        figures={part.name: part.draw for part in parts if part.draw is not None},
    )


@dataclass(frozen=True, kw_only=True)
class _Part:
    name: str
    text: Sequence[str]
    numbers: Any
    draw: Callable[[Any], Figure] | None = None


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table in Markdown."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def _number(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.{digits}f}"


def _dice(found: Dice | None) -> str:
    if found is None:
        return "-"
    mean, deviation, _ = found
    return _number(mean) + ("" if deviation is None else f" ± {_number(deviation)}")


def _table(found: Sequence[Line]) -> _Part:
    """Dice by label, a line for what was trained on, how it was drawn, and whether augmented."""
    fields = list(dict.fromkeys(name for line in found for name, _ in line.values))
    labels = [*dict.fromkeys(label for line in found for label in line.dice if label != ALL_LABELS)]
    rows = [
        [
            f"`{line.regime}`",
            *(str(dict(line.values).get(name, "")) for name in fields),
            "yes" if line.augmented else "no",
            *(_dice(line.dice.get(label)) for label in (*labels, ALL_LABELS)),
            str(line.dice[ALL_LABELS][2]),
        ]
        for line in found
    ]
    head = ["trained on", *fields, "augmented", *labels, ALL_LABELS, "runs"]
    title = "**Dice on real test patients** (mean ± standard deviation over runs, where several)"
    numbers = [{**asdict(line), "values": dict(line.values)} for line in found]
    return _Part(name="table", text=[title, "", *_grid(head, rows)], numbers=numbers)


def _mixing(found: Sequence[Line]) -> _Part:
    """Dice by the share of synthetic images at a constant number of images."""
    series = mixing_curve(found)
    shares = sorted({share for points in series.values() for share, _ in points})
    rows = [
        [name, *(_dice(dict(points).get(s)) for s in shares)] for name, points in series.items()
    ]
    head = ["", *(f"{share:.0%}" for share in shares)]
    title = "**Dice by the share of synthetic images**, the number of images being constant"
    plain = {
        name: [(share, dice[0], dice[1]) for share, dice in points]
        for name, points in series.items()
    }

    def draw(theme: Any) -> Figure:
        from hyfree_ray.reports.study_figures import mixing

        return mixing(theme, plain)

    return _Part(
        name="mixing",
        text=[title, "", *_grid(head, rows)],
        numbers=plain,
        draw=draw if plain else None,
    )


def _ranks(measured: Sequence[Measured], regimes: Sequence[str]) -> _Part:
    """Methods by data sets, their mean ranks, and which of them differ."""
    scores, absent, partial = complete(by_data_set(measured, regimes))
    names = sorted({one.data_set for one in measured if one.regime in regimes} - {*partial})
    left_out = [
        *(f"left out, as most data sets lack it: {name}" for name in absent),
        *(f"left out, as not all methods were trained there: {name}" for name in partial),
    ]
    if len(scores) < 2 or len(names) < 2:
        text = (
            f"**No ranks**: {len(scores)} methods on {len(names)} data sets; two of each at least"
        )
        return _Part(name="ranks", text=[text, *left_out], numbers=None)
    ranks = rank_methods(scores)
    means = dict(zip(ranks.methods, ranks.means, strict=True))
    rows = [
        [name, *(_number(value) for value in scores[name]), f"{means[name]:.2f}"]
        for name in ranks.methods
    ]

    def draw(theme: Any) -> Figure:
        from hyfree_ray.reports.study_figures import critical_differences

        return critical_differences(theme, ranks)

    return _Part(
        name="ranks",
        text=[
            "**Methods by data sets**: Dice over seeds and folds, and mean rank (1 is the best)",
            "",
            *_grid(["method", *names, "rank"], rows),
            "",
            *_tests(ranks),
            *left_out,
        ],
        numbers={**ranks.to_json(), "dice": scores, "data_set_names": names},
        draw=draw,
    )


def _tests(ranks: Ranks) -> Iterator[str]:
    """Say in words what the tests say."""
    count = len(ranks.methods)
    yield (
        f"Friedman: chi² {ranks.chi2:.2f} of {count - 1} degrees of freedom, p {ranks.chi2_p:.2g}; "
        f"Iman and Davenport: F {ranks.f:.2f}, p {ranks.f_p:.2g}."
    )
    apart = [
        f"{better} before {worse}"
        for place, better in enumerate(ranks.methods)
        for rest, worse in enumerate(ranks.methods)
        if ranks.means[rest] - ranks.means[place] >= ranks.critical_difference
    ]
    said = "; ".join(apart) if apart else "no two methods are told apart"
    yield (
        f"Nemenyi at {ALPHA:g}: mean ranks {ranks.critical_difference:.2f} apart differ on "
        f"{ranks.data_sets} data sets (the largest possible difference is {count - 1}): {said}."
    )
    if ranks.f_p >= ALPHA:
        yield "As Friedman's test finds no difference, pairs are not to be read."


def _kid(found: Sequence[Beside], regime: str) -> _Part:
    """KID beside Dice, and whether they rank alike."""
    rows = [
        [
            one.name,
            _number(1000 * one.kid, 1),
            _number(1000 * one.floor, 1),
            _number(one.dice),
            str(one.runs),
        ]
        for one in sorted(found, key=lambda one: one.kid)
    ]
    head = ["", "KID x 1000", "of real images", f"Dice of `{regime}`", "runs"]
    alike = agreement([one.kid for one in found], [one.dice for one in found])
    if alike is None:
        said = f"{len(found)} lines: too few for a rank correlation."
    else:
        said = (
            f"Kendall's tau of KID and Dice: {alike.tau:+.2f} (p {alike.p:.2g}, {alike.count} "
            "lines). -1: the lower the KID, the better the images teach; 0: KID does not tell."
        )

    def draw(theme: Any) -> Figure:
        from hyfree_ray.reports import study_figures

        points = [(one.name, one.kid, one.dice) for one in found]
        return study_figures.kid_beside_dice(theme, points)

    return _Part(
        name="kid",
        text=["**KID beside Dice**", "", *_grid(head, rows), "", said],
        numbers={
            "lines": [asdict(one) for one in found],
            "agreement": None if alike is None else asdict(alike),
        },
        draw=draw if found else None,
    )
