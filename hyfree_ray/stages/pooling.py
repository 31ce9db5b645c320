"""What the pool does with releases: check each, then plan nnU-Net on all of them.

Shapes: N images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.stage import Context, Folder, stage
from hyfree_ray.segmenters.plan_caps import PlanCaps

if TYPE_CHECKING:
    from hyfree_ray.border.gate import Gate
    from hyfree_ray.border.release import Release, ReleaseMetadata
    from hyfree_ray.border.release_guard import Handed
    from hyfree_ray.cohorts.label_sets import Painted

VALIDATION_SHARE = 0.2
VALIDATION_MOST = 2500
"""The last fifth of a release, at most 2500 slices, is its validation part."""


@stage(version=5)
def check_release(
    context: Context,
    *,
    release: Folder,
    site: str,
    dataset: Mapping[str, Any],
    federation: str,
    round_number: int,
    gate: Mapping[str, float],
) -> dict[str, Any]:
    """Check a release as hostile input and draw a contact sheet of it.

    It is read here only after another process, with limits, has read the same bytes to the end.

    Returns:
        Beside what the release is: `flag`, what is odd about it in words (null: nothing), which
        keeps it out of nothing; somebody has to look.

    Raises:
        ReleaseError: the rule that it breaks.
    """
    from hyfree_ray.border.gate import Gate
    from hyfree_ray.border.label_shift import label_shift
    from hyfree_ray.border.manifest import read_manifest
    from hyfree_ray.border.release_guard import Handed, check_release_file
    from hyfree_ray.reports.pictures import contact_sheet

    handed = Handed(
        folder=Path(release),
        site=site,
        experiment=federation,
        round_number=round_number,
        # Read once: both processes hold the file to the hash that is in this one.
        manifest=read_manifest(Path(release), site=site),
    )
    check_release_file(handed)
    found = read_for_task(handed, dataset, Gate(**gate))
    contact_sheet(
        context.out / "samples.png",
        found.images_NCHW[:24],
        found.labels_NHW[:24],
        f"{site}: synthetic images and their labels",
        label_names=found.metadata.label_names,
    )
    shift = label_shift(found.images_NCHW, found.labels_NHW)
    return {
        "flag": shift.in_words() if shift.flagged else None,
        "rejection_rate": float(found.metadata.card["rejection_rate"]),
        "images": found.manifest.rows,
        "sha256": found.manifest.sha256,
        "nonce": found.manifest.nonce,
        "bytes": found.manifest.bytes,
        "card": found.metadata.card,
    }


def read_for_task(handed: Handed, dataset: Mapping[str, Any], gate: Gate) -> Release:
    """Read a release that another process has read to the end, and hold it to the task.

    Args:
        handed: the release, and what is known of it.
        dataset: the task's channels and labels.
        gate: what its privacy card is held against.

    Raises:
        ReleaseError: the rule that it breaks.
    """
    from hyfree_ray.border.gate import check_card
    from hyfree_ray.border.release import read_release
    from hyfree_ray.cohorts.label_sets import Painted
    from hyfree_ray.core.errors import ReleaseError

    found = read_release(
        handed.folder,
        site=handed.site,
        experiment=handed.experiment,
        round_number=handed.round_number,
        manifest=handed.manifest,
    )
    channels = tuple(dataset["channel_names"].values())
    if found.metadata.channel_names != channels:
        raise ReleaseError(
            handed.site,
            "task",
            f"channels {found.metadata.channel_names} are those of another task; this one has"
            f" {channels}",
        )
    if differences := Painted.of(dataset).differences(painted_in(found.metadata)):
        raise ReleaseError(
            handed.site, "task", f"its labels are those of another task: {differences}"
        )
    check_card(found, gate)
    return found


MOST_COMPARED = 200
"""Images of a release whose labels are compared."""


@stage(version=1, device=True)
def label_agreement(
    context: Context,
    *,
    release: Folder,
    model: Folder,
    site: str,
    dataset: Mapping[str, Any],
    federation: str,
    round_number: int,
) -> dict[str, Any]:
    """How far a release's labels are those that the other sites' images would have taught.

    Dice of each label over the release's first images together, 2 sum|A B| / (sum|A| + sum|B|),
    between the labels that it came with and those of `model`, which was trained without it.

    Returns:
        dice, by label: None where neither has any; mean, over the labels that have one.
    """
    import numpy as np

    from hyfree_ray.border.release import read_release
    from hyfree_ray.cohorts.label_sets import Painted, foreground, mask_of, with_values
    from hyfree_ray.segmenters.nnunet.model import Model, read_dataset

    found = read_release(Path(release), site=site, experiment=federation, round_number=round_number)
    network = Model(model / "model", context.device)
    painted = Painted.of(dataset)
    labels_NHW = with_values(
        found.labels_NHW[:MOST_COMPARED], painted_in(found.metadata).values_in(painted)
    )
    spacing = (1.0, *found.metadata.spacing)
    predicted_NHW = np.stack(
        [
            network.segment(image_CHW[:, None], spacing)[0]
            for image_CHW in found.physical(slice(MOST_COMPARED))
        ]
    )
    predicted_NHW = with_values(
        predicted_NHW, Painted.of(read_dataset(model / "model")).values_in(painted)
    )
    dice: dict[str, float | None] = {}
    for name, classes in foreground(dataset["labels"]).items():
        one_NHW, other_NHW = mask_of(labels_NHW, classes), mask_of(predicted_NHW, classes)
        both = int(one_NHW.sum()) + int(other_NHW.sum())
        dice[name] = 2 * int((one_NHW & other_NHW).sum()) / both if both else None
    known = [value for value in dice.values() if value is not None]
    return {"dice": dice, "mean": sum(known) / len(known) if known else None}


@stage(version=2)
def pool_releases(
    context: Context,
    /,
    *,
    sites: list[str],
    federation: str,
    round_number: int,
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
        round_number: the round.
        caps: the budget's, on nnU-Net's plan.
        releases: `release_<position in sites>`, the checked releases.

    Raises:
        HyfreeError: the sites' slices lie in different planes, or have different structures.
    """
    from hyfree_ray.core.files import remove_tree
    from hyfree_ray.segmenters.nnunet.data import plan_and_preprocess, use_on_volumes

    by_site: list[list[Any]] = []
    first: ReleaseMetadata | None = None
    for site, release in read_releases(sites, releases, federation, round_number):
        first = first or release.metadata
        _check_slice_axis(site, release.metadata, sites[0], first)
        prefix = f"r{len(by_site):03d}"
        by_site.append(write_slices(context.out / "slices", prefix, release, painted_in(first)))
    assert first is not None
    cases = [case for written in by_site for case in written]
    fewest = min(len(written) for written in by_site)
    dataset = {
        "channel_names": {str(i): name for i, name in enumerate(first.channel_names)},
        **painted_in(first).dataset(),
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
        "patch_size": list(plan.patch_size),
        "spacing": list(plan.spacing),
        "strides": [list(stride) for stride in plan.strides],
        "batch_size": plan.batch_size,
    }


