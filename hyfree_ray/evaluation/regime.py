"""The record of a regime: all that the project knows of a way to train a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CONTROL = "local2x"
"""What a site has without sharing, after as many steps: what most regimes are compared with."""

Trainer = Literal["site", "pool", "oracle"]
Augmentation = Literal["none", "nnunet", "da5", "da5+gin"]
"""None at all (trainer NoDA), nnU-Net's by default, its own stronger one (trainer DA5), or that and
domain randomisation."""

REPLAY = "replay"
"""What a site's training may need beside the pool's model: releases, as they are handed out."""


@dataclass(frozen=True, kw_only=True)
class Regime:
    """All that the project knows of a way to train, but for the training itself."""

    name: str
    label: str
    """In a reader's words: for legends and help."""
    progress: str
    """What its party does while it trains one."""
    trained_by: Trainer | None
    """None: nobody; it is one of the others by another name."""
    train: str = ""
    """"module:function" that trains it; `federation.trainers` says what it is called with."""
    setting: Literal["default", "optional"] | None = None
    """Whether it is trained where `--settings` is not given, or named there alone. None: always."""
    releases: Literal["none", "own", "others", "all"] = "none"
    """Whose releases are in a model: of none, of the site that it is named after, of all but that
    site, which alone tests it, or of all that were pooled."""
    needs: tuple[str, ...] = ()
    """What a site's training begins with, in the order of its arguments: the model of a regime of
    the pool, and `REPLAY`."""
    carrier: Literal["releases", "public"] = "releases"
    """On which images other sites' labels come: those of their generators, or public ones that no
    patient ever touched."""
    augmentation: Augmentation = "nnunet"
    """Of the images in all trainings that are its own."""
    members: tuple[str, ...] = ()
    """Regimes whose networks are averaged in it."""
    synthetic_share: float | None = None
    """Of the images that the oracle trains one network on; None: it is no mixture."""
    added_per_real: float | None = None
    """Images of the site's own generator that are added for each of its real ones; None: none.
    They are no release: nothing has to leave, and no pool is needed."""
    control: str | None = CONTROL
    """The regime that it is compared with on the same patients."""
    by_hospital: bool = False
    """Whether the oracle's training ends with a model for each site, and not with one for all."""
    by_site: bool = False
    """Its differences are shown site by site and as a curve; others' over all sites."""
    primary: bool = False
    """It is compared first: the paper's claim."""
    candidate: int | None = None
    """A site may keep it: the lower, the better it should travel."""
    note: str = ""
    """What a reader of its numbers has to know, below tables."""

    @property
    def foreign_only(self) -> bool:
        """Whether its models are named after the one site that they know nothing of."""
        return self.releases == "others"

    @property
    def has_synthetic(self) -> bool:
        """Whether a generator's images are among those that it is trained on."""
        released = self.releases != "none" and self.carrier == "releases"
        return released or self.added_per_real is not None

    @property
    def of_the_pool(self) -> bool:
        """Whether its models know of other sites by their pooled releases alone."""
        return self.releases == "all" and self.trained_by != "oracle"

    @property
    def of_one_release(self) -> bool:
        """Whether there is a model for each release that was pooled."""
        return self.releases in {"own", "others"}
