"""A site's quality card: how far its release is from real images, what it teaches, and whether that
is enough for it to be sent.

Shapes: N, M images, C channels, H height, W width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hyfree_ray.border.privacy_card import coarse
from hyfree_ray.core.stage import Context, Folder, read_result, stage, stage_record
from hyfree_ray.stages.synthesis import LABELS

if TYPE_CHECKING:
    import numpy as np

    from hyfree_ray.border.quality_card import QualityCard, StructureBeside, Taught
    from hyfree_ray.cohorts.label_sets import Labels
    from hyfree_ray.evaluation.label_statistics import LabelStatistics
    from hyfree_ray.evaluation.realism import Measure, RealImages
    from hyfree_ray.generators.view import GeneratorView
    from hyfree_ray.privacy.embedders import Embed

MIN_IMAGES = 8
"""Real or synthetic images below which nothing can be said."""

FOLDS, STEPS = 4, 100
"""Of the classifiers that tell the release from real images."""

MAX_LABELLED = 100
"""Held-out images that are labelled to find out what the labelling network misses."""

COMPARISON = "comparison.png"
"""Real images beside synthetic ones: it stays at the site."""


@stage(version=7, device=True)
def quality_card(
    context: Context,
    *,
    samples: Folder,
    labelled: Folder,
    segmenter: Folder,
    prepared: Folder,
    generator: Folder,
    gate: Mapping[str, Any],
    images_shown_per_image: int,
    max_steps: int,
    embedder: str,
    seed: int,
    embedder_weights: Folder | None = None,
) -> dict[str, Any]:
    """Measure how good a site's labelled samples are, and check that against the site's gate.

    Args:
        context: where to.
        samples: what passed the filter.
        labelled: their labels.
        segmenter: the site's network, which labelled them.
        prepared: the site's view, with masks.
        generator: what drew the samples.
        gate: `QualityGate`'s bounds.
        images_shown_per_image: how often a training image was shown, for advice.
        max_steps: of each training here: those of the site's own network.
        embedder: what KID is measured in.
        seed: of halves, classifiers and networks.
        embedder_weights: the embedder's.

    Returns:
        outcome (released or withheld), reason, rejection_rate, and the card, which may travel.
        Beside it KID, density and coverage, in the embedder's features.
    """
    from hyfree_ray.border.quality_card import QualityGate, finds_nothing, violations
    from hyfree_ray.privacy.embedders import load_embedder

    decided = read_result(labelled)
    outcome = {name: decided[name] for name in ("outcome", "reason", "rejection_rate")}
    if decided["outcome"] == "withheld":
        return {**outcome, "card": None}
    release = _Release.load(samples, labelled, prepared)
    model = Path(segmenter / "model")
    card = _card(release, prepared, model, seed, max_steps, context.device)
    _picture(release, context.out / COMPARISON)
    bounds = QualityGate(**gate)
    failed = violations(card, bounds)
    if failed:
        advice = (
            LABELLER
            if finds_nothing(card, bounds)
            else FEW
            if read_result(samples)["later_copy"]
            else _longer(images_shown_per_image, stage_record(generator).seconds)
        )
        outcome |= {"outcome": "withheld", "reason": f"{'; '.join(failed)}; {advice}"}
    embed = load_embedder(
        embedder, model=model, weights=embedder_weights, view=release.view, device=context.device
    )
    return {
        **outcome,
        "card": card.model_dump(mode="json"),
        "images": len(release.stored_NCHW),
        **_in_features(release, embed),
    }


LABELLER = "train the network that labels it longer, by budget.unet.epochs, and not the generator"
"""Advice where no image of the release is to blame."""


FEW = (
    "training the generator longer would not help, for later snapshots copy training images: more "
    "patients are needed"
)
"""Advice where a generator copies before it has learned what is missing."""


def _longer(images_shown_per_image: int, seconds: float) -> str:
    """Say what to do: twice the training, and how much longer that takes."""
    minutes = max(1, round(seconds / 60))
    return (
        f"train longer: --set budget.generator.images_shown_per_image={2 * images_shown_per_image},"
        f" about {minutes} min more"
    )


@dataclass(frozen=True, kw_only=True)
class _Release:
    """Labelled samples, and the view of the real images that they are to be like."""

    stored_NCHW: np.ndarray
    labels_NHW: np.ndarray
    view: GeneratorView
    masks_NHW: np.ndarray
    """Of the view's images, as annotated."""
    labels: Labels
    """`dataset.json`'s."""

    @classmethod
    def load(cls, samples: Folder, labelled: Folder, prepared: Folder) -> _Release:
        import numpy as np

        from hyfree_ray.generators.view import GeneratorView

        view = GeneratorView.load(prepared / "view.npz")
        assert view.masks_NHW is not None
        return cls(
            stored_NCHW=np.load(samples / "accepted.npy", allow_pickle=False),
            labels_NHW=np.load(labelled / LABELS, allow_pickle=False),
            view=view,
            masks_NHW=view.masks_NHW,
            labels=labels_of(prepared),
        )

    @property
    def images_NCHW(self) -> np.ndarray:
        """The samples as they would travel, in [-1, 1]."""
        from hyfree_ray.privacy.sampling import restore

        return restore(self.stored_NCHW)


