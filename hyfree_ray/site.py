"""What a hospital does, in order. Its real images are read here and nowhere else."""

from __future__ import annotations

import logging
import shutil
from asyncio import gather
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyfree_ray.budget import Budget
from hyfree_ray.config import Experiment
from hyfree_ray.errors import StageError
from hyfree_ray.party import Party, Runner
from hyfree_ray.release import MANIFEST_FILE
from hyfree_ray.seeds import seed_of
from hyfree_ray.signing import SIGNATURE_FILE, signing_key
from hyfree_ray.stages.audit import audit
from hyfree_ray.stages.data import draw_phantom, prepare, prepare_for_general
from hyfree_ray.stages.quality import choose_snapshot, quality_card
from hyfree_ray.stages.scoring import score
from hyfree_ray.stages.synthesis import release, synthesise
from hyfree_ray.stages.training import train_generator, train_segmenter
from hyfree_ray.store import Artifact, Parcel, file_digest, write_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

log = logging.getLogger("hyfree_ray")

ROUND = 1

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

REGIMES = ("local", "local2x", "general", "finetuned")


@dataclass(frozen=True, kw_only=True)
class Site:
    """A hospital as a value: its name, its cases and where they are. It never runs."""

    name: str
    key: str
    """Hash of its sorted cases: image and label digests, patients, parts."""
    cases: tuple[Mapping[str, Any], ...]
    """name, index, patient (index), images, label, part (train, val or test)."""
    dataset: Mapping[str, Any]
    """nnU-Net's `dataset.json`: channel names, labels, file ending, reader."""
    folder: Path | None
    """Where the raw data set is; None: a phantom, which draws itself."""
    phantom: Mapping[str, int] | None = None
    """index, seed and version of a phantom site."""

    def part(self, *names: str) -> list[Mapping[str, Any]]:
        """The cases of the named parts."""
        return [case for case in self.cases if case["part"] in names]

    @property
    def training_images(self) -> int:
        """Slices to train on; a 2D case is one."""
        return len(self.part("train"))


def images_shown(site: Site, budget: Budget) -> int:
    """Length of the generator's training (METHOD: N thousand images for N training images)."""
    generator = budget.generator
    shown = generator.images_shown_per_image * site.training_images
    return max(generator.min_images_shown, shown)


