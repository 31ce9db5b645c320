"""`hyfree-ray site`: a hospital's program on files, with nothing but files between the parties."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyfree_ray.commands.command_group import CommandGroup
from hyfree_ray.commands.options import (
    DEVICE,
    EXIT_CODES,
    STORE,
    all_of,
    experiment_options,
    in_a_folder,
    resolved,
)
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.files import writing_to
from hyfree_ray.evaluation.choice import (
    MARGIN,
    MAX_PROBABILITY,
    MIN_PATIENTS,
    choose_regime,
    loss_probability,
)
from hyfree_ray.evaluation.regimes import (
    CHOSEN,
    CONTROL,
    candidates,
    protocol,
    record_of,
    replays,
    settings,
)
from hyfree_ray.evaluation.scores import PRIMARY, mean_over_patients

if TYPE_CHECKING:
    from hyfree_ray.core.parcels import Parcel
    from hyfree_ray.federation.interface import ReplaySet, Scored
    from hyfree_ray.federation.simulation import Simulation
    from hyfree_ray.federation.site import SiteParty

log = logging.getLogger("hyfree_ray")


@click.group(cls=CommandGroup, epilog=EXIT_CODES)
def site() -> None:
    """Run one hospital's part on its own machine; releases and models are folders that you copy.

    All parties must use the same --budget, --generator, --fold, --seed, --config and --set, and the
    same version of hyfree-ray. Their data sets must have the same name (in dataset.json, or the
    folder's), channels and structures; label values may differ.

    \b
    Examples:
      hyfree-ray site contribute --data DIR --site A --out releases/A
      hyfree-ray pool train releases/* --keys keys --out general
      hyfree-ray site personalise --data DIR --site A --general general --out model
      hyfree-ray site score --data DIR --site A --general general --out scores.csv
    """


SITE_OPTIONS = all_of(
    click.option(
        "--data",
        type=click.Path(path_type=Path),
        required=True,
        help="The hospital's nnU-Net raw data set, with a sites.csv (case,site,patient).",
    ),
    click.option("--site", "name", required=True, help="The hospital's name in sites.csv."),
    experiment_options,
    STORE,
    DEVICE,
)


@site.command(epilog=EXIT_CODES)
@SITE_OPTIONS
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder for the release, the only thing that leaves the hospital.",
)
@click.option(
    "--without",
    multiple=True,
    metavar="PATIENT",
    help="Train on all patients but this one; may be repeated. The card says how many, not who. "
    "See 'site risk'.",
)
def contribute(out: Path, **options: Any) -> None:
    """Train on the hospital's own images and write its signed release.

    \b
    Examples:
      hyfree-ray site contribute --data DIR --site A --budget small --out releases/A
      hyfree-ray site contribute --data DIR --site A --without P17 --out releases/A
    """
    from hyfree_ray.border.signing import PUBLIC_KEY_FILE, fingerprint
    from hyfree_ray.federation.parcel_folders import check_out, write_parcel

    check_out(out, options["name"], "release")
    party, simulation, _ = open_site(**options)
    if few := simulation.sites[party.name].few_images_warning:
        log.warning(few)
    parcel = asyncio.run(party.submit())
    key = party.workspace.public_key()
    write_parcel(out, replace(parcel, files={**parcel.files, PUBLIC_KEY_FILE: key}))
    whom = simulation.experiment.addressee
    click.echo(f"{party.name}: signed with the key {fingerprint(key)}, for {whom}")
    if parcel.result["outcome"] == "withheld":
        click.echo(f"{party.name}: withheld: {parcel.result['reason']}; {out} tells the pool")
    else:
        click.echo(f"{party.name}: {parcel.result['images']} synthetic images written to {out}")


_RELEASES = click.option(
    "--releases",
    type=click.Path(path_type=Path),
    show_default="GENERAL/releases, if it exists",
    help="The pool's releases, for replay.",
)


_POOL_KEY = click.option(
    "--pool-key",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The pool's public.key, obtained separately from its model. A model or list of releases "
    "that it did not sign is refused.",
)


@site.command(epilog=EXIT_CODES)
@SITE_OPTIONS
@click.option(
    "--general", type=click.Path(path_type=Path), required=True, help="Folder of the pool's model."
)
@_RELEASES
@_POOL_KEY
@click.option(
    "--keep",
    type=click.Choice(candidates()),
    show_default="the hospital's choice, or finetuned without releases",
    help="Which model to write.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder for the model, new or empty.",
)
def personalise(
    general: Path,
    releases: Path | None,
    pool_key: Path | None,
    keep: str | None,
    out: Path,
    **options: Any,
) -> None:
    """Fine-tune the general model on the hospital's own images, and write the model to OUT.

    Given the pool's releases, also fine-tune while replaying the other hospitals' images, and let
    the hospital choose by its own validation cases: personalised, else finetuned, if it is shown
    not to be worse than local2x (trained for as long without the others) by more than .02 Dice,
    with 95 % confidence. With too few validation patients to show that, it keeps local2x.

    \b
    Examples:
      hyfree-ray site personalise --data DIR --site A --general general --out model
      hyfree-ray site personalise --data DIR --site A --general DIR --keep finetuned -o model
    """
    from hyfree_ray.federation.parcel_folders import check_out, write_parcel

    check_out(out, options["name"], "train_segmenter")
    party, _, _ = open_site(**options)
    pooled = _read_pooled(general, releases, pool_key, party)
    if pooled.shared is None and keep is not None and replays([keep]):
        raise HyfreeError(
            "model.no-releases",
            f"--keep {keep}: {general} has no releases; name their folder with --releases",
        )
    regime, model = asyncio.run(_personalised(party, pooled, keep))
    write_parcel(out, replace(model, result={**model.result, "regime": regime}))
    click.echo(f"{party.name}: {regime} written to {out}; see 'hyfree-ray predict --help'")


def _described(regime: str, dice: Mapping[str, Mapping[int, float]]) -> str:
    """A candidate's Dice at home, and what decided."""
    mean = mean_over_patients(dice[regime])
    if regime == CONTROL:
        return f"{regime} {mean:.3f}"
    gained = mean - mean_over_patients(dice[CONTROL])
    probability = loss_probability(dice[regime], dice[CONTROL])
    shown = (
        f"fewer than {MIN_PATIENTS} patients"
        if probability is None
        else f"probability of losing over {MARGIN}: {probability:.2f}, "
        f"at most {MAX_PROBABILITY} is allowed"
    )
    return f"{regime} {mean:.3f} ({gained:+.3f}; {shown})"


async def _personalised(party: SiteParty, pooled: _Pooled, keep: str | None) -> tuple[str, Parcel]:
    """The regime that the site keeps, and its model. Says what it was chosen by."""
    chosen = next(name for name in candidates() if not replays([name]))
    if pooled.shared is None:
        click.echo(f"{party.name}: no releases to replay: no choice")
    else:
        replayed = ", ".join(pooled.shared.sites) or "nobody"
        click.echo(f"{party.name}: releases checked, for replay: {replayed}")
        dice = await party.compare_at_home(pooled.general, pooled.shared)
        chosen = choose_regime(dice)
        described = ", ".join(_described(regime, dice) for regime in reversed(candidates()))
        click.echo(f"{party.name}: Dice on its validation cases: {described}; it chooses {chosen}")
    regime = keep or chosen
    model = await party.model(regime, pooled.general, pooled.shared)
    assert model is not None
    return regime, model


@dataclass(frozen=True, kw_only=True)
class _Pooled:
    """What came from the pool."""

    general: Parcel
    shared: ReplaySet | None


def _read_pooled(
    general: Path, releases: Path | None, pool_key: Path | None, party: SiteParty
) -> _Pooled:
    """What came from the pool, checked.

    Raises:
        HyfreeError: `general` is something else, was exchanged, cannot be used, or a release is
            not good.
    """
    from hyfree_ray.core.parties import POOL
    from hyfree_ray.federation.handout import check_handout, without_statement
    from hyfree_ray.federation.parcel_folders import MAX_MODEL_BYTES, read_parcel
    from hyfree_ray.federation.replay_folders import RELEASES, read_shared
    from hyfree_ray.federation.trust import read_public_key
    from hyfree_ray.segmenters.nnunet.trial import try_parcel

    handed = read_parcel(general, most=MAX_MODEL_BYTES)
    parcel = without_statement(handed)
    if (parcel.sender, parcel.stage) != (POOL, "train_general"):
        raise HyfreeError(
            "model.not-found",
            f"{general}: not a general model; name the folder that 'pool train' wrote",
        )
    handout = None
    if pool_key is None:
        click.echo(f"{general}: who sent it is not checked; give the pool's key with --pool-key")
    else:
        key, whom = read_public_key(pool_key, "--pool-key"), party.experiment.addressee
        handout = check_handout(handed, general, key, party.federation, whom)
    try_parcel(parcel, party.experiment.segmenter)
    beside = general / RELEASES
    folder = releases or (beside if beside.exists() else None)
    shared = None if folder is None else read_shared(folder, parcel, party, handout)
    return _Pooled(general=parcel, shared=shared)


@site.command(epilog=EXIT_CODES)
@SITE_OPTIONS
@click.option(
    "--general",
    type=click.Path(path_type=Path),
    help="The pool's model. Without it, only the hospital's own two models are scored.",
)
@_RELEASES
@_POOL_KEY
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    callback=in_a_folder,
    help="CSV file, one row per test case, label and metric.",
)
def score(
    general: Path | None,
    releases: Path | None,
    pool_key: Path | None,
    out: Path,
    **options: Any,
) -> None:
    """Score the hospital's models on its own test cases, to see what sharing gains.

    \b
    Examples:
      hyfree-ray site score --data DIR --site A --general general --out scores.csv
      hyfree-ray site score --data DIR --site A --out own-models.csv
    """
    from hyfree_ray.evaluation.scores import write_results
    from hyfree_ray.federation.protocol import Outcome, scores_of_chosen
    from hyfree_ray.federation.simulation import score_rows

    for name, given in (("--releases", releases), ("--pool-key", pool_key)):
        if general is None and given is not None:
            raise HyfreeError(
                "option.conflict", f"{name}: needs the model that it belongs to; add --general"
            )
    party, simulation, _ = open_site(**options)
    pooled = None if general is None else _read_pooled(general, releases, pool_key, party)
    scores, chosen = asyncio.run(_scores(party, pooled))
    scores += scores_of_chosen(scores, chosen)
    outcome = Outcome(sites={}, scores=tuple(scores), general=pooled is not None, chosen=chosen)
    with writing_to(out):
        write_results(out, score_rows(simulation, outcome))
    for found in scores:
        measured = [row[PRIMARY] for row in found.rows if row[PRIMARY] is not None]
        mean = f"{sum(measured) / len(measured):.3f}" if measured else "nothing to score"
        which = f" ({chosen[party.name]})" if found.regime == CHOSEN else ""
        click.echo(f"{found.regime:<12} mean Dice {mean}{which}")
    click.echo(f"per-case scores: {out}")


async def _scores(party: SiteParty, pooled: _Pooled | None) -> tuple[list[Scored], dict[str, str]]:
    """Every regime that the site can have, in the order of the table; and what it chooses."""
    from hyfree_ray.core.parties import POOL

    chosen = {}
    given: dict[str, Any] = {} if pooled is None else {"general": pooled.general}
    if pooled is not None and pooled.shared is not None:
        given["replay"] = pooled.shared
        chosen[party.name] = await party.choose(pooled.general, pooled.shared)
    models = {}
    for name in (*protocol(), *settings(default=True)):
        regime = record_of(name)
        if not given.keys() >= set(regime.needs):
            continue
        if regime.trained_by == "site":
            arguments = [given[need] for need in regime.needs]
            models[name] = (party.name, await party.model(name, *arguments))
        elif regime.trained_by == "pool" and pooled is not None:
            models[name] = (POOL, pooled.general)
    return [await party.score(regime, *model) for regime, model in models.items()], chosen


def open_site(
    *,
    data: Path,
    name: str,
    store: Path,
    device: str,
    without: Sequence[str] = (),
    **settings: Any,
) -> tuple[SiteParty, Simulation, Mapping[int, str]]:
    """The hospital's program over its own store, the experiment with it alone, and its own names
    of its patients by number.

    Raises:
        HyfreeError: no such site; the message names those of `sites.csv`. Or a patient of
            `without` whom it does not train on.
    """
    from hyfree_ray.cohorts.cohort import read_cohort
    from hyfree_ray.config.experiment import check_embedder
    from hyfree_ray.core.precision import keep_precision
    from hyfree_ray.core.store_root import digest_cache, open_root
    from hyfree_ray.federation.patient_risk import leave_out
    from hyfree_ray.federation.simulation import Simulation, patient_names, sites_of
    from hyfree_ray.runners.local import LocalRunner

    store = store.absolute()
    found = resolved(store=store, device=device, **settings)
    experiment = found.experiment
    check_embedder(experiment)
    open_root(store, create=False)
    cohort = read_cohort(data, digest_cache=digest_cache(store))
    if name not in cohort.sites:
        raise HyfreeError(
            "option.unknown-site",
            f"--site {name}: no such site; {data} has {', '.join(cohort.sites)}",
        )
    patients = patient_names(cohort.sites[name])
    own = leave_out(sites_of(cohort, experiment.fold)[name], without, patients)
    open_root(store)
    keep_precision(store, found.measured)
    simulation = Simulation(
        cohort=cohort.name,
        sites={name: own},
        experiment=experiment,
        reasons=found.reasons,
    )
    party = simulation.site_party(name, store, LocalRunner(found.device))
    return party, simulation, patients
