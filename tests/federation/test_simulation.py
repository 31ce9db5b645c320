"""Keys, seeds and the plan of a run, before anything runs."""

from __future__ import annotations

import asyncio
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hyfree_ray.cohorts.cohort import Cohort
from hyfree_ray.config.experiment import Experiment
from hyfree_ray.core.artifacts import Artifact
from hyfree_ray.core.parcels import Parcel
from hyfree_ray.core.parties import ORACLE
from hyfree_ray.core.stage import Stage
from hyfree_ray.evaluation.regimes import REGIMES, protocol, settings
from hyfree_ray.federation.interface import ReplaySet, Scored
from hyfree_ray.federation.participation import Rules
from hyfree_ray.federation.protocol import Outcome, _Run
from hyfree_ray.federation.simulation import Simulation, score_rows, sites_of
from hyfree_ray.federation.site import SiteParty
from hyfree_ray.runners.planning import PlanningRunner, plan


def keys(simulation: Simulation, store: Path) -> dict[tuple[str, str, int], str]:
    """Key by owner, stage and how many of that name came before."""
    found: dict[tuple[str, str, int], str] = {}
    for step in plan(simulation, store).steps:
        count = sum(1 for owner, name, _ in found if (owner, name) == (step.owner, step.name))
        found[step.owner, step.name, count] = step.key
    return found


def test_a_plan_creates_nothing(
    phantom_simulation: Callable[[int], Simulation], tmp_path: Path
) -> None:
    planned = plan(phantom_simulation(3), tmp_path / "store")
    assert len(planned.missing) == len(planned.steps) > 50
    assert not (tmp_path / "store").exists()


def test_every_regime_of_every_site_is_scored_at_every_site(
    phantom_simulation: Callable[[int], Simulation], tmp_path: Path
) -> None:
    outcome = plan(phantom_simulation(3), tmp_path).outcome
    scored = {(s.regime, s.train_site, s.test_site) for s in outcome.scores}
    assert len(scored) == 3 * (3 + 3 + 3 + 1 + 3 + 3 + 1)
    assert ("personalised", "site-2", "site-1") in scored
    assert ("real-all", "pool", "site-1") in scored
    assert ("general", "pool", "site-2") in scored
    assert ("finetuned", "site-1", "site-3") in scored


def test_only_contributors_are_pooled_and_every_site_fine_tunes(
    phantom_simulation: Callable[[int], Simulation], tmp_path: Path
) -> None:
    whole = phantom_simulation(3)
    part = replace(whole, contributors=("site-1", "site-3"))
    assert part.key == replace(whole, contributors=("site-3", "site-1")).key != whole.key
    assert part.federation == whole.federation
    planned = plan(part, tmp_path)
    tuned = {(s.train_site, s.test_site) for s in planned.outcome.scores}
    assert {(a, b) for a in whole.sites for b in whole.sites} <= tuned
    before, after = keys(whole, tmp_path), keys(part, tmp_path)
    shared = {
        name
        for (owner, name, count), key in after.items()
        if before.get((owner, name, count)) == key
    }
    assert {"train_generator", "synthesise", "release", "local2x", "check_release"} <= shared
    assert not {"pool_releases", "train_general", "finetuned"} & shared
    two = keys(phantom_simulation(2), tmp_path)
    first = replace(whole, contributors=("site-1", "site-2"))
    assert keys(first, tmp_path)["pool", "train_general", 0] == two["pool", "train_general", 0]


def test_a_new_site_changes_no_key_of_the_others_before_the_pool(
    phantom_simulation: Callable[[int], Simulation], tmp_path: Path
) -> None:
    few = keys(phantom_simulation(3), tmp_path)
    many = keys(phantom_simulation(4), tmp_path)
    for (owner, name, count), key in few.items():
        if owner == ORACLE or name in {
            "pool_releases",
            "train_general",
            "prepare_for_general",
            "prepare_replay",
            "personalised",
            "finetuned",
            "score",
            "audit_general",
        }:
            continue
        assert many[owner, name, count] == key, (owner, name)
    assert few["pool", "train_general", 0] != many["pool", "train_general", 0]


def test_scores_of_local_models_are_shared_between_runs_with_more_sites(
    phantom_simulation: Callable[[int], Simulation], tmp_path: Path
) -> None:
    few = {step.key for step in plan(phantom_simulation(2), tmp_path).steps if step.name == "score"}
    many = {
        step.key for step in plan(phantom_simulation(3), tmp_path).steps if step.name == "score"
    }
    # local and local2x of two sites at two sites, and local2x on validation cases for the choice
    assert len(few & many) == 2 * 2 * 2 + 2


