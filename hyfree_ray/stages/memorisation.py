"""How near a site's samples come to its training images, by the correlation of pixels.

Shapes: N and M images.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from hyfree_ray.core.stage import Context, Folder, stage

if TYPE_CHECKING:
    import numpy as np

    from hyfree_ray.privacy.pixel_correlation import Highest

CORRELATIONS_FILE = "correlations.json"
"""Stays at the site, as the scatter of the same numbers does: each image's nearness is in it."""

MAX_IMAGES = 1000
"""Samples and training images that are compared, lying evenly over all: the time grows by pairs."""

HIGH = 95
"""Percentile of the real images' correlations that samples are held against."""


@stage(version=1)
def pixel_correlation(context: Context, *, samples: Folder, prepared: Folder) -> dict[str, Any]:
    """Find each accepted sample's highest Pearson correlation with a training image.

    Beside it stand the training images' own, each with those of all *other* patients. Writes
    `pixel_correlation.png` and the numbers behind it, which stay.

    Returns:
        For the full grid and for the foreground: median, 95th percentile and maximum, of samples
        and of real images; the share of samples above the real images' 95th percentile. Empty
        where no sample was accepted, or all training images are of one patient.
    """
    import numpy as np

    from hyfree_ray.generators.view import GeneratorView
    from hyfree_ray.privacy.pixel_correlation import highest_correlations
    from hyfree_ray.privacy.sampling import restore
    from hyfree_ray.reports.pictures import correlation_scatter

    view = GeneratorView.load(prepared / "view.npz")
    stored_NCHW = np.load(samples / "accepted.npy", allow_pickle=False)
    patients_M = view.patients_N[view.training_N]
    if not len(stored_NCHW) or len(set(patients_M)) < 2:
        return {}
    chosen_M = _evenly(len(patients_M))
    real_MCHW, patients_M = view.images_NCHW[view.training_N][chosen_M], patients_M[chosen_M]
    drawn_NCHW = restore(stored_NCHW[_evenly(len(stored_NCHW))])
    of_samples = highest_correlations(drawn_NCHW, real_MCHW)
    same_MM = patients_M[:, None] == patients_M[None]
    of_real = highest_correlations(real_MCHW, real_MCHW, excluded_NM=same_MM)
    numbers = {"samples": _listed(of_samples), "real": _listed(of_real)}
    (context.out / CORRELATIONS_FILE).write_text(json.dumps(numbers))
    correlation_scatter(
        context.out / "pixel_correlation.png",
        (of_samples.full_N, of_samples.foreground_N),
        (of_real.full_N, of_real.foreground_N),
    )
    return {
        "full_grid": _compared(of_samples.full_N, of_real.full_N),
        "foreground": _compared(of_samples.foreground_N, of_real.foreground_N),
    }


def _evenly(count: int) -> np.ndarray:
    import numpy as np

    places: np.ndarray = np.linspace(0, count - 1, min(count, MAX_IMAGES)).round().astype(int)
    return places


def _listed(found: Highest) -> dict[str, list[float]]:
    return {"full_grid": found.full_N.tolist(), "foreground": found.foreground_N.tolist()}


def _compared(of_samples_N: np.ndarray, of_real_M: np.ndarray) -> dict[str, Any]:
    import numpy as np

    level = float(np.percentile(of_real_M, HIGH))
    return {
        "samples": _spread(of_samples_N),
        "real_to_real": _spread(of_real_M),
        "above_real": round(float((of_samples_N > level).mean()), 4),
    }


def _spread(values: np.ndarray) -> dict[str, float]:
    import numpy as np

    median, high = np.percentile(values, [50, HIGH])
    return {
        "median": round(float(median), 4),
        "percentile_95": round(float(high), 4),
        "highest": round(float(values.max()), 4),
    }
