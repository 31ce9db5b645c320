"""The interface between parties: the calls that each accepts, and its answers.

A `Handle` is a party somewhere: in this process, or a Ray actor.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar

from hyfree_ray.core.parcels import Parcel
from hyfree_ray.federation.participation import Rules
from hyfree_ray.federation.status import Status

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """The pool's answer to a site's submission, or the fate of the site itself."""

    outcome: Literal["released", "withheld", "refused", "failed", "late", "withdrawn"]
    """released, withheld or refused; of a site that left the run: failed, late or withdrawn."""
    reason: str | None = None
    rejection_rate: float | None = None
    images: int = 0
    flag: str | None = None
    """Description of anything odd about a release that was taken in."""
    label_agreement: float | None = None
    """Dice of its labels with a model of the other releases, if the experiment asks for it."""
    effect: float | None = None
    """Dice that its release adds to a general model, the mean over all hospitals' validation cases;
    None where no model is trained without it."""


@dataclass(frozen=True, kw_only=True)
class LabelsReceipt:
    """The pool's answer to a site's labels of public images."""

    key: str | None = None
    """None: they were refused."""
    reason: str | None = None
    images: int = 0


@dataclass(frozen=True, kw_only=True)
class ReplaySet:
    """The releases of a round, or labels of public images, sent to sites in the order of
    their sites' names."""

    sites: tuple[str, ...]
    parcels: tuple[Parcel, ...]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A model's scores at a site, case by case: patients and cases as indices."""

    test_site: str
    regime: str
    train_site: str
    rows: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, kw_only=True)
class Round:
    """A closed round of the pool."""

    number: int
    """0: no round is closed."""
    releases: Mapping[str, str] = field(default_factory=dict)
    """Keys of its releases, by site, sorted; empty where they are too few for a general model."""
    alone: Mapping[str, str] = field(default_factory=dict)
    """Key of the one release that came in, by site, where there is no other to pool it with."""
    left_out: Mapping[str, Receipt] = field(default_factory=dict)
    """The fate of the sites that are not in it."""


class SiteProgram(Protocol):
    """The calls that a hospital accepts."""

    async def submit(self) -> Parcel: ...

    async def public_key(self) -> bytes: ...

    async def label_public(self) -> Parcel: ...

    async def model(
        self, regime: str, general: Parcel | None = None, shared: ReplaySet | None = None
    ) -> Parcel | None: ...

    async def choose(self, general: Parcel, shared: ReplaySet) -> str: ...

    async def score(self, regime: str, train_site: str, model: Parcel | None) -> Scored: ...

    async def validate(self, regime: str, train_site: str, model: Parcel) -> float: ...

    async def models_derived_from(self, keys: Collection[str]) -> list[str]: ...

    async def training_pictures(self) -> Mapping[str, bytes]: ...

    async def status(self, finished: Set[str], received: Set[str]) -> Status: ...


class PoolProgram(Protocol):
    """The calls that the pool accepts."""

    async def trust(self, site: str, public_key: bytes) -> None: ...

    async def take(self, site: str, submitted: Parcel) -> Receipt: ...

    async def take_labels(self, site: str, submitted: Parcel) -> LabelsReceipt: ...

    async def withdraw(self, sites: Sequence[str]) -> list[str]: ...

    async def models_of_site(self, site: str) -> list[str]: ...

    async def left_out(self) -> Mapping[str, Receipt]: ...

    async def add_waiting(self, seconds: float, next_round: bool) -> float: ...

    async def close(
        self, sites: Sequence[str], rules: Rules, left_out: Mapping[str, Receipt]
    ) -> Round: ...

    async def model(self, regime: str, members: Mapping[str, str]) -> Parcel: ...

    async def label_agreement(self, members: Mapping[str, str]) -> dict[str, float]: ...

    async def share_for_replay(self, members: Mapping[str, str]) -> ReplaySet: ...

    async def share(self, members: Mapping[str, str]) -> ReplaySet: ...

    async def share_labels(self, members: Mapping[str, str]) -> ReplaySet: ...

    async def picture(self, site: str) -> bytes | None: ...

    async def status(self, finished: Set[str], received: Set[str]) -> Status: ...


class OracleProgram(Protocol):
    """The calls that the oracle accepts, which sees all real data, in a simulation."""

    async def model(
        self, regime: str, shared: ReplaySet, sites: Collection[str], site: str | None = None
    ) -> Parcel: ...

    async def models_of_site(self, site: str, keys: Collection[str]) -> list[str]: ...

    async def status(self, finished: Set[str], received: Set[str]) -> Status: ...


class Handle(Protocol):
    """A party, wherever it is. Methods are named by the protocols above."""

    def call(
        self, method: Callable[Concatenate[Any, P], Awaitable[R]], *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[R]:
        """Start a method of the party; return a promise of its answer."""

    async def make(
        self, method: Callable[Concatenate[Any, P], Awaitable[R]], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Wait until a method of the party is done, and leave its answer where it is.

        The result represents the answer as an argument of calls to other parties, which it reaches
        without passing through here. It must not be inspected.

        Raises:
            Exception: the party's failure, which therefore never reaches another.
        """
