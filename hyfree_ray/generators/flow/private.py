"""A flow whose training is differentially private: DP-SGD (Abadi et al. 2016, arXiv 1607.00133).

The unit is the patient: each step takes patients by independent coins (Poisson sampling) and one
image of each, so that a clipped gradient is all that a patient adds to a step. Shapes: N images.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.generators.denoising.augment import NUMBERS
from hyfree_ray.generators.denoising.learner import rate_at
from hyfree_ray.generators.flow.learner import FlowLearner, velocity_error
from hyfree_ray.generators.flow.plan import FlowPlan
from hyfree_ray.generators.protocol import Compute

DELTA_TIMES_PATIENTS = 0.1
"""Delta is this over the number of patients: well below one of them."""

USUAL_SPREAD = 0.5
"""Of pixels in [-1, 1] (Karras et al. 2022, arXiv 2206.00364, table 1)."""

PUBLIC = ("architecture and plan's caps", "length of the training", "number of patients")
OUTSIDE = (
    "nnU-Net's plan",
    "intensity range",
    "choice of the snapshot",
    "filter's thresholds",
    "audit and gate",
    "labels",
    "the training's loss",
)
"""What else reads real data, and is not in the guarantee."""


class PrivateFlowLearner(FlowLearner):
    """The network in training, with a bound on what it learns of any patient."""

    def __init__(self, plan: FlowPlan, compute: Compute, *, images_shown: int) -> None:
        assert plan.epsilon is not None
        _require_opacus()
        # Gradients of single patients need float32.
        exact = Compute(device=compute.device, dtype=torch.float32)
        super().__init__(plan, exact, images_shown=images_shown)
        self._epsilon, self._clip = plan.epsilon, plan.clip
        self._images: Tensor | None = None
        self._rows: list[Tensor] = []
        # Coins and noise must not be known to anybody: no seed of the experiment gives them.
        self._secret = torch.Generator(compute.device).manual_seed(secrets.randbits(63))

    def compile(self, backend: str | Callable[..., Any], mode: str | None = None) -> None:
        """Stay as it is: gradients of single patients are taken by hooks."""

    def scale_by(self, padded_NCHW: Tensor) -> None:  # noqa: ARG002
        """Scale by what is usual: the images' own mean and spread would tell of them."""
        self.network.spread.fill_(USUAL_SPREAD)

    def know_patients(self, images_NCHW: Tensor, patients_N: np.ndarray) -> None:
        """Take over the training images, as `prepare` has returned them, by patient."""
        from opacus import GradSampleModule
        from opacus.optimizers import DPOptimizer

        self._images = images_NCHW
        self._rows = [
            torch.from_numpy(np.flatnonzero(patients_N == patient)) for patient in set(patients_N)
        ]
        self._by_patient = GradSampleModule(self.network, loss_reduction="mean")
        self._private = DPOptimizer(
            self._optimiser,
            noise_multiplier=self._noise_multiplier(),
            max_grad_norm=self._clip,
            expected_batch_size=self._expected,
            generator=self._secret,
        )

    @property
    def _rate(self) -> float:
        """Probability that a patient is in a step."""
        return min(1.0, self.batch_size / len(self._rows))

    @property
    def _expected(self) -> int:
        return max(1, round(self._rate * len(self._rows)))

    @property
    def _steps(self) -> int:
        return -(-self._images_shown // self.batch_size)

    @property
    def delta(self) -> float:
        """Return the probability that the bound does not hold."""
        return DELTA_TIMES_PATIENTS / len(self._rows)

    def _noise_multiplier(self) -> float:
        from opacus.accountants.utils import get_noise_multiplier

        found: float = get_noise_multiplier(
            target_epsilon=self._epsilon,
            target_delta=self.delta,
            sample_rate=self._rate,
            steps=self._steps,
        )
        return found

    def guarantee(self) -> dict[str, Any]:
        """Return the training's guarantee by the accountant, as JSON for `privacy_card.Guarantee`.

        Renyi differential privacy of the subsampled Gaussian mechanism (Mironov et al. 2019,
        arXiv 1908.10530); neighbours differ in one patient who is there or not.
        """
        from opacus.accountants import RDPAccountant

        accountant = RDPAccountant()
        accountant.history = [(self._private.noise_multiplier, self._rate, self._steps)]
        epsilon = accountant.get_epsilon(self.delta)
        return {
            # Upwards: a bound that is rounded down is none.
            "epsilon": float(np.ceil(epsilon * 100) / 100),
            "delta": self.delta,
            "public": list(PUBLIC),
            "outside": list(OUTSIDE),
        }

    def times(self, count: int, random: torch.Generator) -> Tensor:
        """Independent times_N: a patient's gradient may not depend on who else is in the step."""
        return torch.rand(count, generator=random, device=random.device)

    def step(self, images_NCHW: Tensor, step: int, random: torch.Generator) -> dict[str, Tensor]:  # noqa: ARG002
        """One private step, on patients that are drawn here: the loop's batch is not looked at."""
        shown = (step + 1) * self.batch_size
        for group in self._private.param_groups:
            group["lr"] = rate_at(min(1.0, shown / self._images_shown), self._plan.learning_rate)
        self._private.zero_grad(set_to_none=True)
        batch_NCHW = self._drawn()
        if len(batch_NCHW):
            loss = self._private_loss(batch_NCHW)
            loss.backward()
        else:  # by chance nobody: noise alone
            loss = torch.zeros((), device=self._compute.device)
            for weight in self.network.parameters():
                weight.grad_sample = torch.zeros(0, *weight.shape, device=weight.device)
        self._private.step()
        self._average.update(shown, self.batch_size)
        return {"loss": loss.detach().clone()}

    def _drawn(self) -> Tensor:
        assert self._images is not None
        device = self._compute.device
        coin_P = torch.rand(len(self._rows), generator=self._secret, device=device) < self._rate
        chosen = [
            rows[int(torch.randint(len(rows), (), generator=self._secret, device=device))]
            for rows, taken in zip(self._rows, coin_P.tolist(), strict=True)
            if taken
        ]
        index = torch.tensor(chosen, dtype=torch.long, device=self._images.device)
        return self._images[index]

    def _private_loss(self, images_NCHW: Tensor) -> Tensor:
        noise_NCHW = torch.empty_like(images_NCHW).normal_(generator=self._secret)
        time_N = self.times(len(images_NCHW), self._secret)
        line_NCHW = torch.lerp(noise_NCHW, images_NCHW, time_N[:, None, None, None])
        told_NA = torch.zeros(len(images_NCHW), NUMBERS, device=images_NCHW.device)
        return velocity_error(self._by_patient(line_NCHW, time_N, told_NA), images_NCHW, time_N)


def _require_opacus() -> None:
    try:
        import opacus  # noqa: F401
    except ImportError as error:
        raise HyfreeError(
            "generator.no-opacus",
            "generator.config.epsilon: differential privacy needs opacus, which is not installed; "
            "install hyfree-ray[dp], or leave epsilon out",
        ) from error
