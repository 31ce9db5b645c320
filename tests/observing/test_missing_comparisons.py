"""What a reader of the table would miss: settings that are not there, mixtures that are short."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hyfree_ray.evaluation.regimes import RELEASE
from hyfree_ray.federation.interface import Receipt, Scored
from hyfree_ray.federation.protocol import Outcome
from hyfree_ray.federation.simulation import Simulation
from hyfree_ray.federation.status import FinishedStage
from hyfree_ray.observing.missing_comparisons import find_missing_comparisons
from tests.stage_records import stage_record

SETTINGS = ("syn", "own-syn", "mix-50", "mix-100")


def outcome(
    images: dict[str, int],
    *,
    own_syn: tuple[str, ...] = (),
    general: bool = True,
    more: tuple[Scored, ...] = (),
) -> Any:
    sites = {
        name: Receipt(outcome="released" if number else "withheld", images=number)
        for name, number in images.items()
    }
    scores = tuple(
        Scored(regime="own-syn", train_site=name, test_site=name, rows=rows)
        for name in images
        for rows in ([{}] if name in own_syn else [],)
    )
    return Outcome(sites=sites, scores=(*scores, *more), general=general, chosen={})


def stage(name: str, purpose: str, **record: object) -> FinishedStage:
    return FinishedStage(name=name, purpose=purpose, record=stage_record(name, **record), curve=())


def mixture(regime: str, share: float, real: int, taken: int) -> FinishedStage:
    size = real - round(share * real) + taken
    return stage(
        "prepare_mixture",
        regime,
        params={"synthetic_share": share},
        result={"training_images": size, "synthetic": taken},
    )


def test_a_mixture_that_is_short_of_releases_is_told(
    phantom_simulation: Callable[[int], Simulation],
) -> None:
    sites = phantom_simulation(2).sites
    real = sum(site.training_images for site in sites.values())
    whole = outcome({"site-1": 20, "site-2": real - 25}, own_syn=("site-1", "site-2"))
    records = [
        mixture("mix-50", 0.5, real, real // 2),
        mixture("mix-100", 1.0, real, real - 5),
    ]
    assert find_missing_comparisons(sites, SETTINGS, (), whole, records) == (
        f"mix-100: {real - 5:,} training images instead of {real:,}: the sites released "
        f"{real - 5:,} synthetic ones, not {real:,}",
    )


def test_a_setting_that_a_site_lacks_has_its_reason(
    phantom_simulation: Callable[[int], Simulation],
) -> None:
    sites = phantom_simulation(3).sites
    found = outcome({"site-1": 20, "site-2": 0, "site-3": 20}, own_syn=("site-1",))
    releases = [
        stage("release", purpose, owner="site-3", result={"outcome": outcome, "reason": reason})
        for purpose, outcome, reason in (
            (RELEASE, "released", None),
            ("own-syn", "withheld", "62 % looked memorised"),
        )
    ]
    assert find_missing_comparisons(sites, SETTINGS, (), found, releases) == (
        "site-2: no syn, own-syn: it has no release",
        "site-3: no own-syn: its release of twice the images was withheld (62 % looked memorised)",
    )
    pooled = find_missing_comparisons(sites, ("syn",), ("site-1", "site-2"), found, [])
    assert pooled == (
        "site-2: no syn: it has no release",
        "site-3: no syn: its release is not pooled",
    )
    assert find_missing_comparisons(sites, ("personalised", "real-all"), (), found, []) == ()


def test_without_a_general_model_one_line_says_what_is_missing(
    phantom_simulation: Callable[[int], Simulation],
) -> None:
    nobody = outcome({"site-1": 0, "site-2": 0}, general=False)
    assert find_missing_comparisons(phantom_simulation(2).sites, SETTINGS, (), nobody, []) == (
        "no syn, own-syn, mix-50, mix-100: too few releases",
    )


def test_a_site_alone_lacks_only_what_needs_the_release_of_another(
    phantom_simulation: Callable[[int], Simulation],
) -> None:
    sites = phantom_simulation(1).sites
    alone = outcome({"site-1": 20}, own_syn=("site-1",), general=False)
    asked = (*SETTINGS, "leave-one-out")
    assert find_missing_comparisons(sites, asked, (), alone, []) == (
        "no leave-one-out: too few releases",
    )


def test_why_a_sites_own_samples_were_not_added_is_what_its_filter_said(
    phantom_simulation: Callable[[int], Simulation],
) -> None:
    sites = phantom_simulation(2).sites
    there = Scored(regime="augment-2", train_site="site-1", test_site="site-1", rows=[{}])
    found = outcome({"site-1": 20, "site-2": 0}, more=(there,))
    reason = "71 % looked memorised"
    stages = [stage("synthesise", "augment-2", owner="site-2", result={"reason": reason})]
    (line,) = find_missing_comparisons(sites, ("augment-2",), (), found, stages)
    assert line.startswith("site-2: no augment-2: ")
    assert reason in line
