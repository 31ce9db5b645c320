"""What the paper of HyFree-S3 published for cohorts that a user may also have.

Its figures stand beside a run's, to be looked at; nothing is tested against them. They are of all
of a cohort's images, full-length trainings and generators and five folds.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from hyfree_ray.core.parties import POOL

Figures = Mapping[tuple[str, str, str], tuple[float, float | None]]
"""(regime, train site, test site) to Dice, mean and standard deviation over five folds."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """The paper's Dice for one cohort."""

    dice: Figures = field(default_factory=dict)
    source: str = ""


_Row = tuple[tuple[float, float | None], ...]


def _table(rows: Mapping[str, _Row], images: str) -> Published:
    """Build a part of the paper's table of Dice: its sites A and B in this order."""
    first, second = rows
    columns = (
        ("real-all", POOL),
        ("general", POOL),
        ("local", first),
        ("finetuned", first),
        ("local", second),
        ("finetuned", second),
        ("fedavg", POOL),
    )
    return Published(
        dice={
            (regime, train, test): value
            for test, values in rows.items()
            for (regime, train), value in zip(columns, values, strict=True)
        },
        source=f"published: HyFree-S3, table of Dice, 5 folds of {images}, full-length trainings",
    )


POLYP = _table(
    {
        "Kvasir": (
            (0.900, 0.014), (0.877, 0.014), (0.897, 0.014), (0.903, 0.014), (0.693, 0.025),
            (0.827, 0.034), (0.543, None),
        ),
        "CVC": (
            (0.842, 0.051), (0.809, 0.057), (0.784, 0.082), (0.811, 0.074), (0.818, 0.046),
            (0.822, 0.039), (0.552, None),
        ),
    },
    "1,612 images",
)  # fmt: skip
"""A: HyperKvasir, B: CVC-ClinicDB, by the names that the importers give them."""

LUNG = _table(
    {
        "site-1": (
            (0.772, 0.009), (0.758, 0.011), (0.759, 0.010), (0.765, 0.016), (0.756, 0.013),
            (0.763, 0.017), (0.712, None),
        ),
        "site-2": (
            (0.782, 0.016), (0.767, 0.013), (0.767, 0.014), (0.775, 0.012), (0.762, 0.015),
            (0.773, 0.014), (0.719, None),
        ),
    },
    "6,307 images in two random sites, drawn differently",
)  # fmt: skip
"""QaTa-COV19 in two random sites."""

_LUNG_COHORT = "QaTa-COV19"
"""As the importer names it."""


def published_for(cohort: str, sites: Collection[str], partition: str) -> Published:
    """Return the paper's Dice for a cohort; none where it is not one of the paper's.

    Args:
        cohort: its name.
        sites: their names.
        partition: how patients were dealt out to them.

    Source: HyFree-S3, its table of Dice on the Lung and the Polyp cohort.
    """
    if frozenset(sites) == {"Kvasir", "CVC"}:
        return POLYP
    if cohort == _LUNG_COHORT and partition == "random" and len(sites) == 2:
        return LUNG
    return Published()
