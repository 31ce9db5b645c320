"""What Dice is paid for with, how trainings went, and what is shown of both at first sight."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hyfree_ray.evaluation.regimes import RELEASE
from hyfree_ray.reports import figures
from hyfree_ray.reports.parts import crossings, gates
from hyfree_ray.reports.prices import curve_panels, trade_offs
from hyfree_ray.reports.report import write_report
from hyfree_ray.reports.trade_offs import undominated
from hyfree_ray.results.curves import MAX_POINTS, learning_curve, read_curves, write_curves
from hyfree_ray.results.finished import Finished
from hyfree_ray.results.summary import Transfer
from tests.reports.test_report import EVIL, read, whole


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return whole(tmp_path_factory.mktemp("store"), 0)


def points(steps: int, metric: str = "dice") -> list[dict[str, float]]:
    return [
        {"step": step, "total": steps, "time": 0.0, "loss": 1.0, metric: step / steps}
        for step in range(1, steps + 1)
    ]


def test_a_curve_is_of_the_last_metric_and_keeps_its_end(tmp_path: Path) -> None:
    found = learning_curve("a", "local2x", points(1001))
    assert found is not None
    assert (found.metric, found.points[-1]) == ("dice", (1.0, 1.0))
    assert 40 < len(found.points) <= MAX_POINTS + 1
    assert learning_curve("a", "local2x", points(1)) is None
    write_curves(tmp_path, [found])
    assert read_curves(tmp_path) == (found,)
    assert read_curves(tmp_path / "of an earlier version") == ()


def test_the_frontier_is_what_nothing_beats_at_its_price() -> None:
    assert undominated([(2.0, 0.5), (1.0, 0.6), (3.0, 0.7), (3.0, 0.65), (0.0, 0.1)]) == [
        (0.0, 0.1),
        (1.0, 0.6),
        (3.0, 0.7),
    ]


def test_dice_stands_against_bytes_hours_and_leakage(run: Finished) -> None:
    attacked = {"card": {"findings": {"attacks": {"auc": 0.61}}}}
    derived = {**run.summary.derived, EVIL: {"audit": attacked}}
    panels = trade_offs(replace(run, summary=replace(run.summary, derived=derived)))
    assert [panel.price for panel in panels] == [
        "MB exchanged",
        "device hours",
        "AUC of the strongest attack",
    ]
    (leak,) = panels[2].points
    verdict = next(one for one in run.summary.verdicts if one.site == EVIL)
    assert verdict.home is not None
    assert (leak.name, leak.price, leak.own) == (EVIL, 0.61, verdict.home.difference)
    hours = {one.name: one.price for one in panels[1].points}
    assert hours["general"] == pytest.approx(0.03)


def test_the_gate_says_limit_found_and_whether_it_passed(run: Finished) -> None:
    rows = [
        {"name": "copies", "limit": "at most 50%", "found": "4%", "passed": True},
        {"name": "AUC", "limit": "at most 0.55", "found": "0.71", "passed": False},
    ]
    derived = {EVIL: {"audit": {"card": {"gate": rows}}}}
    found = gates(replace(run, summary=replace(run.summary, derived=derived)))
    assert [row.cells[:2] for row in found.rows] == [
        ("copies", "at most 50%"),
        ("AUC", "at most 0.55"),
    ]
    column = found.columns.index(EVIL)
    assert [row.cells[column] for row in found.rows] == ["passed: 4%", "FAILED: 0.71"]
    assert "NOT kept" in found.caption


def test_what_crossed_is_short_however_many_sites_there_are() -> None:
    transfers = [
        Transfer(sender=f"site-{k}", receiver="pool", stage="release", bytes=10) for k in range(9)
    ]
    (row,) = crossings(transfers).rows
    assert row.cells == ("release", "sites to pool", "9", "90")


def test_curves_and_trade_offs_are_figures_of_the_report(
    run: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "_saved", lambda _, form: form.encode())
    made = [learning_curve("pool", "general", points(9)), learning_curve("a", RELEASE, points(9))]
    write_curves(run.folder, [one for one in made if one is not None])
    assert next(title for title, _ in curve_panels(run)) == "generators"
    page = read(write_report([run], tmp_path))
    assert "How trainings went" in page.text
    assert "What Dice is paid for with" in page.text
    drawn = {path.stem for path in (tmp_path / "figures").glob("*.svg")}
    assert {f"frontier-{run.name}", f"curves-{run.name}"} <= drawn


def test_every_cell_knows_its_column_where_a_screen_is_narrow(
    run: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "_saved", lambda _, form: form.encode())
    content = write_report([run], tmp_path).read_text()
    assert content.count("<td") == content.count("<td data-name=")
    assert 'data-name="tested on"' in content
