"""What the answers to a reader study say: accuracy, d', and how sure that is, reader by reader.

An answer "synthetic" to a synthetic image is a hit, to a real one a false alarm. d' = z(hits) -
z(false alarms), rates with Hautus's correction (1995: half an answer is added to each kind), its
interval by the variance of Gourevitch and Galanter (1967). An accuracy of .5 and a d' of 0 are
those of a reader who guesses.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hyfree_ray.core.errors import HyfreeError

COLUMNS = ("study", "reader", "image", "answer", "seconds")
KINDS = ("real", "synthetic")
MAX_BYTES = 4 * 2**20
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class ReaderScore:
    """How well one reader told synthetic images from real ones."""

    reader: str
    answered: int
    of: int
    """Images of the study."""
    accuracy: float
    accuracy_interval: tuple[float, float]
    """Clopper-Pearson, 95 %."""
    p: float
    """Of guessing as well or better or as badly: an exact binomial test of both sides."""
    d_prime: float
    d_prime_interval: tuple[float, float]


def score_reader(reader: str, answers: Mapping[str, str], truth: Mapping[str, str]) -> ReaderScore:
    """Score the answers of one reader.

    Args:
        reader: a name.
        answers: real or synthetic, by image; at least one of each truth.
        truth: what each image of the study is.
    """
    from scipy.stats import binomtest

    right = sum(answer == truth[image] for image, answer in answers.items())
    test = binomtest(right, len(answers), 0.5)
    interval = test.proportion_ci(confidence_level=CONFIDENCE, method="exact")
    said = {
        kind: [answer == "synthetic" for image, answer in answers.items() if truth[image] == kind]
        for kind in KINDS
    }
    d_prime, half_width = _d_prime(
        sum(said["synthetic"]), len(said["synthetic"]), sum(said["real"]), len(said["real"])
    )
    return ReaderScore(
        reader=reader,
        answered=len(answers),
        of=len(truth),
        accuracy=right / len(answers),
        accuracy_interval=(float(interval.low), float(interval.high)),
        p=float(test.pvalue),
        d_prime=d_prime,
        d_prime_interval=(d_prime - half_width, d_prime + half_width),
    )


def _d_prime(hits: int, synthetic: int, false_alarms: int, real: int) -> tuple[float, float]:
    """Return d' and half the width of its interval."""
    from scipy.stats import norm

    found, variance = 0.0, 0.0
    for sign, count, of in ((1, hits, synthetic), (-1, false_alarms, real)):
        rate = (count + 0.5) / (of + 1)
        z = float(norm.ppf(rate))
        found += sign * z
        variance += rate * (1 - rate) / ((of + 1) * float(norm.pdf(z)) ** 2)
    return found, float(norm.ppf((1 + CONFIDENCE) / 2)) * variance**0.5


def read_answers(file: Path, study: str, truth: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Read the CSV that the page has written: the answers by reader and image.

    Raises:
        HyfreeError: it is none, of another study, or not whole.
    """
    try:
        if file.stat().st_size > MAX_BYTES:
            raise _bad(file, f"larger than {MAX_BYTES} bytes")
        with file.open(newline="", encoding="utf-8-sig") as lines:
            table = csv.DictReader(lines)
            if tuple(table.fieldnames or ()) != COLUMNS:
                raise _bad(file, f"its columns are not {', '.join(COLUMNS)}")
            rows = list(table)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _bad(file, "it cannot be read as a table") from error
    answers: dict[str, dict[str, str]] = {}
    for number, row in enumerate(rows, start=2):
        if row["study"] != study:
            raise _bad(file, f"line {number} is of another study")
        if row["image"] not in truth or row["answer"] not in KINDS:
            raise _bad(file, f"line {number} names no image of the study, or no answer")
        of_reader = answers.setdefault(row["reader"], {})
        if row["image"] in of_reader:
            raise _bad(file, f"line {number} answers an image that has an answer")
        of_reader[row["image"]] = row["answer"]
    for reader, given in answers.items():
        if {truth[image] for image in given} != set(KINDS):
            raise _bad(file, f"{reader!a} has answered images of one kind alone")
    if not answers:
        raise _bad(file, "it has no answers")
    return answers


def _bad(file: Path, why: str) -> HyfreeError:
    return HyfreeError(
        "reader-study.bad-answers",
        f"{file}: {why}; name a CSV that the page of this study has saved",
    )
