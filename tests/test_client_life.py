"""The lifecycle of a client with fake parts, in virtual time: start, close, and both at once."""

from __future__ import annotations

import asyncio
import math
from types import EllipsisType
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from bucketeer_async import ClosedError, DrainReport, Evaluation, User, WrongLoopError
from bucketeer_async._client_life import ClientLife
from bucketeer_async._lifecycle import State
from tests.clock import VirtualLoop
from tests.fakes import as_forked

REPORT = DrainReport(duration=1.25)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


def now() -> float:
    return asyncio.get_running_loop().time()


class Parts:
    """A processor, an API client and an evaluator in one, slow, which records the calls."""

    def __init__(self, *, start: float = 0.0, answers: float = 0.0, drain: float = 0.0) -> None:
        self.calls: list[tuple[str, float]] = []
        self.start_seconds, self.answer_seconds, self.drain_seconds = start, answers, drain
        self.failing: Exception | None = None
        self.stuck: Exception | None = None
        self.life = ClientLife(_Processor(self), _Api(self), _Evaluator(self))

    def note(self, call: str) -> None:
        self.calls.append((call, now()))

    def drains_until(self) -> float:
        began = next(time for name, time in self.calls if name.startswith("processor drains"))
        return began + self.drain_seconds

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


class _Processor:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._deadline = math.inf

    async def start(self) -> None:
        self._parts.note("processor starts")

    async def flush(self, timeout: float | None = None) -> bool:
        self._parts.note(f"processor flushes {timeout}")
        return True

    async def aclose(self, timeout: float | EllipsisType | None = ...) -> DrainReport:
        self._parts.note("processor drains")
        while now() < min(self._deadline, self._parts.drains_until()):  # noqa: ASYNC110 - time is virtual
            await asyncio.sleep(0.5)
        return REPORT

    def _limit_drain(self, timeout: float) -> None:
        self._deadline = min(self._deadline, now() + timeout)


class _Api:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def aclose(self) -> None:
        self._parts.note("api closes")


class _Evaluator:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def start(self) -> None:
        await asyncio.sleep(self._parts.start_seconds)
        if self._parts.failing is not None:
            raise self._parts.failing
        self._parts.note("evaluator starts")

    async def wait_ready(self) -> None:
        raise NotImplementedError  # no test of this file comes here

    def try_evaluate(self, user: User, feature_id: str) -> None: ...
    async def evaluate(self, user: User, feature_id: str) -> Evaluation:
        raise NotImplementedError  # no test of this file comes here

    async def aclose(self) -> None:
        await asyncio.sleep(self._parts.answer_seconds)
        if self._parts.stuck is not None:
            raise self._parts.stuck
        self._parts.note("evaluator closes")


STARTED = ["processor starts", "evaluator starts"]
ENDED = ["evaluator closes", "processor drains", "api closes"]


async def test_parts_start_together_and_close_in_the_order_that_loses_nothing() -> None:
    parts = Parts()

    await parts.life.start()
    await parts.life.start()
    report = await parts.life.aclose(...)

    assert parts.names == [*STARTED, *ENDED]
    assert report is REPORT
    assert parts.life.state is State.CLOSED


async def test_concurrent_starts_are_one() -> None:
    parts = Parts(start=1.0)

    await asyncio.gather(*(parts.life.start() for _ in range(5)))

    assert parts.names == STARTED
    await parts.life.aclose(...)


async def test_a_start_that_fails_leaves_nothing_behind() -> None:
    parts = Parts()
    parts.failing = OSError("no such file")

    with pytest.raises(OSError, match="no such file"):
        await parts.life.start()
    assert parts.names == ["processor starts", *ENDED]
    assert parts.life.state is State.CLOSED
    with pytest.raises(ClosedError, match="make a new one"):
        await parts.life.start()
    await parts.life.aclose(...)


async def test_a_cancelled_start_leaves_nothing_behind() -> None:
    parts = Parts(start=60.0)

    with anyio.move_on_after(1.0):
        await parts.life.start()
    await parts.life.aclose(...)

    assert now() == 1.0
    assert parts.names == ["processor starts", *ENDED]


async def test_a_start_is_told_that_the_client_was_closed_meanwhile() -> None:
    parts = Parts(start=60.0)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(parts.life.aclose, ...)
        with pytest.raises(ClosedError, match="closed while it was starting"):
            await parts.life.start()


async def test_closing_what_was_never_started_is_the_end() -> None:
    parts = Parts()

    assert await parts.life.aclose(...) is REPORT
    assert parts.life.state is State.CLOSED
    with pytest.raises(ClosedError):
        await parts.life.start()
    with pytest.raises(ClosedError, match="the client is closed"):
        parts.life.evaluator()