def test_a_setting_enters_the_keys_of_the_stages_that_read_it_and_no_others(
    phantom_simulation: Callable[[int], Simulation], tmp_path: Path
) -> None:
    """Case 26."""
    base = phantom_simulation(2)
    budget = base.experiment.budget
    longer = budget.model_copy(
        update={"unet": budget.unet.model_copy(update={"finetune_epochs": 9})}
    )
    changed = Simulation(
        cohort=base.cohort,
        sites=base.sites,
        experiment=base.experiment.model_copy(update={"budget": longer, "warmup": 0.3}),
    )
    before, after = keys(base, tmp_path), keys(changed, tmp_path)
    assert before["site-1", "train_generator", 0] == after["site-1", "train_generator", 0]
    assert before["site-1", "local", 0] == after["site-1", "local", 0]
    assert before["site-1", "finetuned", 0] != after["site-1", "finetuned", 0]
    assert before["site-1", "local2x", 0] != after["site-1", "local2x", 0]


def with_experiment(base: Simulation, **changes: object) -> Simulation:
    experiment = base.experiment.model_copy(update=changes)
    return Simulation(cohort=base.cohort, sites=base.sites, experiment=experiment)


def test_another_labeller_changes_releases_and_nothing_before_them(
    phantom_simulation: Callable[[int], Simulation], tmp_path: Path
) -> None:
    base = phantom_simulation(2)
    before = keys(base, tmp_path)
    after = keys(with_experiment(base, labeller="local2x"), tmp_path)
    assert before.keys() == after.keys()
    changed = {
        name
        for owner, name, count in before
        if before[owner, name, count] != after[owner, name, count]
    }
    assert {"release", "quality_card", "check_release", "train_general", "finetuned"} <= changed
    assert not {"local", "local2x", "train_generator", "synthesise", "audit"} & changed


def test_a_label_gate_costs_the_pool_one_more_model_a_site(
    phantom_simulation: Callable[[int], Simulation], tmp_path: Path
) -> None:
    base = phantom_simulation(3)
    without = [step.name for step in plan(base, tmp_path).steps]
    names = [
        step.name for step in plan(with_experiment(base, min_label_agreement=0.5), tmp_path).steps
    ]
    assert "label_agreement" not in without
    assert names.count("label_agreement") == 3
    assert names.count("train_general") == without.count("train_general") + 3


def test_the_control_has_the_steps_of_general_and_fine_tuning_together(
    phantom_simulation: Callable[[int], Simulation], tmp_path: Path
) -> None:
    simulation = phantom_simulation(2)
    epochs: dict[str, int] = {}

    class Listening(SiteParty):
        async def run(self, purpose: str, stage: Stage[Any], **arguments: Any) -> Artifact:  # type: ignore[override]
            if stage.name == "train_segmenter":
                epochs[purpose] = arguments["epochs"]
            return await super().run(purpose, stage, **arguments)

    party = Listening(
        simulation.sites["site-1"], simulation.experiment, "f", tmp_path, PlanningRunner()
    )
    general = Parcel(sender="pool", stage="train_general", key="a" * 64, files={}, result={})
    shared = ReplaySet(sites=(), parcels=())
    own = ("local2x-da", "local2x-gin", "finetuned-da", "personalised-da")
    for regime in ("local2x", "finetuned", "personalised", "own-syn", *own):
        asyncio.run(party.model(regime, general, shared))
    unet = simulation.experiment.budget.unet
    assert epochs["local"] == unet.epochs  # and so is general's
    for regime in ("finetuned", "personalised", "own-syn", "finetuned-da", "personalised-da"):
        assert epochs["local2x"] == unet.epochs + epochs[regime]
    assert epochs["local2x-da"] == epochs["local2x-gin"] == epochs["local2x"]


def test_settings_add_models_and_change_no_key_of_the_protocol(
    phantom_simulation: Callable[[int], Simulation], tmp_path: Path
) -> None:
    base = with_settings(phantom_simulation(3))
    whole = with_settings(phantom_simulation(3), *settings())
    before = {step.key for step in plan(base, tmp_path).steps}
    after = plan(whole, tmp_path)
    assert before < {step.key for step in after.steps}
    assert base.run != whole.run
    scored = {(s.regime, s.train_site, s.test_site) for s in after.outcome.scores}
    assert {regime for regime, _, _ in scored} == set(REGIMES.names())
    for regime in ("personalised", "chosen", "syn", "own-syn", "personalised-da"):
        assert sum(name == regime for name, _, _ in scored) == 9
    for regime in ("real-all", "mix-25", "mix-100", "fedavg"):
        assert {(site, test) for name, site, test in scored if name == regime} == {
            ("pool", f"site-{number}") for number in (1, 2, 3)
        }
    assert {(site, test) for name, site, test in scored if name == "leave-one-out"} == {
        (f"site-{number}", f"site-{number}") for number in (1, 2, 3)
    }


