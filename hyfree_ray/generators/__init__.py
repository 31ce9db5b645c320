"""Generators: a backend learns a site's images and draws new ones.

A backend is a module with a `BACKEND` (see `protocol.py`). It is imported when it is first
used: importing this package does not import torch. Shapes: N images, C channels, H, W.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.generators.plan import GeneratorPlan

if TYPE_CHECKING:
    import numpy as np

    from hyfree_ray.generators.protocol import Backend

BACKENDS = {
    "stylegan2": "hyfree_ray.generators.stylegan2.train",
    "flow": "hyfree_ray.generators.flow.train",
}
"""Where each backend's `BACKEND` lives."""

SAMPLE_BATCH = 16

Progress = Callable[[int, int, dict[str, float]], None]
Saved = Callable[[int, int], None]


def backend_of(name: str) -> Backend:
    """Import a backend.

    Raises:
        HyfreeError: there is none of that name.
    """
    import importlib

    if name not in BACKENDS:
        raise HyfreeError(
            "generator.unknown",
            f"no generator is called {name!r}; take one of {', '.join(BACKENDS)}",
        )
    backend: Backend = importlib.import_module(BACKENDS[name]).BACKEND
    return backend


def train(
    backend: str,
    *,
    plan: GeneratorPlan,
    images_NCHW: np.ndarray,
    images_shown: int,
    seed: int,
    workdir: Path,
    device: str,
    precision: str,
    mirror: bool,
    snapshots: int,
    progress: Progress,
    saved: Saved = lambda step, total: None,
) -> None:
    """Train a generator, or go on with a training that was interrupted in `workdir`.

    Writes `generator.json`, `snapshots/<images shown>.safetensors` (averaged weights) and
    `checkpoints/`. On CPU an interrupted training ends with the very weights of one that was not.

    Args:
        backend: a key of `BACKENDS`.
        images_NCHW: float32 in [-1, 1], of the plan's channels and patch size.
        images_shown: the training's length; time is counted in images.
        device: "cpu" or "cuda[:k]".
        precision: "fp32" or "bf16" (of activations; weights are kept in fp32).
        mirror: whether a left-right mirrored image is as good as the image.
        snapshots: at most this many are written, at even distances; the last is the end.
        progress: gets (images shown, of, losses) a few times a minute.
        saved: gets (images shown, of) after each checkpoint; what it raises ends the training.

    Raises:
        HyfreeError: images or settings that cannot be trained on, or a `workdir` that holds
            another training.
    """
    from hyfree_ray.generators import loop

    loop.train(
        backend_of(backend),
        backend,
        plan=plan,
        images_NCHW=images_NCHW,
        settings=loop.Settings(
            images_shown=images_shown,
            seed=seed,
            device=device,
            precision=precision,
            mirror=mirror,
            snapshots=snapshots,
        ),
        workdir=workdir,
        progress=progress,
        saved=saved,
    )


def sample(
    workdir: Path,
    snapshot: str,
    *,
    start: int,
    count: int,
    seed: int,
    device: str,
    precision: str,
    batch_size: int = SAMPLE_BATCH,
) -> Iterator[np.ndarray]:
    """Draw images `start` to `start + count` of the seed's endless series, batch by batch.

    Image k depends on (seed, k) alone: batches are cut at multiples of `batch_size` and computed
    whole, because a convolution's last bits depend on who else is in the batch.

    Args:
        workdir: what `train` wrote.
        snapshot: file name of a snapshot, with or without its suffix.

    Yields:
        float32 in [-1, 1], NCHW, at most `batch_size` images each.

    Raises:
        HyfreeError: no such snapshot.
    """
    from hyfree_ray.generators import loop

    return loop.sample(
        workdir,
        snapshot,
        start=start,
        count=count,
        seed=seed,
        device=device,
        precision=precision,
        batch_size=batch_size,
    )
