"""A hospital's stages, each called with the parameters from its settings and its own data."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hyfree_ray.cohorts.site_case import Part
from hyfree_ray.config.experiment import Experiment
from hyfree_ray.core.artifacts import Artifact
from hyfree_ray.core.errors import StageError
from hyfree_ray.core.seeds import seed_of
from hyfree_ray.evaluation.regimes import CONTROL, PUBLIC, RELEASE
from hyfree_ray.federation.hospital import (
    SIMULATION_EXPORTS,
    LocalModels,
    Site,
    images_shown,
    quota,
    raw_data,
)
from hyfree_ray.federation.ledger import Ledger
from hyfree_ray.federation.parameters import (
    RealCases,
    augmented,
    caps,
    embedder,
    epochs_of_local2x,
    numbered,
    public_pairs,
    training,
)
from hyfree_ray.federation.party import Party, Runner
from hyfree_ray.generators.pairing import draws_masks
from hyfree_ray.stages.audit import audit, audit_general
from hyfree_ray.stages.data import prepare
from hyfree_ray.stages.memorisation import pixel_correlation
from hyfree_ray.stages.public import label_public, pair_public
from hyfree_ray.stages.quality import choose_snapshot
from hyfree_ray.stages.quality_card import quality_card
from hyfree_ray.stages.scoring import score
from hyfree_ray.stages.synthesis import label, release, synthesise
from hyfree_ray.stages.training import (
    COPYING,
    overtrain_generator,
    train_generator,
    train_segmenter,
)
from hyfree_ray.stages.training_samples import training_samples

log = logging.getLogger("hyfree_ray")


class SiteStages(Party):
    """A hospital as a party.

    Args:
        site: the hospital.
        experiment: the settings.
        federation: key of the federation that its releases are made for.
        root: its own folder.
        runner: runs its stages.
    """

    def __init__(
        self, site: Site, experiment: Experiment, federation: str, root: Path, runner: Runner
    ) -> None:
        super().__init__(site.name, root, runner, SIMULATION_EXPORTS)
        self.ledger = Ledger(self.workspace.documents)
        self.site = site
        self.experiment = experiment
        self.federation = federation
        self._audit_broke = False
        self._training_samples: Artifact | None = None

    @property
    def images_shown(self) -> int:
        """Length of the generator's training."""
        return images_shown(self.site, self.experiment.budget)

    @property
    def quota(self) -> int:
        """Number of images that the site would release."""
        return quota(self.site, self.experiment.budget)

    def seed(self, stage: str) -> int:
        """Return a stage's seed: it depends on the experiment, this site and the stage alone."""
        return seed_of(self.experiment.seed, self.name, stage)

    async def public_key(self) -> bytes:
        """Return the key by which the pool verifies this site's signatures."""
        return self.workspace.public_key()

    async def real_cases(self) -> RealCases:
        """Return the training and validation cases."""
        return {
            "data": await raw_data(self, self.site),
            "cases": self.site.part("train", "val"),
            "dataset": self.site.dataset,
            "caps": caps(self.experiment),
        }

    async def prepare(self) -> Artifact:
        """Plan nnU-Net on the site's own cases and preprocess them."""
        masks = draws_masks(self.experiment.generator.pairing)
        return await self.run("local", prepare, masks=masks, **await self.real_cases())

    async def train_generator(self, prepared: Artifact) -> Artifact:
        """Train the generator on the slices that nnU-Net would see."""
        experiment = self.experiment
        return await self.run(
            RELEASE,
            train_generator,
            prepared=prepared,
            generator=experiment.generator.model_dump(),
            images_shown=self.images_shown,
            snapshots=experiment.budget.generator.snapshots,
            mirror=experiment.mirror,
            precision=experiment.precision,
            seed=self.seed("generator"),
        )

    async def overtrain_generator(self, prepared: Artifact) -> Artifact:
        """Train the generator on a few images until it copies them, to test the filter."""
        return await self.run(
            RELEASE,
            overtrain_generator,
            prepared=prepared,
            generator=self.experiment.generator.model_dump(),
            images_shown=COPYING * self.experiment.budget.generator.images_shown_per_image,
            precision=self.experiment.precision,
            seed=self.seed("copies"),
        )

    async def train_local(self, prepared: Artifact) -> Artifact:
        """Train the site's own nnU-Net."""
        return await self.train("local", prepared, self.experiment.budget.unet.epochs)

    async def train_local2x(self, prepared: Artifact) -> Artifact:
        """Train it for as many steps as the general model and its fine-tuning take together."""
        return await self.train(CONTROL, prepared, epochs_of_local2x(self.experiment))

    async def train(
        self,
        regime: str,
        prepared: Artifact,
        epochs: int,
        *,
        initial: Artifact | None = None,
        warmup: float = 0.0,
    ) -> Artifact:
        """Train nnU-Net for a regime, from fresh weights or from a model's."""
        start = {} if initial is None else {"initial": initial}
        return await self.run(
            regime,
            train_segmenter,
            role=regime,
            prepared=prepared,
            epochs=epochs,
            **training(self.experiment),
            warmup=warmup,
            seed=self.seed(regime),
            **start,
            **augmented(regime),
        )

    async def choose_snapshot(self, local: LocalModels) -> Artifact:
        """Choose the generator's snapshot by images that it was not trained on."""
        return await self.run(
            RELEASE,
            choose_snapshot,
            **local.inputs(),
            **embedder(self.experiment),
            percentile=self.experiment.threshold_percentile,
            precision=self.experiment.precision,
            seed=self.seed("choice"),
        )

    async def synthesise(
        self, local: LocalModels, choice: Artifact, images: int, purpose: str
    ) -> Artifact:
        """Sample until the requested number of images has passed the filter."""
        samples = await self.run(
            purpose,
            synthesise,
            **local.inputs(),
            choice=choice,
            copies=await self.overtrain_generator(local.prepared),
            quota=images,
            percentile=self.experiment.threshold_percentile,
            max_rejection_rate=self.experiment.gate.max_rejection_rate,
            **embedder(self.experiment),
            precision=self.experiment.precision,
            seed=self.seed("samples"),
        )
        return self._show_staff(samples)

    async def correlate(self, local: LocalModels, samples: Artifact) -> Artifact:
        """Measure how the samples correlate with training images, for the site's own staff."""
        return self._show_staff(
            await self.run(RELEASE, pixel_correlation, samples=samples, prepared=local.prepared)
        )

    async def show_training(self, local: LocalModels) -> Artifact:
        """Draw from each snapshot of the generator, for the site's own staff."""
        self._training_samples = await self.run(
            RELEASE,
            training_samples,
            generator=local.generator,
            prepared=local.prepared,
            precision=self.experiment.precision,
            seed=self.seed("training samples"),
            **({} if self.site.phantom is None else {"phantom": self.site.phantom}),
        )
        return self._show_staff(self._training_samples)

    async def audit(self, local: LocalModels, samples: Artifact, purpose: str) -> Artifact | None:
        """Check the accepted samples against the site's own gate.

        Returns:
            None if it did not answer: other sites go on, and the next run tries again.
        """
        if self._audit_broke:
            return None
        # What a setting trains for itself is compared, and never leaves.
        counts = purpose == RELEASE
        history: Any = self._history(samples) if counts else {}
        try:
            found = await self.run(
                purpose,
                audit,
                samples=samples,
                segmenter=local.segmenter,
                prepared=local.prepared,
                gate=self.experiment.gate.model_dump(exclude={"quality"}),
                generator=self.experiment.generator.name,
                images_shown=self.images_shown,
                left_out=self.site.left_out,
                **embedder(self.experiment),
                seed=self.seed("audit"),
                **history,
            )
        except StageError as error:
            log.warning("%s; until this is fixed, %s releases nothing", error, self.name)
            self._audit_broke = True
            return None
        if counts and found.record is not None:
            self.ledger.end(samples.key, released=found.result["outcome"] == "released")
        return self._show_staff(found)

    def _history(self, samples: Artifact) -> dict[str, Any]:
        """Enter samples into the ledger, and return what an audit is told of earlier ones."""
        entry = self.ledger.begin(samples.key, self.site.part("train"))
        before = [self.store.find_key(samples.stage, key) for key in entry.before]
        return {
            "attempts": entry.attempts,
            "trained_before": self.ledger.patients_of(entry.before, self.site.cases),
            **numbered("earlier", before),
        }

    async def label(
        self,
        local: LocalModels,
        samples: Artifact,
        audited: Artifact | None,
        labeller: Artifact,
        purpose: str,
    ) -> Artifact:
        """Label the samples with one of the site's own networks.

        Args:
            local: the site's models.
            samples: what is labelled.
            audited: their audit; None for samples that never leave.
            labeller: the network.
            purpose: the regime that they are for, or `RELEASE`.
        """
        passed = {} if audited is None else {"audit": audited}
        return await self.run(
            purpose,
            label,
            samples=samples,
            segmenter=labeller,
            prepared=local.prepared,
            dataset=self.site.dataset,
            **passed,
        )

    async def measure_quality(
        self, local: LocalModels, samples: Artifact, labelled: Artifact, labeller: Artifact
    ) -> Artifact:
        """Write the quality card of labelled samples, and hold it against the site's own gate."""
        measured = await self.run(
            RELEASE,
            quality_card,
            samples=samples,
            labelled=labelled,
            segmenter=labeller,
            prepared=local.prepared,
            generator=local.generator,
            gate=self.experiment.gate.quality.model_dump(),
            images_shown_per_image=-(-self.images_shown // self.site.training_images),
            max_steps=self.experiment.budget.unet.epochs * self.experiment.budget.unet.iterations,
            **embedder(self.experiment),
            seed=self.seed("quality"),
        )
        return self._show_staff(measured)

    async def pack(
        self,
        local: LocalModels,
        samples: Artifact,
        audited: Artifact,
        labelled: Artifact,
        purpose: str,
        quality: Artifact | None = None,
    ) -> Artifact:
        """Pack the release, with a quality card if it is to be sent."""
        carded = {} if quality is None else {"quality": quality}
        return await self.run(
            purpose,
            release,
            samples=samples,
            audit=audited,
            labelled=labelled,
            prepared=local.prepared,
            site=self.name,
            dataset=self.site.dataset,
            federation=self.federation,
            addressee=asdict(self.experiment.addressee),
            seed=self.seed("release"),
            **carded,
        )

    async def audit_general(self, general: Artifact, purpose: str) -> Artifact:
        """Attack the general model before it is used: does it know the site's patients?"""
        found = await self.run(
            purpose,
            audit_general,
            data=await raw_data(self, self.site),
            cases=self.site.part("train", "val"),
            dataset=self.site.dataset,
            model=general,
            segmenter=self.experiment.segmenter,
            gate=self.experiment.gate.model_dump(exclude={"quality"}),
        )
        if found.record is not None and found.result["outcome"] == "fails":
            log.warning(
                "%s: the general model tells who was trained on; see its audit, and consider to "
                "withdraw the release",
                self.name,
            )
        return found

    async def label_public_images(self, prepared: Artifact, labeller: Artifact) -> Artifact:
        """Label the public images with one of the site's own networks."""
        return await self.run(
            PUBLIC,
            label_public,
            prepared=prepared,
            segmenter=labeller,
            addressee=asdict(self.experiment.addressee),
            **public_pairs(self.name, self.site.dataset, self.federation, self.experiment),
        )

    async def pair_public(self, site: str, labels: Artifact) -> Artifact:
        """Check another site's labels of public images, and put the images to them.

        Raises:
            ReleaseError: the rule that they break.
        """
        pairs = public_pairs(site, self.site.dataset, self.federation, self.experiment)
        return await self.run(PUBLIC, pair_public, labels=labels, **pairs)

    async def score_cases(
        self, part: Part, purpose: str, regime: str, model: Artifact, train_site: str
    ) -> list[Any]:
        """Score a model on the site's cases of a part: train, val or test."""
        scored = await self.run(
            purpose,
            score,
            data=await raw_data(self, self.site),
            cases=self.site.part(part),
            dataset=self.site.dataset,
            model=model,
            segmenter=self.experiment.segmenter,
            metrics=self.experiment.metrics,
            regime=regime,
            train_site=train_site,
        )
        return [] if scored.record is None else list(scored.result["rows"])

    def _show_staff(self, made: Artifact) -> Artifact:
        if made.record is not None:
            names = {case["index"]: case["name"] for case in self.site.cases}
            self.workspace.show_staff(made, names, self.site.key)
        return made
