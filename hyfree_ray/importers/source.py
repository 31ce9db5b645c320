"""What an importer finds in a download: cases, what was left out and why, and how to read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hyfree_ray.cohorts.itk_images import Image


@dataclass(frozen=True, kw_only=True)
class SourceCase:
    """One case of a download."""

    name: str
    site: str
    patient: str
    images: tuple[Path, ...]
    """One per channel, or one with all channels; of a DICOM series, its slices."""
    masks: tuple[Path, ...] = ()
    """Joined if there are several; none: the labels have yet to be drawn."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Further columns for `sites.csv`."""


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A file that is not taken."""

    path: Path
    why: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """A download as it will be written."""

    name: str
    root: Path
    """The folder of the download: every file below it is accounted for."""
    channel_names: tuple[str, ...]
    labels: Mapping[str, Any]
    file_ending: str
    cases: Sequence[SourceCase]
    read_images: Callable[[SourceCase], list[Image]]
    """Returns the files to write: one per channel, or one that holds all channels."""
    read_label: Callable[[SourceCase], Image]
    regions_class_order: tuple[int, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    """Files that cannot be used."""
    tables: tuple[Path, ...] = ()
    """Files that were read besides images and masks."""
    notes: tuple[str, ...] = ()
    """How the files were understood, a line for each rule that was chosen."""
    meanings: Mapping[str, str] = field(default_factory=dict)
    """What stands for each label in the masks."""
    hidden: tuple[str, ...] = ()
    """Names of people, which `import.json` must not hold."""
