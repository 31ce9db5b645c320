"""Logging: one line an event, to standard error; text or JSON."""

from __future__ import annotations

import json
import logging
import sys
import time
from contextvars import ContextVar

LOGGER = "hyfree_ray"


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(
            {
                "time": round(record.created, 3),
                "level": record.levelname.lower(),
                "message": record.getMessage(),
            }
        )


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        return f"{clock} {level}{record.getMessage()}"


_LEVELS = {"quiet": logging.WARNING, "": logging.INFO, "verbose": logging.DEBUG}

_verbosity: ContextVar[str] = ContextVar("verbosity", default="")


def set_verbosity(verbosity: str) -> None:
    """Choose what the log of this command holds: "quiet", "" or "verbose"."""
    _verbosity.set(verbosity)


def is_verbose() -> bool:
    """Return whether details were asked for."""
    return _verbosity.get() == "verbose"


def set_up_logging(output: str) -> logging.Logger:
    """Send the project's log to standard error, as `text` or as `json` lines."""
    level = _LEVELS[_verbosity.get()]
    logger = logging.getLogger(LOGGER)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines() if output == "json" else _Plain())
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
    return logger
