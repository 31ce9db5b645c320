"""Write the reference pages that follow from the code: commands and configuration.

python docs/generate_reference.py            # writes them
python docs/generate_reference.py --check    # exits with 1 where one is not up to date
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from hyfree_ray.cli import main
from hyfree_ray.commands.command_group import SECTIONS
from hyfree_ray.config.budget import BUDGETS, budget_values
from hyfree_ray.config.experiment import Experiment
from hyfree_ray.generators import GENERATORS

FOLDER = Path(__file__).parent / "reference"
WIDTH = 100


def commands() -> str:
    """Every command with its help, as it is printed."""
    lines = [
        "# Commands",
        "",
        "As `--help` prints them. Exit codes: 0 success; 1 failure; 2 invalid input, described in "
        "one line; 3 too few sites; 130 interrupted; 143 terminated. The codes of errors are in "
        "[ERRORS.md](../ERRORS.md).",
    ]
    for title, names in SECTIONS.items():
        lines += ["", f"## {title}"]
        for name in names:
            lines += _command(main.commands[name], f"hyfree-ray {name}", None)
    return "\n".join(lines) + "\n"


def _command(command: click.Command, path: str, parent: click.Context | None) -> list[str]:
    context = click.Context(
        command, info_name=path, max_content_width=WIDTH, terminal_width=WIDTH, parent=parent
    )
    text = command.get_help(context).split("\n  Exit codes:")[0].rstrip()
    lines = ["", f"### {path}", "", "```text", text, "```"]
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            lines += _command(child, f"{path} {name}", None)
    return lines


def configuration() -> str:
    """Every key of a configuration, with its default, its bounds and what it does."""
    lines = [
        "# Configuration",
        "",
        "What `--config FILE` and `--set KEY=VALUE` take. A key that there is not is an error that "
        "names the nearest one. A value that stands in no budget and is not given is the default.",
        "",
        "| key | type | default | what it does |",
        "|---|---|---|---|",
    ]
    budgets = {name: budget_values(name) for name in BUDGETS}
    lines += [_row(*one, budgets) for one in _fields(Experiment, "")]
    for generator in GENERATORS.built_in():
        lines += [
            "",
            f"## generator.config of {generator.name}",
            "",
            "| key | type | default | what it does |",
            "|---|---|---|---|",
        ]
        values = {
            name: {"generator": {"config": generator.at(name).model_dump(mode="json")}}
            for name in BUDGETS
        }
        rows = _fields(generator.config, "generator.config.")
        lines += [_row(*one, values, of_budget=False) for one in rows]
    return "\n".join(lines) + "\n"


def _fields(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, Any, str]]:
    """Key, pydantic's field and description of all that is below a model."""
    described = _docstrings(model)
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _fields(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field, described.get(name, "")


def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    """The strings below a model's fields, its parents' too."""
    found: dict[str, str] = {}
    for one in reversed(model.__mro__):
        if not issubclass(one, BaseModel) or one is BaseModel:
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(one))).body
        assert isinstance(tree, ast.ClassDef)
        for field, text in zip(tree.body, tree.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                found[field.target.id] = " ".join(str(text.value.value).split())
    return found


def _row(
    key: str, field: Any, text: str, budgets: dict[str, Any], *, of_budget: bool = True
) -> str:
    kind = _type(field.annotation)
    bounds = " and ".join(_bound(one) for one in field.metadata if _bound(one))
    found = {name: _at(values, key, of_budget) for name, values in budgets.items()}
    if all(value is PydanticUndefined for value in found.values()):
        default = _default(field)
    elif len({json.dumps(value) for value in found.values()}) == 1:
        default = f"`{json.dumps(found['small'])}`"
    else:
        default = ", ".join(f"{name} `{json.dumps(value)}`" for name, value in found.items())
    cell = (kind + (f", {bounds}" if bounds else "")).replace("|", "or")
    return f"| `{key}` | {cell} | {default} | {text.replace('|', 'or')} |"


def _at(values: dict[str, Any], key: str, of_budget: bool) -> Any:
    """A key's value in a budget's file, whose keys are without `budget.`."""
    if of_budget and not key.startswith("budget."):
        return PydanticUndefined
    found: Any = values
    for part in key.removeprefix("budget.").split("."):
        if not isinstance(found, dict) or part not in found:
            return PydanticUndefined
        found = found[part]
    return found


def _type(annotation: Any) -> str:
    text = getattr(annotation, "__name__", "") if isinstance(annotation, type) else str(annotation)
    text = text.replace("typing.", "").replace("collections.abc.", "").replace("NoneType", "none")
    text = re.sub(r"Annotated\[(\w+), .*?\)\]", r"\1", text)
    return re.sub(r"Literal\[(.*?)\]", lambda found: found[1].replace(", ", " or "), text)


def _bound(constraint: Any) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    for name, sign in signs.items():
        if (value := getattr(constraint, name, None)) is not None:
            return f"{sign} {value}"
    return ""


def _default(field: Any) -> str:
    if field.default_factory is not None:
        return f"`{json.dumps(field.default_factory(), default=list)}`"
    if field.default is PydanticUndefined:
        return "by `auto`"
    return f"`{json.dumps(field.default, default=str)}`"


PAGES = {"commands.md": commands, "configuration.md": configuration}


def outdated() -> list[str]:
    """List the pages that are not what the code says."""
    return [
        name
        for name, make in PAGES.items()
        if not (FOLDER / name).is_file() or (FOLDER / name).read_text() != make()
    ]


if __name__ == "__main__":
    if "--check" in sys.argv:
        if pages := outdated():
            print(f"not up to date: {', '.join(pages)}; run python {sys.argv[0]}")
        sys.exit(1 if pages else 0)
    for page, written in PAGES.items():
        (FOLDER / page).write_text(written())