def test_a_site_alone_trains_on_its_own_synthetic_images(
    phantom_simulation: Callable[[int], Simulation], tmp_path: Path
) -> None:
    asked = ("syn", "own-syn", "mix-50", "mix-100", "augment-0.5", "augment-20", "leave-one-out")
    found = plan(with_settings(phantom_simulation(1), *asked), tmp_path)
    scored = [(one.regime, one.train_site) for one in found.outcome.scores]
    assert sorted(scored) == sorted(
        [
            *((name, "site-1") for name in ("local", "local2x", "syn", "own-syn")),
            *((name, "site-1") for name in ("augment-0.5", "augment-20")),
            *((name, "pool") for name in ("mix-50", "mix-100")),
        ]
    )
    assert not found.outcome.general


def test_added_images_are_those_of_the_release_while_they_last_and_their_training_has_its_steps(
    phantom_simulation: Callable[[int], Simulation], tmp_path: Path
) -> None:
    base = with_settings(phantom_simulation(1), "augment-0.5", "augment-1", "augment-20")
    site = base.sites["site-1"]
    budget = base.experiment.budget
    wide = budget.synthesis.model_copy(update={"per_real": 1.0, "max_images": None})
    wider = budget.model_copy(update={"synthesis": wide})
    experiment = base.experiment.model_copy(update={"budget": wider})
    found = plan(replace(base, experiment=experiment), tmp_path)
    quotas = [s.call.params["quota"] for s in found.steps if s.stage == "synthesise"]
    assert sorted(quotas) == [site.training_images, 20 * site.training_images]
    added = {s.purpose: s.call.params for s in found.steps if s.stage == "prepare_augmented"}
    assert {name: one["images"] / site.training_images for name, one in added.items()} == {
        "augment-0.5": pytest.approx(0.5, abs=0.01),
        "augment-1": 1,
        "augment-20": 20,
    }
    trained = {s.name: s.call.params["epochs"] for s in found.steps if s.stage == "train_segmenter"}
    assert {trained[name] for name in added} == {trained["local2x"]}
    # What never leaves is not audited, and takes no place in the ledger of releases.
    assert sum(step.stage == "audit" for step in found.steps) == 1


def test_of_two_releases_the_other_one_is_left(
    phantom_simulation: Callable[[int], Simulation], tmp_path: Path
) -> None:
    found = plan(with_settings(phantom_simulation(2), "leave-one-out"), tmp_path)
    assert [
        (score.train_site, score.test_site)
        for score in found.outcome.scores
        if score.regime == "leave-one-out"
    ] == [("site-1", "site-1"), ("site-2", "site-2")]


def test_a_model_that_only_a_sites_training_begins_with_is_trained_and_not_scored(
    phantom_simulation: Callable[[int], Simulation], tmp_path: Path
) -> None:
    found = plan(with_settings(phantom_simulation(2), "personalised-da"), tmp_path)
    assert {score.regime for score in found.outcome.scores} == {*protocol(), "personalised-da"}
    (augmented,) = [
        step
        for step in found.steps
        if step.stage == "train_general" and "augmentation" in step.call.params
    ]
    assert augmented.call.params["augmentation"] == "da5"
    assert augmented.purpose == "general-da"
    tuned = [step for step in found.steps if step.name == "personalised-da"]
    assert [step.call.inputs["initial"].key for step in tuned] == [augmented.key] * 2
    plain = [step.call.params for step in found.steps if step.purpose in protocol()]
    assert not any("augmentation" in params for params in plain)


def test_an_ensemble_is_of_the_models_that_are_trained_for_its_members(
    phantom_simulation: Callable[[int], Simulation], tmp_path: Path
) -> None:
    ensembles = ("local-ensemble", "ensemble", "ensemble-da")
    found = plan(with_settings(phantom_simulation(2), "personalised", *ensembles), tmp_path)
    trained = {
        (step.owner, step.name): step.key for step in found.steps if step.stage == "train_segmenter"
    }
    for owner in ("site-1", "site-2"):
        inputs = {
            step.name: [one.key for one in step.call.inputs.values()]
            for step in found.steps
            if step.stage == "ensemble" and step.owner == owner
        }
        assert inputs == {
            "local-ensemble": [trained[owner, "local2x"], trained[owner, "local-ensemble"]],
            "ensemble": [trained[owner, "local2x"], trained[owner, "personalised"]],
            "ensemble-da": [trained[owner, "local2x-da"], trained[owner, "personalised"]],
        }
    scored = {(s.regime, s.train_site, s.test_site) for s in found.outcome.scores}
    assert {regime for regime, _, _ in scored} == {
        *protocol(),
        "personalised",
        "chosen",
        *ensembles,
    }
    for regime in ensembles:
        assert sum(name == regime for name, _, _ in scored) == 4


