"""The functions that train the models of each regime, named by the records of `REGIMES`.

`trainers.py` finds them by name, and defines their arguments.
"""

from __future__ import annotations

from asyncio import gather
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Literal

from hyfree_ray.core.artifacts import Artifact
from hyfree_ray.core.parties import ORACLE
from hyfree_ray.core.seeds import seed_of
from hyfree_ray.evaluation.regimes import RELEASE, record_of
from hyfree_ray.federation.interface import ReplaySet
from hyfree_ray.federation.oracle import OracleParty
from hyfree_ray.federation.parameters import (
    augmented,
    epochs_of_local2x,
    numbered,
    training,
)
from hyfree_ray.federation.pool import PoolParty
from hyfree_ray.federation.site import SiteParty
from hyfree_ray.federation.trainers import Given, site_trainer
from hyfree_ray.stages.augmenting import prepare_augmented
from hyfree_ray.stages.comparison import (
    prepare_mixture,
    prepare_together,
    train_fedavg,
    train_personal_federated,
)
from hyfree_ray.stages.data import prepare_for_general
from hyfree_ray.stages.ensembling import ensemble
from hyfree_ray.stages.pooling import pool_releases
from hyfree_ray.stages.replay import prepare_replay
from hyfree_ray.stages.training import train_general as train_general_model
from hyfree_ray.stages.training import train_segmenter

# --- at a site -----------------------------------------------------------------------------------


async def train_local(site: SiteParty, given: Given) -> Artifact:  # noqa: ARG001
    """Train on the site's own images alone; the same network labels its release."""
    return (await site.contribute()).local.segmenter


async def train_local2x(site: SiteParty, given: Given) -> Artifact:
    """Train as `train_local`, for as many steps as general and fine-tuning take together."""
    prepared = await site.prepare()
    return await site.train(given.regime, prepared, epochs_of_local2x(site.experiment))


async def finetune(site: SiteParty, given: Given) -> Artifact:
    """Fine-tune the general model, all weights, on real data preprocessed for its plan."""
    assert given.general is not None
    prepared = await site.run(
        given.regime, prepare_for_general, general=given.general, **await site.real_cases()
    )
    return await _finetuned(site, given, prepared)


async def personalise(site: SiteParty, given: Given) -> Artifact:
    """Fine-tune with replay: part of each batch comes from the other sites' releases."""
    assert given.general is not None
    assert given.shared is not None
    others = {
        name: site.receive(parcel)
        for name, parcel in zip(given.shared.sites, given.shared.parcels, strict=True)
        if name != site.name
    }
    if record_of(given.regime).carrier == "public":
        others = {name: await site.pair_public(name, labels) for name, labels in others.items()}
    prepared = await site.run(
        given.regime,
        prepare_replay,
        general=given.general,
        releases_of=list(others),
        share=site.experiment.replay_share,
        federation=site.federation,
        **await site.real_cases(),
        **numbered("release", others.values()),
    )
    return await _finetuned(site, given, prepared)


async def _finetuned(site: SiteParty, given: Given, prepared: Artifact) -> Artifact:
    return await site.train(
        given.regime,
        prepared,
        site.experiment.budget.unet.finetune_epochs,
        initial=given.general,
        warmup=site.experiment.warmup,
    )


async def train_ensemble(site: SiteParty, given: Given) -> Artifact:
    """Train the members that the regime's record names, and average what they say."""
    members = record_of(given.regime).members
    found = await gather(
        *(site_trainer(member)(site, replace(given, regime=member)) for member in members)
    )
    return await _ensemble(site, given.regime, [one for one in found if one is not None])


async def train_two_controls(site: SiteParty, given: Given) -> Artifact:
    """Train `local2x` from two seeds, and average what they say: what an ensemble alone gives."""
    prepared = await site.prepare()
    first = await site.train_local2x(prepared)
    second = await site.train(given.regime, prepared, epochs_of_local2x(site.experiment))
    return await _ensemble(site, given.regime, [first, second])


async def _ensemble(site: SiteParty, regime: str, members: list[Artifact]) -> Artifact:
    return await site.run(regime, ensemble, role=regime, **numbered("member", members))


async def train_on_own_synthetic(site: SiteParty, given: Given) -> Artifact | None:
    """Train as the pool does on twice the own release and nobody else's, then fine-tune."""
    local = (await site.contribute()).local
    samples = await site.sample(local, 2 * site.quota, given.regime)
    released = await site.release(local, samples, given.regime)
    if released is None:
        return None
    if released.record is not None and released.result["outcome"] != "released":
        return None
    general = await _pooled(site, given.regime, {site.name: released}, workers=1)
    return await finetune(site, Given(regime=given.regime, general=general))


