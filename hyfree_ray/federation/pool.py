"""What the centre does: take releases in, close the round, train the general model on them."""

from __future__ import annotations

import glob
import json
import time
from asyncio import gather
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hyfree_ray.border.withheld import NOTICE_FILE, read_notice
from hyfree_ray.config.experiment import Experiment
from hyfree_ray.core.errors import HyfreeError, PrivacyError, ReleaseError
from hyfree_ray.core.parties import POOL
from hyfree_ray.core.seeds import seed_of
from hyfree_ray.core.store import (
    RECORD,
    Artifact,
    Parcel,
    digest_of,
    locked,
    remove_tree,
    write_json,
    write_once,
)
from hyfree_ray.federation.hospital import Shared
from hyfree_ray.federation.participation import Rules
from hyfree_ray.federation.party import Party, Runner
from hyfree_ray.federation.quarantine import quarantine
from hyfree_ray.federation.site import RELEASE_VERSIONS, ROUND
from hyfree_ray.federation.trust import Trust
from hyfree_ray.stages.pooling import check_release, label_agreement, pool_releases
from hyfree_ray.stages.training import train_general

EXPORTS = {"train_general": ("model/*",), "release": ("release.arrow", "manifest.json")}
"""All that the centre hands out: general models, and releases on their way down."""

FEWEST_RELEASES = 2
"""Below this a general model would only be another site's."""


BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""Monotonic clocks of processes agree while this is the same."""


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
        self.trusted = Trust(root)
        self.round = root / "rounds" / digest_of([key, RELEASE_VERSIONS])[:16]
        # For good: of every experiment on this task, whatever its seed, fold or budget.
        self.withdrawals = root / "withdrawn" / f"{digest_of(self.dataset)[:16]}.json"
        self._taken: dict[str, dict[str, Any]] = {}
        self._gone: set[str] = set()

    def trust(self, site: str, public_key: bytes) -> None:
        """Learn the key that a site signs with, from whoever runs the federation."""
        if not self.runner.planning:
            self.trusted.learn(site, public_key)

    async def take(self, site: str, parcel: Parcel) -> dict[str, Any]:
        """Take one site's release in, or note that it withheld. What is wrong is refused and kept
        in quarantine. Only what the site has signed is believed.

        Returns:
            outcome (released, withheld or refused), reason, rejection_rate, images, flag (what is
            odd about a release that was taken in, in words).
        """
        entry: dict[str, Any] = {
            "site": site,
            "release": None,
            "checked": None,
            "images": 0,
            "flag": None,
            "rejection_rate": None,
        }
        try:
            if not self.runner.planning:
                self.trusted.check(site, parcel)
            signed = replace(parcel, result={})
            if NOTICE_FILE in parcel.files:
                entry |= self._note(site, signed)
            else:
                entry |= await self._check(site, signed)
        except (ReleaseError, PrivacyError) as error:
            entry |= self.refuse(site, parcel, error)
        first = self.taken(site)
        if entry["outcome"] == "released" or first is None or first["release"] is None:
            self._keep(site, entry)
        told = ("outcome", "reason", "rejection_rate", "images", "flag")
        return {name: entry[name] for name in told}

    def _keep(self, site: str, entry: Mapping[str, Any]) -> None:
        self._taken[site] = dict(entry)
        if not self.runner.planning:
            path = self.round / "in" / f"{site}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, entry)

    def refuse(self, site: str, parcel: Parcel, error: HyfreeError) -> dict[str, Any]:
        """Put a parcel into quarantine, and away from where releases lie unless it is one of them.

        Returns:
            outcome and reason.
        """
        told = {"outcome": "refused", "reason": str(error)}
        if self.runner.planning:
            return told
        quarantine(self.store.root, site, parcel, str(error))
        received = self.store.received(parcel.stage, parcel.key, site)
        here = received.record is not None and received.record["sha256"] == parcel.sha256
        if here and not self._is_held(site, parcel):
            remove_tree(received.path)
        return told

    def _is_held(self, site: str, parcel: Parcel) -> bool:
        """Whether a round of any experiment has this release."""
        taken = self.store.root.glob(f"rounds/*/in/{glob.escape(site)}.json")
        return any(json.loads(file.read_text())["release"] == parcel.key for file in taken)

    def _note(self, site: str, parcel: Parcel) -> dict[str, Any]:
        """That a site withholds."""
        notice = read_notice(
            parcel.files[NOTICE_FILE],
            site=site,
            experiment=self.federation,
            round_number=ROUND,
        )
        self.receive(parcel)
        return {
            "outcome": "withheld",
            "reason": notice.reason,
            "rejection_rate": notice.rejection_rate,
        }

    async def _check(self, site: str, parcel: Parcel) -> dict[str, Any]:
        received = self.receive(parcel)
        checked = await self.run(
            check_release,
            release=received,
            site=site,
            dataset=self.dataset,
            federation=self.federation,
            round_number=ROUND,
            gate=self.experiment.gate.model_dump(),
        )
        entry: dict[str, Any] = {"outcome": "released", "reason": None}
        entry |= {"release": received.key, "checked": checked.key}
        if checked.record is not None:
            self._admit(site, checked.result)
            told = ("images", "sha256", "flag", "rejection_rate")
            entry |= {name: checked.result[name] for name in told}
        return entry

    def _admit(self, site: str, checked: Mapping[str, Any]) -> None:
        """Take a release at most once: the same again is the same, another one is refused.

        Raises:
            ReleaseError: rule `nonce`, or `second` where this round has one of this site.
        """
        first = self.taken(site)
        if first and first.get("sha256") not in (None, checked["sha256"]):
            raise ReleaseError(site, "second", "another one is in for this round; it is kept")
        name = digest_of(checked["nonce"])[:32]
        path = self.store.root / "nonces" / site / f"{name}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"sha256": checked["sha256"]})
        elif json.loads(path.read_text())["sha256"] != checked["sha256"]:
            raise ReleaseError(site, "nonce", "its nonce was another release's; make it anew")

    def taken(self, site: str) -> dict[str, Any] | None:
        """What became of a site's release: remembered, or read where this process is new."""
        if site not in self._taken:
            try:
                self._taken[site] = json.loads((self.round / "in" / f"{site}.json").read_text())
            except FileNotFoundError:
                return None
        return self._taken[site]

    # --- rounds: who was in is written once, and read ever after ------------------------------

    def close(
        self,
        sites: Sequence[str],
        rules: Rules | None = None,
        left_out: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> dict[str, Any]:
        """Close the round when the sites are in; one that is closed is only read.

        Args:
            sites: who takes part.
            rules: how many have to be in, and whether a further round is to be opened.
            left_out: what became of the sites that do not take part.

        Returns:
            round; releases: their keys by site, sorted, empty where there are fewer than two.

        Raises:
            HyfreeError: fewer are in than the rules want.
            HyfreeError: a next round in which nobody is new.
        """
        rules = rules or Rules()
        last = self._last_round()
        kept = {
            site: key for site, key in last["releases"].items() if site not in self._withdrawn()
        }
        if last["round"] and not rules.next_round and kept == last["releases"]:
            return _enough(last)
        entries = {site: self.taken(site) for site in sorted(sites)}
        missing = [site for site, entry in entries.items() if entry is None]
        assert not missing, f"{missing} are not in"
        new = {site: e["release"] for site, e in entries.items() if e and e["release"]}
        releases = dict(sorted((kept | new).items())) if rules.next_round or not kept else kept
        if last["round"] and releases == last["releases"]:
            raise HyfreeError(
                "round.nothing-new",
                f"--next-round: no release is new since round {last['round']}; leave it out",
            )
        if rules.min_sites is not None and len(releases) < rules.min_sites:
            raise HyfreeError(
                "round.too-few-releases",
                f"{len(releases)} releases are in, --min-sites wants {rules.min_sites}: there is "
                "no general model; mend the sites that failed, or lower it",
            )
        number = last["round"] + 1
        closed = {"round": number, "releases": releases, "left_out": dict(left_out or {})}
        if not self.runner.planning:
            self.round.mkdir(parents=True, exist_ok=True)
            closed = write_once(self.round / f"{number}.json", closed)
        return _enough(closed)

    def close_with_late(self, sites: Sequence[str]) -> dict[str, str]:
        """Close a round of all these that are in: a further one where a release came in after the
        last, as of who had to copy it again. While they are too few nothing is closed.

        Returns:
            Keys of releases by site, sorted; empty where there are fewer than two.
        """
        entries = {site: self.taken(site) for site in sites}
        released = {site for site, entry in entries.items() if entry and entry["release"]}
        if len(released) < FEWEST_RELEASES:
            return {}
        late = released - self._last_round()["releases"].keys()
        closed = self.close(sorted(released), Rules(next_round=bool(late)))
        releases: dict[str, str] = closed["releases"]
        return releases

    def _last_round(self) -> dict[str, Any]:
        """The newest round that is closed; round 0, of nobody, before the first."""
        numbers = [int(f.stem) for f in self.round.glob("*.json") if f.stem.isdigit()]
        if not numbers:
            return {"round": 0, "releases": {}}
        found: dict[str, Any] = json.loads((self.round / f"{max(numbers)}.json").read_text())
        return found

    def left_out(self) -> dict[str, dict[str, Any]]:
        """Who did not make it into the round that is closed, and why."""
        return dict(self._last_round().get("left_out", {}))

    def waited(self, seconds: float, next_round: bool) -> float:
        """Add to the time that the open round has waited, and tell it: it outlives the driver.

        It is counted by drivers' monotonic clocks; 0 where no round is open. Of two drivers that
        wait at the same time, on machines that were started once, each second counts once.
        """
        last = self._last_round()["round"]
        if (last and not next_round) or self.runner.planning:
            return 0.0
        path = self.round / f"{last + 1}.clock.json"
        with locked(self.round):
            clock = json.loads(path.read_text()) if path.exists() else {"seconds": 0.0}
            now, boot = time.monotonic(), BOOT_ID.read_text().strip()
            if clock.get("boot") == boot:
                seconds = min(seconds, now - clock["at"])
            if seconds > 0 or not path.exists():
                clock = {"seconds": clock["seconds"] + seconds, "at": now, "boot": boot}
                write_json(path, clock)
        return float(clock["seconds"])

    def withdraw(self, sites: Sequence[str]) -> list[str]:
        """Note that sites have withdrawn. Returns all that ever did, in any experiment."""
        self._gone |= set(sites)
        if sites and not self.runner.planning:
            with locked(self.withdrawals.parent):
                write_json(self.withdrawals, sorted(self._withdrawn()))
        return sorted(self._withdrawn())

    def _withdrawn(self) -> set[str]:
        there = self.withdrawals.exists()
        return self._gone | (set(json.loads(self.withdrawals.read_text())) if there else set())

    def touched_by(self, site: str) -> list[str]:
        """Keys of the general models, of all rounds, that were trained on a site's releases."""
        folders = self.store.root.glob(f"received/{glob.escape(site)}/release-*/{RECORD}")
        releases = {json.loads(file.read_text())["key"] for file in folders}
        return [r["key"] for r in self.store.descendants(releases) if r["stage"] in EXPORTS]

    async def general(self, members: Mapping[str, str]) -> Parcel:
        """Train the general model on the releases of the round.

        Args:
            members: what `close` returned.
        """
        return self.export(await self._general(members))

    async def _general(self, members: Mapping[str, str]) -> Artifact:
        unet = self.experiment.budget.unet
        sites = sorted(members)
        releases = {
            f"release_{position}": found for position, found in enumerate(self._releases(members))
        }
        prepared = await self.run(
            pool_releases,
            sites=sites,
            federation=self.federation,
            round_number=ROUND,
            caps=self.experiment.budget.plan.model_dump(),
            **releases,
        )
        return await self.run(
            train_general,
            prepared=prepared,
            epochs=unet.epochs,
            iterations=unet.iterations,
            validation_iterations=unet.validation_iterations,
            precision=self.experiment.precision,
            workers=self.experiment.general_workers,
            seed=seed_of(self.experiment.seed, POOL, "general"),
        )

    def _releases(self, members: Mapping[str, str]) -> list[Artifact]:
        return [self.store.received("release", members[site], site) for site in sorted(members)]

    async def agreement(self, members: Mapping[str, str]) -> dict[str, float]:
        """Agreement of each release's labels with a model trained on all the other releases.

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
        (release,) = self._releases({site: members[site]})
        return await self.run(
            label_agreement,
            release=release,
            model=await self._general(others),
            site=site,
            dataset=self.dataset,
            federation=self.federation,
            round_number=ROUND,
        )

    async def share_for_replay(self, members: Mapping[str, str]) -> Shared:
        """Send down the releases whose labels agree well enough with the others'."""
        agreement = await self.agreement(members)
        least = self.experiment.min_label_agreement
        return self.share(
            {site: key for site, key in members.items() if agreement.get(site, 1.0) >= least}
        )

    def share(self, members: Mapping[str, str]) -> Shared:
        """Send the releases of the round down to sites: a release may travel."""
        return Shared(
            sites=tuple(sorted(members)),
            parcels=tuple(self.export(found) for found in self._releases(members)),
        )

    async def picture(self, site: str) -> bytes | None:
        """The contact sheet of a site's release, PNG; None where there is none."""
        entry = self.taken(site)
        if entry is None or entry["checked"] is None:
            return None
        checked = self.store.find_key("check_release", entry["checked"])
        return None if checked.record is None else (checked.path / "samples.png").read_bytes()


def _enough(closed: Mapping[str, Any]) -> dict[str, Any]:
    enough = len(closed["releases"]) >= FEWEST_RELEASES
    return {"round": closed["round"], "releases": closed["releases"] if enough else {}}
