"""A site's use of its generator: sample, filter, label, release.

Shapes: N images, C channels, H height, W width.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyfree_ray.core.stage import Context, Folder, read_result, stage
from hyfree_ray.stages.image_filter import calibrated, held_out, self_tested

if TYPE_CHECKING:
    import numpy as np

    from hyfree_ray.border.release import ReleaseMetadata
    from hyfree_ray.generators.view import GeneratorView
    from hyfree_ray.privacy.memorization import MemorisationFilter
    from hyfree_ray.privacy.sampling import Draw, DrawnSamples


MASKS = "masks.npy"
"""Label values_NHW of `accepted.npy`, where the generator drew them."""


@stage(version=14, device=True)
def synthesise(
    context: Context,
    *,
    generator: Folder,
    segmenter: Folder,
    prepared: Folder,
    choice: Folder,
    copies: Folder,
    quota: int,
    percentile: float,
    max_rejection_rate: float,
    embedder: str,
    precision: str,
    seed: int,
    embedder_weights: Folder | None = None,
) -> dict[str, Any]:
    """Sample until `quota` images have passed the memorisation filter, or decide to withhold.

    Writes `accepted.npy` (NCHW, with the bits that `prepare` found necessary), masks beside it if
    the generator draws masks, and files that stay at the site: `filter.json` with the thresholds,
    and `nearest_pairs.png` with real images.
    """
    from hyfree_ray.core.seeds import seed_of
    from hyfree_ray.generators import draws_masks
    from hyfree_ray.generators.view import GeneratorView
    from hyfree_ray.privacy.embedders import load_embedder
    from hyfree_ray.privacy.sampling import draw_until
    from hyfree_ray.stages.mask_filter import describe_masks, mask_filter

    view = GeneratorView.load(prepared / "view.npz")
    embed = load_embedder(
        embedder,
        model=segmenter / "model",
        weights=embedder_weights,
        view=view,
        device=context.device,
    )
    rule = calibrated(
        view, embed, percentile, precision=precision, seed=seed_of(seed, "calibration")
    )
    tested = self_tested(rule, view, copies, seed=seed_of(seed, "self-test"))
    masks: list[np.ndarray] = []
    pairs = mask_filter(view, masks, percentile) if draws_masks(Path(generator)) else None
    drawn = draw_until(
        quota,
        _draw_from(generator, choice, masks, seed=seed, device=context.device, precision=precision),
        rule,
        max_rejection_rate=max_rejection_rate,
        dtype=f"uint{read_result(prepared)['stored_bits']}",
        masks=pairs,
        report=lambda accepted, rejected: context.progress(accepted, quota, {"rejected": rejected}),
    )
    _write_samples(context.out, drawn, masks, rule, view)
    reason = drawn.reason_to_withhold(max_rejection_rate)
    return {
        "outcome": "released" if reason is None else "withheld",
        "reason": reason,
        "drawn": drawn.drawn,
        "rejected": drawn.rejected,
        "rejection_rate": drawn.rejection_rate,
        "accepted": len(drawn.accepted_NCHW),
        "quota": quota,
        "later_copy": read_result(choice)["later_copy"],
        "embedder": embedder,
        "percentile": percentile,
        "rejected_by": drawn.rejected_by,
        "calibration_rejected_share": rule.calibration_rejected,
        **held_out(rule, view),
        **tested,
        "masks": None
        if pairs is None
        else describe_masks(pairs.rule, view, seed=seed_of(seed, "masks")),
        "guarantee": read_result(generator).get("guarantee"),
    }


def _draw_from(
    generator: Folder,
    choice: Folder,
    masks: list[np.ndarray],
    *,
    seed: int,
    device: str,
    precision: str,
) -> Draw:
    """Return a function that draws the snapshot's samples by their number in the seed's series.

    Args:
        masks: gets those of each batch if the generator draws masks.
    """
    from hyfree_ray import generators

    snapshot = read_result(choice)["snapshot"]

    def draw(start: int, count: int) -> Iterator[np.ndarray]:
        for images_NCHW, masks_NHW in generators.sample_with_masks(
            Path(generator),
            snapshot,
            start=start,
            count=count,
            seed=seed,
            device=device,
            precision=precision,
        ):
            if masks_NHW is not None:
                masks.append(masks_NHW)
            yield images_NCHW

    return draw


def _write_samples(
    out: Path,
    drawn: DrawnSamples,
    masks: list[np.ndarray],
    rule: MemorisationFilter,
    view: GeneratorView,
) -> None:
    """Write accepted samples, thresholds, and the samples nearest to real images beside those."""
    import numpy as np

    from hyfree_ray.reports.pictures import nearest_pairs

    np.save(out / "accepted.npy", drawn.accepted_NCHW)
    if masks:
        np.save(out / MASKS, np.concatenate(masks)[drawn.accepted_at_N])
    thresholds = dict(zip(rule.names, rule.thresholds, strict=True))
    (out / "filter.json").write_text(json.dumps(thresholds))
    nearest_pairs(
        out / "nearest_pairs.png",
        drawn.nearest_sample_NCHW,
        view.images_NCHW[view.training_N][drawn.nearest_real_N],
        drawn.nearest_N,
    )


LABELS = "labels.npy"
"""Label values_NHW of a release's images."""


