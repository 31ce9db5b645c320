"""A report of made-up runs of two uneven sites, one of which is called as an attacker would."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyfree_ray.config.resolution import resolve_experiment
from hyfree_ray.evaluation.regimes import RELEASE
from hyfree_ray.reports import figures
from hyfree_ray.reports.parts import command, device_hours, exchanged_bytes
from hyfree_ray.reports.pictures import contact_sheet, strip
from hyfree_ray.reports.report import write_report
from hyfree_ray.results.finished import BY_STEP, Finished, read_finished
from hyfree_ray.results.summary import Partition, StageRun, Transfer
from tests.refusals import refuses
from tests.results.test_pooled import call, finished

EVIL = "<script>alert(1)</script>&$x^2$"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return whole(tmp_path_factory.mktemp("store"), 0)


def stage_run(owner: str, stage: str, purpose: str) -> StageRun:
    return StageRun(
        owner=owner,
        name=purpose if stage == "train_segmenter" else stage,
        stage=stage,
        key=f"{stage} for {purpose}",
        purpose=purpose,
        seconds=40.0,
        device_seconds=36.0,
    )


def whole(store: Path, fold: int, seed: int = 0, **settings: Any) -> Finished:
    """A run with all that an observer leaves; its northern site has a hostile name."""
    made = finished(store, fold, seed, **settings)
    for name in ("summary.json", "results.csv"):
        path = made.folder / name
        path.write_text(
            path.read_text().replace('"north"', json.dumps(EVIL)).replace("north", EVIL)
        )
    described = json.loads((made.folder / "summary.json").read_text())
    spent = {"seconds": 40.0, "device_seconds": 36.0, "peak_memory_mib": 700.0}
    experiment, reasons = resolve_experiment(
        budget="smoke", generator="flow", device="cpu", fold=fold, seed=seed
    )
    described |= {
        "experiment": experiment.model_dump(mode="json", exclude={"embedder_weights"}),
        "reasons": reasons,
        "derived": {
            EVIL: {
                "audit": {"card": {"self_test": {"mirrored": {"features": 0.2, "any": 0.97}}}},
                "quality_card": {"kid": 0.00123, "membership": {"measurable": False}},
                "pixel_correlation": {
                    where: {
                        "samples": {"median": 0.71, "percentile_95": 0.8, "highest": 0.876},
                        "real_to_real": {"median": 0.5, "percentile_95": 0.6, "highest": 0.7},
                        "above_real": 0.125,
                    }
                    for where in ("full_grid", "foreground")
                },
            },
            "south": {"audit": {"card": None}},
        },
        "compute": {
            EVIL: {"local": spent, "local2x": spent, "finetuned": spent, "train_generator": spent},
            "pool": {"train_general": spent},
        },
        "stages": [
            vars(stage_run(EVIL, "train_segmenter", "local")),
            vars(stage_run(EVIL, "train_segmenter", "local2x")),
            vars(stage_run(EVIL, "train_segmenter", "finetuned")),
            vars(stage_run(EVIL, "train_generator", RELEASE)),
            vars(stage_run(EVIL, "score", "local")),
            vars(stage_run("pool", "train_general", "general")),
        ],
        "ledger": [{"from": EVIL, "to": "pool", "stage": "release", "bytes": 12345}],
        "versions": {"hyfree-ray": "0"},
        "missing": [
            {
                "site": EVIL,
                "outcome": "failed",
                "reason": "",
                "models": ["general", "finetuned"],
                "images": 7,
                "of_images": 12,
                "vain_seconds": 70.0,
                "unfinished_seconds": 9.0,
            }
        ],
        "straggler": {"site": "south", "seconds": 31.4},
    }
    (made.folder / "summary.json").write_text(json.dumps(described))
    events = [
        {"name": name, "ph": "X", "ts": k * 4e7, "dur": 4e7, "args": {"owner": owner}}
        for k, (name, owner) in enumerate((("local", EVIL), ("train_general", "pool")))
    ]
    (made.folder / "timeline.json").write_text(json.dumps(events))
    (made.folder / "samples").mkdir()
    images_NCHW = np.random.default_rng(0).random((3, 1, 20, 32))
    contact_sheet(made.folder / "samples" / "south.png", images_NCHW, None, "south")
    return read_finished(made.folder)


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn and not rendered: who reads the text alone need not wait for them."""
    monkeypatch.setattr(figures, "_saved", lambda _, form: form.encode())


