"""Federated averaging over nnU-Net (McMahan et al. 2017, arXiv 1602.05629).

A round is an epoch: every site trains for an epoch's iterations from the common weights, then the
weights are averaged by the sites' numbers of training cases. All sites train under one plan, made
on their fingerprints. A site keeps its momentum between rounds, for nnU-Net's momentum of 0.99
would never build up in one. The *averaged* model is validated, on the validation cases of all
sites, and selected like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hyfree_ray.core.seeds import seed_of
from hyfree_ray.segmenters import NNUNET
from hyfree_ray.segmenters.nnunet.data import read_splits
from hyfree_ray.segmenters.nnunet.model import each_once
from hyfree_ray.segmenters.nnunet.schedule import Schedule
from hyfree_ray.segmenters.nnunet.train import (
    Progress,
    ResumableTrainer,
    make_trainer,
    run_to_the_end,
)


class FederatedTrainer(ResumableTrainer):
    """The server: it holds the averaged weights; its data are all sites' together."""

    sites: Sequence[ResumableTrainer] = ()
    """One trainer a site, on its own cases."""

    def run_training(self) -> None:
        """Rounds of local epochs, averaging and validation."""
        self.on_train_start()
        for one in self.at_sites:
            one.on_train_start()
        for round_number in range(self.current_epoch, self.num_epochs):
            self.on_epoch_start()
            losses = [self._local_epoch(site, round_number) for site in self.sites]
            self._average()
            self.on_train_epoch_start()
            self.on_train_epoch_end([{"loss": np.float64(loss)} for loss in losses])
            self.validate_round(round_number)
            self.on_epoch_end()
        for one in self.at_sites:
            one.on_train_end()
        self.on_train_end()

    @property
    def at_sites(self) -> list[ResumableTrainer]:
        """List all that sites train."""
        return list(self.sites)

    def validate_round(self, round_number: int) -> None:  # noqa: ARG002
        """Validate the averaged network on all sites' cases together."""
        with torch.no_grad():
            self.on_validation_epoch_start()
            batches = range(self.num_val_iterations_per_epoch)
            outputs = [self.validation_step(next(self.dataloader_val)) for _ in batches]
            self.on_validation_epoch_end(outputs)

    def _local_epoch(self, site: ResumableTrainer, round_number: int) -> float:
        self.receive(site)
        return local_epoch(site, round_number)

    def receive(self, site: ResumableTrainer) -> None:
        """Load the averaged weights into a site's network."""
        site.bare_network().load_state_dict(self.bare_network().state_dict())

    def _average(self) -> None:
        cases = np.array([len(site.do_split()[0]) for site in self.sites], dtype=float)
        states = [site.bare_network().state_dict() for site in self.sites]
        shares = cases / cases.sum()
        self.bare_network().load_state_dict(
            {
                name: sum(
                    float(share) * state[name] for share, state in zip(shares, states, strict=True)
                )
                for name in states[0]
            }
        )

    def numbers(self) -> dict[str, Any]:
        """Also the bytes of weights that were exchanged, up and down, over all rounds and sites."""
        weights = self.exchanged()
        once = sum(weight.numel() * weight.element_size() for weight in weights.values())
        both_ways = 2 * once * self.num_epochs * len(self.sites)
        return {**super().numbers(), "exchanged_bytes": both_ways}

    def exchanged(self) -> dict[str, torch.Tensor]:
        """Return what goes to a site, and comes back, in a round: each weight once."""
        return each_once(self.bare_network())

    def state(self) -> dict[str, Any]:
        """Also the sites' momenta."""
        momenta = [site.optimizer.state_dict() for site in self.sites]
        return {**super().state(), "sites": momenta}

    def resume(self, epoch: int, state: Mapping[str, Any]) -> None:
        super().resume(epoch, state)
        for site, momentum in zip(self.sites, state["sites"], strict=True):
            site.optimizer.load_state_dict(momentum)


def local_epoch(site: ResumableTrainer, round_number: int) -> float:
    """Train a site's network for an epoch; return the mean loss."""
    site.current_epoch = round_number
    site.seed_epoch()
    site.network.train()
    site.lr_scheduler.step(round_number)
    batches = range(site.num_iterations_per_epoch)
    losses = [site.train_step(next(site.dataloader_train))["loss"] for _ in batches]
    return float(np.mean(losses))


def make_sites(prepared: Path, folder: Path, *, seed: int, **common: Any) -> list[ResumableTrainer]:
    """Make a trainer for each site, on its own cases.

    Args:
        prepared: what `prepare_together` wrote.
        folder: of the training.
        seed: of the training.
        common: the further arguments of `make_trainer`.
    """
    return [
        make_trainer(
            ResumableTrainer,
            prepared,
            folder,
            seed=seed_of(seed, "site", fold),
            report=_unheard,
            fold=fold,
            **common,
        )
        for fold in range(1, len(read_splits(prepared)))
    ]


def train_federated(
    prepared: Path,
    folder: Path,
    *,
    schedule: Schedule,
    seed: int,
    device: str,
    report: Progress,
    segmenter: str = NNUNET,
) -> dict[str, Any]:
    """Train by federated averaging on what `prepare_together` wrote: a split for each site.

    Args and returned numbers as of `train`.
    """
    common: dict[str, Any] = {"schedule": schedule, "device": device, "segmenter": segmenter}

    def build() -> FederatedTrainer:
        server = make_trainer(
            FederatedTrainer, prepared, folder, seed=seed, report=report, **common
        )
        server.sites = make_sites(prepared, folder, seed=seed, **common)
        return server

    return run_to_the_end(build, prepared, folder, device)


def _unheard(epoch: int, epochs: int, metrics: Mapping[str, float]) -> None:
    """The server's log stands for the sites' epochs."""