@stage(version=1, device=True)
def label(
    context: Context,
    *,
    samples: Folder,
    segmenter: Folder,
    prepared: Folder,
    dataset: Mapping[str, Any],
    audit: Folder | None = None,
) -> dict[str, Any]:
    """Label the samples that passed the audit with the site's own nnU-Net.

    If the generator drew masks, these are the labels, value by value. A site that withholds labels
    nothing. Without an audit the filter alone decides: such samples never leave. Writes
    `labels.npy`.
    """
    import numpy as np

    from hyfree_ray.cohorts.label_sets import foreground, mask_of
    from hyfree_ray.generators.view import GeneratorView

    audited = read_result(samples if audit is None else audit)
    outcome = {name: audited[name] for name in ("outcome", "reason", "rejection_rate")}
    if audited["outcome"] == "withheld":
        return {**outcome, "images": 0}
    view = GeneratorView.load(prepared / "view.npz")
    stored_NCHW = np.load(samples / "accepted.npy", allow_pickle=False)
    if (samples / MASKS).is_file():
        labels_NHW = np.load(samples / MASKS, allow_pickle=False)
    else:
        labels_NHW = label_with(
            Path(segmenter / "model"),
            stored_NCHW,
            view,
            device=context.device,
            report=lambda done, total: context.progress(done, total, {}),
        )
    np.save(context.out / LABELS, labels_NHW)
    return {
        **outcome,
        "images": len(labels_NHW),
        "label_share": {
            name: float(mask_of(labels_NHW, classes).mean())
            for name, classes in foreground(dataset["labels"]).items()
        },
    }


@stage(version=8)
def release(
    context: Context,
    *,
    samples: Folder,
    audit: Folder,
    labelled: Folder,
    prepared: Folder,
    site: str,
    dataset: Mapping[str, Any],
    federation: str,
    addressee: Mapping[str, str],
    seed: int,
    quality: Folder | None = None,
) -> dict[str, Any]:
    """Write the release: samples, labels and cards.

    A site that withholds writes no release, only its outcome and the reason. Without `quality`
    there is no quality card on it: it is for the site's own use.
    """
    import numpy as np

    from hyfree_ray.border.manifest import Addressee
    from hyfree_ray.border.release import nonce_of, write_release
    from hyfree_ray.generators.view import GeneratorView
    from hyfree_ray.privacy.sampling import max_level

    decided = read_result(labelled if quality is None else quality)
    outcome = {name: decided[name] for name in ("outcome", "reason", "rejection_rate")}
    if decided["outcome"] == "withheld":
        return {**outcome, "images": 0}
    view = GeneratorView.load(prepared / "view.npz")
    stored_NCHW = np.load(samples / "accepted.npy", allow_pickle=False)
    labels_NHW = np.load(labelled / LABELS, allow_pickle=False)
    scale_C = view.step_C(max_level(stored_NCHW.dtype))
    described = replace(
        _describe(site, dataset, prepared, view, scale_C, read_result(audit)["card"]),
        quality={} if quality is None else decided["card"],
    )
    manifest = write_release(
        context.out,
        described,
        stored_NCHW,
        labels_NHW,
        experiment=federation,
        addressee=Addressee(**addressee),
        nonce=nonce_of(seed, described, stored_NCHW, labels_NHW, experiment=federation),
    )
    return {
        **outcome,
        "images": manifest.rows,
        "bytes": manifest.bytes,
        "label_share": read_result(labelled)["label_share"],
    }


def _describe(
    site: str,
    dataset: Mapping[str, Any],
    prepared: Folder,
    view: GeneratorView,
    scale_C: np.ndarray,
    card: Mapping[str, Any],
) -> ReleaseMetadata:
    """Describe what the pool needs to use the images; `scale_C` is in physical units per step."""
    from hyfree_ray.border.release import ReleaseMetadata
    from hyfree_ray.cohorts.label_sets import LabelEncoding
    from hyfree_ray.segmenters.unet_plan import UNetPlan

    encoding = LabelEncoding.of(dataset)
    return ReleaseMetadata(
        site=site,
        channel_names=tuple(dataset["channel_names"].values()),
        label_names=encoding.names,
        regions=encoding.regions,
        spacing=view.spacing,
        slice_axis=UNetPlan.read(Path(prepared)).slice_axis,
        scale=tuple(float(s) for s in scale_C),
        offset=tuple(float(o) for o in view.low_C),
        card=dict(card),
    )


def label_with(
    model: Path,
    stored_NCHW: np.ndarray,
    view: GeneratorView,
    *,
    device: str,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:
    """Label images (N, H, W) with the site's own model, without padding, which it never saw.

    Args:
        model: the model's folder.
        stored_NCHW: images as they would travel.
        view: the site's, which maps them to physical units.
        device: of the model.
        report: called with (done, total) now and then.
    """
    import numpy as np

    from hyfree_ray.privacy.sampling import max_level
    from hyfree_ray.segmenters.content_box import content_box
    from hyfree_ray.segmenters.nnunet.model import Model

    network = Model(model, device)
    scale_C = view.step_C(max_level(stored_NCHW.dtype))
    labels_NHW = np.zeros((len(stored_NCHW), *stored_NCHW.shape[2:]), np.uint8)
    for done, stored_CHW in enumerate(stored_NCHW, start=1):
        physical_CHW = stored_CHW * scale_C[:, None, None] + view.low_C[:, None, None]
        box = content_box(stored_CHW)
        inside = (slice(None), *box)
        labels_NHW[done - 1][box] = network.segment_slice(physical_CHW[inside], view.spacing)
        if done % 32 == 0 or done == len(stored_NCHW):
            report(done, len(stored_NCHW))
    return labels_NHW
