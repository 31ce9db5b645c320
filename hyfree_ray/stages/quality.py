"""The choice of a generator's snapshot, and a site's quality card. Both use held-out images."""

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
    from hyfree_ray.generators.record import GeneratorConfig
    from hyfree_ray.generators.view import GeneratorView
    from hyfree_ray.privacy.embedders import Embed

MIN_HELD_OUT = 20
"""Held-out images below which no criterion separates snapshots: the last one is taken."""

SHARE_OF_TRAINING = 0.03
"""Sampling for the choice may cost this share of the training; comparing costs about as much again,
and together they are to stay below a twentieth."""

MAX_SAMPLES = 500


def samples_per_snapshot(config: GeneratorConfig, images_shown: int, snapshots: int) -> int:
    """Return how many samples per snapshot keep the choice within its share of the training."""
    passes = SHARE_OF_TRAINING * images_shown * config.training_passes
    count = int(passes / config.sample_passes / snapshots)
    return max(8, min(MAX_SAMPLES, count))


@stage(version=4, device=True)
def choose_snapshot(
    context: Context,
    *,
    generator: Folder,
    segmenter: Folder,
    prepared: Folder,
    embedder: str,
    precision: str,
    seed: int,
    embedder_weights: Folder | None = None,
) -> dict[str, Any]:
    """Choose the EMA snapshot by KID to held-out images, of those that do not copy."""
    import time

    from hyfree_ray.evaluation.image_quality import best_snapshot
    from hyfree_ray.generators import trained
    from hyfree_ray.generators.view import GeneratorView
    from hyfree_ray.privacy.embedders import load_embedder

    view = GeneratorView.load(prepared / "view.npz")
    names = read_result(generator)["snapshots"]
    freed = [name for name in names if not (generator / "snapshots" / name).is_file()]
    if freed:
        raise HyfreeError(
            "generator.snapshots-freed",
            f"{generator}: the snapshots {', '.join(freed)} were deleted, so no other choice can "
            "be made; delete this folder to train the generator again",
        )
    if reason := _no_choice(len(names), view.patients_N[~view.training_N]):
        return {"snapshot": names[-1], "reason": reason, "samples": 0}
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
    scores = []
    for name, score in _scores(names, draw, embed, view):
        scores.append(score)
        shown = int(name.split(".")[0])
        context.progress(len(scores), len(names), {"kid": score.kid, "images_shown": shown})
    return {
        "snapshot": names[best_snapshot(scores)],
        "reason": _reason(scores),
        "kid": [score.kid for score in scores],
        # Distances to training images reveal membership: no finer than a twentieth.
        "near": [round(score.near * 20) / 20 for score in scores],
        "samples": count,
        "seconds": round(time.monotonic() - begun, 2),
        "training_seconds": round(stage_record(generator).seconds, 2),
    }


def _no_choice(snapshots: int, patients_M: np.ndarray) -> str:
    """Return why the last snapshot is taken unseen; empty if there is something to choose by.

    Args:
        patients_M: the patient of each held-out image.
    """
    if snapshots == 1:
        return "there is one snapshot"
    if len(patients_M) < MIN_HELD_OUT:
        return f"{len(patients_M)} held-out images cannot rank snapshots: the last one"
    if (patients_M == patients_M[0]).all():
        return "held-out images of one patient cannot show copying: the last snapshot"
    return ""


def _reason(scores: Sequence[SnapshotScore]) -> str:
    copying = sum(score.copies for score in scores)
    if copying == len(scores):
        return "all of them copy training images: the one that copies least"
    if copying:
        return f"lowest KID to held-out images, without {copying} that copy training images"
    return "lowest KID to held-out images; none copies training images"


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
    names: list[str], draw: Callable[[str], np.ndarray], embed: Embed, view: GeneratorView
) -> Iterator[tuple[str, SnapshotScore]]:
    """Yield each snapshot and its score, the real images embedded once."""
    from hyfree_ray.evaluation.image_quality import score_snapshot

    real_NF = embed(view.images_NCHW)
    held_out_MF, training_KF = real_NF[~view.training_N], real_NF[view.training_N]
    patients_M = view.patients_N[~view.training_N]
    for name in names:
        yield name, score_snapshot(embed(draw(name)), held_out_MF, training_KF, patients_M)


@stage(version=3, device=True)
def quality_card(
    context: Context,
    *,
    samples: Folder,
    release: Folder,
    segmenter: Folder,
    prepared: Folder,
    embedder: str,
    embedder_weights: Folder | None = None,
) -> dict[str, Any]:
    """Measure how good a site's synthetic images are; what they leak is the audit's part.

    KID to held-out images beside the floor (held-out against training images), density and
    coverage, and the share of the image that each label takes, synthetic and real.
    """
    import numpy as np

    from hyfree_ray.evaluation.image_quality import density_and_coverage, kid
    from hyfree_ray.generators.view import GeneratorView
    from hyfree_ray.privacy.embedders import load_embedder
    from hyfree_ray.privacy.sampling import restore

    stored_NCHW = np.load(samples / "accepted.npy", allow_pickle=False)
    view = GeneratorView.load(prepared / "view.npz")
    held_out_NCHW = view.images_NCHW[~view.training_N]
    if len(stored_NCHW) < 2 or len(held_out_NCHW) < 2:
        return {"images": len(stored_NCHW), "held_out_images": len(held_out_NCHW)}
    embed = load_embedder(
        embedder,
        model=segmenter / "model",
        weights=embedder_weights,
        view=view,
        device=context.device,
    )
    sample_NF = embed(restore(stored_NCHW))
    training_KF = embed(view.images_NCHW[view.training_N])
    held_out_MF = embed(held_out_NCHW)
    density, coverage = density_and_coverage(sample_NF, held_out_MF)
    return {
        "images": len(stored_NCHW),
        "held_out_images": len(held_out_NCHW),
        "kid": kid(sample_NF, held_out_MF),
        "kid_floor": kid(training_KF, held_out_MF),
        "density": density,
        "coverage": coverage,
        "label_share_synthetic": read_result(release).get("label_share"),
        "label_share_real": read_result(prepared)["label_share"],
    }
