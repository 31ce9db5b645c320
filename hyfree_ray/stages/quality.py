"""The choice of a generator's snapshot, by images that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.stage import Context, Folder, read_result, stage, stage_record

if TYPE_CHECKING:
    import numpy as np

    from hyfree_ray.evaluation.image_quality import SnapshotScore
    from hyfree_ray.evaluation.realism import Realism
    from hyfree_ray.generators.record import GeneratorConfig
    from hyfree_ray.generators.view import GeneratorView
    from hyfree_ray.privacy.embedders import Embed
    from hyfree_ray.privacy.memorization import MemorisationFilter

MIN_HELD_OUT = 20
"""Held-out images below which they cannot rank snapshots: the last one is taken of those that the
filter, which needs none, does not find to copy."""

MAX_COPIES = 0.1
"""Share of a snapshot's samples that the filter may take for copies; of honest ones it takes about
a twentieth. On the phantom's second hospital (41 training images) the snapshots at a quarter, half,
three quarters and the end of the training had .03, .39, .81 and .83."""

MIN_JUDGED = 24
"""Samples of a snapshot that the filter judges."""

SHARE_OF_TRAINING = 0.03
"""Sampling for the choice may cost this share of the training; comparing costs about as much again,
and together they are to stay below a twentieth."""

MAX_SAMPLES = 500

FOLDS, STEPS = 2, 30
"""Of the classifiers that tell snapshots from real images: a fifth of the card's."""


def samples_per_snapshot(config: GeneratorConfig, images_shown: int, snapshots: int) -> int:
    """Return how many samples per snapshot keep the choice within its share of the training."""
    passes = SHARE_OF_TRAINING * images_shown * config.training_passes
    count = int(passes / config.sample_passes / snapshots)
    return max(8, min(MAX_SAMPLES, count))


@stage(version=10, device=True)
def choose_snapshot(
    context: Context,
    *,
    generator: Folder,
    segmenter: Folder,
    prepared: Folder,
    embedder: str,
    percentile: float,
    precision: str,
    seed: int,
    embedder_weights: Folder | None = None,
) -> dict[str, Any]:
    """Choose the EMA snapshot nearest to real images, of those that do not copy.

    Nearest by a classifier, by statistics of images and of labels, and by KID, each over what it is
    between two halves of the real images. Where too few images are held out for that, the last one
    that does not copy, by the filter of `percentile`.

    Returns:
        The snapshot and the reason; `later_copy`: whether it, or a later one, copies, so that
        training longer would not bring a better one.
    """
    import time

    from hyfree_ray.core.seeds import seed_of
    from hyfree_ray.evaluation.image_quality import best_snapshot
    from hyfree_ray.evaluation.realism import geometric_mean
    from hyfree_ray.generators import trained
    from hyfree_ray.generators.view import GeneratorView
    from hyfree_ray.privacy.embedders import load_embedder
    from hyfree_ray.stages.image_filter import calibrated

    view = GeneratorView.load(prepared / "view.npz")
    names = read_result(generator)["snapshots"]
    freed = [name for name in names if not (generator / "snapshots" / name).is_file()]
    if freed:
        raise HyfreeError(
            "generator.snapshots-freed",
            f"{generator}: the snapshots {', '.join(freed)} were deleted, so no other choice can "
            "be made; delete this folder to train the generator again",
        )
    if len(names) == 1:
        return {
            "snapshot": names[0],
            "reason": "there is one snapshot",
            "later_copy": False,
            "samples": 0,
        }
    begun = time.monotonic()
    embed = load_embedder(
        embedder,
        model=segmenter / "model",
        weights=embedder_weights,
        view=view,
        device=context.device,
    )
    _, config, _ = trained(Path(generator))
    count = samples_per_snapshot(config, read_result(generator)["images_shown"], len(names))
    draw = partial(
        _draw, generator, count=count, seed=seed, device=context.device, precision=precision
    )
    if why := _no_ranking(view.patients_N[~view.training_N]):
        draw = partial(draw, count=max(count, MIN_JUDGED))
        rule = calibrated(
            view, embed, percentile, precision=precision, seed=seed_of(seed, "calibration")
        )
        return _last_without_copies(names, draw, rule, why)
    compare = _comparison(view, prepared, segmenter, seed, context.device)
    scores, far = [], []
    for name, drawn_NCHW, score, over_floor in _scores(names, draw, embed, view, seed):
        scores.append(score)
        found = compare(drawn_NCHW)
        far.append(geometric_mean([*found.groups, over_floor]))
        numbers = {"kid": score.kid, "times_floor": far[-1], "two_sample_accuracy": found.accuracy}
        shown = {"images_shown": float(name.split(".")[0])}
        context.progress(len(scores), len(names), {**numbers, **shown})
    chosen = best_snapshot(scores, far)
    return {
        "snapshot": names[chosen],
        "reason": _reason(scores),
        "later_copy": any(score.copies for score in scores[chosen:]),
        "times_floor": far,
        "kid": [score.kid for score in scores],
        # Distances to training images reveal membership: no finer than a twentieth.
        "near": [round(score.near * 20) / 20 for score in scores],
        "samples": count,
        "seconds": round(time.monotonic() - begun, 2),
        "training_seconds": round(stage_record(generator).seconds, 2),
    }


