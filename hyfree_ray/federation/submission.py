"""A hospital's submission: its release, or a notice that it withholds one; signed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hyfree_ray.border.manifest import MANIFEST_FILE
from hyfree_ray.border.withheld import NOTICE_FILE, Notice
from hyfree_ray.core.keys import digest_of
from hyfree_ray.core.parcels import Parcel

if TYPE_CHECKING:
    from hyfree_ray.federation.hospital import Contribution
    from hyfree_ray.federation.site_stages import SiteStages

AUDIT_BROKE = "its audit failed or took too long, and nothing is released without one"


def submission(site: SiteStages, done: Contribution) -> Parcel:
    """Pack and sign a site's submission.

    Raises:
        PrivacyError: the site may not export releases.
    """
    if done.release is None:
        return _withheld(site, AUDIT_BROKE, done.samples.result["rejection_rate"])
    parcel = site.export(done.release)
    if done.release.record is not None and MANIFEST_FILE not in parcel.files:
        return _withheld(site, parcel.result["reason"], parcel.result["rejection_rate"])
    # Of the site's own numbers only those on its card travel, as coarse as there.
    public = {name: parcel.result[name] for name in ("outcome", "images") if name in parcel.result}
    return site.workspace.sign(replace(parcel, result=public), MANIFEST_FILE)


def _withheld(site: SiteStages, reason: str, rejection_rate: float | None) -> Parcel:
    notice = Notice.of(
        site.name,
        site.federation,
        reason,
        rejection_rate,
        addressee=site.experiment.addressee,
    ).to_json()
    parcel = Parcel(
        sender=site.name,
        stage="release",
        key=digest_of(notice),
        files={NOTICE_FILE: notice.encode()},
        result={"outcome": "withheld", "reason": reason, "images": 0},
    )
    return site.workspace.sign(parcel, NOTICE_FILE)
