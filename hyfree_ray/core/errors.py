"""Errors that a user can mend. Each message is one line: what is wrong, where, and what to do."""

from __future__ import annotations


class HyfreeError(Exception):
    """A user's mistake. The command line prints it without a traceback and exits with 2."""

    exit_code = 2


class PrivacyError(HyfreeError):
    """Something was asked to cross a party's border that is not one of its named exports."""


class TooFewSitesError(HyfreeError):
    """Fewer releases than `--min-sites` are in: no model is made."""

    exit_code = 3


class ClusterError(HyfreeError):
    """The cluster went away under a run."""

    exit_code = 1


class ReleaseError(HyfreeError):
    """A release that the pool refuses.

    Args:
        site: who handed the release in (as the pool knows it, never read from the file).
        rule: short name of the rule that was broken, stable enough to script against.
        message: what is wrong and what to do, one line.
    """

    def __init__(self, site: str, rule: str, message: str) -> None:
        super().__init__(f"{site}: release refused ({rule}): {message}")
        self.site = site
        self.rule = rule
        self.message = message

    def __reduce__(self) -> tuple[type[ReleaseError], tuple[str, str, str]]:
        # Exceptions travel between processes by their `args`, which hold the joined message only.
        return (ReleaseError, (self.site, self.rule, self.message))


class StageError(Exception):
    """A stage broke for a reason that is not the user's. Printed without a traceback; exit code 1.

    Args:
        owner: whose stage.
        stage: its name.
        reason: the exception, in one line.
        log: file with the traceback, at the owner.
    """

    exit_code = 1

    def __init__(self, owner: str, stage: str, reason: str, log: str) -> None:
        super().__init__(owner, stage, reason, log)
        self.owner = owner
        self.stage = stage
        self.reason = reason
        self.log = log

    def __str__(self) -> str:
        return (
            f"{self.owner}: the stage {self.stage} failed: {self.reason}; traceback in {self.log}; "
            "to try again, give the same command"
        )
