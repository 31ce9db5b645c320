"""The documentation builds, its commands are commands, and the reference is what the code says."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from hyfree_ray.cli import main
from hyfree_ray.config.resolution import known_keys
from hyfree_ray.core.errors import HyfreeError

ROOT = Path(__file__).parents[2]
KEYS = set(known_keys())
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands(page: Path) -> list[str]:
    """The commands of hyfree-ray in a page's shell blocks, without comments."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip().startswith("hyfree-ray ")]


def parse(arguments: list[str]) -> None:
    """Parse a command line, its subcommands too, without running anything or looking at files."""
    command: click.Command = main
    context: click.Context | None = None
    while isinstance(command, click.Group):
        context = click.Context(command, info_name=command.name, parent=context)
        name, found, arguments = command.resolve_command(context, arguments)
        assert found is not None, name
        command = found
    parser = command.make_parser(click.Context(command, parent=context, resilient_parsing=True))
    parser.parse_args(arguments)


def test_pages_hold_commands() -> None:
    assert len({line for page in PAGES for line in commands(page)}) > 40


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_in_a_page_is_one(page: Path) -> None:
    for line in commands(page):
        arguments = shlex.split(line, comments=True)[1:]
        try:
            parse(arguments)
        except (click.UsageError, HyfreeError) as error:
            pytest.fail(f"{page.name}: {line}: {error}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_setting_that_a_page_names_is_one(page: Path) -> None:
    for key in re.findall(r"--set ([a-z][\w.]*)=", page.read_text()):
        assert key in KEYS or key.startswith("generator.config."), key


def test_the_reference_is_what_the_code_says() -> None:
    script = ROOT / "docs" / "generate_reference.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_pages_build_without_a_warning(tmp_path: Path) -> None:
    if importlib.util.find_spec("material") is None:
        pytest.skip("mkdocs-material is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "reference" / "commands" / "index.html").is_file()
