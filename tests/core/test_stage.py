"""What a stage is, and how one is run."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from hyfree_ray.core.artifacts import Artifact, Call
from hyfree_ray.core.errors import HyfreeError, StageError
from hyfree_ray.core.execution import execute
from hyfree_ray.core.journal import METRICS, attempts, read_metrics
from hyfree_ray.core.records import RECORD
from hyfree_ray.core.stage import Context, Preempted, Stage, stage
from tests.refusals import refuses


@stage(version=3, device=True, private=("cases",))
def count(context: Context, *, start: int, cases: list[str], previous: Path) -> dict[str, Any]:
    """Adds up, one step at a time, and stops when told to by a file beside its input."""
    done = len(read_metrics(context.out))
    for step in range(done + 1, 5):
        if (previous / f"die-{step}").exists():
            raise RuntimeError("killed for the test")
        context.progress(step, 4, {"value": float(start + step)})
        context.saved(step, 4)
    print("a library talks")
    return {"sum": start + len(cases)}


@stage(version=1)
def refuse(context: Context) -> dict[str, Any]:
    """Says no."""
    raise HyfreeError("data.not-found", f"{context.owner}: no such thing; ask for another")


def described(tmp_path: Path, **changes: Any) -> Call:
    previous = Artifact(stage="prepare", key="p" * 64, path=tmp_path)
    return count.call(**{"start": 1, "cases": ["anna"], "previous": previous, **changes})


def run(call: Call, folder: Path) -> dict[str, Any]:
    return execute(__name__, call, folder, owner="site-1", device="cpu")


def test_a_stage_is_still_a_plain_function(tmp_path: Path) -> None:
    context = Context(out=tmp_path, owner="site-1")
    assert count(context, start=2, cases=["a", "b"], previous=tmp_path) == {"sum": 4}


def test_a_wrong_argument_is_noticed_when_the_call_is_described(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'epochs'"):
        described(tmp_path, epochs=3)


def test_a_call_splits_inputs_from_parameters(tmp_path: Path) -> None:
    call = described(tmp_path)
    assert call.version == 3
    assert set(call.inputs) == {"previous"}
    assert set(call.params) == {"start", "cases"}


def test_the_record_comes_last_and_says_what_ran(tmp_path: Path) -> None:
    record = run(described(tmp_path), tmp_path / "out")
    assert json.loads((tmp_path / "out" / RECORD).read_text()) == json.loads(
        record.model_dump_json(exclude_unset=True)
    )
    assert record.result == {"sum": 2}
    assert record.inputs == {"previous": "p" * 64}
    assert record.device_seconds == record.seconds
    assert {"torch", "nnunetv2", "python"} <= set(record.versions)


def test_names_of_cases_are_hashed_but_not_recorded(tmp_path: Path) -> None:
    record = run(described(tmp_path), tmp_path / "out")
    assert "anna" not in record.model_dump_json()
    assert described(tmp_path).key != described(tmp_path, cases=["berta"]).key


def test_a_finished_stage_is_not_run_again(tmp_path: Path) -> None:
    first = run(described(tmp_path), tmp_path / "out")
    assert run(described(tmp_path), tmp_path / "out") == first
    assert len((tmp_path / "out" / "attempts.jsonl").read_text().splitlines()) == 1


def test_what_a_killed_attempt_left_is_gone_on_from_and_its_time_counted(tmp_path: Path) -> None:
    (tmp_path / "die-3").touch()
    with refuses("stage.failed", " count ", "RuntimeError"):
        run(described(tmp_path), tmp_path / "out")
    (tmp_path / "die-3").unlink()
    attempts = tmp_path / "out" / "attempts.jsonl"
    earlier = {"started": time.time() - 100, "pid": os.getpid()}
    curve = tmp_path / "out" / METRICS
    lines = [json.loads(line) for line in curve.read_text().splitlines()]
    attempts.write_text(json.dumps(earlier) + "\n")
    curve.write_text(
        "".join(json.dumps({**line, "time": earlier["started"] + 7}) + "\n" for line in lines)
    )
    record = run(described(tmp_path), tmp_path / "out")
    assert [entry["step"] for entry in read_metrics(tmp_path / "out")] == [1, 2, 3, 4]
    assert 7 <= record.seconds < 60


def test_a_stage_whose_place_is_wanted_ends_where_it_is_saved_and_goes_on_from_there(
    tmp_path: Path,
) -> None:
    call, folder, asked = described(tmp_path), tmp_path / "out", []

    def should_preempt(share: float) -> bool:
        asked.append(share)
        return share in (0.25, 0.75)

    for _ in range(2):
        with pytest.raises(Preempted):
            execute(
                __name__, call, folder, owner="site-1", device="cpu", should_preempt=should_preempt
            )
        assert not (folder / RECORD).exists()
        assert not (folder / "error.txt").exists()
    record = execute(
        __name__, call, folder, owner="site-1", device="cpu", should_preempt=should_preempt
    )
    assert record.result == {"sum": 2}
    assert asked == [0.25, 0.5, 0.75]  # once each, and not at the end
    (first, second), last = record.earlier, record.started
    assert first[0] <= first[1] <= second[0] <= second[1] <= last
    assert len(attempts(folder)) == 3
    assert [entry["step"] for entry in read_metrics(folder)] == [1, 2, 3, 4]


def test_an_unexpected_failure_names_party_stage_and_log(tmp_path: Path) -> None:
    (tmp_path / "die-1").touch()
    with pytest.raises(StageError) as caught:
        run(described(tmp_path), tmp_path / "out")
    message = str(caught.value)
    assert message.startswith("site-1: the stage count failed: RuntimeError; traceback in")
    assert "killed for the test" in (tmp_path / "out" / "error.txt").read_text()
    assert not (tmp_path / "out" / RECORD).exists()


def test_a_users_mistake_passes_through(tmp_path: Path) -> None:
    with refuses("data.not-found", "ask for another"):
        run(refuse.call(), tmp_path / "out")


def test_what_libraries_print_goes_to_the_stages_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(described(tmp_path), tmp_path / "out")
    assert "a library talks" in (tmp_path / "out" / "log.txt").read_text()
    assert capsys.readouterr().out == ""


def test_a_line_of_the_curve_that_a_crash_cut_short_is_left_out(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text('{"step": 1, "time": 1}\n{"step": 2, "ti')
    assert [entry["step"] for entry in read_metrics(tmp_path)] == [1]


def test_a_step_that_ran_twice_counts_once(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text('{"step": 1, "loss": 3}\n{"step": 1, "loss": 2}\n')
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 2}]


@stage(version=1)
def read_device(context: Context) -> dict[str, Any]:
    """Computes on no device."""
    return {"device": context.device}


@stage(version=1, device=True, distributed=True)
def gather(context: Context) -> dict[str, Any]:
    """Its workers hold the devices; its own process need not see any."""
    assert context.launch is not None
    return {"device": context.device}


@pytest.mark.parametrize(("work", "told"), [(read_device, "cpu"), (gather, "cuda")])
def test_a_stage_whose_process_has_no_gpu_runs_also_in_a_run_on_gpus(
    tmp_path: Path, work: Stage, told: str
) -> None:
    def launch(*arguments: Any) -> None:
        raise AssertionError("it is not asked for")

    record = execute(__name__, work.call(), tmp_path, owner="site-1", device="cuda", launch=launch)
    assert record.result == {"device": told}
    assert record.device_memory_mib is None
