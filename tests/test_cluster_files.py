"""The cluster's files: they parse, and name commands and options that exist."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from hyfree_ray.cli import main

CLUSTER = Path(__file__).parents[1] / "cluster"


@pytest.mark.parametrize("script", sorted(CLUSTER.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_valid_shell(script: Path) -> None:
    subprocess.run(["sh", "-n", str(script)], check=True)


def test_the_rayjob_is_the_operators_kind_and_keeps_its_store_on_the_claim() -> None:
    claim, job = yaml.safe_load_all((CLUSTER / "kuberay.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]["rayClusterSpec"]
    assert spec["authOptions"]["mode"] == "token"
    pods = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for pod in pods:
        (volume,) = pod["template"]["spec"]["volumes"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


def test_the_ray_up_file_is_accepted_by_rays_own_schema() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((CLUSTER / "ray-up.yaml").read_text())
    validate_config(prepare_config(config))


@pytest.mark.parametrize("name", ["local.sh", "slurm.sh", "kuberay.yaml"])
def test_options_in_cluster_files_exist(name: str) -> None:
    text = (CLUSTER / name).read_text()
    options = CliRunner().invoke(main, ["simulate", "--help"]).output
    (line,) = [line for line in text.splitlines() if "hyfree-ray simulate --" in line]
    for word in line.split("hyfree-ray simulate")[1].split():
        if word.startswith("--"):
            assert word in options
