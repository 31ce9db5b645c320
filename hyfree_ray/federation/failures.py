"""A party's failure, as the others may know it."""

from __future__ import annotations

from hyfree_ray.core.errors import StageError


def cause_of(error: BaseException) -> BaseException:
    """Return the failure at a party: Ray's wrapping carries it as its `cause`."""
    cause = getattr(error, "cause", None)
    return cause_of(cause) if isinstance(cause, BaseException) else error


def public_reason(error: BaseException) -> str:
    """Return what the pool and the run's summary may know: the stage and the kind of error.

    An error's own text may name a file, and with it a patient: only this terminal shows it.
    """
    if isinstance(error, StageError):
        return f"{error.stage}: {error.reason}"
    return f"{type(error).__name__}; the details stay at the site"
