"""A reader study: a page that tells nothing, answers held to its key, known d' and bounds."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from hyfree_ray.border.release import write_release
from hyfree_ray.cli import main
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.studies.reader_scores import read_answers, score_reader
from tests import raw_data
from tests.cards import card
from tests.release_files import METADATA

SHAPE = (26, 17)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """Twelve images of the site `north`, on a grid that its real ones of 26 to 31 x 17 fit."""
    random = np.random.default_rng(1)
    folder = tmp_path / "release"
    folder.mkdir()
    metadata = replace(
        METADATA,
        site="north",
        channel_names=("0",),
        spacing=(1.0, 1.0),
        scale=(1.0,),
        offset=(0.0,),
        label_names={"background": 0, "organ": 1, "lesion": 2},
        card=card(images=12),
    )
    write_release(
        folder,
        metadata,
        random.integers(0, 255, (12, 1, *SHAPE), np.uint8),
        random.integers(0, 3, (12, *SHAPE), np.uint8),
        experiment="e" * 64,
        nonce="n",
    )
    return folder


def channel_name(root: Path) -> None:
    raw_data.edit_json(root, channel_names={"0": "0"})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root, _ = raw_data.make(tmp_path / "Dataset001")
    channel_name(root)
    return root


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["reader-study", *map(str, arguments)])
    error = getattr(done.exception, "__cause__", None)
    return done.exit_code, error.code if isinstance(error, HyfreeError) else done.output


def made(
    release: Path, data: Path, out: Path, **options: object
) -> tuple[str, dict[str, str], str]:
    """The page, the truth by image and the study's id."""
    more = [part for name, value in options.items() for part in (f"--{name}", value)]
    code, said = run("make", release, "--real", data, "--images", 6, "--out", out, *more)
    assert code == 0, said
    key = json.loads((out / "key.json").read_text())
    return (out / "reader-study.html").read_text(), key["truth"], key["study"]


def pictures(page: str) -> list[np.ndarray]:
    found = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one)))) for one in found]


def test_the_page_holds_as_many_of_each_kind_of_one_size_and_no_truth(
    release: Path, data: Path, tmp_path: Path
) -> None:
    page, truth, _ = made(release, data, tmp_path / "study")
    assert sorted(truth.values()) == ["real"] * 6 + ["synthetic"] * 6
    shown = pictures(page)
    assert {one.shape for one in shown} == {SHAPE}
    assert len({one.tobytes() for one in shown}) == 12
    assert "key.json" not in page
    assert "must not leave the hospital" in page
    # Nothing is fetched, and nothing can be sent.
    assert "default-src 'none'" in page
    assert not re.findall(r"(?:src|href)=\"(?!data:)[a-z]+:", page)
    kinds = [truth[str(place)] for place in range(12)]
    assert kinds not in (sorted(kinds), sorted(kinds, reverse=True))
    assert (tmp_path / "study" / "reader-study.html").stat().st_mode & 0o077 == 0


def test_the_same_seed_makes_the_same_study_and_another_one_another(
    release: Path, data: Path, tmp_path: Path
) -> None:
    first = made(release, data, tmp_path / "a")
    assert made(release, data, tmp_path / "b") == first
    assert made(release, data, tmp_path / "c", seed=1)[2] != first[2]


def test_what_cannot_be_shown_is_refused_and_nothing_is_written(
    release: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "study"
    assert run("make", release, "--real", data, "--images", 60, "--out", out) == (
        2,
        "reader-study.too-few",
    )
    raw_data.edit_json(data, channel_names={"0": "CT"})
    assert run("make", release, "--real", data, "--out", out) == (2, "reader-study.other-task")
    assert not out.exists()


def answers(file: Path, study: str, given: dict[str, str], reader: str = "A") -> Path:
    with file.open("w", newline="") as lines:
        table = csv.writer(lines)
        table.writerow(["study", "reader", "image", "answer", "seconds"])
        table.writerows([study, reader, image, answer, 1.5] for image, answer in given.items())
    return file


TRUTH = {str(n): "synthetic" if n % 2 else "real" for n in range(100)}


def test_d_prime_and_accuracy_are_those_of_the_formulas() -> None:
    """80 % hits and 30 % false alarms, by hand with half an answer added to each kind."""
    given = dict.fromkeys(TRUTH, "real")
    given |= {str(n): "synthetic" for n in range(1, 80, 2)}  # 40 of 50 hits
    given |= {str(n): "synthetic" for n in range(0, 30, 2)}  # 15 of 50 false alarms
    found = score_reader("A", given, TRUTH)
    assert found.accuracy == 0.75
    assert found.accuracy_interval == pytest.approx((0.6534, 0.8312), abs=1e-3)
    # z(40.5 / 51) = .8208, z(15.5 / 51) = -.5129
    assert found.d_prime == pytest.approx(0.8208 + 0.5129, abs=2e-3)
    low, high = found.d_prime_interval
    assert (low + high) / 2 == pytest.approx(found.d_prime)
    # sqrt(.794 .206 / (51 .2848^2) + .304 .696 / (51 .3498^2)) = .2700; times 1.96
    assert (high - low) / 2 == pytest.approx(1.96 * 0.270, abs=5e-3)


def test_a_reader_who_guesses_has_a_d_prime_of_nought_and_a_perfect_one_a_finite_one() -> None:
    guess = {image: "synthetic" if int(image) % 4 < 2 else "real" for image in TRUTH}
    found = score_reader("A", guess, TRUTH)
    assert found.accuracy == 0.5
    assert found.d_prime == pytest.approx(0)
    assert found.p == 1
    perfect = score_reader("B", TRUTH, TRUTH)
    assert 4 < perfect.d_prime < 6
    assert perfect.accuracy_interval[0] > 0.95


def test_answers_that_are_not_of_the_study_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    assert read_answers(answers(file, "s", TRUTH), "s", TRUTH) == {"A": TRUTH}
    bad = (
        answers(tmp_path / "1.csv", "other", TRUTH),
        answers(tmp_path / "2.csv", "s", {**TRUTH, "100": "real"}),
        answers(tmp_path / "3.csv", "s", {**TRUTH, "7": "perhaps"}),
        answers(tmp_path / "4.csv", "s", {"0": "real", "2": "real"}),
        answers(tmp_path / "5.csv", "s", {}),
        tmp_path / "missing.csv",
    )
    twice = tmp_path / "6.csv"
    twice.write_text(file.read_text() + "s,A,1,real,1\r\n")
    columns = tmp_path / "7.csv"
    columns.write_text("a,b\n1,2\n")
    for path in (*bad, twice, columns):
        with pytest.raises(HyfreeError) as caught:
            read_answers(path, "s", TRUTH)
        assert caught.value.code == "reader-study.bad-answers"


def test_score_prints_a_line_a_reader(release: Path, data: Path, tmp_path: Path) -> None:
    _, truth, study = made(release, data, tmp_path / "study")
    key = tmp_path / "study" / "key.json"
    files = [answers(tmp_path / f"{reader}.csv", study, truth, reader) for reader in ("one", "two")]
    code, said = run("score", *files, "--key", key)
    assert code == 0
    assert [line.split()[:2] for line in said.splitlines()[1:3]] == [
        ["one", "12/12"],
        ["two", "12/12"],
    ]
    assert run("score", files[0], files[0], "--key", key) == (2, "reader-study.bad-answers")
    assert run("score", files[0], "--key", data / "dataset.json") == (2, "reader-study.bad-key")
