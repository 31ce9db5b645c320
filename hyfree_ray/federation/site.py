"""What a hospital does, in order. Its real images are read here and nowhere else."""

from __future__ import annotations

import logging
from asyncio import gather
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyfree_ray.border.manifest import MANIFEST_FILE
from hyfree_ray.border.signing import signing_key
from hyfree_ray.border.withheld import NOTICE_FILE, Notice
from hyfree_ray.config.experiment import Experiment
from hyfree_ray.core.errors import StageError
from hyfree_ray.core.seeds import seed_of
from hyfree_ray.core.store import Artifact, Parcel, digest_of, file_digest
from hyfree_ray.evaluation.choice import choose_regime
from hyfree_ray.evaluation.regimes import candidates
from hyfree_ray.evaluation.scores import dice_by_patient
from hyfree_ray.federation.hospital import (
    Contribution,
    Learned,
    Shared,
    Site,
    images_shown,
    keep_for_the_site,
    quota,
    raw_data,
)
from hyfree_ray.federation.party import Party, Runner
from hyfree_ray.federation.trust import sign
from hyfree_ray.stages.audit import audit
from hyfree_ray.stages.data import draw_phantom, prepare, prepare_for_general
from hyfree_ray.stages.pooling import pool_releases
from hyfree_ray.stages.quality import choose_snapshot, quality_card
from hyfree_ray.stages.replay import prepare_replay
from hyfree_ray.stages.scoring import score
from hyfree_ray.stages.synthesis import release, synthesise
from hyfree_ray.stages.training import train_general, train_generator, train_segmenter

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

log = logging.getLogger("hyfree_ray")

ROUND = 1
"""Of all releases: a pool's later rounds take the same ones in, or those of other experiments."""

AUDIT_BROKE = "its audit broke or took too long, and without one nothing is released"

RELEASE_VERSIONS = tuple(
    one.version
    for one in (
        draw_phantom,
        prepare,
        train_generator,
        train_segmenter,
        choose_snapshot,
        synthesise,
        audit,
        release,
    )
)
"""Versions of the stages that make a release: when one is raised, a round starts anew."""

EXPORTS = {"release": ("release.arrow", "manifest.json")}
"""All that a hospital hands out."""

SIMULATION_EXPORTS = EXPORTS | {"train_segmenter": ("model/*",)}
"""In a simulation a site's models are also scored at the other sites."""


