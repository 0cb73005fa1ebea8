"""The state machine of all objects that are started and closed, in virtual time."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import anyio
import pytest

from bucketeer_async import ClosedError, WrongLoopError
from bucketeer_async._lifecycle import Lifecycle, State
from tests.clock import VirtualLoop


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


def now() -> float:
    return asyncio.get_running_loop().time()


class Thing:
    """A slow owner of a lifecycle, which records the calls."""

    def __init__(self, *, prepare: float = 0.0, finish: float = 0.0) -> None:
        self.done: list[tuple[str, float]] = []
        self.prepare_seconds, self.finish_seconds = prepare, finish
        self.failing: dict[str, BaseException] = {}
        self.life = Lifecycle(
            "thing",
            task_name="bucketeer-thing",
            prepare=self.prepare,
            finish=self.finish,
            conclude=lambda: self.note("concluded"),
            on_closing=lambda: self.note("closing"),
        )

    def note(self, what: str) -> None:
        self.done.append((what, now()))
        if what in self.failing:
            raise self.failing[what]

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.done]

    async def prepare(self) -> None:
        await asyncio.sleep(self.prepare_seconds)
        self.note("prepared")

    async def finish(self) -> None:
        await asyncio.sleep(self.finish_seconds)
        self.note("finished")

    async def close(self) -> None:
        self.life.begin_closing()
        await self.life.closed()


async def test_a_life_goes_through_all_states_once() -> None:
    thing = Thing(prepare=1.0, finish=1.0)
    states = [thing.life.state]

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(thing.life.start)
        await asyncio.sleep(0.5)
        states.append(thing.life.state)
        await asyncio.sleep(1.0)
        states.append(thing.life.state)
        tasks.start_soon(thing.close)
        await asyncio.sleep(0.5)
        states.append(thing.life.state)
    states.append(thing.life.state)

    assert states == list(State)
    assert thing.done == [("prepared", 1.0), ("closing", 1.5), ("finished", 2.5), ("concluded", 2.5)]


async def test_a_start_that_is_joined_goes_on_when_the_first_caller_is_cancelled() -> None:
    thing = Thing(prepare=2.0)

    async with anyio.create_task_group() as tasks:
        first = asyncio.create_task(thing.life.start())
        tasks.start_soon(thing.life.start)
        await asyncio.sleep(1.0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first

    assert thing.life.state is State.RUNNING
    await thing.close()


async def test_a_start_is_undone_when_every_caller_is_cancelled() -> None:
    thing = Thing(prepare=60.0)
    starts = [asyncio.create_task(thing.life.start()) for _ in range(3)]

    await asyncio.sleep(1.0)
    for start in starts:
        start.cancel()
    await asyncio.wait(starts)
    await thing.life.closed()

    assert now() == 1.0
    assert thing.names == ["closing", "finished", "concluded"]
    with pytest.raises(ClosedError, match="the thing is closed; make a new one"):
        await thing.life.start()


async def test_closing_interrupts_a_start_and_every_caller_is_told() -> None:
    thing = Thing(prepare=60.0)
    starts = [asyncio.create_task(thing.life.start()) for _ in range(3)]
    await asyncio.sleep(1.0)

    await thing.close()

    assert now() == 1.0
    assert thing.names == ["closing", "finished", "concluded"]
    errors = await asyncio.gather(*starts, return_exceptions=True)
    assert [str(error) for error in errors] == ["the thing was closed while it was starting"] * 3


async def test_closing_before_the_first_step_of_a_start_still_finishes() -> None:
    thing = Thing(prepare=60.0)
    start = asyncio.create_task(thing.life.start())
    await asyncio.sleep(0)

    await thing.close()

    assert thing.names == ["closing", "finished", "concluded"]
    with pytest.raises(ClosedError):
        await start


async def test_a_start_that_succeeds_amid_closing_raises() -> None:
    thing = Thing()
    start = asyncio.create_task(thing.life.start())
    while thing.life.state is not State.RUNNING:  # noqa: ASYNC110 - time is virtual
        await asyncio.sleep(0)

    thing.life.begin_closing()

    with pytest.raises(ClosedError, match="closed while it was starting"):
        await start
    await thing.life.closed()


async def test_an_error_of_the_start_reaches_every_caller_and_finishes() -> None:
    thing = Thing(prepare=1.0)
    thing.failing["prepared"] = OSError("no such file")

    errors = await asyncio.gather(*(thing.life.start() for _ in range(3)), return_exceptions=True)

    assert [str(error) for error in errors] == ["no such file"] * 3
    assert thing.names == ["prepared", "closing", "finished", "concluded"]
    assert thing.life.state is State.CLOSED


async def test_closing_twice_finishes_once() -> None:
    thing = Thing(finish=1.0)
    await thing.life.start()

    await asyncio.gather(thing.close(), thing.close(), thing.close())
    await thing.close()

    assert thing.names == ["prepared", "closing", "finished", "concluded"]


async def test_an_error_of_the_end_is_raised_and_ends_all_the_same() -> None:
    thing = Thing()
    thing.failing["finished"] = RuntimeError("a bug")
    await thing.life.start()

    with pytest.raises(RuntimeError, match="a bug"):
        await thing.close()
    assert thing.life.state is State.CLOSED


async def test_what_runs_is_required() -> None:
    thing = Thing()
    with pytest.raises(ClosedError, match="the thing is not started"):
        thing.life.require_running()

    await thing.life.start()
    thing.life.require_running()

    await thing.close()
    with pytest.raises(ClosedError, match="the thing is closed"):
        thing.life.require_running()


async def test_closing_what_is_new_needs_no_host() -> None:
    thing = Thing()

    await thing.close()

    assert thing.done == []
    assert thing.life.state is State.CLOSED


def test_the_end_of_the_loop_closes() -> None:
    thing = Thing(finish=1.0)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(thing.life.start())

    assert thing.names == ["prepared", "closing", "finished", "concluded"]


async def cancel_host(thing: Thing) -> None:
    """Cancel the host, as code that ends a loop does with all tasks."""
    (host,) = [task for task in asyncio.all_tasks() if task.get_name() == "bucketeer-thing"]
    host.cancel()
    await asyncio.sleep(0.25)


async def test_a_cancelled_end_is_begun_again() -> None:
    thing = Thing(finish=1.0)
    await thing.life.start()

    for _ in range(4):  # the first one begins the end
        await cancel_host(thing)
    assert thing.names == ["prepared", "closing"]
    await thing.life.closed()

    assert thing.done == [("prepared", 0.0), ("closing", 0.0), ("finished", 1.75), ("concluded", 1.75)]


async def test_an_end_that_is_cancelled_very_often_is_concluded() -> None:
    thing = Thing(finish=1.0)
    await thing.life.start()

    for number in range(12):
        assert ("concluded" in thing.names) is False, number
        await cancel_host(thing)

    assert thing.names == ["prepared", "closing", "concluded"]
    assert thing.life.state is State.CLOSED


async def test_an_end_that_waits_for_what_is_cancelled_is_concluded() -> None:
    thing = Thing()
    thing.failing["finished"] = asyncio.CancelledError()  # not of the host
    await thing.life.start()

    await thing.close()

    assert thing.names == ["prepared", "closing", "finished", "concluded"]


async def test_an_error_as_closing_begins_is_no_hindrance_to_the_end() -> None:
    thing = Thing()
    thing.failing["closing"] = RuntimeError("a bug")
    await thing.life.start()

    await cancel_host(thing)

    assert thing.names[-1] == "concluded"
    assert thing.life.state is State.CLOSED
    with pytest.raises(RuntimeError, match="a bug"):  # otherwise told whenever the task is collected
        await thing.life.closed()


def test_a_copy_in_a_forked_child_does_nothing_at_its_end() -> None:
    thing = Thing()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(thing.life.start())
        thing.life._pid = os.getpid() + 1

    assert thing.names == ["prepared"]


def test_another_loop_is_refused() -> None:
    thing = Thing()
    loop = VirtualLoop()
    loop.run_until_complete(thing.life.start())

    async def elsewhere() -> None:
        for refused in (thing.life.require_loop, thing.life.require_running):
            with pytest.raises(WrongLoopError):
                refused()
        with pytest.raises(WrongLoopError):
            await thing.life.start()

    asyncio.run(elsewhere())
    loop.run_until_complete(thing.close())
    loop.close()