def _no_ranking(patients_M: np.ndarray) -> str:
    """Return why held-out images cannot rank snapshots; empty if they can.

    Args:
        patients_M: the patient of each held-out image.
    """
    if len(patients_M) < MIN_HELD_OUT:
        return f"{len(patients_M)} held-out images cannot rank snapshots"
    if (patients_M == patients_M[0]).all():
        return "held-out images of one patient cannot rank snapshots"
    return ""


def _last_without_copies(
    names: Sequence[str], draw: Callable[[str], np.ndarray], rule: MemorisationFilter, why: str
) -> dict[str, Any]:
    """Choose the last snapshot of whose samples the filter takes few for copies."""
    from hyfree_ray.privacy.sampling import quantise, restore

    drawn = [restore(quantise(draw(name))) for name in names]
    copied = [float(rule.judge(drawn_NCHW).copied_N.mean()) for drawn_NCHW in drawn]
    honest = [position for position, share in enumerate(copied) if share <= MAX_COPIES]
    chosen = honest[-1] if honest else copied.index(min(copied))
    left_out = len(names) - 1 - chosen if honest else 0
    described = (
        f"the last, without {left_out} that copy training images"
        if left_out
        else "the last one"
        if honest
        else "all copy training images: the one that copies least"
    )
    return {
        "snapshot": names[chosen],
        "reason": f"{why}: {described}",
        "later_copy": not honest or bool(left_out),
        # As `near`: no finer than a twentieth.
        "copied": [round(share * 20) / 20 for share in copied],
        "samples": len(drawn[0]),
    }


def _reason(scores: Sequence[SnapshotScore]) -> str:
    copying = sum(score.copies for score in scores)
    if copying == len(scores):
        return "all of them copy training images: the one that copies least"
    if copying:
        return f"nearest to real images, without {copying} that copy training images"
    return "nearest to real images; none copies training images"


def _draw(
    generator: Folder, name: str, *, count: int, seed: int, device: str, precision: str
) -> np.ndarray:
    """Draw samples_NCHW of a snapshot in equal batches: a short batch costs as much as a full
    one."""
    import numpy as np

    from hyfree_ray import generators

    batches = -(-count // generators.SAMPLE_BATCH)
    drawn = generators.sample(
        Path(generator),
        name,
        start=0,
        count=count,
        seed=seed,
        device=device,
        precision=precision,
        batch_size=-(-count // batches),
    )
    return np.concatenate(list(drawn))


def _scores(
    names: list[str],
    draw: Callable[[str], np.ndarray],
    embed: Embed,
    view: GeneratorView,
    seed: int,
) -> Iterator[tuple[str, np.ndarray, SnapshotScore, float]]:
    """Yield each snapshot with its samples, its score, and its KID over that of real images."""
    from hyfree_ray.evaluation.image_quality import kid_over_floor, score_snapshot
    from hyfree_ray.evaluation.realism import halves

    real_NF = embed(view.images_NCHW)
    held_out_MF, training_KF = real_NF[~view.training_N], real_NF[view.training_N]
    patients_M = view.patients_N[~view.training_N]
    halved = halves(patients_M, seed)
    for name in names:
        drawn_NCHW = draw(name)
        sample_NF = embed(drawn_NCHW)
        score = score_snapshot(sample_NF, held_out_MF, training_KF, patients_M)
        yield name, drawn_NCHW, score, kid_over_floor(sample_NF, held_out_MF, halved)


def _comparison(
    view: GeneratorView, prepared: Folder, segmenter: Folder, seed: int, device: str
) -> Callable[[np.ndarray], Realism]:
    """Return a function that compares samples, labelled by the site's network, with real images."""
    from hyfree_ray.privacy.sampling import quantise
    from hyfree_ray.stages.quality_card import real_images
    from hyfree_ray.stages.synthesis import label_with

    real, _ = real_images(view, prepared, seed=seed, folds=FOLDS, steps=STEPS)
    model = Path(segmenter / "model")

    def compare(drawn_NCHW: np.ndarray) -> Realism:
        labels_NHW = label_with(model, quantise(drawn_NCHW), view, device=device)
        return real.compare(drawn_NCHW, labels_NHW)

    return compare
