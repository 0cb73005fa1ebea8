"""The lifecycle under cancellation, close, a second event loop, a lost loop, callbacks and bugs."""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import anyio
import httpx
import pytest

from bucketeer_async import (
    ApiClient,
    ClosedError,
    DrainReport,
    Drop,
    DroppedReason,
    EventKind,
    Fate,
    Processor,
    Receipt,
    RefusedReason,
    WrongLoopError,
)
from bucketeer_async.gateway import GatewayState
from tests.clock import VirtualLoop
from tests.faults.matrix import FULL, spaced
from tests.faults.world import (
    EVALUATION,
    EVENTS,
    KEY,
    REFERENCE,
    USER,
    Sky,
    Way,
    Weather,
    World,
    check_counts,
    refused,
    world,
)

Measured = Callable[[str], None]

CANCELS = 1_000 if FULL else 200

#: An event loop in real time, for tests with threads.
in_real_time = pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["real-time"])


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


def now() -> float:
    return asyncio.get_running_loop().time()


def slow(seconds: float) -> Weather:
    """The gateway is slow."""

    async def weather(request: httpx.Request, way: Way) -> httpx.Response:
        await asyncio.sleep(seconds)
        return await way(request)

    return weather


async def winding(request: httpx.Request, way: Way) -> httpx.Response:
    """A request takes five turns of the loop to the gateway, and five back, but no time."""
    await turns(5)
    response = await way(request)
    await turns(5)
    return response


async def never(_request: httpx.Request, _way: Way) -> httpx.Response:
    await asyncio.Event().wait()
    raise AssertionError


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# Cancelled callers


@pytest.mark.fault("F39")
async def test_a_cancelled_push_is_in_or_out_and_never_half(measured: Measured) -> None:
    dice = random.Random(39)
    pushed = cancelled = 0
    config = replace(REFERENCE, overflow="wait", queue_capacity=20, flush_size=5, max_batch_size=5)

    async def push(here: World) -> None:
        nonlocal pushed
        match dice.randrange(3):
            case 0:
                receipt = await here.processor.push_evaluation_event(USER, EVALUATION)
            case 1:
                receipt = await here.processor.push_internal_error_count_metrics_event()
            case _:
                receipt = await here.processor.push_goal_event(USER, "goal")
        here.receipts.append(receipt)
        pushed += 1

    async with world(config) as here:
        here.sky.weather = slow(0.02)
        while cancelled < CANCELS:
            pushes = [asyncio.create_task(push(here)) for _ in range(dice.randint(1, 60))]
            await turns(dice.randint(1, 5))
            await asyncio.sleep(dice.choice([0.0, 0.005, 0.02, 0.05]))
            for each in dice.sample(pushes, dice.randint(0, len(pushes))):
                each.cancel()
                await turns(dice.randint(0, 1))
            results = await asyncio.gather(*pushes, return_exceptions=True)

            cancelled += sum(isinstance(result, asyncio.CancelledError) for result in results)
            assert all(result is None or isinstance(result, asyncio.CancelledError) for result in results)
            assert here.processor.statistics().total.pushed == pushed
            here.check()
        await here.processor.flush()

        assert here.lost == here.repeated == 0
    measured(f"{cancelled} cancelled, {pushed} not; every count exact after each round")


async def close(processor: Processor, scope: anyio.CancelScope) -> DrainReport | None:
    with scope:
        return await processor.aclose()
    return None


@pytest.mark.fault("F40")
@pytest.mark.parametrize("way", ["native", "scope"])
async def test_a_close_that_is_cancelled_anywhere_drains_and_is_joined(way: str, measured: Measured) -> None:
    before = asyncio.all_tasks()
    for count in itertools.count():
        async with world(replace(REFERENCE, num_flush_workers=1)) as here:
            here.sky.weather = winding
            receipts = await here.push(250)
            scope = anyio.CancelScope()
            closing = asyncio.create_task(close(here.processor, scope))
            await turns(count)
            if closing.done():
                break
            cancel = closing.cancel if way == "native" else scope.cancel
            cancel()
            await turns(3)
            returned_at_once = closing.done()

            reports = [await here.processor.aclose() for _ in range(2)]

            assert returned_at_once
            assert closing.cancelled() or closing.result() in {None, reports[0]}
            assert reports[0] is reports[1]
            assert reports[0].complete
            assert {receipt.outcome.fate for receipt in receipts if receipt.outcome} == {Fate.DELIVERED}
            assert here.lost == here.repeated == 0
        assert asyncio.all_tasks() == before

    assert count > 20
    measured(f"{way}: cancelled at each of {count} turns, nothing lost, no task left")


