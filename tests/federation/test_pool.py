"""The centre: takes releases as they come, refuses what is wrong, closes a round once."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path

import pytest

from hyfree_ray.border.gate import Gate
from hyfree_ray.border.quality_card import QualityGate
from hyfree_ray.config.experiment import GeneratorChoice
from hyfree_ray.federation.interface import Receipt
from hyfree_ray.federation.pool import PoolParty
from hyfree_ray.federation.simulation import Simulation
from hyfree_ray.runners.local import LocalRunner
from tests.cards import card, quality
from tests.submissions import notice, parcel, take

BEFORE = "5968ecb76562dd33b45e1f24209673a3-f083952080244740eeb861e3ff224b54"
"""What releases were made for when both generators' settings were in each experiment."""


def test_a_good_release_is_taken_and_can_be_looked_at(
    pool: PoolParty, simulation: Simulation, tmp_path: Path
) -> None:
    outcome = take(pool, "site-1", parcel(simulation, "site-1", tmp_path))
    # The rate is that of its signed card, whatever is said beside it.
    assert outcome == Receipt(outcome="released", rejection_rate=0.12, images=6)
    picture = asyncio.run(pool.picture("site-1"))
    assert picture is not None
    assert picture.startswith(b"\x89PNG")


def test_a_release_whose_masks_are_shifted_is_taken_and_flagged(
    pool: PoolParty, simulation: Simulation, tmp_path: Path
) -> None:
    """Case 93: somebody has to look at it; that it is poisoned cannot be told from it alone."""
    honest = take(pool, "site-1", parcel(simulation, "site-1", tmp_path, moved=0))
    poisoned = take(pool, "site-2", parcel(simulation, "site-2", tmp_path, moved=5))
    assert (honest.outcome, honest.flag) == ("released", None)
    assert poisoned.outcome == "released"
    assert poisoned.flag == (
        "its labels look shifted: they fit its images best when moved 5 pixels left"
    )


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"signed": False}, "parcel"),
        ({"signer": "site-2"}, "signature"),
        ({"flip": True}, "sha256"),
        ({"federation": "another"}, "experiment"),
        ({"labels": {"background": 0, "kidney": 1, "lesion": 2}}, "task"),
        ({"card": {}}, "card"),
        ({"card": card(rejection_rate=0.9)}, "gate"),
    ],
)
def test_a_bad_release_is_refused_with_its_rule_and_the_others_go_on(
    pool: PoolParty, simulation: Simulation, tmp_path: Path, changes: dict, rule: str
) -> None:
    """Cases 53, 37 and 89: signature, hash, experiment, task, card and gate."""
    bad = take(pool, "site-1", parcel(simulation, "site-1", tmp_path, **changes))
    assert bad.outcome == "refused"
    assert f"({rule})" in bad.reason
    for site in ("site-2", "site-3"):
        take(pool, site, parcel(simulation, site, tmp_path))
    members = pool.rounds.close(["site-1", "site-2", "site-3"]).releases
    assert sorted(members) == ["site-2", "site-3"]


@pytest.mark.parametrize("enforced", [True, False])
def test_one_release_that_teaches_nothing_changes_no_general_model(
    pool: PoolParty, simulation: Simulation, tmp_path: Path, enforced: bool
) -> None:
    """The round, and so the general model's key, is as if the site had sent nothing."""
    bounds = QualityGate(enforced=enforced)
    gate = pool.experiment.gate.model_copy(update={"quality": bounds})
    pool.experiment = pool.experiment.model_copy(update={"gate": gate})
    noise = quality(accuracy=1.0, images_times_floor=12.0)
    took = take(pool, "site-1", parcel(simulation, "site-1", tmp_path, quality=noise))
    for site in ("site-2", "site-3"):
        take(pool, site, parcel(simulation, site, tmp_path, quality=quality()))
    members = pool.rounds.close(["site-1", "site-2", "site-3"]).releases
    if enforced:
        assert took.outcome == "refused"
        assert "(quality)" in took.reason
        assert sorted(members) == ["site-2", "site-3"]
    else:  # a study's choice, and its rows say so
        assert took.outcome == "released"
        assert sorted(members) == ["site-1", "site-2", "site-3"]


