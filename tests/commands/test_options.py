"""What is typed, as values."""

from __future__ import annotations

from pathlib import Path

from hyfree_ray.commands.options import parse_numbers, simulation_options
from hyfree_ray.runners.resolve import SimulationOptions
from tests.refusals import refuses


def test_numbers_are_ranges_and_lists() -> None:
    assert parse_numbers("0-4", "--folds", least=0, most=4) == (0, 1, 2, 3, 4)
    assert parse_numbers("3,0", "--folds", least=0, most=4) == (0, 3)
    for text in ("0-5", "4-2", "0-4000000000000000000"):
        with refuses("option.out-of-range", "--folds"):
            parse_numbers(text, "--folds", least=0, most=4)
    for text in ("a", "", "-1"):
        with refuses("option.malformed", "--folds"):
            parse_numbers(text, "--folds", least=0, most=4)


def test_what_is_simulated_is_taken_from_among_a_commands_options() -> None:
    given = {"data": Path("d"), "settings": (), "overrides": ("warmup=0.2",), "store": Path("s")}
    expected = SimulationOptions(data=Path("d"), settings=(), overrides=("warmup=0.2",))
    assert simulation_options(given) == expected
