from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest

from hyfree_ray.core.parties import POOL
from hyfree_ray.evaluation.scores import COLUMNS, ScoreRow, read_results, write_results
from tests.refusals import refuses

ROW = ScoreRow(
    run="phantom-0a1b2c3d",
    round=1,
    seed=0,
    fold=0,
    regime="local",
    train_site="site-1",
    test_site="site-2",
    patient=2,
    case=10,
    label="organ",
    metric="dice",
    value=0.8765432109,
)


def rows() -> list[ScoreRow]:
    return [
        dataclasses.replace(ROW, regime=regime, train_site=owner, case=case, metric=metric)
        for regime, owner in (("local", "site-1"), ("general", POOL))
        for case in (2, 10)
        for metric in ("hd95", "dice")
    ]


def test_the_columns_are_the_published_ones(tmp_path: Path) -> None:
    write_results(tmp_path / "results.csv", [ROW])
    header, line = (tmp_path / "results.csv").read_text().splitlines()
    assert header == (
        "run,round,seed,fold,regime,train_site,test_site,patient,case,label,metric,value"
    )
    assert line == "phantom-0a1b2c3d,1,0,0,local,site-1,site-2,2,10,organ,dice,0.876543"
    assert ",".join(COLUMNS) == header


def test_the_order_of_the_rows_does_not_change_the_file(tmp_path: Path) -> None:
    shuffled = rows()
    random.Random(1).shuffle(shuffled)
    write_results(tmp_path / "a.csv", rows())
    write_results(tmp_path / "b.csv", shuffled)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    cases = [line.split(",")[8] for line in (tmp_path / "a.csv").read_text().splitlines()[1:]]
    assert cases[:4] == ["2", "2", "10", "10"]  # by number, not by letter


def test_what_was_written_is_read_and_written_again_equal(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    write_results(path, rows())
    read = read_results(path)
    assert read == sorted(dataclasses.replace(row, value=0.876543) for row in rows())
    write_results(tmp_path / "again.csv", read)
    assert (tmp_path / "again.csv").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "name",
    ["=cmd|'/C calc'!A0", "+1", "-site", "@x", "'quoted", "\ttab", 'a,"b"', "Łódź", "two\nlines"],
)
def test_names_that_a_spreadsheet_would_run_are_text_and_survive(tmp_path: Path, name: str) -> None:
    path = tmp_path / "results.csv"
    write_results(path, [dataclasses.replace(ROW, train_site=name)])
    (read,) = read_results(path)
    assert read.train_site == name
    cell = path.read_text().splitlines()[1].split(",")[5].lstrip('"')
    assert not cell.startswith(("=", "+", "-", "@", "\t"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_not_written(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        write_results(tmp_path / "results.csv", [dataclasses.replace(ROW, value=value)])
    assert list(tmp_path.iterdir()) == []


def test_two_values_of_the_same_thing_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="second value"):
        write_results(tmp_path / "results.csv", [ROW, dataclasses.replace(ROW, value=0.1)])


def test_small_and_whole_values_have_one_spelling(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    values = [-0.0, 1, 1e-9, 0.1 + 0.2, 123456.7891234]
    write_results(
        path, [dataclasses.replace(ROW, case=k, value=value) for k, value in enumerate(values)]
    )
    texts = [line.rsplit(",", 1)[1] for line in path.read_text().splitlines()[1:]]
    assert texts == ["0.0", "1.0", "0.0", "0.3", "123456.789123"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "line 1"),
        ("run,round\n", "line 1"),
        (",".join(COLUMNS) + "\na,b\n", "line 2"),
        (",".join(COLUMNS) + "\n" + "r,1,0,0,local,a,b,x,1,organ,dice,0.5\n", "line 2"),
        (",".join(COLUMNS) + "\n" + "r,1,0,0,local,a,b,1,1,organ,dice,nan\n", "line 2"),
    ],
)
def test_a_file_that_is_not_ours_is_a_users_mistake(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "results.csv"
    path.write_text(text)
    with refuses("run.damaged", str(path), fault):
        read_results(path)
    with refuses("run.damaged", "nowhere"):
        read_results(tmp_path / "nowhere.csv")
