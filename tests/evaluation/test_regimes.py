"""The table of regimes: what files and command lines say of it, and what follows from a record."""

from __future__ import annotations

import pytest

from hyfree_ray.config.resolution import resolve_experiment
from hyfree_ray.evaluation.regimes import (
    CONTROL,
    REGIMES,
    REPLAY,
    Regime,
    candidates,
    in_order,
    is_setting,
    of_own_images,
    primary,
    protocol,
    record_of,
    setting_names,
    settings,
    trained_by,
)


def test_names_and_their_order_stay_as_files_have_them() -> None:
    assert protocol() == ("local", "local2x", "general", "finetuned")
    assert settings() == (
        *("personalised", "real-all", "syn", "own-syn", "leave-one-out"),
        *("mix-25", "mix-50", "mix-75", "mix-100", "fedavg"),
        *("local2x-da", "general-da", "finetuned-da", "personalised-da", "local2x-gin"),
        *("general-public", "finetuned-public", "personalised-public"),
        *("local-ensemble", "fedbn", "ditto", "ensemble", "ensemble-da"),
        *("augment-0.5", "augment-1", "augment-2", "augment-5", "augment-10", "augment-20"),
        *("local2x-noda", "syn-noda", "augment-1-noda"),
    )
    assert settings(default=True) == ("personalised", "real-all")
    assert REGIMES.names() == (*protocol(), "personalised", "chosen", *settings()[1:])
    assert candidates() == ("personalised", "finetuned", CONTROL)
    assert of_own_images() == ("local", CONTROL)
    assert primary() == "finetuned"
    assert trained_by("oracle") == (
        *("real-all", "mix-25", "mix-50", "mix-75", "mix-100", "fedavg", "fedbn", "ditto"),
    )


def test_what_a_model_knows_of_other_sites_follows_from_whose_releases_are_in_it() -> None:
    of_the_pool = [one.name for one in REGIMES.built_in() if one.of_the_pool]
    assert of_the_pool == [
        *("general", "finetuned", "personalised", "chosen"),
        *("general-da", "finetuned-da", "personalised-da"),
        *("general-public", "finetuned-public", "personalised-public"),
        *("ensemble", "ensemble-da"),
    ]
    of_one = [one.name for one in REGIMES.built_in() if one.of_one_release]
    assert of_one == ["syn", "own-syn", "leave-one-out", "syn-noda"]
    assert [one.name for one in REGIMES.built_in() if one.foreign_only] == ["leave-one-out"]


def test_every_control_is_a_regime_and_every_record_has_words_of_its_own() -> None:
    assert {one.control for one in REGIMES.built_in()} - {None} <= set(REGIMES.names())
    assert len({one.label for one in REGIMES.built_in()}) == len(REGIMES.names())
    assert len({one.progress for one in REGIMES.built_in()}) == len(REGIMES.names())


def test_a_sites_training_begins_with_a_model_that_the_pool_trains() -> None:
    for one in REGIMES.built_in():
        for need in {*one.needs} - {REPLAY}:
            assert (record_of(need).trained_by, record_of(need).releases) == ("pool", "all")


def test_a_regime_with_stronger_augmentation_differs_from_its_own_by_that_alone() -> None:
    augmented = [one for one in REGIMES.built_in() if one.augmentation == "da5"]
    assert [one.name for one in augmented] == [
        *("local2x-da", "general-da", "finetuned-da", "personalised-da"),
    ]
    for one in augmented:
        base = record_of(one.name.removesuffix("-da"))
        assert (one.train, one.trained_by, one.releases) == (
            *(base.train, base.trained_by, base.releases),
        )
        assert {record_of(n).augmentation for n in {*one.needs} - {REPLAY}} <= {"da5"}


def test_a_regime_without_augmentation_differs_from_its_own_by_that_and_its_control_alone() -> None:
    plain = [one for one in REGIMES.built_in() if one.augmentation == "none"]
    assert [one.name for one in plain] == ["local2x-noda", "syn-noda", "augment-1-noda"]
    for one in plain:
        base = record_of(one.name.removesuffix("-noda"))
        for field in ("train", "trained_by", "releases", "needs", "added_per_real"):
            assert getattr(one, field) == getattr(base, field)
        assert one.control == (None if base.name == CONTROL else "local2x-noda")


def test_a_regime_that_only_a_file_knows_is_compared_with_nothing() -> None:
    stranger = record_of("magic")
    assert (stranger.name, stranger.control, stranger.by_site) == ("magic", None, False)


def test_another_packages_regime_stands_behind_ours_and_is_a_setting_once_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    toy = Regime(
        name="toy",
        label="a toy",
        progress="playing",
        trained_by="site",
        train="toys:train",
        setting="optional",
        candidate=0,
    )
    monkeypatch.setattr(REGIMES, "_records", {})
    monkeypatch.setattr(REGIMES, "_registered", set())
    REGIMES.register(toy)
    assert setting_names() == (*settings(), "toy")
    assert is_setting("toy")
    assert in_order(["toy", "fedavg", "local", "fedavg"]) == ("local", "fedavg", "toy")
    assert trained_by("site", ["toy", "general", "local"]) == ("local", "toy")
    assert candidates(["toy"])[0] == "toy"
    assert "toy" not in candidates()
    found, _ = resolve_experiment(
        budget="smoke", generator="flow", device="cpu", overrides=["settings=[toy, real-all]"]
    )
    assert found.settings == ("real-all", "toy")
