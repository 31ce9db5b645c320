"""The pool's program: take releases in, close the round, train the general model on them."""

from __future__ import annotations

from asyncio import gather
from collections.abc import Mapping, Sequence
from dataclasses import replace

from hyfree_ray.border.withheld import NOTICE_FILE, read_notice
from hyfree_ray.core.artifacts import Artifact
from hyfree_ray.core.errors import HyfreeError, PrivacyError, ReleaseError
from hyfree_ray.core.parcels import Parcel
from hyfree_ray.core.records import ParcelRecord
from hyfree_ray.evaluation.regimes import WITHOUT_ONE
from hyfree_ray.federation.admissions import Statement
from hyfree_ray.federation.interface import LabelsReceipt, Receipt, ReplaySet, Round
from hyfree_ray.federation.participation import Rules
from hyfree_ray.federation.pool_stages import EXPORTS, PoolStages
from hyfree_ray.federation.rounds import Entry
from hyfree_ray.federation.trainers import pool_trainer
from hyfree_ray.federation.trust import LABELS


class PoolParty(PoolStages):
    """The program of the pool."""

    # --- taking in ---------------------------------------------------------------------------

    async def trust(self, site: str, public_key: bytes) -> None:
        """Record the key that a site signs with, from the operator of the federation."""
        self.workspace.trust(site, public_key)

    async def take(self, site: str, submitted: Parcel) -> Receipt:
        """Take in a site's signed release, or its notice of withholding; quarantine anything
        wrong."""
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
        """Quarantine a parcel; remove it from the releases unless it is one of them."""
        self.workspace.quarantine(site, submitted, str(error))
        received = self.store.received(submitted.stage, submitted.key, site)
        record = received.record
        here = isinstance(record, ParcelRecord) and record.sha256 == submitted.sha256
        if here and not self.rounds.holds(site, submitted.key):
            self.workspace.discard(received)
        return Entry(site=site, outcome="refused", reason=str(error))

    def _note(self, site: str, parcel: Parcel) -> Entry:
        """Record that a site withholds."""
        notice = read_notice(parcel.files[NOTICE_FILE], site=site, experiment=self.federation)
        self.receive(parcel)
        self.admissions.admit(Statement.of(parcel))
        return Entry(
            site=site,
            outcome="withheld",
            reason=notice.reason,
            rejection_rate=notice.rejection_rate,
        )

    async def _check(self, site: str, parcel: Parcel) -> Entry:
        received = self.receive(parcel)
        checked = await self.check_release(site, received)
        entry = Entry(site=site, outcome="released", release=received.key, checked=checked.key)
        if checked.record is None:
            return entry
        found = checked.result
        self.rounds.check_first(site, found["sha256"])
        self.admissions.admit(Statement.of(parcel))
        public = ("images", "sha256", "flag", "rejection_rate")
        return replace(entry, **{name: found[name] for name in public})

    async def take_labels(self, site: str, submitted: Parcel) -> LabelsReceipt:
        """Take in a site's signed labels of public images; quarantine anything wrong."""
        try:
            self.workspace.check_signature(site, submitted, LABELS)
            received = self.receive(replace(submitted, result={}))
            paired = await self.pair_public(site, received)
        except (ReleaseError, PrivacyError) as error:
            self.workspace.quarantine(site, submitted, str(error))
            return LabelsReceipt(reason=str(error))
        images = 0 if paired.record is None else int(paired.result["images"])
        return LabelsReceipt(key=received.key, images=images)

    async def picture(self, site: str) -> bytes | None:
        """Return the contact sheet of a site's release, PNG; None if there is none."""
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
        """Return the sites that are not in the closed round, and why."""
        return self.rounds.latest().left_out

    async def add_waiting(self, seconds: float, next_round: bool) -> float:
        """Add to the seconds that the open round has waited; see `Rounds.add_waiting`."""
        return self.rounds.add_waiting(seconds, next_round)

    async def withdraw(self, sites: Sequence[str]) -> list[str]:
        """Record that sites have withdrawn; return all that ever did, in any experiment."""
        return self.rounds.withdraw(sites)

    async def models_of_site(self, site: str) -> list[str]:
        """Return keys of the general models, of all rounds, that a site's releases or labels are
        in."""
        keys = [self.store.received_keys(stage, site) for stage in ("release", LABELS)]
        made = self.store.descendants(set.union(*keys))
        return [record.key for record in made if record.stage in EXPORTS]

    # --- the general model -------------------------------------------------------------------

    async def model(self, regime: str, members: Mapping[str, str]) -> Parcel:
        """Train the pool's model of a regime.

        Args:
            regime: one that the pool trains.
            members: keys of the releases by site: of a round, or a part of it.
        """
        return self.export(await pool_trainer(regime)(self, regime, members))

    async def label_agreement(self, members: Mapping[str, str]) -> dict[str, float]:
        """Return how far each release's labels agree with a model trained on all the others.

        Returns:
            Mean Dice over the labels, by site; empty where the experiment asks for none.
        """
        if not self.experiment.min_label_agreement:
            return {}
        compared = await gather(*(self._agreement(site, members) for site in members))
        return {
            site: found.result["mean"] or 0.0
            for site, found in zip(members, compared, strict=True)
            if found.record is not None
        }

    async def _agreement(self, site: str, members: Mapping[str, str]) -> Artifact:
        others = {other: key for other, key in members.items() if other != site}
        model = await pool_trainer(WITHOUT_ONE)(self, WITHOUT_ONE, others)
        return await self.compare_labels(site, members[site], model)

    async def share_for_replay(self, members: Mapping[str, str]) -> ReplaySet:
        """Send down the releases whose labels agree well enough with the others'."""
        agreement = await self.label_agreement(members)
        enough = self.experiment.min_label_agreement
        return await self.share(
            {site: key for site, key in members.items() if agreement.get(site, 1.0) >= enough}
        )

    async def share_labels(self, members: Mapping[str, str]) -> ReplaySet:
        """Send labels of public images down to sites, which have the images' seed."""
        return ReplaySet(
            sites=tuple(sorted(members)),
            parcels=tuple(self.export(found) for found in self.labels(members)),
        )

    async def share(self, members: Mapping[str, str]) -> ReplaySet:
        """Send the releases of the round down to sites: a release may travel."""
        return ReplaySet(
            sites=tuple(sorted(members)),
            parcels=tuple(self.export(found) for found in self.releases(members)),
        )
