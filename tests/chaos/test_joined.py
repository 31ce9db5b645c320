"""Programs on a cluster that others have started; the numbers are those of docs/FAULTS.md."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hyfree_ray.core.processes import descendants
from tests import toys
from tests.chaos.on_ray import workers_run_toys
from tests.chaos.programs import under_way
from tests.chaos.test_cluster import head
from tests.chaos.test_signals import STUDY

pytestmark = pytest.mark.chaos


def killed(name: str) -> int:
    """Kill what this process has started, directly or not, under a name. How many they were."""
    found = [
        pid
        for pid in descendants(os.getpid())
        if Path(f"/proc/{pid}/comm").read_text().strip() == name
    ]
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    return len(found)


def test_10_a_head_of_others_that_is_killed_ends_the_run_as_soon_as_its_own(tmp_path: Path) -> None:
    """There is nobody left to take leave of, which by itself Ray tries for a while."""
    store, port = tmp_path / "store", "6436"
    command = ("simulate", "--budget", "smoke", "--device", "cpu")
    with (
        workers_run_toys(**{toys.STEP_S: "1", "RAY_AUTH_MODE": "disabled"}),
        head(port),
        under_way(store, *command, "--ray", f"127.0.0.1:{port}") as process,
    ):
        assert [killed(name) for name in ("gcs_server", "raylet")] == [1, 1]
        begun = time.monotonic()
        _, errors = process.communicate(timeout=120)
        took = time.monotonic() - begun
    assert process.returncode == 1
    assert "error: the head of the Ray cluster no longer answers" in errors
    assert took < 30


def test_08_a_study_on_a_cluster_of_others_that_is_told_to_end_leaves_no_simulation_behind(
    tmp_path: Path,
) -> None:
    """Its simulations are started by processes of the cluster, which stays."""
    (tmp_path / "study.yaml").write_text(STUDY)
    store, port = tmp_path / "store", "6438"
    command = ("study", str(tmp_path / "study.yaml"))
    with (
        workers_run_toys(**{toys.STEP_S: "1", "RAY_AUTH_MODE": "disabled"}),
        head(port),
        under_way(store, *command, "--ray", f"127.0.0.1:{port}") as process,
    ):
        assert len(simulations(store)) == 1
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 143, errors
        begun = time.monotonic()
        while left := simulations(store):
            assert time.monotonic() - begun < 20, left
            time.sleep(0.1)


def simulations(store: Path) -> list[str]:
    """Processes of this machine that simulate on a store."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            arguments = file.read_bytes().decode(errors="replace").split("\0")
            if any(f"in {store}/studies/" in argument for argument in arguments):
                found.append(file.parent.name)
    return found


def test_80_the_doctor_asks_a_cluster_for_a_token_that_it_was_not_given_the_address_of(
    tmp_path: Path,
) -> None:
    """`auto`, as the files in cluster/ say: Ray looks for it."""
    port = "6437"
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 32, "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "hyfree_ray.cli", "doctor", "--ray", "auto"]
    with head(port, **token):
        done = subprocess.run(
            [*command, "--store", str(tmp_path / "s")],
            env={**os.environ, **token, "RAY_ADDRESS": f"127.0.0.1:{port}"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert "ok    token           required" in done.stdout, done.stdout
