"""The gateway is unavailable: for a while, for long, for longer than the lifetime of events, or it is only slow.

The response is a status, sometimes with the time to wait.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from bucketeer_async import DroppedReason, Receipt, RefusedReason, RetryPolicy
from bucketeer_async._events._circuit import Circuit
from bucketeer_async._retry import Action, Decision
from tests.clock import VirtualLoop
from tests.faults.matrix import spaced
from tests.faults.world import EVENTS, REFERENCE, Way, Weather, answer, fair, refused, world

OUTAGE = Decision(action=Action.PAUSE)

Measured = Callable[[str], None]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


def now() -> float:
    return asyncio.get_running_loop().time()


def probes(seed: int, *, seconds: float) -> list[float]:
    """Return the times of a client's posts, from the beginning of an outage to the first post after ``seconds``."""
    circuit = Circuit(RetryPolicy(), slots=4, rng=random.Random(seed))
    times = [0.0]
    while times[-1] < seconds:
        probe = circuit.enter()
        circuit.failed(probe, OUTAGE, times[-1])
        circuit.leave(probe, times[-1])
        pause = circuit.wait(times[-1])
        assert pause is not None
        times.append(times[-1] + pause)
    return times


@pytest.mark.fault("F1")
async def test_a_gateway_that_is_down_for_3_seconds_costs_nothing(measured: Measured) -> None:
    async with world() as here:
        here.sky.weather = refused
        await here.push(EVENTS)
        await asyncio.sleep(3.0)
        here.sky.weather = fair
        back = now()

        assert await here.processor.flush()

        recovery = now() - back
        assert here.lost == 0
        assert recovery <= 5.0
        measured(f"lost {here.lost} of {spaced(EVENTS)}, delivered {recovery:.1f} s after the return")


@pytest.mark.fault("F2")
async def test_a_gateway_that_is_down_for_10_minutes_costs_nothing_but_room(measured: Measured) -> None:
    capacity, pushes = EVENTS * 6 // 5, EVENTS * 3 // 2
    async with world(replace(REFERENCE, queue_capacity=capacity)) as here:
        here.sky.weather = refused
        await here.push(pushes, every=600 / pushes)
        total = here.processor.statistics().total
        posts = len(here.sky.posts)
        here.sky.weather = fair

        assert await here.processor.flush()

        assert total.queued == total.accepted <= capacity
        assert set(total.refused_by) == {RefusedReason.QUEUE_FULL, RefusedReason.METRICS_YIELD}
        assert here.lost == 0
        assert posts <= 80  # the usual number is measured below
        measured(f"lost {here.lost} of {total.accepted} accepted")


@pytest.mark.fault("F2")
async def test_an_outage_of_10_minutes_is_probed_by_one_post_at_a_time() -> None:
    async def unreachable(request: httpx.Request, way: Way) -> httpx.Response:
        await asyncio.sleep(3.0)
        return await refused(request, way)

    async with world() as here:
        here.sky.weather = unreachable
        await here.push(EVENTS)
        await asyncio.sleep(3.1)
        at_first, here.sky.most_under_way = here.sky.most_under_way, 0
        await asyncio.sleep(600.0)

        assert at_first == 4
        assert here.sky.most_under_way == 1
        here.sky.weather = fair


@pytest.mark.fault("F2")
def test_an_outage_of_10_minutes_costs_at_most_60_probes_on_average(measured: Measured) -> None:
    numbers = [len(probes(seed, seconds=600.0)) - 1 for seed in range(1000)]

    assert statistics.mean(numbers) <= 60
    measured(f"{statistics.mean(numbers):.0f} probes on average of 1 000 clients, {max(numbers)} at most")


