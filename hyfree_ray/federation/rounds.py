"""The pool's ledger: outcomes of submissions and sites of rounds. It outlives the pool.

rounds/KEY/in/SITE.json      outcome of a site's submission
rounds/KEY/1.json            round 1, closed: written once, and read ever after
rounds/KEY/2.clock.json      seconds that the open round has waited
withdrawn/TASK.json          sites withdrawn from every experiment on this task
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from hyfree_ray.core.documents import Documents
from hyfree_ray.core.errors import HyfreeError, ReleaseError
from hyfree_ray.federation.interface import Receipt, Round
from hyfree_ray.federation.participation import Rules

MIN_RELEASES = 2
"""Below this a general model would only be another site's."""

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""Monotonic clocks of processes agree while this is the same."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The ledger's entry for a submission: the receipt, and the artifacts it refers to."""

    site: str
    outcome: Literal["released", "withheld", "refused"]
    reason: str | None = None
    release: str | None = None
    """Key of the release."""
    checked: str | None = None
    """Key of the check that it passed."""
    images: int = 0
    flag: str | None = None
    rejection_rate: float | None = None
    sha256: str | None = None
    """Hash of the release's file."""

    @property
    def receipt(self) -> Receipt:
        """The answer to the site."""
        return Receipt(
            outcome=self.outcome,
            reason=self.reason,
            rejection_rate=self.rejection_rate,
            images=self.images,
            flag=self.flag,
        )


