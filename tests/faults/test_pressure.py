"""Full queues, jumping clocks, many threads: the bounds hold, and every count is exact."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Literal

import pytest

from bucketeer_async import Processor, ProcessorConfig, Receipt, RefusedReason
from tests.clock import VirtualLoop
from tests.fakes import FakeAnswer, FakeClient
from tests.faults.matrix import FULL
from tests.faults.world import REFERENCE, USER, World, answer, check_counts, fair, refused, world

Measured = Callable[[str], None]
Policy = Literal["drop_newest", "drop_oldest", "wait"]
HOUR = 3600.0


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


def now() -> float:
    return asyncio.get_running_loop().time()


def reasons(receipts: Sequence[Receipt]) -> Counter[str]:
    """Return the number of lost events by reason; "" for events that are not lost (yet)."""
    return Counter(receipt.outcome.reason if receipt.outcome else "" for receipt in receipts)


def push_goals(here: World, count: int) -> list[Receipt]:
    receipts = [here.processor.push_goal_event_nowait(USER, "goal") for _ in range(count)]
    here.receipts += receipts
    return receipts


# A full queue


@pytest.mark.fault("F46")
@pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest", "wait"])
async def test_a_full_queue_does_what_its_policy_says_to_the_event(overflow: Policy, measured: Measured) -> None:
    config = replace(REFERENCE, queue_capacity=1_000, overflow=overflow)
    async with world(config) as here:
        here.sky.weather = refused
        first = push_goals(here, 1_000)
        await asyncio.sleep(0.1)
        waiting = [asyncio.create_task(here.processor.push_goal_event(USER, "goal")) for _ in range(500)]
        await asyncio.sleep(1.0)
        nowait = push_goals(here, 100)
        during = here.processor.statistics().goal
        here.sky.weather = fair
        awaited = list(await asyncio.gather(*waiting))
        here.receipts += awaited
        await here.processor.flush()

        late = [*awaited, *nowait]
        assert during.queued + during.in_flight == 1_000
        statistics = here.processor.statistics().goal
        match overflow:
            case "drop_newest":
                assert reasons(late) == {"queue_full": 600}
                assert (statistics.refused, statistics.dropped, statistics.delivered) == (600, 0, 1_000)
            case "drop_oldest":
                # A batch in flight cannot be displaced; it has the oldest hundred events.
                displaced = [index for index, each in enumerate(first) if reasons([each]) == {"displaced": 1}]
                assert len(displaced) == 600
                assert displaced == list(range(displaced[0], displaced[0] + 600))
                assert displaced[0] in {0, 100}
                assert (statistics.refused, statistics.dropped, statistics.delivered) == (0, 600, 1_000)
            case "wait":
                assert reasons(awaited) == {"": 500}
                assert reasons(nowait) == {"queue_full": 100}
                assert (statistics.refused, statistics.dropped, statistics.delivered) == (100, 0, 1_500)
        measured(
            f"{overflow}: 600 above the limit, {statistics.refused} refused, {statistics.dropped} displaced, "
            f"{statistics.delivered} delivered"
        )


@pytest.mark.fault("F46")
@pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest", "wait"])
async def test_metrics_events_give_way_above_90_percent_to_the_event(overflow: Policy) -> None:
    async with world(replace(REFERENCE, queue_capacity=1_000, overflow=overflow)) as here:
        here.sky.weather = refused
        metrics = [here.processor.push_internal_error_count_metrics_event_nowait() for _ in range(1_000)]
        goals = push_goals(here, 100)
        metrics += [await here.processor.push_internal_error_count_metrics_event() for _ in range(10)]
        here.receipts += metrics

        assert reasons(metrics) == {"": 900, "metrics_yield": 110}
        assert reasons(goals) == {"": 100}
        here.sky.weather = fair


@pytest.mark.fault("F47")
@pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest", "wait"])
async def test_full_bytes_do_what_a_full_queue_does_and_the_bound_is_never_exceeded(
    overflow: Policy, measured: Measured
) -> None:
    bound, most = 100_000, 0

    def look() -> None:
        nonlocal most
        most = max(most, here.processor.statistics().held_bytes)

    async def push(number: int) -> None:
        here.receipts.append(await here.processor.push_goal_event(USER, "g" * (number % 7) * 1_000 or "small"))
        look()

    config = replace(REFERENCE, queue_max_bytes=bound, flush_max_bytes=20_000, overflow=overflow)
    async with world(config) as here:
        here.sky.weather = refused
        waiting = [asyncio.create_task(push(number)) for number in range(500)]
        for _ in range(50):
            await asyncio.sleep(0.1)
            look()
        statistics = here.processor.statistics().goal
        held = statistics.queued + statistics.in_flight
        here.sky.weather = fair
        await asyncio.gather(*waiting)
        await here.processor.flush()
        here.check()

        assert 0.9 * bound < most <= bound
        assert held < 100
        statistics = here.processor.statistics().goal
        accepted = sum(receipt.accepted for receipt in here.receipts)
        assert statistics.refused == 500 - accepted
        assert statistics.delivered == accepted - statistics.dropped
        assert {reason for reason in reasons(here.receipts) if reason} == {
            "drop_newest": {"queue_full"},
            "drop_oldest": {"displaced"},
            "wait": set(),
        }[overflow]
        lost = statistics.refused + statistics.dropped
        measured(f"{overflow}: at most {most} of {bound} bytes, {lost} refused or displaced, the rest delivered")


# Clocks


class WallClock:
    """Unix time, which advances with the loop's clock and can be set."""

    def __init__(self) -> None:
        self.offset = 1_800_000_000.0

    def __call__(self) -> float:
        return now() + self.offset


