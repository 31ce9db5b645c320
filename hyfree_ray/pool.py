"""What the centre does: take releases in, close the round, train the general model on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hyfree_ray.config import Experiment
from hyfree_ray.errors import ReleaseError
from hyfree_ray.party import Party, Runner
from hyfree_ray.release import MANIFEST_FILE
from hyfree_ray.scores import POOL
from hyfree_ray.seeds import seed_of
from hyfree_ray.signing import SIGNATURE_FILE, is_signed_by
from hyfree_ray.site import ROUND
from hyfree_ray.stages.pooling import check_release, pool_releases
from hyfree_ray.stages.training import train_general
from hyfree_ray.store import Artifact, Parcel, write_bytes, write_json

EXPORTS = {"train_general": ("model/*",)}

FEWEST_RELEASES = 2
"""Below this a general model would only be another site's."""


class PoolParty(Party):
    """The centre's program.

    Args:
        key: the experiment's key; names the folder of its rounds.
        federation: what releases must have been made for.
        dataset: the task's channels and labels.
        experiment: the settings.
        root: its own folder.
        runner: where its stages run.
    """

    def __init__(
        self,
        key: str,
        federation: str,
        dataset: dict[str, Any],
        experiment: Experiment,
        root: Path,
        runner: Runner,
    ) -> None:
        super().__init__(POOL, root, runner, EXPORTS)
        self.key = key
        self.federation = federation
        self.dataset = dataset
        self.experiment = experiment
        self.taken: dict[str, tuple[Artifact, Artifact]] = {}
        self.outcomes: dict[str, dict[str, Any]] = {}

    def trust(self, site: str, public_key: bytes) -> None:
        """Learn the key that a site signs with, from whoever runs the federation."""
        if not self.runner.planning:
            self.store.root.joinpath("trusted").mkdir(parents=True, exist_ok=True)
            write_bytes(self.store.root / "trusted" / site, public_key)

    def _check_signature(self, site: str, parcel: Parcel) -> None:
        """Refuse what this site has not signed, before any of it is parsed or kept.

        Raises:
            ReleaseError: rule `signature`.
        """
        if parcel.sender != site:
            raise ReleaseError(site, "site", "another party's parcel was handed in")
        manifest = parcel.files.get(MANIFEST_FILE, b"")
        signature = parcel.files.get(SIGNATURE_FILE)
        known = self.store.root / "trusted" / site
        if not known.is_file():
            raise ReleaseError(site, "signature", "the pool has no public key of this site")
        if signature is None:
            raise ReleaseError(site, "signature", "the manifest is not signed")
        if not is_signed_by(known.read_bytes(), manifest, signature):
            raise ReleaseError(site, "signature", "the manifest is not signed by this site's key")

    async def take(self, site: str, parcel: Parcel) -> dict[str, Any]:
        """Take one site's release in: it is checked, or its outcome noted. Returns the outcome."""
        outcome = {"outcome": "released", "reason": None, "rejection_rate": None, "images": 0}
        outcome.update({name: parcel.result[name] for name in outcome if name in parcel.result})
        if outcome["outcome"] == "released":
            try:
                if not self.runner.planning:
                    self._check_signature(site, parcel)
                received = self.receive(parcel)
                checked = await self.run(
                    check_release,
                    release=received,
                    site=site,
                    dataset=self.dataset,
                    federation=self.federation,
                    round_number=ROUND,
                )
                self.taken[site] = (received, checked)
            except ReleaseError as error:
                outcome |= {"outcome": "refused", "reason": str(error), "images": 0}
        self.outcomes[site] = outcome
        return outcome

    def close(self) -> dict[str, str] | None:
        """Close the round: who is in is written once, and read ever after.

        Returns:
            Release keys by site, sorted; None where there are fewer than two.
        """
        path = self.store.root / "rounds" / self.key[:16] / f"{ROUND}.json"
        if path.exists():
            members: dict[str, str] = json.loads(path.read_text())["releases"]
        else:
            members = {site: taken[0].key for site, taken in sorted(self.taken.items())}
            if not self.runner.planning:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_json(path, {"round": ROUND, "releases": members})
        return members if len(members) >= FEWEST_RELEASES else None

    async def general(self) -> Parcel | None:
        """Train the general model on the releases of the round; None where there are too few."""
        members = self.close()
        if members is None:
            return None
        unet = self.experiment.budget.unet
        sites = sorted(members)
        releases = {
            f"release_{position}": self.store.received("release", members[site], site)
            for position, site in enumerate(sites)
        }
        prepared = await self.run(
            pool_releases,
            sites=sites,
            federation=self.federation,
            round_number=ROUND,
            caps=self.experiment.budget.plan.model_dump(),
            **releases,
        )
        trained = await self.run(
            train_general,
            prepared=prepared,
            epochs=unet.epochs,
            iterations=unet.iterations,
            validation_iterations=unet.validation_iterations,
            workers=self.experiment.general_workers,
            seed=seed_of(self.experiment.seed, POOL, "general"),
        )
        return self.export(trained)

    async def picture(self, site: str) -> bytes | None:
        """The contact sheet of a site's release, PNG; None where the site is not in."""
        if site not in self.taken or self.runner.planning:
            return None
        return (self.taken[site][1].path / "samples.png").read_bytes()
