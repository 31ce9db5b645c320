"""`hyfree-ray site`: a hospital's program on files, with nothing but files between the parties."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyfree_ray.commands.options import (
    DEVICE,
    EXIT_CODES,
    STORE,
    experiment_options,
    in_a_folder,
)
from hyfree_ray.errors import HyfreeError

if TYPE_CHECKING:
    from hyfree_ray.simulation import Simulation
    from hyfree_ray.site import SiteParty

log = logging.getLogger("hyfree_ray")

PUBLIC_KEY_FILE = "public.key"
"""Beside a release: what the pool will know this site's signatures by."""


@click.group(epilog=EXIT_CODES)
def site() -> None:
    """One hospital's part, on its own machine: releases and models are folders that you carry.

    All parties give the same --budget, --fold, --seed, --config and --set. Their data sets have
    one name (in dataset.json, or the folder's), the same channels and the same structures, in
    any values.

    \b
    Examples:
      hyfree-ray site contribute --data DIR --site A --out releases/A
      hyfree-ray pool train releases/* --out general
      hyfree-ray site personalise --data DIR --site A --general general --out model
      hyfree-ray site score --data DIR --site A --general general --out scores.csv
    """


def _site_options(command: Any) -> Any:
    for option in (
        DEVICE,
        STORE,
        experiment_options,
        click.option("--site", "name", required=True, help="The hospital's name in sites.csv."),
        click.option("--data", type=click.Path(path_type=Path), required=True),
    ):
        command = option(command)
    return command


@site.command(epilog=EXIT_CODES)
@_site_options
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder for the release: the one thing that leaves.",
)
def contribute(out: Path, **options: Any) -> None:
    """Train on the hospital's own images and write its signed release."""
    from dataclasses import replace

    from hyfree_ray.parcel_files import write_parcel

    party, simulation = open_site(**options)
    if few := simulation.sites[party.name].too_few:
        log.warning(few)
    parcel = asyncio.run(party.hand_in())
    public = {PUBLIC_KEY_FILE: party.public_key()}
    write_parcel(out, replace(parcel, files={**parcel.files, **public}))
    if parcel.result["outcome"] == "withheld":
        click.echo(f"{party.name}: withheld: {parcel.result['reason']}; {out} says so to the pool")
    else:
        click.echo(f"{party.name}: {parcel.result['images']} synthetic images written to {out}")


@site.command(epilog=EXIT_CODES)
@_site_options
@click.option("--general", type=click.Path(path_type=Path), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def personalise(general: Path, out: Path, **options: Any) -> None:
    """Fine-tune the general model on the hospital's own images, and write the model to OUT."""
    from hyfree_ray.parcel_files import read_parcel, write_parcel

    party, _ = open_site(**options)
    model = asyncio.run(party.model("finetuned", read_parcel(general)))
    assert model is not None
    write_parcel(out, model)
    click.echo(f"{party.name}: model written to {out}; see 'hyfree-ray predict --help'")


@site.command(epilog=EXIT_CODES)
@_site_options
@click.option(
    "--general",
    type=click.Path(path_type=Path),
    help="The pool's model; without it the hospital's own two are scored.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    callback=in_a_folder,
    help="CSV with a row for each test case, label and metric.",
)
def score(general: Path | None, out: Path, **options: Any) -> None:
    """Score the hospital's models on its own test cases: what sharing gave it."""
    from hyfree_ray.parcel_files import read_parcel
    from hyfree_ray.protocol import Outcome
    from hyfree_ray.scores import write_results
    from hyfree_ray.simulation import score_rows

    party, simulation = open_site(**options)
    parcel = None if general is None else read_parcel(general)
    scores = asyncio.run(_scores(party, parcel))
    outcome = Outcome(sites={}, scores=tuple(scores), general=general is not None, chosen={})
    write_results(out, score_rows(simulation, outcome))
    for found in scores:
        measured = [row["dice"] for row in found["rows"] if row["dice"] is not None]
        mean = f"{sum(measured) / len(measured):.3f}" if measured else "nothing to measure"
        click.echo(f"{found['regime']:<12} mean Dice {mean}")
    click.echo(f"case by case: {out}")


async def _scores(party: SiteParty, general: Any) -> list[Mapping[str, Any]]:
    """Every regime that the site can have, in the order of the table."""
    from hyfree_ray.scores import POOL

    models = {regime: (party.name, await party.model(regime)) for regime in ("local", "local2x")}
    if general is not None:
        models["general"] = (POOL, general)
        models["finetuned"] = (party.name, await party.model("finetuned", general))
    return [await party.score(regime, *model) for regime, model in models.items()]


def open_site(
    *, data: Path, name: str, store: Path, device: str, **settings: Any
) -> tuple[SiteParty, Simulation]:
    """The hospital's program over its own store, and the experiment with it alone.

    Raises:
        HyfreeError: no such site; the message names those of `sites.csv`.
    """
    from hyfree_ray.cohort import read_cohort
    from hyfree_ray.config import find_device, resolve_experiment
    from hyfree_ray.log import set_up_logging
    from hyfree_ray.runners.local import LocalRunner
    from hyfree_ray.simulation import Simulation, sites_of
    from hyfree_ray.store import open_root

    set_up_logging("text")
    device = find_device() if device == "auto" else device
    overrides = settings.pop("overrides")
    experiment, reasons = resolve_experiment(
        device=device, file=settings.pop("config"), overrides=overrides, **settings
    )
    store = store.absolute()
    cache = store / "digests.json" if store.exists() else None
    cohort = read_cohort(data, digest_cache=cache)
    if name not in cohort.sites:
        raise HyfreeError(f"--site {name}: {data} has {', '.join(cohort.sites)}")
    open_root(store)
    simulation = Simulation(
        cohort=cohort.name,
        sites={name: sites_of(cohort, experiment.fold)[name]},
        experiment=experiment,
        reasons=tuple(reasons),
    )
    return simulation.site_party(name, store, LocalRunner(device)), simulation
