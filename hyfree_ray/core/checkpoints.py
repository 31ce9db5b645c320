"""Keep checkpoints that are whole or not there, for every training of the platform.

A checkpoint is `step-<step>.pt` and, beside it, the SHA-256 of its bytes, written after it. One
without a matching digest was cut off and is passed over. The two newest are kept, so that a
damaged one never costs the whole training.
"""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import torch

from hyfree_ray.core.files import replacing
from hyfree_ray.core.keys import sha256_of

_KEPT = 2
_log = logging.getLogger("hyfree_ray")


def _digest_path(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.pt"), reverse=True)


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write a checkpoint, then delete all but the two newest and what broken writes left.

    Args:
        folder: made if it is not there.
        step: what the state has reached; the newest checkpoint is the one of the highest step.
        state: tensors, numbers, text and containers of them (`torch.load(weights_only=True)`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:012d}.pt"
    # The old digest of this very step would call a half-replaced pair whole.
    _digest_path(path).unlink(missing_ok=True)
    with replacing(path) as file:
        torch.save(state, file)
    with replacing(_digest_path(path)) as file:
        file.write(sha256_of(path).encode())
    for old in _newest_first(folder)[_KEPT:]:
        _digest_path(old).unlink(missing_ok=True)
        old.unlink()
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink()


def load_checkpoint(
    folder: Path, device: torch.device | str = "cpu"
) -> tuple[int, dict[str, Any]] | None:
    """Load the newest whole checkpoint: its step and state (tensors on `device`); None: none.

    Passing over a damaged one is logged as a warning.
    """
    for path in _newest_first(folder):
        try:
            if sha256_of(path) == _digest_path(path).read_text():
                state = torch.load(path, map_location=device, weights_only=True)
                return int(path.stem.removeprefix("step-")), state
        except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError):
            pass
        _log.warning(
            "checkpoint %s is damaged or incomplete; falling back to the previous one", path
        )
    return None
