"""A hospital as a value, and the quantities that follow from its number of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from hyfree_ray.border.manifest import MIN_ROWS
from hyfree_ray.cohorts.site_case import Part, SiteCase
from hyfree_ray.config.budget import Budget
from hyfree_ray.core.artifacts import RAW_DATA, Artifact
from hyfree_ray.evaluation.regimes import RELEASE
from hyfree_ray.federation.party import Party
from hyfree_ray.stages.data import draw_phantom

MIN_IMAGES = 40
"""Training images below which nearly all samples were seen to be near copies."""


EXPORTS = {
    "release": ("release.arrow", "manifest.json"),
    "label_public": ("labels.bin", "labels.json"),
}
"""Everything that a hospital may send."""

SIMULATION_EXPORTS = EXPORTS | {
    "train_segmenter": ("model/*",),
    "ensemble": ("model/*.json", "model/*/*"),
}
"""In a simulation a site's models are also scored at the other sites."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """A hospital as a value: its name, its cases and their location. It never runs."""

    name: str
    key: str
    """Hash of its sorted cases: image and label digests, patients, parts."""
    cases: tuple[SiteCase, ...]
    dataset: Mapping[str, Any]
    """nnU-Net's `dataset.json`: channel names, labels, file ending, reader."""
    folder: Path | None
    """Folder of the raw data set; None: a phantom, which draws itself."""
    phantom: Mapping[str, Any] | None = None
    """index, seed and version of a phantom site, and its kind."""
    left_out: int = 0
    """Patients whom the hospital has left out for their risk."""

    def part(self, *names: Part) -> list[SiteCase]:
        """Return the cases of the named parts."""
        return [case for case in self.cases if case["part"] in names]

    @property
    def training_images(self) -> int:
        """Slices that the generator is trained on, blank ones included; a 2D case is one."""
        return sum(case.get("slices", 1) for case in self.part("train"))

    @property
    def few_images_warning(self) -> str | None:
        """A warning of the consequences of few training images; None if there are enough."""
        if self.training_images >= MIN_IMAGES:
            return None
        return (
            f"{self.name} has {self.training_images} training images; with fewer than "
            f"{MIN_IMAGES} a generator tends to copy them, and its release may be withheld"
        )


class LocalModelInputs(TypedDict):
    """`LocalModels` as the inputs of a stage."""

    prepared: Artifact
    segmenter: Artifact
    generator: Artifact


@dataclass(frozen=True, kw_only=True)
class LocalModels:
    """The models that a site has trained on its own real data."""

    prepared: Artifact
    segmenter: Artifact
    generator: Artifact

    def inputs(self) -> LocalModelInputs:
        """Return them as the inputs of a stage that reads all."""
        return {
            "prepared": self.prepared,
            "segmenter": self.segmenter,
            "generator": self.generator,
        }


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """The results of a site after the first half of the protocol."""

    local: LocalModels
    samples: Artifact
    release: Artifact | None
    """None: the audit broke, so that nothing may leave."""


def images_shown(site: Site, budget: Budget) -> int:
    """Return the length of the generator's training (Chebykin et al. 2024: N thousand images for
    N)."""
    generator = budget.generator
    shown = generator.images_shown_per_image * site.training_images
    return max(generator.min_images_shown, shown)


def quota(site: Site, budget: Budget) -> int:
    """Return how many images the site would release (Chebykin et al. 2024: ten per training
    image)."""
    count = max(MIN_ROWS, round(budget.synthesis.per_real * site.training_images))
    return min(count, budget.synthesis.max_images or count)


async def raw_data(party: Party, site: Site) -> Artifact:
    """Return a site's raw data set: the hospital's folder, or the phantom, drawn by `party`."""
    if site.phantom is not None:
        return await party.run(RELEASE, draw_phantom, **site.phantom)
    assert site.folder is not None
    return Artifact(stage=RAW_DATA, key=site.key, path=site.folder)


def raw_key(site: Site) -> str:
    """Return the key of the result of `raw_data`, without drawing anything."""
    return site.key if site.phantom is None else draw_phantom.call(**site.phantom).key
