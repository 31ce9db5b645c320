"""Measure how much of a GPU's memory a stage takes, as a share of the GPU."""

from __future__ import annotations

import math

MARGIN = 1.15
"""Times the memory that was measured: what torch's cache loses to fragments."""

CONTEXT_MIB = 600.0
"""What the driver keeps for a process beside torch's cache: about half a gigabyte."""

STEPS = 20
"""A share is rounded up to one of so many: who takes nearly the same asks for the same."""


def share_of(used_mib: float, total_mib: float) -> float:
    """Return the share of a GPU to set aside for what was measured, 1 / `STEPS` to 1."""
    share = (MARGIN * used_mib + CONTEXT_MIB) / total_mib
    return min(1.0, math.ceil(share * STEPS) / STEPS)


def reset_peak(device: str) -> None:
    """Let this process's peak start anew."""
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()


def measured(device: str) -> dict[str, float]:
    """Return the most of the device's memory that this process held, and how much there is, MiB.

    Nothing on a CPU.
    """
    if device != "cuda":
        return {}
    import torch

    return {
        "device_memory_mib": torch.cuda.max_memory_reserved() / 2**20,
        "device_total_mib": torch.cuda.get_device_properties(0).total_memory / 2**20,
    }


def share_taken(device: str) -> float:
    """Return the share of a GPU that this process took at most until now; 0: nothing."""
    if device != "cuda":
        return 0.0
    import torch

    # A stage that another process had done meanwhile never touched the device: no need to.
    if not torch.cuda.max_memory_reserved():
        return 0.0
    found = measured(device)
    return share_of(found["device_memory_mib"], found["device_total_mib"])