class Rounds:
    """The rounds of one experiment.

    Args:
        documents: the pool's documents.
        key: the experiment's key, with the versions of the stages that make releases.
        task: the key of the task, whatever the seed, fold or budget: withdrawals are for good.
    """

    def __init__(self, documents: Documents, key: str, task: str) -> None:
        self.documents = documents
        self.folder = f"rounds/{key[:16]}"
        self._withdrawals = f"withdrawn/{task[:16]}.json"
        self._entries: dict[str, Entry] = {}

    # --- submissions -------------------------------------------------------------------------

    def entry(self, site: str) -> Entry | None:
        """Return the outcome of a site's submission; None if none has come."""
        if site not in self._entries:
            found = self.documents.read(f"{self.folder}/in/{site}.json")
            if found is None:
                return None
            self._entries[site] = Entry(**found)
        return self._entries[site]

    def enter(self, entry: Entry) -> None:
        """Record the outcome of a submission; a release that is in already is not replaced."""
        first = self.entry(entry.site)
        if entry.outcome == "released" or first is None or first.release is None:
            self._entries[entry.site] = entry
            self.documents.write(f"{self.folder}/in/{entry.site}.json", asdict(entry))

    def check_first(self, site: str, sha256: str) -> None:
        """Refuse a release other than the one of its site that this round has.

        Raises:
            ReleaseError: rule `second`.
        """
        first = self.entry(site)
        if first and first.sha256 not in (None, sha256):
            raise ReleaseError(
                site, "second", "the site already has a release in this round, which is kept"
            )

    def holds(self, site: str, release: str) -> bool:
        """Return whether a round of any experiment has this release."""
        names = self.documents.names("rounds/*/in/*.json")
        of_site = [name for name in names if Path(name).stem == site]
        return any(self.documents.read(name)["release"] == release for name in of_site)

    # --- closing -----------------------------------------------------------------------------

    def latest(self) -> Round:
        """Return the latest closed round; round 0, without sites, before the first."""
        names = [Path(name).stem for name in self.documents.names(f"{self.folder}/*.json")]
        numbers = [int(name) for name in names if name.isdigit()]
        return self._read(max(numbers)) if numbers else Round(number=0)

    def _read(self, number: int) -> Round:
        found = self.documents.read(f"{self.folder}/{number}.json")
        left_out = {site: _receipt(row) for site, row in found.get("left_out", {}).items()}
        return Round(number=found["round"], releases=found["releases"], left_out=left_out)

    def close(
        self,
        sites: Sequence[str],
        rules: Rules | None = None,
        left_out: Mapping[str, Receipt] | None = None,
    ) -> Round:
        """Close the round when the sites are in; a round that is closed is only read.

        Args:
            sites: the sites that take part.
            rules: the number that has to be in, and whether to open a further round.
            left_out: receipts of the sites that do not take part.

        Returns:
            The round; if there are fewer than two releases, it has none that are pooled.

        Raises:
            HyfreeError: fewer are in than the rules require.
            HyfreeError: a next round without a new site.
        """
        rules = rules or Rules()
        last, gone = self.latest(), self.withdrawn()
        staying = {site: key for site, key in last.releases.items() if site not in gone}
        if last.number and not rules.next_round and staying == last.releases:
            return _with_enough(last)
        entries = {site: self.entry(site) for site in sorted(sites)}
        missing = [site for site, entry in entries.items() if entry is None]
        assert not missing, f"{missing} are not in"
        new = {site: e.release for site, e in entries.items() if e and e.release}
        releases = staying | new if rules.next_round or not staying else staying
        releases = dict(sorted(releases.items()))
        if last.number and releases == last.releases:
            raise HyfreeError(
                "round.nothing-new",
                f"--next-round: no new release since round {last.number}; leave it out",
            )
        if rules.min_sites is not None and len(releases) < rules.min_sites:
            raise HyfreeError(
                "round.too-few-releases",
                f"{len(releases)} releases have arrived, --min-sites needs {rules.min_sites}: no "
                "general model is trained; repair the sites that failed, or lower --min-sites",
            )
        closed = Round(number=last.number + 1, releases=releases, left_out=left_out or {})
        return _with_enough(self._write_once(closed))

    def _write_once(self, closed: Round) -> Round:
        name = f"{self.folder}/{closed.number}.json"
        with self.documents.locked(self.folder):
            if self.documents.read(name) is None:
                left_out = {site: asdict(receipt) for site, receipt in closed.left_out.items()}
                written = {"round": closed.number, "releases": dict(closed.releases)}
                self.documents.write(name, written | {"left_out": left_out})
        return self._read(closed.number)

    def close_with_late(self, sites: Sequence[str]) -> dict[str, str]:
        """Close a round of all these sites that are in; a further one if one came in after the
        last.

        Returns:
            Keys of releases by site, sorted; empty (nothing is closed) if fewer than two.
        """
        entries = {site: self.entry(site) for site in sites}
        released = {site for site, entry in entries.items() if entry and entry.release}
        if len(released) < MIN_RELEASES:
            return {}
        late = released - self.latest().releases.keys()
        return dict(self.close(sorted(released), Rules(next_round=bool(late))).releases)

    # --- waiting, withdrawing ----------------------------------------------------------------

    def add_waiting(self, seconds: float, next_round: bool) -> float:
        """Add to the seconds that the open round has waited, and return the total.

        Drivers' monotonic clocks count them; 0 if no round is open. If two drivers wait at the same
        time on the same boot of a machine, each second counts once.
        """
        last = self.latest().number
        if last and not next_round:
            return 0.0
        name = f"{self.folder}/{last + 1}.clock.json"
        with self.documents.locked(self.folder):
            before = self.documents.read(name)
            clock: dict[str, Any] = before or {"seconds": 0.0}
            now, boot = time.monotonic(), BOOT_ID.read_text().strip()
            if clock.get("boot") == boot:
                seconds = min(seconds, now - clock["at"])
            if seconds > 0 or before is None:
                clock = {"seconds": clock["seconds"] + seconds, "at": now, "boot": boot}
                self.documents.write(name, clock)
        return float(clock["seconds"])

    def withdraw(self, sites: Sequence[str]) -> list[str]:
        """Record that sites have withdrawn; return all that ever did, in any experiment."""
        if sites:
            with self.documents.locked("withdrawn"):
                self.documents.write(self._withdrawals, sorted(self.withdrawn() | set(sites)))
        return sorted(self.withdrawn())

    def withdrawn(self) -> set[str]:
        """Return the sites that have withdrawn."""
        return set(self.documents.read(self._withdrawals) or ())


def _receipt(written: Mapping[str, Any]) -> Receipt:
    known = Receipt.__dataclass_fields__
    return Receipt(**{name: value for name, value in written.items() if name in known})


def _with_enough(closed: Round) -> Round:
    if len(closed.releases) >= MIN_RELEASES:
        return closed
    return replace(closed, releases={}, alone=closed.releases)
