"""Read JSON from somebody else: every key known, every value of the type and range expected."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

_LONGEST_NAME = 200
_DEEPEST = 6


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number that JSON knows")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("the same key twice")
    return values


@dataclass(frozen=True)
class StrictObject:
    """The members of one JSON object. Every method raises ValueError, naming the key."""

    values: dict[str, Any]

    @classmethod
    def parse(cls, text: str, keys: Iterable[str]) -> StrictObject:
        """Parse an object that has exactly these keys."""
        try:
            values = json.loads(text, object_pairs_hook=_unique, parse_constant=_constant)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
        if not isinstance(values, dict):
            raise ValueError("not a JSON object")
        expected = set(keys)
        missing, unknown = expected - set(values), set(values) - expected
        if missing or unknown:
            named = ", ".join([*sorted(missing), *(ascii(key[:40]) for key in sorted(unknown)[:5])])
            raise ValueError(f"{len(missing)} keys missing, {len(unknown)} unknown: {named}")
        return cls(values)

    def integer(self, key: str, *, least: int, most: int) -> int:
        value = self.values[key]
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(f"{key} is not a whole number from {least} to {most}")
        return value

    def name(self, key: str) -> str:
        return checked_name(key, self.values[key])

    def text(self, key: str, *, longest: int) -> str:
        """Read a text as a name, but longer."""
        return checked_name(key, self.values[key], longest=longest)

    def share(self, key: str) -> float | None:
        """Read a number from 0 to 1, or null."""
        value = self.values[key]
        if value is None:
            return None
        number = _number(key, value, positive=False)
        if not 0 <= number <= 1:
            raise ValueError(f"{key} is not a number from 0 to 1")
        return number

    def names(self, key: str) -> tuple[str, ...]:
        return tuple(checked_name(key, value) for value in self._list(key))

    def numbers(self, key: str, *, positive: bool) -> tuple[float, ...]:
        return tuple(_number(key, value, positive=positive) for value in self._list(key))

    def digest(self, key: str) -> str:
        """Read a SHA-256 in hexadecimal digits."""
        value = self.values[key]
        if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{64}", value):
            raise ValueError(f"{key} is not 64 hexadecimal digits")
        return value

    def label_names(self, key: str) -> dict[str, int]:
        """Read names to consecutive values from the background, 0, as nnU-Net wants them."""
        value = self.values[key]
        if not isinstance(value, dict) or any(type(number) is not int for number in value.values()):
            raise ValueError(f"{key} is not an object of whole numbers")
        names = {checked_name(key, name): number for name, number in value.items()}
        if sorted(names.values()) != list(range(len(names))) or names.get("background") != 0:
            raise ValueError(f"{key} are not background = 0 and the numbers after it, once each")
        return names

    def named_numbers(self, key: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Read pairs of a name and a list of whole numbers."""
        pairs = self._list(key)
        if any(type(pair) is not list or len(pair) != 2 for pair in pairs):
            raise ValueError(f"{key} is not a list of pairs")
        for _, numbers in pairs:
            if type(numbers) is not list or any(type(number) is not int for number in numbers):
                raise ValueError(f"{key} has a value that is not a list of whole numbers")
        return tuple((checked_name(key, name), tuple(numbers)) for name, numbers in pairs)

    def free(self, key: str) -> dict[str, Any]:
        """Read an object of any content, without infinities and not deep."""
        value = self.values[key]
        if not isinstance(value, dict):
            raise ValueError(f"{key} is not an object")
        _check_free(key, value, _DEEPEST)
        return value

    def _list(self, key: str) -> list[Any]:
        value = self.values[key]
        if not isinstance(value, list):
            raise ValueError(f"{key} is not a list")
        return value


def checked_name(key: str, value: Any, *, longest: int = _LONGEST_NAME) -> str:
    """Return a text that may be a name: short, on one line, without control characters."""
    if not isinstance(value, str) or not 0 < len(value) <= longest:
        raise ValueError(f"{key} is not a text of 1 to {longest} characters")
    if not value.isprintable():
        raise ValueError(f"{key} has characters that cannot be printed")
    return value


def _number(key: str, value: Any, *, positive: bool) -> float:
    try:
        number = float(value) if type(value) in (int, float) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or (positive and number <= 0):
        raise ValueError(f"{key} has a value that is not a {'positive ' * positive}finite number")
    return number


def _check_free(key: str, value: Any, depth: int) -> None:
    if depth < 0:
        raise ValueError(f"{key} is nested too deeply")
    if isinstance(value, (int, float)):
        _number(key, float(value) if isinstance(value, bool) else value, positive=False)
    members = value.values() if isinstance(value, dict) else value if type(value) is list else ()
    for member in members:
        _check_free(key, member, depth - 1)
