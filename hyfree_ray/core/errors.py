"""Errors that a user can fix. Each message is one line: what is wrong, where, and what to do."""

from __future__ import annotations

from hyfree_ray.core.error_codes import CODES


def one_line(text: str) -> str:
    """Return a text as it may be shown: what would end the line, or steer a terminal, as escapes.

    Messages name folders that others have named.
    """
    if text.isprintable():
        return text
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return "".join(escaped)


class HyfreeError(Exception):
    """A user's mistake. The command line prints it without a traceback and exits with its code.

    Args:
        code: its kind, one of `CODES`: stable, unlike the message.
        message: one line.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)  # exceptions travel between processes by their `args`
        self.code = code
        self.exit_code = CODES[code].exit_code

    def __str__(self) -> str:
        return one_line(str(self.args[1]))


class PrivacyError(HyfreeError):
    """Something was asked to cross a party's border that is not one of its named exports."""


class ClusterError(HyfreeError):
    """The cluster went away under a run."""


class ReleaseError(HyfreeError):
    """A release that the pool refuses.

    Args:
        site: who handed the release in (as the pool knows it, never read from the file).
        rule: the rule that was broken; `release.RULE` is the error's code.
        message: what is wrong and what to do, one line.
    """

    def __init__(self, site: str, rule: str, message: str) -> None:
        super().__init__(f"release.{rule}", f"{site}: release refused ({rule}): {message}")
        self.site = site
        self.rule = rule
        self.message = message

    def __reduce__(self) -> tuple[type[ReleaseError], tuple[str, str, str]]:
        return (ReleaseError, (self.site, self.rule, self.message))


class StageError(Exception):
    """A stage broke for a reason that is not the user's. Printed without a traceback; exit code 1.

    Args:
        owner: whose stage.
        stage: its name.
        reason: the exception, in one line.
        log: file with the traceback, at the owner; empty where there is none.
    """

    code = "stage.failed"
    exit_code = CODES[code].exit_code

    def __init__(self, owner: str, stage: str, reason: str, log: str) -> None:
        super().__init__(owner, stage, reason, log)
        self.owner = owner
        self.stage = stage
        self.reason = reason
        self.log = log

    def __str__(self) -> str:
        return one_line(
            f"{self.owner}: the stage {self.stage} failed: {self.reason}"
            f"{f'; traceback in {self.log}' * bool(self.log)}; run the same command to try again"
        )
