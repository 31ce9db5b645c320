"""The oracle: all real data in one place, for comparison. It exists in a simulation only.

Its models are the references that sharing is compared with: one network on all hospitals' real
images, on mixtures of real and synthetic ones, and by federated averaging. No site's program can
reach it.
"""

from __future__ import annotations

from asyncio import gather
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from hyfree_ray.config.experiment import Experiment
from hyfree_ray.core.parcels import Parcel
from hyfree_ray.core.parties import ORACLE
from hyfree_ray.core.seeds import seed_of
from hyfree_ray.federation.hospital import Site, raw_data, raw_key
from hyfree_ray.federation.interface import ReplaySet
from hyfree_ray.federation.parameters import caps, numbered
from hyfree_ray.federation.party import Party, Runner
from hyfree_ray.federation.trainers import oracle_trainer
from hyfree_ray.stages.comparison import model_of_site

EXPORTS = dict.fromkeys(("train_segmenter", "train_fedavg", "model_of_site"), ("model/*",))


class OracleParty(Party):
    """The oracle's program.

    Args:
        sites: the hospitals, with all their cases.
        experiment: the settings.
        federation: key of the federation that the releases were made for.
        root: its own folder.
        runner: runs its stages; it must be able to read every hospital's folder.
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

    def seed(self, stage: str) -> int:
        """Return the seed of one of its stages."""
        return seed_of(self.experiment.seed, ORACLE, stage)

    async def model(
        self, regime: str, shared: ReplaySet, sites: Collection[str], site: str | None = None
    ) -> Parcel:
        """Train one of the comparisons, for as many steps as `local2x`.

        Args:
            regime: one that the oracle trains.
            shared: the releases that the pool took in; only mixtures read them.
            sites: sites whose real data it may read: all but those that have withdrawn.
            site: whose model it is, of a regime that ends with one for each site.
        """
        found = await oracle_trainer(regime)(self, regime, shared, sites)
        if site is not None:
            position = sorted(sites).index(site)
            found = await self.run(regime, model_of_site, trained=found, position=position)
        return self.export(found)

    async def models_of_site(self, site: str, keys: Collection[str]) -> list[str]:
        """Name the models derived from a site's real data, or from artifacts with these keys."""
        return await self.models_derived_from({raw_key(self.sites[site]), *keys})

    async def real_cases(self, names: Collection[str]) -> dict[str, Any]:
        """Return the training and validation cases of the named sites, as stages take them."""
        sites = [site for name, site in self.sites.items() if name in names]
        data = await gather(*(raw_data(self, site) for site in sites))
        return {
            "cases": [site.part("train", "val") for site in sites],
            "dataset": sites[0].dataset,
            "caps": caps(self.experiment),
            **numbered("data", data),
        }
