"""Tables of records by name: the project's own, other packages', and what a notebook registers.

A record says all that the platform has to know of one thing (a generator, an architecture, a
regime, a metric), so that its name stands nowhere else. The project's own stand in the table, a
line each, as `"name": "module:ATTRIBUTE"`. Another package's arrives by an entry point:

    [project.entry-points."hyfree_ray.generators"]
    diffusion = "our_package.diffusion:DIFFUSION"

Nothing is imported until it is named, and nothing of another package within `built_in_only`.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib import metadata
from typing import Generic, Protocol, TypeVar

import hyfree_ray
from hyfree_ray.core.errors import HyfreeError

OWN_PACKAGE = "hyfree-ray"


class Named(Protocol):
    """What a record has at least."""

    @property
    def name(self) -> str:
        """What it is called by in configurations, in files and on the command line."""
        ...


R = TypeVar("R", bound=Named)


@dataclass(frozen=True)
class Origin:
    """Where a record came from."""

    package: str
    """The installed distribution; empty where the running program registered the record."""
    version: str

    @property
    def text(self) -> str:
        """Name and version, as pip writes them."""
        return f"{self.package} {self.version}"

    def __str__(self) -> str:
        return (
            f"the package {self.package} {self.version}" if self.package else "the running program"
        )


_BUILT_IN_ONLY: ContextVar[bool] = ContextVar("built_in_only", default=False)

_loaded: dict[str, str] = {}
"""Package to version, of the other packages that this process took a record from."""


@contextmanager
def built_in_only() -> Iterator[None]:
    """Import no other package's record meanwhile: for reading what other parties submitted."""
    token = _BUILT_IN_ONLY.set(True)
    try:
        yield
    finally:
        _BUILT_IN_ONLY.reset(token)


def loaded_packages() -> dict[str, str]:
    """Return the other packages that this process has taken records from, with their versions."""
    return dict(sorted(_loaded.items()))


class Registry(Generic[R]):
    """The records of one concept, by name.

    Args:
        concept: what a record is, in words for errors: "generator".
        group: of the entry points: "hyfree_ray.generators".
        kind: what a record is an instance of.
        built_in: the project's own, in their order: name to "module:ATTRIBUTE", or to the record
            where it is there already.
    """

    def __init__(
        self, concept: str, group: str, kind: type[R], built_in: Mapping[str, str | R]
    ) -> None:
        self.concept = concept
        self.group = group
        self.kind = kind
        self._built_in = dict(built_in)
        self._records: dict[str, R] = {}
        self._registered: set[str] = set()

    def names(self) -> tuple[str, ...]:
        """List what can be named, the project's own first; nothing is imported."""
        others = [*sorted(self._registered), *sorted(entry.name for entry in self._entry_points())]
        return tuple(dict.fromkeys((*self._built_in, *others)))

    def built_in(self) -> tuple[R, ...]:
        """Return the project's own records, in the order of the table."""
        return tuple(self[name] for name in self._built_in)

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, as over those of a mapping."""
        return iter(self.names())

    def __getitem__(self, name: str) -> R:
        """Return the record of that name, imported when it is first asked for.

        Raises:
            HyfreeError: there is none, it cannot be imported, or it is another package's and the
                process is reading what other parties submitted.
        """
        if name not in self._records:
            self._records[name] = self._load(name)
        return self._records[name]

    def register(self, record: R) -> R:
        """Add a record of the running program; one that it registered before is replaced.

        Other processes do not have it: what is to run on a cluster belongs into a package.

        Raises:
            HyfreeError: the name is taken, or it is no record.
        """
        name = getattr(record, "name", "")
        self._check(record, name, "the running program")
        if name in self.names() and name not in self._registered:
            raise HyfreeError(
                "name.taken",
                f"a {self.concept} called {name!r} is there already ({self.origin(name)}); "
                "register yours by another name",
            )
        self._records[name] = record
        self._registered.add(name)
        return record

    def origin(self, name: str) -> Origin:
        """Return the package that has the record of that name; nothing is imported.

        Raises:
            HyfreeError: there is none of that name.
        """
        if name in self._built_in:
            return Origin(OWN_PACKAGE, hyfree_ray.__version__)
        if name in self._registered:
            return Origin("", "")
        return _origin(self._entry_point(name))

    def _load(self, name: str) -> R:
        if name in self._built_in:
            record = self._built_in[name]
            if isinstance(record, str):
                module, _, attribute = record.partition(":")
                record = getattr(importlib.import_module(module), attribute)
            return self._check(record, name, OWN_PACKAGE)
        entry = self._entry_point(name)
        origin = _origin(entry)
        if _BUILT_IN_ONLY.get():
            raise HyfreeError(
                "extension.not-imported",
                f"the {self.concept} {name!r} comes from {origin}, which is not imported where "
                "other parties' files are read",
            )
        try:
            record = entry.load()
        except Exception as error:  # whatever another package's import raises
            why = " ".join(f"{type(error).__name__}: {error}".split())
            raise HyfreeError(
                "extension.broken",
                f"the {self.concept} {name!r} of {origin} cannot be imported ({why}); "
                "fix or uninstall that package",
            ) from error
        self._check(record, name, str(origin))
        _loaded[origin.package] = origin.version
        return record  # type: ignore[no-any-return]

    def _check(self, record: R, name: str, whose: str) -> R:
        if not isinstance(record, self.kind):
            raise HyfreeError(
                "extension.broken",
                f"the {self.concept} {name!r} of {whose} is of type {type(record).__name__}, not "
                f"{self.kind.__name__}",
            )
        if record.name != name:
            raise HyfreeError(
                "extension.broken",
                f"the {self.concept} {name!r} of {whose} is named {record.name!r} in its record; "
                "use one name",
            )
        return record

    def _entry_points(self) -> Iterable[metadata.EntryPoint]:
        return _entry_points(self.group, tuple(sys.path))

    def _entry_point(self, name: str) -> metadata.EntryPoint:
        found = {_origin(one): one for one in self._entry_points() if one.name == name}
        if not found:
            names = self.names()
            nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
            raise HyfreeError(
                "name.unknown",
                f"no {self.concept} is called {name!r}; did you mean {nearest!r}? There are "
                f"{', '.join(names)}",
            )
        if len(found) > 1:
            raise HyfreeError(
                "name.ambiguous",
                f"the {self.concept} {name!r} is in several packages "
                f"({', '.join(sorted(one.text for one in found))}); uninstall all but one",
            )
        return next(iter(found.values()))


@functools.cache
def _entry_points(
    group: str,
    path: tuple[str, ...],  # noqa: ARG001 - what the answer depends on
) -> Iterable[metadata.EntryPoint]:
    """Return those of a group in the packages on the path, whose metadata take 20 ms to read."""
    return metadata.entry_points(group=group)


def _origin(entry: metadata.EntryPoint) -> Origin:
    assert entry.dist is not None
    return Origin(entry.dist.name, entry.dist.version)
