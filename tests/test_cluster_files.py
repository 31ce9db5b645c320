"""The cluster's files: they parse, and name commands and options that exist."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from hyfree_ray.cli import main
from hyfree_ray.evaluation.regimes import trained_by

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "cluster"


@pytest.mark.parametrize("script", sorted(CLUSTER.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_valid_shell(script: Path) -> None:
    subprocess.run(["sh", "-n", str(script)], check=True)


CLUSTER_FIELDS = {
    "suspend", "managedBy", "authOptions", "autoscalerOptions", "headServiceAnnotations",
    "enableInTreeAutoscaling", "gcsFaultToleranceOptions", "headGroupSpec", "rayVersion",
    "workerGroupSpecs",
}  # fmt: skip
HEAD_FIELDS = {"template", "headService", "enableIngress", "rayStartParams", "serviceType"}
GROUP_FIELDS = {
    "suspend", "groupName", "replicas", "minReplicas", "maxReplicas", "idleTimeoutSeconds",
    "rayStartParams", "template", "scaleStrategy", "numOfHosts",
}  # fmt: skip
JOB_FIELDS = {
    "activeDeadlineSeconds", "backoffLimit", "rayClusterSpec", "submitterPodTemplate", "metadata",
    "clusterSelector", "submitterConfig", "managedBy", "deletionPolicy", "entrypoint",
    "runtimeEnvYAML", "jobId", "submissionMode", "entrypointResources", "entrypointNumCpus",
    "entrypointNumGpus", "ttlSecondsAfterFinished", "shutdownAfterJobFinishes", "suspend",
}  # fmt: skip
"""What the operator's types (ray.io/v1) know: it drops, or refuses, everything else."""


