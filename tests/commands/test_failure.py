"""Why a command failed, on standard error: one line of text, or one JSON object with a code."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hyfree_ray.cli import main
from hyfree_ray.core.errors import ClusterError, ReleaseError, StageError
from hyfree_ray.core.failure import choose_format, error_line
from tests.command import Command

RUN = [sys.executable, "-m", "hyfree_ray.cli"]


def failure(*arguments: str) -> tuple[dict[str, Any], int]:
    """The object on standard error, and the exit code; nothing is on standard output."""
    result = CliRunner().invoke(main, arguments)
    assert result.stdout == ""
    found: dict[str, Any] = json.loads(result.stderr)
    return found, result.exit_code


@pytest.mark.parametrize(
    ("arguments", "code", "name"),
    [
        (("simulate", "--contributors", "site-9"), "option.unknown-site", "site-9"),
        (("simulate", "--no-such"), "option.usage", "--no-such"),
        (("simulate", "--settings", "no-such"), "option.unknown-setting", "no-such"),
        (("simulate", "--folds", "0-9"), "option.out-of-range", "0-9"),
        (("results", "no-such"), "run.not-found", "store"),
        (("scale", "--sites", "2,99"), "option.out-of-range", "99"),
        (("study", "no-such.yaml"), "study.not-found", "no-such.yaml"),
    ],
)
@pytest.mark.parametrize("form", [("--format", "json"), ("--format=json",)])
def test_an_error_is_one_object_where_json_was_asked_for(
    arguments: tuple[str, ...], code: str, name: str, form: tuple[str, ...], tmp_path: Path
) -> None:
    store = () if "--no-such" in arguments else ("--store", str(tmp_path / "store"))
    found, exit_code = failure(*arguments, *store, *form)
    assert found.keys() == {"code", "message", "exit_code"}
    assert found["code"] == code
    assert name in found["message"]
    assert not found["message"].startswith("error")
    assert found["exit_code"] == exit_code == 2


def test_the_format_of_the_log_is_that_of_standard_error() -> None:
    options = ("simulate", "--no-such", "--format", "json", "--log-format", "text")
    result = CliRunner().invoke(main, options)
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
    found, _ = failure("simulate", "--no-such", "--log-format=json")
    assert found["code"] == "option.usage"


def test_text_names_no_code() -> None:
    result = CliRunner().invoke(main, ("simulate", "--no-such"))
    assert result.stderr.startswith("error: ")
    assert "option.usage" not in result.stderr


@pytest.mark.parametrize(
    ("error", "code", "exit_code"),
    [
        (StageError("site-1", "train_generator", "out of memory", "log.txt"), "stage.failed", 1),
        (ClusterError("cluster.head-lost", "the head is gone"), "cluster.head-lost", 1),
        (ReleaseError("site-1", "signature", "not signed"), "release.signature", 2),
        (RuntimeError("a fault of our own"), "internal.unexpected", 1),
    ],
)
def test_failures_of_every_kind_have_a_code(error: Exception, code: str, exit_code: int) -> None:
    choose_format(["simulate", "--format", "json"])
    found = json.loads(error_line(error))
    assert found == {"code": code, "message": str(error), "exit_code": exit_code}


def test_an_interrupted_command_says_so_by_a_code(tmp_path: Path) -> None:
    store = ("--ray", "off", "--store", tmp_path / "new")
    command = Command("simulate", "--sites", "2", *store, "--format=json")
    command.wait_until(lambda: "\n" in command.stderr())  # it is running
    command.send(signal.SIGTERM)
    done = command.ended(timeout=60)
    last = json.loads(done.stderr.splitlines()[-1])
    assert (last["code"], last["exit_code"]) == ("run.terminated", 143)
    assert done.returncode == 143
