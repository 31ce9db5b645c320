"""Read files that somebody else put there, without trust."""

from __future__ import annotations

import os
import stat
from pathlib import Path

_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


class UntrustedFileError(ValueError):
    """A file that is not read; `rule` is a short stable name."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


def read_untrusted(
    path: Path, *, most: int, expected: int | None = None, below: Path | None = None
) -> bytes:
    """Read all bytes of a file that somebody else put there, by one descriptor, never waiting.

    They are copied, once: a file that is only mapped can still be changed after it was checked.

    Args:
        most: a file with more bytes is not read.
        expected: how many bytes it must have, if that is known.
        below: the folder that somebody else filled, where it is not the file's own: no folder
            below it may be a link either.

    Raises:
        UntrustedFileError: `missing`, `not-a-file` (a link, pipe, device or folder), `too-large`,
            `bytes` (not as many as expected, or changed while it was read).
    """
    try:
        descriptor = (
            os.open(path, _FLAGS | os.O_NOFOLLOW)
            if below is None
            else _open_below(below, path.relative_to(below).parts)
        )
    except FileNotFoundError as error:
        raise UntrustedFileError("missing", f"there is no {path.name}") from error
    except OSError as error:
        raise UntrustedFileError("not-a-file", f"{path.name} is not a regular file") from error
    # By descriptor, because Python's own `open` looks at a folder twice and refuses it differently.
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UntrustedFileError("not-a-file", f"{path.name} is not a regular file")
        size = status.st_size
        if size > most:
            raise UntrustedFileError("too-large", f"{path.name} has {size} bytes, more than {most}")
        if expected not in (None, size):
            raise UntrustedFileError("bytes", f"{path.name} has {size} bytes, not {expected}")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(size)
            if len(content) != size or file.read(1):
                raise UntrustedFileError("bytes", f"{path.name} changed while it was being read")
    finally:
        os.close(descriptor)
    return content


def _open_below(folder: Path, parts: tuple[str, ...]) -> int:
    """Open a file by descriptors of the folders on its way, following no link below the first.

    Not for a stage: the guard sees a name without its folder.
    """
    descriptor = os.open(folder, _FLAGS | os.O_DIRECTORY)
    for number, part in enumerate(parts, start=1):
        kind = os.O_DIRECTORY if number < len(parts) else 0
        try:
            inner = os.open(part, _FLAGS | os.O_NOFOLLOW | kind, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = inner
    return descriptor