def check_cluster(spec: dict[str, Any], claims: set[str]) -> list[dict[str, Any]]:
    """A cluster's fields and those of its pods; its groups, the head's first."""
    assert set(spec) <= CLUSTER_FIELDS
    assert {"headGroupSpec", "rayVersion"} <= set(spec)
    assert spec["authOptions"] == {"mode": "token"}
    assert set(spec["headGroupSpec"]) <= HEAD_FIELDS
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for group in groups[1:]:
        assert set(group) <= GROUP_FIELDS
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert len({group["groupName"] for group in groups[1:]}) == len(groups) - 1
    for group in groups:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        (container,), (volume,) = pod["containers"], pod["volumes"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"]}
        assert volume["persistentVolumeClaim"]["claimName"] in claims
    return groups


def test_the_rayjob_has_the_operators_fields_and_keeps_its_store_on_the_claim() -> None:
    claim, job = yaml.safe_load_all((CLUSTER / "kuberay.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert set(job["spec"]) <= JOB_FIELDS
    check_cluster(job["spec"]["rayClusterSpec"], {claim["metadata"]["name"]})
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_the_raycluster_gives_each_hospital_a_pod_and_a_disk_of_its_own() -> None:
    *claims, cluster = yaml.safe_load_all((CLUSTER / "raycluster.yaml").read_text())
    assert (cluster["apiVersion"], cluster["kind"]) == ("ray.io/v1", "RayCluster")
    groups = check_cluster(cluster["spec"], {claim["metadata"]["name"] for claim in claims})
    # KubeRay puts the parameter into a shell command: JSON, in quotes.
    declared = [json.loads(shlex.split(g["rayStartParams"]["resources"])[0]) for g in groups]
    assert declared == [{"site:pool": 1}, {"site:A": 1}, {"site:B": 1}]
    disks = [
        volume["persistentVolumeClaim"]["claimName"]
        for group in groups
        for volume in group["template"]["spec"]["volumes"]
    ]
    assert len(set(disks)) == len(groups) == len(claims)


def test_the_raycluster_can_run_the_command_that_it_gives() -> None:
    """Its folders are mounted in every pod, and it trains on nobody else's images."""
    text = (CLUSTER / "raycluster.yaml").read_text()
    (command,) = re.findall(r"^# +(hyfree-ray simulate .*)$", text, re.M)
    options = shlex.split(command)[2:]
    given = dict(zip(options[::2], options[1::2], strict=True))
    *_, cluster = yaml.safe_load_all(text)
    for group in (cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        mounted = {mount["mountPath"]: mount["subPath"] for mount in container["volumeMounts"]}
        assert mounted.keys() == {given["--data"], given["--store"]}
        assert len(set(mounted.values())) == 2  # a store is in a folder of its own
    assert not set(given["--settings"].split(",")) & set(trained_by("oracle"))


def test_the_ray_up_file_is_accepted_by_rays_own_schema() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((CLUSTER / "ray-up.yaml").read_text())
    validate_config(prepare_config(config))


def test_ray_up_finds_ray_on_every_machine_and_has_the_head_start_the_others() -> None:
    config = yaml.safe_load((CLUSTER / "ray-up.yaml").read_text())
    head, worker = config["head_start_ray_commands"], config["worker_start_ray_commands"]
    for command in (*head, *worker):  # each is given to a shell of its own
        assert command.startswith(". ~/hyfree-ray/.venv/bin/activate && "), command
    assert "RAY_enable_autoscaler_v2=0 ray start --head " in head[-1]
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in head[-1]
    assert not {"min_workers", "max_workers"} & config.keys()  # all of them


@pytest.mark.parametrize("name", ["local.sh", "slurm.sh", "kuberay.yaml", "raycluster.yaml"])
def test_options_in_cluster_files_exist(name: str) -> None:
    text = (CLUSTER / name).read_text()
    options = CliRunner().invoke(main, ["simulate", "--help"]).output
    (line,) = [line for line in text.splitlines() if "hyfree-ray simulate --" in line]
    for word in line.split("hyfree-ray simulate")[1].split():
        if word.startswith("--"):
            assert word in options


SLURM = {
    "sbatch": r"""
import os, re, signal, subprocess, sys, time
script, *arguments = sys.argv[1:]
lines = [l.split()[1] for l in open(script) if l.startswith("#SBATCH")]
asked = dict(l.removeprefix("--").partition("=")[::2] for l in lines)
where, number, _ = re.fullmatch(r"(B:)?(\w+)@(\d+)", asked["signal"]).groups()
root = os.environ["STAND_IN"]
nodes = int(asked["nodes"])
names = [f"node{i}" for i in range(nodes)]
job = {"SLURM_JOB_ID": "77", "SLURM_JOB_NUM_NODES": str(nodes), "SLURM_JOB_NODELIST": "node[0-1]"}
while True:
    process = subprocess.Popen(["sh", script, *arguments], env={**os.environ, **job})
    if not os.path.exists(f"{root}/requeued"):  # its time is soon up
        while not os.path.exists(f"{root}/working"):
            time.sleep(0.02)
            assert process.poll() is None, "ended too early"
        assert where == "B:", "only the script is told"
        process.send_signal(getattr(signal, f"SIG{number}"))
    code = process.wait()
    again = os.path.exists(f"{root}/requeue")
    if not again:
        sys.exit(code)
    os.rename(f"{root}/requeue", f"{root}/requeued")
""",
    "scontrol": r"""
import os, sys
if sys.argv[1:3] == ["show", "hostnames"]:
    assert sys.argv[3] == "node[0-1]"
    print("node0\nnode1")
elif sys.argv[1] == "requeue":
    assert sys.argv[2] == "77"
    open(os.environ["STAND_IN"] + "/requeue", "w").close()
""",
    "scancel": r"""
import os, signal, sys
assert sys.argv[1:] == ["--signal=INT", "77"], "a step's tasks and not the script"
for pid in open(os.environ["STAND_IN"] + "/tasks").read().split():
    os.killpg(int(pid), signal.SIGINT)
""",
    "srun": r"""
import os, subprocess, sys
options = [a for a in sys.argv[1:] if a.startswith("--n")]
assert options == ["--nodes=2", "--ntasks=2"], options
command = sys.argv[1 + len(options):]
nodes = [{**os.environ, "SLURMD_NODENAME": f"node{i}"} for i in (0, 1)]
tasks = [subprocess.Popen(command, env=node, start_new_session=True) for node in nodes]
with open(os.environ["STAND_IN"] + "/tasks", "w") as file:
    print(*(task.pid for task in tasks if task.poll() is None), file=file)
sys.exit(max(abs(task.wait()) for task in tasks))
""",
    "ray": r"""
import os, subprocess, sys
assert sys.argv[1] == "symmetric-run"
split = sys.argv.index("--")
assert sys.argv[2:split] == ["--address", "node0:6379", "--min-nodes", "2"]
assert os.environ["RAY_AUTH_MODE"] == "token" and len(os.environ["RAY_AUTH_TOKEN"]) == 32
if os.environ["SLURMD_NODENAME"] == "node0":
    subprocess.run(sys.argv[split + 1:])
""",
    "hyfree-ray": r"""
import os, signal, sys, time
root = os.environ["STAND_IN"]
with open(f"{root}/called", "a") as file:
    file.write(" ".join([*sys.argv[1:], os.environ["HYFREE_STORE"]]) + "\n")
def leave(*_):
    open(f"{root}/checkpointed", "w").close()
    sys.exit(130)
signal.signal(signal.SIGINT, leave)
open(f"{root}/working", "w").close()
while not os.path.exists(f"{root}/checkpointed"):
    time.sleep(0.02)
""",
}
"""Stand-ins for the scheduler's commands, for `ray symmetric-run` (which ends every Ray of a
machine when it is done) and for a run, which is told to end once."""


def test_a_slurm_job_whose_time_is_up_is_queued_again_and_goes_on(tmp_path: Path) -> None:
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in SLURM.items():
        (commands / name).write_text(f"#!{sys.executable} -IS\n{text}")
        (commands / name).chmod(0o755)
    (commands / "activate").write_text("")
    environment = {
        **os.environ,
        "PATH": f"{commands}:{os.environ['PATH']}",
        "STAND_IN": str(tmp_path),
        "HYFREE_VENV": str(tmp_path),
        "SCRATCH": str(tmp_path / "scratch"),
    }
    done = subprocess.run(
        ["sbatch", str(CLUSTER / "slurm.sh"), "--sites", "6", "--store", "with space"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "requeued").exists()
    called = (
        f"simulate --ray node0:6379 --sites 6 --store with space {tmp_path}/scratch/hyfree-store"
    )
    assert (tmp_path / "called").read_text().splitlines() == [called, called]


def test_the_image_is_built_of_code_alone_and_of_all_that_it_copies() -> None:
    """A store, which holds images of patients, lies in the checkout and is never sent."""
    ignored, *kept = (ROOT / ".dockerignore").read_text().split()
    assert ignored == "*"
    copied = [
        name
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY ")
        for name in line.split()[1:-1]
    ]
    assert {f"!{name}" for name in copied} == {one for one in kept if one.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)
