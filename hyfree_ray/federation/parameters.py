"""Parameters of stages that follow from the settings, filled in here once for all parties."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict

from hyfree_ray.cohorts.public_images import PUBLIC_IMAGES
from hyfree_ray.cohorts.site_case import Cases
from hyfree_ray.config.experiment import Experiment
from hyfree_ray.core.artifacts import Artifact
from hyfree_ray.core.keys import file_digest
from hyfree_ray.core.seeds import seed_of
from hyfree_ray.evaluation.regimes import REGIMES, Augmentation
from hyfree_ray.segmenters.record import Optimiser


class RealCases(TypedDict):
    """Real cases as stages read them, with the caps on the plan that prepares them."""

    data: Artifact
    cases: Cases
    dataset: Mapping[str, Any]
    caps: Mapping[str, Any]


class Training(TypedDict):
    """What all trainings of a segmenter share, however many epochs they have."""

    segmenter: str
    iterations: int
    validation_iterations: int
    optimiser: Optimiser
    precision: str


class Augmented(TypedDict, total=False):
    """How a training's images are augmented, where it is not as nnU-Net does by default."""

    augmentation: Augmentation


class PublicPairs(TypedDict):
    """What a site's labels of public images are made and read with."""

    site: str
    dataset: Mapping[str, Any]
    federation: str
    images: int
    images_seed: int


class Embedder(TypedDict, total=False):
    """The embedder that images are compared by."""

    embedder: str
    embedder_weights: Artifact


def training(experiment: Experiment) -> Training:
    """Return the architecture, the length of an epoch, the optimiser and the precision."""
    unet = experiment.budget.unet
    return {
        "segmenter": experiment.segmenter,
        "iterations": unet.iterations,
        "validation_iterations": unet.validation_iterations,
        "optimiser": unet.optimiser,
        "precision": experiment.precision,
    }


def augmented(regime: str) -> Augmented:
    """Return the augmentation of a regime's trainings; nothing for nnU-Net's default."""
    augmentation = REGIMES[regime].augmentation
    return {} if augmentation == "nnunet" else {"augmentation": augmentation}


def public_pairs(
    site: str, dataset: Mapping[str, Any], federation: str, experiment: Experiment
) -> PublicPairs:
    """Return the parameters of a site's labels of public images, which all parties know."""
    most = experiment.budget.synthesis.max_images
    return {
        "site": site,
        "dataset": dataset,
        "federation": federation,
        "images": min(PUBLIC_IMAGES, most or PUBLIC_IMAGES),
        "images_seed": seed_of(experiment.seed, "public images"),
    }


def caps(experiment: Experiment) -> Mapping[str, Any]:
    """Return the budget's caps on nnU-Net's plan."""
    return experiment.budget.plan.model_dump()


def epochs_of_local2x(experiment: Experiment) -> int:
    """Return the epochs that the general model and its fine-tuning take together."""
    return experiment.budget.unet.epochs + experiment.budget.unet.finetune_epochs


def embedder(experiment: Experiment) -> Embedder:
    """Return the embedder that images are compared by; weights are an input, known by their
    content."""
    if experiment.embedder != "openclip":
        return {"embedder": experiment.embedder}
    path = Path(str(experiment.embedder_weights))
    weights = Artifact(stage="weights", key=file_digest(path), path=path)
    return {"embedder": experiment.embedder, "embedder_weights": weights}


def numbered(name: str, artifacts: Iterable[Artifact]) -> dict[str, Artifact]:
    """Return inputs of a stage that takes any number of them, by `name_<position>`."""
    return {f"{name}_{position}": found for position, found in enumerate(artifacts)}
