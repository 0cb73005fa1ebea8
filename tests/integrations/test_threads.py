"""Pushes from many threads: exact, whoever pushes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from bucketeer_async import (
    Client,
    Fate,
    Processor,
    ProcessorConfig,
    Receipt,
    RefusedReason,
    Statistics,
    User,
)
from bucketeer_async.gateway import GatewayState, create_app
from bucketeer_async.gateway import flag as gateway_flag
from tests.fakes import FakeAnswer, FakeClient, as_forked
from tests.faults.matrix import FULL
from tests.test_client_local import Server, flag

USER = User("user")


async def test_pushes_from_eight_threads_and_the_loop_are_exact() -> None:
    client = FakeClient()
    processor = Processor(client, ProcessorConfig(queue_capacity=100_000))
    receipts: list[list[Any]] = [[] for _ in range(8)]

    def push(found: list[Any]) -> None:
        found.extend([processor.push_goal_event_nowait(USER, "goal") for _ in range(2000)])

    async with processor:
        threads = [threading.Thread(target=push, args=(each,)) for each in receipts]
        for thread in threads:
            thread.start()
        own = [await processor.push_goal_event(USER, "goal") for _ in range(2000)]
        for thread in threads:
            await asyncio.to_thread(thread.join)
        assert await processor.flush()
        statistics = processor.statistics().goal

    pushed = [receipt for each in [*receipts, own] for receipt in each]
    assert len({receipt.event_id for receipt in pushed}) == 18_000
    assert set(client.taken) == {receipt.event_id for receipt in pushed}
    assert statistics.pushed == statistics.delivered == 18_000


async def test_evaluations_without_awaiting_from_eight_threads_and_the_loop_are_exact() -> None:
    server = Server()
    server.flags = [flag("bool", "true", "BOOLEAN"), flag("int", "7", "NUMBER")]
    values: list[list[Any]] = [[] for _ in range(8)]

    def evaluate(found: list[Any]) -> None:
        for number in range(1000):
            user = User(f"user-{number}")
            found.append(client.bool_variation_nowait(user, "bool", False))
            found.append(client.int_variation_details_nowait(user, "int", 0).value)
            found.append(client.bool_variation_nowait(user, "unknown", False))

    async with server.client() as client:
        await client.wait_ready()
        threads = [threading.Thread(target=evaluate, args=(each,)) for each in values]
        for thread in threads:
            thread.start()
        own = [await client.bool_variation(USER, "bool", False) for _ in range(1000)]
        for thread in threads:
            await asyncio.to_thread(thread.join)
        assert await client.flush()
        statistics = client.statistics()

    assert values == [[True, 7, False] * 1000] * 8
    assert own == [True] * 1000
    assert statistics.evaluation.pushed == statistics.evaluation.delivered == 25_000
    assert server.events["EvaluationEvent", 0] == 25_000
    assert server.events["LatencyMetricsEvent", 100] == 17_000
    assert 0 < server.events["InternalSdkErrorMetricsEvent", 100] <= 8_000


class LockWithEnd:
    """A lock that calls a function once, after it was let go on one thread."""

    def __init__(self, lock: Any, call: Callable[[], object]) -> None:
        self._lock = lock
        self._call = call
        self._depth = 0
        self._thread = threading.get_ident()

    def __enter__(self) -> None:
        self._lock.acquire()
        self._depth += threading.get_ident() == self._thread

    def __exit__(self, *_: object) -> None:
        is_here = threading.get_ident() == self._thread
        self._depth -= is_here
        self._lock.release()
        if is_here and not self._depth:
            self._depth = 1
            self._call()


async def test_statistics_are_of_one_moment_whatever_happens_while_they_are_made() -> None:
    loop = asyncio.get_running_loop()

    def read() -> Statistics:
        def deliver() -> None:
            assert asyncio.run_coroutine_threadsafe(processor.flush(), loop).result(30)

        ledger = processor._pipeline.ledger
        ledger.lock = LockWithEnd(ledger.lock, deliver)  # type: ignore[assignment]
        return processor.statistics()

    async with Processor(FakeClient(), ProcessorConfig(flush_interval=3600.0)) as processor:
        receipt = processor.push_goal_event_nowait(USER, "goal")
        size = len(receipt._body)
        statistics = await asyncio.to_thread(read)

        assert receipt.outcome is not None
        assert (statistics.goal.queued, statistics.goal.delivered) == (1, 0)
        assert (statistics.held_bytes, statistics.posts, statistics.posted_events) == (size, 0, 0)


async def test_statistics_add_up_from_any_thread() -> None:
    done = threading.Event()
    processor = Processor(FakeClient(), ProcessorConfig(flush_size=10, num_flush_workers=4))

    def watch() -> int:
        readings = 0
        while not done.is_set():
            each = processor.statistics()
            total, readings = each.goal, readings + 1
            assert each.held_bytes == size * (total.queued + total.in_flight)
            assert total.delivered <= each.posted_events <= total.delivered + total.in_flight
            assert each.posts <= each.posted_events <= 10_000
        return readings

    async with processor:
        first = await processor.push_goal_event(USER, "goal")
        size = len(first._body)
        watching = [asyncio.create_task(asyncio.to_thread(watch)) for _ in range(2)]
        try:
            for _ in range(9_999 if FULL else 1_999):
                await processor.push_goal_event(USER, "goal")
            assert await processor.flush(60)
        finally:
            done.set()
        for each in watching:
            assert await each > 0


async def test_no_push_slips_by_unseen_between_two_threads() -> None:
    together = threading.Barrier(2)

    def push() -> Receipt:
        together.wait()
        return processor.push_goal_event_nowait(USER, "goal")

    async with Processor(FakeClient(), ProcessorConfig(flush_size=2, flush_interval=60.0)) as processor:
        async with asyncio.timeout(30):
            for _ in range(300):
                receipts = await asyncio.gather(asyncio.to_thread(push), asyncio.to_thread(push))
                await asyncio.gather(*[receipt.settled() for receipt in receipts])


def test_threads_of_a_forked_child_begin_the_same_life() -> None:
    together = threading.Barrier(8)
    for child in range(100 if FULL else 30):
        processor = Processor(FakeClient())
        lives: list[Any] = []

        def push(lives: list[Any] = lives, processor: Processor = processor) -> None:
            together.wait()
            processor.push_goal_event_nowait(USER, "goal")
            lives.append(processor._life.get())

        threads = [threading.Thread(target=push) for _ in range(8)]
        with as_forked(-child - 1):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

            assert len({id(life) for life in lives}) == 1
            assert processor.statistics().goal.refused_by == {"not_running": 8}


async def test_endpoints_in_the_thread_pool_of_fastapi_push_without_waiting() -> None:
    app = FastAPI()
    threads: set[int] = set()

    @app.post("/checkout/{user_id}")
    def checkout(user_id: str) -> dict[str, bool]:
        threads.add(threading.get_ident())
        return {"recorded": processor.push_goal_event_nowait(User(user_id), "purchase").accepted}

    client = FakeClient()
    async with Processor(client) as processor:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as http:
            answers = await asyncio.gather(*[http.post(f"/checkout/user-{number}") for number in range(200)])
        await processor.flush()
        statistics = processor.statistics().goal

    assert all(answer.json() == {"recorded": True} for answer in answers)
    assert threading.get_ident() not in threads
    assert statistics.delivered == len(client.taken) == 200


@pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest"])
async def test_a_full_queue_is_exact_under_threads(overflow: Any) -> None:
    async def never(_events: Any) -> FakeAnswer:
        await asyncio.Event().wait()
        raise AssertionError

    config = ProcessorConfig(overflow=overflow, queue_capacity=500, flush_size=100, drain_timeout=0.0)
    processor = Processor(FakeClient(never), config)
    most = 0

    def push() -> None:
        nonlocal most
        for _ in range(1000):
            processor.push_goal_event_nowait(USER, "goal")
            statistics = processor.statistics().goal
            most = max(most, statistics.queued + statistics.in_flight)

    async with processor:
        await asyncio.gather(*[asyncio.to_thread(push) for _ in range(4)])
        statistics = processor.statistics().goal

    assert most <= 500
    assert statistics.pushed == 4000
    assert statistics.accepted == statistics.dropped + statistics.queued + statistics.in_flight
    if overflow == "drop_newest":
        assert statistics.refused_by == {RefusedReason.QUEUE_FULL: 3500}


async def test_a_receipt_of_a_displaced_event_resolves_from_another_thread() -> None:
    config = ProcessorConfig(overflow="drop_oldest", queue_capacity=10, flush_size=10, drain_timeout=0.0)

    async def never(_events: Any) -> FakeAnswer:
        await asyncio.Event().wait()
        raise AssertionError

    async with Processor(FakeClient(never), config) as processor:
        first = processor.push_goal_event_nowait(USER, "goal")
        waiting = asyncio.create_task(first.settled())
        await asyncio.sleep(0)
        thread = threading.Thread(target=lambda: [processor.push_goal_event_nowait(USER, "goal") for _ in range(10)])
        thread.start()
        thread.join()

        outcome = await asyncio.wait_for(waiting, 5)

    assert outcome.fate is Fate.DROPPED


async def test_eight_threads_that_access_the_same_flags_push_one_event_for_each() -> None:
    ids = [f"flag-{number}" for number in range(200)]
    state = GatewayState(flags=[gateway_flag(each, tags=["shop"]) for each in ids])
    begin, threads = threading.Barrier(8), ThreadPoolExecutor(8)
    loop = asyncio.get_running_loop()

    async with httpx.AsyncClient(transport=httpx.ASGITransport(create_app(state))) as http:
        async with Client(endpoint="http://127.0.0.1", api_key="client-key", tag="shop", http=http) as client:
            for _ in range(5):
                flags = await client.evaluate_all(USER)

                def access(accessible: Any = flags) -> int:
                    begin.wait(30)
                    return sum(accessible.bool(each, default=False) + accessible.int(f"no-{each}", 0) for each in ids)

                calls = [loop.run_in_executor(threads, access) for _ in range(8)]
                assert await asyncio.gather(*calls) == [200] * 8
            statistics = client.statistics().evaluation

    threads.shutdown()
    assert statistics.pushed == statistics.accepted == 5 * 400
