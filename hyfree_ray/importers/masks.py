"""The meaning of masks: a folder is looked at as a whole before a rule is chosen for it.

Masks store classes as values (0, 1, 2), as one bright value (0, 100), as colours, in a palette or
as transparency. A rule is chosen only if all masks of a folder admit a single one; it is told, and
`--classes` overrides it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.importers.classes import Classes
from hyfree_ray.importers.pictures import Picture, grey_of, rgb_of

FOREGROUND = "foreground"

MAX_SMALL = 31
"""Masks of values up to this store classes as they are."""

MAX_CLASSES = 16
"""Values or colours, the background included, that are taken for classes."""

FULL_SCALES = (1, 255, 1023, 4095, 16383, 65535)
"""What a single bright value is in masks of 1, 8, 10, 12, 14 and 16 bits."""

MIN_SHARE = 1e-3
"""Part of the foreground below which a value looks like the edge of another."""

MAX_BETWEEN = 0.05
"""Part of all pixels that may lie between black and white, as edges and JPEG leave them."""

MAX_EDGES = 0.25
"""The same where all of it lies along edges: masks that were resized with interpolation."""

Decode = Callable[[Picture], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class MaskRule:
    """How the masks of a folder are read."""

    names: tuple[str, ...]
    """Classes by value, from 1."""
    meanings: Mapping[str, str]
    said: str
    kind: str
    """`grey`, `colour` or `alpha`: what a pixel's code is."""
    values: Mapping[int, int] = field(default_factory=dict)
    """The class of each code; 0 is the background."""
    nearest: bool = False
    """Whether other codes are taken for the nearest one."""

    def read(self, codes: np.ndarray) -> np.ndarray:
        """Return classes, uint8, for the codes of a mask."""
        known = np.array(sorted(self.values), dtype=np.int64)
        classes = np.array([self.values[int(code)] for code in known], dtype=np.uint8)
        found, inverse = np.unique(codes, return_inverse=True)
        if self.nearest:
            place = np.argmin(_distances(found, known, colour=self.kind == "colour"), axis=1)
        else:
            place = np.searchsorted(known, found).clip(max=len(known) - 1)
        read: np.ndarray = classes[place][inverse].reshape(codes.shape)
        return read


def _distances(codes: np.ndarray, known: np.ndarray, *, colour: bool) -> np.ndarray:
    if not colour:
        apart: np.ndarray = np.abs(codes[:, None].astype(np.int64) - known[None])
        return apart
    one, other = _channels(codes), _channels(known)
    squared: np.ndarray = ((one[:, None] - other[None]) ** 2).sum(axis=-1)
    return squared


def _channels(codes: np.ndarray) -> np.ndarray:
    codes = codes.astype(np.int64)
    return np.stack([codes >> 16, (codes >> 8) & 255, codes & 255], axis=-1)


def codes_of(picture: Picture, kind: str) -> np.ndarray:
    """Return what a rule looks up: grey values, RGB as one number, or transparency."""
    if kind == "alpha":
        opaque = np.full(picture.pixels.shape[:2], 255, np.uint8)
        alpha_HW = opaque if picture.alpha_HW is None else picture.alpha_HW
        return alpha_HW.astype(np.int64)
    if kind == "grey":
        return grey_of(picture).astype(np.int64)
    rgb_HWC = rgb_of(picture).astype(np.int64)
    codes: np.ndarray = (rgb_HWC[..., 0] << 16) | (rgb_HWC[..., 1] << 8) | rgb_HWC[..., 2]
    if picture.alpha_HW is not None:
        codes = np.where(picture.alpha_HW > 0, codes, 0)
    return codes


