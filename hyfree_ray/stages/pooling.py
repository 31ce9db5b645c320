"""The pool's work on releases: check each, then plan nnU-Net on all of them.

Shapes: N images, C channels, H height, W width.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.stage import Context, Folder, stage
from hyfree_ray.segmenters.plan_caps import PlanCaps

if TYPE_CHECKING:
    from hyfree_ray.border.gate import Gate
    from hyfree_ray.border.release import Release, ReleaseMetadata
    from hyfree_ray.border.release_guard import SubmittedRelease
    from hyfree_ray.cohorts.label_sets import LabelEncoding

VALIDATION_SHARE = 0.2
MAX_VALIDATION = 2500
"""The last fifth of a release, at most 2500 slices, is its validation part."""


@stage(version=7)
def check_release(
    context: Context,
    *,
    release: Folder,
    site: str,
    dataset: Mapping[str, Any],
    federation: str,
    gate: Mapping[str, Any],
) -> dict[str, Any]:
    """Check a release as hostile input and draw a contact sheet of it.

    It is read here only after another process, with limits, has read the same bytes to the end.

    Returns:
        Beside the release's properties: `flag`, a description of anything odd about it (null:
        nothing), which a person has to judge; it excludes the release from nothing.

    Raises:
        ReleaseError: the rule that it breaks.
    """
    from hyfree_ray.border.gate import Gate
    from hyfree_ray.border.label_shift import label_shift
    from hyfree_ray.border.manifest import read_manifest
    from hyfree_ray.border.marks import MARK
    from hyfree_ray.border.release_guard import SubmittedRelease, check_release_file
    from hyfree_ray.core.registry import built_in_only
    from hyfree_ray.reports.pictures import contact_sheet

    submitted = SubmittedRelease(
        folder=Path(release),
        site=site,
        experiment=federation,
        # Read once: both processes check the file against this manifest's hash.
        manifest=read_manifest(Path(release), site=site),
    )
    check_release_file(submitted)
    with built_in_only():
        found = read_for_task(submitted, dataset, Gate.model_validate(gate))
    contact_sheet(
        context.out / "samples.png",
        found.images_NCHW[:24],
        found.labels_NHW[:24],
        f"{site}: synthetic images and their labels",
        label_names=found.metadata.label_names,
        marks=MARK,
    )
    shift = label_shift(found.images_NCHW, found.labels_NHW)
    return {
        "flag": shift.describe() if shift.flagged else None,
        "rejection_rate": float(found.metadata.card["rejection_rate"]),
        "images": found.manifest.rows,
        "sha256": found.manifest.sha256,
        "nonce": found.manifest.nonce,
        "bytes": found.manifest.bytes,
        "card": found.metadata.card,
        "quality": found.metadata.quality,
    }


def read_for_task(submitted: SubmittedRelease, dataset: Mapping[str, Any], gate: Gate) -> Release:
    """Read a release that another process has read to the end, and check it against the task.

    Args:
        submitted: the release, and what is known of it.
        dataset: the task's channels and labels.
        gate: bounds on its cards.

    Raises:
        ReleaseError: the rule that it breaks.
    """
    from hyfree_ray.border.gate import check_card
    from hyfree_ray.border.quality_card import check_quality
    from hyfree_ray.border.release import read_release
    from hyfree_ray.cohorts.label_sets import LabelEncoding
    from hyfree_ray.core.errors import ReleaseError

    found = read_release(
        submitted.folder,
        site=submitted.site,
        experiment=submitted.experiment,
        round_number=submitted.round_number,
        manifest=submitted.manifest,
    )
    channels = tuple(dataset["channel_names"].values())
    if found.metadata.channel_names != channels:
        raise ReleaseError(
            submitted.site,
            "task",
            f"channels {found.metadata.channel_names} are those of another task; this one has"
            f" {channels}",
        )
    if differences := LabelEncoding.of(dataset).differences(label_encoding_of(found.metadata)):
        raise ReleaseError(
            submitted.site, "task", f"its labels are those of another task: {differences}"
        )
    check_card(found, gate)
    check_quality(found, gate.quality)
    return found


MAX_COMPARED = 200
"""Images of a release whose labels are compared."""


@stage(version=2, device=True)
def label_agreement(
    context: Context,
    *,
    release: Folder,
    model: Folder,
    site: str,
    dataset: Mapping[str, Any],
    federation: str,
) -> dict[str, Any]:
    """Measure how far a release's labels agree with those learned from the other sites' images.

    Dice of each label over the release's first images together, 2 sum|A B| / (sum|A| + sum|B|),
    between its own labels and those of `model`, which was trained without it.

    Returns:
        dice, by label: None where neither has any; mean, over the labels that have one.
    """
    import numpy as np

    from hyfree_ray.border.release import read_release
    from hyfree_ray.cohorts.label_sets import LabelEncoding, foreground, mask_of, with_values
    from hyfree_ray.segmenters.nnunet.model import Model, read_dataset

    found = read_release(Path(release), site=site, experiment=federation)
    network = Model(model / "model", context.device)
    encoding = LabelEncoding.of(dataset)
    labels_NHW = with_values(
        found.labels_NHW[:MAX_COMPARED], label_encoding_of(found.metadata).values_in(encoding)
    )
    spacing = (1.0, *found.metadata.spacing)
    predicted_NHW = np.stack(
        [
            network.segment(image_CHW[:, None], spacing)[0]
            for image_CHW in found.physical(slice(MAX_COMPARED))
        ]
    )
    predicted_NHW = with_values(
        predicted_NHW, LabelEncoding.of(read_dataset(model / "model")).values_in(encoding)
    )
    dice: dict[str, float | None] = {}
    for name, classes in foreground(dataset["labels"]).items():
        one_NHW, other_NHW = mask_of(labels_NHW, classes), mask_of(predicted_NHW, classes)
        both = int(one_NHW.sum()) + int(other_NHW.sum())
        dice[name] = 2 * int((one_NHW & other_NHW).sum()) / both if both else None
    known = [value for value in dice.values() if value is not None]
    return {"dice": dice, "mean": sum(known) / len(known) if known else None}


@stage(version=4)
def pool_releases(
    context: Context,
    /,
    *,
    sites: list[str],
    federation: str,
    caps: Mapping[str, Any],
    **releases: Folder,
) -> dict[str, Any]:
    """Write the releases as one raw data set, plan nnU-Net on them alone, and preprocess.

    The fingerprint is taken on equally many images of each site: a large site must not set the
    resolution of all. Labels get the values that they have at the first site, by name.

    Args:
        context: where to.
        sites: the sites in the pool, sorted.
        federation: key of the federation that the releases were made for.
        caps: the budget's, on nnU-Net's plan.
        releases: `release_<position in sites>`, the checked releases.

    Raises:
        HyfreeError: the sites' slices lie in different planes, or have different structures.
    """
    from hyfree_ray.core.files import remove_tree
    from hyfree_ray.segmenters.nnunet.data import plan_and_preprocess, use_on_volumes

    by_site: list[list[Any]] = []
    left_out: dict[str, int] = {}
    first: ReleaseMetadata | None = None
    for site, release in read_releases(sites, releases, federation):
        first = first or release.metadata
        if release.manifest.rows > len(release.labels_NHW):
            left_out[site] = release.manifest.rows - len(release.labels_NHW)
        _check_slice_axis(site, release.metadata, sites[0], first)
        prefix = f"r{len(by_site):03d}"
        by_site.append(
            write_slices(context.out / "slices", prefix, release, label_encoding_of(first))
        )
    assert first is not None
    cases = [case for written in by_site for case in written]
    fewest = min(len(written) for written in by_site)
    dataset = {
        "channel_names": {str(i): name for i, name in enumerate(first.channel_names)},
        **label_encoding_of(first).dataset(),
        "file_ending": ".mha",
    }
    plan = plan_and_preprocess(
        context.out,
        cases,
        dataset,
        PlanCaps(**caps),
        validation=[case.name for written in by_site for case in _held_out(written)],
        fingerprint_on=[case.name for written in by_site for case in written[:fewest]],
    )
    use_on_volumes(context.out, first.slice_axis)
    remove_tree(context.out / "slices")
    return {
        "images": len(cases),
        "images_by_site": {s: len(w) for s, w in zip(sites, by_site, strict=True)},
        "left_out_by_site": left_out,
        "patch_size": list(plan.patch_size),
        "spacing": list(plan.spacing),
        "strides": [list(stride) for stride in plan.strides],
        "batch_size": plan.batch_size,
    }


def _held_out(written: list[Any]) -> list[Any]:
    """Return the last cases of a site: its validation part."""
    return written[-min(MAX_VALIDATION, max(1, int(len(written) * VALIDATION_SHARE))) :]


def _check_slice_axis(
    site: str, own: ReleaseMetadata, first_site: str, first: ReleaseMetadata
) -> None:
    if own.slice_axis != first.slice_axis:
        raise HyfreeError(
            "data.slice-axes-differ",
            f"{site}: its volumes were sliced along axis {own.slice_axis}, those of {first_site}"
            f" along axis {first.slice_axis}; permute the axes of its volumes",
        )


def label_encoding_of(metadata: ReleaseMetadata) -> LabelEncoding:
    """Return the label encoding of a release."""
    from hyfree_ray.cohorts.label_sets import LabelEncoding

    return LabelEncoding(names=dict(metadata.label_names), regions=metadata.regions)


MAX_TIMES_MEDIAN = 4
"""Of a site's images so many times the median of the others' are trained on: with four others like
each other, one site is at most half of the pool, however many images it makes up."""


def rows_taken(rows: Mapping[str, int]) -> dict[str, int]:
    """Return how many of each site's images are trained on, the first ones; one alone is whole."""
    taken = {}
    for site, own in rows.items():
        others = [count for other, count in rows.items() if other != site]
        most = MAX_TIMES_MEDIAN * statistics.median(others) if others else own
        taken[site] = min(own, int(most))
    return taken