async def test_every_close_gets_the_same_report() -> None:
    parts = Parts(answers=1.0, drain=1.0)
    await parts.life.start()

    reports = await asyncio.gather(*(parts.life.aclose(...) for _ in range(5)))

    assert reports == [REPORT] * 5
    assert parts.names == [*STARTED, *ENDED]
    assert await parts.life.aclose(...) is REPORT


async def test_a_cancelled_close_goes_on() -> None:
    parts = Parts(answers=2.0, drain=2.0)
    await parts.life.start()

    with anyio.move_on_after(1.0):
        await parts.life.aclose(...)
    assert now() == 1.0
    await parts.life.aclose(...)

    assert now() == 4.0
    assert parts.names == [*STARTED, *ENDED]


@pytest.mark.parametrize(("answers", "drain"), [(1.0, 60.0), (60.0, 60.0), (60.0, 0.0)])
async def test_a_close_with_a_timeout_takes_no_longer(answers: float, drain: float) -> None:
    parts = Parts(answers=answers, drain=drain)
    await parts.life.start()

    await parts.life.aclose(3.0)

    assert now() == 3.0
    assert parts.life.state is State.CLOSED


async def test_a_close_with_a_timeout_keeps_it_when_its_caller_is_cancelled() -> None:
    parts = Parts(answers=60.0, drain=60.0)
    await parts.life.start()

    with anyio.move_on_after(1.0):
        await parts.life.aclose(3.0)
    assert now() == 1.0
    await parts.life.aclose(...)

    assert now() == 3.0


async def test_a_start_goes_on_when_one_of_its_callers_is_cancelled() -> None:
    parts = Parts(start=2.0)

    async with anyio.create_task_group() as tasks:
        first = asyncio.create_task(parts.life.start())
        tasks.start_soon(parts.life.start)
        await asyncio.sleep(1.0)
        first.cancel()

    assert parts.life.state is State.RUNNING
    await parts.life.aclose(...)


async def test_a_later_close_may_shorten_the_drain() -> None:
    parts = Parts(drain=60.0)
    await parts.life.start()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(parts.life.aclose, None)
        await asyncio.sleep(1.0)
        await parts.life.aclose(1.0)

        assert now() == 2.0


async def test_an_evaluator_that_cannot_be_closed_keeps_no_connection_open() -> None:
    parts = Parts()
    parts.stuck = RuntimeError("a bug")
    await parts.life.start()

    with pytest.raises(RuntimeError, match="a bug"):
        await parts.life.aclose(...)
    assert parts.names == [*STARTED, "api closes"]
    assert parts.life.state is State.CLOSED


async def test_the_evaluator_is_there_while_the_client_runs() -> None:
    parts = Parts()
    with pytest.raises(ClosedError, match="the client is not started"):
        parts.life.evaluator()
    with pytest.raises(ClosedError, match="the client is not started"):
        await parts.life.flush(None)

    await parts.life.start()

    assert isinstance(parts.life.evaluator(), _Evaluator)
    assert await parts.life.flush(2.0)
    assert parts.names[-1] == "processor flushes 2.0"
    await parts.life.aclose(...)
    with pytest.raises(ClosedError, match="the client is closed"):
        parts.life.evaluator()


async def test_a_forked_child_has_a_life_of_its_own() -> None:
    parts = Parts()
    await parts.life.start()
    with as_forked():
        with pytest.raises(ClosedError, match="not started"):
            parts.life.evaluator()
        await parts.life.start()
        parts.life.evaluator()
        await parts.life.aclose(...)
        assert parts.life.state is State.CLOSED

    assert parts.life.state is State.RUNNING
    await parts.life.aclose(...)


def test_another_loop_is_refused() -> None:
    parts = Parts()
    loop = VirtualLoop()
    loop.run_until_complete(parts.life.start())

    async def elsewhere() -> None:
        with pytest.raises(WrongLoopError):
            parts.life.evaluator()
        with pytest.raises(WrongLoopError):
            await parts.life.start()
        with pytest.raises(WrongLoopError):
            await parts.life.aclose(...)

    asyncio.run(elsewhere())
    loop.run_until_complete(parts.life.aclose(...))
    loop.close()


def test_a_forgotten_close_is_made_up_for_when_the_loop_shuts_down() -> None:
    parts = Parts()

    asyncio.run(parts.life.start())

    assert parts.names == [*STARTED, *ENDED]


async def test_nothing_is_left_of_the_starter_s_context() -> None:
    parts = Parts()
    await parts.life.start()
    await parts.life.aclose(...)
    await checkpoint()

    assert [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("bucketeer")] == []