def test_another_sites_release_is_refused(
    pool: PoolParty, simulation: Simulation, tmp_path: Path
) -> None:
    """Case 53."""
    outcome = take(pool, "site-2", parcel(simulation, "site-1", tmp_path))
    assert outcome.outcome == "refused"
    assert "(site)" in outcome.reason
    for signer, rule in (("site-1", "signature"), ("site-2", "site")):
        stolen = parcel(simulation, "site-1", tmp_path, signer=signer)
        renamed = dataclasses.replace(stolen, sender="site-2")
        assert f"({rule})" in take(pool, "site-2", renamed).reason


def test_a_site_whose_key_is_not_known_is_refused_and_nothing_is_kept(
    simulation: Simulation, tmp_path: Path
) -> None:
    """Case 53."""
    stranger = simulation.pool_party(tmp_path / "store", LocalRunner("cpu"))
    outcome = take(stranger, "site-1", parcel(simulation, "site-1", tmp_path))
    assert "(signature)" in outcome.reason
    assert not (tmp_path / "store" / "pool" / "received").exists()


def test_the_same_release_twice_is_one(
    pool: PoolParty, simulation: Simulation, tmp_path: Path
) -> None:
    """Case 31, over a restart of the pool too."""
    mine = parcel(simulation, "site-1", tmp_path)
    first = take(pool, "site-1", mine)
    again = simulation.pool_party(tmp_path / "store", LocalRunner("cpu"))
    assert first.outcome == take(pool, "site-1", mine).outcome == "released"
    assert take(again, "site-1", mine) == first
    assert len(list((tmp_path / "store" / "pool" / "nonces" / "site-1").iterdir())) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"content": 1}, "with other content under the same key"),
        ({"content": 1, "key": 1}, "(second)"),
        ({"content": 1, "key": 1, "nonce": "new"}, "(second)"),
        ({"round": 2, "key": 1}, "(round)"),
        ({"federation": "last year's", "key": 1}, "(experiment)"),
        ({"federation": BEFORE, "key": 1}, "(experiment)"),
    ],
)
def test_another_release_after_the_first_is_refused_and_the_first_kept(
    pool: PoolParty, simulation: Simulation, tmp_path: Path, changes: dict, said: str
) -> None:
    """Cases 32 and 37: other content, another round's, another experiment's; all well signed."""
    first = take(pool, "site-1", parcel(simulation, "site-1", tmp_path))
    restarted = simulation.pool_party(tmp_path / "store", LocalRunner("cpu"))
    for party in (pool, restarted):
        second = take(party, "site-1", parcel(simulation, "site-1", tmp_path, **changes))
        assert second.outcome == "refused"
        assert said in second.reason
        kept = party.rounds.entry("site-1")
        assert kept is not None
        assert (kept.outcome, kept.images) == ("released", first.images)


def test_a_nonce_is_remembered_over_rounds_and_restarts(
    pool: PoolParty, simulation: Simulation, tmp_path: Path
) -> None:
    """Case 37: other settings are another round, in which the same release may come again."""
    take(pool, "site-1", parcel(simulation, "site-1", tmp_path))
    later = simulation.pool_party(tmp_path / "store", LocalRunner("cpu"))
    later.rounds.folder = "rounds/another"
    reused = parcel(simulation, "site-1", tmp_path, content=1, key=1)
    assert "(nonce)" in take(later, "site-1", reused).reason
    same = parcel(simulation, "site-1", tmp_path)
    assert take(later, "site-1", same).outcome == "released"


