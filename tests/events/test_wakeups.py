"""Wake-ups by themselves: from the loop, from threads, and after the loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from anyio.lowlevel import checkpoint

from bucketeer_async._events._wakeups import Wakeups


def wakeups(room: Callable[[], int | None] = lambda: None) -> Wakeups:
    made = Wakeups(room)
    made.bind(asyncio.get_running_loop())
    return made


async def test_on_the_loop_the_collector_looks_again_in_the_next_turn() -> None:
    wakes = wakeups()

    wakes.due()
    await checkpoint()

    assert wakes.collector.is_set()


def test_a_push_in_the_middle_of_the_collectors_wait_wakes_it() -> None:
    class Loop(asyncio.SelectorEventLoop):
        """Runs a signal handler where `asyncio.Event.wait` has seen that the event is not set, and does not wait yet."""

        handler: Callable[[], None] | None = None

        def create_future(self) -> asyncio.Future[Any]:
            handler, self.handler = self.handler, None
            if handler is not None:
                handler()
            return super().create_future()

    loop = Loop()

    async def collect() -> None:
        wakes = wakeups()
        loop.handler = wakes.due
        await wakes.collector.wait()
        assert loop.handler is None

    with asyncio.Runner(loop_factory=lambda: loop) as runner:

        async def in_time() -> None:
            async with asyncio.timeout(10):
                await asyncio.create_task(collect())

        runner.run(in_time())


async def test_requests_of_other_threads_before_the_next_turn_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, wakes, calls, done = asyncio.get_running_loop(), wakeups(), 0, threading.Event()
    call_soon_threadsafe = loop.call_soon_threadsafe

    def counted(callback: Callable[..., object], *args: object) -> object:
        nonlocal calls
        calls += callback == wakes._wake
        return call_soon_threadsafe(callback, *args)

    def request(times: int) -> None:
        for _ in range(times):
            wakes.due()
        done.set()

    monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
    requesting = loop.run_in_executor(None, request, 100)
    done.wait()  # the loop has no turn: nothing is awaited
    assert not wakes.collector.is_set()
    await requesting
    await wakes.collector.wait()
    once = calls
    wakes.collector.clear()
    await loop.run_in_executor(None, request, 1)
    await wakes.collector.wait()

    assert once == 1
    assert calls == once + 1


async def test_settled_records_wake_all_who_wait_for_progress() -> None:
    wakes = wakeups()
    waiting = [asyncio.create_task(wakes.progress.wait()) for _ in range(3)]
    await checkpoint()

    await asyncio.to_thread(wakes.changed)
    await asyncio.wait_for(asyncio.gather(*waiting), 10)

    assert wakes.collector.is_set()


async def test_room_wakes_as_many_pushes_as_it_has_room_for_in_their_order() -> None:
    room: int | None = 2
    wakes = wakeups(lambda: room)
    woken: list[int] = []

    async def push(number: int) -> None:
        await wakes.wait_for_room()
        woken.append(number)

    waiting = [asyncio.create_task(push(number)) for number in range(5)]
    await checkpoint()
    wakes.changed()
    for _ in range(3):
        await checkpoint()
    assert woken == [0, 1]

    room = None  # closed: all of them are refused
    wakes.changed()
    await asyncio.wait_for(asyncio.gather(*waiting), 10)
    assert woken == [0, 1, 2, 3, 4]


async def test_a_cancelled_push_leaves_its_room_to_the_next() -> None:
    wakes = wakeups(lambda: 1)
    first, second = (asyncio.create_task(wakes.wait_for_room()) for _ in range(2))
    await checkpoint()

    wakes.changed()  # wakes the first one
    first.cancel()
    await asyncio.wait_for(second, 10)

    assert first.cancelled()


def test_a_request_for_a_loop_that_is_closed_or_not_there_does_nothing() -> None:
    unbound = Wakeups(lambda: None)
    unbound.due()
    assert not unbound.collector.is_set()

    async def bind() -> Wakeups:
        return wakeups()

    gone = asyncio.run(bind())
    gone.due()
    gone.changed()
