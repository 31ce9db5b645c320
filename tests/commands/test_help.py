"""What the help of every command has, and what a name that is not one is answered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from hyfree_ray.cli import main
from tests.refusals import refused


def commands(
    command: click.Command = main, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from commands(child, (*path, name))


@pytest.mark.parametrize("path", [path for path, _ in commands() if path], ids=" ".join)
def test_every_help_shows_an_example_and_fits_80_columns(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, [*path, "--help"], terminal_width=80)
    assert result.exit_code == 0
    assert "Example" in result.output
    assert f"hyfree-ray {path[0]}" in result.output.partition("Example")[2]
    # Examples are not broken, so that they can be copied.
    lines = [
        one
        for one in result.output.splitlines()
        if not one.startswith(("    hyfree-ray ", "    nnUNetv2_"))
    ]
    assert max(map(len, lines)) <= 80
    assert "..." not in result.output.partition("\nCommands:")[2], "a summary is cut"


def test_options_are_described_and_their_defaults_have_one_style() -> None:
    for path, command in commands():
        for option in command.params:
            if isinstance(option, click.Option) and option.name not in {"version", "output"}:
                where = " ".join((*path, *option.opts))
                assert option.help, where
                assert "efault:" not in option.help, where
                if "--out" in option.opts:
                    assert "-o" in option.opts, where


@pytest.mark.parametrize(
    ("given", "meant"),
    [("run", "simulate"), ("simulat", "simulate"), ("site contribut", "contribute")],
)
def test_a_near_name_is_suggested(given: str, meant: str) -> None:
    refused(CliRunner().invoke(main, given.split()), "option.usage", f"did you mean '{meant}'?")


def test_nothing_is_suggested_for_what_is_like_nothing() -> None:
    said = refused(CliRunner().invoke(main, ["xyzzy"]), "option.usage", "xyzzy")
    assert "did you mean" not in said


@pytest.mark.parametrize("kind", ["scale", "study"])
def test_a_dry_run_of_a_study_lists_its_simulations_and_creates_nothing(
    tmp_path: Path, kind: str
) -> None:
    store, grid = tmp_path / "store", tmp_path / "grid.yaml"
    grid.write_text("simulate:\n  sites: 2\n  budget: smoke\ngrid:\n  seed: [0, 1]\n")
    given = ["study", str(grid)]
    if kind == "scale":
        given = ["scale", "--sites", "2,3", "--repeats", "2", "--budget", "smoke"]
    result = CliRunner().invoke(main, [*given, "--store", str(store), "--ray", "off", "--dry-run"])
    assert result.exit_code == 0, result.output
    number = 2 if kind == "study" else 3
    assert f"{number} simulations, {number} to run" in result.output
    assert result.output.count("stages to run") == number
    assert not store.exists()
