"""The oracle: all real data in one place, for comparison. It exists in a simulation only.

What it trains answers what sharing is measured against: one network on all hospitals' real images,
on mixtures of real and synthetic ones, and by federated averaging. No site's program can reach it.
"""

from __future__ import annotations

from asyncio import gather
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyfree_ray.config import Experiment
from hyfree_ray.party import Party, Runner
from hyfree_ray.regimes import MIXES
from hyfree_ray.scores import ORACLE
from hyfree_ray.seeds import seed_of
from hyfree_ray.site import ROUND
from hyfree_ray.site_value import Shared, Site, raw_data
from hyfree_ray.stages.comparison import prepare_mixture, prepare_together, train_fedavg
from hyfree_ray.stages.training import train_segmenter
from hyfree_ray.store import Artifact, Parcel

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

    async def model(self, regime: str, shared: Shared) -> Parcel:
        """Train one of the comparisons, for as many steps as `local2x`.

        Args:
            regime: `real-all`, a mixture, or `fedavg`.
            shared: what the pool took in; only mixtures read it.
        """
        share = MIXES.get(regime, 0.0)
        prepared = await (self._mixture(share, shared) if share else self._together())
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

    async def _together(self) -> Artifact:
        """All training and validation cases, under one plan made on them."""
        return await self.run(prepare_together, **await self._real())

    async def _mixture(self, share: float, shared: Shared) -> Artifact:
        """`share` synthetic and the rest real images, as many as there are real ones."""
        received = [self.receive(parcel) for parcel in shared.parcels]
        return await self.run(
            prepare_mixture,
            **await self._real(),
            synthetic_share=share,
            releases_of=list(shared.sites),
            federation=self.federation,
            round_number=ROUND,
            seed=seed_of(self.experiment.seed, ORACLE, "mixture"),
            **{f"release_{position}": found for position, found in enumerate(received)},
        )

    async def _real(self) -> dict[str, Any]:
        data = await gather(*(raw_data(self, site) for site in self.sites.values()))
        return {
            "cases": [site.part("train", "val") for site in self.sites.values()],
            "dataset": next(iter(self.sites.values())).dataset,
            "caps": self.experiment.budget.plan.model_dump(),
            **{f"data_{position}": found for position, found in enumerate(data)},
        }
