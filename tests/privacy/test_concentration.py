"""One patient with more of a release near than chance allows is seen, a poor generator is not."""

from __future__ import annotations

import numpy as np
import pytest

from hyfree_ray.privacy.concentration import concentration
from hyfree_ray.privacy.membership import Group, Hospital
from tests.privacy.test_membership import unit

WIDTH = 16
IMAGES = 300


def hospital(random: np.random.Generator, members: int, held_out: int, images: int) -> Hospital:
    """Patients whose images resemble each other."""
    centre_P1F = random.normal(size=(members + held_out, 1, WIDTH))
    within = random.normal(size=(members + held_out, images, WIDTH))
    features_KF = unit(centre_P1F + 0.5 * within).reshape(-1, WIDTH)
    patients_K = np.repeat(np.arange(members + held_out), images)
    member_K = patients_K < members
    return Hospital.of(
        *(
            Group(features_KF=features_KF[rows], patients_K=patients_K[rows])
            for rows in (member_K, ~member_K)
        )
    )


def copies(random: np.random.Generator, real: Hospital, patients: int, count: int) -> np.ndarray:
    known_KF = real.features_KF[real.index_K < patients]
    noise = unit(random.normal(size=(count, WIDTH)))
    return unit(known_KF[random.integers(len(known_KF), size=count)] + 0.4 * noise)


def honest(random: np.random.Generator, count: int) -> np.ndarray:
    return unit(random.normal(size=(count, WIDTH)))


SITES = [(9, 3), (27, 9), (60, 40)]


@pytest.mark.parametrize(("members", "held_out"), SITES)
@pytest.mark.parametrize("count", [30, 90])
def test_copies_of_one_patient_among_honest_images_are_seen(
    members: int, held_out: int, count: int
) -> None:
    """The mean over patients is at chance, at any size of a hospital."""
    for seed in range(5):
        random = np.random.default_rng(seed)
        real = hospital(random, members, held_out, 3)
        release = np.concatenate([copies(random, real, 1, count), honest(random, IMAGES - count)])
        found = concentration(release, real)
        assert found is not None
        assert found.p < 0.01
        assert found.share >= 0.5 * count / IMAGES
        assert found.count_P.argmax() == 0


@pytest.mark.parametrize(("members", "held_out"), SITES)
@pytest.mark.parametrize("spread", [0.15, 0.5, None], ids=["one image", "a few", "all"])
def test_a_generator_that_copies_nobody_passes_however_poor_it_is(
    members: int, held_out: int, spread: float | None
) -> None:
    """One that draws one kind of image only has one patient nearest to most of its images, by
    chance."""
    seen = 0
    for seed in range(20):
        random = np.random.default_rng([seed, members])
        real = hospital(random, members, held_out, 3)
        release = honest(random, IMAGES)
        if spread is not None:
            release = unit(honest(random, 1) + spread * random.normal(size=(IMAGES, WIDTH)))
        found = concentration(release, real)
        assert found is not None
        seen += found.p < 0.01
    assert seen <= 2


def test_copies_of_a_patient_who_was_held_out_do_not_count() -> None:
    random = np.random.default_rng(0)
    real = hospital(random, 20, 10, 2)
    swapped = Hospital(
        features_KF=real.features_KF,
        index_K=real.index_K,
        patients_P=real.patients_P,
        member_P=~real.member_P,
    )
    release = np.concatenate([copies(random, real, 1, 60), honest(random, 240)])
    seen, unseen = (concentration(release, one) for one in (real, swapped))
    assert seen is not None
    assert unseen is not None
    assert (seen.p < 0.01, unseen.p < 0.01) == (True, False)


def test_three_patients_are_too_few_to_say() -> None:
    random = np.random.default_rng(0)
    assert concentration(honest(random, 9), hospital(random, 2, 1, 2)) is None


def test_images_that_patients_share_give_numbers() -> None:
    random = np.random.default_rng(0)
    real = hospital(random, 5, 2, 2)
    real.features_KF[:] = real.features_KF[0]
    found = concentration(np.repeat(real.features_KF[:1], 30, axis=0), real)
    assert found is not None
    assert np.isfinite(found.p)
