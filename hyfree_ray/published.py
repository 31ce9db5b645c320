"""What the paper of HyFree-S3 published for cohorts that a user may also have.

Its figures stand beside a run's, to be looked at; nothing is tested against them. They are of all
of a cohort's images, full-length trainings and generators and five folds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hyfree_ray.scores import POOL

Published = Mapping[tuple[str, str, str], tuple[float, float | None]]
"""(regime, train site, test site) to Dice, mean and standard deviation over five folds."""

SOURCE = "published: HyFree-S3, table of Dice, 5 folds of 1,612 images, full-length trainings"


def _polyp() -> dict[tuple[str, str, str], tuple[float, float | None]]:
    columns = (
        ("real-all", POOL),
        ("general", POOL),
        ("local", "Kvasir"),
        ("finetuned", "Kvasir"),
        ("local", "CVC"),
        ("finetuned", "CVC"),
        ("fedavg", POOL),
    )
    rows: dict[str, tuple[tuple[float, float | None], ...]] = {
        "Kvasir": (
            (0.900, 0.014), (0.877, 0.014), (0.897, 0.014), (0.903, 0.014), (0.693, 0.025),
            (0.827, 0.034), (0.543, None),
        ),
        "CVC": (
            (0.842, 0.051), (0.809, 0.057), (0.784, 0.082), (0.811, 0.074), (0.818, 0.046),
            (0.822, 0.039), (0.552, None),
        ),
    }  # fmt: skip
    return {
        (regime, train, test): value
        for test, values in rows.items()
        for (regime, train), value in zip(columns, values, strict=True)
    }


_BY_SITES: dict[frozenset[str], Published] = {frozenset({"Kvasir", "CVC"}): _polyp()}
"""By the names that the importers give the sites."""


def published_for(sites: Iterable[str]) -> Published:
    """The paper's Dice for a cohort of these sites; empty where there is none.

    Source: HyFree-S3, its table of Dice on the Polyp cohort (A: HyperKvasir, B: CVC-ClinicDB).
    """
    return _BY_SITES.get(frozenset(sites), {})
