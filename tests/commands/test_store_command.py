"""A store is looked at and emptied, and no folder becomes one by mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from hyfree_ray.cli import main
from hyfree_ray.core.records import write_record
from tests.hospitals import write_hospitals
from tests.refusals import refused
from tests.stage_records import stage_record


def test_what_there_is_no_run_or_store_of_is_one_line(tmp_path: Path) -> None:
    for arguments in (["track", "Phantom-0"], ["store", "ls"], ["store", "gc"]):
        result = CliRunner().invoke(main, [*arguments, "--store", str(tmp_path)])
        assert result.exit_code == 2
        assert result.output.startswith("error: ")
        assert result.output.count("\n") == 1


def test_an_empty_folder_is_as_good_for_a_new_store_as_none(tmp_path: Path) -> None:
    """What is known of the files would be the first file in there, were it kept now."""
    data, _ = write_hospitals(tmp_path)
    (tmp_path / "store").mkdir()
    given = ["--data", str(data), "--store", str(tmp_path / "store"), "--device", "cpu"]
    for _ in range(2):
        result = CliRunner().invoke(main, ["simulate", *given, "--dry-run"])
        assert result.exit_code == 0, result.output
    assert not list((tmp_path / "store").iterdir())


@pytest.mark.parametrize("command", ["contribute", "personalise", "score"])
def test_a_site_keeps_nothing_in_a_folder_before_it_is_its_store(
    tmp_path: Path, command: str
) -> None:
    """Neither in an empty one, where its name is wrong, nor in one of somebody else, ever."""
    data, _ = write_hospitals(tmp_path)
    general = [] if command == "contribute" else ["--general", str(tmp_path)]
    given = ["--data", str(data), *general, "--out", str(tmp_path / "out"), "--device", "cpu"]
    for name, code in (("empty", "option.unknown-site"), ("thesis", "store.not-a-store")):
        store = tmp_path / name
        store.mkdir()
        if name == "thesis":
            (store / "thesis.docx").touch()
        before = list(store.iterdir())
        arguments = ["site", command, *given, "--site", "nobody", "--store", str(store)]
        refused(CliRunner().invoke(main, arguments), code)
        assert list(store.iterdir()) == before


def test_snapshots_that_an_experiment_has_chosen_are_kept(tmp_path: Path) -> None:
    """Two experiments chose different ones of the same generator."""
    (tmp_path / "store.json").write_text('{"store_version": 1}')
    stages, key = tmp_path / "sites" / "site-1" / "stages", "a" * 64
    generator = stages / f"train_generator-{key[:20]}"
    (generator / "snapshots").mkdir(parents=True)
    write_record(generator, stage_record(key=key))
    for number in range(1, 5):
        (generator / "snapshots" / f"{number}.safetensors").write_text("weights")
    for folder, chosen in (("b" * 20, 1), ("c" * 20, 3)):
        result = {"snapshot": f"{chosen}.safetensors"}
        (stages / f"choose_snapshot-{folder}").mkdir()
        record = stage_record(inputs={"generator": key}, result=result)
        write_record(stages / f"choose_snapshot-{folder}", record)
    arguments = ["store", "gc", "--snapshots", "--store", str(tmp_path)]
    assert "in 2 files" in CliRunner().invoke(main, arguments).output
    left = sorted(file.name for file in (generator / "snapshots").iterdir())
    assert left == ["1.safetensors", "3.safetensors"]
