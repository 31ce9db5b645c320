"""The checks of a data set's masks: values that are named, structures that all sites label."""

from __future__ import annotations

from collections import defaultdict
from statistics import fmean

from hyfree_ray.cohorts.checks import Facts, Files, Problem, join
from hyfree_ray.cohorts.label_sets import IGNORE, Labels, class_values, foreground

APART = 10.0
"""Times by which the shares of a label at two sites differ where something is likely wrong."""

FULL = 0.95
"""Share of an image that no structure is likely to have."""


def check_label_values(files: Files, facts: Facts, labels: Labels) -> list[Problem]:
    """Check for whole numbers that `dataset.json` names; count masks without any of them."""
    known = class_values(labels) | ({labels[IGNORE]} if IGNORE in labels else set())
    fractional, strange, empty = [], [], []
    for case in files:
        fact = facts[case.label]
        if fact.fault:
            continue
        if fact.values is None:
            what = "label values are not whole numbers"
            fix = "store the classes as integers"
            fractional.append(
                Problem(code="data.fractional-labels", where=case.label, what=what, fix=fix)
            )
        elif not known.issuperset(fact.values):
            value = min(set(fact.values) - known)
            what = f"label value {value} is not in dataset.json ({join(sorted(known))})"
            strange.append(
                Problem(
                    code="data.unknown-labels",
                    where=case.label,
                    what=what,
                    fix="correct one of them",
                )
            )
        elif fact.values == (0,):
            what = "an empty mask"
            fix = "correct if there is nothing to label; otherwise draw it"
            empty.append(
                Problem(code="data.empty-mask", where=case.label, what=what, fix=fix, fatal=False)
            )
    return fractional + strange + empty


def check_structures(files: Files, facts: Facts, labels: Labels) -> list[Problem]:
    """Refuse sites that label different structures: an absent label does not prove absence."""
    found: dict[str, set[int]] = defaultdict(set)
    for case in files:
        if case.row is not None:
            found[case.row.site] |= set(facts[case.label].values or ())
    everywhere = set().union(*found.values())
    problems = []
    for site in sorted(found):
        lacking = [
            name
            for name, classes in foreground(labels).items()
            if everywhere & set(classes) and not found[site] & set(classes)
        ]
        if lacking and found[site]:
            others = [other for other in sorted(found) if _has(labels, lacking[0], found[other])]
            problems.append(
                Problem(
                    code="data.structures-differ",
                    where=site,
                    what=f"none of its masks has {join(lacking)}, which {others[0]} labels",
                    fix="all sites must label the same structures: label it, leave the site out,"
                    " or remove the label from dataset.json",
                )
            )
    return problems


def _has(labels: Labels, name: str, values: set[int]) -> bool:
    return bool(values & set(foreground(labels)[name]))


def check_shares(files: Files, facts: Facts, labels: Labels) -> list[Problem]:
    """Report labels whose share of the pixels is improbable: in no mask, all of one, or far apart
    between sites."""
    problems = []
    for name, classes in foreground(labels).items():
        shares: dict[str, list[float]] = defaultdict(list)
        for case in files:
            fact = facts[case.label]
            if case.row is None or fact.fault or fact.values is None:
                continue
            pixels = zip(fact.values, fact.counts, strict=True)
            inside = sum(count for value, count in pixels if value in classes)
            share = inside / max(1, sum(fact.counts))
            shares[case.row.site].append(share)
            if share > FULL:
                what = f"{name} takes {share:.1%} of the image"
                problems.append(_improbable(case.label, what))
        means = {site: fmean(found) for site, found in shares.items()}
        if not means:
            continue
        low, high = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
        if means[high] == 0:
            problems.append(_improbable("labelsTr", f"no mask has {name}"))
        elif means[low] and means[high] >= APART * means[low]:
            what = (
                f"{name} takes {means[high]:.2%} of its images, {means[low]:.2%} of those of {low}"
            )
            problems.append(_improbable(high, what))
    return problems


def _improbable(where: str, what: str) -> Problem:
    return Problem(
        code="data.label-share",
        where=where,
        what=what,
        fix="check that the masks are read as they were drawn",
        fatal=False,
    )
