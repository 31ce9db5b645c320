"""What a quality card may say, and what of it closes the gate."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from hyfree_ray.border.quality_card import (
    QualityCard,
    QualityGate,
    check_quality,
    describe_quality,
    finds_nothing,
    read_quality_card,
    significant,
    violations,
)
from hyfree_ray.border.release import read_release, write_release
from hyfree_ray.core.errors import ReleaseError
from tests.cards import STRUCTURE, quality
from tests.release_files import EXPERIMENT, METADATA, ROUND, pixels


def lesions(share: float) -> dict[str, Any]:
    synthetic = STRUCTURE | {"share": share}
    return {"lesion": {"synthetic": synthetic, "real": STRUCTURE, "labelled": STRUCTURE}}


TEACHES_NOTHING = {
    "told from real ones": {"accuracy": 1.0, "images_times_floor": 9.0},
    "lesions lack": {"structures": lesions(0.003)},
    "nobody learns": {"taught": {"release": 0.2, "half": 0.7, "local": 0.78}},
}


def test_a_release_that_teaches_passes() -> None:
    assert violations(read_quality_card(quality()), QualityGate()) == []


@pytest.mark.parametrize("changes", TEACHES_NOTHING.values(), ids=[*TEACHES_NOTHING])
def test_each_bound_closes_the_gate_alone_and_is_put_in_words(changes: dict[str, Any]) -> None:
    card = read_quality_card(quality(**changes))
    (said,) = violations(card, QualityGate())
    assert len(said) > 40
    assert violations(card, QualityGate(enforced=False)) == []


def test_images_that_are_told_but_not_far_from_real_ones_pass() -> None:
    """At 64 pixels a network may know good images by a trait that nobody learns from."""
    assert violations(read_quality_card(quality(accuracy=1.0)), QualityGate()) == []
    assert violations(read_quality_card(quality(images_times_floor=9.0)), QualityGate()) == []


def missed(synthetic: float, labelled: float) -> dict[str, Any]:
    found = lesions(synthetic)["lesion"]
    return found | {"labelled": STRUCTURE | {"share": labelled}}


def test_images_are_not_to_blame_for_what_the_labelling_network_misses_in_real_ones() -> None:
    """Seen on the brain phantom: necrosis was in the images, and in no label."""
    seen = lesions(STRUCTURE["share"])["lesion"]
    structures = {"oedema": seen, "necrosis": missed(0.0, labelled=0.0)}
    assert violations(read_quality_card(quality(structures=structures)), QualityGate()) == []
    structures = {"oedema": seen, "necrosis": missed(0.0, labelled=STRUCTURE["share"])}
    (said,) = violations(read_quality_card(quality(structures=structures)), QualityGate())
    assert said.startswith("necrosis")


def test_a_release_without_any_label_teaches_nothing_whoever_is_to_blame() -> None:
    structures = {"oedema": missed(0.0, labelled=0.0), "necrosis": missed(1e-5, labelled=1e-5)}
    assert len(violations(read_quality_card(quality(structures=structures)), QualityGate())) == 2


def test_it_is_known_whether_the_images_or_the_labelling_network_are_to_blame() -> None:
    gate = QualityGate()
    blind = {"oedema": missed(0.0, labelled=0.0), "necrosis": missed(0.0, labelled=0.0)}
    assert finds_nothing(read_quality_card(quality(structures=blind)), gate)
    assert not finds_nothing(read_quality_card(quality(structures=lesions(0.0))), gate)
    assert not finds_nothing(read_quality_card(quality(structures={})), gate)


def test_where_real_images_teach_hardly_anything_what_a_release_teaches_is_not_held_to_it() -> None:
    taught = {"release": 0.0, "half": 0.12, "local": 0.1}
    assert violations(read_quality_card(quality(taught=taught)), QualityGate()) == []


def test_what_cannot_be_measured_closes_nothing() -> None:
    card = QualityCard(measurable=False, reason="3 real images of 2 patients are too few")
    assert violations(card, QualityGate()) == []
    assert "too few" in describe_quality(card)[0]


def test_a_site_that_learns_nothing_itself_is_not_to_blame_for_its_release() -> None:
    taught = {"release": 0.0, "half": 0.0, "local": 0.0}
    assert violations(read_quality_card(quality(taught=taught)), QualityGate()) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"accuracy": 1.2},
        {"accuracy": float("nan")},
        {"images_times_floor": float("inf")},
        {"names": ["patient 7"]},
        {"structures": {"lesion": {"synthetic": STRUCTURE}}},
        {"images": {"spectrum": {"value": 0.1, "floor": 0.0}}},
        {"compared_with": "patient 7"},
        {"taught": {"release": 0.7, "half": 0.7, "local": 0.7, "cases": [0.1, 0.9]}},
    ],
)
def test_a_card_with_anything_else_on_it_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read_quality_card(quality() | changes)


def released(folder: Path, card: dict[str, Any]) -> Any:
    images_NCHW, labels_NHW = pixels()
    write_release(
        folder,
        dataclasses.replace(METADATA, quality=card),
        images_NCHW,
        labels_NHW,
        experiment=EXPERIMENT,
        round_number=ROUND,
        nonce="n",
    )
    return read_release(folder, site=METADATA.site, experiment=EXPERIMENT, round_number=ROUND)


def test_the_pool_holds_the_card_that_arrived_to_its_own_gate(tmp_path: Path) -> None:
    good = released(tmp_path / "good", quality())
    check_quality(good, QualityGate())
    bad = released(tmp_path / "bad", quality(accuracy=1.0, images_times_floor=9.0))
    with pytest.raises(ReleaseError) as refused:
        check_quality(bad, QualityGate())
    assert refused.value.rule == "quality"
    check_quality(bad, QualityGate(enforced=False))
    check_quality(bad, QualityGate(max_images_times_floor=10.0))


def test_a_release_without_a_card_passes_only_where_none_is_asked_for(tmp_path: Path) -> None:
    bare = released(tmp_path, {})
    with pytest.raises(ReleaseError) as refused:
        check_quality(bare, QualityGate())
    assert refused.value.rule == "card"
    check_quality(bare, QualityGate(enforced=False))


def test_numbers_are_as_coarse_as_a_reader_needs() -> None:
    assert significant(0.0123456) == 0.012
    assert significant(13.76) == 14
    assert significant(0) == 0
