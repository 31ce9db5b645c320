"""Several networks of a site as one model."""

from __future__ import annotations

from typing import Any

from hyfree_ray.core.stage import Context, Folder, stage
from hyfree_ray.evaluation.regimes import REGIMES


@stage(version=1)
def ensemble(context: Context, /, *, role: str, **members: Folder) -> dict[str, Any]:
    """Put networks into one model, whose softmax is averaged where it is used.

    Args:
        context: where to.
        role: the regime.
        members: `member_<position>`, finished trainings.
    """
    from hyfree_ray.segmenters.nnunet.ensemble import write_ensemble

    assert role in REGIMES
    found = [members[f"member_{position}"] / "model" for position in range(len(members))]
    write_ensemble(context.out / "model", found)
    return {"members": len(found)}
