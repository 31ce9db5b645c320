"""The check of releases in a separate process, so that a bad one can take down only that.

`read_release` refuses what it knows to be bad. Whatever nobody has thought of yet (a fault in
Arrow's C++, a file that makes something allocate or loop) meets a limit on memory and time here,
and becomes one more reason to refuse. This is no sandbox: the child is the same user.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from hyfree_ray.border.manifest import ROUND, Limits, Manifest
from hyfree_ray.border.release import RELEASE_FILE, ReleaseMetadata, read_release
from hyfree_ray.core.error_codes import CODES
from hyfree_ray.core.errors import ReleaseError
from hyfree_ray.core.limited_child import address_space, begin, limit, run_child
from hyfree_ray.core.registry import built_in_only

_PROGRAM = "from hyfree_ray.border.release_guard import main; main()"


@dataclass(frozen=True, kw_only=True)
class SubmittedRelease:
    """A release as it was submitted, and what the pool knows of it without reading it."""

    folder: Path
    site: str
    experiment: str
    round_number: int = ROUND
    manifest: Manifest | None = None
    """As it was read before: the child checks the file against this very one. None: it reads it."""


@dataclass(frozen=True, kw_only=True)
class ChildLimits:
    """The resources that checking one release may use."""

    memory_bytes: int = 512 << 20
    """Beside the file itself, which is in memory three times at most."""
    seconds: int = 120
    """Computing and waiting, beside `seconds_a_gib`."""
    seconds_a_gib: int = 120

    def memory_of(self, file_bytes: int) -> int:
        """Return the address space that checking a file of this size may add: never more than is
        free, for a file of 8 GiB of nothing costs its sender nothing."""
        free = int(0.9 * psutil.virtual_memory().available)
        return min(self.memory_bytes + 3 * file_bytes, max(free, self.memory_bytes))

    def seconds_of(self, file_bytes: int) -> int:
        """Return the seconds that checking a file of this size may take."""
        return self.seconds + self.seconds_a_gib * file_bytes // (1 << 30)


def check_releases(
    submitted: Sequence[SubmittedRelease], limits: ChildLimits | None = None
) -> list[ReleaseMetadata | ReleaseError]:
    """Check releases as `read_release` does, out of this process.

    One child checks them in turn; if one of them ends the child, another child continues.

    Returns:
        For each release its metadata, or why it is refused. Beside the rules of `read_release`
        there are `memory` (it needs more than its size allows), `timeout` and `crash`.

    Raises:
        ChildProcessError: the child ended before it opened a release, which is no site's fault:
            nothing is refused.
    """
    limits = limits or ChildLimits()
    found: list[ReleaseMetadata | ReleaseError] = []
    while len(found) < len(submitted):
        found += _check_in_child(submitted[len(found) :], limits)
    return found


def check_release_file(submitted: SubmittedRelease, limits: ChildLimits | None = None) -> None:
    """Check one release out of this process.

    Raises:
        ReleaseError: see `check_releases`.
    """
    (found,) = check_releases([submitted], limits)
    if isinstance(found, ReleaseError):
        raise found


def _check_in_child(
    submitted: Sequence[SubmittedRelease], limits: ChildLimits
) -> list[ReleaseMetadata | ReleaseError]:
    """Return the verdicts of one child; at least one, and the last may be on its own end."""
    tasks = []
    for one in submitted:
        size = _size(one.folder)
        tasks.append(
            asdict(one)
            | {
                "folder": str(one.folder.absolute()),
                "memory": limits.memory_of(size),
                "seconds": limits.seconds_of(size),
            }
        )
    end = run_child(_PROGRAM, json.dumps(tasks).encode(), sum(task["seconds"] for task in tasks))
    verdicts: list[ReleaseMetadata | ReleaseError] = []
    for line, one in zip(end.lines, submitted, strict=False):
        verdict = _parse_verdict(line, one.site)
        if verdict is None:  # the further lines cannot be matched with releases
            said = "the check printed something other than a verdict"
            return [*verdicts, ReleaseError(one.site, "crash", said)]
        verdicts.append(verdict)
    if len(verdicts) < len(submitted):
        rule, message = end.cause
        verdicts.append(ReleaseError(submitted[len(verdicts)].site, rule, message))
    return verdicts


def _parse_verdict(line: bytes, site: str) -> ReleaseMetadata | ReleaseError | None:
    """Parse the child's line about a release: its metadata, or an error; None if it is neither."""
    with contextlib.suppress(ValueError, RecursionError):
        match json.loads(line):
            case str() as text:
                return ReleaseMetadata.from_json(text)
            case [str() as rule, str() as message] if f"release.{rule}" in CODES:
                return ReleaseError(site, rule, message)
    return None


def _size(folder: Path) -> int:
    """Return the bytes of the release's file, within what is read at all; 0 if there is none."""
    try:
        return min((folder / RELEASE_FILE).lstat().st_size, Limits().file_bytes)
    except OSError:
        return 0


# --- in the child --------------------------------------------------------------------------------


def main() -> None:
    """Check what standard input lists; print one line about each."""
    tasks = json.load(sys.stdin)
    begin()
    start = address_space()
    for task in tasks:
        limit(start + task["memory"], task["seconds"])
        with built_in_only():
            print(json.dumps(_verdict(task)), flush=True)


def _verdict(task: dict[str, Any]) -> str | list[str]:
    given = task["manifest"]
    try:
        found = read_release(
            Path(task["folder"]),
            site=task["site"],
            experiment=task["experiment"],
            round_number=task["round_number"],
            manifest=None if given is None else Manifest(**given),
        )
    except ReleaseError as error:
        return [error.rule, error.message]
    except MemoryError:
        return ["memory", "the check needs more memory than the release's size allows"]
    except Exception as error:
        # Not an expected fault of a file, so its message is not relied on.
        return ["crash", f"the check failed ({type(error).__name__})"]
    return found.metadata.to_json()
