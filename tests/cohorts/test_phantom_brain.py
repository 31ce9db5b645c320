"""The brain phantom: co-registered sequences, nested tumours, scanners that differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hyfree_ray.cohorts.cohort import read_cohort, split_fold
from hyfree_ray.cohorts.phantom_brain import BRAIN
from hyfree_ray.cohorts.phantom_brain_anatomy import CORE, NECROSIS, OEDEMA
from hyfree_ray.cohorts.phantom_brain_sites import FIXED_SITES, MAX_SITES, SEQUENCES, brain_style
from hyfree_ray.cohorts.phantom_record import DEFAULT_PHANTOM, PHANTOMS, DrawnCase
from hyfree_ray.federation.simulation import sites_of
from tests.refusals import refuses

SITE = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest hospital, drawn."""
    out = tmp_path_factory.mktemp("brain") / "site"
    BRAIN.draw_site(SITE, 0, out)
    return out


@pytest.fixture(scope="module")
def drawn() -> list[DrawnCase]:
    return list(BRAIN.draw(SITE, 0, ()))


def test_a_drawn_hospital_reads_as_the_cohort_described_it(folder: Path) -> None:
    read = read_cohort(folder)
    told = BRAIN.cohort_of(3, 0, folder)
    found, expected = read.sites[f"site-{SITE}"], told.sites[f"site-{SITE}"]
    for field in ("name", "patient", "images", "label", "shape"):
        assert [getattr(case, field) for case in found] == [
            getattr(case, field) for case in expected
        ]
    assert found[0].spacing == pytest.approx(expected[0].spacing)
    assert read.channel_names == told.channel_names == SEQUENCES
    assert read.labels == told.labels


def test_every_slice_of_a_volume_is_seen_by_the_generator() -> None:
    cohort = BRAIN.cohort_of(FIXED_SITES, 0, Path())
    drawn = {name: BRAIN.drawn_from(name, 0) for name in cohort.sites}
    for name, site in sites_of(cohort, 0, phantom=drawn).items():
        train = split_fold(cohort.sites[name], 0).train
        assert {case["slice_axis"] for case in site.cases} == {0}
        assert site.training_images == sum(case.shape[0] for case in train)


def test_hospitals_are_uneven_and_fill_every_fold() -> None:
    sites = BRAIN.cohort_of(FIXED_SITES, 0, Path()).sites
    patients = sorted(len(cases) for cases in sites.values())
    assert (patients[0], patients[-1]) == (8, 45)
    for cases in sites.values():
        for fold in range(5):
            split = split_fold(cases, fold)
            assert all((split.train, split.val, split.test))


def test_the_same_seed_draws_the_same_pixels_and_another_seed_others(
    drawn: list[DrawnCase],
) -> None:
    again, other = next(BRAIN.draw(SITE, 0, ())), next(BRAIN.draw(SITE, 1, ()))
    np.testing.assert_array_equal(again.images[0], drawn[0].images[0])
    np.testing.assert_array_equal(again.label, drawn[0].label)
    assert not np.array_equal(other.images[0][0], drawn[0].images[0][0])


def test_a_third_of_the_slices_is_empty_and_tumours_are_small_and_nested() -> None:
    labels = [case.label for index in (SITE, 6) for case in BRAIN.draw(index, 0, ())]
    shares = np.array([(slice_HW > 0).mean() for label in labels for slice_HW in label])
    assert 0.25 < (shares == 0).mean() < 0.45
    assert 0.005 < shares.mean() < 0.03
    assert shares.max() < 0.08
    inner = outer = 0
    for label in labels:
        necrosis, whole = label == NECROSIS, label >= OEDEMA
        assert not label[:, [0, -1]].any()
        assert whole.sum() > (label >= CORE).sum() > necrosis.sum()
        touching = np.zeros_like(necrosis)
        touching[:, 1:] |= necrosis[:, :-1]
        touching[:, :-1] |= necrosis[:, 1:]
        inner += int((touching & (label >= CORE)).sum())
        outer += int((touching & (label == 0)).sum())
    # But where a pixel is wider than the wall between them.
    assert outer < 0.05 * inner


def test_a_missing_sequence_is_a_copy_of_another() -> None:
    style = brain_style(4, 0)
    missing = style.missing[0]
    there, copied = SEQUENCES.index(missing.sequence), SEQUENCES.index(missing.copy_of)
    same = [
        np.array_equal(case.images[there], case.images[copied]) for case in BRAIN.draw(4, 0, ())
    ]
    assert 0 < np.mean(same) < 1


def test_further_hospitals_have_scanners_of_their_own() -> None:
    styles = [brain_style(index, 0) for index in range(1, MAX_SITES + 1)]
    assert len({repr(style) for style in styles}) == MAX_SITES
    for style in styles:
        assert style.matrix[0] != style.matrix[1]
        assert 8 <= style.patients <= 45
    with refuses("option.out-of-range", "site-0: "):
        brain_style(0, 0)


def test_the_first_phantom_has_the_parameters_that_it_always_had() -> None:
    assert PHANTOMS[DEFAULT_PHANTOM].drawn_from("site-3", 7) == {
        "index": 3,
        "seed": 7,
        "phantom": PHANTOMS[DEFAULT_PHANTOM].version,
    }
    assert BRAIN.drawn_from("site-3", 7)["kind"] == "brain"
