"""Federated trainings over nnU-Net that end with a network for each site.

FedBN (Li et al. 2021, arXiv 2102.07623): weights are averaged as by `FederatedTrainer`, but for
those of normalisation layers, which stay at each site. nnU-Net normalises by instance, so that
these are scales and shifts alone.

Ditto (Li et al. 2021, arXiv 2012.04221): beside the averaged network each site trains one of its
own, whose loss has (lambda / 2) ||v - w||^2 as well, w the averaged weights of the round.

A site's network is validated on its own cases, and selected like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from hyfree_ray.core.seeds import seed_of
from hyfree_ray.segmenters import NNUNET
from hyfree_ray.segmenters.nnunet.federated import FederatedTrainer, local_epoch, make_sites
from hyfree_ray.segmenters.nnunet.schedule import Schedule
from hyfree_ray.segmenters.nnunet.train import (
    Progress,
    ResumableTrainer,
    make_trainer,
    run_to_the_end,
    save_best,
)

LAMBDA = 0.1
"""Ditto's weight of the distance from the averaged network; the paper tries 0.05 to 2."""

_NORMALISATION = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def normalisation_weights(network: nn.Module) -> set[str]:
    """Name the entries of a network's state that belong to normalisation layers.

    nnU-Net registers a layer under several names: all of them are named.
    """
    return {
        f"{prefix}.{name}"
        for prefix, layer in network.named_modules(remove_duplicate=False)
        if isinstance(layer, _NORMALISATION)
        for name in layer.state_dict()
    }


class PersonalTrainer(FederatedTrainer):
    """A federated training that keeps a network a site."""

    def validate_round(self, round_number: int) -> None:
        """Validate each site's network at home; the round's numbers are their means."""
        found = [self._validate(site, k, round_number) for k, site in enumerate(self.sites)]
        dice, losses = zip(*found, strict=True)
        self.logger.log("mean_fg_dice", float(np.mean(dice)), round_number)
        self.logger.log("dice_per_class_or_region", [], round_number)
        self.logger.log("val_losses", float(np.mean(losses)), round_number)

    def personal(self, site: ResumableTrainer, position: int) -> ResumableTrainer:
        """Return what holds a site's own network at the end of a round."""
        raise NotImplementedError

    def _validate(
        self, site: ResumableTrainer, position: int, round_number: int
    ) -> tuple[float, float]:
        """Validate a site's network on its own cases; keep it if it is the best so far."""
        own = self.personal(site, position)
        own.current_epoch = round_number
        own.network.eval()
        with torch.no_grad():
            batches = range(own.num_val_iterations_per_epoch)
            outputs = [own.validation_step(next(own.dataloader_val)) for _ in batches]
            own.on_validation_epoch_end(outputs)
        dice = float(own.logger.get_value("mean_fg_dice", step=-1))
        if own.pseudo_dice.take(round_number, dice):
            own.best_weights = _copied(own.bare_network())
        return dice, float(own.logger.get_value("val_losses", step=-1))

    def save(self, prepared: Path, folder: Path) -> None:
        """Write each site's best network."""
        for position, site in enumerate(self.sites):
            own = self.personal(site, position)
            save_best(own, prepared, folder / "models" / str(position))

    def state(self) -> dict[str, Any]:
        """Also each site's own weights, and its best ones."""
        own = [self.personal(site, position) for position, site in enumerate(self.sites)]
        return {
            **super().state(),
            "own": [
                {
                    "weights": one.bare_network().state_dict(),
                    "optimizer": one.optimizer.state_dict(),
                    "pseudo_dice": vars(one.pseudo_dice),
                    "best_weights": one.best_weights,
                }
                for one in own
            ],
        }

    def resume(self, epoch: int, state: Mapping[str, Any]) -> None:
        super().resume(epoch, state)
        for position, (site, kept) in enumerate(zip(self.sites, state["own"], strict=True)):
            own = self.personal(site, position)
            own.bare_network().load_state_dict(kept["weights"])
            own.optimizer.load_state_dict(kept["optimizer"])
            vars(own.pseudo_dice).update(kept["pseudo_dice"])
            own.best_weights = dict(kept["best_weights"])
            for values in own.logger.local_logger.my_fantastic_logging.values():
                values.extend([0.0] * epoch)


class FedBNTrainer(PersonalTrainer):
    """Normalisation layers stay at home."""

    def receive(self, site: ResumableTrainer) -> None:
        """Load the averaged weights into a site's network, but for its normalisation layers."""
        at_home = normalisation_weights(site.bare_network())
        own, shared = site.bare_network().state_dict(), self.bare_network().state_dict()
        site.bare_network().load_state_dict(
            {name: own[name] if name in at_home else shared[name] for name in own}
        )

    def exchanged(self) -> dict[str, torch.Tensor]:
        """Return the weights that are averaged."""
        at_home = normalisation_weights(self.bare_network())
        return {k: one for k, one in super().exchanged().items() if k not in at_home}

    def personal(self, site: ResumableTrainer, position: int) -> ResumableTrainer:  # noqa: ARG002
        return site

    def _validate(
        self, site: ResumableTrainer, position: int, round_number: int
    ) -> tuple[float, float]:
        self.receive(site)  # what it would start the next round with
        return super()._validate(site, position, round_number)


class DittoTrainer(PersonalTrainer):
    """Each site has a second network, held near to the averaged one."""

    own: list[ResumableTrainer]

    @property
    def at_sites(self) -> list[ResumableTrainer]:
        """List the averaged network's trainers, and the sites' own."""
        return [*self.sites, *self.own]

    def personal(self, site: ResumableTrainer, position: int) -> ResumableTrainer:  # noqa: ARG002
        return self.own[position]

    def _validate(
        self, site: ResumableTrainer, position: int, round_number: int
    ) -> tuple[float, float]:
        own = self.own[position]
        averaged = {k: v.detach().clone() for k, v in self.bare_network().named_parameters()}
        parameters = dict(own.bare_network().named_parameters())

        def towards_the_average() -> None:
            for name, weight in parameters.items():
                if weight.grad is not None:
                    weight.grad.add_(weight.detach() - averaged[name], alpha=LAMBDA)

        hook = own.optimizer.register_step_pre_hook(lambda *_: towards_the_average())
        try:
            local_epoch(own, round_number)
        finally:
            hook.remove()
        return super()._validate(site, position, round_number)


_TRAINERS: Mapping[str, type[PersonalTrainer]] = {"fedbn": FedBNTrainer, "ditto": DittoTrainer}


def _copied(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: one.detach().cpu().clone() for name, one in network.state_dict().items()}


def train_personal(
    prepared: Path,
    folder: Path,
    *,
    method: Literal["fedbn", "ditto"],
    schedule: Schedule,
    seed: int,
    device: str,
    report: Progress,
    segmenter: str = NNUNET,
) -> dict[str, Any]:
    """Train a network for each site on what `prepare_together` wrote; see `train_federated`."""
    common: dict[str, Any] = {"schedule": schedule, "device": device, "segmenter": segmenter}

    def build() -> PersonalTrainer:
        server = make_trainer(
            _TRAINERS[method], prepared, folder, seed=seed, report=report, **common
        )
        server.sites = make_sites(prepared, folder, seed=seed, **common)
        if isinstance(server, DittoTrainer):
            server.own = make_sites(prepared, folder, seed=seed_of(seed, "own"), **common)
            for one in server.own:
                one.bare_network().load_state_dict(server.bare_network().state_dict())
        return server

    return run_to_the_end(build, prepared, folder, device)
