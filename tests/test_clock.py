"""The event loop in virtual time: it jumps, keeps the order of timers, and does not wait for ever."""

from __future__ import annotations

import asyncio

import pytest

from tests.clock import DeadlockError, VirtualLoop


def test_an_hour_passes_at_once() -> None:
    async def sleep() -> float:
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        assert runner.run(sleep()) == 3600


def test_timers_fire_in_their_order() -> None:
    fired: list[int] = []

    async def fire(after: int) -> None:
        await asyncio.sleep(after)
        fired.append(after)

    async def fire_all() -> None:
        await asyncio.gather(fire(30), fire(10), fire(20))

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(fire_all())

    assert fired == [10, 20, 30]


def test_a_deadlock_is_an_error_and_no_hang() -> None:
    async def end(forever: asyncio.Task[bool]) -> None:
        forever.cancel()
        await asyncio.wait([forever])

    loop = VirtualLoop()
    forever = loop.create_task(asyncio.Event().wait())

    with pytest.raises(DeadlockError):
        loop.run_until_complete(forever)

    loop.run_until_complete(end(forever))
    loop.close()
