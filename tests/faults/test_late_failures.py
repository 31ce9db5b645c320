"""A site that breaks once its models go to others: they do not hear why."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.parcels import Parcel
from hyfree_ray.federation.interface import Handle, SiteProgram
from hyfree_ray.federation.party import Party
from hyfree_ray.runners import local
from hyfree_ray.runners.local import LocalParty
from hyfree_ray.runners.planning import PlanningRunner
from tests import toys
from tests.toy_processes import Start

SECRET = "DOE_JANE_1961"

LATE = "prepare_for_general@site-2"
"""Of a model that every site is to score."""

SETTINGS = ("personalised",)


class Listening:
    """A party; all that it is called with is kept to be looked into."""

    def __init__(self, party: Handle, heard: list[tuple[str, Any]]) -> None:
        self.party, self.heard = party, heard

    def call(self, method: Callable[..., Awaitable[Any]], *arguments: Any) -> Awaitable[Any]:
        self.heard += [(method.__name__, one) for one in arguments]
        return self.party.call(method, *arguments)

    async def make(self, method: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        self.heard += [(method.__name__, one) for one in arguments]
        return await self.party.make(method, *arguments)


def broken(kind: str) -> str:
    return f"{LATE}{kind} cannot read /data/imagesTr/{SECRET}.png"


def listened(store: str, kind: str) -> None:
    """A run in this process; then what of it an error would have been handed on in."""
    os.environ[toys.BREAK] = broken(kind)
    heard: list[tuple[str, Any]] = []
    local.LocalParty = lambda party: Listening(LocalParty(party), heard)  # type: ignore[misc,assignment]
    try:
        toys.federate(store, settings=SETTINGS, min_sites=2)
    finally:
        models = [one for _, one in heard if isinstance(one, Parcel)]
        crossed = {(method, repr(one)) for method, one in heard if isinstance(one, Exception)}
        toys.say(f"with {len(models)} parcels came errors to {sorted(crossed)}\n")


@pytest.mark.parametrize("kind", [":", "!"])
def test_91_an_error_of_a_late_stage_goes_to_no_other_party(
    start: Start, tmp_path: Path, kind: str
) -> None:
    """A defect, and what a user can fix, whose text is its site's own."""
    store = tmp_path / "store"
    code = {":": 0, "!": 1}[kind]  # only what breaks may be missing, not what is to be mended
    process = start(store, str(store), kind, program=listened)
    process.join()
    said = Path(f"{store}.log").read_text()
    assert process.exitcode == code, said
    assert re.search(r"^with \d\d parcels came errors to \[\]$", said, re.MULTILINE), said
    if code == 0:
        assert "site-2: FAILED: prepare_for_general: ValueError (see " in said
    else:
        assert SECRET in said, "the user of that site sees it"
    for file in store.rglob("*"):
        if file.is_file() and "site-2" not in file.parts:
            assert SECRET.encode() not in file.read_bytes(), file


class Broken(Party):
    """Cannot make the model that others are to be called with."""

    async def model(self, regime: str) -> str:
        raise HyfreeError("data.not-found", f"{regime}: /data/{SECRET}.png is not there; find it")


def test_91_what_breaks_while_it_is_made_is_told_to_whoever_runs_the_parties_alone(
    tmp_path: Path,
) -> None:
    heard: list[tuple[str, Any]] = []
    party = LocalParty(Broken("site-2", tmp_path, PlanningRunner(), {}))
    other = Listening(LocalParty(Party("site-1", tmp_path, PlanningRunner(), {})), heard)

    async def score_elsewhere() -> None:
        made = await party.make(SiteProgram.model, "finetuned")
        await other.call(SiteProgram.score, "finetuned", "site-2", made)

    with pytest.raises(HyfreeError, match=SECRET):
        asyncio.run(score_elsewhere())
    assert heard == []
