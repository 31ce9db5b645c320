"""How often intervals hold the truth, words are false, and verdicts err: on drawn numbers.

    python benchmarks/coverage.py [--drawings 4000] [--methods] [--write]

Patients are drawn from distributions whose mean is known: normal, exponential (a few lose much),
lognormal with a sigma of 1 (fewer lose more), differences that runs of this project recorded
(docs/results, each contrast centred), and rare failures (1 in 20 loses .19, the rest gain .01).
`--methods` sets other intervals beside it; `--write` writes the table that reports read.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.stats import bootstrap, norm
from scipy.stats import t as students_t

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs" / "results"))

import tables  # noqa: E402

from hyfree_ray.evaluation.choice import MARGIN, MAX_PROBABILITY, loss_probability  # noqa: E402
from hyfree_ray.evaluation.regimes import CONTROL  # noqa: E402
from hyfree_ray.results.comparisons import estimates_of  # noqa: E402
from hyfree_ray.results.contrasts import estimate, interval  # noqa: E402
from hyfree_ray.results.coverage import TABLE  # noqa: E402
from hyfree_ray.results.verdicts import Evidence, advise  # noqa: E402

Values = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Values]

SIZES = (7, 8, 10, 12, 16, 24, 50, 100, 200)
SITES = ((3, 4), (7, 7, 18, 24, 36), (12, 92), (14, 56, 227))
"""Test patients of sites as uneven as the phantom's, Polyp's and Lung's."""
SPREAD = 0.05
TRAINING = 0.02
"""Standard deviation between seeds, where there are three."""
ALIKE = 1e-9


def normal(random: np.random.Generator, size: int) -> Values:
    return random.normal(0, SPREAD, size)


def exponential(random: np.random.Generator, size: int) -> Values:
    return SPREAD - random.exponential(SPREAD, size)


def lognormal(random: np.random.Generator, size: int) -> Values:
    return SPREAD * (np.exp(0.5) - random.lognormal(0, 1, size))


def rare(random: np.random.Generator, size: int) -> Values:
    return np.where(random.random(size) < 0.05, -0.19, 0.01) + random.normal(0, 0.004, size)


def recorded_pools() -> list[Values]:
    """Centred differences of patients, a pool a cohort, seed, regime and test: of all its sites."""
    pools = []
    for cohort, _ in tables.COHORTS:
        for seed in range(3):
            stems = [f"{cohort}-seed{seed}-fold{k}" for k in tables.folds_of(cohort, seed)]
            rows = [row for stem in stems for row in tables.read(stem)]
            sites = tuple(sorted({row.test_site for row in rows}))
            pairs = [(regime, CONTROL) for regime in tables.REGIMES]
            for one in estimates_of(rows, sites, pairs=pairs) if rows else ():
                pairs_P = one.pairs_P
                # Where sites kept their control, half of the patients do not differ at all.
                if one.plain.site is None and len(pairs_P) and (pairs_P == 0).mean() < 0.2:
                    pools.append(pairs_P - pairs_P.mean())
    return pools


def recorded(pools: Sequence[Values]) -> Draw:
    def draw(random: np.random.Generator, size: int) -> Values:
        found: Values = random.choice(pools[random.integers(len(pools))], size)
        return found

    return draw


def seeds(random: np.random.Generator, patients_P: Values, number: int) -> Values:
    """Return (P, S): what each training did to all patients, and to each beside."""
    if number == 1:
        return patients_P[:, None]
    shape = (len(patients_P), number)
    noisy: Values = patients_P[:, None] + random.normal(0, TRAINING, number)
    return noisy + random.normal(0, 0.01, shape)


def missed(draw: Draw, sizes: Sequence[int], number: int, drawings: int) -> tuple[float, float]:
    """Return how often the interval lies above and below the truth, which is 0."""
    random, above, below = np.random.default_rng([*sizes, number]), 0, 0
    for _ in range(drawings):
        low, high = interval([seeds(random, draw(random, size), number) for size in sizes])
        above += low > ALIKE
        below += high < -ALIKE
    return above / drawings, below / drawings


def shown(missed_by: tuple[float, float]) -> str:
    above, below = missed_by
    return f"{1 - above - below:.1%} ({above:.1%} / {below:.1%})"


