"""Records by name: imported when named, from the project, another package or the program."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import hyfree_ray
from hyfree_ray.core.registry import Origin, Registry, built_in_only, loaded_packages
from tests.refusals import refuses

GROUP = "hyfree_ray.colours"


@dataclass(frozen=True)
class Colour:
    name: str
    wavelength: int


RED = Colour("red", 700)


def colours() -> Registry[Colour]:
    return Registry("colour", GROUP, Colour, {"red": f"{__name__}:RED", "blue": "no.such:BLUE"})


def package(
    folder: Path, name: str, version: str, code: str, entries: str, group: str = GROUP
) -> None:
    """An installed package as pip leaves it: a module, and what its metadata say."""
    (folder / f"{name}.py").write_text(code)
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{entries}\n")


@pytest.fixture
def others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("hyfree_ray.core.registry._loaded", {})
    return tmp_path


def green(folder: Path, name: str = "paints_green") -> str:
    code = f"from {__name__} import Colour\nGREEN = Colour('green', 530)\n"
    package(folder, name, "1.2", code, f"green = {name}:GREEN")
    return name


def test_a_record_of_the_project_is_imported_when_it_is_named() -> None:
    found = colours()
    assert found.names() == ("red", "blue")
    assert found["red"] is RED
    assert found.origin("red") == Origin("hyfree-ray", hyfree_ray.__version__)
    with pytest.raises(ModuleNotFoundError):
        found["blue"]


def test_another_packages_record_is_listed_without_import_and_says_where_it_is_from(
    others: Path,
) -> None:
    module = green(others)
    found = colours()
    assert found.names() == ("red", "blue", "green")
    assert found.origin("green") == Origin(module, "1.2")
    assert module not in sys.modules
    assert loaded_packages() == {}
    assert found["green"].wavelength == 530
    assert module in sys.modules
    assert loaded_packages() == {module: "1.2"}


def test_nothing_of_another_package_is_imported_where_what_was_handed_in_is_read(
    others: Path,
) -> None:
    module = green(others, "paints_unread")
    with built_in_only():
        assert colours()["red"] is RED
        with refuses("extension.not-imported", "paints_unread 1.2"):
            colours()["green"]
    assert module not in sys.modules
    assert colours()["green"].wavelength == 530


def test_an_unknown_name_is_answered_by_the_nearest(others: Path) -> None:
    green(others, "paints_near")
    with refuses("name.unknown", "'grene'", "'green'"):
        colours()["grene"]


def test_another_package_does_not_replace_what_is_the_projects(others: Path) -> None:
    package(others, "paints_shadow", "0.1", "raise AssertionError", "red = paints_shadow:RED")
    found = colours()
    assert found.names() == ("red", "blue")
    assert found["red"] is RED


def test_a_name_of_two_packages_is_refused(others: Path) -> None:
    green(others, "paints_one")
    green(others, "paints_two")
    with refuses("name.ambiguous", "paints_one 1.2, paints_two 1.2"):
        colours()["green"]


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("raise OSError('no disk')", "OSError"),
        ("GREEN = 5", "int"),
        (f"from {__name__} import Colour\nGREEN = Colour('lime', 1)", "'lime'"),
    ],
)
def test_a_package_that_is_broken_is_one_line(others: Path, code: str, name: str) -> None:
    sys.modules.pop("paints_bad", None)
    package(others, "paints_bad", "0.3", code, "green = paints_bad:GREEN")
    with refuses("extension.broken", "'green'", "paints_bad 0.3", name):
        colours()["green"]


def test_a_notebook_registers_a_record_and_may_run_its_cell_again() -> None:
    found = colours()
    found.register(Colour("violet", 400))
    latest = found.register(Colour("violet", 410))
    assert found["violet"] is latest
    assert found.names() == ("red", "blue", "violet")
    assert str(found.origin("violet")) == "the running program"
    with refuses("name.taken", "'red'"):
        found.register(Colour("red", 1))
    with refuses("extension.broken", "int", "Colour"):
        found.register(5)  # type: ignore[arg-type]