def labels_of(prepared: Folder) -> Labels:
    """Read the labels that a site's data were prepared with."""
    labels: Labels = json.loads((prepared / "dataset.json").read_text())["labels"]
    return labels


def real_images(
    view: GeneratorView, prepared: Folder, *, seed: int, folds: int, steps: int
) -> tuple[RealImages, Literal["held-out", "training"]]:
    """Return the real images to compare with, and which these are.

    Held-out ones, unless they are of fewer than `MIN_PATIENTS` patients: a classifier tested on so
    few says little, so then those of all training patients are taken, split over and over.
    """
    import numpy as np

    from hyfree_ray.evaluation.realism import MIN_PATIENTS, RealImages

    held_out_N = ~view.training_N
    enough = len(np.unique(view.patients_N[held_out_N])) >= MIN_PATIENTS
    chosen_N = held_out_N if enough else view.training_N
    assert view.masks_NHW is not None
    real = RealImages(
        images_NCHW=view.images_NCHW[chosen_N],
        labels_NHW=view.masks_NHW[chosen_N],
        patients_N=view.patients_N[chosen_N],
        labels=labels_of(prepared),
        seed=seed,
        folds=folds,
        steps=steps,
    )
    return real, "held-out" if enough else "training"


def _card(
    release: _Release, prepared: Folder, model: Path, seed: int, max_steps: int, device: str
) -> QualityCard:
    """Measure everything that stands on the card."""
    import numpy as np

    from hyfree_ray.border.quality_card import Distance, QualityCard, significant
    from hyfree_ray.evaluation.realism import MIN_HALVED

    steps = min(STEPS, max_steps)
    real, which = real_images(release.view, prepared, seed=seed, folds=FOLDS, steps=steps)
    patients = len(np.unique(real.patients_N))
    if patients < MIN_HALVED or min(len(real.images_NCHW), len(release.stored_NCHW)) < MIN_IMAGES:
        return QualityCard(
            measurable=False,
            reason=f"{len(release.stored_NCHW)} synthetic and {len(real.images_NCHW)} real images "
            f"of {patients} patients are too few",
        )
    found = real.compare(release.images_NCHW, release.labels_NHW)

    def rounded(measures: Mapping[str, Measure]) -> dict[str, Distance]:
        return {
            name: Distance(value=significant(one.value), floor=significant(one.floor))
            for name, one in measures.items()
        }

    return QualityCard(
        measurable=True,
        compared_with=which,
        accuracy=coarse(found.accuracy),
        accuracy_floor=coarse(found.accuracy_floor),
        images=rounded(found.images),
        labels=rounded(found.labels),
        images_times_floor=significant(found.images_times_floor),
        labels_times_floor=significant(found.labels_times_floor),
        times_floor=significant(found.times_floor),
        structures=_structures(release, real, model, device),
        taught=_taught(release, seed, max_steps, device),
    )


