"""Import nothing from the working directory, in this process or in one that it starts.

Releases and models arrive as folders, and whoever checks them often stands among them. Python looks
for modules there first (`-c`, `-m`, an empty entry of PYTHONPATH), so that a folder called like a
library would be executed by the process that was to check it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

PACKAGES = Path(__file__).resolve().parents[2]
"""Where this package lies: on the path of processes that we start, also where it is not
installed."""

_VARIABLE = "PYTHONSAFEPATH"
"""Of Python 3.11 and later: processes that libraries start by `-c` do not look there either."""


def leave_working_directory() -> None:
    """Take the working directory off this process's path.

    It stays where this package itself lies in it, as in a checkout.
    """
    sys.path[:] = import_path()


def keep_children_out() -> None:
    """Have no process that this one starts, or that a library starts, look there by itself."""
    os.environ[_VARIABLE] = "1"
    if "PYTHONPATH" in os.environ:  # an empty entry of which is the working directory, too
        entries = os.environ["PYTHONPATH"].split(os.pathsep)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(_elsewhere, entries))


def import_path() -> list[str]:
    """Return this process's path without relative entries and without the working directory."""
    return [entry for entry in sys.path if _elsewhere(entry)]


def _elsewhere(entry: str) -> bool:
    """Return whether an entry of a path is not the working directory, now or after a change."""
    path = Path(entry)
    return path.is_absolute() and (path == PACKAGES or path.resolve() != Path.cwd())


def isolated_command(program: str, *arguments: str) -> list[str]:
    """Return the command that runs a program text, isolated (`-I`), with an explicit path.

    No variable of the user's changes what it imports. Its own arguments begin at `sys.argv[1]`.
    """
    path = import_path()
    if str(PACKAGES) not in path:
        path.insert(0, str(PACKAGES))
    return [
        sys.executable,
        "-I",
        "-c",
        f"import sys; sys.path[:] = {path!r}\n{program}",
        *arguments,
    ]
