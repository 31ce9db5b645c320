"""All that crosses between parties: what each may be asked, and what it answers.

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
    """What became of what a site submitted, as the pool says it; or of the site itself."""

    outcome: Literal["released", "withheld", "refused", "failed", "late", "withdrawn"]
    """released, withheld or refused; of a site that left the run: failed, late or withdrawn."""
    reason: str | None = None
    rejection_rate: float | None = None
    images: int = 0
    flag: str | None = None
    """What is odd about a release that was taken in, in words."""
    label_agreement: float | None = None
    """Dice of its labels with a model of the other releases, where the experiment asks for it."""


@dataclass(frozen=True, kw_only=True)
class ReplaySet:
    """The releases of a round on their way down, in the order of their sites' names."""

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
    """A round of the pool that is closed."""

    number: int
    """0: none is."""
    releases: Mapping[str, str] = field(default_factory=dict)
    """Keys of the releases that are in it, by site, sorted."""
    left_out: Mapping[str, Receipt] = field(default_factory=dict)
    """What became of the sites that did not make it."""


class SiteProgram(Protocol):
    """What a hospital may be asked."""

    async def submit(self) -> Parcel: ...

    async def public_key(self) -> bytes: ...

    async def write_quality_card(self) -> None: ...

    async def model(
        self, regime: str, general: Parcel | None = None, shared: ReplaySet | None = None
    ) -> Parcel | None: ...

    async def choose(self, general: Parcel, shared: ReplaySet) -> str: ...

    async def score(self, regime: str, train_site: str, model: Parcel | None) -> Scored: ...

    async def models_derived_from(self, keys: Collection[str]) -> list[str]: ...

    async def status(self, finished: Set[str], received: Set[str]) -> Status: ...


class PoolProgram(Protocol):
    """What the centre may be asked."""

    async def trust(self, site: str, public_key: bytes) -> None: ...

    async def take(self, site: str, submitted: Parcel) -> Receipt: ...

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

    async def picture(self, site: str) -> bytes | None: ...

    async def status(self, finished: Set[str], received: Set[str]) -> Status: ...


class OracleProgram(Protocol):
    """What whoever sees all real data may be asked, in a simulation."""

    async def model(self, regime: str, shared: ReplaySet, sites: Collection[str]) -> Parcel: ...

    async def models_of_site(self, site: str, keys: Collection[str]) -> list[str]: ...

    async def status(self, finished: Set[str], received: Set[str]) -> Status: ...


class Handle(Protocol):
    """A party, wherever it is. Methods are named by the protocols above."""

    def call(
        self, method: Callable[Concatenate[Any, P], Awaitable[R]], *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[R]:
        """Start a method of the party; the promise of its answer."""

    async def make(
        self, method: Callable[Concatenate[Any, P], Awaitable[R]], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Wait until a method of the party is done, and leave its answer where it is.

        What comes back stands for the answer as an argument of calls to other parties, whom it
        reaches without passing through here. It may not be looked into.

        Raises:
            Exception: what broke at the party, which so never reaches another.
        """
