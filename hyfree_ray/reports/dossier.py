"""The page about a release that a data protection officer reads.

In the order of what such a reader decides by: what it is, how it was made, what attacks found, and
similarity last, for images that resemble none may still tell who was there. Everything on the
card is on the page, whatever fields a card has. Nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hyfree_ray import __version__
from hyfree_ray.border.gate import Gate, card_of, violations
from hyfree_ray.border.privacy_card import describe, read_card
from hyfree_ray.border.release import Release
from hyfree_ray.border.signing import fingerprint
from hyfree_ray.core.errors import ReleaseError
from hyfree_ray.reports.pages import render

_HOW_MADE = (
    "generator",
    "images_shown",
    "training_images",
    "patients_left_out",
    "images",
    "embedder",
    "detectors",
)
_SIMILARITY = ("rejection_rate", "rejects_of_honest_images", "nearer_to_training", "thresholds")
"""Fields of a card that are no attack; everything else is, or tests the means against copies."""


@dataclass(frozen=True)
class Row:
    """A line of a table."""

    name: str
    value: str


def dossier(release: Release, public_key: bytes | None) -> str:
    """Return the page as HTML.

    Args:
        release: as it was read.
        public_key: the key that its signature was checked with; None: it was not checked.
    """
    card = _in_order(release.metadata.card)
    measured = [name for name in card if name not in (*_HOW_MADE, *_SIMILARITY, "statement")]
    return render(
        "dossier.html",
        site=release.metadata.site,
        version=__version__,
        statement=card.get("statement"),
        signature=None if public_key is None else fingerprint(public_key),
        failed=_failed(release),
        what=_what(release),
        words=_in_words(release),
        made=[*_made(release), *_rows(card, _HOW_MADE)],
        attacks=_rows(card, measured),
        similarity=_rows(card, _SIMILARITY),
        not_covered=NOT_COVERED,
    )


NOT_COVERED = (
    "Whether the figures are true. They are the hospital's own: a signature says who states them, "
    "and nobody without the real images can check them.",
    "Attribute disclosure: what a release tells about a patient of whom something is known already "
    "(age, sex, diagnosis). It is not measured.",
    "What the masks alone tell, where a network that was trained on real data drew them: the "
    "hospital attacks them in a report of its own, and the card does not say what came of it.",
    "Other knowledge: linkage with images, reports or devices that somebody else holds.",
    "Attacks that are not named above. A figure says what those tried here found, at the number of "
    "patients that there was, and no more.",
    "Models. What is trained on this release, or on the hospital's own images, is not judged by "
    "this page.",
    "Releases that the card does not name, of the same patients, by other software or other "
    "hospitals.",
    "Whether the images are good for any purpose, and whether they may be published: this page is "
    "no declaration of anonymity, and no legal assessment.",
)
"""What a reader could take for granted, and must not."""


def _in_order(card: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a card's fields as they are declared, not by the alphabet; one not of ours as it
    is."""
    try:
        return read_card(card).model_dump(mode="json")
    except ValueError:
        return card


def _in_words(release: Release) -> list[str]:
    """Return the card as sentences; none where it is not one of ours."""
    try:
        lines = describe(read_card(release.metadata.card))[1:]  # without the statement
    except ValueError:
        return []
    if not release.metadata.card.get("guarantee"):
        lines.append("no formal privacy (differential privacy) is claimed")
    return lines


def _failed(release: Release) -> list[str]:
    try:
        return violations(card_of(release), Gate())
    except ReleaseError as error:
        return [error.message]


def _what(release: Release) -> list[Row]:
    metadata, manifest = release.metadata, release.manifest
    rows, channels, height, width = release.images_NCHW.shape
    structures = [name for name, value in metadata.label_names.items() if value]
    return [
        Row("Kind", "images that a generator drew, trained on images of patients, with masks"),
        Row("Hospital", metadata.site),
        Row("Images", f"{rows}, of {height} x {width} pixels, {release.images_NCHW.dtype}"),
        Row("Channels", f"{channels}: {', '.join(metadata.channel_names)}"),
        Row("Structures in the masks", ", ".join(structures) or "none"),
        Row("Spacing", " x ".join(f"{step:g}" for step in metadata.spacing) + " mm"),
        Row("File", f"{manifest.bytes:,} bytes, SHA-256 {manifest.sha256}"),
        Row("Names, dates and identifiers of patients", "none: the format has no field for them"),
    ]


def _made(release: Release) -> list[Row]:
    manifest = release.manifest
    return [
        Row("Made for", f"pool {manifest.pool}, federation {manifest.federation}"),
        Row("Settings, as a key", manifest.experiment),
    ]


def _rows(card: Mapping[str, Any], names: Iterable[str]) -> list[Row]:
    return [row for name in names if name in card for row in _flat(name, card[name])]


def _flat(name: str, value: Any) -> Iterator[Row]:
    """Yield a line for each number of a card, named by the way to it."""
    if isinstance(value, Mapping) and value:
        for inner, part in value.items():
            yield from _flat(f"{name}: {inner}", part)
    elif isinstance(value, Sequence) and value and isinstance(value[0], Mapping):
        for part in value:
            yield Row(_words(name), "; ".join(f"{key} {_text(one)}" for key, one in part.items()))
    else:
        yield Row(_words(name), _text(value))


def _words(name: str) -> str:
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


def _text(value: Any) -> str:
    if value is None:
        return "none, or not measured"
    if isinstance(value, (Mapping, Sequence)) and not value:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " to ".join(map(_text, value)) if _interval(value) else ", ".join(map(_text, value))
    return str(value)


def _interval(value: Sequence[Any]) -> bool:
    return len(value) == 2 and all(isinstance(one, float) for one in value)