def read_releases(
    sites: Sequence[str], releases: Mapping[str, Folder], federation: str
) -> Iterator[tuple[str, Release]]:
    """Yield each site's release, one in memory at a time, read as strictly as the pool checks it.

    Of one that is much larger than the others only the first images are there, see `rows_taken`.

    Args:
        sites: the sites that made the releases, in order.
        releases: `release_<position in sites>`.
        federation: key of the federation that they were made for.

    Raises:
        ReleaseError: the rule that one breaks.
    """
    from hyfree_ray.border.manifest import read_manifest
    from hyfree_ray.border.release import read_release

    folders = {site: Path(releases[f"release_{place}"]) for place, site in enumerate(sites)}
    manifests = {site: read_manifest(folder, site=site) for site, folder in folders.items()}
    taken = rows_taken({site: manifest.rows for site, manifest in manifests.items()})
    for site, folder in folders.items():
        found = read_release(folder, site=site, experiment=federation, manifest=manifests[site])
        count = taken[site]
        yield (
            site,
            replace(
                found, images_NCHW=found.images_NCHW[:count], labels_NHW=found.labels_NHW[:count]
            ),
        )


def write_slices(folder: Path, prefix: str, release: Release, encoding: LabelEncoding) -> list[Any]:
    """Write a release as raw cases: 2D MetaImage files, which store spacing where PNG would not.

    Args:
        folder: where to.
        prefix: prefix of the cases' names.
        release: the release to write.
        encoding: the labels with the values to write.

    Raises:
        HyfreeError: the release has other structures.
    """
    from hyfree_ray.cohorts.label_sets import with_values

    values = label_encoding_of(release.metadata).values_in(encoding)
    pairs = (
        (release.physical(slice(row, row + 1))[0], with_values(release.labels_NHW[row], values))
        for row in range(len(release.labels_NHW))
    )
    return write_pairs(folder, prefix, pairs, release.metadata.spacing)


def write_pairs(
    folder: Path, prefix: str, pairs: Iterable[tuple[Any, Any]], spacing: tuple[float, float]
) -> list[Any]:
    """Write images_CHW in physical units and their labels_HW as raw cases, one at a time."""
    from hyfree_ray.segmenters.nnunet.data import RawCase

    folder.mkdir(parents=True, exist_ok=True)
    height, width = spacing
    cases = []
    for row, (image_CHW, label_HW) in enumerate(pairs):
        name = f"{prefix}_{row:06d}"
        files = []
        for channel, image_HW in enumerate(image_CHW):
            files.append(folder / f"{name}_{channel:04d}.mha")
            write_mha(files[-1], image_HW, (width, height))
        label = folder / f"{name}.mha"
        write_mha(label, label_HW, (width, height))
        cases.append(RawCase(name=name, images=tuple(files), label=label))
    return cases


def write_mha(path: Path, array_HW: Any, spacing_xy: tuple[float, float]) -> None:
    """Write one slice, uncompressed."""
    import SimpleITK as sitk

    image: Any = sitk.GetImageFromArray(array_HW)
    image.SetSpacing(spacing_xy)
    sitk.WriteImage(image, str(path), useCompression=False)
