"""What a site hands in instead of a release: that it withholds, signed as a manifest is."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from hyfree_ray.border.manifest import canonical, check_made_for, refusing
from hyfree_ray.strict_json import StrictObject

NOTICE_FILE = "withheld.json"
NOTICE_SIGNATURE_FILE = "withheld.sig"
_VERSION = 1
_LONGEST_REASON = 500


@dataclass(frozen=True, kw_only=True)
class Notice:
    """That a site withholds, from which round of what, and why."""

    version: int = _VERSION
    site: str
    experiment: str
    """Key of the experiment that the release would have been made for."""
    round: int
    reason: str
    """In plain words, of at most 500 characters."""
    rejection_rate: float | None
    """Of the samples that were drawn, rounded to a hundredth as on a privacy card."""

    @classmethod
    def of(
        cls, site: str, experiment: str, round_number: int, reason: str, rate: float | None
    ) -> Notice:
        """As a site writes it."""
        return cls(
            site=site,
            experiment=experiment,
            round=round_number,
            reason=reason[:_LONGEST_REASON],
            rejection_rate=None if rate is None else round(rate, 2),
        )

    def to_json(self) -> str:
        """Canonical: equal notices have equal bytes."""
        return canonical(dataclasses.asdict(self))


def read_notice(text: bytes, *, site: str, experiment: str, round_number: int) -> Notice:
    """Read the notice of a site strictly, and check that it is this site's, for this round.

    Raises:
        ReleaseError: rule `withheld`, `site`, `experiment` or `round`.
    """
    with refusing(site, "withheld"):
        read = StrictObject.parse(text.decode(), [f.name for f in dataclasses.fields(Notice)])
        notice = Notice(
            version=read.integer("version", least=_VERSION, most=_VERSION),
            site=read.name("site"),
            experiment=read.name("experiment"),
            round=read.integer("round", least=0, most=1 << 31),
            reason=read.text("reason", longest=_LONGEST_REASON),
            rejection_rate=read.share("rejection_rate"),
        )
    check_made_for(notice, site=site, experiment=experiment, round_number=round_number)
    return notice
