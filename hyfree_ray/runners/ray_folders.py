"""The folder that a Ray started here keeps its sockets in, and its token: both where they fit."""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path

from ray._common.utils import get_default_ray_temp_dir

from hyfree_ray.core.errors import HyfreeError

LONGEST_SOCKET = 107
"""Bytes of the path of a Unix socket (`sun_path` in `unix(7)`)."""

_SESSION = "/session_2026-01-31_23-59-59_999999_4194304/sockets/plasma_store"
"""The longest path that Ray makes in its folder."""

_LOG = logging.getLogger("hyfree_ray")


def choose_ray_folder() -> str:
    """Return a folder for Ray's sessions: its own, or one that is short enough and can be written.

    Raises:
        HyfreeError: there is none.
    """
    own = get_default_ray_temp_dir()
    fault = _fault(Path(own))
    if not fault:
        return own
    for root in dict.fromkeys((str(Path(own).parent), "/tmp", "/var/tmp", "/dev/shm")):
        found = Path(root) / f"ray-{os.getuid()}"
        if not _fault(found):
            _LOG.info("Ray keeps its files in %s: %s %s", found, own, fault)
            return str(found)
    raise HyfreeError(
        "cluster.no-folder",
        f"{own}: {fault}, and so do /tmp, /var/tmp and /dev/shm; set RAY_TMPDIR to a short folder"
        " that you can write",
    )


def _fault(folder: Path) -> str:
    """Describe why Ray cannot keep its sessions in a folder; empty if it can."""
    if len(os.fsencode(str(folder))) + len(_SESSION) > LONGEST_SOCKET:
        return "is too long for its sockets"
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return "cannot be written"
    return ""


def keep_token() -> None:
    """Give Ray a token for this process and its children where its own file cannot be written."""
    if any(
        name in os.environ for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    ):
        return
    try:
        file = Path.home() / ".ray" / "auth_token"
        there = next(path for path in (file, *file.parents) if path.exists())
    except (RuntimeError, OSError):  # no home, or none that may be looked at
        writable = False
    else:
        writable = os.access(there, os.R_OK if there == file else os.W_OK | os.X_OK)
    if not writable:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