@pytest.mark.parametrize("way", ["native", "scope"])
async def test_a_cancelled_close_does_not_wait_for_the_drain(way: str) -> None:
    async with world() as here:
        here.sky.weather = slow(5.0)
        await here.push(250)
        scope = anyio.CancelScope()
        closing = asyncio.create_task(close(here.processor, scope))
        await asyncio.sleep(1.0)
        began = now()

        cancel = closing.cancel if way == "native" else scope.cancel
        cancel()
        await asyncio.wait([closing])

        assert now() == began
        assert here.processor.statistics().total.in_flight == 250
        assert (await here.processor.aclose()).complete
        assert here.repeated == 0


# Close


@pytest.mark.fault("F41")
async def test_a_body_that_raises_is_drained_and_keeps_its_exception(measured: Measured) -> None:
    class MineError(Exception):
        pass

    mine = MineError("mine")
    with pytest.raises(MineError) as caught:  # noqa: PT012 - the body is the point
        async with world() as here:
            here.sky.weather = slow(0.5)
            await here.push(1_000)
            raise mine

    assert caught.value is mine
    assert mine.__cause__ is mine.__context__ is None
    assert here.lost == 0
    assert here.processor.statistics().total.delivered == 1_000
    here.check()
    measured("1 000 of 1 000 delivered, the exception was raised unchanged")


