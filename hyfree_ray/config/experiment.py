"""What a user asks for, resolved to numbers before anything is hashed or run.

`Experiment` is what changes results: its fields enter keys, each only where it is read.
`Runtime` is where and how: it never enters a key.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
)
from pydantic_core import PydanticCustomError

from hyfree_ray.border.gate import Gate
from hyfree_ray.border.manifest import UNNAMED, Addressee
from hyfree_ray.cohorts.label_sets import LabelEncoding
from hyfree_ray.config.budget import Budget
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.keys import digest_of
from hyfree_ray.core.registry import OWN_PACKAGE, Origin, Registry
from hyfree_ray.core.strict_json import checked_name
from hyfree_ray.evaluation import regimes
from hyfree_ray.evaluation.metrics import METRICS
from hyfree_ray.generators import GENERATORS
from hyfree_ray.generators.pairing import Encoding, Pairing
from hyfree_ray.segmenters import NNUNET, SEGMENTERS


def _as_tuple(asked: Any) -> Any:
    return tuple(asked) if isinstance(asked, list) else asked


def _in_order(asked: tuple[str, ...]) -> tuple[str, ...]:
    """Return settings as a set: in one order, each once."""
    return regimes.in_order(asked)


def _setting(name: str) -> str:
    if not regimes.is_setting(name):
        raise _unknown(regimes.setting_names())
    return name


def _labeller(name: str) -> str:
    if name not in regimes.of_own_images():
        raise _unknown(regimes.of_own_images())
    return name


def _unknown(names: tuple[str, ...]) -> PydanticCustomError:
    return PydanticCustomError(
        "unknown_regime", "there is no such name; there are: {names}", {"names": names}
    )


class GeneratorChoice(BaseModel):
    """The generator, with settings that are its own: no other's are in an experiment."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    """One of `GENERATORS`."""
    config: Mapping[str, Any]
    """All its settings by value, as its record has checked them."""
    pairing: Pairing = "labelled"
    """How an image comes by its mask: the site's own network labels it, or both are drawn
    together, by any generator of images."""
    mask_encoding: Encoding = "one-hot"
    """Of masks that are drawn as channels: one for each label, or Akbar's greys in their order."""


def _known_segmenter(name: str) -> str:
    SEGMENTERS.origin(name)  # raises where there is none; torch is not imported
    return name


def _further_metrics(names: Any) -> Any:
    """Metrics as a set, without the project's own, which are always measured."""
    if not isinstance(names, (list, tuple)):
        return names
    own = {metric.name for metric in METRICS.built_in()}
    return tuple(sorted({METRICS[str(name)].name for name in names} - own))


def _agreed_name(name: str) -> str:
    return checked_name("the name", name)


