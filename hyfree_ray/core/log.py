"""Logging: one line an event, to standard error; text or JSON."""

from __future__ import annotations

import json
import logging
import sys
import time

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


def set_up_logging(output: str, *, level: int = logging.INFO) -> logging.Logger:
    """Send the project's log to standard error, as `text` or as `json` lines."""
    logger = logging.getLogger(LOGGER)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines() if output == "json" else _Plain())
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
    return logger
