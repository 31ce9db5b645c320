"""The classes of imported masks: what stands for each in the masks, and its value here."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from hyfree_ray.cohorts.label_sets import BACKGROUND
from hyfree_ray.core.errors import HyfreeError

FORM = "NAME=VALUE[+VALUE],..., e.g. 'liver=100,tumour=200+250' or 'polyp=#00ff00'"


@dataclass(frozen=True, kw_only=True)
class NamedClass:
    """A class as `--classes` names it."""

    name: str
    keys: tuple[str, ...]
    """Values (`100`), colours (`#00ff00`) or names of segments, casefolded."""


@dataclass(frozen=True, kw_only=True)
class Classes:
    """What `--classes` says: classes in the order of their values, from 1."""

    background: tuple[str, ...]
    """Keys of the background; empty: what masks usually mean by it."""
    named: tuple[NamedClass, ...]

    @property
    def labels(self) -> dict[str, int]:
        """The labels of a `dataset.json`."""
        return labels_of([one.name for one in self.named])


def labels_of(names: Sequence[str]) -> dict[str, int]:
    """Return the labels of a `dataset.json` with these classes."""
    return {BACKGROUND: 0, **{name: value for value, name in enumerate(names, start=1)}}


def read_classes(text: str) -> Classes:
    """Read `--classes`.

    Raises:
        HyfreeError: it is not in its form, or names a class or a value twice.
    """
    named: list[NamedClass] = []
    background: tuple[str, ...] = ()
    for part in text.split(","):
        name, _, keys = (piece.strip() for piece in part.partition("="))
        one = NamedClass(name=name, keys=tuple(key_of(key) for key in (keys or name).split("+")))
        if not name or not all(one.keys):
            raise HyfreeError("option.malformed", f"--classes {text!a}: give {FORM}")
        if name.casefold() == BACKGROUND:
            background = one.keys
        else:
            named.append(one)
    names = [one.name.casefold() for one in named]
    keys_all = [key for one in named for key in one.keys] + list(background)
    if not named or len(set(names)) < len(names) or len(set(keys_all)) < len(keys_all):
        raise HyfreeError(
            "option.malformed",
            f"--classes {text!a}: names no class, or a class or a value twice; give {FORM}",
        )
    return Classes(background=background, named=tuple(named))


def key_of(name: str) -> str:
    """Return the form in which names of structures are compared: `Liver ` is `liver`."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())