def _held_out(written: list[Any]) -> list[Any]:
    """The last cases of a site: its validation part."""
    return written[-min(VALIDATION_MOST, max(1, int(len(written) * VALIDATION_SHARE))) :]


def _check_slice_axis(
    site: str, own: ReleaseMetadata, first_site: str, first: ReleaseMetadata
) -> None:
    if own.slice_axis != first.slice_axis:
        raise HyfreeError(
            "data.slice-axes-differ",
            f"{site}: its slices were cut along axis {own.slice_axis}, those of {first_site} along"
            f" axis {first.slice_axis}; permute the axes of its volumes",
        )


def painted_in(metadata: ReleaseMetadata) -> Painted:
    """The label maps of a release."""
    from hyfree_ray.cohorts.label_sets import Painted

    return Painted(names=dict(metadata.label_names), regions=metadata.regions)


def read_releases(
    sites: Sequence[str], releases: Mapping[str, Folder], federation: str, round_number: int
) -> Iterator[tuple[str, Release]]:
    """Each site's release, one in memory at a time, read as strictly as the pool checks it.

    Args:
        sites: whose releases these are, in order.
        releases: `release_<position in sites>`.
        federation: what they were made for.
        round_number: the round.

    Raises:
        ReleaseError: the rule that one breaks.
    """
    from hyfree_ray.border.release import read_release

    for position, site in enumerate(sites):
        folder = releases[f"release_{position}"]
        yield (
            site,
            read_release(Path(folder), site=site, experiment=federation, round_number=round_number),
        )


def write_slices(folder: Path, prefix: str, release: Release, painted: Painted) -> list[Any]:
    """A release as raw cases: 2D MetaImage files, which keep the spacing that PNG would lose.

    Args:
        folder: where to.
        prefix: of the cases' names.
        release: whose slices.
        painted: the labels with the values that they are to have.

    Raises:
        HyfreeError: the release has other structures.
    """
    from hyfree_ray.cohorts.label_sets import with_values
    from hyfree_ray.segmenters.nnunet.data import RawCase

    values = painted_in(release.metadata).values_in(painted)
    folder.mkdir(parents=True, exist_ok=True)
    height, width = release.metadata.spacing
    cases = []
    for row in range(len(release.labels_NHW)):
        name = f"{prefix}_{row:06d}"
        image_CHW = release.physical(slice(row, row + 1))[0]
        files = []
        for channel, image_HW in enumerate(image_CHW):
            files.append(folder / f"{name}_{channel:04d}.mha")
            write_mha(files[-1], image_HW, (width, height))
        label = folder / f"{name}.mha"
        write_mha(label, with_values(release.labels_NHW[row], values), (width, height))
        cases.append(RawCase(name=name, images=tuple(files), label=label))
    return cases


def write_mha(path: Path, array_HW: Any, spacing_xy: tuple[float, float]) -> None:
    """Write one slice, uncompressed."""
    import SimpleITK as sitk

    image: Any = sitk.GetImageFromArray(array_HW)
    image.SetSpacing(spacing_xy)
    sitk.WriteImage(image, str(path), useCompression=False)
