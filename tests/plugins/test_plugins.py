"""Another package brings generators, an architecture, a regime and a metric, a file each.

The package lies beside this file. It is installed into a folder of its own, not beside the project.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient

import hyfree_ray
from hyfree_ray.border.release import read_release
from hyfree_ray.evaluation.scores import read_results
from hyfree_ray.generators import GENERATORS
from hyfree_ray.segmenters import SEGMENTERS
from tests.cards import card
from tests.release_files import described, put

PACKAGE = "hyfree_toys"
FROM = "hyfree-toys 0.3.1"
PROJECT = Path(hyfree_ray.__file__).parent
OPEN = (
    "max_rejection_rate=1",
    "min_copy_recall=0",
    "max_attack_auc=1",
    "max_attack_tpr=1",
    "min_patient_p=0",
)
"""The gate is another test's concern: what three epochs of a toy draw is let out."""
SMOKE = (
    *("simulate", "--budget", "smoke", "--precision", "fp32", "--ray", "off"),
    *("--segmenter", "toy", "--metrics", "toy_recall"),
    *(part for one in (*OPEN, "min_recall_mirrored=0") for part in ("--set", f"gate.{one}")),
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pip has put the package."""
    source, target = (tmp_path_factory.mktemp(name) for name in ("source", "target"))
    shutil.copytree(Path(__file__).parent, source, dirs_exist_ok=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    pip += ["--no-build-isolation", "--disable-pip-version-check", "--target", str(target)]
    subprocess.run([*pip, str(source)], check=True)
    return target


def python(installed: Path, code: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run code in a process that finds the package."""
    path = os.pathsep.join([str(installed), str(PROJECT.parent)])
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def call(installed: Path, *arguments: str | Path) -> str:
    """Give a command; what it printed."""
    done = python(installed, "from hyfree_ray.cli import main; main()", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plugins") / "store"


@pytest.fixture(scope="module")
def pairs(installed: Path, store: Path) -> tuple[Path, str]:
    """A run with the generator of pairs: its folder, and what the command printed."""
    printed = call(
        installed,
        *SMOKE,
        "--generator",
        "toy-pairs",
        "--settings",
        "personalised,toy-glance",
        "--store",
        store,
    )
    (folder,) = (store / "runs").iterdir()
    return folder, printed


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def stage(store: Path, site: str, name: str) -> tuple[Path, Mapping[str, Any]]:
    """Folder and record of a site's newest stage of that name."""
    folders = (store / "sites" / site / "stages").glob(f"{name}-*")
    folder = max(folders, key=lambda one: one.stat().st_mtime)
    return folder, json.loads((folder / "record.json").read_text())


def test_no_file_of_the_project_knows_the_package() -> None:
    known = [
        file
        for file in PROJECT.rglob("*")
        if file.suffix in {".py", ".yaml", ".html"} and PACKAGE in file.read_text()
    ]
    assert known == []


def test_help_and_doctor_list_what_is_installed_and_import_none_of_it(installed: Path) -> None:
    code = (
        "import sys\n"
        "from hyfree_ray.cli import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit:\n"
        f"    assert not any(name.startswith({PACKAGE!r}) for name in sys.modules)\n"
    )
    shown = python(installed, code, "simulate", "--help")
    assert shown.returncode == 0, shown.stderr
    own = [generator.name for generator in GENERATORS.built_in()]
    assert f"[{'|'.join(['auto', *own, 'toy', 'toy-pairs'])}]" in shown.stdout
    architectures = [segmenter.name for segmenter in SEGMENTERS.built_in()]
    assert f"[{'|'.join([*architectures, 'toy'])}]" in shown.stdout
    doctor = python(installed, code, "doctor")
    assert f"{', '.join(own)}, toy ({FROM}), toy-pairs ({FROM})" in doctor.stdout
    assert f"toy_recall ({FROM})" in doctor.stdout


def test_a_dry_run_names_the_package_and_imports_no_torch(installed: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from hyfree_ray.cli import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    assert not end.code\n"
        f"assert {PACKAGE + '.images'!r} in sys.modules\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = python(
        installed, code, *SMOKE, "--generator", "toy", "--dry-run", "--store", tmp_path / "s"
    )
    assert done.returncode == 0, done.stderr
    for what in ("generator toy", "segmenter toy", "metric toy_recall"):
        assert f"{what}: of the package {FROM}" in done.stdout


def test_settings_of_another_packages_generator_are_checked_by_its_record(
    installed: Path,
) -> None:
    code = "from hyfree_ray.cli import main; main()"
    wrong = ("--generator", "toy", "--dry-run", "--set", "generator.config.cells=1")
    done = python(installed, code, *SMOKE, *wrong)
    assert done.returncode == 2
    assert "error: generator.config.cells: " in done.stdout + done.stderr


def test_the_masks_of_pairs_stand_in_the_release_by_value(
    installed: Path, store: Path, pairs: tuple[Path, str]
) -> None:
    for site in ("site-1", "site-2"):
        folder, record = stage(store, site, "release")
        samples, drawn = stage(store, site, "synthesise")
        manifest = json.loads((folder / "manifest.json").read_text())
        found = read_release(folder, site=site, experiment=manifest["experiment"])
        masks_NHW = np.load(samples / "masks.npy")
        np.testing.assert_array_equal(found.labels_NHW, masks_NHW)
        assert set(np.unique(masks_NHW)) == {0, 1, 2}
        assert drawn["versions"]["hyfree-toys"] == "0.3.1"
        # As they were drawn: each mask is that of its image's number in the series.
        generator, _ = stage(store, site, "train_generator")
        code = (
            "import json, sys; from pathlib import Path; import numpy as np\n"
            "from hyfree_ray import generators\n"
            "workdir, seed, out = sys.argv[1:]\n"
            "snapshot = sorted((Path(workdir) / 'snapshots').iterdir())[-1].name\n"
            "series = dict(start=0, count=96, seed=int(seed), device='cpu', precision='fp32')\n"
            "drawn = generators.sample_with_masks(Path(workdir), snapshot, **series)\n"
            "np.save(out, np.concatenate([batch.masks_NHW for batch in drawn]))\n"
        )
        out = store / f"{site}.npy"
        seed = drawn["params"]["seed"]
        again = python(installed, code, generator, str(seed), out)
        assert again.returncode == 0, again.stderr
        series = {mask.tobytes() for mask in np.load(out)}
        assert all(mask.tobytes() in series for mask in masks_NHW)
        assert record["result"]["images"] == len(masks_NHW)


def test_table_report_and_mlflow_name_what_another_package_brought(
    installed: Path, store: Path, pairs: tuple[Path, str], tmp_path: Path
) -> None:
    folder, printed = pairs
    tables = call(installed, "results", folder.name, "--store", store)
    assert "toy recall" in tables
    for what in (
        *("generator toy-pairs", "segmenter toy"),
        *("regime toy-glance", "metric toy_recall"),
    ):
        assert f"{what} is of the package {FROM}" in printed + tables
    assert {row.metric for row in read_results(folder / "results.csv")} >= {"dice", "toy_recall"}
    report = tmp_path / "report"
    call(installed, "report", folder.name, "--store", store, "--out", report)
    page = next(report.glob("*.html")).read_text()
    assert f"generator toy-pairs: of the package {FROM}" in page
    assert "toy recall x 100 by test site" in page
    client = MlflowClient(f"sqlite:///{store / 'mlflow.db'}")
    runs = [
        run
        for experiment in client.search_experiments()
        for run in client.search_runs([experiment.experiment_id])
    ]
    named = [run for run in runs if run.data.params.get("generator.name") == "toy-pairs"]
    assert named
    assert any(name.startswith("toy_recall.own.") for run in named for name in run.data.metrics)
    assert any(name.endswith(".toy-glance") for run in named for name in run.data.metrics)


def test_a_regime_is_trained_by_its_own_function_and_stands_in_every_table(
    installed: Path, pairs: tuple[Path, str], store: Path
) -> None:
    folder, _ = pairs
    assert "toy-glance" in call(installed, "results", folder.name, "--store", store)
    rows = read_results(folder / "results.csv")
    assert {row.train_site for row in rows if row.regime == "toy-glance"} == {"site-1", "site-2"}
    trained = [
        json.loads(record.read_text())
        for record in (store / "sites" / "site-1" / "stages").glob("train_segmenter-*/record.json")
    ]
    assert 1 in {one["params"]["epochs"] for one in trained}


def test_an_experiment_records_package_and_version_and_its_settings(
    pairs: tuple[Path, str],
) -> None:
    found = summary(pairs[0])
    assert found["versions"]["hyfree-toys"] == "0.3.1"
    assert found["experiment"]["generator"] == {
        "name": "toy-pairs",
        "pairing": "joint",
        "mask_encoding": "one-hot",
        "config": {},
    }
    assert found["experiment"]["segmenter"] == "toy"
    assert found["experiment"]["metrics"] == ["toy_recall"]


def test_a_metric_is_aggregated_as_its_record_says(pairs: tuple[Path, str]) -> None:
    rows = [row for row in read_results(pairs[0] / "results.csv") if row.metric == "toy_recall"]
    own = [r for r in rows if r.regime == "local" and r.train_site == r.test_site == "site-1"]
    patients: dict[int, dict[int, list[float]]] = {}
    for row in own:
        patients.setdefault(row.patient, {}).setdefault(row.case, []).append(row.value)
    means = [np.mean([np.mean(case) for case in cases.values()]) for cases in patients.values()]
    (site,) = (s for s in summary(pairs[0])["sites"] if s["outcome"]["site"] == "site-1")
    (score,) = (s for s in site["scores"] if (s["regime"], s["tested"]) == ("local", "own"))
    assert score["toy_recall"] == pytest.approx(np.median(means), abs=1e-6)


def test_a_generator_of_images_is_labelled_by_another_packages_architecture(
    installed: Path, store: Path, pairs: tuple[Path, str]
) -> None:
    call(installed, *SMOKE, "--generator", "toy", "--settings", "", "--store", store)
    (folder,) = set((store / "runs").iterdir()) - {pairs[0]}
    assert summary(folder)["experiment"]["generator"] == {
        "name": "toy",
        "pairing": "labelled",
        "mask_encoding": "one-hot",
        "config": {"cells": 5},
    }
    samples, _ = stage(store, "site-2", "synthesise")
    assert not (samples / "masks.npy").exists()
    _, released = stage(store, "site-2", "release")
    assert released["result"]["images"] > 0
    model, _ = stage(store, "site-2", "train_segmenter")
    assert json.loads((model / "model" / "model.json").read_text())["segmenter"] == "toy"
    generator, trained = stage(store, "site-2", "train_generator")
    described = json.loads((generator / "generator.json").read_text())
    assert (described["generator"], described["config"]) == ("toy", {"cells": 5})
    assert described["plan"]["cells"] == 5
    assert trained["result"]["derivation"][-1].endswith(
        "5 x 5 cells of noise, enlarged to the patch"
    )


MARK = "from pathlib import Path\nPath(__file__).with_name('imported').touch()\n"


def test_who_checks_what_others_handed_in_imports_no_other_package(
    installed: Path, tmp_path: Path
) -> None:
    """Case 73: whatever a release's card names, the check and its child import nothing for it."""
    marked = tmp_path / "marked"
    shutil.copytree(installed, marked)
    (marked / PACKAGE / "__init__.py").write_text(MARK)
    folder = tmp_path / "release"
    put(folder, described(card=card(images=5, generator="toy")))
    code = (
        "import sys; from pathlib import Path\n"
        "from hyfree_ray.border.release_guard import SubmittedRelease, check_releases\n"
        "from hyfree_ray.core.errors import HyfreeError\n"
        "from hyfree_ray.core.registry import built_in_only\n"
        "from hyfree_ray.generators import GENERATORS\n"
        "given = dict(site='site-1', experiment='e' * 64, round_number=3)\n"
        "print(check_releases([SubmittedRelease(folder=Path(sys.argv[1]), **given)]))\n"
        "assert 'toy' in GENERATORS\n"
        "with built_in_only():\n"
        "    try:\n"
        "        GENERATORS['toy']\n"
        "    except HyfreeError as error:\n"
        "        assert error.code == 'extension.not-imported'\n"
        "    else:\n"
        "        raise AssertionError\n"
    )
    done = python(marked, code, folder)
    assert done.returncode == 0, done.stderr
    assert "ReleaseMetadata(" in done.stdout
    mark = marked / PACKAGE / "imported"
    assert not mark.exists()
    named = python(marked, "from hyfree_ray.generators import GENERATORS; GENERATORS['toy']")
    assert named.returncode == 0, named.stderr
    assert mark.exists()