def _structures(
    release: _Release, real: RealImages, model: Path, device: str
) -> dict[str, StructureBeside]:
    """Put the label statistics of each structure side by side: synthetic, real, and real as the
    labelling network sees it."""
    from hyfree_ray.border.quality_card import Structure, StructureBeside, significant
    from hyfree_ray.evaluation.label_statistics import label_statistics
    from hyfree_ray.privacy.sampling import quantise
    from hyfree_ray.stages.synthesis import label_with

    def rounded(one: LabelStatistics) -> Structure:
        return Structure(**{name: significant(value) for name, value in asdict(one).items()})

    view = release.view
    held_out_NCHW = quantise(view.images_NCHW[~view.training_N][:MAX_LABELLED])
    labelled = {}
    if len(held_out_NCHW) >= MIN_IMAGES:
        labels_NHW = label_with(model, held_out_NCHW, view, device=device)
        labelled = label_statistics(labels_NHW, release.labels)
    there = label_statistics(real.labels_NHW, release.labels)
    return {
        name[:200]: StructureBeside(
            synthetic=rounded(one),
            real=rounded(there[name]),
            labelled=rounded(labelled[name]) if labelled else None,
        )
        for name, one in label_statistics(release.labels_NHW, release.labels).items()
    }


def _taught(release: _Release, seed: int, max_steps: int, device: str) -> Taught | None:
    """Train a small network on the release, on half of the real training patients, and on all."""
    from hyfree_ray.border.quality_card import Taught
    from hyfree_ray.evaluation import teaching
    from hyfree_ray.evaluation.realism import halves

    view = release.view

    def real(chosen_N: np.ndarray) -> teaching.Labelled:
        return teaching.Labelled(
            images_NCHW=view.images_NCHW[chosen_N],
            labels_NHW=release.masks_NHW[chosen_N],
            labels=release.labels,
        )

    training_N, held_out_N = view.training_N, ~view.training_N
    half_N = training_N.copy()
    half_N[training_N] = halves(view.patients_N[training_N], seed)[0]
    if not held_out_N.any() or not half_N.any():
        return None
    own = teaching.Labelled(
        images_NCHW=release.images_NCHW, labels_NHW=release.labels_NHW, labels=release.labels
    )
    dice = {}
    for name, teacher in {"release": own, "half": real(half_N), "local": real(training_N)}.items():
        found = teaching.taught_dice(
            teacher,
            real(held_out_N),
            view.patients_N[held_out_N],
            seed=seed,
            device=device,
            steps=min(teaching.STEPS, max_steps),
        )
        if found is None:
            return None
        dice[name] = round(found, 2)
    return Taught(**dice)


def _picture(release: _Release, path: Path) -> None:
    """Write real images beside synthetic ones, with the outlines of their labels."""
    from hyfree_ray.reports.pictures import real_beside_synthetic

    view, labels = release.view, release.labels
    real_beside_synthetic(
        path,
        (view.images_NCHW[view.training_N], release.masks_NHW[view.training_N]),
        (release.images_NCHW, release.labels_NHW),
        label_names={name: value for name, value in labels.items() if isinstance(value, int)},
    )


def _in_features(release: _Release, embed: Embed) -> dict[str, Any]:
    """Return KID, density and coverage in an embedder's features."""
    from hyfree_ray.evaluation.image_quality import density_and_coverage, kid

    view = release.view
    held_out_NCHW = view.images_NCHW[~view.training_N]
    counted = {"held_out_images": len(held_out_NCHW)}
    if len(release.stored_NCHW) < 2 or len(held_out_NCHW) < 2:
        return counted
    sample_NF, held_out_MF = embed(release.images_NCHW), embed(held_out_NCHW)
    density, coverage = density_and_coverage(sample_NF, held_out_MF)
    return {
        **counted,
        "kid": kid(sample_NF, held_out_MF),
        "kid_floor": kid(embed(view.images_NCHW[view.training_N]), held_out_MF),
        "density": density,
        "coverage": coverage,
    }
