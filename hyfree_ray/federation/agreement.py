"""How far the labels of a release agree with those that the other sites' releases teach."""

from __future__ import annotations

from asyncio import gather
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hyfree_ray.core.artifacts import Artifact
from hyfree_ray.evaluation.regimes import RELEASE
from hyfree_ray.federation.parameters import ROUND
from hyfree_ray.federation.training import train_general
from hyfree_ray.stages.pooling import label_agreement

if TYPE_CHECKING:
    from hyfree_ray.federation.pool import PoolParty


async def agreement_by_site(pool: PoolParty, members: Mapping[str, str]) -> dict[str, float]:
    """Return mean Dice over the labels by site, of each release with a model of all the others.

    Empty where the experiment asks for none.
    """
    if not pool.experiment.min_label_agreement:
        return {}
    compared = await gather(*(_agreement(pool, site, members) for site in members))
    return {
        site: found.result["mean"] or 0.0
        for site, found in zip(members, compared, strict=True)
        if found.record is not None
    }


async def _agreement(pool: PoolParty, site: str, members: Mapping[str, str]) -> Artifact:
    others = {other: key for other, key in members.items() if other != site}
    (release,) = pool.releases({site: members[site]})
    return await pool.run(
        RELEASE,
        label_agreement,
        release=release,
        model=await train_general(pool, "leave-one-out", others),
        site=site,
        dataset=pool.dataset,
        federation=pool.federation,
        round_number=ROUND,
    )
