"""A regime: a hospital's own images alone, for one epoch. No torch on import."""

from __future__ import annotations

from hyfree_ray.core.artifacts import Artifact
from hyfree_ray.evaluation.regimes import Regime
from hyfree_ray.federation.site import SiteParty
from hyfree_ray.federation.trainers import Given


async def train(site: SiteParty, given: Given) -> Artifact:
    return await site.train(given.regime, await site.prepare(), epochs=1)


TOY_GLANCE = Regime(
    name="toy-glance",
    label="a glance at the hospital's own images",
    progress="glancing",
    trained_by="site",
    train=f"{__name__}:train",
    setting="optional",
)
