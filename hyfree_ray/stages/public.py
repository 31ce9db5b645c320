"""Labels of public images: a site writes them, the pool and other sites put the images to them.

Shapes: N images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyfree_ray.core.stage import Context, Folder, stage


@stage(version=1, device=True)
def label_public(
    context: Context,
    *,
    prepared: Folder,
    segmenter: Folder,
    site: str,
    dataset: Mapping[str, Any],
    federation: str,
    addressee: Mapping[str, str],
    images: int,
    images_seed: int,
) -> dict[str, Any]:
    """Label images that no patient ever touched with one of the site's own networks.

    They are drawn in the size and at the spacing that the site's network works at. Only masks are
    written: whoever has the seed has the images.

    Args:
        context: where to.
        prepared: the site's plan.
        segmenter: the network.
        site: the site's name.
        dataset: channels and labels.
        federation: key of the federation that the labels are made for.
        addressee: names of the pool and the federation that may take them.
        images: how many.
        images_seed: that all know.
    """
    import numpy as np

    from hyfree_ray.border.public_labels import write_labels
    from hyfree_ray.cohorts.label_sets import LabelEncoding, foreground, mask_of
    from hyfree_ray.cohorts.public_images import draw_public_images, levels_of
    from hyfree_ray.segmenters.nnunet.model import Model
    from hyfree_ray.segmenters.unet_plan import UNetPlan

    plan = UNetPlan.read(Path(prepared))
    channels = list(dataset["channel_names"].values())
    stored_NCHW = draw_public_images(images, len(channels), plan.patch_size, images_seed)
    scale_C, offset_C = (
        np.array(values, np.float32)[:, None, None] for values in levels_of(channels)
    )
    network = Model(segmenter / "model", context.device)
    labels_NHW = np.zeros((images, *plan.patch_size), np.uint8)
    for number, stored_CHW in enumerate(stored_NCHW):
        physical_CHW = stored_CHW * scale_C + offset_C
        labels_NHW[number] = network.segment_slice(physical_CHW, plan.spacing)
        if (number + 1) % 32 == 0 or number + 1 == images:
            context.progress(number + 1, images, {})
    encoding = LabelEncoding.of(dataset)
    manifest = write_labels(
        context.out,
        labels_NHW,
        site=site,
        experiment=federation,
        **addressee,
        spacing=plan.spacing,
        slice_axis=plan.slice_axis,
        label_names=encoding.names,
        regions=encoding.regions,
    )
    return {
        "images": manifest.rows,
        "bytes": labels_NHW.nbytes,
        "label_share": {
            name: float(mask_of(labels_NHW, classes).mean())
            for name, classes in foreground(dataset["labels"]).items()
        },
    }


@stage(version=2)
def pair_public(
    context: Context,
    *,
    labels: Folder,
    site: str,
    dataset: Mapping[str, Any],
    federation: str,
    images: int,
    images_seed: int,
) -> dict[str, Any]:
    """Check a site's labels as hostile input, and write them with their images as a release.

    What follows on releases follows on these pairs: planning, training, replay.

    Args:
        context: where to.
        labels: the site's parcel.
        site: who submitted it, as the reader knows it.
        dataset: the task's channels and labels.
        federation: key of the federation that the labels have to be made for.
        images: how many there are.
        images_seed: that all know.

    Raises:
        ReleaseError: the rule that the labels break.
    """
    from hyfree_ray.border.manifest import as_release_error
    from hyfree_ray.border.public_labels import read_labels
    from hyfree_ray.border.release import ReleaseMetadata, nonce_of, write_release
    from hyfree_ray.cohorts.label_sets import LabelEncoding
    from hyfree_ray.cohorts.public_images import draw_public_images, levels_of
    from hyfree_ray.core.errors import ReleaseError

    manifest, labels_NHW = read_labels(Path(labels), site=site, experiment=federation, rows=images)
    channels = tuple(dataset["channel_names"].values())
    size = (manifest.height, manifest.width)
    stored_NCHW = draw_public_images(images, len(channels), size, images_seed)
    scale_C, offset_C = levels_of(channels)
    metadata = ReleaseMetadata(
        site=site,
        channel_names=channels,
        label_names=dict(manifest.label_names),
        regions=manifest.regions,
        spacing=manifest.spacing,
        slice_axis=manifest.slice_axis,
        scale=scale_C,
        offset=offset_C,
        card={},
    )
    with as_release_error(site, "metadata"):
        metadata = ReleaseMetadata.from_json(metadata.to_json())
    encoding = LabelEncoding(names=metadata.label_names, regions=metadata.regions)
    if differences := LabelEncoding.of(dataset).differences(encoding):
        raise ReleaseError(site, "task", f"its labels are those of another task: {differences}")
    nonce = nonce_of(images_seed, metadata, stored_NCHW, labels_NHW, experiment=federation)
    written = write_release(
        context.out,
        metadata,
        stored_NCHW,
        labels_NHW,
        experiment=federation,
        nonce=nonce,
        addressee=manifest.addressee,
    )
    return {"images": written.rows, "bytes": labels_NHW.nbytes}
