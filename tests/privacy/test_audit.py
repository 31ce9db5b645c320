"""The gate has been seen to fire, on generators that memorise, and not to, on honest images."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyfree_ray.border.gate import Gate, violations
from hyfree_ray.border.privacy_card import PrivacyCard
from hyfree_ray.core.artifacts import Artifact
from hyfree_ray.core.execution import execute
from hyfree_ray.core.records import RECORD, write_record
from hyfree_ray.generators.view import GeneratorView
from hyfree_ray.privacy.audit import (
    BATCH,
    Audit,
    Earlier,
    TimeLimit,
    audit_samples,
    privacy_card,
)
from hyfree_ray.privacy.detectors import Embed, Features
from hyfree_ray.privacy.membership import Group, Hospital, attack
from hyfree_ray.privacy.memorization import MemorisationFilter
from hyfree_ray.privacy.sampling import draw_until, quantise
from hyfree_ray.privacy.self_test import self_test
from hyfree_ray.stages.audit import audit
from tests.privacy.test_memorization import embed, images
from tests.refusals import refuses
from tests.stage_records import stage_record

TRAINING, HELD_OUT = 80, 60

GATE = Gate(min_copy_recall=0)
"""Features of pixels stop few altered copies; here it is not the filter that is tried."""

NEVER = TimeLimit(seconds=math.inf)
Sampler = Callable[[int], np.ndarray]


def site() -> GeneratorView:
    """Eighty training and sixty held-out images, two a patient."""
    count = TRAINING + HELD_OUT
    return GeneratorView(
        images_NCHW=images(count, 11),
        patients_N=np.arange(count) // 2,
        training_N=np.arange(count) < TRAINING,
        low_C=np.zeros(1, np.float32),
        high_C=np.ones(1, np.float32),
        spacing=(1.0, 1.5),
    )


def left_half(images_NCHW: np.ndarray) -> np.ndarray:
    """Features that are blind to whatever is on the right."""
    return embed(images_NCHW[..., : images_NCHW.shape[3] // 2])


def audited(
    sampler: Sampler, quota: int = 200, seen: Embed = embed
) -> tuple[PrivacyCard | None, str, Audit | None]:
    """What becomes of a generator's samples: filter, audit, card. The reason is empty if sent."""
    view = site()
    real, patients = view.images_NCHW[view.training_N], view.patients_N[view.training_N]
    rule = MemorisationFilter.calibrate(real, patients, [Features(embed=seen)], percentile=5)

    def draw(start: int, count: int) -> Iterator[np.ndarray]:
        yield sampler(start + count)[start:]

    drawn = draw_until(quota, draw, rule, max_rejection_rate=Gate().max_rejection_rate)
    reason = drawn.reason_to_withhold(Gate().max_rejection_rate)
    if reason is not None:
        return None, reason, None
    found = audit_samples(drawn.accepted_NCHW, view, embed, percentile=5, seed=1, limit=NEVER)
    held_out = rule.judge(view.images_NCHW[~view.training_N])
    by_alteration, altered = self_test(rule, real, patients, seed=2)
    filtered = {
        "accepted": len(drawn.accepted_NCHW),
        "embedder": "pixels",
        "rejected_by": drawn.rejected_by,
        "rejection_rate": drawn.rejection_rate,
        "percentile": 5,
        "self_test": by_alteration,
        "copies": {"altered": altered.values()},
        "held_out_rejected_share": float(held_out.copied_N.mean()),
    }
    card = privacy_card(found, filtered, GATE, generator="flow", images_shown=80)
    return card, "; ".join(violations(card, GATE)), found


def honest(count: int) -> np.ndarray:
    return images(count, 77)


def memorising(count: int) -> np.ndarray:
    """Training images again and again, a little altered."""
    real = site().images_NCHW[:TRAINING]
    noise = np.random.default_rng(5).normal(0, 0.02, (count, *real.shape[1:]))
    return np.clip(real[np.arange(count) % TRAINING] + noise, -1, 1).astype(np.float32)


def leaking(count: int) -> np.ndarray:
    """Half of a training image in each new one: most are no near copies, but of nobody else."""
    real = site().images_NCHW[:TRAINING]
    return 0.5 * real[np.arange(count) % TRAINING] + 0.5 * honest(count)


