"""Who goes first, who gives way, and what a machine has room for."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from hyfree_ray.scheduling.history import Outlook
from hyfree_ray.scheduling.queue import Slots, Turn, places, unmet

CPU = {"CPU": 1.0}
ONE = {"m": CPU}


def expected(**stages: tuple[float, float]) -> dict[str, Outlook]:
    """Seconds and chain by stage; a stage `x` is asked for by the ticket `x/1`."""
    return {f"{name}/1": Outlook(seconds=own, chain=chain) for name, (own, chain) in stages.items()}


def let_in(
    machines: Mapping[str, Mapping[str, float]], *asked: tuple[str, Mapping[str, float], float]
) -> list[str]:
    """Tickets in the order in which they get in, where each ends when no other can start."""

    async def go() -> list[str]:
        outlooks = {ticket: Outlook(seconds=1.0, chain=chain) for ticket, _, chain in asked}
        slots, order = Slots(machines=machines, outlooks=outlooks), []

        async def one(ticket: str, needs: Mapping[str, float]) -> None:
            await slots.acquire(ticket, needs)
            order.append(ticket)
            await asyncio.sleep(0.001)
            slots.release(ticket)

        await asyncio.gather(*(one(ticket, needs) for ticket, needs, _ in asked))
        return order

    return asyncio.run(go())


def test_the_longest_chain_goes_first_and_not_who_came_first() -> None:
    order = let_in(ONE, ("a/1", CPU, 5), ("a/2", CPU, 1), ("b/1", CPU, 3), ("b/2", CPU, 9))
    assert order == ["a/1", "b/2", "b/1", "a/2"]


def test_a_stage_that_was_not_foreseen_goes_first() -> None:
    async def go() -> None:
        slots = Slots(machines=ONE, outlooks=expected(a=(1, 9), b=(1, 99)))
        await slots.acquire("a/1", CPU)
        planned = asyncio.ensure_future(slots.acquire("b/1", CPU))
        await asyncio.sleep(0)
        unforeseen = asyncio.ensure_future(slots.acquire("c/1", CPU))
        await asyncio.sleep(0)
        slots.release("a/1")
        await unforeseen
        assert not planned.done()
        planned.cancel()

    asyncio.run(go())


def test_a_pinned_stage_waits_for_its_machine_and_holds_up_nobody_else() -> None:
    machines = {"m": {"CPU": 1.0, "site:a": 1.0}, "n": {"CPU": 1.0}}
    pinned, free = {"CPU": 1.0, "site:a": 0.001}, {"CPU": 1.0}
    order = let_in(machines, ("a/1", pinned, 9), ("a/2", pinned, 8), ("b/1", free, 1))
    assert order == ["a/1", "b/1", "a/2"]


def test_what_no_machine_can_hold_is_left_to_the_cluster() -> None:
    assert let_in(ONE, ("a/1", {"GPU": 1.0}, 1)) == ["a/1"]


def test_places_of_a_process_that_died_are_free_again() -> None:
    async def go() -> None:
        slots = Slots(machines=ONE)
        await slots.acquire("a/1", CPU)
        slots.forget("a", "new")
        await asyncio.wait_for(slots.acquire("b/1", CPU), 1)

    asyncio.run(go())


def test_a_process_that_asks_before_it_is_heard_that_it_is_new_keeps_what_it_asked_for() -> None:
    async def go() -> None:
        slots = Slots(machines=ONE)
        await slots.acquire("a/1", CPU, Turn("old", "1"))
        again = asyncio.ensure_future(slots.acquire("a/1", CPU, Turn("new", "1")))
        more = asyncio.ensure_future(slots.acquire("a/2", CPU, Turn("new", "2")))
        await asyncio.sleep(0)
        assert not again.done()
        slots.forget("a", "new")
        await asyncio.wait_for(again, 1)
        slots.forget("a", "new")
        assert not more.done(), "the place is not free"
        slots.release("a/1", Turn("new", "1"))
        await asyncio.wait_for(more, 1)

    asyncio.run(go())


def test_a_process_whose_answer_was_lost_asks_again_and_has_its_place() -> None:
    """Case 11: the gate has heard it, and would have it wait for itself."""

    async def go() -> None:
        slots, turn = Slots(machines=ONE), Turn("a", "1")
        await slots.acquire("a/1", CPU, turn)
        await asyncio.wait_for(slots.acquire("a/1", CPU, turn), 1)
        waiting = [asyncio.ensure_future(slots.acquire("b/1", CPU, Turn("b", "1"))) for _ in "12"]
        await asyncio.sleep(0)
        slots.release("a/1", turn)
        await asyncio.wait_for(asyncio.gather(*waiting), 1)
        slots.release("b/1", Turn("b", "1"))
        await asyncio.wait_for(slots.acquire("a/1", CPU, Turn("a", "2")), 1)

    asyncio.run(go())


def test_what_ended_is_heard_also_after_the_next_asking_and_twice() -> None:
    """A training gave way and asks again on another machine before it is heard that it ended."""

    async def go() -> None:
        slots = Slots(machines={"m": CPU, "n": CPU}, segment_s=0.0)
        first, second, third = (Turn(process="p", number=str(number)) for number in range(3))
        await slots.acquire("a/1", CPU, first)
        await slots.acquire("a/1", CPU, second)
        slots.release("a/1", first, done=False)
        slots.release("a/1", first, done=False)
        other = asyncio.ensure_future(slots.acquire("b/1", CPU))
        more = asyncio.ensure_future(slots.acquire("b/2", CPU))
        await asyncio.sleep(0)
        assert other.done()
        assert not more.done(), "the second asking still has its place"
        slots.release("a/1", second)
        await more
        await asyncio.wait_for(slots.acquire("c/1", {}, third), 1)

    asyncio.run(go())


def test_a_machine_that_comes_back_is_given_to_who_waits_for_it() -> None:
    async def go() -> None:
        back = {"n": {"CPU": 1.0, "site:a": 1.0}}
        slots = Slots(machines={**ONE, **back})
        await slots.acquire("b/1", {"CPU": 1.0, "site:a": 0.001})
        waiting = asyncio.ensure_future(slots.acquire("a/1", {"CPU": 1.0, "site:a": 0.001}))
        await asyncio.sleep(0)
        assert not waiting.done()
        slots.see({**ONE, "n2": back["n"]})
        await asyncio.wait_for(waiting, 1)

    asyncio.run(go())


def asked_to_give_way(
    outlooks: Mapping[str, Outlook],
    share: float,
    *,
    machines: Mapping[str, Mapping[str, float]] = ONE,
    segment_s: float = 0.0,
    needs: Mapping[str, float] = CPU,
) -> bool:
    """`a/1` trains and has saved a share of itself; all others wait."""

    async def go() -> bool:
        slots = Slots(machines=machines, outlooks=outlooks, segment_s=segment_s)
        await slots.acquire("a/1", CPU)
        waiting = [asyncio.ensure_future(slots.acquire(t, needs)) for t in outlooks if t != "a/1"]
        await asyncio.sleep(0)
        found = slots.gives_way("a/1", share)
        for one in waiting:
            one.cancel()
        return found

    return asyncio.run(go())


def test_a_training_gives_way_to_a_longer_chain_that_decides_the_end() -> None:
    longer = expected(a=(100, 100), b=(50, 150))
    assert asked_to_give_way(longer, 0.1)
    assert not asked_to_give_way(longer, 0.1, segment_s=60.0)  # it has only just begun
    assert not asked_to_give_way(longer, 0.1, machines={"m": {"CPU": 2.0}})  # there is room
    elsewhere = {"m": CPU, "n": {"CPU": 1.0, "site:b": 1.0}}
    pinned = {"CPU": 1.0, "site:c": 0.001}
    assert not asked_to_give_way(longer, 0.1, machines=elsewhere, needs=pinned)  # of no use to it


def test_a_training_goes_on_where_giving_way_would_not_help() -> None:
    assert not asked_to_give_way(expected(a=(100, 100), b=(50, 110)), 0.01)  # as long as its own
    assert asked_to_give_way(expected(a=(100, 100), b=(50, 110)), 0.5)  # what is left is shorter
    many = expected(a=(100, 100), b=(50, 150), **{f"c{k}": (40.0, 40.0) for k in range(9)})
    assert not asked_to_give_way(many, 0.1)  # all the others take longer than that chain


def test_who_gave_way_goes_on_before_shorter_chains_with_what_it_has_left() -> None:
    async def go() -> list[str]:
        outlooks = expected(a=(100, 100), b=(50, 150), c=(30, 30))
        slots = Slots(machines=ONE, outlooks=outlooks, segment_s=0.0)
        order: list[str] = []

        async def short(ticket: str) -> None:
            await slots.acquire(ticket, CPU)
            order.append(ticket)
            slots.release(ticket)

        await slots.acquire("a/1", CPU)
        others = [asyncio.ensure_future(short(ticket)) for ticket in ("b/1", "c/1")]
        await asyncio.sleep(0)
        assert slots.gives_way("a/1", 0.5)
        again = asyncio.ensure_future(short("a/1"))
        slots.release("a/1", done=False)
        await asyncio.gather(again, *others)
        return order

    assert asyncio.run(go()) == ["b/1", "a/1", "c/1"]


def on_one_gpu(
    takes: float, *, like: str = "train", has: float = 1.0, others: int = 2
) -> tuple[bool, list[float]]:
    """A stage of a GPU has saved itself and was measured; whether it is to ask again, and what all
    of them have then, where others of its name wait."""

    async def go() -> tuple[bool, list[float]]:
        slots = Slots(machines={"m": {"CPU": 8.0, "GPU": 1.0}}, segment_s=3600.0)
        whole = {"CPU": 1.0, "GPU": 1.0}
        await slots.acquire("a/1", whole | {"GPU": has}, like=like)
        waiting = [
            asyncio.ensure_future(slots.acquire(f"b{number}/1", whole, like="train"))
            for number in range(others)
        ]
        await asyncio.sleep(0)
        asked = slots.gives_way("a/1", 0.1, takes)
        if asked:
            slots.release("a/1", done=False, takes=takes)
            again = slots.acquire("a/1", whole | {"GPU": max(has if not like else 0.0, takes)})
            waiting.append(asyncio.ensure_future(again))
        await asyncio.sleep(0.01)
        have = [one.result()["GPU"] for one in waiting if one.done()]
        for one in waiting:
            one.cancel()
        return asked, have

    return asyncio.run(go())


def test_a_stage_that_nobody_knew_is_measured_and_the_others_are_let_in_beside_it() -> None:
    assert on_one_gpu(0.3) == (True, [0.3, 0.3, 0.3])
    assert on_one_gpu(0.3, others=4) == (True, [0.3, 0.3, 0.3])  # three at a time
    assert on_one_gpu(0.6) == (False, [])  # a second one would not fit
    assert on_one_gpu(0.3, others=0) == (False, [])  # nobody waits: it need not load itself again
    assert on_one_gpu(1.0) == (False, [])


def test_a_stage_that_takes_more_than_it_has_asks_again() -> None:
    assert on_one_gpu(0.5, has=0.3, others=0) == (True, [0.5])


def test_a_stage_that_took_more_in_an_earlier_run_keeps_its_share() -> None:
    assert on_one_gpu(0.2, like="") == (False, [])


def test_shares_are_of_one_gpu_each() -> None:
    two = {"m": {"CPU": 8.0, "GPU": 2.0}}

    async def go() -> list[bool]:
        slots, share = Slots(machines=two, segment_s=3600.0), {"CPU": 1.0, "GPU": 0.65}
        await slots.acquire("a/1", share, like="train")
        await slots.acquire("b/1", {"CPU": 1.0, "GPU": 1.0}, like="train")
        third = asyncio.ensure_future(slots.acquire("c/1", share))
        await asyncio.sleep(0)
        # On each of the two .35 would be left, which is room for nobody.
        found = [third.done(), slots.gives_way("b/1", 0.1, 0.65)]
        small = asyncio.ensure_future(slots.acquire("d/1", {"CPU": 1.0, "GPU": 0.3}))
        await asyncio.sleep(0)
        third.cancel()
        return [*found, small.done()]

    assert asyncio.run(go()) == [False, False, True]
    assert places({"GPU": 0.65}, list(two.values())) == 2
    assert places({"GPU": 0.2, "CPU": 1.0}, list(two.values())) == 8


def test_what_a_stage_took_until_its_end_tells_what_those_like_it_take() -> None:
    async def go() -> list[float]:
        slots, whole = Slots(machines={"m": {"GPU": 1.0}}), {"GPU": 1.0}
        await slots.acquire("a/1", whole, like="score")
        others = [
            asyncio.ensure_future(slots.acquire(ticket, whole, like=like))
            for ticket, like in (("b/1", "score"), ("b/2", "score"), ("b/3", "train"))
        ]
        await asyncio.sleep(0)
        slots.release("a/1", takes=0.25)
        found = [(await one)["GPU"] for one in others[:2]]
        assert not others[2].done(), "of another name: it needs all of it"
        for number in (1, 2):
            slots.release(f"b/{number}", takes=0.25)
        return [*found, (await others[2])["GPU"]]

    assert asyncio.run(go()) == [0.25, 0.25, 1.0]


@pytest.mark.parametrize(
    ("needs", "said"),
    [
        ({"CPU": 2.0, "GPU": 0.5}, None),
        ({"GPU": 3.0}, "needs 3 GPU, the most that a machine has is 1"),
        ({"memory": 2.0**36}, "needs 64 GiB of memory, the most that a machine has is 16 GiB"),
        ({"CPU": 1.0, "GPU": 1.0, "site:a": 0.001}, "on the machine of site:a"),
        ({"CPU": 8.0, "GPU": 1.0}, "all of it on one machine"),
    ],
)
def test_what_can_never_be_scheduled_is_named(needs: dict[str, float], said: str | None) -> None:
    nodes = [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 8.0, "site:a": 1.0, "memory": 2.0**34}]
    found = unmet(needs, nodes)
    assert found is None if said is None else said in str(found)


@pytest.mark.parametrize(("sites", "devices"), [(2, 1), (2, 2), (4, 4), (8, 2), (8, 8), (16, 4)])
def test_the_order_is_within_a_twentieth_of_what_no_order_beats(sites: int, devices: int) -> None:
    """With stages of the paper's lengths and sites log-normal in size, on a virtual clock."""
    file = Path(__file__).parents[2] / "benchmarks" / "schedule.py"
    spec = importlib.util.spec_from_file_location("schedule_benchmark", file)
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = benchmark  # dataclasses look their module up
    spec.loader.exec_module(benchmark)
    for seed in range(3):
        tasks = benchmark.federation(sites, seed)
        hours, _ = benchmark.policy(tasks, devices)
        assert 1 <= hours / benchmark.bound(tasks, devices) + 1e-9 <= 1.05
