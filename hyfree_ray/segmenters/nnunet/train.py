"""Training of nnU-Net that can be killed at any time and gives the same network.

One checkpoint an epoch; the random generators are set anew at each epoch from the stage's seed,
so that an epoch depends on the weights before it and on nothing else. On CPU the augmentation
runs in this process, which makes a resumed training equal to an uninterrupted one bit for bit.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import distributed

from hyfree_ray.cohorts.label_sets import LabelEncoding
from hyfree_ray.core.checkpoints import load_checkpoint, save_checkpoint
from hyfree_ray.core.processes import keep_freed_memory
from hyfree_ray.core.seeds import seed_of
from hyfree_ray.segmenters import NNUNET, SEGMENTERS
from hyfree_ray.segmenters.nnunet.data import MADE_ON_SLICES, nnunet_environment
from hyfree_ray.segmenters.nnunet.model import load_weights, read_dataset, save_network
from hyfree_ray.segmenters.nnunet.on_cpu import RememberingDataset, in_bf16, limited_once
from hyfree_ray.segmenters.nnunet.pseudo_dice import PseudoDice
from hyfree_ray.segmenters.nnunet.schedule import Schedule
from hyfree_ray.segmenters.nnunet.slices import taken_by_class
from hyfree_ray.segmenters.record import Segmenter

log = logging.getLogger("hyfree_ray")

Progress = Callable[[int, int, Mapping[str, float]], None]


def seed_everything(seed: int) -> None:
    """Set the generators that nnU-Net and its augmentation draw from: random, numpy, torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - nnU-Net draws from numpy's global generator
    torch.manual_seed(seed)


