"""A site that breaks once its models go to others: they do not hear why."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

from hyfree_ray.core.errors import HyfreeError, StageError
from hyfree_ray.federation.party import Party
from hyfree_ray.federation.protocol import Handle
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
    """A party; promises that it is called with are kept to be looked into."""

    def __init__(self, party: Handle, heard: list[tuple[str, Any]]) -> None:
        self.party, self.heard = party, heard

    def call(self, method: str, *arguments: Any) -> Awaitable[Any]:
        self.heard += [(method, one) for one in arguments if isinstance(one, Awaitable)]
        return self.party.call(method, *arguments)


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
        ended = [(method, one) for method, one in heard if one.done() and not one.cancelled()]
        crossed = {(method, repr(one.exception())) for method, one in ended if one.exception()}
        toys.say(f"with {len(ended)} results came errors to {sorted(crossed)}\n")


@pytest.mark.parametrize("kind", [":", "!"])
def test_91_an_error_of_a_late_stage_goes_to_no_other_party(
    start: Start, tmp_path: Path, kind: str
) -> None:
    """A defect, and what a user can mend, whose text is its site's own."""
    store = tmp_path / "store"
    code = {":": 0, "!": 1}[kind]  # only what breaks may be missing, not what is to be mended
    process = start(store, str(store), kind, program=listened)
    process.join()
    said = Path(f"{store}.log").read_text()
    assert process.exitcode == code, said
    assert re.search(r"^with \d\d results came errors to \[\]$", said, re.MULTILINE), said
    if code == 0:
        assert "site-2: FAILED: prepare_for_general: ValueError (see " in said
    else:
        assert SECRET in said, "who has to mend it is told"
    for file in store.rglob("*"):
        if file.is_file() and "site-2" not in file.parts:
            assert SECRET.encode() not in file.read_bytes(), file


class Forgetful(Party):
    """Has a model when it is asked whether it has, and has lost it when it is to hand it out."""

    asked = 0

    async def model(self, regime: str) -> str:
        self.asked += 1
        if self.asked > 1:
            raise HyfreeError("data.not-found", f"/data/{SECRET}.png is not there; put it back")
        return regime


def test_what_is_there_when_it_is_asked_for_is_not_made_again(tmp_path: Path) -> None:
    party = Forgetful("site-2", tmp_path, PlanningRunner(), {})

    async def handed_out() -> Any:
        handle = LocalParty(party)
        await handle.call("ready", "one", "model", "finetuned")
        return await handle.call("hand_out", "one", "model", "finetuned")

    assert asyncio.run(handed_out()) == "finetuned"
    assert party.asked == 1


def test_91_what_is_lost_at_the_last_moment_is_told_as_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    party = Forgetful("site-2", tmp_path, PlanningRunner(), {})

    async def handed_out() -> None:
        handle = LocalParty(party)
        await handle.call("ready", "one", "model", "finetuned")
        other = LocalParty(Party("site-1", tmp_path, PlanningRunner(), {}))
        await other.call("receive", handle.call("hand_out", "other", "model", "finetuned"))

    with caplog.at_level(logging.WARNING), pytest.raises(StageError) as caught:
        asyncio.run(handed_out())
    assert (caught.value.owner, caught.value.stage) == ("site-2", "model finetuned")
    assert "is missing" in str(caught.value)
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__
    assert SECRET in caplog.text, "at the site itself"