@pytest.mark.parametrize(
    "name", ["evil.pth", "", ".", "release.arrow/x", "record.json", "public.key", "withheld.json"]
)
def test_a_release_with_any_other_file_is_refused_and_the_file_never_written(
    pool: PoolParty, simulation: Simulation, tmp_path: Path, name: str
) -> None:
    """Cases 53 and 56: what is not signed for is not kept, and its name breaks nothing."""
    good = parcel(simulation, "site-1", tmp_path)
    more = dataclasses.replace(good, files={**good.files, name: b"\x80\x04"})
    told = take(pool, "site-1", more)
    assert told.outcome == "refused"
    assert "(parcel)" in told.reason
    assert "\n" not in told.reason
    written = [file for file in (tmp_path / "store").rglob("*") if file.is_file()]
    assert all(file.name != "evil.pth" for file in written)
    # In quarantine a file may lie, under a name that is ours.
    used = [file for file in written if "quarantine" not in file.parts]
    assert all(file.read_bytes() != b"\x80\x04" for file in used)
    assert not (pool.store.root / "received").exists()
    assert take(pool, "site-1", good).outcome == "released"


@pytest.mark.parametrize(
    "changed",
    [
        {"generator": GeneratorChoice(name="stylegan2", config={"max_channels": 8})},
        {"generator": GeneratorChoice(name="flow", config={"max_channels": 9, "evaluations": 10})},
        {"segmenter": "another"},
        {"threshold_percentile": 1.0},
        {"gate": Gate(max_rejection_rate=0.9)},
        {"labeller": "local2x"},
    ],
    ids=str,
)
def test_a_release_is_not_taken_into_an_experiment_of_other_settings(
    pool: PoolParty, simulation: Simulation, tmp_path: Path, changed: dict
) -> None:
    """Case 37: the old parcel is as well signed as it was, and its nonce is known."""
    first = parcel(simulation, "site-1", tmp_path)
    assert take(pool, "site-1", first).outcome == "released"
    experiment = simulation.experiment.model_copy(update=changed)
    other = dataclasses.replace(simulation, experiment=experiment)
    told = take(other.pool_party(tmp_path / "store", LocalRunner("cpu")), "site-1", first)
    assert told.outcome == "refused"
    assert "(experiment)" in told.reason
    assert "--set or version of hyfree-ray differ" in told.reason
    assert "--seed" not in told.reason


def test_one_release_makes_no_general_model(
    pool: PoolParty, simulation: Simulation, tmp_path: Path
) -> None:
    take(pool, "site-1", parcel(simulation, "site-1", tmp_path))
    take(pool, "site-2", notice(simulation, "site-2", tmp_path))
    assert pool.rounds.close(["site-1", "site-2"]).releases == {}


def test_a_pool_that_lost_its_memory_finds_what_it_had_taken(
    pool: PoolParty, simulation: Simulation, tmp_path: Path
) -> None:
    for site in ("site-1", "site-2"):
        take(pool, site, parcel(simulation, site, tmp_path))
    again = simulation.pool_party(tmp_path / "store", LocalRunner("cpu"))
    assert sorted(again.rounds.close(["site-1", "site-2"]).releases) == ["site-1", "site-2"]
    assert asyncio.run(again.picture("site-2")) == asyncio.run(pool.picture("site-2"))


def test_a_round_does_not_close_over_a_site_that_is_not_in(
    pool: PoolParty, simulation: Simulation, tmp_path: Path
) -> None:
    take(pool, "site-1", parcel(simulation, "site-1", tmp_path))
    with pytest.raises(AssertionError, match="site-2"):
        pool.rounds.close(["site-1", "site-2"])


def test_who_was_in_is_written_once_and_not_by_order_of_arrival(
    pool: PoolParty, simulation: Simulation, tmp_path: Path
) -> None:
    for site in ("site-2", "site-1"):
        take(pool, site, parcel(simulation, site, tmp_path))
    first = pool.rounds.close(["site-1", "site-2"])
    take(pool, "site-3", parcel(simulation, "site-3", tmp_path))
    assert pool.rounds.close(["site-1", "site-2", "site-3"]) == first
    (written,) = (tmp_path / "store").glob("pool/rounds/*/1.json")
    assert list(json.loads(written.read_text())["releases"]) == ["site-1", "site-2"]