class ResumableTrainer(nnUNetTrainer):
    """nnU-Net's trainer with our checkpoints, seeds and reports; losses are nnU-Net's."""

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's signature
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        # nnU-Net takes cuda:<global rank> for any process group, which is wrong on CPU and on
        # the second machine.
        self.device = device
        if device.type == "cpu":
            self.grad_scaler = None
        self.best_weights: dict[str, torch.Tensor] = {}

    def prepare(
        self,
        segmenter: Segmenter,
        schedule: Schedule,
        seed: int,
        folder: Path,
        report: Progress,
        each_epoch: Callable[[int], None] | None,
    ) -> None:
        """Set what nnU-Net's constructor has no arguments for."""
        self.segmenter = segmenter
        self.enable_deep_supervision = segmenter.deep_supervision
        self.num_epochs = schedule.epochs
        self.pseudo_dice = PseudoDice(schedule.epochs)
        self.num_iterations_per_epoch = schedule.iterations
        self.num_val_iterations_per_epoch = schedule.validation_iterations
        self.warmup_epochs = max(1, round(schedule.warmup * schedule.epochs))
        if schedule.warmup == 0:
            self.warmup_epochs = 0
        if self.device.type == "cpu":
            self.dataset_class = RememberingDataset
        self.optimiser_kind = schedule.optimiser
        self.precision = schedule.precision
        self.seed = seed
        self.checkpoints = folder / "checkpoints"
        self.report = report
        self.each_epoch = each_epoch

    # --- what is left out: files that nobody reads ------------------------------------------

    def plot_network_architecture(self) -> None:
        """hiddenlayer is not maintained; nothing reads the picture."""

    def _save_debug_information(self) -> None:
        """The stage's record holds versions and parameters."""

    def print_to_log_file(
        self,
        *args: object,
        also_print_to_console: bool = True,  # noqa: ARG002 - nnU-Net's signature
        add_timestamp: bool = True,  # noqa: ARG002
    ) -> None:
        log.debug(" ".join(str(arg) for arg in args))

    # --- what is ours -----------------------------------------------------------------------

    def bare_network(self) -> torch.nn.Module:
        """The network without DDP's and the compiler's wrappers."""
        network = self.network.module if self.is_ddp else self.network
        return getattr(network, "_orig_mod", network)

    def initialize(self) -> None:
        if self.is_ddp:
            # nnU-Net wraps with device_ids=[global rank], which only fits the GPUs of one machine.
            self._set_batch_size_and_oversample()
            self.is_ddp = False
            batch = (self.batch_size, self.oversample_foreground_percent)
            super().initialize()
            self._mix_precision()
            self.batch_size, self.oversample_foreground_percent = batch
            self.is_ddp = True
            devices = None if self.device.type == "cpu" else [self.device.index]
            self.network = torch.nn.parallel.DistributedDataParallel(
                self.network, device_ids=devices
            )
            self.loss = self._build_loss()
        else:
            super().initialize()
            self._mix_precision()

    def _mix_precision(self) -> None:
        if self.device.type == "cpu" and self.precision == "bf16":
            network: Any = self.network
            network.forward = in_bf16(network.forward)

    def build_network_architecture(
        self,
        plans_manager: PlansManager,
        configuration_manager: Any,  # noqa: ARG002 - nnU-Net's signature
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> torch.nn.Module:
        return self.segmenter.network(
            plans_manager.plans,
            num_input_channels,
            num_output_channels,
            deep_supervision=enable_deep_supervision,
        )

    def get_dataloaders(self) -> Any:
        """Return nnU-Net's loaders; slices that are cases of their own are taken by class."""
        slices = self.plans_manager.plans.get(MADE_ON_SLICES, False)
        with taken_by_class() if slices else contextlib.nullcontext():
            return super().get_dataloaders()

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        self.segmenter.set_deep_supervision(self.bare_network(), enabled)

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        optimiser = self.segmenter.optimiser(self.network, self.optimiser_kind)
        return optimiser, self.segmenter.schedule(optimiser, self.num_epochs, self.warmup_epochs)

    def seed_epoch(self) -> None:
        """Set the random generators for the current epoch."""
        rank = distributed.get_rank() if self.is_ddp else 0
        seed_everything(seed_of(self.seed, "epoch", self.current_epoch, rank))

    def on_epoch_start(self) -> None:
        self.seed_epoch()
        super().on_epoch_start()

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        """nnU-Net's, without its warning where no batch had any foreground."""
        with np.errstate(invalid="ignore"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
            super().on_validation_epoch_end(val_outputs)

    def on_epoch_end(self) -> None:
        latest = {
            name: float(self.logger.get_value(name, step=-1))
            for name in ("train_losses", "val_losses", "mean_fg_dice")
        }
        pseudo_dice = latest["mean_fg_dice"]
        if self.pseudo_dice.take(self.current_epoch, pseudo_dice):
            self.best_weights = {
                name: tensor.detach().cpu().clone()
                for name, tensor in self.bare_network().state_dict().items()
            }
        self.current_epoch += 1
        if self.local_rank == 0:
            # Told before it is kept: a kill between the two repeats an epoch, and loses none.
            self.report(
                self.current_epoch,
                self.num_epochs,
                {
                    "train_loss": latest["train_losses"],
                    "validation_loss": latest["val_losses"],
                    "ema_pseudo_dice": self.pseudo_dice.average,
                }
                | ({"pseudo_dice": pseudo_dice} if np.isfinite(pseudo_dice) else {}),
            )
            save_checkpoint(self.checkpoints, self.current_epoch, self.state())
        if self.is_ddp:
            distributed.barrier()
        if self.each_epoch is not None:
            self.each_epoch(self.current_epoch)

    def on_train_end(self) -> None:
        """nnU-Net's clean-up of its loaders, without its final checkpoint."""
        self.disable_checkpointing = True
        super().on_train_end()

    def save(self, prepared: Path, folder: Path) -> None:
        """Write the best network into `folder/model`."""
        save_best(self, prepared, folder / "model")

    def numbers(self) -> dict[str, Any]:
        """Return what the training is described by."""
        return {
            "rank": self.local_rank,
            "best_ema_pseudo_dice": self.pseudo_dice.best if self.pseudo_dice.weight else None,
            "best_epoch": self.pseudo_dice.best_epoch,
            "iterations": self.num_epochs * self.num_iterations_per_epoch,
        }

    def state(self) -> dict[str, Any]:
        """All that a training needs to go on, in types that load without unpickling code."""
        return {
            "weights": self.bare_network().state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "grad_scaler": self.grad_scaler.state_dict() if self.grad_scaler else None,
            "pseudo_dice": vars(self.pseudo_dice),
            "best_weights": self.best_weights,
        }

    def resume(self, epoch: int, state: Mapping[str, Any]) -> None:
        """Go on after `epoch` epochs."""
        self.bare_network().load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.grad_scaler is not None and state["grad_scaler"] is not None:
            self.grad_scaler.load_state_dict(state["grad_scaler"])
        # nnU-Net's logger wants a value for every epoch, and reads none of them again.
        for values in self.logger.local_logger.my_fantastic_logging.values():
            values.extend([0.0] * epoch)
        vars(self.pseudo_dice).update(state["pseudo_dice"])
        self.best_weights = dict(state["best_weights"])
        self.current_epoch = epoch


TrainerT = TypeVar("TrainerT", bound=ResumableTrainer)


def train(
    prepared: Path,
    folder: Path,
    *,
    schedule: Schedule,
    seed: int,
    device: str,
    report: Progress,
    segmenter: str = NNUNET,
    initial: Path | None = None,
    each_epoch: Callable[[int], None] | None = None,
    kind: type[ResumableTrainer] = ResumableTrainer,
) -> dict[str, Any]:
    """Train nnU-Net's `2d` configuration on a prepared set of cases.

    In an initialised process group the ranks share the batch as nnU-Net's DDP does; rank 0
    writes. Called again on the same folder it goes on from the newest whole checkpoint.

    Args:
        prepared: what `plan_and_preprocess` or `preprocess_for` wrote.
        folder: gets `checkpoints/` and, at the end, `model/` (the best epoch by `PseudoDice`).
        schedule: length, warm-up and optimiser.
        seed: of this training alone.
        device: "cpu" or "cuda[:index]".
        report: called after each epoch with (epoch, epochs, losses and pseudo-Dice).
        segmenter: the architecture, one of `SEGMENTERS`.
        initial: a model whose weights, head included, are the start (fine-tuning); its labels are
            matched by name.
        each_epoch: called on every rank after an epoch's checkpoint is written; what it raises ends
            the training.
        kind: of trainer, one of `augmentation.TRAINERS`.

    Returns:
        The rank, the best EMA of the pseudo-Dice, its epoch and the number of iterations.
    """

    def build() -> ResumableTrainer:
        trainer = make_trainer(
            kind,
            prepared,
            folder,
            schedule=schedule,
            seed=seed,
            device=device,
            report=report,
            segmenter=segmenter,
            each_epoch=each_epoch,
        )
        if initial is not None:
            load_weights(trainer.bare_network(), initial / "weights.safetensors")
            put_outputs_in_order(trainer, initial)
        return trainer

    return run_to_the_end(build, prepared, folder, device)


def put_outputs_in_order(trainer: ResumableTrainer, initial: Path) -> None:
    """Give each output of another party's model to the label of its name, whatever its value is.

    Raises:
        HyfreeError: the model has other structures.
    """
    own = LabelEncoding.of(trainer.dataset_json)
    given = LabelEncoding.of(read_dataset(initial))
    given.values_in(own)
    order = [given.outputs.index(name) for name in own.outputs]
    with torch.no_grad():
        for layer in trainer.segmenter.output_layers(trainer.bare_network()):
            layer.weight.copy_(layer.weight[order].clone())
            layer.bias.copy_(layer.bias[order].clone())


def make_trainer(
    kind: type[TrainerT],
    prepared: Path,
    folder: Path,
    *,
    schedule: Schedule,
    seed: int,
    device: str,
    report: Progress,
    segmenter: str = NNUNET,
    each_epoch: Callable[[int], None] | None = None,
    fold: int = 0,
) -> TrainerT:
    """A trainer with its network, on split `fold` of the prepared cases."""
    plans = json.loads((prepared / "plans.json").read_text())
    dataset_json = json.loads((prepared / "dataset.json").read_text())
    trainer = kind(
        {**plans, "continue_training": False}, "2d", fold, dataset_json, torch.device(device)
    )
    trainer.prepare(SEGMENTERS[segmenter], schedule, seed, folder, report, each_epoch)
    seed_everything(seed_of(seed, "weights"))
    trainer.initialize()
    return trainer


def run_to_the_end(
    build: Callable[[], ResumableTrainer], prepared: Path, folder: Path, device: str
) -> dict[str, Any]:
    """Train what `build` makes, from the newest whole checkpoint on, and save the best model."""
    # 0: augment in this process. On a GPU, processes of nnU-Net's own keep the device fed.
    on_cpu = device == "cpu"
    augmenters = 0 if on_cpu else min(12, os.cpu_count() or 1)
    once = limited_once() if on_cpu else contextlib.nullcontext()
    if on_cpu:
        keep_freed_memory()
    with once, nnunet_environment(prepared, results=folder / "nnunet", augmenters=augmenters):
        trainer = build()
        found = load_checkpoint(trainer.checkpoints, device)
        if found is not None:
            trainer.resume(*found)
        try:
            trainer.run_training()
        except BaseException:
            trainer.on_train_end()  # its loaders' processes end with it
            raise
    if trainer.local_rank == 0:
        trainer.save(prepared, folder)
    return trainer.numbers()


def save_best(trainer: ResumableTrainer, prepared: Path, folder: Path) -> None:
    plans = json.loads((prepared / "plans.json").read_text())
    dataset_json = json.loads((prepared / "dataset.json").read_text())
    network = trainer.bare_network()
    network.load_state_dict(trainer.best_weights)
    axes = trainer.inference_allowed_mirroring_axes
    details = {
        "segmenter": trainer.segmenter.name,
        "inference_allowed_mirroring_axes": None if axes is None else [int(a) for a in axes],
        "best_epoch": trainer.pseudo_dice.best_epoch,
    }
    save_network(folder, network, plans, dataset_json, details)
