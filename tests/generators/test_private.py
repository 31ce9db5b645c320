"""A private training adds at most a clipped gradient a patient, and says what that bounds."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from opacus.accountants import RDPAccountant

from hyfree_ray.generators import GENERATORS
from hyfree_ray.generators.flow.learner import FlowLearner
from hyfree_ray.generators.flow.private import PrivateFlowLearner
from hyfree_ray.generators.flow.train import BACKEND
from hyfree_ray.generators.protocol import Compute, PrivateLearner
from tests.generators.plans import tiny_flow
from tests.refusals import refuses

PATIENTS = 24
COMPUTE = Compute(device=torch.device("cpu"), dtype=torch.float32)
# Opacus hooks modules, of which some are called again with the same images.
pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")


def learner(epsilon: float = 5.0, clip: float = 1.0, shown: int = 320) -> PrivateFlowLearner:
    torch.manual_seed(0)
    plan = replace(tiny_flow(), epsilon=epsilon, clip=clip)
    made = BACKEND.learner(plan, COMPUTE, images_shown=shown)
    assert isinstance(made, PrivateFlowLearner)
    images = made.prepare(torch.rand(3 * PATIENTS, 1, 24, 20) * 2 - 1)
    made.know_patients(images, np.repeat(np.arange(PATIENTS), 3))
    return made


def weights(made: FlowLearner) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in made.network.parameters()])


def test_only_a_plan_that_asks_for_it_is_trained_privately() -> None:
    assert not isinstance(BACKEND.learner(tiny_flow(), COMPUTE, images_shown=9), PrivateLearner)
    assert isinstance(learner(), PrivateLearner)
    with refuses("config.bad-value", "epsilon"):
        GENERATORS["stylegan2"].configured({"epsilon": 3.0})


def test_a_private_flow_is_scaled_by_nothing_that_the_images_say() -> None:
    plan = replace(tiny_flow(), epsilon=5.0)
    private, plain = (
        BACKEND.learner(one, COMPUTE, images_shown=320) for one in (plan, tiny_flow())
    )
    for made, same in ((private, True), (plain, False)):
        found = []
        for value in (-0.5, 0.7):
            made.prepare(torch.full((5, 1, 24, 20), value))
            found.append({k: v.clone() for k, v in made.network.named_buffers()})
        equal = all(torch.equal(value, found[1][name]) for name, value in found[0].items())
        assert equal == same


def test_the_guarantee_is_the_accountants_and_at_most_what_was_asked_for() -> None:
    made = learner(epsilon=3.0)
    told = made.guarantee()
    assert 2.5 < told["epsilon"] <= 3.02
    assert told["delta"] < 1 / PATIENTS
    accountant = RDPAccountant()
    for _ in range(math.ceil(320 / made.batch_size)):
        accountant.step(noise_multiplier=made._private.noise_multiplier, sample_rate=made._rate)
    assert accountant.get_epsilon(told["delta"]) <= told["epsilon"]
    assert learner(epsilon=1.0)._private.noise_multiplier > made._private.noise_multiplier


def test_a_step_takes_patients_by_coins_and_one_image_of_each() -> None:
    made = learner()
    sizes = [len(made._drawn()) for _ in range(200)]
    assert np.mean(sizes) == pytest.approx(made.batch_size, rel=0.1)
    assert 1.0 < np.std(sizes) < 4.0  # binomial: the number of a batch is not fixed
    flat_NP = made._images.flatten(1)  # type: ignore[union-attr]
    for drawn_NP in (made._drawn().flatten(1) for _ in range(20)):
        rows = [int((flat_NP == image).all(1).nonzero()[0, 0]) for image in drawn_NP]
        assert len({row // 3 for row in rows}) == len(rows)


def test_no_patient_adds_more_than_the_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    """However extreme the images are, the sum of gradients stays within patients x clip."""
    made = learner(clip=0.1)
    made._images = made._images * 50  # type: ignore[operator]
    made._private.zero_grad(set_to_none=True)
    batch = made._drawn()
    made._private_loss(batch).backward()
    made._private.clip_and_accumulate()
    total = torch.cat([weight.summed_grad.flatten() for weight in made.network.parameters()])
    assert 0 < float(total.norm()) <= 0.1 * len(batch) * 1.001


def test_a_step_moves_the_weights_and_one_without_patients_by_noise_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = learner()
    before = weights(made)
    random = torch.Generator().manual_seed(0)
    loss = made.step(torch.zeros(1), 20, random)["loss"]
    assert torch.isfinite(loss)
    between = weights(made)
    assert not torch.equal(before, between)
    empty = made._images[:0]  # type: ignore[index]
    monkeypatch.setattr(made, "_drawn", lambda: empty)
    made.step(torch.zeros(1), 21, random)
    assert torch.isfinite(weights(made)).all()
    assert not torch.equal(between, weights(made))


def test_noise_and_coins_follow_from_no_seed() -> None:
    """Who knows the experiment's seed, as everybody does, must not know the noise."""
    random = torch.Generator()
    found = []
    for _ in range(2):
        made = learner()
        made.step(torch.zeros(1), 20, random.manual_seed(0))
        found.append(weights(made))
    assert not torch.equal(*found)
