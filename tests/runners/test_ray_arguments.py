"""What actors are made of stays with them: Ray has nothing to warn of, and can start them again."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import ray

from hyfree_ray.runners import ray_arguments
from hyfree_ray.runners.ray_arguments import pack, unpack
from hyfree_ray.runners.ray_cluster import _starts_at_once

LARGE = {"cases": os.urandom(3 * ray_arguments.PIECE_BYTES)}
"""Nothing makes it smaller."""


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Holder:
    def __init__(self, *value: bytes) -> None:
        self.value = unpack(value)

    def answer(self) -> tuple[int, Any]:
        return os.getpid(), self.value


@pytest.mark.usefixtures("cluster")
def test_a_large_argument_goes_with_its_actor_and_makes_it_again(
    capfd: pytest.CaptureFixture[str],
) -> None:
    pieces = pack(LARGE)
    assert len(pieces) > 3
    holder = Holder.remote(*pieces)
    pid, value = ray.get(holder.answer.remote())
    assert value == LARGE
    os.kill(pid, 9)
    again, value = ray.get(holder.answer.remote())
    assert again != pid
    assert value == LARGE
    assert "constructor arguments" not in "".join(capfd.readouterr())


@pytest.mark.usefixtures("cluster")
def test_what_is_too_large_to_go_with_its_actor_is_referred_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray_arguments, "INLINE_BYTES", 1000)
    (reference,) = pack(LARGE)
    assert isinstance(reference, ray.ObjectRef)
    assert ray.get(Holder.remote(reference).answer.remote())[1] == LARGE


MANY_ACTORS = """
import sys
import ray
from hyfree_ray.runners.ray_cluster import connect, disconnect

@ray.remote(num_cpus=0)
class Actor:
    def answer(self):
        return 1

connect("local", cpus=1, actors=int(sys.argv[1]))
actors = [Actor.remote() for _ in range(16)]
assert sum(ray.get([actor.answer.remote() for actor in actors])) == 16
ray.get(ray.remote(lambda: 1).remote())
disconnect()
"""


@pytest.mark.slow
def test_ray_takes_many_parties_on_few_cpus_for_no_mistake() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MANY_ACTORS, "16"], capture_output=True, text=True, check=True
    )
    assert done.stdout + done.stderr == ""


def test_ray_starts_so_many_processes_at_once_that_it_warns_of_none() -> None:
    cores = os.cpu_count() or 1
    assert _starts_at_once(None, 0) == cores + 1
    assert _starts_at_once(1, 3) == 3
    assert _starts_at_once(2, 66) == 19
    two_general_trainings_and_seven_parties = 15
    assert 4 * _starts_at_once(2, 7) > two_general_trainings_and_seven_parties
