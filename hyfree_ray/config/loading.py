"""YAML as users write it, and nothing that could harm who reads it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml

from hyfree_ray.core.errors import HyfreeError

CONFIG_BYTES = 64 << 10
"""A configuration is a page of text; anything longer is refused before it is parsed."""


class _PlainLoader(yaml.SafeLoader):
    """Numbers are finite, and what cannot be converted is an error of YAML that names its place."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
            finite = not isinstance(value, (int, float)) or math.isfinite(value)
            if isinstance(value, str):
                value.encode()  # half of a surrogate pair could never be printed
        except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
            raise _not_a_value(node) from error
        if not finite:
            raise _not_a_value(node)
        return value


def _not_a_value(node: yaml.Node) -> yaml.YAMLError:
    # A constructor of PyYAML lets through whatever Python raises while it converts the text.
    problem = f"not a valid value: {ascii(node.value)[:40]}"
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def parse_yaml(text: str, where: str) -> Any:
    """Parse a YAML value safely: no objects, no aliases, no infinite numbers.

    Raises:
        HyfreeError: it is none; one line that begins with `where`.
    """
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise HyfreeError(
                "config.bad-yaml", f"{where}: YAML aliases (*) are not allowed; write the value out"
            )
        return yaml.load(text, _PlainLoader)
    except RecursionError as error:
        raise HyfreeError(
            "config.bad-yaml", f"{where}: not valid YAML (nested too deeply)"
        ) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # Of an escape that is no character PyYAML's scanner lets through what Python raises.
        first = " ".join(str(error).split())
        raise HyfreeError("config.bad-yaml", f"{where}: not valid YAML ({first})") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping safely: no objects, no aliases, no more than a page.

    Raises:
        HyfreeError: missing, no ordinary file, too long, not YAML, or not a mapping.
    """
    try:
        if path.exists() and not path.is_file():
            raise HyfreeError("config.unreadable", f"{path}: not a regular file; see --config")
        with path.open("rb") as file:
            content = file.read(CONFIG_BYTES + 1)
    except OSError as error:
        raise HyfreeError(
            "config.unreadable", f"{path}: cannot be read ({error.strerror}); see --config"
        ) from error
    if len(content) > CONFIG_BYTES:
        raise HyfreeError(
            "config.unreadable", f"{path}: larger than {CONFIG_BYTES} bytes; not a configuration"
        )
    try:
        values = parse_yaml(content.decode(), str(path))
    except UnicodeDecodeError as error:
        raise HyfreeError("config.bad-yaml", f"{path}: not valid YAML ({error})") from error
    if not isinstance(values, dict):
        raise HyfreeError("config.bad-yaml", f"{path}: not a mapping of keys to values")
    return values


def as_override(key: str, value: Any) -> str:
    """Write a value as `--set` takes it: `key=value`."""
    text = yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
    return f"{key}={text}"