@pytest.mark.fault("F3")
async def test_exactly_the_events_past_their_lifetime_expire(measured: Measured) -> None:
    def expired(receipts: list[Receipt]) -> list[bool]:
        return [bool(each.outcome and each.outcome.reason == DroppedReason.EXPIRED) for each in receipts]

    count = EVENTS // 2
    async with world() as here:
        here.sky.weather = refused
        old = await here.push(count, every=500 / count)
        await asyncio.sleep(3000.0 - now())
        young = await here.push(count)
        await asyncio.sleep(3850.05 - now())
        in_the_middle = expired(old)
        await asyncio.sleep(4200.0 - now())
        here.sky.weather = fair
        await here.processor.flush()

        assert in_the_middle == [True] * (count // 2 + 1) + [False] * (count // 2 - 1)
        assert all(expired(old))
        assert {receipt.event_id for receipt in young} == here.stored
        measured(
            f"{sum(expired(old))} of {spaced(count)} expired, {sum(expired(young))} of {spaced(count)} younger ones"
        )


@pytest.mark.fault("F4")
async def test_a_slow_gateway_holds_up_nobody(measured: Measured) -> None:
    async def slow(request: httpx.Request, way: Way) -> httpx.Response:
        await asyncio.sleep(15.0)
        return await way(request)

    async with world() as here:
        here.sky.weather = slow
        await here.push(2_000)
        pushed_at = now()
        await here.processor.flush()

        assert pushed_at < 2.0
        assert here.sky.most_under_way <= 4
        assert here.lost == 0
        measured(f"{here.sky.most_under_way} posts at once, lost {here.lost}")


# Responses that mean: not now


def unlucky(status: int) -> Weather:
    """A proxy responds with ``status``; every other time, the gateway has stored the events before."""
    posts = itertools.count()

    async def weather(request: httpx.Request, way: Way) -> httpx.Response:
        if next(posts) % 2:
            await way(request)
        return httpx.Response(status)

    return weather


@pytest.mark.parametrize(
    "status",
    [
        pytest.param(408, marks=pytest.mark.fault("F15")),
        *[pytest.param(status, marks=pytest.mark.fault("F22")) for status in (500, 502, 503, 504, 499, 529)],
    ],
)
async def test_a_status_that_means_not_now_costs_nothing(status: int, measured: Measured) -> None:
    async with world() as here:
        await here.endure(unlucky(status))

        assert here.lost == 0
        assert here.repeated > 0
        assert here.processor.statistics().total.delivered == EVENTS
        measured(f"lost {here.lost} of {spaced(EVENTS)}")


@pytest.mark.fault("F22")
def test_the_first_retries_of_100_clients_are_spread_over_the_step(measured: Measured) -> None:
    step = RetryPolicy().initial
    pauses = [probes(seed, seconds=0.001)[1] for seed in range(100)]

    assert max(pauses) <= step
    assert statistics.stdev(pauses) >= 0.25 * step
    measured(f"standard deviation of the first retries {statistics.stdev(pauses) / step:.0%} of the step")


@pytest.mark.fault("F19")
async def test_retry_after_holds_back_every_post(measured: Measured) -> None:
    async with world() as here:
        busy = {"code": 8, "message": "too many requests", "details": []}
        await here.endure(answer(429, busy, retry_after="5"), seconds=20.0)

        assert len(here.sky.pauses) == 4
        assert all(5.0 <= pause <= 6.0 for pause in here.sky.pauses)
        assert here.lost == 0
        measured(f"pauses from {min(here.sky.pauses):.1f} to {max(here.sky.pauses):.1f} s, lost {here.lost}")


@pytest.mark.fault("F19")
async def test_retry_after_also_holds_back_a_batch_that_is_being_halved() -> None:
    async def busy_while_one_is_halved(request: httpx.Request, way: Way) -> httpx.Response:
        if b'"goal-2"' in request.content:
            await asyncio.sleep(1.0)
            return httpx.Response(400, json={"code": 3, "message": "proto: syntax error", "details": []})
        if now() == 0.0:
            await asyncio.sleep(0.5)
            return httpx.Response(429, headers={"retry-after": "5"})
        return await way(request)

    async with world() as here:
        here.sky.weather = busy_while_one_is_halved
        await here.push(200)
        await here.processor.flush()

        assert here.sky.times[:2] == [0.0, 0.0]
        assert 5.5 <= here.sky.times[2] <= 6.5
        assert here.processor.statistics().total.delivered == 199


@pytest.mark.fault("F19")
def test_retry_after_also_holds_back_when_it_comes_late() -> None:
    circuit = Circuit(RetryPolicy(), slots=4, rng=random.Random(0))
    slow, first = circuit.enter(), circuit.enter()
    circuit.failed(first, OUTAGE, 0.0)
    circuit.leave(first, 0.0)
    probe = circuit.enter()
    circuit.succeeded(probe, 1)
    circuit.leave(probe, 1.0)

    circuit.failed(slow, replace(OUTAGE, retry_after=5.0), 10.0)
    circuit.leave(slow, 10.0)

    wait = circuit.wait(10.0)
    assert wait is not None
    assert 5.0 <= wait <= 6.0


@pytest.mark.fault("F20")
async def test_retry_after_with_a_date_goes_by_the_clock_of_the_gateway(measured: Measured) -> None:
    async with world() as here:
        told = {"date": "Wed, 21 Oct 2015 07:28:00 GMT", "retry_after": "Wed, 21 Oct 2015 07:28:05 GMT"}
        await here.endure(answer(429, **told), seconds=4.0)

        assert len(here.sky.pauses) == 1
        assert 5.0 <= here.sky.pauses[0] <= 6.0
        assert here.lost == 0
        measured(f"a pause of {here.sky.pauses[0]:.1f} s, lost {here.lost}")


@pytest.mark.fault("F21")
@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        ("86400", 300.0, 360.0),
        ("Fri, 21 Oct 2095 07:28:00 GMT", 300.0, 360.0),
        *[
            (value, 0.0, RetryPolicy().initial)
            for value in ("-5", "inf", "nan", "1e999", "soon", "5 s", "", "Wed, 21 Oct 2015 07:28:00 GMT")
        ],
    ],
)
async def test_an_unreasonable_retry_after_is_bounded_or_ignored(
    value: str, least: float, most: float, measured: Measured
) -> None:
    async with world() as here:
        here.sky.weather = answer(429, retry_after=value)
        await here.push(100)
        await asyncio.sleep(0.01)
        here.sky.weather = fair
        await here.processor.flush()

        assert least <= here.sky.pauses[0] <= most
        assert here.lost == 0
        if least:
            measured(f"a pause of {here.sky.pauses[0]:.0f} s")


@pytest.mark.fault("F67")
def test_5000_clients_do_not_come_back_in_the_same_second(measured: Measured) -> None:
    # All clients noticed the outage at the same moment, which is the worst case.
    returns = [probes(seed, seconds=300.0)[-1] - 300.0 for seed in range(5_000)]
    posts = Counter(int(seconds) for seconds in returns)

    mean = 5_000 / 30
    assert max(returns) <= 30.0
    assert max(posts.values()) <= 3 * mean
    measured(f"peak {max(posts.values()) / mean:.1f} times the mean")