class Experiment(BaseModel):
    """Everything that changes a result, by value."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    federation: Annotated[str, AfterValidator(_agreed_name)] = UNNAMED
    """Name that the parties have agreed on: a release made for one federation is not taken by
    another."""
    pool: Annotated[str, AfterValidator(_agreed_name)] = UNNAMED
    """Name of the pool that releases are made for; another one refuses them."""
    seed: int = Field(default=0, ge=0)
    """Of all random numbers, each party's and stage's derived from it."""
    fold: int = Field(default=0, ge=0, le=4)
    """The test fold; validation is the next one, training the other three."""
    generator: GeneratorChoice
    segmenter: Annotated[str, AfterValidator(_known_segmenter)] = NNUNET
    """The architecture that all parties train inside nnU-Net, one of `SEGMENTERS`."""
    precision: Literal["fp32", "bf16"]
    """Of the generators, and of nnU-Net's trainings on a CPU; on a GPU nnU-Net has its own."""
    mirror: bool = False
    """Whether a mirrored image is as good as the original. Anatomy is rarely symmetric."""
    embedder: Literal["nnunet", "openclip"]
    """What images are compared by: the site's own nnU-Net, or OpenCLIP as in the paper."""
    embedder_weights: str | None = None
    """File with OpenCLIP's weights."""
    threshold_percentile: float = Field(default=5.0, gt=0, lt=100)
    """Of the distances between patients: nearer to a training image is memorised."""
    gate: Gate = Gate()
    """What a release's privacy card has to say, at its site and at the pool."""
    labeller: Annotated[str, AfterValidator(_labeller)] = "local"
    """Which of its own networks a site labels its release with. The paper: `local`; a budget whose
    trainings are short: `local2x`, which is trained anyway and misses fewer structures."""
    replay_share: float = Field(default=0.25, gt=0, lt=1)
    """Of what `personalised` is fine-tuned on, the share of synthetic images; the rest is real."""
    min_label_agreement: float = Field(default=0.0, ge=0, le=1)
    """Dice of a release's labels with a model trained on the other releases; one below it is not
    replayed. 0 asks for none; above it the pool trains one more model a site."""
    general_workers: int = Field(default=1, ge=1)
    """Processes that share the general model's batches. More than one changes its result."""
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of fine-tuning's epochs in which the rate grows."""
    settings: Annotated[
        tuple[Annotated[str, AfterValidator(_setting)], ...],
        BeforeValidator(_as_tuple),
        AfterValidator(_in_order),
    ] = Field(default_factory=lambda: regimes.settings(default=True))
    """What is trained beside the paper's protocol, for comparison."""
    metrics: Annotated[tuple[str, ...], BeforeValidator(_further_metrics)] = ()
    """What is measured beside the project's own metrics, of `METRICS`."""
    budget: Budget

    def extensions(self) -> dict[str, Origin]:
        """Find what comes from other packages, in words, with its package; nothing is imported."""
        named: list[tuple[Registry[Any], str]] = [
            (GENERATORS, self.generator.name),
            (SEGMENTERS, self.segmenter),
            *((regimes.REGIMES, name) for name in self.settings),
            *((METRICS, name) for name in self.metrics),
        ]
        found = {f"{table.concept} {name}": table.origin(name) for table, name in named}
        return {what: origin for what, origin in found.items() if origin.package != OWN_PACKAGE}

    @property
    def addressee(self) -> Addressee:
        """Return whom releases are made for: the third part of what stands in their manifests."""
        return Addressee(pool=self.pool, federation=self.federation)

    def task(self, cohort: str, dataset: Mapping[str, Any]) -> str:
        """The joint task, whoever takes part in it: the first part of what releases are made for.

        Labels are known by their names: sites may number them each in its own way, and leave
        pixels out by `ignore` or not.
        """
        labels = LabelEncoding.of(dataset).numbered_by_name()
        task = {"channels": dataset["channel_names"], "labels": labels}
        return digest_of(["federation", cohort, task, self.seed, self.fold])[:32]

    def recipe(self, versions: Sequence[int]) -> str:
        """How releases are made: the second part. All that changes one is in it, and is signed.

        Not what a hospital's own machine decides: the precision, and the embedder that it has
        weights for, which stands on the privacy card.

        Args:
            versions: of the stages that make a release.
        """
        settings = self.model_dump(mode="json", exclude=_NOT_IN_A_RECIPE)
        if self.labeller == regimes.CONTROL:
            settings["labeller_epochs"] = self.budget.unet.epochs + self.budget.unet.finetune_epochs
        return digest_of(["recipe", settings, list(versions)])[:32]

    def key(self, cohort: str, site_keys: Mapping[str, str]) -> str:
        """Identity of the experiment: settings and the data of all sites."""
        settings = self.model_dump(mode="json", exclude=_NOT_SETTINGS)
        return digest_of([settings, cohort, dict(sorted(site_keys.items()))])


_NOT_SETTINGS: dict[str, Any] = {
    "embedder_weights": True,
    "budget": {
        "generator_backend",
        "generator_reason",
        "phantom_sites",
        "quality_gate",
        "labeller",
    },
}
"""What `auto` was resolved by, and a path: the resolved values are in the key."""

_NOT_IN_A_RECIPE: dict[str, Any] = {
    **dict.fromkeys(("seed", "fold"), True),  # of the task
    **dict.fromkeys(("pool", "federation"), True),  # of the addressee
    **dict.fromkeys(("precision", "embedder", "embedder_weights"), True),  # of a machine
    # Of what comes after the releases.
    **dict.fromkeys(("settings", "metrics", "warmup", "replay_share"), True),
    **dict.fromkeys(("min_label_agreement", "general_workers"), True),
    "budget": {
        "generator_backend": True,
        "generator_reason": True,
        "phantom_sites": True,
        "quality_gate": True,
        "labeller": True,
        "unet": {"finetune_epochs"},
    },
}


class Runtime(BaseModel):
    """Where and how a run is executed. Not part of any key."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    store: Path
    ray: str = "local"
    """"local", "off" (this process, one stage after the other) or a cluster's address."""
    device: Literal["cpu", "cuda"]


def check_embedder(experiment: Experiment) -> None:
    """Refuse an embedder that could not be loaded, before anything is trained for it.

    Nothing is imported. For who compares images: the pool does not.

    Raises:
        HyfreeError: its weights, or OpenCLIP itself, are not there.
    """
    if experiment.embedder != "openclip":
        return
    given = experiment.embedder_weights
    if given is None:
        raise HyfreeError(
            "embedder.no-weights",
            "embedder 'openclip': has no weights; set embedder_weights to their file, or use "
            "--set embedder=nnunet",
        )
    if not (Path(given).is_file() and os.access(given, os.R_OK)):
        raise HyfreeError(
            "embedder.no-weights",
            f"embedder_weights: {given} is not a readable file; name the file of OpenCLIP's "
            "weights, or use --set embedder=nnunet",
        )
    if importlib.util.find_spec("open_clip") is None:
        raise HyfreeError(
            "embedder.not-installed",
            "embedder 'openclip' is not installed; install hyfree-ray[openclip] with a matching "
            "torchvision, or use --set embedder=nnunet",
        )