@pytest.fixture(scope="module")
def written(run: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report."""
    return write_report([run], tmp_path_factory.mktemp("report")).parent


@pytest.mark.usefixtures("unrendered")
def test_a_run_without_a_general_model_has_a_report(tmp_path: Path) -> None:
    made = whole(tmp_path, 0)
    alone = replace(
        made, rows=tuple(row for row in made.rows if row.regime in {"local", "local2x"})
    )
    text = read(write_report([alone], tmp_path / "out")).text
    assert "There is no general model" in text
    assert "the hospital's own images alone" in text


class Reader(HTMLParser):
    """Collects tags, what they point to, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [v for name, v in attrs if v and name in {"src", "href", "srcset", "data"}]

    def handle_data(self, data: str) -> None:
        self.text += data


def read(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text())
    return reader


def test_the_report_needs_no_network_and_no_script(written: Path) -> None:
    page = read(written / "report.html")
    assert "script" not in page.tags
    assert all(link.startswith(("data:image/", "#")) for link in page.links)
    content = (written / "report.html").read_text()
    assert not re.search(r"url\(|@import|http-equiv", content)
    for link in page.links:
        if link.startswith("data:image/svg"):
            svg = base64.b64decode(link.partition(",")[2]).decode()
            assert "<script" not in svg
            assert not re.search(r'href="(?!#|data:image/png;base64)', svg)


def test_names_are_text_everywhere(written: Path) -> None:
    """Case 82."""
    page = read(written / "report.html")
    assert EVIL in page.text
    assert "$x^2$" in page.text


def test_it_says_what_the_runs_files_say(run: Finished, written: Path) -> None:
    text = " ".join(read(written / "report.html").text.split())
    assert "one seed; training noise not included" in text
    assert "finetuned against local2x, at home" in text
    assert "does the shared model that should travel best beat" in text
    for one in run.summary.verdicts:
        assert f"{one.site}: {one.advice}" in text
    assert text.index(run.summary.verdicts[0].advice) < text.index("Did it help?")
    assert "Appendix: the paper's own test" in text
    assert "not a declaration of anonymity" in text
    assert "12,345 bytes in total" in text
    assert re.search(r"self test: mirrored, found by any detector\s*0\.97\s*–", text)
    assert "Critical path: 80 of 80 s" in text
    names = {path.name for path in (written / "figures").iterdir()}
    figures = ("contrasts", "dice-by-test-site", "dice-matrix", f"timeline-{run.name}")
    figures += (f"frontier-{run.name}",)
    assert names == {f"{name}.{form}" for name in figures for form in ("png", "svg")}


def test_it_says_what_it_cost_that_a_site_was_missing(run: Finished, written: Path) -> None:
    text = " ".join(read(written / "report.html").text.split())
    cells = (EVIL, "failed", "general, finetuned", "7 of 12", "79")
    assert re.search(r"\s*".join(map(re.escape, cells)), text)
    assert "that of south, 31 s after the previous one" in text


def test_the_settings_in_the_report_give_the_same_experiment(run: Finished, written: Path) -> None:
    again, _ = resolve_experiment(
        budget=None, generator=None, device="cpu", file=written / f"experiment-{run.name}.yaml"
    )
    expected = run.summary.experiment
    assert again.model_dump(mode="json", exclude={"embedder_weights"}) == expected


def test_equal_runs_give_equal_reports(run: Finished, written: Path, tmp_path: Path) -> None:
    again = write_report([run], tmp_path)
    assert again.read_bytes() == (written / "report.html").read_bytes()


@pytest.mark.usefixtures("unrendered")
def test_folds_are_pooled_and_each_run_has_its_part(tmp_path: Path) -> None:
    runs = [whole(tmp_path, fold) for fold in (0, 1)]
    text = " ".join(read(write_report(runs, tmp_path / "out")).text.split())
    assert "Test folds 0, 1; seed 0." in text
    assert "mean ± sd over the folds" in text
    assert all(f"Run {run.name}" in text for run in runs)


@pytest.mark.usefixtures("unrendered")
def test_drawn_sites_of_two_seeds_have_twice_the_patients_in_the_box_plots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [whole(tmp_path, 0, k, data={"north": f"n{k}", "south": "s"}) for k in (0, 1)]
    drawn, draw = [], figures.box_plots
    monkeypatch.setattr(
        figures,
        "box_plots",
        lambda theme, boxes, *rest: (drawn.append(boxes), draw(theme, boxes, *rest))[1],
    )
    write_report(runs, tmp_path / "out")
    counts = {test: len(values) for (_, test, _), values in drawn[0].items()}
    assert counts == {EVIL: 2 * 12, "south": 7}


@pytest.mark.usefixtures("unrendered")
def test_real_pictures_are_there_only_where_a_site_names_its_folder(
    run: Finished, written: Path, tmp_path: Path
) -> None:
    audit = tmp_path / "audit"
    audit.mkdir()
    with refuses("report.no-pictures", str(audit)):
        write_report([run], tmp_path / "out", real=[audit])
    assert not (tmp_path / "out").exists()
    contact_sheet(audit / "nearest_pairs-1.png", np.zeros((2, 1, 9, 14)), None, "real")
    picture = base64.b64encode((audit / "nearest_pairs-1.png").read_bytes()).decode()
    assert picture not in (written / "report.html").read_text()
    content = write_report([run], tmp_path / "with", real=[audit]).read_text()
    assert picture in content
    assert "must not leave it" in content


def test_device_hours_count_what_a_regime_stands_on(run: Finished) -> None:
    assert device_hours(run, "local") == pytest.approx(0.01)
    assert device_hours(run, "general") == pytest.approx(0.03)
    assert device_hours(run, "finetuned") == pytest.approx(0.04)
    assert device_hours(run, "real-all") is None


def test_bytes_of_a_regime_are_of_what_it_needs_from_others_and_hands_to_them(
    run: Finished,
) -> None:
    general, public = (
        replace(stage_run("pool", "train_general", regime), key=regime)
        for regime in ("general", "general-public")
    )
    sent = [
        ("north", "pool", "release", "r", 1_000),
        ("pool", "south", "release", "r", 1_000),
        ("north", "pool", "label_public", "l", 30),
        ("pool", "south", "label_public", "l", 30),
        ("pool", "north", "train_general", "general", 200_000),
        ("pool", "north", "train_general", "general-public", 500_000),
        ("north", "south", "train_segmenter", "s", 7_000_000),
    ]
    ledger = tuple(
        Transfer(sender=one, receiver=other, stage=stage, key=key, bytes=count)
        for one, other, stage, key, count in sent
    )
    stages = (*run.summary.stages, general, public)
    derived = {"oracle": {"fedavg": {"exchanged_bytes": 99}}}
    more = replace(run, summary=replace(run.summary, ledger=ledger, stages=stages, derived=derived))
    expected = {
        **{"local": 0, "local2x": 0, "general": 201_000, "finetuned": 201_000},
        **{"personalised": 202_000, "general-public": 500_030, "personalised-public": 500_060},
        **{"ensemble": 202_000, "local-ensemble": 0, "own-syn": 0, "fedavg": 99, "real-all": None},
    }
    assert {regime: exchanged_bytes(more, regime) for regime in expected} == expected


def test_the_command_deals_patients_out_as_the_run_did(run: Finished) -> None:
    def told(how: str) -> str:
        dealt = Partition(how=how, sites=2)
        summary = replace(run.summary, cohort="Lung", partition=dealt)
        return command(replace(run, summary=summary), "e.yaml")

    start = "hyfree-ray simulate --data DIR/Lung "
    assert told("random") == f"{start}--partition random --sites 2 --config e.yaml"
    assert told("column:scanner") == f"{start}--partition column:scanner --config e.yaml"
    assert told("natural") == f"{start}--config e.yaml"


@pytest.mark.usefixtures("unrendered")
def test_further_settings_and_what_they_lack_are_in_the_report(
    run: Finished, tmp_path: Path
) -> None:
    left_out = [
        replace(row, regime="leave-one-out")
        for row in run.rows
        if row.regime == "local2x" and row.train_site == row.test_site
    ]
    note = "south: no own-syn: it has no release"
    more = replace(run, rows=(*run.rows, *left_out), summary=replace(run.summary, notes=(note,)))
    text = " ".join(read(write_report([more], tmp_path)).text.split())
    assert "Dice of further settings minus local2x, over all sites" in text
    assert "leave-one-out(the others)" in text  # a row of the layout
    assert f"{note}." in text


def with_more(run: Finished, stages: Iterable[tuple[str, str]], **more: Any) -> Finished:
    """The run, with further stages and what for, each of 36 device seconds."""
    further = tuple(stage_run("pool", stage, purpose) for stage, purpose in stages)
    summary = replace(run.summary, stages=(*run.summary.stages, *further), **more)
    return replace(run, summary=summary)


def test_device_hours_of_further_general_models_are_their_own(run: Finished) -> None:
    more = with_more(
        run,
        [
            ("train_general", "syn"),
            ("train_general", "leave-one-out"),
            ("train_segmenter", "mix-50"),
            ("train_segmenter", "real-all"),
        ],
    )
    assert device_hours(more, "general") == pytest.approx(0.03)
    for regime in ("syn", "leave-one-out", "mix-50"):
        assert device_hours(more, regime) == pytest.approx(0.03)
    assert device_hours(more, "real-all") == pytest.approx(0.01)


def test_device_hours_of_further_samples_are_those_of_their_regime_alone(run: Finished) -> None:
    more = with_more(run, [("synthesise", "own-syn"), ("train_segmenter", "own-syn")])
    assert device_hours(more, "own-syn") == pytest.approx(0.04)
    assert device_hours(more, "general") == pytest.approx(0.03)
    assert device_hours(more, "local") == pytest.approx(0.01)


def test_device_hours_of_a_run_of_an_earlier_version_are_not_told(run: Finished) -> None:
    stages = tuple(replace(stage, purpose="") for stage in run.summary.stages)
    earlier = replace(run, summary=replace(run.summary, stages=stages))
    assert device_hours(earlier, "local") is None


def test_a_labeller_of_more_steps_is_paid_for_by_what_is_made_of_releases(run: Finished) -> None:
    experiment = {**run.summary.experiment, "labeller": "local2x"}
    assert device_hours(with_more(run, [], experiment=experiment), "general") == pytest.approx(0.04)


@pytest.mark.usefixtures("unrendered")
def test_the_command_says_where_the_report_is(run: Finished) -> None:
    store = run.folder.parents[1]
    folder = store / "studies" / "scale-1"
    folder.mkdir(parents=True)
    points = {"finetuned minus local2x, own": [[2, 0.01, -0.01, 0.03], [4, 0.02, None, None]]}
    (folder / "curve.json").write_text(json.dumps(points))
    missing = call("report", run.name, "--store", store, "--study", "other")
    assert missing.exit_code == 2
    assert "there are: scale-1" in missing.output
    result = call("report", run.name, "--store", store, "--study", "scale-1")
    assert result.exit_code == 0, result.output
    path = Path(result.stdout.removeprefix("report: ").strip())
    assert path == store / "reports" / run.name / "report.html"
    assert "With more sites" in read(path).text
    assert (path.parent / "figures" / "scaling.svg").is_file()
    refused = call("report", "none", "--store", store)
    assert refused.exit_code == 2
    assert "there are:" in refused.output


@pytest.mark.usefixtures("unrendered")
def test_a_phantoms_samples_stand_in_order_of_training_beside_new_patients(tmp_path: Path) -> None:
    made = whole(tmp_path, 0)
    folder = made.folder / BY_STEP / "south"
    folder.mkdir(parents=True)
    for name in ("step-00000900.png", "step-00001000.png", "new-patients.png"):
        strip(folder / name, np.linspace(-1, 1, 2 * 6 * 9).reshape(2, 1, 6, 9))
    text = read(write_report([made], tmp_path / "out")).text
    places = [
        text.index(said) for said in ("900 images shown", "1000 images shown", "new patients")
    ]
    assert places[:2] == sorted(places[:2])
    assert "images shown" not in read(write_report([whole(tmp_path, 1)], tmp_path / "two")).text
