"""Try another party's model in a child with limits, before this process loads it.

What `check_plan` does not know yet (a plan of allowed sizes that still makes nnU-Net allocate or
loop, weights that a library stumbles over) ends that child, and the model is refused.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.limited_child import address_space, begin, limit, run_child
from hyfree_ray.core.parcels import Parcel
from hyfree_ray.segmenters.nnunet.model import MODEL_FILES, Model

MEMORY_BYTES = 4 << 30
"""Of address space, for a model and one patch, beside three times the file of its weights."""

SECONDS = 120

MAX_WEIGHTS_BYTES = 1 << 30
"""Twice what the largest plan that `check_plan` takes has in float32."""

_PROGRAM = "from hyfree_ray.segmenters.nnunet.trial import main; main()"


def try_model(
    folder: Path, segmenter: str | None, memory: int = MEMORY_BYTES, seconds: int = SECONDS
) -> None:
    """Load a model in a child, and have it segment one patch there.

    Args:
        folder: a folder with a model's four files.
        segmenter: as for `Model`.
        memory: see `MEMORY_BYTES`.
        seconds: that it may take.

    Raises:
        HyfreeError: what `Model` refuses, or it ended the child.
    """
    size = (folder / "weights.safetensors").stat().st_size
    if size > MAX_WEIGHTS_BYTES:
        raise HyfreeError(
            "model.bad-weights",
            f"the model's weights have {size} bytes, more than {MAX_WEIGHTS_BYTES}",
        )
    task = {"folder": str(folder.absolute()), "segmenter": segmenter, "seconds": seconds}
    end = run_child(_PROGRAM, json.dumps(task | {"memory": memory + 3 * size}).encode(), seconds)
    if end.lines == [b"null"]:
        return
    try:
        code, message = json.loads(end.lines[0])
    except (ValueError, IndexError):
        code, message = "model.trial-failed", end.cause[1]
    raise HyfreeError(code, message)


def try_parcel(parcel: Parcel, segmenter: str | None) -> None:
    """Try a model that came as a parcel: its very bytes, whatever happens to the folder.

    Raises:
        HyfreeError: as `try_model`, or a file is missing.
    """
    with tempfile.TemporaryDirectory(prefix="hyfree-model-") as folder:
        for name in MODEL_FILES:
            content = parcel.files.get(f"model/{name}")
            if content is None:
                raise HyfreeError("model.not-found", f"the general model has no {name}")
            (Path(folder) / name).write_bytes(content)
        try_model(Path(folder), segmenter)


# --- in the child --------------------------------------------------------------------------------


def main() -> None:
    """Try the model that standard input names; print null, or the code and message of an error."""
    task = json.load(sys.stdin)
    begin()
    answer, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    limit(address_space() + task["memory"], task["seconds"])
    print(json.dumps(_try(Path(task["folder"]), task["segmenter"])), file=answer, flush=True)


def _try(folder: Path, segmenter: str | None) -> Any:
    try:
        network = Model(folder, "cpu", segmenter)
        height, width = network.plan.patch_size
        patch_CHW = np.zeros((network.plan.channels, height, width), np.float32)
        patch_CHW[:, : height // 2] = 1
        network.segment_slice(patch_CHW, network.plan.spacing)
    except HyfreeError as error:
        return [error.code, str(error)]
    except MemoryError:
        return ["model.trial-failed", "the model needs more memory than its size allows"]
    except Exception as error:  # a fault that nobody has foreseen: its message is not relied on
        return ["model.trial-failed", f"the model cannot be used ({type(error).__name__})"]
    return None
