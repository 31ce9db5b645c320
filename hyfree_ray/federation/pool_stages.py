"""The pool's stages, each called with the parameters from its settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyfree_ray.config.experiment import Experiment
from hyfree_ray.core.artifacts import Artifact
from hyfree_ray.core.keys import digest_of
from hyfree_ray.core.parties import POOL
from hyfree_ray.core.seeds import seed_of
from hyfree_ray.evaluation.regimes import PUBLIC, RELEASE
from hyfree_ray.federation.admissions import Admissions
from hyfree_ray.federation.parameters import public_pairs
from hyfree_ray.federation.party import Party, Runner
from hyfree_ray.federation.release_versions import RELEASE_VERSIONS
from hyfree_ray.federation.rounds import Rounds
from hyfree_ray.federation.trust import LABELS
from hyfree_ray.stages.pooling import check_release, label_agreement
from hyfree_ray.stages.public import pair_public

EXPORTS = {
    "train_general": ("model/*",),
    "release": ("release.arrow", "manifest.json"),
    "label_public": ("labels.bin", "labels.json"),
}
"""Everything that the pool sends: general models, and on their way down releases and labels."""


class PoolStages(Party):
    """The pool as a party.

    Args:
        key: the experiment's key; with the versions of the stages it names the rounds' folder.
        federation: key of the federation that releases must have been made for.
        dataset: the task's channels and labels.
        experiment: the settings.
        root: its own folder.
        runner: runs its stages.
    """

    def __init__(
        self,
        key: str,
        federation: str,
        dataset: Mapping[str, Any],
        experiment: Experiment,
        root: Path,
        runner: Runner,
    ) -> None:
        super().__init__(POOL, root, runner, EXPORTS)
        self.federation = federation
        self.dataset = dict(dataset)
        self.experiment = experiment
        self.admissions = Admissions(self.workspace.documents)
        self.rounds = Rounds(
            self.workspace.documents, digest_of([key, RELEASE_VERSIONS]), digest_of(self.dataset)
        )

    def seed(self, stage: str) -> int:
        """Return the seed of one of its stages."""
        return seed_of(self.experiment.seed, POOL, stage)

    def releases(self, members: Mapping[str, str]) -> list[Artifact]:
        """Return the releases of these sites, in the order of their names."""
        return [self.store.received("release", members[site], site) for site in sorted(members)]

    def labels(self, members: Mapping[str, str]) -> list[Artifact]:
        """Return these sites' labels of public images, in the order of their names."""
        return [self.store.received(LABELS, members[site], site) for site in sorted(members)]

    async def pair_public(self, site: str, labels: Artifact) -> Artifact:
        """Check a site's labels of public images as hostile input, and put the images to them.

        Raises:
            ReleaseError: the rule that they break.
        """
        pairs = public_pairs(site, self.dataset, self.federation, self.experiment)
        return await self.run(PUBLIC, pair_public, labels=labels, **pairs)

    async def check_release(self, site: str, received: Artifact) -> Artifact:
        """Check a release as hostile input.

        Raises:
            ReleaseError: the rule that it breaks.
        """
        return await self.run(
            RELEASE,
            check_release,
            release=received,
            site=site,
            dataset=self.dataset,
            federation=self.federation,
            gate=self.experiment.gate.model_dump(),
        )

    async def compare_labels(self, site: str, release: str, model: Artifact) -> Artifact:
        """Compare a release's labels with those of a model that was trained without it."""
        return await self.run(
            RELEASE,
            label_agreement,
            release=self.store.received("release", release, site),
            model=model,
            site=site,
            dataset=self.dataset,
            federation=self.federation,
        )
