"""What the platform knows of a generator before anything is trained; torch is not imported."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.generators.pairing import Pairing
from hyfree_ray.generators.plan import GeneratorPlan
from hyfree_ray.segmenters.unet_plan import UNetPlan

if TYPE_CHECKING:
    from hyfree_ray.generators.protocol import Backend

Emits = Literal["image", "image and mask", "mask"]
Given = Literal["nothing", "mask"]


class Schedule(Protocol):
    """Derives how a plan's network is trained."""

    def __call__(
        self, plan: Any, config: Any, /, *, images: int, images_shown: int
    ) -> GeneratorPlan:
        """Return the plan with batch, learning rate and further numbered steps.

        Args:
            plan: what `derive` gave.
            config: the generator's settings.
            images: number of training images.
            images_shown: the training's length.
        """
        ...


class GeneratorConfig(BaseModel):
    """A generator's own settings: those of the paper where none are given."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @property
    def private(self) -> bool:
        """Whether the training bounds what is learnt of a patient."""
        return False

    @property
    def training_passes(self) -> float:
        """Network passes for an image that is trained on."""
        return 3.0

    @property
    def sample_passes(self) -> float:
        """Network passes for an image that is drawn."""
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Generator:
    """A kind of generator."""

    name: str
    config: type[GeneratorConfig]
    plan: type[GeneratorPlan]
    derive: Callable[[UNetPlan, Any], GeneratorPlan]
    """The plan (of the type `plan`) from nnU-Net's and a config, in numbered steps."""
    schedule: Schedule | None = None
    """How the training follows from its length; None: it does not."""
    backend: str
    """Where learner and sampler are (`protocol.Backend`): "module:ATTRIBUTE"."""
    emits: Emits = "image"
    """What a sampler returns for a seed."""
    given: Given = "nothing"
    """What a sampler needs for it beside the seed."""
    conditional: bool = False
    """Whether its networks also take a mask that an image is to be drawn for, where its plan has
    `given_channels`."""
    budgets: Mapping[str, GeneratorConfig] = field(default_factory=dict)
    """Narrower or shorter settings by the name of a budget."""

    @property
    def pairings(self) -> tuple[Pairing, ...]:
        """How its images come by masks, the usual way first: one that draws images alone learns
        masks as further channels of these, and one that can be given a mask learns masks alone
        before; one that draws pairs by itself has no choice."""
        if self.emits != "image":
            return ("joint",)
        return ("labelled", "joint", "conditional") if self.conditional else ("labelled", "joint")

    @property
    def learns_masks(self) -> bool:
        """Whether it is trained on masks beside the images."""
        return self.emits != "image" or self.given == "mask"

    def at(self, budget: str) -> GeneratorConfig:
        """Return the settings at a budget."""
        return self.budgets[budget] if budget in self.budgets else self.config()

    def configured(self, values: Mapping[str, Any]) -> GeneratorConfig:
        """Return settings by value.

        Raises:
            HyfreeError: a setting that it does not have, or a value that does not fit.
        """
        try:
            return self.config.model_validate(dict(values))
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(("generator", "config", *map(str, problem["loc"])))
            raise HyfreeError(
                "config.bad-value",
                f"{where}: {problem['msg'].lower()} (given: {problem['input']!r}); "
                f"{self.name} has {', '.join(self.config.model_fields) or 'no settings'}",
            ) from error

    def check_pairing(self, pairing: Pairing, config: GeneratorConfig) -> None:
        """Refuse a pairing that it cannot do, or not with such settings.

        Raises:
            HyfreeError: it cannot.
        """
        if pairing not in self.pairings:
            raise HyfreeError(
                "generator.no-pairing",
                f"the generator {self.name!r} does not do the pairing {pairing!r}; it does "
                f"{' and '.join(self.pairings)}",
            )
        if pairing == "conditional" and config.private:
            raise HyfreeError(
                "generator.no-pairing",
                f"the pairing {pairing!r} trains two networks, and generator.config.epsilon bounds "
                "one; use the pairing 'joint', or leave epsilon out",
            )

    def load(self) -> Backend:
        """Import learner and sampler, and torch with them."""
        module, _, attribute = self.backend.partition(":")
        backend: Backend = getattr(importlib.import_module(module), attribute)
        return backend