def one_patient(count: int) -> np.ndarray:
    """Every second image has the right three quarters of one patient's in it."""
    real = site().images_NCHW[14:16]
    mixed = honest(count)
    rows = np.arange(0, count, 2)
    kept = mixed.shape[3] // 4
    mixed[rows, :, :, kept:] = real[rows // 2 % 2][..., kept:]
    return mixed


@pytest.fixture(scope="module")
def fair() -> tuple[PrivacyCard, str, Audit]:
    card, reason, found = audited(honest)
    assert card is not None
    assert found is not None
    return card, reason, found


def test_a_generator_that_only_copies_is_stopped_by_the_filter() -> None:
    """Case 86: a memorising generator is the positive control."""
    card, reason, _ = audited(memorising)
    assert card is None
    assert "look like copies of training images" in reason


def test_a_generator_that_evades_the_filter_is_stopped_by_the_attack() -> None:
    """Case 86: most samples pass every threshold; who was trained on shows all the same."""
    card, reason, _ = audited(leaking)
    assert card is not None
    assert card.rejection_rate < 0.5
    assert "AUC of the strongest attack" in reason
    found = card.findings.attacks
    assert found.auc is not None
    assert found.auc_bound is not None
    assert found.auc > 0.7
    assert found.auc_bound > 0.6


def test_honest_images_pass_the_gate(fair: tuple[PrivacyCard, str, Audit]) -> None:
    """Case 87: fresh images of the same kind, as from a generator that learned no one."""
    card, reason, _ = fair
    assert reason == ""
    assert card.rejection_rate <= 0.15
    assert all(row.passed for row in card.gate)


def test_the_false_positive_rate_is_on_the_card(fair: tuple[PrivacyCard, str, Audit]) -> None:
    """Case 87: real images of new patients, handed in as synthetic ones, by both thresholds."""
    thresholds = fair[0].thresholds
    assert thresholds["ours"].of_held_out is not None
    assert thresholds["ours"].of_held_out <= 0.15
    assert thresholds["paper"].of_held_out is not None


def test_a_card_has_no_number_fine_enough_to_tell_who_was_trained_on(
    fair: tuple[PrivacyCard, str, Audit],
) -> None:
    card, _, found = fair

    def numbers(value: Any) -> Iterator[float]:
        if isinstance(value, dict):
            for inner in value.values():
                yield from numbers(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from numbers(inner)
        elif isinstance(value, float):
            yield value

    told = list(numbers(card.model_dump(mode="json")))
    assert len(told) > 40
    assert all(round(number, 2) == number for number in told)
    assert len(found.numbers()["nearest"]) == card.images  # these stay at the site


def test_the_hospital_alone_sees_who_is_most_exposed(fair: tuple[PrivacyCard, str, Audit]) -> None:
    """Patients as it numbers them, each who was trained on once, the most exposed first."""
    card, _, honest_one = fair
    _, _, leaky = audited(one_patient, seen=left_half)
    assert leaky is not None
    rows = leaky.patients()
    assert sorted(row["patient"] for row in rows) == list(range(TRAINING // 2))
    assert rows[0]["patient"] == 7
    assert rows[0]["near"] > 5
    assert rows[0]["exposed"] == 1
    assert honest_one.patients()[0]["near"] <= 5
    assert "patient" not in card.model_dump_json().replace("patients", "").replace(
        "near to one patient", ""
    )


def test_one_patient_copied_past_the_filter_closes_the_gate() -> None:
    card, reason, _ = audited(one_patient, seen=left_half)
    assert card is not None
    assert "conspicuously near to one patient" in reason


def test_a_few_held_out_images_give_words_instead_of_numbers() -> None:
    view = site()
    few = np.arange(len(view.images_NCHW)) < TRAINING + 10
    small = GeneratorView(
        images_NCHW=view.images_NCHW[few],
        patients_N=view.patients_N[few],
        training_N=view.training_N[few],
        low_C=view.low_C,
        high_C=view.high_C,
        spacing=view.spacing,
    )
    found = audit_samples(quantise(honest(30)), small, embed, percentile=5, seed=0, limit=NEVER)
    seen = found.release.findings.attacks
    assert (seen.members, seen.held_out, seen.tpr_bound) == (40, 5, None)
    assert seen.auc_bound is not None  # exact at any number; the card says what it could have seen
    none = np.arange(TRAINING)
    alone = GeneratorView(
        images_NCHW=view.images_NCHW[none],
        patients_N=view.patients_N[none],
        training_N=view.training_N[none],
        low_C=view.low_C,
        high_C=view.high_C,
        spacing=view.spacing,
    )
    found = audit_samples(quantise(honest(3)), alone, embed, percentile=5, seed=0, limit=NEVER)
    assert found.release.findings.attacks.reason == "not measurable: no patient is held out"


# ---- earlier releases ----


def test_releases_of_the_same_patients_are_attacked_together() -> None:
    """One of them was made under another plan, and knew a patient who is held out now."""
    larger = np.kron(leaking(120), np.ones((1, 1, 2, 3), np.float32))
    earlier = Earlier(samples=(quantise(leaking(120)), quantise(larger)), patients=(0, 41))
    found = audit_samples(
        quantise(honest(60)), site(), embed, percentile=5, seed=0, limit=NEVER, earlier=earlier
    )
    alone, together = found.release.findings.attacks, found.together
    assert together is not None
    assert alone.auc_bound is not None
    assert alone.auc_bound <= 0.55
    assert together.findings.attacks.auc_bound is not None
    assert together.findings.attacks.auc_bound > 0.55
    assert (alone.members, alone.held_out) == (40, 30)
    assert (together.findings.attacks.members, together.findings.attacks.held_out) == (41, 29)
    assert found.releases == 2


# ---- fails closed ----


def test_an_audit_that_takes_too_long_is_given_up_and_computes_no_more() -> None:
    """Case 89: it raises, which for its site means that nothing is released."""
    asked: list[int] = []

    def slow(images_NCHW: np.ndarray) -> np.ndarray:
        asked.append(len(images_NCHW))
        time.sleep(0.06)
        return embed(images_NCHW)

    threads, stored = threading.active_count(), quantise(honest(5 * BATCH))
    limit = TimeLimit(seconds=0.1)
    with pytest.raises(TimeoutError, match=r"more than 0\.1 s"):
        audit_samples(stored, site(), slow, percentile=5, seed=0, limit=limit)
    assert threading.active_count() == threads
    assert asked == [BATCH, BATCH]  # of five batches, and then the real images'


def test_attacks_ask_for_the_time_too() -> None:
    """Case 89: also where it is a comparison with all images that takes long."""
    view, left = site(), iter(range(1))

    def check() -> None:
        if next(left, None) is None:
            raise TimeoutError

    members, others = (
        Group(features_KF=embed(view.images_NCHW[rows]), patients_K=view.patients_N[rows])
        for rows in (view.training_N, ~view.training_N)
    )
    with pytest.raises(TimeoutError):
        attack(embed(honest(50)), Hospital.of(members, others), check=check)


def test_the_stage_gives_up_and_leaves_nothing_to_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Case 89: the limit is the stage's own."""
    prepared, found = tmp_path / "prepared", samples(tmp_path / "samples", percentile=5)
    prepared.mkdir()
    view = site()
    np.savez(
        prepared / "view.npz",
        images=view.images_NCHW,
        patients=view.patients_N,
        training=view.training_N,
        low=view.low_C,
        high=view.high_C,
        spacing=view.spacing,
    )
    np.save(found.path / "accepted.npy", quantise(honest(30)))
    monkeypatch.setattr("hyfree_ray.stages.audit.SECONDS", 0.0)
    monkeypatch.setattr(
        "hyfree_ray.privacy.embedders.load_embedder", lambda *_args, **_options: embed
    )
    with refuses("stage.failed", "TimeoutError"):
        run_audit(found, prepared)
    assert not (prepared / "audit" / RECORD).exists()


def samples(folder: Path, **changes: Any) -> Artifact:
    """The output of `synthesise`, without its images."""
    result = {"outcome": "released", "reason": None, "rejection_rate": 0.1, **changes}
    folder.mkdir()
    write_record(folder, stage_record(key="s" * 64, result=result))
    return Artifact(stage="synthesise", key="s" * 64, path=folder)


def run_audit(found: Artifact, folder: Path) -> dict[str, Any]:
    nothing = Artifact(stage="prepare", key="p" * 64, path=folder)
    call = audit.call(
        samples=found,
        segmenter=nothing,
        prepared=nothing,
        gate=Gate().model_dump(),
        generator="flow",
        images_shown=1,
        embedder="nnunet",
        seed=0,
    )
    return execute(audit.module, call, folder / "audit", owner="site-1", device="cpu")


def test_an_audit_that_breaks_has_no_outcome(tmp_path: Path) -> None:
    """Case 89: there is no record that a release could be made from."""
    with refuses("stage.failed", "site-1: ", " audit "):
        run_audit(samples(tmp_path / "samples"), tmp_path)
    assert not (tmp_path / "audit" / RECORD).exists()


def test_what_the_filter_withheld_stays_withheld(tmp_path: Path) -> None:
    found = samples(tmp_path / "samples", outcome="withheld", reason="too small")
    result = run_audit(found, tmp_path).result
    assert (result["outcome"], result["reason"], result["card"]) == ("withheld", "too small", None)