class SiteParty(Party):
    """A hospital's programs. Methods may be called again at any time: what is done is not redone.

    Args:
        site: the hospital.
        experiment: the settings.
        federation: what its releases are made for.
        root: its own folder.
        runner: where its stages run.
    """

    def __init__(
        self, site: Site, experiment: Experiment, federation: str, root: Path, runner: Runner
    ) -> None:
        super().__init__(site.name, root, runner, SIMULATION_EXPORTS)
        self.site = site
        self.experiment = experiment
        self.federation = federation
        self._audit_broke = False

    @property
    def images_shown(self) -> int:
        """Length of the generator's training."""
        return images_shown(self.site, self.experiment.budget)

    def seed(self, stage: str) -> int:
        """A stage's seed: of the experiment, this site and the stage, and nothing else."""
        return seed_of(self.experiment.seed, self.site.name, stage)

    # --- the protocol, first half: on its own, at its own pace -------------------------------

    async def contribute(self) -> Contribution:
        """Train a generator and a segmenter on real data; sample, filter, audit, label, release."""
        learned = await self._learn()
        samples = await self._synthesise(learned, quota(self.site, self.experiment.budget))
        self._keep(samples)
        released = await self._release(learned, samples)
        return Contribution(learned=learned, samples=samples, release=released)

    async def _audit(self, learned: Learned, samples: Artifact) -> Artifact | None:
        """Hold what would be released against the site's own gate. None: it did not answer."""
        if self._audit_broke:
            return None
        try:
            found = await self.run(
                audit,
                samples=samples,
                segmenter=learned.segmenter,
                prepared=learned.prepared,
                gate=self.experiment.gate.model_dump(),
                generator=self.experiment.generator,
                images_shown=self.images_shown,
                **self.embedder(),
                seed=self.seed("audit"),
            )
        except StageError as error:
            # A gate that does not answer is closed. Other sites go on; the next run tries again.
            log.warning("%s; until it is mended, %s releases nothing", error, self.name)
            self._audit_broke = True
            return None
        self._keep(found)
        return found

    def _keep(self, made: Artifact) -> None:
        if made.record is not None and not self.runner.planning:
            keep_for_the_site(self.store.root / "audit", self.site, made)

    async def _prepare(self) -> Artifact:
        """Plan nnU-Net on the site's own cases and preprocess them."""
        return await self.run(
            prepare,
            data=await self.data(),
            cases=self.site.part("train", "val"),
            dataset=self.site.dataset,
            caps=self.experiment.budget.plan.model_dump(),
        )

    async def _learn(self) -> Learned:
        """Plan, and train both networks, side by side where there is room."""
        budget = self.experiment.budget
        prepared = await self._prepare()
        generator, segmenter = await gather(
            self.run(
                train_generator,
                prepared=prepared,
                backend=self.experiment.generator,
                max_channels=getattr(budget.generator, f"{self.experiment.generator}_max_channels"),
                images_shown=self.images_shown,
                snapshots=budget.generator.snapshots,
                mirror=self.experiment.mirror,
                precision=self.experiment.precision,
                seed=self.seed("generator"),
            ),
            self.train("local", prepared, budget.unet.epochs),
        )
        return Learned(prepared=prepared, segmenter=segmenter, generator=generator)

    async def _synthesise(self, learned: Learned, images: int) -> Artifact:
        """Choose the generator's snapshot by held-out images, then sample through the filter."""
        experiment = self.experiment
        choice = await self.run(
            choose_snapshot,
            **vars(learned),
            backend=experiment.generator,
            images_shown=self.images_shown,
            **self.embedder(),
            precision=experiment.precision,
            seed=self.seed("choice"),
        )
        return await self.run(
            synthesise,
            **vars(learned),
            choice=choice,
            quota=images,
            percentile=experiment.threshold_percentile,
            max_rejection_rate=experiment.gate.max_rejection_rate,
            **self.embedder(),
            precision=experiment.precision,
            seed=self.seed("samples"),
        )

    async def _release(self, learned: Learned, samples: Artifact) -> Artifact | None:
        """Audit what passed the filter and label it with one of the site's own segmenters."""
        audited = await self._audit(learned, samples)
        if audited is None:
            return None
        return await self.run(
            release,
            samples=samples,
            audit=audited,
            segmenter=await self._labeller(learned),
            prepared=learned.prepared,
            site=self.site.name,
            dataset=self.site.dataset,
            federation=self.federation,
            round_number=ROUND,
            seed=self.seed("release"),
        )

    async def _labeller(self, learned: Learned) -> Artifact:
        return learned.segmenter if self.experiment.labeller == "local" else await self.control()

    async def hand_in(self) -> Parcel:
        """The release, signed, on its way to the pool; or, signed, that the site withholds it."""
        done = await self.contribute()
        if done.release is None:
            return self._withhold(AUDIT_BROKE, done.samples.result["rejection_rate"])
        parcel = self.export(done.release)
        if done.release.record is not None and MANIFEST_FILE not in parcel.files:
            return self._withhold(parcel.result["reason"], parcel.result["rejection_rate"])
        # Of the site's own numbers only what its card says travels, and as coarse as it says it.
        told = {
            name: parcel.result[name] for name in ("outcome", "images") if name in parcel.result
        }
        return self._signed(replace(parcel, result=told), MANIFEST_FILE)

    def _withhold(self, reason: str, rate: float | None) -> Parcel:
        """What is handed in instead of a release: that there is none, and why."""
        notice = Notice.of(self.name, self.federation, ROUND, reason, rate).to_json()
        result = {"outcome": "withheld", "reason": reason, "images": 0}
        files = {NOTICE_FILE: notice.encode()}
        parcel = Parcel(
            sender=self.name, stage="release", key=digest_of(notice), files=files, result=result
        )
        return self._signed(parcel, NOTICE_FILE)

    def _signed(self, parcel: Parcel, statement: str) -> Parcel:
        """With the site's signature; while planning, as it is."""
        return parcel if self.runner.planning else sign(parcel, statement, self._key())

    def public_key(self) -> bytes:
        """What the pool knows this site's signatures by; empty while planning."""
        return b"" if self.runner.planning else self._key().public_key().public_bytes_raw()

    def _key(self) -> Ed25519PrivateKey:
        return signing_key(self.store.root / "keys" / "signing.key")

    async def assess(self) -> None:
        """Make the site's quality card, where its audit did not break. Nothing waits for it."""
        done = await self.contribute()
        if done.release is None:
            return
        await self.run(
            quality_card,
            samples=done.samples,
            release=done.release,
            segmenter=done.learned.segmenter,
            prepared=done.learned.prepared,
            **self.embedder(),
        )

    # --- the protocol, second half -----------------------------------------------------------

    async def control(self) -> Artifact:
        """local2x: local training for as many steps as general and fine-tuning take together."""
        unet = self.experiment.budget.unet
        epochs = unet.epochs + unet.finetune_epochs
        return await self.train("local2x", await self._prepare(), epochs)

    async def finetune(self, role: str, general: Artifact) -> Artifact:
        """Fine-tune a model, all weights, on real data preprocessed for its plan."""
        prepared = await self.run(
            prepare_for_general,
            data=await self.data(),
            cases=self.site.part("train", "val"),
            dataset=self.site.dataset,
            general=general,
            caps=self.experiment.budget.plan.model_dump(),
        )
        return await self._train_from(role, general, prepared)

    async def personalise(self, general: Artifact, shared: Shared) -> Artifact:
        """Fine-tune with replay: part of each batch comes from the other sites' releases."""
        others = [site for site in shared.sites if site != self.name]
        received = [
            self.receive(parcel)
            for site, parcel in zip(shared.sites, shared.parcels, strict=True)
            if site != self.name
        ]
        prepared = await self.run(
            prepare_replay,
            data=await self.data(),
            cases=self.site.part("train", "val"),
            dataset=self.site.dataset,
            general=general,
            caps=self.experiment.budget.plan.model_dump(),
            releases_of=others,
            share=self.experiment.replay_share,
            federation=self.federation,
            round_number=ROUND,
            **{f"release_{position}": found for position, found in enumerate(received)},
        )
        return await self._train_from("personalised", general, prepared)

    async def _train_from(self, role: str, general: Artifact, prepared: Artifact) -> Artifact:
        return await self.train(
            role,
            prepared,
            self.experiment.budget.unet.finetune_epochs,
            initial=general,
            warmup=self.experiment.warmup,
        )

    async def alone(self) -> Artifact | None:
        """own-syn: what the pool does, with twice the own release and nobody else's."""
        learned = (await self.contribute()).learned
        images = 2 * quota(self.site, self.experiment.budget)
        released = await self._release(learned, await self._synthesise(learned, images))
        if released is None:
            return None
        if released.record is not None and released.result["outcome"] != "released":
            return None
        prepared = await self.run(
            pool_releases,
            sites=[self.name],
            federation=self.federation,
            round_number=ROUND,
            caps=self.experiment.budget.plan.model_dump(),
            release_0=released,
        )
        unet = self.experiment.budget.unet
        general = await self.run(
            train_general,
            prepared=prepared,
            epochs=unet.epochs,
            iterations=unet.iterations,
            validation_iterations=unet.validation_iterations,
            precision=self.experiment.precision,
            workers=1,
            seed=self.seed("own-syn general"),
        )
        return await self.finetune("own-syn", general)

    async def model(
        self, regime: str, general: Parcel | None = None, shared: Shared | None = None
    ) -> Parcel | None:
        """One of the site's own models, to be scored at another site of the simulation."""
        found = await self._model(regime, general, shared)
        return None if found is None else self.export(found)

    async def _model(
        self, regime: str, general: Parcel | None, shared: Shared | None
    ) -> Artifact | None:
        if regime == "local":
            return (await self.contribute()).learned.segmenter
        if regime == "local2x":
            return await self.control()
        if regime == "own-syn":
            return await self.alone()
        assert general is not None
        received = self.receive(general)
        if regime == "finetuned":
            return await self.finetune(regime, received)
        assert regime == "personalised"
        assert shared is not None
        return await self.personalise(received, shared)

    async def choose(self, general: Parcel, shared: Shared) -> str:
        """The regime that the site keeps."""
        return choose_regime(await self.compare_at_home(general, shared))

    async def compare_at_home(self, general: Parcel, shared: Shared) -> dict[str, dict[int, float]]:
        """Dice of what the site may keep, by patient of its validation cases: no test case."""
        return {
            regime: dice_by_patient(
                await self._score_part("val", regime, await self._model(regime, general, shared))
            )
            for regime in candidates()
        }

    async def score(self, regime: str, train_site: str, model: Parcel | None) -> dict[str, Any]:
        """Score a model on this site's test cases: numbers, with patients and cases as indices."""
        told = {"test_site": self.name, "regime": regime, "train_site": train_site, "rows": []}
        if model is None:
            return told
        if model.sender == self.name:
            found = self.store.find_key(model.stage, model.key)
        else:
            found = self.receive(model)
        rows = await self._score_part("test", regime, found, train_site)
        return {**told, "rows": rows}

    async def _score_part(
        self, part: str, regime: str, model: Artifact | None, train_site: str = ""
    ) -> list[Any]:
        assert model is not None
        scored = await self.run(
            score,
            data=await self.data(),
            cases=self.site.part(part),
            dataset=self.site.dataset,
            model=model,
            regime=regime,
            train_site=train_site or self.name,
        )
        return [] if scored.record is None else list(scored.result["rows"])

    # --- parts -------------------------------------------------------------------------------

    async def data(self) -> Artifact:
        """The raw data set."""
        return await raw_data(self, self.site)

    def embedder(self) -> dict[str, Any]:
        """What images are compared by; OpenCLIP's weights are an input, known by their content."""
        if self.experiment.embedder != "openclip":
            return {"embedder": self.experiment.embedder}
        path = Path(str(self.experiment.embedder_weights))
        weights = Artifact(stage="weights", key=file_digest(path), path=path, record={})
        return {"embedder": self.experiment.embedder, "embedder_weights": weights}

    async def train(
        self,
        role: str,
        prepared: Artifact,
        epochs: int,
        *,
        initial: Artifact | None = None,
        warmup: float = 0.0,
    ) -> Artifact:
        """Train nnU-Net in one of its roles."""
        unet = self.experiment.budget.unet
        start = {} if initial is None else {"initial": initial}
        return await self.run(
            train_segmenter,
            role=role,
            prepared=prepared,
            epochs=epochs,
            iterations=unet.iterations,
            validation_iterations=unet.validation_iterations,
            precision=self.experiment.precision,
            warmup=warmup,
            seed=self.seed(role),
            **start,
        )
