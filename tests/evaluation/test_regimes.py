"""The table of regimes: what files and command lines say of it, and what follows from a record."""

from __future__ import annotations

from hyfree_ray.evaluation.regimes import (
    CONTROL,
    REGIMES,
    candidates,
    of_own_images,
    primary,
    protocol,
    record_of,
    settings,
    trained_by,
)


def test_names_and_their_order_stay_as_files_have_them() -> None:
    assert protocol() == ("local", "local2x", "general", "finetuned")
    assert settings() == (
        *("personalised", "real-all", "syn", "own-syn", "leave-one-out"),
        *("mix-25", "mix-50", "mix-75", "mix-100", "fedavg"),
    )
    assert settings(default=True) == ("personalised", "real-all")
    assert tuple(REGIMES) == (*protocol(), "personalised", "chosen", *settings()[1:])
    assert candidates() == ("personalised", "finetuned", CONTROL)
    assert of_own_images() == ("local", CONTROL)
    assert primary() == "finetuned"
    assert trained_by("oracle") == (
        *("real-all", "mix-25", "mix-50", "mix-75", "mix-100", "fedavg"),
    )


def test_what_a_model_knows_of_other_sites_follows_from_whose_releases_are_in_it() -> None:
    of_the_pool = [name for name, one in REGIMES.items() if one.of_the_pool]
    assert of_the_pool == ["general", "finetuned", "personalised", "chosen"]
    of_one = [name for name, one in REGIMES.items() if one.of_one_release]
    assert of_one == ["syn", "own-syn", "leave-one-out"]
    assert [name for name, one in REGIMES.items() if one.foreign_only] == ["leave-one-out"]


def test_every_control_is_a_regime_and_every_record_has_words_of_its_own() -> None:
    assert {one.control for one in REGIMES.values()} - {None} <= REGIMES.keys()
    assert len({one.label for one in REGIMES.values()}) == len(REGIMES)
    assert len({one.progress for one in REGIMES.values()}) == len(REGIMES)


def test_a_regime_that_only_a_file_knows_is_compared_with_nothing() -> None:
    stranger = record_of("magic")
    assert (stranger.name, stranger.control, stranger.by_site) == ("magic", None, False)
