"""A case as stages get it: JSON, for it is hashed into keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

Part = Literal["train", "val", "test"]


class Slices(TypedDict, total=False):
    """How a volume is cut."""

    slices: int
    """That the generator sees."""
    slice_axis: int


class _EveryCase(TypedDict):
    name: str
    """It stays with the site: others know a case by its index."""
    index: int
    """Among the site's cases, sorted by name."""
    patient: int
    """Index among the site's patients."""
    part: Part
    images: list[str]
    """Relative to the data set: one a channel, or one file that holds all channels."""
    label: str
    digest: str
    """sha256 over the file digests of the images and of the label."""


class SiteCase(_EveryCase, Slices):
    """A case of a site: which patient's, for what part, and in which files."""


Cases = Sequence[SiteCase]
