"""Train the general model through Ray Train's `TorchTrainer`."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

FAILURES = 3
"""Workers lost, one after the other, before the training is given up (Ray's default is 0)."""


class RayTrainLaunch:
    """Starts the workers of a distributed training.

    The stage's own folder is the only authority: the workers write its checkpoints there and go
    on from them, so Ray's storage points at it too and Ray keeps no checkpoints of its own. On
    several machines the folder has to be on storage that all of them see.

    Args:
        device: "cpu" or "cuda".
        each: what each worker takes: CPU, GPU, memory (bytes), a node's custom resource.
    """

    def __init__(self, device: str, each: Mapping[str, float]) -> None:
        self.device = device
        self.each = {"CPU": 1.0, **each}

    def __call__(
        self, function: Callable[..., Any], arguments: Mapping[str, Any], workers: int, out: Path
    ) -> None:
        """Run `function(**arguments, device=..., report=...)` in `workers` processes."""
        # Health checks are what a report waits for: 2 s by default.
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        gpu = self.device == "cuda"
        trainer = TorchTrainer(
            _worker,
            train_loop_config={
                "module": function.__module__,
                "function": function.__name__,
                "arguments": dict(arguments),
                "distributed": workers > 1,
            },
            torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=gpu,
                resources_per_worker=self.each,
            ),
            run_config=RunConfig(
                name="ray",
                storage_path=str(out),
                failure_config=FailureConfig(max_failures=FAILURES),
            ),
        )
        trainer.fit()


def _worker(config: Mapping[str, Any]) -> None:
    """Run one process: nnU-Net's training, with a report to Ray after each epoch."""
    import ray.train
    import torch
    from ray.train.torch import get_device

    torch.set_num_threads(1)
    function = getattr(importlib.import_module(config["module"]), config["function"])

    def report(epoch: int) -> None:
        ray.train.report({"epoch": epoch})

    device = get_device()
    name = "cpu" if device.type == "cpu" else f"cuda:{device.index}"
    if not config["distributed"]:
        # One worker is plain training: leave the group, so that its sums are the local runner's.
        torch.distributed.destroy_process_group()
    function(**config["arguments"], device=name, report=report)
