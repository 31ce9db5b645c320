"""How the command line answers: commands in sections, errors as one line, a hint at the nearest."""

from __future__ import annotations

import contextlib
import difflib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click

from hyfree_ray.core.errors import HyfreeError, StageError
from hyfree_ray.core.failure import choose_format, error_line
from hyfree_ray.core.interrupts import run_interruptible
from hyfree_ray.core.isolation import keep_children_out
from hyfree_ray.core.log import set_verbosity

ALIASES = {
    "run": "simulate",
    "start": "simulate",
    "train": "simulate",
    "ls": "runs",
    "list": "runs",
    "show": "results",
    "html": "report",
    "validate": "check",
    "convert": "import",
    "mlflow": "track",
    "gc": "store",
}
"""What people try, and the command that does it."""

SECTIONS: dict[str, tuple[str, ...]] = {
    "Simulate": ("simulate", "scale", "study"),
    "Read": ("results", "report", "runs", "track"),
    "Data": ("import", "check"),
    "Hospitals without a simulation": (
        "site",
        "pool",
        "release",
        "predict",
        "export-model",
        "reader-study",
    ),
    "This machine": ("doctor", "store", "completion"),
}
"""The commands by what they are for, in the order of the help."""


def _hint(name: str, known: Sequence[str]) -> str:
    """Return what is meant, where that is likely: something far off would mislead."""
    alias = ALIASES.get(name)
    close = [alias] if alias in known else difflib.get_close_matches(name, known, 1, _LIKE)
    return f" did you mean {close[0]!r}?" if close else ""


_LIKE = 0.5
"""How alike names are, of 1, to be near."""


class CommandGroup(click.Group):
    """List whole summaries, and suggest the nearest command for one that there is not."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name and not name.startswith("-") and self.get_command(ctx, name) is None:
            known = self.list_commands(ctx)
            raise HyfreeError(
                "option.usage",
                f"no such command {name!r};{_hint(name, known)} see {ctx.command_path} --help",
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        names = self.list_commands(ctx)
        sections = SECTIONS if ctx.parent is None else {}
        grouped = {name for section in sections.values() for name in section}
        rest = tuple(name for name in names if name not in grouped)
        for title, section in (*sections.items(), ("Commands", rest)):
            rows = [
                (name, command.get_short_help_str(limit=1000))
                for name in section
                if (command := self.get_command(ctx, name)) is not None and not command.hidden
            ]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


class MainGroup(CommandGroup):
    """Print an error as one line and exit with its code."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **kwargs: Any) -> Any:
        if args is None:  # as a program of its own
            keep_children_out()
        given = sys.argv[1:] if args is None else list(args)
        choose_format(given)
        set_verbosity("")
        try:
            return super().main(given, *more, **kwargs)
        except (HyfreeError, StageError) as error:
            click.echo(error_line(error), err=True)
            raise SystemExit(error.exit_code) from error

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _in_one_line():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        run = super().invoke
        with _in_one_line():
            return run_interruptible(lambda: run(ctx))


@contextlib.contextmanager
def _in_one_line() -> Iterator[None]:
    """Turn click's usage errors, which take three lines, into one-line errors."""
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "hyfree-ray"
        message = " ".join(error.format_message().split()).rstrip(".")
        raise HyfreeError("option.usage", f"{message}; see {command} --help") from error