def test_a_site_chooses_only_between_models_that_are_scored(
    phantom_simulation: Callable[[int], Simulation], tmp_path: Path
) -> None:
    found = plan(with_settings(phantom_simulation(2), "ensemble"), tmp_path)
    assert {score.regime for score in found.outcome.scores} == {*protocol(), "ensemble"}
    assert not found.outcome.chosen


def test_personal_federated_trainings_end_with_a_model_for_each_site(
    phantom_simulation: Callable[[int], Simulation], tmp_path: Path
) -> None:
    found = plan(with_settings(phantom_simulation(3), "fedavg", "fedbn", "ditto"), tmp_path)
    oracles = [step for step in found.steps if step.owner == ORACLE]
    names = [step.name for step in oracles]
    # One preparation, on the sites' own fingerprints, serves all three.
    assert names.count("prepare_together") == 1
    assert names.count("train_fedavg") == 1
    assert names.count("train_personal_federated") == 2
    assert names.count("model_of_site") == 6
    (prepared,) = [step for step in oracles if step.stage == "prepare_together"]
    assert prepared.call.params["federated"]
    for regime in ("fedbn", "ditto"):
        scored = {(s.train_site, s.test_site) for s in found.outcome.scores if s.regime == regime}
        sites = [f"site-{number}" for number in (1, 2, 3)]
        assert scored == {(one, other) for one in sites for other in sites}


def test_a_release_is_weighed_on_validation_cases_of_all_sites_where_a_model_lacks_it(
    phantom_simulation: Callable[[int], Simulation], tmp_path: Path
) -> None:
    plain = plan(with_settings(phantom_simulation(3)), tmp_path)
    assert [receipt.effect for receipt in plain.outcome.sites.values()] == [None] * 3
    weighed = plan(with_settings(phantom_simulation(3), "leave-one-out"), tmp_path)
    assert all(receipt.effect is not None for receipt in weighed.outcome.sites.values())
    validated = [
        (step.owner, step.purpose)
        for step in weighed.steps
        if step.stage == "score" and step.call.params["cases"][0]["part"] == "val"
    ]
    for number in (1, 2, 3):
        assert validated.count((f"site-{number}", "general")) == 1
        assert validated.count((f"site-{number}", "leave-one-out")) == 3


def test_the_effect_of_a_release_is_what_the_general_model_loses_without_it() -> None:
    class Site:
        def __init__(self, harder: float) -> None:
            self.harder = harder

        async def call(self, _method: Any, regime: str, train_site: str, model: str) -> float:
            assert (regime, train_site, model) in {
                ("general", "pool", "all"),
                ("leave-one-out", "a", "all but a"),
            }
            return {"all": 0.7, "all but a": 0.75}[model] - self.harder

    async def effect() -> float:
        sites = {"a": Site(0.0), "b": Site(0.2)}
        run = _Run({**sites, "pool": Site(0.0)}, (), Rules(), (), print)  # type: ignore[dict-item]
        models = [asyncio.get_running_loop().create_future() for _ in range(2)]
        for model, name in zip(models, ("all", "all but a"), strict=True):
            model.set_result(name)
        return await run._effect("leave-one-out", "a", *models)

    assert asyncio.run(effect()) == pytest.approx(-0.05)


def with_settings(simulation: Simulation, *settings: str) -> Simulation:
    experiment = simulation.experiment.model_copy(update={"settings": settings})
    return replace(simulation, experiment=experiment)


def test_there_is_an_oracle_only_where_a_setting_needs_all_real_data(
    phantom_simulation: Callable[[int], Simulation],
) -> None:
    assert ORACLE not in with_settings(phantom_simulation(2), "personalised", "syn").party_names
    assert ORACLE in with_settings(phantom_simulation(2), "fedavg").party_names


