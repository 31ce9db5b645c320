"""Cases as stages receive them: JSON, because it is hashed into keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

Part = Literal["train", "val", "test"]


class Slices(TypedDict, total=False):
    """The way a volume is cut."""

    slices: int
    """Number that the generator sees."""
    slice_axis: int


class _EveryCase(TypedDict):
    name: str
    """Stays at the site: others know a case by its index."""
    index: int
    """Index among the site's cases, sorted by name."""
    patient: int
    """Index among the site's patients."""
    part: Part
    images: list[str]
    """Relative to the data set: one per channel, or one file that holds all channels."""
    label: str
    digest: str
    """sha256 over the file digests of the images and of the label."""


class SiteCase(_EveryCase, Slices):
    """A case of a site: its patient, its part, and its files."""


Cases = Sequence[SiteCase]
