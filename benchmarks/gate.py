"""What the gate closes for, and how often it closes where nothing leaks.

    python benchmarks/gate.py [--sites 200]

Made-up hospitals: scores of an attack with a true AUC (power), and features of patients beside
releases of a generator that copied nobody (false closings), some of them (concentration), or a
little of everybody in each of several releases (composition). Everything but the features is the
code that judges releases. The first line is the ratio of what closes at an AUC of .8 to what closes
at .5, with 20 held-out patients.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import numpy as np
from scipy.stats import norm

from hyfree_ray.border.gate import Gate, judge_attacks
from hyfree_ray.border.privacy_card import Findings
from hyfree_ray.evaluation.image_quality import kid
from hyfree_ray.privacy.audit import TimeLimit, attempt, rounded
from hyfree_ray.privacy.membership import Attacked, Group, Hospital, attack, membership

GATE = Gate()
SITES = ((9, 3), (15, 5), (36, 12), (60, 20), (84, 28), (330, 113))
"""Patients that are trained on and held out, three to one as in a fold."""
AUCS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.2)
WIDTH = 16
IMAGES = 300
NEVER = TimeLimit(seconds=float("inf"))


def unit(values: np.ndarray) -> np.ndarray:
    """Features of length 1."""
    lengths: np.ndarray = np.linalg.norm(values, axis=-1, keepdims=True)
    return values / lengths


def closed(findings: Findings) -> bool:
    """Whether the gate closes for what attacks found."""
    return not all(row.passed for row in judge_attacks(findings, GATE, "release"))


def scored(random: np.random.Generator, members: int, held_out: int, auc: float) -> Attacked:
    """Scores by two attacks that agree by half, of which the first has this true AUC."""
    score_AP = random.normal(size=(2, members + held_out))
    score_AP = np.sqrt(0.5) * (score_AP + score_AP[:1])
    score_AP /= score_AP.std(axis=1, keepdims=True)
    score_AP[0, :members] += np.sqrt(2) * norm.ppf(auc)
    member_P = np.arange(members + held_out) < members
    return Attacked(score_AP=score_AP, member_P=member_P, names=("one", "other"))


def closes_by_score(sites: int, members: int, held_out: int, auc: float) -> float:
    """Share of the sites whose gate closes for attacks of this strength."""
    shut = 0
    for site in range(sites):
        random = np.random.default_rng([members, held_out, site])
        found = rounded(membership(scored(random, members, held_out, auc)))
        shut += closed(Findings.model_validate({"attacks": found, "concentration": None}))
    return shut / sites


def hospital(
    random: np.random.Generator, members: int, held_out: int, *, images: int = 3
) -> Hospital:
    """Patients whose images resemble each other."""
    count = members + held_out
    centre_P1F = random.normal(size=(count, 1, WIDTH))
    features_KF = unit(centre_P1F + 0.5 * random.normal(size=(count, images, WIDTH)))
    features_KF = features_KF.reshape(-1, WIDTH)
    patients_K = np.repeat(np.arange(count), images)
    return Hospital.of(
        *(
            Group(features_KF=features_KF[rows], patients_K=patients_K[rows])
            for rows in (patients_K < members, patients_K >= members)
        )
    )


def honest(random: np.random.Generator, _real: Hospital) -> np.ndarray:
    """Images of nobody, of the same population."""
    return unit(random.normal(size=(IMAGES, WIDTH)))


def one_kind(random: np.random.Generator, _real: Hospital) -> np.ndarray:
    """A generator that draws one kind of image only."""
    return unit(unit(random.normal(size=(1, WIDTH))) + 0.15 * random.normal(size=(IMAGES, WIDTH)))


def shifted(random: np.random.Generator, real: Hospital) -> np.ndarray:
    """A generator whose images all lie off to one side."""
    return unit(0.5 * honest(random, real) + 0.4)


def copies_of(patients: int, count: int, noise: float = 0.4) -> Callable[..., np.ndarray]:
    """A generator of which so many images are near copies of so many patients."""

    def draw(random: np.random.Generator, real: Hospital) -> np.ndarray:
        release = honest(random, real)
        known_KF = real.features_KF[real.index_K < patients]
        near = known_KF[random.integers(len(known_KF), size=count)]
        release[:count] = unit(near + noise * unit(random.normal(size=(count, WIDTH))))
        return release

    return draw


def closes(
    sites: int, members: int, held_out: int, draw: Callable[..., np.ndarray], releases: int = 1
) -> float:
    """Share of the sites whose gate closes for the union of so many releases."""
    shut = 0
    for site in range(sites):
        random = np.random.default_rng([members, held_out, site])
        real = hospital(random, members, held_out)
        union = np.concatenate([draw(random, real) for _ in range(releases)])
        shut += closed(attempt(union, real, NEVER).findings)
    return shut / sites


def chosen_auc(sites: int, members: int, held_out: int) -> tuple[float, float]:
    """Mean AUC of the nearest attack where nothing leaks, of the first of four snapshots and of
    that with the lowest KID to the held-out images."""
    auc = []
    for site in range(sites):
        random = np.random.default_rng([members, site])
        real = hospital(random, members, held_out)
        held_out_MF = real.features_KF[~real.member_P[real.index_K]]
        snapshots = [
            unit(honest(random, real) + 0.2 * unit(random.normal(size=(1, WIDTH))))
            for _ in range(4)
        ]
        best = min(snapshots, key=lambda one_NF: kid(one_NF, held_out_MF))
        auc.append([float(attack(one_NF, real).auc_RA[0, 0]) for one_NF in (snapshots[0], best)])
    first, chosen = np.mean(auc, axis=0)
    return float(first), float(chosen)


def lines(sites: int) -> Iterator[str]:
    """Yield the tables, as they are computed."""
    power = {auc: closes_by_score(sites, 60, 20, auc) for auc in (0.5, 0.8)}
    yield f"ratio {power[0.8] / max(power[0.5], 1 / sites):.1f}"
    yield "\nmembership: share of sites that close, by the attack's true AUC"
    yield "members held out  " + "".join(f"{auc:>7}" for auc in AUCS)
    for members, held_out in SITES:
        row = [closes_by_score(sites, members, held_out, auc) for auc in AUCS]
        yield f"{members:7} {held_out:8}  " + "".join(f"{share:7.0%}" for share in row)
    makers = {
        "honest": honest,
        "one kind": one_kind,
        "shifted": shifted,
        "30 of 1": copies_of(1, 30),
        "90 of 1": copies_of(1, 90),
        "90 of 6": copies_of(6, 90),
    }
    yield "\nreleases of 300 images: share of sites that close"
    yield "members held out  " + "".join(f"{name:>10}" for name in makers)
    for members, held_out in SITES:
        row = [closes(sites, members, held_out, draw) for draw in makers.values()]
        yield f"{members:7} {held_out:8}  " + "".join(f"{share:10.0%}" for share in row)
    yield "\n12 near copies of members drawn at random in each release; 60 members, 40 held out"
    for releases in (1, 2, 5):
        share = closes(max(10, sites // 4), 60, 40, copies_of(60, 12, 0.5), releases)
        yield f"{releases} together: {share:.0%} close"
    yield "\nmean AUC where the snapshot was chosen by the attack's strangers, beside the first one"
    for members, held_out in ((9, 3), (36, 12), (84, 28)):
        first, chosen = chosen_auc(sites, members, held_out)
        yield f"{members:7} {held_out:8}  {first:.3f} {chosen:.3f}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sites", type=int, default=200, help="made-up hospitals a figure")
    for line in lines(parser.parse_args().sites):
        print(line, flush=True)


if __name__ == "__main__":
    main()
