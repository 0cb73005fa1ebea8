"""A processor and its gateway in one process: the SDK over httpx, the local gateway, and the faults between the two.

No socket is used, so virtual time is possible.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

import httpx

from bucketeer_async import ApiClient, Evaluation, Fate, Processor, ProcessorConfig, Reason, ReasonType, Receipt, User
from bucketeer_async.gateway import GatewayState, create_app
from tests.faults.matrix import FULL

USER = User("user-of-the-test", {"plan": "attribute-of-the-test"})
EVALUATION = Evaluation(feature_id="flag", variation_id="on", reason=Reason(ReasonType.DEFAULT))
KEY = "client-key"
#: The number of events in most tests: 20 batches, or 100.
EVENTS: Final = 10_000 if FULL else 2_000

Way = Callable[[httpx.Request], Awaitable[httpx.Response]]
Weather = Callable[[httpx.Request, Way], Awaitable[httpx.Response]]


async def fair(request: httpx.Request, way: Way) -> httpx.Response:
    """The request reaches the gateway, and its response comes back."""
    return await way(request)


def answer(status: int, body: Any = None, **headers: str) -> Weather:
    """A proxy responds instead of the gateway."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    async def weather(_request: httpx.Request, _way: Way) -> httpx.Response:
        return httpx.Response(status, content=content, headers=named)

    return weather


async def refused(request: httpx.Request, _way: Way) -> httpx.Response:
    raise httpx.ConnectError("connection refused", request=request)


class Sky(httpx.AsyncBaseTransport):
    """The transport to the gateway: records every post, and applies the current fault to it."""

    def __init__(self, state: GatewayState) -> None:
        self.state = state
        self._gateway = httpx.ASGITransport(create_app(state))
        self.weather: Weather = fair
        self.posts: list[tuple[float, list[str], int]] = []
        self.under_way = self.most_under_way = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        ids = [event["id"] for event in json.loads(body)["events"]]
        self.posts.append((asyncio.get_running_loop().time(), ids, len(body)))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            return await self.weather(request, self._gateway.handle_async_request)
        finally:
            self.under_way -= 1

    @property
    def times(self) -> list[float]:
        return [time for time, _, _ in self.posts]

    @property
    def pauses(self) -> list[float]:
        """Return the seconds between posts; posts at the same moment count as one."""
        return [later - earlier for earlier, later in itertools.pairwise(sorted(set(self.times)))]


class World:
    """A gateway and one processor that posts to it.

    Attributes:
        state: The state of the gateway.
        sky: The transport to the gateway, with its faults.
        processor: The processor, started.
        receipts: The receipts of every `push`.
    """

    def __init__(self, processor: Processor, state: GatewayState, sky: Sky) -> None:
        self.processor = processor
        self.state = state
        self.sky = sky
        self.receipts: list[Receipt] = []

    async def push(self, count: int, *, every: float = 0.0) -> list[Receipt]:
        """Push events of all classes, one after ``every`` seconds."""
        pushed = []
        for number in range(count):
            match number % 5:
                case 0:
                    pushed.append(await self.processor.push_evaluation_event(USER, EVALUATION))
                case 1:
                    pushed.append(await self.processor.push_internal_error_count_metrics_event())
                case _:
                    pushed.append(await self.processor.push_goal_event(USER, f"goal-{number}"))
            if every:
                await asyncio.sleep(every)
        self.receipts += pushed
        return pushed

    async def endure(self, weather: Weather, *, count: int = EVENTS, seconds: float = 5.0) -> None:
        """Push events under a fault, end the fault after ``seconds``, and wait until all events are settled."""
        self.sky.weather = weather
        await self.push(count)
        await asyncio.sleep(seconds)
        self.sky.weather = fair
        await self.processor.flush()

    @property
    def stored(self) -> set[str]:
        """The ids of the events that the gateway has stored."""
        return {event.id for event in self.state.events}

    @property
    def lost(self) -> int:
        """Accepted events that the gateway does not have."""
        return len({receipt.event_id for receipt in self.receipts if receipt.accepted} - self.stored)

    @property
    def repeated(self) -> int:
        """Events that were sent to the gateway more than once."""
        return sum(len(ids) for _, ids, _ in self.sky.posts) - len({i for _, ids, _ in self.sky.posts for i in ids})

    def check(self) -> None:
        """Assert the invariants of every moment, compared with the events that the gateway has stored."""
        check_counts(self.processor)
        accepted = {receipt.event_id for receipt in self.receipts if receipt.accepted}
        by_fate = {fate: [r for r in self.receipts if r.outcome and r.outcome.fate is fate] for fate in Fate}
        assert self.stored <= accepted
        assert {receipt.event_id for receipt in by_fate[Fate.DELIVERED]} <= self.stored
        total = self.processor.statistics().total
        assert total.delivered == len(by_fate[Fate.DELIVERED])
        assert total.rejected == len(by_fate[Fate.REJECTED])
        assert total.dropped == len(by_fate[Fate.DROPPED])
        assert total.refused == len(by_fate[Fate.REFUSED])
        for receipt in by_fate[Fate.DROPPED]:
            assert receipt.outcome is not None
            assert receipt.outcome.reason != "undelivered" or receipt.event_id not in self.stored


def check_counts(processor: Processor) -> None:
    """Assert that every event is accounted for, in every class."""
    statistics = processor.statistics()
    for counts in (statistics.goal, statistics.evaluation, statistics.metrics, statistics.total):
        ends = counts.delivered + counts.rejected + counts.dropped + counts.spooled
        assert counts.pushed + counts.recovered == counts.accepted + counts.refused
        assert counts.accepted == ends + counts.queued + counts.in_flight


#: The configuration of all fault tests, except for tests of an option.
REFERENCE = ProcessorConfig(
    flush_size=100,
    max_batch_size=100,
    flush_interval=1.0,
    num_flush_workers=4,
    event_lifetime=3600.0,
    drain_timeout=10.0,
)


@contextlib.asynccontextmanager
async def world(
    config: ProcessorConfig = REFERENCE, *, api: Mapping[str, Any] | None = None, **parts: Any
) -> AsyncIterator[World]:
    """Start a processor and its gateway; at the end, close the processor, and check that every event is accounted for.

    Args:
        config: The processor's options.
        api: Options of the API client.
        parts: Private arguments of the processor: its clock, random numbers and ids.
    """
    state = GatewayState()
    sky = Sky(state)
    async with httpx.AsyncClient(transport=sky) as http:
        async with ApiClient(endpoint="http://127.0.0.1", api_key=KEY, http=http, **(api or {})) as api_client:
            async with Processor(api_client, config, **parts) as processor:
                here = World(processor, state, sky)
                yield here
                here.check()
            here.check()
            total = processor.statistics().total
            assert total.queued == total.in_flight == 0
            assert all(receipt.outcome is not None for receipt in here.receipts)
