"""The program of a hospital. Its real images are read here and nowhere else."""

from __future__ import annotations

import logging
from asyncio import gather
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hyfree_ray.border.public_labels import LABELS_MANIFEST_FILE
from hyfree_ray.core.artifacts import Artifact
from hyfree_ray.core.parcels import Parcel
from hyfree_ray.evaluation.choice import choose_regime
from hyfree_ray.evaluation.regimes import CHOSEN, RELEASE, candidates
from hyfree_ray.evaluation.scores import dice_by_patient, mean_over_patients
from hyfree_ray.federation.hospital import Contribution, LocalModels
from hyfree_ray.federation.interface import ReplaySet, Scored
from hyfree_ray.federation.site_stages import SiteStages
from hyfree_ray.federation.submission import submission
from hyfree_ray.federation.trainers import Given, site_trainer
from hyfree_ray.generators.pairing import draws_masks
from hyfree_ray.stages.audit import audit_labels

log = logging.getLogger("hyfree_ray")


class SiteParty(SiteStages):
    """A hospital's programs. Methods may be called again at any time: nothing is done twice."""

    # --- the protocol, first half: on its own, at its own pace -------------------------------

    async def contribute(self) -> Contribution:
        """Train a generator and a segmenter on real data; sample, filter, audit, label, release."""
        prepared = await self.prepare()
        generator, segmenter = await gather(
            self.train_generator(prepared), self.train_local(prepared)
        )
        local = LocalModels(prepared=prepared, segmenter=segmenter, generator=generator)
        samples = await self.sample(local, self.quota)
        await gather(self.correlate(local, samples), self.show_training(local))
        return Contribution(
            local=local, samples=samples, release=await self.release(local, samples)
        )

    async def sample(self, local: LocalModels, images: int, purpose: str = RELEASE) -> Artifact:
        """Choose the generator's snapshot by held-out images, then sample through the filter."""
        choice = await self.choose_snapshot(local)
        return await self.synthesise(local, choice, images, purpose)

    async def release(
        self, local: LocalModels, samples: Artifact, purpose: str = RELEASE
    ) -> Artifact | None:
        """Audit the accepted samples, label them with one of the site's own networks, and measure
        how good they are, if they are to be sent.

        Returns:
            None if the audit failed: a gate that does not answer is closed.
        """
        audited = await self.audit(local, samples, purpose)
        if audited is None:
            return None
        labeller = await self.labeller(local)
        labelled = await self.label(local, samples, audited, labeller, purpose)
        quality = None
        if purpose == RELEASE:
            await self.audit_labels(local, labelled)
            quality = await self.measure_quality(local, samples, labelled, labeller)
        return await self.pack(local, samples, audited, labelled, purpose, quality)

    async def audit_labels(self, local: LocalModels, labelled: Artifact) -> Artifact:
        """Attack the release's masks alone, whoever drew them; for the site's own report."""
        found = await self.run(
            RELEASE,
            audit_labels,
            labelled=labelled,
            prepared=local.prepared,
            gate=self.experiment.gate.model_dump(exclude={"quality"}),
        )
        if found.record is not None and found.result["outcome"] == "fails":
            log.warning(
                "%s: the masks of its release tell who was trained on; see its report, and "
                "consider to hand in none",
                self.name,
            )
        return found

    async def labeller(self, local: LocalModels) -> Artifact:
        """Return the network that labels the site's samples."""
        pairs = draws_masks(self.experiment.generator.pairing)
        if self.experiment.labeller == "local" or pairs:
            return local.segmenter
        return await self.train_local2x(local.prepared)

    async def submit(self) -> Parcel:
        """Submit the release, signed, or a signed notice that the site withholds it."""
        return submission(self, await self.contribute())

    async def label_public(self) -> Parcel:
        """Label the public images with one of the site's own networks; submit the masks, signed."""
        prepared = await self.prepare()
        if self.experiment.labeller == "local":
            labeller = await self.train_local(prepared)
        else:
            labeller = await self.train_local2x(prepared)
        parcel = self.export(await self.label_public_images(prepared, labeller))
        # Shares of labels stay: only what the masks show travels.
        return self.workspace.sign(replace(parcel, result={}), LABELS_MANIFEST_FILE)

    # --- the protocol, second half -----------------------------------------------------------

    async def model(
        self, regime: str, general: Parcel | None = None, shared: ReplaySet | None = None
    ) -> Parcel | None:
        """Train one of the site's own models, and export it to be scored at another site.

        Args:
            regime: one that a site trains.
            general: the pool's model, for regimes that begin with it.
            shared: the releases of the round, for regimes that replay them.

        Returns:
            None if the site has no such model: it released nothing.
        """
        found = await self.train_regime(regime, general, shared)
        return None if found is None else self.export(found)

    async def train_regime(
        self, regime: str, general: Parcel | None, shared: ReplaySet | None
    ) -> Artifact | None:
        """Train the site's model of a regime."""
        received = None if general is None else self.receive(general)
        if received is not None:
            await self.audit_general(received, regime)
        given = Given(regime=regime, general=received, shared=shared)
        return await site_trainer(regime)(self, given)

    async def choose(self, general: Parcel, shared: ReplaySet) -> str:
        """Choose the regime of the model that the site would use."""
        return choose_regime(await self.compare_at_home(general, shared))

    async def compare_at_home(
        self, general: Parcel, shared: ReplaySet
    ) -> dict[str, dict[int, float]]:
        """Return Dice of the candidate models, by patient of the site's validation cases alone."""
        dice = {}
        for regime in candidates(self.experiment.settings):
            model = await self.train_regime(regime, general, shared)
            assert model is not None, f"{regime} is no candidate: a site may have no such model"
            rows = await self.score_cases("val", CHOSEN, regime, model, self.name)
            dice[regime] = dice_by_patient(rows)
        return dice

    async def score(self, regime: str, train_site: str, model: Parcel | None) -> Scored:
        """Score a model on this site's test cases: numbers, with patients and cases as indices."""
        rows: list[Any] = []
        if model is not None:
            own = model.sender == self.name
            found = self.store.find_key(model.stage, model.key) if own else self.receive(model)
            rows = await self.score_cases("test", regime, regime, found, train_site)
        return Scored(test_site=self.name, regime=regime, train_site=train_site, rows=rows)

    async def validate(self, regime: str, train_site: str, model: Parcel) -> float:
        """Return the Dice of another party's model on this site's validation cases: one number."""
        rows = await self.score_cases("val", regime, regime, self.receive(model), train_site)
        return mean_over_patients(dice_by_patient(rows))

    # --- for observers -----------------------------------------------------------------------

    async def training_pictures(self) -> Mapping[str, bytes]:
        """Return the pictures of `show_training`, if this is a phantom; a hospital keeps them."""
        made = self._training_samples
        if self.site.phantom is None or made is None or made.record is None:
            return {}
        return {picture.name: picture.read_bytes() for picture in made.path.glob("*.png")}
