"""What the centre does: take releases in, close the round, train the general model on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hyfree_ray.border.withheld import NOTICE_FILE, read_notice
from hyfree_ray.config.experiment import Experiment
from hyfree_ray.core.artifacts import Artifact
from hyfree_ray.core.errors import HyfreeError, PrivacyError, ReleaseError
from hyfree_ray.core.keys import digest_of
from hyfree_ray.core.parcels import Parcel
from hyfree_ray.core.parties import POOL
from hyfree_ray.core.seeds import seed_of
from hyfree_ray.evaluation.regimes import RELEASE
from hyfree_ray.federation.agreement import agreement_by_site
from hyfree_ray.federation.interface import Receipt, ReplaySet, Round
from hyfree_ray.federation.parameters import ROUND
from hyfree_ray.federation.participation import Rules
from hyfree_ray.federation.party import Party, Runner
from hyfree_ray.federation.rounds import Entry, Rounds
from hyfree_ray.federation.site_stages import RELEASE_VERSIONS
from hyfree_ray.federation.training import pool_trainer
from hyfree_ray.stages.pooling import check_release

EXPORTS = {"train_general": ("model/*",), "release": ("release.arrow", "manifest.json")}
"""All that the centre hands out: general models, and releases on their way down."""


class PoolParty(Party):
    """The centre's program.

    Args:
        key: the experiment's key; with the versions of the stages it names the rounds' folder.
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
        dataset: Mapping[str, Any],
        experiment: Experiment,
        root: Path,
        runner: Runner,
    ) -> None:
        super().__init__(POOL, root, runner, EXPORTS)
        self.federation = federation
        self.dataset = dict(dataset)
        self.experiment = experiment
        self.rounds = Rounds(
            self.workspace.documents, digest_of([key, RELEASE_VERSIONS]), digest_of(self.dataset)
        )

    # --- taking in ---------------------------------------------------------------------------

    async def trust(self, site: str, public_key: bytes) -> None:
        """Learn the key that a site signs with, from whoever runs the federation."""
        self.workspace.trust(site, public_key)

    async def take(self, site: str, submitted: Parcel) -> Receipt:
        """Take one site's release in, or note that it withheld. What is wrong is refused and kept
        in quarantine. Only what the site has signed is believed.
        """
        try:
            self.workspace.check_signature(site, submitted)
            signed = replace(submitted, result={})
            noted = NOTICE_FILE in submitted.files
            entry = self._note(site, signed) if noted else await self._check(site, signed)
        except (ReleaseError, PrivacyError) as error:
            entry = self.refuse(site, submitted, error)
        self.rounds.enter(entry)
        return entry.receipt

    def refuse(self, site: str, submitted: Parcel, error: HyfreeError) -> Entry:
        """Put a parcel into quarantine, and away from where releases lie unless it is one."""
        self.workspace.quarantine(site, submitted, str(error))
        received = self.store.received(submitted.stage, submitted.key, site)
        here = received.record is not None and received.record["sha256"] == submitted.sha256
        if here and not self.rounds.holds(site, submitted.key):
            self.workspace.discard(received)
        return Entry(site=site, outcome="refused", reason=str(error))

    def _note(self, site: str, parcel: Parcel) -> Entry:
        """Note that a site withholds."""
        notice = read_notice(
            parcel.files[NOTICE_FILE], site=site, experiment=self.federation, round_number=ROUND
        )
        self.receive(parcel)
        return Entry(
            site=site,
            outcome="withheld",
            reason=notice.reason,
            rejection_rate=notice.rejection_rate,
        )

    async def _check(self, site: str, parcel: Parcel) -> Entry:
        received = self.receive(parcel)
        checked = await self.run(
            RELEASE,
            check_release,
            release=received,
            site=site,
            dataset=self.dataset,
            federation=self.federation,
            round_number=ROUND,
            gate=self.experiment.gate.model_dump(),
        )
        entry = Entry(site=site, outcome="released", release=received.key, checked=checked.key)
        if checked.record is None:
            return entry
        found = checked.result
        self.rounds.admit(site, found["sha256"], found["nonce"])
        public = ("images", "sha256", "flag", "rejection_rate")
        return replace(entry, **{name: found[name] for name in public})

    async def picture(self, site: str) -> bytes | None:
        """Return the contact sheet of a site's release, PNG; None where there is none."""
        entry = self.rounds.entry(site)
        if entry is None or entry.checked is None:
            return None
        checked = self.store.find_key("check_release", entry.checked)
        return None if checked.record is None else (checked / "samples.png").read_bytes()

    # --- rounds ------------------------------------------------------------------------------

    async def close(
        self, sites: Sequence[str], rules: Rules, left_out: Mapping[str, Receipt]
    ) -> Round:
        """Close the round when the sites are in; see `Rounds.close`."""
        return self.rounds.close(sites, rules, left_out)

    async def left_out(self) -> Mapping[str, Receipt]:
        """Return who did not make it into the round that is closed, and why."""
        return self.rounds.latest().left_out

    async def add_waiting(self, seconds: float, next_round: bool) -> float:
        """Add to the seconds that the open round has waited; see `Rounds.add_waiting`."""
        return self.rounds.add_waiting(seconds, next_round)

    async def withdraw(self, sites: Sequence[str]) -> list[str]:
        """Note that sites have withdrawn. Returns all that ever did, in any experiment."""
        return self.rounds.withdraw(sites)

    async def models_of_site(self, site: str) -> list[str]:
        """Return keys of the general models, of all rounds, that have a site's releases in them."""
        made = self.store.descendants(self.store.received_keys("release", site))
        return [record["key"] for record in made if record["stage"] in EXPORTS]

    # --- the general model -------------------------------------------------------------------

    async def model(self, regime: str, members: Mapping[str, str]) -> Parcel:
        """Train the pool's model of a regime.

        Args:
            regime: of those that the pool trains.
            members: keys of the releases by site: of a round, or of some of it.
        """
        return self.export(await pool_trainer(regime)(self, regime, members))

    def seed(self, stage: str) -> int:
        """Return the seed of one of its stages."""
        return seed_of(self.experiment.seed, POOL, stage)

    def releases(self, members: Mapping[str, str]) -> list[Artifact]:
        """Return the releases of these sites, in the order of their names."""
        return [self.store.received("release", members[site], site) for site in sorted(members)]

    async def label_agreement(self, members: Mapping[str, str]) -> dict[str, float]:
        """Return how far each release's labels agree with a model trained on all the others."""
        return await agreement_by_site(self, members)

    async def share_for_replay(self, members: Mapping[str, str]) -> ReplaySet:
        """Send down the releases whose labels agree well enough with the others'."""
        agreement = await self.label_agreement(members)
        enough = self.experiment.min_label_agreement
        return await self.share(
            {site: key for site, key in members.items() if agreement.get(site, 1.0) >= enough}
        )

    async def share(self, members: Mapping[str, str]) -> ReplaySet:
        """Send the releases of the round down to sites: a release may travel."""
        return ReplaySet(
            sites=tuple(sorted(members)),
            parcels=tuple(self.export(found) for found in self.releases(members)),
        )
