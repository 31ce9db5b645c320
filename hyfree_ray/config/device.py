"""What the trainings of this machine run on."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import Literal


def find_device() -> Literal["cpu", "cuda"]:
    """Whether this machine has a GPU that may be used, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in {"", "-1"}:
        return "cpu"
    return "cuda" if Path("/dev/nvidia0").exists() and _torch_has_cuda() else "cpu"


def _torch_has_cuda() -> bool:
    """Whether the installed torch is a CUDA build, from its version file as text."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    text = (Path(spec.origin).parent / "version.py").read_text()
    found = re.search(r"^cuda\b[^=]*=\s*(\S+)", text, re.MULTILINE)
    return found is not None and found.group(1) != "None"
