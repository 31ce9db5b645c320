"""`hyfree-ray simulate --folds`: one simulation a fold, one after the other, and their summary."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from hyfree_ray.cohorts.checks import FOLDS
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.failure import failure_line
from hyfree_ray.results.finished import read_finished
from hyfree_ray.results.pooled import pool_runs
from hyfree_ray.results.pooled_table import render_pooled
from hyfree_ray.results.table import wide_console
from hyfree_ray.studies.trials import (
    TrialError,
    as_arguments,
    command_of,
    parse_numbers,
    refuse_overrides,
    run_command,
)


def run_folds(folds: str, options: Mapping[str, Any]) -> int:
    """Run the paper's protocol: every fold is the test fold once. Returns the exit code.

    Args:
        folds: `0-4` or `0,2`.
        options: those of `simulate`.
    """
    numbers = parse_numbers(folds, "--folds", least=0, most=FOLDS - 1)
    if options["fold"] is not None or options["dry_run"] or options["calibrate"]:
        raise HyfreeError("option.conflict", "--folds: leave --fold, --dry-run and --calibrate out")
    store: Path = options["store"]
    passed = as_arguments(options)
    refuse_overrides(options["overrides"], ("fold",), "--folds")
    runs = []
    for fold in numbers:
        command = command_of(
            (*passed, "--fold", str(fold)),
            store,
            options["ray"],
            log_format=options["log_format"] or options["output"],
        )
        click.echo(f"fold {fold}", err=True)
        try:
            found = run_command(command)
        except TrialError as error:
            if error.message:  # else it has said why
                said = f"fold {fold}: {error}"
                click.echo(failure_line("study.trial-failed", said, exit_code=error.code), err=True)
            return error.code
        runs.append(read_finished(store / "runs" / found["run"]))
    pooled = pool_runs(runs)
    if options["output"] == "json":
        click.echo(json.dumps(pooled.to_json()))
        return 0
    wide_console().print(render_pooled(pooled))
    click.echo(f"each fold: hyfree-ray results {' '.join(run.name for run in runs)}")
    return 0
