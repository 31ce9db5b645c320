"""The notice that a site submits instead of a release: that it withholds, signed as a manifest
is."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from hyfree_ray.border.manifest import ROUND, Addressee, Signed, as_release_error
from hyfree_ray.core.strict_json import StrictObject

NOTICE_FILE = "withheld.json"
NOTICE_SIGNATURE_FILE = "withheld.sig"
_MAX_REASON = 500


@dataclass(frozen=True, kw_only=True)
class Notice(Signed):
    """A site's notice that it withholds, from which round of what, and why."""

    VERSION = 2

    version: int = VERSION
    reason: str
    """Plain text of at most 500 characters."""
    rejection_rate: float | None
    """Share of the samples drawn, rounded to a hundredth as on a privacy card."""

    @classmethod
    def of(
        cls,
        site: str,
        experiment: str,
        reason: str,
        rate: float | None,
        round_number: int = ROUND,
        addressee: Addressee | None = None,
    ) -> Notice:
        """Build the notice as a site writes it."""
        return cls(
            site=site,
            experiment=experiment,
            round=round_number,
            **dataclasses.asdict(addressee or Addressee()),
            reason=reason[:_MAX_REASON],
            rejection_rate=None if rate is None else round(rate, 2),
        )

    @classmethod
    def _own_fields(cls, read: StrictObject) -> dict[str, Any]:
        return {
            "reason": read.text("reason", longest=_MAX_REASON),
            "rejection_rate": read.share("rejection_rate"),
        }


def parse_notice(text: bytes, *, site: str) -> Notice:
    """Parse a notice strictly, trusting what it was made for.

    Raises:
        ReleaseError: rule `withheld`.
    """
    with as_release_error(site, "withheld"):
        return Notice.from_json(text.decode())


def read_notice(text: bytes, *, site: str, experiment: str, round_number: int = ROUND) -> Notice:
    """Read the notice of a site strictly, and check that it is this site's, for this round.

    Raises:
        ReleaseError: rule `withheld`, `site`, `addressee`, `experiment` or `round`.
    """
    notice = parse_notice(text, site=site)
    notice.check_made_for(site=site, experiment=experiment, round_number=round_number)
    return notice
