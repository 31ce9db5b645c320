"""Who goes first, who is preempted, and what a machine has room for."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from hyfree_ray.scheduling.capacity import capacity, why_unsatisfiable
from hyfree_ray.scheduling.history import Outlook
from hyfree_ray.scheduling.queue import RequestId, SlotRequest, Slots

CPU = {"CPU": 1.0}
ONE = {"m": CPU}


def request(
    task: str,
    needs: Mapping[str, float] = CPU,
    by: tuple[str, str] | None = None,
    share_of: str = "",
) -> SlotRequest:
    """A request, by a process and its number where that matters."""
    number = None if by is None else RequestId(*by)
    return SlotRequest(task=task, needs=needs, share_of=share_of, id=number)


def expected(**stages: tuple[float, float]) -> dict[str, Outlook]:
    """Seconds and critical path by stage; a stage `x` asks as the task `x/1`."""
    return {
        f"{name}/1": Outlook(seconds=own, critical_path=path)
        for name, (own, path) in stages.items()
    }


def let_in(
    machines: Mapping[str, Mapping[str, float]], *asked: tuple[str, Mapping[str, float], float]
) -> list[str]:
    """Tasks in the order in which they get in, where each ends when no other can start."""

    async def go() -> list[str]:
        outlooks = {task: Outlook(seconds=1.0, critical_path=path) for task, _, path in asked}
        slots, order = Slots(machines=machines, outlooks=outlooks), []

        async def one(asks: SlotRequest) -> None:
            await slots.acquire(asks)
            order.append(asks.task)
            await asyncio.sleep(0.001)
            slots.release(asks)

        await asyncio.gather(*(one(request(task, needs)) for task, needs, _ in asked))
        return order

    return asyncio.run(go())


def test_the_longest_chain_goes_first_and_not_who_came_first() -> None:
    order = let_in(ONE, ("a/1", CPU, 5), ("a/2", CPU, 1), ("b/1", CPU, 3), ("b/2", CPU, 9))
    assert order == ["a/1", "b/2", "b/1", "a/2"]


def test_a_stage_that_was_not_foreseen_goes_first() -> None:
    async def go() -> None:
        slots = Slots(machines=ONE, outlooks=expected(a=(1, 9), b=(1, 99)))
        await slots.acquire(request("a/1"))
        planned = asyncio.ensure_future(slots.acquire(request("b/1")))
        await asyncio.sleep(0)
        unforeseen = asyncio.ensure_future(slots.acquire(request("c/1")))
        await asyncio.sleep(0)
        slots.release(request("a/1"))
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
        await slots.acquire(request("a/1"))
        slots.forget("a", "new")
        await asyncio.wait_for(slots.acquire(request("b/1")), 1)

    asyncio.run(go())


def test_a_process_that_asks_before_it_is_heard_that_it_is_new_keeps_what_it_asked_for() -> None:
    async def go() -> None:
        slots = Slots(machines=ONE)
        await slots.acquire(request("a/1", by=("old", "1")))
        again = asyncio.ensure_future(slots.acquire(request("a/1", by=("new", "1"))))
        more = asyncio.ensure_future(slots.acquire(request("a/2", by=("new", "2"))))
        await asyncio.sleep(0)
        assert not again.done()
        slots.forget("a", "new")
        await asyncio.wait_for(again, 1)
        slots.forget("a", "new")
        assert not more.done(), "the place is not free"
        slots.release(request("a/1", by=("new", "1")))
        await asyncio.wait_for(more, 1)

    asyncio.run(go())


def test_a_process_whose_answer_was_lost_asks_again_and_has_its_place() -> None:
    """Case 11: the scheduler has heard it, and would have it wait for itself."""

    async def go() -> None:
        slots, first = Slots(machines=ONE), request("a/1", by=("a", "1"))
        await slots.acquire(first)
        await asyncio.wait_for(slots.acquire(first), 1)
        waiting = [
            asyncio.ensure_future(slots.acquire(request("b/1", by=("b", "1")))) for _ in "12"
        ]
        await asyncio.sleep(0)
        slots.release(first)
        await asyncio.wait_for(asyncio.gather(*waiting), 1)
        slots.release(request("b/1", by=("b", "1")))
        await asyncio.wait_for(slots.acquire(request("a/1", by=("a", "2"))), 1)

    asyncio.run(go())


def test_what_ended_is_heard_also_after_the_next_asking_and_twice() -> None:
    """A training is preempted and asks again elsewhere before it is heard to have ended."""

    async def go() -> None:
        slots = Slots(machines={"m": CPU, "n": CPU}, segment_s=0.0)
        first, second = (request("a/1", by=("p", number)) for number in "12")
        await slots.acquire(first)
        await slots.acquire(second)
        slots.release(first, done=False)
        slots.release(first, done=False)
        other = asyncio.ensure_future(slots.acquire(request("b/1")))
        more = asyncio.ensure_future(slots.acquire(request("b/2")))
        await asyncio.sleep(0)
        assert other.done()
        assert not more.done(), "the second asking still has its place"
        slots.release(second)
        await more
        await asyncio.wait_for(slots.acquire(request("c/1", {}, by=("p", "3"))), 1)

    asyncio.run(go())


def test_a_machine_that_comes_back_is_given_to_who_waits_for_it() -> None:
    async def go() -> None:
        back = {"n": {"CPU": 1.0, "site:a": 1.0}}
        slots = Slots(machines={**ONE, **back})
        await slots.acquire(request("b/1", {"CPU": 1.0, "site:a": 0.001}))
        waiting = asyncio.ensure_future(
            slots.acquire(request("a/1", {"CPU": 1.0, "site:a": 0.001}))
        )
        await asyncio.sleep(0)
        assert not waiting.done()
        slots.update_machines({**ONE, "n2": back["n"]})
        await asyncio.wait_for(waiting, 1)

    asyncio.run(go())


def is_preempted(
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
        await slots.acquire(request("a/1"))
        waiting = [
            asyncio.ensure_future(slots.acquire(request(t, needs))) for t in outlooks if t != "a/1"
        ]
        await asyncio.sleep(0)
        found = slots.should_preempt("a/1", share)
        for one in waiting:
            one.cancel()
        return found

    return asyncio.run(go())


def test_a_training_is_preempted_by_a_longer_chain_that_decides_the_end() -> None:
    longer = expected(a=(100, 100), b=(50, 150))
    assert is_preempted(longer, 0.1)
    assert not is_preempted(longer, 0.1, segment_s=60.0)  # it has only just begun
    assert not is_preempted(longer, 0.1, machines={"m": {"CPU": 2.0}})  # there is room
    elsewhere = {"m": CPU, "n": {"CPU": 1.0, "site:b": 1.0}}
    pinned = {"CPU": 1.0, "site:c": 0.001}
    assert not is_preempted(longer, 0.1, machines=elsewhere, needs=pinned)  # of no use to it


def test_a_training_goes_on_where_preemption_would_not_help() -> None:
    assert not is_preempted(expected(a=(100, 100), b=(50, 110)), 0.01)  # as long as its own
    assert is_preempted(expected(a=(100, 100), b=(50, 110)), 0.5)  # what is left is shorter
    many = expected(a=(100, 100), b=(50, 150), **{f"c{k}": (40.0, 40.0) for k in range(9)})
    assert not is_preempted(many, 0.1)  # all the others take longer than that chain


def test_who_was_preempted_goes_on_before_shorter_chains_with_what_it_has_left() -> None:
    async def go() -> list[str]:
        outlooks = expected(a=(100, 100), b=(50, 150), c=(30, 30))
        slots = Slots(machines=ONE, outlooks=outlooks, segment_s=0.0)
        order: list[str] = []

        async def short(task: str) -> None:
            await slots.acquire(request(task))
            order.append(task)
            slots.release(request(task))

        await slots.acquire(request("a/1"))
        others = [asyncio.ensure_future(short(task)) for task in ("b/1", "c/1")]
        await asyncio.sleep(0)
        assert slots.should_preempt("a/1", 0.5)
        again = asyncio.ensure_future(short("a/1"))
        slots.release(request("a/1"), done=False)
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
        await slots.acquire(request("a/1", whole | {"GPU": has}, share_of=like))
        waiting = [
            asyncio.ensure_future(slots.acquire(request(f"b{number}/1", whole, share_of="train")))
            for number in range(others)
        ]
        await asyncio.sleep(0)
        asked = slots.should_preempt("a/1", 0.1, takes)
        if asked:
            slots.release(request("a/1"), done=False, gpu_share=takes)
            again = slots.acquire(
                request("a/1", whole | {"GPU": max(has if not like else 0.0, takes)})
            )
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
        await slots.acquire(request("a/1", share, share_of="train"))
        await slots.acquire(request("b/1", {"CPU": 1.0, "GPU": 1.0}, share_of="train"))
        third = asyncio.ensure_future(slots.acquire(request("c/1", share)))
        await asyncio.sleep(0)
        # On each of the two .35 would be left, which is room for nobody.
        found = [third.done(), slots.should_preempt("b/1", 0.1, 0.65)]
        small = asyncio.ensure_future(slots.acquire(request("d/1", {"CPU": 1.0, "GPU": 0.3})))
        await asyncio.sleep(0)
        third.cancel()
        return [*found, small.done()]

    assert asyncio.run(go()) == [False, False, True]
    assert capacity({"GPU": 0.65}, list(two.values())) == 2
    assert capacity({"GPU": 0.2, "CPU": 1.0}, list(two.values())) == 8


def test_what_a_stage_took_until_its_end_tells_what_those_like_it_take() -> None:
    async def go() -> list[float]:
        slots, whole = Slots(machines={"m": {"GPU": 1.0}}), {"GPU": 1.0}
        await slots.acquire(request("a/1", whole, share_of="score"))
        others = [
            asyncio.ensure_future(slots.acquire(request(task, whole, share_of=like)))
            for task, like in (("b/1", "score"), ("b/2", "score"), ("b/3", "train"))
        ]
        await asyncio.sleep(0)
        slots.release(request("a/1"), gpu_share=0.25)
        found = [(await one)["GPU"] for one in others[:2]]
        assert not others[2].done(), "of another name: it needs all of it"
        for number in (1, 2):
            slots.release(request(f"b/{number}"), gpu_share=0.25)
        return [*found, (await others[2])["GPU"]]

    assert asyncio.run(go()) == [0.25, 0.25, 1.0]


@pytest.mark.parametrize(
    ("needs", "said"),
    [
        ({"CPU": 2.0, "GPU": 0.5}, None),
        ({"GPU": 3.0}, "needs 3 GPU, but no machine has more than 1"),
        ({"memory": 2.0**36}, "needs 64 GiB of memory, but no machine has more than 16 GiB"),
        ({"CPU": 1.0, "GPU": 1.0, "site:a": 0.001}, "on the machine of site:a"),
        ({"CPU": 8.0, "GPU": 1.0}, "all on one machine"),
    ],
)
def test_what_can_never_be_scheduled_is_named(needs: dict[str, float], said: str | None) -> None:
    nodes = [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 8.0, "site:a": 1.0, "memory": 2.0**34}]
    found = why_unsatisfiable(needs, nodes)
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
