"""The oracle: all real data in one place, for comparison. It exists in a simulation only.

What it trains answers what sharing is measured against: one network on all hospitals' real images,
on mixtures of real and synthetic ones, and by federated averaging. No site's program can reach it.
"""

from __future__ import annotations

from asyncio import gather
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from hyfree_ray.config.experiment import Experiment
from hyfree_ray.core.parties import ORACLE
from hyfree_ray.core.seeds import seed_of
from hyfree_ray.core.store import Artifact, Parcel
from hyfree_ray.evaluation.regimes import REGIMES
from hyfree_ray.federation.hospital import Shared, Site, raw_data, raw_key
from hyfree_ray.federation.party import Party, Runner
from hyfree_ray.federation.site import ROUND
from hyfree_ray.stages.comparison import prepare_mixture, prepare_together, train_fedavg
from hyfree_ray.stages.training import train_segmenter

EXPORTS = {"train_segmenter": ("model/*",), "train_fedavg": ("model/*",)}


class OracleParty(Party):
    """The oracle's program.

    Args:
        sites: the hospitals, with all their cases.
        experiment: the settings.
        federation: what releases were made for.
        root: its own folder.
        runner: where its stages run; it has to see every hospital's folder.
    """

    def __init__(
        self,
        sites: Mapping[str, Site],
        experiment: Experiment,
        federation: str,
        root: Path,
        runner: Runner,
    ) -> None:
        super().__init__(ORACLE, root, runner, EXPORTS)
        self.sites = dict(sorted(sites.items()))
        self.experiment = experiment
        self.federation = federation

    async def model(self, regime: str, shared: Shared, sites: Collection[str]) -> Parcel:
        """Train one of the comparisons, for as many steps as `local2x`.

        Args:
            regime: `real-all`, a mixture, or `fedavg`.
            shared: what the pool took in; only mixtures read it.
            sites: whose real data it may read: all but those that have withdrawn.
        """
        share = REGIMES[regime].synthetic_share
        real = await self._real(sites)
        prepared = await (self._mixture(share, shared, real) if share else self._together(real))
        unet = self.experiment.budget.unet
        lengths: dict[str, Any] = {
            "prepared": prepared,
            "epochs": unet.epochs + unet.finetune_epochs,
            "iterations": unet.iterations,
            "validation_iterations": unet.validation_iterations,
            "precision": self.experiment.precision,
            "seed": seed_of(self.experiment.seed, ORACLE, regime),
        }
        if regime == "fedavg":
            return self.export(await self.run(train_fedavg, **lengths))
        return self.export(await self.run(train_segmenter, role=regime, warmup=0.0, **lengths))

    def touched_by(self, site: str, keys: Collection[str]) -> list[str]:
        """The oracle's models, in words, of a site's real data, or of what has one of the keys."""
        return self.touched({raw_key(self.sites[site]), *keys})

    async def _together(self, real: Mapping[str, Any]) -> Artifact:
        """All training and validation cases, under one plan made on them."""
        return await self.run(prepare_together, **real)

    async def _mixture(self, share: float, shared: Shared, real: Mapping[str, Any]) -> Artifact:
        """`share` synthetic and the rest real images, as many as there are real ones."""
        received = [self.receive(parcel) for parcel in shared.parcels]
        return await self.run(
            prepare_mixture,
            **real,
            synthetic_share=share,
            releases_of=list(shared.sites),
            federation=self.federation,
            round_number=ROUND,
            seed=seed_of(self.experiment.seed, ORACLE, "mixture"),
            **{f"release_{position}": found for position, found in enumerate(received)},
        )

    async def _real(self, names: Collection[str]) -> dict[str, Any]:
        sites = [site for name, site in self.sites.items() if name in names]
        data = await gather(*(raw_data(self, site) for site in sites))
        return {
            "cases": [site.part("train", "val") for site in sites],
            "dataset": sites[0].dataset,
            "caps": self.experiment.budget.plan.model_dump(),
            **{f"data_{position}": found for position, found in enumerate(data)},
        }
