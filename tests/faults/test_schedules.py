"""Random schedules of pushes, faults, cancels and closes: after every step, the counts agree with the gateway's."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

import httpx

from bucketeer_async import ProcessorConfig, RetryPolicy, Statistics, User
from tests.clock import VirtualLoop
from tests.faults.matrix import FULL
from tests.faults.world import EVALUATION, USER, Way, Weather, World, answer, fair, refused, world

Measured = Callable[[str], None]
SCHEDULES: Final = 2_000 if FULL else 100
STEPS: Final = 25
LARGE: Final = User("large", {"attribute": "x" * 3_000})
HUGE: Final = User("huge", {"attribute": "x" * 20_000})


# Faults


async def slow(request: httpx.Request, way: Way) -> httpx.Response:
    await asyncio.sleep(2.0)
    return await way(request)


async def silent(_request: httpx.Request, _way: Way) -> httpx.Response:
    await asyncio.sleep(1_000.0)
    raise AssertionError


async def lost_on_the_way_back(request: httpx.Request, way: Way) -> httpx.Response:
    await way(request)
    await asyncio.sleep(0.1)
    raise httpx.ReadError("reset", request=request)


async def never_comes_back(request: httpx.Request, way: Way) -> httpx.Response:
    await way(request)
    await asyncio.sleep(1_000.0)
    raise AssertionError


async def small_only(request: httpx.Request, way: Way) -> httpx.Response:
    return await (answer(413) if len(request.content) > 2_000 else fair)(request, way)


async def buggy(_request: httpx.Request, _way: Way) -> httpx.Response:
    raise ValueError("a bug")


def poisoned(goal: str) -> Weather:
    """The gateway cannot decode a request with this goal."""
    refusal = {"code": 3, "message": "proto: syntax error", "details": []}

    async def weather(request: httpx.Request, way: Way) -> httpx.Response:
        return await (answer(400, refusal) if f'"{goal}"'.encode() in request.content else fair)(request, way)

    return weather


WEATHERS: Final[list[Weather]] = [
    *[fair] * 4,
    slow,
    silent,
    lost_on_the_way_back,
    never_comes_back,
    refused,
    small_only,
    buggy,
    poisoned("goal-3"),
    answer(503),
    answer(429, Retry_After="3"),
    answer(403, {"code": 7, "message": "gateway: invalid APIKey", "details": []}),
    answer(400, {"code": 3, "message": "no", "details": []}),
    answer(200, b"<html>"),
]


class Schedule:
    """One random schedule of a processor.

    Args:
        seed: Seed of the schedule.
        here: The processor and its gateway.
    """

    def __init__(self, seed: int, here: World) -> None:
        self._dice = random.Random(seed)
        self._here = here
        self._tasks: list[asyncio.Task[None]] = []
        self._steps: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (8, self.push_nowait),
            (6, self.push_awaited),
            (2, self.cancel),
            (5, self.turn_the_weather),
            (8, self.wait),
            (2, self.flush),
            (1, self.close),
        ]

    async def live(self) -> None:
        weights, steps = zip(*self._steps, strict=True)
        for _ in range(STEPS):
            (step,) = self._dice.choices(steps, weights)
            await step()
            check(self._here)
        self._here.sky.weather = self._dice.choice(WEATHERS)
        await self._here.processor.aclose()
        await asyncio.wait([*self._tasks, asyncio.create_task(asyncio.sleep(0))])
        for task in self._tasks:
            if not task.cancelled():
                task.result()

    async def push_nowait(self) -> None:
        for _ in range(self._dice.randint(1, 12)):
            self._here.receipts.append(self._one_of_the_pushes()())

    def _one_of_the_pushes(self) -> Callable[[], Any]:
        push, goal = self._here.processor, f"goal-{self._dice.randrange(20)}"
        return self._dice.choice(
            [
                lambda: push.push_goal_event_nowait(USER, goal),
                lambda: push.push_goal_event_nowait(LARGE, goal),
                lambda: push.push_goal_event_nowait(HUGE, goal),
                lambda: push.push_goal_event_nowait(USER, ""),
                lambda: push.push_evaluation_event_nowait(USER, EVALUATION),
                push.push_internal_error_count_metrics_event_nowait,
            ]
        )

    async def push_awaited(self) -> None:
        async def push() -> None:
            for _ in range(count):
                self._here.receipts.append(await self._here.processor.push_goal_event(USER, "goal"))

        count = self._dice.randint(1, 12)
        self._tasks.append(asyncio.create_task(push()))

    async def cancel(self) -> None:
        if self._tasks:
            self._dice.choice(self._tasks).cancel()

    async def turn_the_weather(self) -> None:
        self._here.sky.weather = self._dice.choice(WEATHERS)

    async def wait(self) -> None:
        await asyncio.sleep(self._dice.choice([0.0, 0.0, 0.05, 0.5, 2.5, 12.0, 70.0]))

    async def flush(self) -> None:
        await self._here.processor.flush(self._dice.choice([0.0, 1.0, 10.0]))

    async def close(self) -> None:
        async def close() -> None:
            await self._here.processor.aclose(timeout)

        timeout = self._dice.choice([0.0, 1.0, 5.0, None])
        self._tasks.append(asyncio.create_task(close()))


def check(here: World) -> None:
    """Assert that counts, bytes and bounds agree with the receipts and the gateway."""
    here.check()
    held = [receipt for receipt in here.receipts if receipt.outcome is None]
    statistics, config = here.processor.statistics(), here.processor._config
    assert len(held) == statistics.total.queued + statistics.total.in_flight <= config.queue_capacity
    assert sum(len(receipt._body) for receipt in held) == statistics.held_bytes <= config.queue_max_bytes


def drawn_config(seed: int) -> ProcessorConfig:
    dice = random.Random(-seed - 1)
    size = dice.randint(1, 10)
    return ProcessorConfig(
        queue_capacity=dice.randint(10, 60),
        queue_max_bytes=dice.choice([15_000, 100_000]),
        overflow=dice.choice(["drop_newest", "drop_oldest", "wait"]),
        num_flush_workers=dice.randint(1, 4),
        flush_interval=dice.choice([0.1, 1.0, 10.0]),
        flush_size=size,
        max_batch_size=dice.randint(size, 20),
        flush_max_bytes=dice.choice([5_000, 15_000]),
        request_timeout=5.0,
        event_lifetime=60.0,
        drain_timeout=dice.choice([0.0, 2.0, 10.0]),
        retry=RetryPolicy(initial=0.1, maximum=5.0),
    )


def check_schedule(seed: int) -> Statistics:
    """Run one schedule; a failure names the seed, which reproduces the schedule."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(live_through(seed))


async def live_through(seed: int) -> Statistics:
    try:
        async with world(drawn_config(seed), _new_rng=lambda: random.Random(seed)) as here:
            schedule = Schedule(seed, here)
            await schedule.live()
            check(here)
            total = here.processor.statistics().total
            assert total.pushed == len(here.receipts)
            assert len({receipt.event_id for receipt in here.receipts if receipt.accepted}) == total.accepted
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise
    return here.processor.statistics()


def test_random_schedules_agree_with_the_gateway_after_every_step(measured: Measured) -> None:
    events = posts = 0
    for seed in range(SCHEDULES):
        statistics = check_schedule(seed)
        events += statistics.total.accepted
        posts += statistics.posts

    assert posts > 5 * SCHEDULES
    measured(f"{SCHEDULES} schedules of {STEPS} steps, {events} events, {posts} posts: no event unaccounted for")


def test_a_schedule_can_be_lived_through_again() -> None:
    for seed in range(SCHEDULES // 10):
        assert check_schedule(seed) == check_schedule(seed)