def coverage_tables(draws: dict[str, Draw], drawings: int) -> Iterator[dict[str, float]]:
    """Print coverage by number of patients, and yield the rows that reports read."""
    for number in (1, 3):
        said = f"{number} seed{'s' if number > 1 else ''}"
        print(f"\n| patients, {said} | {' | '.join(draws)} |\n|{'---|' * (len(draws) + 1)}")
        for sizes in [(size,) for size in SIZES] + list(SITES):
            found = {name: missed(draw, sizes, number, drawings) for name, draw in draws.items()}
            cells = " | ".join(map(shown, found.values()))
            print(f"| {' + '.join(map(str, sizes))} | {cells} |", flush=True)
            if number == 1 and len(sizes) == 1:
                usual = [sides for name, sides in found.items() if name != "rare failures"]
                held = [1 - above - below for above, below in usual]
                yield {
                    "patients": sizes[0],
                    "least": min(held),
                    "most": max(held),
                    "one_side": max(map(max, usual)),
                    "rare_failures": 1 - sum(found["rare failures"]),
                }


def single_pools(pools: Sequence[Values], drawings: int) -> None:
    """Print what the recorded contrasts hold one by one, the least first."""
    print("\n| patients | least | 10 % | median | of 93 to 98 % |\n|---|---|---|---|---|")
    for size in (7, 12, 24, 50, 100, 200):
        held = [
            1 - sum(missed(lambda r, n, p=pool: r.choice(p, n), (size,), 1, drawings))
            for pool in pools
        ]
        least, tenth, median = np.quantile(held, [0, 0.1, 0.5])
        inside = np.mean([0.925 <= one <= 0.985 for one in held])
        cells = " | ".join(f"{v:.1%}" for v in (least, tenth, median, inside))
        print(f"| {size} | {cells} |", flush=True)


def other_methods(draws: dict[str, Draw], drawings: int) -> None:
    """Print what other intervals hold: Student's, BCa, studentized and expanded bootstraps."""
    methods = {"Student's t": student, "expanded": expanded, "BCa": bca, "bootstrap-t": studentized}
    names = " | ".join(draws)
    print(f"\n| patients | interval | {names} |\n|{'---|' * (len(draws) + 2)}")
    for size in (7, 12, 24, 50):
        random = np.random.default_rng(size)
        samples = {
            name: np.array([draw(random, size) for _ in range(drawings)])
            for name, draw in draws.items()
        }
        for method, ends in methods.items():
            cells = []
            for values_RP in samples.values():
                low, high = ends(values_RP, random)
                cells.append(shown((float((low > ALIKE).mean()), float((high < -ALIKE).mean()))))
            print(f"| {size} | {method} | {' | '.join(cells)} |", flush=True)


def student(values_RP: Values, _: np.random.Generator) -> tuple[Values, Values]:
    size = values_RP.shape[1]
    reach = students_t.ppf(0.975, size - 1) * values_RP.std(axis=1, ddof=1) / np.sqrt(size)
    middle = values_RP.mean(axis=1)
    return middle - reach, middle + reach


def _scipy(
    values_RP: Values, random: np.random.Generator, method: str, level: float
) -> tuple[Values, Values]:
    found = bootstrap(
        (values_RP,), np.mean, n_resamples=999, batch=20, axis=1, confidence_level=level,
        method=method, random_state=random,
    ).confidence_interval  # fmt: skip
    return found.low, found.high


def bca(values_RP: Values, random: np.random.Generator) -> tuple[Values, Values]:
    return _scipy(values_RP, random, "BCa", 0.95)


def expanded(values_RP: Values, random: np.random.Generator) -> tuple[Values, Values]:
    """Hesterberg 2015: values moved apart, quantiles as wide as Student's t."""
    size = values_RP.shape[1]
    middle = values_RP.mean(axis=1, keepdims=True)
    apart = middle + (values_RP - middle) * np.sqrt(size / (size - 1))
    level = 1 - 2 * float(norm.sf(students_t.ppf(0.975, size - 1)))
    return _scipy(apart, random, "percentile", level)


def studentized(values_RP: Values, random: np.random.Generator) -> tuple[Values, Values]:
    lows, highs = [], []
    for values_P in values_RP:
        size, middle = len(values_P), values_P.mean()
        again_BP = values_P[random.integers(size, size=(999, size))]
        errors_B = again_BP.std(axis=1, ddof=1) / np.sqrt(size)
        t_B = (again_BP.mean(axis=1) - middle)[errors_B > 0] / errors_B[errors_B > 0]
        above, below = np.quantile(t_B, [0.975, 0.025]) if len(t_B) else (0.0, 0.0)
        error = values_P.std(ddof=1) / np.sqrt(size)
        lows.append(middle - above * error)
        highs.append(middle - below * error)
    return np.array(lows), np.array(highs)


