"""The doctor examines a machine, a store and a cluster."""

from __future__ import annotations

import re
from pathlib import Path

from click.testing import CliRunner

from hyfree_ray.cli import main


def test_the_doctor_says_what_is_wrong_and_how_to_mend_it(tmp_path: Path) -> None:
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "thesis.docx").write_text("")
    config = tmp_path / "c.yaml"
    config.write_text("embedder_weights: /nowhere/weights.pt\n")
    arguments = ["doctor", "--store", str(thesis), "--config", str(config)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    wrong = [line for line in result.output.splitlines() if line.startswith("WRONG")]
    assert [line.split()[1] for line in wrong] == ["store", "configuration"]
    assert str(thesis) in wrong[0]
    assert "/nowhere/weights.pt" in result.output
    well = CliRunner().invoke(main, ["doctor", "--store", str(tmp_path / "new")])
    assert well.exit_code == 0, well.output
    assert re.search(r"ok +torch +\d", well.output)
    assert re.search(r"ok +memory +\d+\.\d GiB available", well.output)
    assert re.search(r"ok +ports", well.output)
    assert not (tmp_path / "new").exists()


def test_the_doctor_examines_a_cluster_that_is_not_there(tmp_path: Path) -> None:
    arguments = ["doctor", "--store", str(tmp_path / "s"), "--ray", "127.0.0.1:9"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert re.search(r"WRONG +ray +.*127\.0\.0\.1:9", result.output)