async def train_with_own_added(site: SiteParty, given: Given) -> Artifact | None:
    """Train on the site's real images and its own generator's, for the steps of `local2x`.

    The synthetic images are the first ones that it would release, or more of the same series. They
    never leave, so that the filter judges them and no audit has to.

    Returns:
        None: too many samples were rejected as copies.
    """
    per_real = record_of(given.regime).added_per_real
    assert per_real is not None
    local = (await site.contribute()).local
    count = max(1, round(per_real * site.site.training_images))
    released = count <= site.quota
    purpose = RELEASE if released else given.regime
    samples = await site.sample(local, site.quota if released else count, purpose)
    if samples.record is not None and samples.result["outcome"] != "released":
        return None
    labeller = await site.labeller(local)
    labelled = await site.label(local, samples, None, labeller, given.regime)
    prepared = await site.run(
        given.regime,
        prepare_augmented,
        **await site.real_cases(),
        samples=samples,
        labelled=labelled,
        prepared=local.prepared,
        images=count,
        per_real=per_real,
    )
    return await site.train(given.regime, prepared, epochs_of_local2x(site.experiment))


# --- at the pool ---------------------------------------------------------------------------------


async def train_general(pool: PoolParty, regime: str, members: Mapping[str, str]) -> Artifact:
    """Train nnU-Net on releases, under a plan that is made on them alone."""
    names = sorted(members)
    if record_of(regime).carrier == "public":
        pairs = [
            await pool.pair_public(name, labels)
            for name, labels in zip(names, pool.labels(members), strict=True)
        ]
        releases = dict(zip(names, pairs, strict=True))
    else:
        releases = dict(zip(names, pool.releases(members), strict=True))
    return await _pooled(pool, regime, releases, workers=pool.experiment.general_workers)


async def _pooled(
    party: SiteParty | PoolParty, regime: str, releases: Mapping[str, Artifact], *, workers: int
) -> Artifact:
    experiment = party.experiment
    prepared = await party.run(
        regime,
        pool_releases,
        sites=list(releases),
        federation=party.federation,
        caps=experiment.budget.plan.model_dump(),
        **numbered("release", releases.values()),
    )
    return await party.run(
        regime,
        train_general_model,
        prepared=prepared,
        epochs=experiment.budget.unet.epochs,
        **training(experiment),
        workers=workers,
        seed=party.seed(f"{regime} general" if regime == "own-syn" else "general"),
        **augmented(regime),
    )


# --- at the oracle -------------------------------------------------------------------------------


async def train_together(
    oracle: OracleParty,
    regime: str,
    shared: ReplaySet,  # noqa: ARG001
    sites: Collection[str],
) -> Artifact:
    """Train one network on all sites' real images, under one plan made on them."""
    prepared = await oracle.run(regime, prepare_together, **await oracle.real_cases(sites))
    return await _segmenter(oracle, regime, prepared)


async def train_on_mixture(
    oracle: OracleParty, regime: str, shared: ReplaySet, sites: Collection[str]
) -> Artifact:
    """Train on real and synthetic images of all sites, as many as there are real ones."""
    share = record_of(regime).synthetic_share
    assert share is not None
    received = numbered("release", [oracle.receive(parcel) for parcel in shared.parcels])
    prepared = await oracle.run(
        regime,
        prepare_mixture,
        synthetic_share=share,
        releases_of=list(shared.sites),
        federation=oracle.federation,
        seed=seed_of(oracle.experiment.seed, ORACLE, "mixture"),
        **{**await oracle.real_cases(sites), **received},
    )
    return await _segmenter(oracle, regime, prepared)


async def _segmenter(oracle: OracleParty, regime: str, prepared: Artifact) -> Artifact:
    return await oracle.run(
        regime,
        train_segmenter,
        role=regime,
        prepared=prepared,
        epochs=epochs_of_local2x(oracle.experiment),
        **training(oracle.experiment),
        warmup=0.0,
        seed=oracle.seed(regime),
        **augmented(regime),
    )


async def train_by_averaging(
    oracle: OracleParty,
    regime: str,
    shared: ReplaySet,  # noqa: ARG001
    sites: Collection[str],
) -> Artifact:
    """Train nnU-Net by federated averaging, on a plan made on the sites' fingerprints."""
    return await oracle.run(
        regime,
        train_fedavg,
        prepared=await _prepared_apart(oracle, regime, sites),
        epochs=epochs_of_local2x(oracle.experiment),
        **training(oracle.experiment),
        seed=oracle.seed(regime),
    )


async def train_by_fedbn(
    oracle: OracleParty,
    regime: str,
    shared: ReplaySet,  # noqa: ARG001
    sites: Collection[str],
) -> Artifact:
    """Train as `train_by_averaging`; normalisation layers stay at each site."""
    return await _personal(oracle, regime, sites, "fedbn")


async def train_by_ditto(
    oracle: OracleParty,
    regime: str,
    shared: ReplaySet,  # noqa: ARG001
    sites: Collection[str],
) -> Artifact:
    """Train as `train_by_averaging`, and at each site a second network near to the average."""
    return await _personal(oracle, regime, sites, "ditto")


async def _personal(
    oracle: OracleParty, regime: str, sites: Collection[str], method: Literal["fedbn", "ditto"]
) -> Artifact:
    return await oracle.run(
        regime,
        train_personal_federated,
        prepared=await _prepared_apart(oracle, regime, sites),
        method=method,
        epochs=epochs_of_local2x(oracle.experiment),
        **training(oracle.experiment),
        seed=oracle.seed(regime),
    )


async def _prepared_apart(oracle: OracleParty, regime: str, sites: Collection[str]) -> Artifact:
    cases = await oracle.real_cases(sites)
    return await oracle.run(regime, prepare_together, **cases, federated=True)