@dataclass
class _Survey:
    """What the masks of a folder hold, counted."""

    first: Path
    files: int = 0
    grey: Counter[int] = field(default_factory=Counter)
    colour: Counter[int] = field(default_factory=Counter)
    alpha: Counter[int] = field(default_factory=Counter)
    seen: set[int] = field(default_factory=set)
    """Colours where a mask is not transparent."""
    coloured: bool = False
    transparent: bool = False
    lossy: bool = False
    binary: bool = True
    """Whether no mask has more than two values."""
    solid: set[int] = field(default_factory=set)
    """Grey values, colours and transparencies that fill two by two pixels somewhere."""

    def add(self, picture: Picture) -> None:
        self.files += 1
        self.lossy |= picture.lossy
        colours = _count(self.colour, codes_of(picture, "colour"))
        self.binary &= _count(self.grey, codes_of(picture, "grey")) <= 2
        self.coloured |= _is_coloured(picture)
        alpha_HW = codes_of(picture, "alpha")
        _count(self.alpha, alpha_HW)
        self.transparent |= bool((alpha_HW == 0).any())
        for kind in ("grey", "colour", "alpha"):
            self.solid |= solid_in(codes_of(picture, kind))
        if colours < 1 << 16:
            self.seen |= set(np.unique(codes_of(picture, "colour")[alpha_HW > 0]).tolist())


