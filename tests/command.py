"""The command line, as a user calls it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def simulate(store: Path, *options: str, timeout: float = 400) -> subprocess.CompletedProcess[str]:
    """`hyfree-ray simulate` at the smoke budget, to its end."""
    command = [sys.executable, "-m", "hyfree_ray.cli", "simulate", "--budget", "smoke"]
    return subprocess.run(
        [*command, "--store", str(store), *options],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