def quota(site: Site, budget: Budget) -> int:
    """Images that the site would release (METHOD: ten for each training image)."""
    wanted = max(1, round(budget.synthesis.per_real * site.training_images))
    return min(wanted, budget.synthesis.max_images or wanted)


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What a site has trained on its own real data."""

    prepared: Artifact
    segmenter: Artifact
    generator: Artifact


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """What a site has after the first half of the protocol."""

    learned: Learned
    samples: Artifact
    release: Artifact | None
    """None: the audit broke, so that nothing may leave."""


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
        samples = await self._synthesise(learned)
        self.keep_for_the_site(samples)
        audited = await self._audit(learned, samples)
        if audited is None:
            return Contribution(learned=learned, samples=samples, release=None)
        released = await self.run(
            release,
            samples=samples,
            audit=audited,
            segmenter=learned.segmenter,
            prepared=learned.prepared,
            site=self.site.name,
            dataset=self.site.dataset,
            federation=self.federation,
            round_number=ROUND,
            seed=self.seed("release"),
        )
        return Contribution(learned=learned, samples=samples, release=released)

    async def _audit(self, learned: Learned, samples: Artifact) -> Artifact | None:
        """Hold what would be released against the site's own gate. None: it did not answer."""
        if self._audit_broke:
            return None
        try:
            return await self.run(
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

    async def _learn(self) -> Learned:
        """Plan, and train both networks, side by side where there is room."""
        budget = self.experiment.budget
        prepared = await self.run(
            prepare,
            data=await self.data(),
            cases=self.site.part("train", "val"),
            dataset=self.site.dataset,
            caps=budget.plan.model_dump(),
        )
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

    async def _synthesise(self, learned: Learned) -> Artifact:
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
            quota=quota(self.site, experiment.budget),
            percentile=experiment.threshold_percentile,
            max_rejection_rate=experiment.gate.max_rejection_rate,
            **self.embedder(),
            precision=experiment.precision,
            seed=self.seed("samples"),
        )

    async def hand_in(self) -> Parcel:
        """The release, signed, on its way to the pool; empty where the site withholds it."""
        done = await self.contribute()
        if done.release is None:
            return self._nothing(done.samples)
        parcel = self.export(done.release)
        if MANIFEST_FILE not in parcel.files or self.runner.planning:
            return parcel
        signature = self._key().sign(parcel.files[MANIFEST_FILE])
        return replace(parcel, files={**parcel.files, SIGNATURE_FILE: signature})

    def _nothing(self, samples: Artifact) -> Parcel:
        """What is handed in instead of a release whose audit broke."""
        result = {
            "outcome": "withheld",
            "reason": "its audit broke or took too long, and without one nothing is released",
            "rejection_rate": samples.result["rejection_rate"],
            "images": 0,
        }
        return Parcel(sender=self.name, stage="release", key=samples.key, files={}, result=result)

    def public_key(self) -> bytes:
        """What the pool knows this site's signatures by; empty while planning."""
        return b"" if self.runner.planning else self._key().public_key().public_bytes_raw()

    def _key(self) -> Ed25519PrivateKey:
        return signing_key(self.store.root / "keys" / "signing.key")

    async def assess(self) -> Artifact | None:
        """The site's quality card, where its audit did not break. Nothing waits for it."""
        done = await self.contribute()
        if done.release is None:
            return None
        return await self.run(
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
        prepared = (await self.contribute()).learned.prepared
        return await self.train("local2x", prepared, unet.epochs + unet.finetune_epochs)

    async def personalise(self, general: Parcel) -> Artifact:
        """Fine-tune the general model, all weights, on real data preprocessed for its plan."""
        received = self.receive(general)
        prepared = await self.run(
            prepare_for_general,
            data=await self.data(),
            cases=self.site.part("train", "val"),
            dataset=self.site.dataset,
            general=received,
            caps=self.experiment.budget.plan.model_dump(),
        )
        return await self.train(
            "finetuned",
            prepared,
            self.experiment.budget.unet.finetune_epochs,
            initial=received,
            warmup=self.experiment.warmup,
        )

    async def model(self, regime: str, general: Parcel | None = None) -> Parcel:
        """One of the site's own models, to be scored at another site of the simulation."""
        if regime == "finetuned":
            assert general is not None
            return self.export(await self.personalise(general))
        if regime == "local2x":
            return self.export(await self.control())
        return self.export((await self.contribute()).learned.segmenter)

    async def score(self, regime: str, train_site: str, model: Parcel) -> dict[str, Any]:
        """Score a model on this site's test cases: numbers, with patients and cases as indices."""
        if model.sender == self.name:
            found = self.store.find_key(model.stage, model.key)
        else:
            found = self.receive(model)
        scored = await self.run(
            score,
            data=await self.data(),
            cases=self.site.part("test"),
            dataset=self.site.dataset,
            model=found,
            regime=regime,
            train_site=train_site,
        )
        rows = [] if scored.record is None else scored.result["rows"]
        return {"test_site": self.name, "regime": regime, "train_site": train_site, "rows": rows}

    # --- parts -------------------------------------------------------------------------------

    async def data(self) -> Artifact:
        """The raw data set: the hospital's folder as it is, or the phantom, drawn."""
        if self.site.phantom is not None:
            return await self.run(draw_phantom, **self.site.phantom)
        assert self.site.folder is not None
        return Artifact(stage="data", key=self.site.key, path=self.site.folder, record={})

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
            warmup=warmup,
            seed=self.seed(role),
            **start,
        )

    def keep_for_the_site(self, samples: Artifact) -> None:
        """Put what only the site may see where its people look: pictures, names of indices."""
        if self.runner.planning or samples.record is None:
            return
        audit = self.store.root / "audit"
        audit.mkdir(exist_ok=True)
        shutil.copyfile(
            samples.path / "nearest_pairs.png", audit / f"nearest_pairs-{samples.key[:8]}.png"
        )
        names = {case["index"]: case["name"] for case in self.site.cases}
        write_json(audit / f"cases-{self.site.key[:8]}.json", names)