@pytest.mark.fault("F48")
@pytest.mark.parametrize("jump", [-HOUR, HOUR, 24 * HOUR, -24 * HOUR], ids=lambda jump: f"{jump / HOUR:+.0f}h")
async def test_a_wall_clock_that_jumps_moves_no_interval_and_expires_nothing(
    jump: float, measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = WallClock()
    gateway_ahead = wall.offset + max(jump, 0.0)  # so that no event is from the gateway's future
    async with world(replace(REFERENCE, flush_interval=10.0, event_lifetime=HOUR), _now=wall) as here:
        here.state.now = lambda: now() + gateway_ahead
        monkeypatch.setattr(time, "time", wall)
        began = now()
        expected = {receipt.event_id: int(wall()) for receipt in push_goals(here, 10)}
        await asyncio.sleep(5.0)
        wall.offset += jump
        expected |= {receipt.event_id: int(wall()) for receipt in push_goals(here, 10)}
        await asyncio.sleep(6.0)
        expected |= {receipt.event_id: int(wall()) for receipt in push_goals(here, 10)}
        await asyncio.sleep(11.0)
        monkeypatch.undo()

        errors = [abs(posted - began - due) for posted, due in zip(here.sky.times, (10.0, 21.0), strict=True)]
        assert max(errors) <= 0.05
        assert {event.id: event.message.timestamp for event in here.state.events} == expected
        assert here.processor.statistics().total.dropped == here.lost == 0
        measured(f"{jump / HOUR:+.0f} h: intervals off by at most {max(errors) * 1000:.0f} ms, 0 expired")


@pytest.mark.fault("F48")
async def test_a_wall_clock_that_jumps_over_a_lifetime_expires_nothing_and_ends_no_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wall = WallClock()
    async with world(replace(REFERENCE, event_lifetime=HOUR)) as here:
        monkeypatch.setattr(time, "time", wall)
        here.sky.weather = answer(429, {}, Retry_After="60")
        push_goals(here, 10)
        await asyncio.sleep(30.0)
        wall.offset += 25 * HOUR
        await asyncio.sleep(29.0)
        monkeypatch.undo()

        assert len(here.sky.posts) == 1
        here.sky.weather = fair
        await here.processor.flush()
        assert 61.0 <= here.sky.times[1] <= 1.0 + 72.0
        assert here.lost == here.processor.statistics().total.dropped == 0


# Threads


class CountingClient(FakeClient):
    """Accepts all events, and records the ids only."""

    async def answer(self, bodies: Sequence[bytes], timeout: float) -> FakeAnswer:
        self.taken.update(body[7:43].decode() for body in bodies)
        await asyncio.sleep(0)
        return FakeAnswer()


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Switch between threads far more often than usual."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.fault("F66")
@pytest.mark.usefixtures("hasty_threads")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["real-time"])
async def test_eight_threads_and_the_loop_push_as_fast_as_they_can(measured: Measured) -> None:
    events = 1_000_000 if FULL else 20_000
    client = CountingClient()
    config = ProcessorConfig(queue_capacity=10_000, overflow="wait")
    ids: list[list[str]] = [[] for _ in range(9)]
    refusals = [0] * 9

    def push_all(number: int, count: int) -> None:
        while len(ids[number]) < count:
            receipt = processor.push_goal_event_nowait(USER, "goal")
            if receipt.accepted:
                ids[number].append(receipt.event_id)
            else:
                refusals[number] += 1
                time.sleep(0.001)
            if len(ids[number]) % 100 == 0:
                check_counts(processor)
                statistics = processor.statistics().total
                assert statistics.queued + statistics.in_flight <= config.queue_capacity

    began = time.perf_counter()
    loop = asyncio.get_running_loop()
    async with Processor(client, config) as processor:
        with ThreadPoolExecutor(8) as threads:
            pushing = [loop.run_in_executor(threads, push_all, number, events // 10) for number in range(8)]
            for _ in range(events - 8 * (events // 10)):
                ids[8].append((await processor.push_goal_event(USER, "goal")).event_id)
            await asyncio.gather(*pushing)
        assert await processor.flush()
        statistics = processor.statistics().goal
    seconds = time.perf_counter() - began

    accepted = [event_id for each in ids for event_id in each]
    assert len(set(accepted)) == events
    assert client.taken.keys() == set(accepted)
    assert set(client.taken.values()) == {1}
    assert statistics.accepted == statistics.delivered == events
    assert statistics.refused_by.get(RefusedReason.QUEUE_FULL, 0) == statistics.refused == sum(refusals)
    check_counts(processor)
    measured(f"lost 0 of {events}, {sum(refusals)} refusals counted, {events / seconds:,.0f} events/s with delivery")


# The SDK's own events


@pytest.mark.fault("F68")
async def test_a_flood_of_metrics_events_in_an_outage_leaves_room_for_the_others(measured: Measured) -> None:
    async with world(replace(REFERENCE, queue_capacity=1_000)) as here:
        here.sky.weather = refused
        metrics = [here.processor.push_internal_error_count_metrics_event_nowait() for _ in range(5_000)]
        here.receipts += metrics
        others = push_goals(here, 100)
        await asyncio.sleep(60.0)
        here.sky.weather = fair
        await here.processor.flush()

        assert reasons(metrics) == {"": 900, "metrics_yield": 4_100}
        assert reasons(others) == {"": 100}
        assert here.lost == 0
        measured("5 000 metrics events take 900 of 1 000 places, 100 of 100 others delivered")


@pytest.mark.fault("F68")
async def test_a_failed_post_makes_at_most_one_event_of_ours(measured: Measured) -> None:
    async with world() as here:
        here.sky.weather = refused
        push_goals(here, 1_000)
        await asyncio.sleep(600.0)
        failed = len(here.sky.posts)
        ours = here.processor.statistics().metrics.pushed
        here.sky.weather = fair
        await here.processor.flush()

        assert failed >= 20
        assert ours <= failed
        assert here.processor.statistics().metrics.pushed <= failed
        measured(f"{failed} failed posts created {ours} events")
