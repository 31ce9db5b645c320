"""The pool's memory of what each site has handed in, and in which order it came.

nonces/SITE/HASH.json        each nonce of a site belongs to one release, first admitted then

It outlives rounds and experiments. Whoever carries folders could go back to an older release, or
to a release of a site that has said since that it withholds; the pool would not notice by itself.
"""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyfree_ray.border.manifest import MANIFEST_FILE, parse_manifest
from hyfree_ray.border.withheld import NOTICE_FILE, parse_notice
from hyfree_ray.core.documents import Documents
from hyfree_ray.core.errors import ReleaseError
from hyfree_ray.core.keys import digest_of
from hyfree_ray.core.parcels import Parcel


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What a site has signed, as far as its order among others matters."""

    site: str
    made_for: str
    """The experiment's key."""
    nonce: str
    sha256: str
    """Hash of what it vouches for."""

    @classmethod
    def of(cls, parcel: Parcel) -> Statement:
        """Read the statement of a parcel whose signature was checked.

        Raises:
            ReleaseError: rule `manifest` or `withheld`.
        """
        site = parcel.sender
        if NOTICE_FILE in parcel.files:
            text = parcel.files[NOTICE_FILE]
            notice = parse_notice(text, site=site)
            hashed = hashlib.sha256(text).hexdigest()
            return cls(site=site, made_for=notice.experiment, nonce=hashed, sha256=hashed)
        manifest = parse_manifest(parcel.files[MANIFEST_FILE], site=site)
        return cls(
            site=site, made_for=manifest.experiment, nonce=manifest.nonce, sha256=manifest.sha256
        )


class Admissions:
    """What has been admitted of each site.

    Args:
        documents: the pool's documents.
    """

    def __init__(self, documents: Documents) -> None:
        self.documents = documents

    def admit(self, statement: Statement) -> None:
        """Note when a statement was first admitted; repeating it changes nothing.

        Raises:
            ReleaseError: rule `nonce` where another release has this nonce.
        """
        name = _name(statement)
        known = self.documents.read(name)
        if known is None:
            noted = {"sha256": statement.sha256, "made_for": statement.made_for}
            # A clock that was set back makes nothing older than what came before it.
            latest = max((one["first"] for one in self._of(statement.site)), default=0.0)
            first = max(time.time(), math.nextafter(latest, math.inf))
            self.documents.write(name, noted | {"first": first})
        elif known["sha256"] != statement.sha256:
            raise ReleaseError(
                statement.site,
                "nonce",
                "its nonce was used by another release; make a new release",
            )

    def check_newest(self, statement: Statement) -> None:
        """Refuse what was first admitted before something else of the site for this experiment.

        Raises:
            ReleaseError: rule `older`.
        """
        own = self.documents.read(_name(statement))
        if own is None:
            return
        if any(
            one.get("made_for") == statement.made_for and one["first"] > own["first"]
            for one in self._of(statement.site)
        ):
            raise ReleaseError(
                statement.site,
                "older",
                "the site has handed in a newer one since; ask it which one counts, and hand in "
                "that, or say --allow-older",
            )

    def _of(self, site: str) -> list[dict[str, Any]]:
        """Return what was noted of a site."""
        names = self.documents.names("nonces/*/*.json")
        known = [self.documents.read(name) for name in names if Path(name).parent.name == site]
        return [one for one in known if one is not None]


def _name(statement: Statement) -> str:
    return f"nonces/{statement.site}/{digest_of(statement.nonce)[:32]}.json"