def false_words(draws: dict[str, Draw], drawings: int) -> None:
    """Print how often any of 20 contrasts without a difference says helped or hurt."""
    print(f"\n| 20 contrasts, patients each | {' | '.join(draws)} |\n|{'---|' * (len(draws) + 1)}")
    for size in (7, 12, 24, 50, 100):
        cells = []
        for draw in draws.values():
            random, wrong = np.random.default_rng(size), 0
            for _ in range(drawings):
                for _ in range(20):
                    one = estimate("a", "b", "s", "own", [draw(random, size)])
                    assert one.noise is not None
                    assert one.plain.difference is not None
                    side = "below" if one.plain.difference > 0 else "above"
                    if one.noise.reach(0.025 / 20, side) < abs(one.plain.difference):
                        wrong += 1
                        break
            cells.append(f"{wrong / drawings:.1%}")
        print(f"| {size} | {' | '.join(cells)} |", flush=True)


def verdict_errors(drawings: int) -> None:
    """Print how often each advice is given, to one of five hospitals that are judged together."""
    scenarios = {
        "nothing": (0.0, 0.0),
        "+.05 elsewhere": (0.0, 0.05),
        "+.05 at both": (0.05, 0.05),
        "-.05 at home, +.05 elsewhere": (-0.05, 0.05),
    }
    kinds: dict[str, Draw] = {
        "normal, sd .05": normal,
        "normal, sd .10": lambda r, n: 2 * normal(r, n),
        "exponential, sd .10": lambda r, n: 2 * exponential(r, n),
    }
    print("\n| gain | patients differ | at home / elsewhere | share | take part | not worth it "
          "| cannot say |\n|---|---|---|---|---|---|---|")  # fmt: skip
    for name, (home, elsewhere) in scenarios.items():
        for kind, draw in kinds.items():
            for size in (7, 12, 24, 50, 100, 200):
                random = np.random.default_rng(size)
                found = [
                    advise(_evidence(draw(random, size) + home, draw(random, 4 * size) + elsewhere))
                    for _ in range(drawings)
                ]
                starts = ("share", "take", "not worth", "not enough")
                shares = [np.mean([a.startswith(s) for a, _ in found]) for s in starts]
                cells = " | ".join(f"{share:.1%}" for share in shares)
                print(f"| {name} | {kind} | {size} / {4 * size} | {cells} |", flush=True)


def _evidence(home_P: Values, elsewhere_P: Values) -> Evidence:
    home = estimate("shared", "control", "s", "own", [home_P])
    elsewhere = estimate("shared", "control", "s", "foreign", [elsewhere_P])
    below_home = home.probability_below(MARGIN)
    below_elsewhere = elsewhere.probability_below(MARGIN)
    return Evidence(
        home=home.contrast(share=1 / 24),
        elsewhere=elsewhere.contrast(share=1 / 24),
        loss_at_home=home.probability_below(-MARGIN),
        gain_at_home=None if below_home is None else 1 - below_home,
        gain_elsewhere=None if below_elsewhere is None else 1 - below_elsewhere,
    )


def choice_errors(drawings: int) -> None:
    """Print how often a hospital keeps a shared model, by what it truly gains at home."""
    gains = (-0.05, -0.03, -0.02, -0.01, 0.0, 0.02, 0.05)
    print(f"\n| validation patients, sd .08 | {' | '.join(f'{g:+.2f}' for g in gains)} |")
    print(f"|{'---|' * (len(gains) + 1)}")
    for size in (3, 6, 7, 12, 24, 40, 113):
        random, cells = np.random.default_rng(size), []
        for gain in gains:
            kept = 0
            for _ in range(drawings):
                dice = dict(enumerate(random.normal(gain, 0.08, size)))
                probability = loss_probability(dice, dict.fromkeys(dice, 0.0))
                kept += probability is not None and probability <= MAX_PROBABILITY
            cells.append(f"{kept / drawings:.1%}")
        print(f"| {size} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--drawings", type=int, default=4000)
    parser.add_argument("--methods", action="store_true", help="other intervals too")
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.name}")
    options = parser.parse_args()
    pools = recorded_pools()
    draws: dict[str, Draw] = {
        "normal": normal,
        "exponential": exponential,
        "lognormal": lognormal,
        f"recorded ({len(pools)})": recorded(pools),
        "rare failures": rare,
    }
    rows = list(coverage_tables(draws, options.drawings))
    if options.write:
        with TABLE.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows({k: round(v, 4) for k, v in row.items()} for row in rows)
    false_words(draws, options.drawings // 4)
    verdict_errors(options.drawings // 8)
    choice_errors(options.drawings // 4)
    single_pools(pools, options.drawings // 20)
    if options.methods:
        other_methods(draws, options.drawings)


if __name__ == "__main__":
    main()