def _count(counter: Counter[int], codes: np.ndarray) -> int:
    values, counts = np.unique(codes, return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        counter[value] += count
    return len(values)


def solid_in(codes: np.ndarray) -> set[int]:
    """Return the codes that fill two by two pixels of a plane somewhere.

    A class does; a value that resizing left at an edge does not.
    """
    here, right = codes[..., :-1, :-1], codes[..., :-1, 1:]
    below, across = codes[..., 1:, :-1], codes[..., 1:, 1:]
    same = (here == right) & (here == below) & (here == across)
    return set(np.unique(here[same]).tolist())


def _is_coloured(picture: Picture) -> bool:
    """Return whether the channels differ, by more than JPEG makes them."""
    if not picture.is_colour:
        return False
    spread = picture.pixels.max(axis=-1).astype(int) - picture.pixels.min(axis=-1)
    shown = spread if picture.alpha_HW is None else spread[picture.alpha_HW > 0]
    return bool((shown > (48 if picture.lossy else 0)).any())


def rule_for(masks: Iterable[Picture], classes: Classes | None) -> MaskRule:
    """Choose the rule by which all masks of a folder are read.

    Raises:
        HyfreeError: they admit several rules or none, or hold what `classes` does not name.
    """
    survey: _Survey | None = None
    for picture in masks:
        survey = survey or _Survey(first=picture.path)
        survey.add(picture)
    assert survey is not None
    if classes is not None:
        return _named(survey, classes)
    if survey.transparent and len(survey.seen) <= 1:
        return _by_value(survey, survey.alpha, "alpha")
    if survey.coloured or survey.transparent:
        return _by_colour(survey)
    return _by_value(survey, survey.grey, "grey")


def rule_of_values(
    counts: Mapping[int, int],
    solid: set[int],
    first: Path,
    files: int,
    classes: Classes | None,
) -> MaskRule:
    """Choose the rule for label volumes that hold these values, of which `first` is one.

    Args:
        counts: voxels of each value.
        solid: values that fill two by two voxels of a slice somewhere.
        first: a label volume.
        files: how many there are.
        classes: what `--classes` says.
    """
    survey = _Survey(first=first, files=files, grey=Counter(counts), binary=False, solid=solid)
    survey.colour = Counter({value * 0x10101: count for value, count in counts.items()})
    return _by_value(survey, survey.grey, "grey") if classes is None else _named(survey, classes)


def _by_value(survey: _Survey, counts: Counter[int], kind: str) -> MaskRule:
    """Choose a rule for grey values, or for transparency."""
    bright = sorted(value for value in counts if value)
    what = "transparency" if kind == "alpha" else "value"
    if 0 not in counts and not survey.lossy:
        raise _unclear(survey, counts, "no mask has the value 0, so that the background is unknown")
    if not bright:
        said = f"all {survey.files} masks are empty"
        return MaskRule(names=(FOREGROUND,), meanings={}, said=said, kind=kind, values={0: 0})
    if len(bright) == 1 or (survey.binary and set(bright) <= set(FULL_SCALES) and bright[-1] > 1):
        names = " or ".join(map(str, bright))
        return MaskRule(
            names=(FOREGROUND,),
            meanings={FOREGROUND: f"{what} {names}"},
            said=f"masks are read as one class: {what} {names} is {FOREGROUND}",
            kind=kind,
            values={0: 0, **dict.fromkeys(bright, 1)},
        )
    small = not survey.lossy and bright[-1] <= MAX_SMALL
    if small or (not survey.lossy and _are_classes(counts, survey.solid)):
        return _classes(kind, [(f"label {v}", v, f"{what} {v}") for v in bright])
    return _two_peaks(survey, counts, kind)


def _classes(kind: str, found: Sequence[tuple[str, int, str]]) -> MaskRule:
    values = {0: 0, **{code: number for number, (_, code, _) in enumerate(found, start=1)}}
    shown = ", ".join(f"{what} -> {n}" for n, (_, _, what) in enumerate(found, start=1))
    return MaskRule(
        names=tuple(name for name, _, _ in found),
        meanings={name: what for name, _, what in found},
        said=f"masks are read as {len(found)} classes: {shown}",
        kind=kind,
        values=values,
    )


def _are_classes(counts: Mapping[int, int], solid: set[int]) -> bool:
    """Return whether few values, each of a sizeable part, are classes and not edges."""
    if any(value not in solid for value in counts if value):
        return False
    foreground = sum(count for value, count in counts.items() if value)
    rarest = min(count for value, count in counts.items() if value)
    return len(counts) <= MAX_CLASSES and rarest >= MIN_SHARE * foreground


def _by_colour(survey: _Survey) -> MaskRule:
    colours = sorted(code for code in survey.colour if code)
    if survey.lossy or not _are_classes(survey.colour, survey.solid):
        return _two_peaks(survey, survey.colour, "colour")
    if 0 not in survey.colour:
        raise _unclear(
            survey,
            survey.colour,
            "no mask has black, so that the background is unknown",
            colour=True,
        )
    if len(colours) == 1:
        what = f"colour #{colours[0]:06x}"
        return MaskRule(
            names=(FOREGROUND,),
            meanings={FOREGROUND: what},
            said=f"masks are read as one class: {what} is {FOREGROUND}",
            kind="colour",
            values={0: 0, colours[0]: 1},
        )
    found = [(f"colour {code:06x}", code, f"colour #{code:06x}") for code in colours]
    return _classes("colour", found)


def _two_peaks(survey: _Survey, counts: Counter[int], kind: str) -> MaskRule:
    """Read masks of two values, and what edges or JPEG leave between them, by the nearer one."""
    codes = np.array(sorted(counts), dtype=np.int64)
    weights = np.array([counts[int(code)] for code in codes], dtype=float)
    colour = kind == "colour"
    scale = 255.0 if colour else float(codes.max() - codes.min()) or 1.0

    def far_from(peak: int) -> np.ndarray:
        found = _distances(codes, np.array([peak]), colour=colour)[:, 0].astype(float)
        return (np.sqrt(found) if colour else found) / scale

    first = int(codes[int(np.argmax(weights))])
    apart = far_from(first)
    distant = np.where(apart > 0.25, weights, 0)
    second = int(codes[int(np.argmax(distant))])
    between = np.minimum(apart, far_from(second)) > 0.12
    third = _is_a_third(codes, weights, between, far_from)
    if not survey.lossy:  # values are exact: what lies between is an edge unless it fills a place
        inside = {int(code) for code in codes[between]} & survey.solid
        third = bool(inside) or weights[between].sum() > MAX_EDGES * weights.sum()
    if not distant.any() or third:
        raise _unclear(survey, counts, "they hold neither classes nor two values", colour=colour)
    low, high = sorted(
        (first, second), key=lambda code: int(_channels(np.array([code])).sum()) if colour else code
    )
    shown = (f"#{low:06x}", f"#{high:06x}") if colour else (str(low), str(high))
    said = (
        f"masks are read as one class, each pixel by the nearer of {shown[0]} (background) and"
        f" {shown[1]} ({FOREGROUND}): values between are edges"
    )
    return MaskRule(
        names=(FOREGROUND,),
        meanings={FOREGROUND: f"nearer {shown[1]} than {shown[0]}"},
        said=said,
        kind=kind,
        values={low: 0, high: 1},
        nearest=True,
    )


def _is_a_third(
    codes: np.ndarray,
    weights: np.ndarray,
    between: np.ndarray,
    far_from: Callable[[int], np.ndarray],
) -> bool:
    """Return whether what lies between two peaks is a class of its own."""
    rest = np.where(between, weights, 0)
    if rest.sum() > MAX_BETWEEN * weights.sum():
        return True
    if rest.sum() < 20:
        return False
    peak = int(codes[int(np.argmax(rest))])
    return bool(rest[far_from(peak) < 0.03].sum() > 0.5 * rest.sum())


def _named(survey: _Survey, classes: Classes) -> MaskRule:
    """Make the rule that `--classes` says."""
    named = [
        (one.name, key, value) for value, one in enumerate(classes.named, 1) for key in one.keys
    ]
    colour = any(key.startswith("#") for _, key, _ in named)
    values = {0: 0}
    for key in classes.background:
        values[_code(key, colour=colour)] = 0
    for _, key, value in named:
        values[_code(key, colour=colour)] = value
    shown = survey.transparent and len(survey.seen) <= 1 and not colour
    kind = "colour" if colour else "alpha" if shown else "grey"
    counts = {"colour": survey.colour, "alpha": survey.alpha, "grey": survey.grey}[kind]
    if survey.coloured and not colour:
        raise _unclear(survey, survey.colour, "they are coloured: name colours", colour=True)
    other = sorted(set(counts) - set(values))
    if other and not survey.lossy:
        raise _unclear(
            survey, counts, f"--classes does not name {_shown(other[0], colour)}", colour=colour
        )
    return MaskRule(
        names=tuple(one.name for one in classes.named),
        meanings={one.name: " + ".join(one.keys) for one in classes.named},
        said="masks are read as --classes says",
        kind=kind,
        values=values,
        nearest=survey.lossy,
    )


def _code(key: str, *, colour: bool) -> int:
    try:
        if key.startswith("#") and len(key) == 7:
            return int(key[1:], 16)
        value = int(key)
    except ValueError:
        raise HyfreeError(
            "option.malformed",
            f"--classes: {key!a} is neither a value (100) nor a colour (#00ff00)",
        ) from None
    return value * 0x10101 if colour else value


def _shown(code: int, colour: bool) -> str:
    return f"#{code:06x}" if colour else str(code)


def _unclear(
    survey: _Survey, counts: Mapping[int, int], why: str, *, colour: bool = False
) -> HyfreeError:
    most = sorted(counts, key=lambda code: -counts[code])[:8]
    total = sum(counts.values())
    shown = ", ".join(f"{_shown(code, colour)} ({counts[code] / total:.1%})" for code in most)
    more = f" and {len(counts) - len(most)} more" if len(counts) > len(most) else ""
    return HyfreeError(
        "import.bad-labels",
        f"{survey.first.parent}: what its {survey.files} masks mean is not clear: {why}; they hold"
        f" {shown}{more}; say it with --classes, e.g. --classes 'organ={_shown(most[-1], colour)}'",
    )


def bright_of(pictures: Sequence[Picture]) -> Any:
    """Join masks that are known to be black and white: 1 where any is above the middle of its
    bits."""
    found = []
    for picture in pictures:
        mask_HW = picture.pixels.max(axis=-1) if picture.is_colour else picture.pixels
        highest = int(mask_HW.max())
        found.append(mask_HW > (0 if highest <= 1 else 127 if highest <= 255 else highest // 2))
    return np.any(found, axis=0).astype(np.uint8)
