"""What is read from a study's runs, which are made up: numbers that are known beforehand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hyfree_ray.core.parties import POOL
from hyfree_ray.evaluation.scores import ScoreRow
from hyfree_ray.results.finished import Finished
from hyfree_ray.results.summary import RunSummary, SiteOutcome, SiteSummary
from hyfree_ray.studies.findings import find
from hyfree_ray.studies.grids import Reading
from hyfree_ray.studies.trials import Trial
from tests.toys import toy_simulation

SIMULATION = toy_simulation(3)
SITES = ("site-1", "site-2", "site-3")


def made(
    dice: dict[str, float],
    *,
    kid: float = 0.1,
    sites: tuple[str, ...] = SITES,
    seed: int = 0,
    pooled: tuple[str, ...] = (),
    **values: Any,
) -> tuple[Trial, Finished]:
    """A trial whose regimes reach `dice` for the organ and half of it for the lesion.

    A site's patients lie .01 lower than the last one's; models of the others' are useless.
    """
    rows = [
        ScoreRow(
            run="r",
            round=1,
            seed=seed,
            fold=0,
            regime=regime,
            train_site=POOL if regime in pooled else owner,
            test_site=tested,
            patient=patient,
            case=patient,
            label=label,
            metric=metric,
            value=(value - 0.01 * place) * share if owner == tested or regime in pooled else 0.0,
        )
        for regime, value in dice.items()
        for place, tested in enumerate(sites)
        for owner in (sites[:1] if regime in pooled else sites)
        for patient in (0, 4)
        for label, share in (("organ", 1.0), ("lesion", 0.5))
        for metric in ("dice", "nsd")
    ]
    outcomes = [
        SiteOutcome(site=site, outcome="released", images=9, rejection_rate=0.1) for site in sites
    ]
    summary = RunSummary(
        run="r",
        regimes=tuple(dice),
        sites=tuple(SiteSummary(outcome=one, scores=()) for one in outcomes),
        overall=(),
        contrasts=(),
        caveat="",
        cohort="Made",
        experiment={"seed": seed, "fold": 0},
        derived={site: {"quality_card": {"kid": kid, "kid_floor": 0.02}} for site in sites},
    )
    values = {**values, "seed": seed}
    name = "-".join(str(value) for value in values.values())
    trial = Trial(name=name, simulation=SIMULATION, draw=0, values=values)
    return trial, Finished(folder=Path(name), summary=summary, rows=tuple(rows))


def found(reading: Reading, *pairs: tuple[Trial, Finished]) -> Any:
    return find(reading, [one for one, _ in pairs], {one.name: run for one, run in pairs})


def test_a_line_is_the_mean_and_spread_of_runs_and_real_images_have_one_for_all() -> None:
    pairs = [
        made({"local2x": 0.8, "syn-noda": 0.4 + 0.1 * seed}, seed=seed, generator=generator)
        for generator in ("flow", "progan")
        for seed in (0, 1)
    ]
    reading = Reading(table=("local2x", "syn-noda"))
    lines = found(reading, *pairs).numbers["table"]
    assert [(one["regime"], one["values"]) for one in lines] == [
        ("local2x", {}),
        ("syn-noda", {"generator": "flow"}),
        ("syn-noda", {"generator": "progan"}),
    ]
    assert lines[0]["dice"]["organ"] == (pytest.approx(0.79), 0.0, 2)
    mean, deviation, runs = lines[1]["dice"]["organ"]
    assert (mean, deviation, runs) == (pytest.approx(0.44), pytest.approx(0.1 / 2**0.5), 2)
    assert lines[1]["dice"]["lesion"][0] == pytest.approx(0.22)
    assert lines[1]["dice"]["mean"][0] == pytest.approx(0.33)
    page = found(reading, *pairs).page
    assert "| `syn-noda` | flow | no | .220 ± .035 | .440 ± .071 | .330 ± .053 | 2 |" in page


def test_a_mixing_curve_begins_at_the_real_images_of_every_generator(tmp_path: Path) -> None:
    dice = {"local2x": 0.8, "mix-50": 0.7, "mix-100": 0.5}
    pairs = [
        made(dice, generator=name, pooled=("mix-50", "mix-100"), sites=("site-1",))
        for name in ("flow", "progan")
    ]
    findings = found(Reading(mixing=("local2x", "mix-50", "mix-100")), *pairs)
    assert findings.numbers["mixing"]["progan"] == [
        (0.0, pytest.approx(0.6), None),
        (0.5, pytest.approx(0.525), None),
        (1.0, pytest.approx(0.375), None),
    ]
    findings.write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("report.md", "report.json", "mixing.png", "mixing.svg"),
    }


def test_methods_are_ranked_over_hospitals_and_the_control_counts_once(tmp_path: Path) -> None:
    pairs = [
        made(
            {"local2x": 0.6, "augment-1": 0.7 if pairing == "joint" else 0.5},
            seed=seed,
            pairing=pairing,
        )
        for pairing in ("labelled", "joint")
        for seed in (0, 1)
    ]
    findings = found(Reading(ranks=("local2x", "augment-1")), *pairs)
    ranks = findings.numbers["ranks"]
    assert ranks["mean_ranks"] == {
        "joint, augment-1": 1.0,
        "local2x": 2.0,
        "labelled, augment-1": 3.0,
    }
    assert ranks["data_set_names"] == list(SITES)
    assert ranks["dice"]["local2x"] == [pytest.approx(0.75 * (0.6 - 0.01 * k)) for k in range(3)]
    assert "Nemenyi" in findings.page
    findings.write(tmp_path)
    assert (tmp_path / "ranks.png").is_file()
    assert json.loads((tmp_path / "report.json").read_text())["ranks"]["data_sets"] == 3


def test_one_hospital_alone_has_no_ranks_and_leaves_no_figure_of_earlier_ones(
    tmp_path: Path,
) -> None:
    (tmp_path / "ranks.png").touch()
    findings = found(
        Reading(ranks=("local2x", "syn")), made({"local2x": 0.6, "syn": 0.5}, sites=("site-1",))
    )
    assert findings.numbers["ranks"] is None
    assert "No ranks" in findings.page
    findings.write(tmp_path)
    assert not (tmp_path / "ranks.png").exists()


def test_kid_stands_beside_dice_with_their_rank_correlation(tmp_path: Path) -> None:
    pairs = [
        made({"syn": dice}, kid=kid, generator=name)
        for name, dice, kid in (("a", 0.5, 0.3), ("b", 0.6, 0.2), ("c", 0.7, 0.1), ("d", 0.4, 0.25))
    ]
    findings = found(Reading(kid="syn"), *pairs)
    alike = findings.numbers["kid"]["agreement"]
    assert alike["tau"] == pytest.approx(-4 / 6)  # five of the six pairs are reversed
    assert [one["kid"] for one in findings.numbers["kid"]["lines"]] == pytest.approx(
        [0.3, 0.2, 0.1, 0.25]
    )
    findings.write(tmp_path)
    assert (tmp_path / "kid.png").is_file()


def test_a_generator_whose_release_was_withheld_has_no_line_and_says_why() -> None:
    good = made({"local2x": 0.6, "syn": 0.5}, generator="flow")
    trial, run = made({"local2x": 0.6}, generator="progan")
    for one in run.summary.sites:
        object.__setattr__(one.outcome, "outcome", "withheld")
        object.__setattr__(one.outcome, "reason", "it copies")
    findings = found(Reading(table=("local2x", "syn"), kid="syn"), good, (trial, run))
    assert len(findings.numbers["table"]) == 2
    assert findings.numbers["releases"] == [
        f"generator progan, seed 0: {site} withheld: it copies" for site in SITES
    ]
    assert "withheld: it copies" in findings.page