def test_a_site_keeps_what_travels_best_unless_it_is_worse_at_home(
    phantom_simulation: Callable[[int], Simulation], tmp_path: Path
) -> None:
    simulation = phantom_simulation(2)
    dice: dict[str, float] = {}
    patients = 8

    class Knowing(SiteParty):
        async def score_cases(self, part: str, _purpose: str, regime: str, *_: Any) -> list[Any]:
            assert part == "val"
            return [{"patient": k, "case": k, "dice": dice[regime]} for k in range(patients)]

    def choice(**found: float) -> str:
        dice.update(found)
        party = Knowing(
            simulation.sites["site-1"], simulation.experiment, "f", tmp_path, PlanningRunner()
        )
        general = Parcel(sender="pool", stage="train_general", key="a" * 64, files={}, result={})
        return asyncio.run(party.choose(general, ReplaySet(sites=(), parcels=())))

    assert choice(personalised=0.7, finetuned=0.8, local2x=0.7) == "personalised"
    assert choice(personalised=0.69, finetuned=0.8, local2x=0.7) == "personalised"
    assert choice(personalised=0.67, finetuned=0.8, local2x=0.7) == "finetuned"
    assert choice(personalised=0.67, finetuned=0.67, local2x=0.7) == "local2x"
    patients = 6
    assert choice(personalised=0.8, finetuned=0.8, local2x=0.7) == "local2x"


def test_seeds_differ_by_site_and_stage_but_not_by_company(
    phantom_simulation: Callable[[int], Simulation], tmp_path: Path
) -> None:
    def seeds(sites: int) -> dict[tuple[str, str], int]:
        simulation = phantom_simulation(sites)
        return {
            (name, stage): simulation.site_party(name, tmp_path, PlanningRunner()).seed(stage)
            for name in simulation.sites
            for stage in ("generator", "samples", "local")
        }

    two, three = seeds(2), seeds(3)
    assert len(set(three.values())) == 9
    assert two.items() <= three.items()


def test_cases_travel_as_indices_in_the_order_of_names(
    real_cohort: Callable[[str], Cohort],
) -> None:
    site = sites_of(real_cohort("Dataset301_LungCXR"), 0)["CovidMulti"]
    assert [case["index"] for case in site.cases] == list(range(len(site.cases)))
    assert {case["patient"] for case in site.cases} == set(range(35))


def test_what_the_pool_is_told_names_no_case(
    phantom_simulation: Callable[[int], Simulation],
) -> None:
    simulation = phantom_simulation(2)
    told = (simulation.key, simulation.federation, dict(simulation.dataset), simulation.experiment)
    names = [case["name"] for case in simulation.sites["site-1"].cases]
    assert names[0].encode() not in pickle.dumps(told)


def test_no_patient_is_in_two_parts(real_cohort: Callable[[str], Cohort]) -> None:
    for site in sites_of(real_cohort("Dataset303_PolypRGB"), 2).values():
        parts = [{case["patient"] for case in site.part(part)} for part in ("train", "val", "test")]
        assert all(parts)
        assert not parts[0] & parts[1]
        assert not parts[0] & parts[2]
        assert not parts[1] & parts[2]


def test_the_root_key_follows_the_content_of_the_data(
    real_cohort: Callable[[str], Cohort], smoke: Experiment
) -> None:
    """Case 26."""
    cohort = real_cohort("Dataset303_PolypRGB")
    case, *others = cohort.sites["CVC"]
    changed = replace(
        cohort, sites={**cohort.sites, "CVC": (replace(case, digest="0" * 64), *others)}
    )
    before, after = sites_of(cohort, smoke.fold), sites_of(changed, smoke.fold)
    assert before["CVC"].key != after["CVC"].key
    assert before["Kvasir"].key == after["Kvasir"].key


def test_scores_of_a_site_that_are_not_numbers_are_left_out_and_named(
    phantom_simulation: Callable[[int], Simulation], caplog: pytest.LogCaptureFixture
) -> None:
    """Case 33."""

    def scored(site: str, dice: float | None) -> Scored:
        row = {"patient": 0, "case": 3, "label": "organ", "dice": dice, "hd95": 2.0}
        rows = [{**row, "nsd": 0.5, "volume_error": None}]
        return Scored(test_site=site, regime="local", train_site=site, rows=rows)

    values = (("site-1", 0.5), ("site-2", math.nan), ("site-3", math.inf), ("site-4", None))
    found = Outcome(sites={}, scores=tuple(scored(*v) for v in values), general=False, chosen={})
    rows = score_rows(phantom_simulation(2), found)
    assert [(r.test_site, r.value) for r in rows if r.metric == "dice"] == [("site-1", 0.5)]
    assert {r.test_site for r in rows if r.metric == "hd95"} == {name for name, _ in values}
    said = [record.message for record in caplog.records]
    assert said == [
        f"{site}: dice of organ under local is not a number; it is left out"
        for site in ("site-2", "site-3")
    ]
