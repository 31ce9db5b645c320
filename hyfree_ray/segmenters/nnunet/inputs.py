"""The images that a model is to segment, looked at before any network is built."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from hyfree_ray.cohorts.checks import CaseFiles, Problem
from hyfree_ray.cohorts.file_checks import check_files, check_geometry
from hyfree_ray.cohorts.image_facts import FileFacts, gather_facts
from hyfree_ray.cohorts.image_reading import NATURAL_ENDINGS, READERS
from hyfree_ray.cohorts.tables import NNUNET_DEFAULTS
from hyfree_ray.core.errors import HyfreeError

_OTHER_PICTURES = (".jpg", ".jpeg", ".dcm", ".hdr", ".img", ".mhd", ".nhdr", ".gif", ".webp")
"""Endings of images that nnU-Net does not read."""


def cases_to_predict(images: Path, wanted: Mapping[str, Any]) -> tuple[str, dict[str, list[Path]]]:
    """Return the ending of a folder's images, and the files of each case, one a channel.

    Sidecars of converters (.json, .bval), tables and hidden files such as macOS's `._x` are no
    images and left out.

    Args:
        images: holds `CASE_0000.ENDING`.
        wanted: the `dataset.json` of the model.

    Raises:
        HyfreeError: there is none, one cannot be read, or has other channels than the model's.
    """
    named = [*wanted["channel_names"].values()]
    needs = f"the model wants {len(named)} channels ({', '.join(map(str, named))})"
    files = (
        [path for path in sorted(images.iterdir()) if path.name[0] != "."]
        if images.is_dir()
        else []
    )
    ending = _ending_of(images, files, needs)
    cases: dict[str, list[Path]] = defaultdict(list)
    others = []
    for file in files:
        if found := re.fullmatch(rf"(.+)_\d{{4}}{re.escape(ending)}", file.name, re.DOTALL):
            cases[found[1]].append(file)
        else:
            others.append(file)
    _refuse_unread(others, {file.name for held in cases.values() for file in held}, ending, needs)
    facts = gather_facts(
        images,
        ending,
        images=[file.name for held in cases.values() for file in held],
        labels=[],
        cache=None,
        reader=NNUNET_DEFAULTS.get(ending, ""),
    )
    _refuse(images, [problem for problem in check_files(facts) if problem.fatal], needs)
    for case, held in cases.items():
        _check_channels(case, held, facts, len(named), needs)
    _refuse(images, _other_sizes(cases, facts), needs)
    return ending, cases


def _ending_of(images: Path, files: Sequence[Path], needs: str) -> str:
    """Return the ending that the images of a folder have."""
    found = Counter(
        ending
        for file in files
        for ending in READERS
        if file.name.endswith(f"_0000{ending}") and ending in NNUNET_DEFAULTS
    )
    if len(found) > 1:
        endings = " and ".join(sorted(found))
        raise HyfreeError(
            "data.unknown-format",
            f"{images}: holds images that end in {endings}; segment those of one format at a time",
        )
    if found:
        return next(iter(found))
    first = next((f for f in files if f.name.lower().endswith(_OTHER_PICTURES)), None)
    first = first or next(iter(files), None)
    if first is None:
        raise HyfreeError(
            "data.no-cases",
            f"{images}: no images named CASE_0000.ENDING; name their folder with -i; {needs}",
        )
    raise HyfreeError(
        "data.unknown-format",
        f"{first}: not an image that nnU-Net reads by its name; {needs}: give CASE_0000.ENDING with"
        f" one of {', '.join(NNUNET_DEFAULTS)}",
    )


def _refuse_unread(
    others: Sequence[Path], images: Collection[str], ending: str, needs: str
) -> None:
    """Refuse what would be dropped although it looks like an image; a sidecar has one beside it."""
    stems = {name.removesuffix(ending) for name in images}
    for file in others:
        lower = file.name.casefold()
        named = re.fullmatch(r"(.+_\d{4})\..+", file.name, re.DOTALL)
        if lower.endswith((*READERS, *_OTHER_PICTURES)) or (named and named[1] not in stems):
            raise HyfreeError(
                "data.unknown-format",
                f"{file}: would not be segmented; {needs}: name it CASE_0000{ending} or move it",
            )


def _check_channels(
    case: str,
    held: Sequence[Path],
    facts: Mapping[str, FileFacts],
    channels: int,
    needs: str,
) -> None:
    numbers = [file.name[len(case) + 1 :][:4] for file in held]
    inside = [facts[file.name].channels for file in held]
    one_each = numbers == [f"{k:04d}" for k in range(channels)] and set(inside) == {1}
    natural = held[0].name.endswith(NATURAL_ENDINGS)
    if one_each or (natural and numbers == ["0000"] and inside == [channels]):
        return
    have = ", ".join(f"_{n} with {k}" for n, k in zip(numbers, inside, strict=True))
    raise HyfreeError(
        "data.channels",
        f"{held[0]}: case {case} has {len(held)} files ({have}); {needs}: add what is missing, or"
        " convert it",
    )


def _other_sizes(
    cases: Mapping[str, Sequence[Path]], facts: Mapping[str, FileFacts]
) -> list[Problem]:
    """Return channels of a case that differ in size or spacing."""
    files = [
        CaseFiles(name=case, images=tuple(file.name for file in held), label=held[0].name)
        for case, held in cases.items()
    ]
    return [problem for problem in check_geometry(files, facts) if problem.fatal]


def _refuse(images: Path, problems: Sequence[Problem], needs: str) -> None:
    if problems:
        first = problems[0]
        raise HyfreeError(first.code, f"{images}/{first.line(len(problems) - 1)}; {needs}")