@pytest.mark.fault("F42")
@pytest.mark.parametrize(("weather", "left"), [(refused, "undelivered"), (never, "unconfirmed")])
async def test_a_close_in_an_outage_ends_at_its_deadline_and_says_what_is_left(
    weather: Weather, left: str, measured: Measured, caplog: pytest.LogCaptureFixture
) -> None:
    async with world() as here:
        await here.push(EVENTS // 10)
        await here.processor.flush()
        here.sky.weather = weather
        await here.push(EVENTS * 9 // 10)
        await asyncio.sleep(1.5)
        began = now()

        report = await here.processor.aclose(2.0)

        took = now() - began
        statistics = here.processor.statistics().total
        assert took <= 2.25
        assert report.duration == pytest.approx(took, abs=0.01)
        assert report.total.undelivered + report.total.unconfirmed == EVENTS - statistics.delivered == EVENTS * 9 // 10
        assert report.total.unconfirmed == (4 * 100 if left == "unconfirmed" else 0)
        assert "a bug" not in caplog.text
        measured(f"{took:.2f} s, {report.total.undelivered} undelivered, {report.total.unconfirmed} unconfirmed")


@pytest.mark.fault("F43")
@pytest.mark.parametrize("weather", [refused, never])
async def test_a_close_without_time_reports_at_once(weather: Weather, measured: Measured) -> None:
    async with world() as here:
        here.sky.weather = weather
        await here.push(EVENTS)
        began = now()

        report = await here.processor.aclose(0)

        assert now() == began
        assert report.total.undelivered + report.total.unconfirmed == EVENTS
        measured(f"after 0 s, all {spaced(EVENTS)} accounted for")


@pytest.mark.fault("F44")
async def test_fifty_closers_in_other_tasks_than_the_starter_share_one_drain(measured: Measured) -> None:
    state = GatewayState()
    sky = Sky(state)
    sky.weather = slow(1.0)
    async with httpx.AsyncClient(transport=sky) as http:
        async with ApiClient(endpoint="http://127.0.0.1", api_key=KEY, http=http) as api_client:
            processor = Processor(api_client, REFERENCE)
            await asyncio.create_task(processor.start())
            here = World(processor, state, sky)
            await asyncio.create_task(here.push(1_000))

            reports = await asyncio.gather(*[asyncio.create_task(processor.aclose()) for _ in range(50)])
            again = await processor.aclose()

            assert all(report is again for report in reports)
            assert again.total.delivered == 1_000
            assert len(sky.posts) == 10
            assert here.lost == here.repeated == 0
            here.check()
    measured("50 closers, 1 report, 10 posts for 1 000 events")


@pytest.mark.fault("F45")
async def test_a_push_while_closing_and_afterwards_is_refused_and_counted(measured: Measured) -> None:
    async with world(replace(REFERENCE, overflow="wait", queue_capacity=500)) as here:
        here.sky.weather = slow(3.0)
        here.receipts += [here.processor.push_goal_event_nowait(USER, "goal") for _ in range(500)]
        waiting = asyncio.create_task(here.push(1))
        await asyncio.sleep(1.0)
        closing = asyncio.create_task(here.processor.aclose())
        await asyncio.sleep(1.0)
        during = [*await waiting, *await here.push(100)]
        assert not closing.done()
        during += [here.processor.push_goal_event_nowait(USER, "goal") for _ in range(100)]
        here.receipts += during[-100:]
        await closing
        after = await here.push(100)
        here.check()

        late = [*during, *after]
        assert {receipt.outcome.reason for receipt in late if receipt.outcome} == {RefusedReason.NOT_RUNNING}
        assert {receipt.event_id for receipt in late} == {""}
        statistics = here.processor.statistics().total
        assert statistics.refused_by == {RefusedReason.NOT_RUNNING: 301}
        assert (statistics.pushed, statistics.delivered) == (801, 500)
        measured("301 late pushes, 301 refused")


# Event loops


@pytest.mark.fault("F57")
def test_a_second_loop_gets_a_wrong_loop_error_and_nowait_pushes_are_counted(measured: Measured) -> None:
    async def first() -> tuple[World, Receipt]:
        async with world() as here:
            (receipt, *_) = await here.push(100)
        return here, receipt

    async def second(here: World, receipt: Receipt) -> None:
        processor = here.processor
        with pytest.raises(ClosedError):
            await processor.start()
        for awaiting in (processor.flush, processor.aclose):
            with pytest.raises(WrongLoopError):
                await awaiting()
        with pytest.raises(WrongLoopError):
            await processor.push_goal_event(USER, "goal")
        here.receipts += [processor.push_goal_event_nowait(USER, "goal") for _ in range(100)]
        assert (await receipt.settled()).fate is Fate.DELIVERED

    here, receipt = run(first())
    run(second(here, receipt))

    here.check()
    statistics = here.processor.statistics().total
    assert statistics.refused_by == {RefusedReason.NOT_RUNNING: 100}
    assert statistics.delivered == 100
    measured("every awaiting call raises, 100 of 100 nowait pushes refused and counted")


@pytest.mark.fault("F57")
def test_a_second_loop_gets_a_wrong_loop_error_while_the_first_is_still_in_use() -> None:
    async def main() -> None:
        async with world() as here:
            receipts = await here.push(10)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                thread = threading.Thread(target=run, args=(elsewhere(here, receipts[0]),))
                thread.start()
                thread.join()
            assert len(here.receipts) == 110
            await here.processor.flush()
            assert here.lost == here.repeated == 0

    async def elsewhere(here: World, receipt: Receipt) -> None:
        processor = here.processor
        for awaiting in (processor.start, processor.flush, processor.aclose, processor.__aenter__, receipt.settled):
            with pytest.raises(WrongLoopError):
                await awaiting()
        with pytest.raises(WrongLoopError):
            await processor.push_goal_event(USER, "goal")
        here.receipts += [here.processor.push_goal_event_nowait(USER, "goal") for _ in range(100)]

    run(main())


def run(coroutine: Any) -> Any:
    """Run as `asyncio.run` does, in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(coroutine)


@pytest.fixture
def left_behind() -> Iterator[list[Any]]:
    """Silence the tasks of a loop that was closed: the tasks can never end."""
    tasks: list[Any] = []
    yield tasks
    for task in tasks:
        task._log_destroy_pending = False


def lose_the_loop(left_behind: list[Any], count: int) -> Processor:
    """Push events, and close the loop while the processor runs."""
    loop = VirtualLoop()

    async def start() -> Processor:
        http = httpx.AsyncClient(transport=Sky(GatewayState()))
        processor = Processor(ApiClient(endpoint="http://127.0.0.1", api_key=KEY, http=http), REFERENCE)
        await processor.start()
        for _ in range(count):
            processor.push_goal_event_nowait(USER, "goal")
        return processor

    processor = loop.run_until_complete(start())
    left_behind += asyncio.all_tasks(loop)
    loop.close()
    return processor


@pytest.mark.fault("F58")
def test_a_loop_that_is_closed_under_a_processor_is_told_once(left_behind: list[Any], measured: Measured) -> None:
    processor = lose_the_loop(left_behind, 2_500)
    late = processor.push_goal_event_nowait(USER, "goal")

    with pytest.warns(ResourceWarning, match="2500 events were abandoned") as told:
        statistics = processor.statistics().goal
    processor.statistics()

    assert len(told) == 1
    assert statistics.dropped_by == {DroppedReason.ABANDONED: 2_500}
    assert statistics.refused_by == {RefusedReason.NOT_RUNNING: 1}
    assert not late.accepted
    check_counts(processor)
    measured("1 warning, 2 500 abandoned, 1 late push refused")


@pytest.mark.fault("F58")
def test_a_processor_that_is_dropped_after_its_loop_is_told_once(left_behind: list[Any]) -> None:
    processor = lose_the_loop(left_behind, 2_500)
    ledger = processor._pipeline.ledger

    with pytest.warns(ResourceWarning, match="2500 events were abandoned") as told:  # noqa: PT031 - both drop it
        del processor
        gc.collect()

    counts = ledger.counts()[EventKind.GOAL]
    assert len(told) == 1
    assert counts.dropped_by == {DroppedReason.ABANDONED: 2_500}
    assert counts.queued == counts.in_flight == ledger.bounds.held_bytes == 0


# Callbacks and bugs


@pytest.mark.fault("F64")
@in_real_time
async def test_nobody_notices_an_on_drop_that_raises(caplog: pytest.LogCaptureFixture, measured: Measured) -> None:
    heard: list[Drop] = []

    def on_drop(drop: Drop) -> None:
        heard.append(drop)
        raise ZeroDivisionError

    async with world(replace(REFERENCE, on_drop=on_drop)) as here:
        await push_good_and_bad(here, 100)
        await here.processor.flush()
        assert here.lost == 0

    assert [drop.reason for drop in heard] == ["invalid"] * 100
    assert here.processor.statistics().total.delivered == 100
    assert caplog.text.count("on_drop raised an exception") == 100
    measured(f"raises {len(heard)} times: 100 of 100 others delivered")


@pytest.mark.fault("F64")
@in_real_time
async def test_nobody_waits_for_an_on_drop_that_blocks(caplog: pytest.LogCaptureFixture, measured: Measured) -> None:
    release = threading.Event()
    heard: list[Drop] = []

    def on_drop(drop: Drop) -> None:
        release.wait(30)
        heard.append(drop)

    async with world(replace(REFERENCE, on_drop=on_drop)) as here:
        await push_good_and_bad(here, 100)
        await here.processor.flush()
        report = await here.processor.aclose()

        assert report.complete
        assert here.lost == 0
        assert heard == []
        assert "on_drop is still busy" in caplog.text
        release.set()
        await asyncio.to_thread(listening_thread().join, 30)
    assert len(heard) == 100
    measured("blocks: flushed, drained and closed meanwhile")


@pytest.mark.fault("F64")
@in_real_time
async def test_an_on_drop_that_pushes_what_is_dropped_again_does_not_feed_itself(measured: Measured) -> None:
    told = threading.Event()
    heard = 0

    def on_drop(_: Drop) -> None:
        nonlocal heard
        heard += 1
        here.receipts.append(processor.push_goal_event_nowait(USER, ""))  # refused once more
        if heard == 100:
            told.set()

    async with world(replace(REFERENCE, on_drop=on_drop)) as here:
        processor = here.processor
        await here.push(100)
        for _ in range(100):
            here.receipts.append(processor.push_goal_event_nowait(USER, ""))
        assert await asyncio.to_thread(told.wait, 30)
        thread = listening_thread()
        report = await processor.aclose()
        await asyncio.to_thread(thread.join, 30)

        assert report.complete
        assert heard == 100
        assert processor.statistics().total.refused == 200
        assert processor.statistics().total.delivered == 100
    measured(f"pushes {heard} times, refused each time: counted, and `on_drop` called {heard} times")


async def push_good_and_bad(here: World, count: int) -> None:
    for _ in range(count):
        await here.push(1)
        here.receipts.append(here.processor.push_goal_event_nowait(USER, ""))


def listening_thread() -> threading.Thread:
    (thread,) = [each for each in threading.enumerate() if each.name == "bucketeer-on-drop"]
    return thread


@pytest.mark.fault("F65")
@pytest.mark.parametrize("bug", [ValueError, KeyError, RecursionError, MemoryError, asyncio.CancelledError])
@pytest.mark.parametrize("stored", [False, True], ids=["before", "after"])
async def test_a_bug_under_a_flush_task_costs_nothing(
    bug: type[BaseException], stored: bool, caplog: pytest.LogCaptureFixture, measured: Measured
) -> None:
    bugs = 0

    async def buggy(request: httpx.Request, way: Way) -> httpx.Response:
        nonlocal bugs
        if stored:
            await way(request)
        if bugs < 7:
            bugs += 1
            raise bug("a bug")
        return await way(request)

    async with world() as here:
        here.sky.weather = buggy
        await here.push(1_000)
        assert await here.processor.flush(60.0)
        later = await here.push(100)
        assert await here.processor.flush(60.0)

        assert bugs == 7
        assert here.lost == 0
        assert {receipt.outcome.fate for receipt in later if receipt.outcome} == {Fate.DELIVERED}
        assert here.processor.statistics().total.delivered == 1_100
        assert "a bug in a flush task" in caplog.text
        measured(f"{bugs} bugs, lost {here.lost} of 1 100")
