"""Measures where the microseconds of an event go, part by part, and what importing costs.

    python -m tests.benchmarks.parts http://127.0.0.1:8000

Every part is timed by itself, in CPU of this process, and the least of some rounds counts. Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from tests.benchmarks.contestants import ATTRIBUTES, SPEED, USERS, be_quiet, new_evaluation, user_id
from tests.benchmarks.processes import child

_ROUNDS: Final = 7
_BATCH: Final = 500
_POSTS: Final = 20

#: What is timed, in the words of the page, in the order of an event's life.
PARTS: Final = {
    "id": "the id (UUID v4)",
    "encoding": "encoding, including the timestamp; the user and the variation are already encoded",
    "queue": "asyncio.Queue, put and get, for comparison",
    "ledger": "receipts and accounting: bounds, counters, lock; queueing, dequeueing and settling the record",
    "layers": "the rest of a nowait push",
    "awaiting": "additional cost of an awaited push",
    "joining": "joining bodies of 500 events",
    "post": "a post of 500 events by httpx, per event",
    "post_speed": "the same with the extra `speed`",
    "post_100": "a post of 100 events, per event",
}


class Silent:
    """A gateway that never answers, so that nothing but pushes is timed."""

    endpoint = "https://gateway.test"
    source_id = 0
    sdk_version = "1.0.0"

    async def start(self) -> None: ...

    def lease(self, _begin_closing: Callable[[], None]) -> Silent:
        return self

    def release(self) -> None: ...

    async def register_events(self, _events: Sequence[bytes], *, timeout: float) -> Any:
        await asyncio.sleep(timeout * 1000)


def least(work: Callable[[], object], count: int) -> float:
    """Return the microseconds of one of ``count`` things that ``work`` does."""
    times = []
    for _ in range(_ROUNDS):
        begun = time.process_time()
        work()
        times.append(time.process_time() - begun)
    return min(times) / count * 1e6


async def least_awaited(work: Callable[[], Awaitable[object]], count: int) -> float:
    """As `least`."""
    times = []
    for _ in range(_ROUNDS):
        begun = time.process_time()
        await work()
        times.append(time.process_time() - begun)
    return min(times) / count * 1e6


def ledger_and_queue(events: Sequence[Any]) -> dict[str, float]:
    """Time the ledger alone, and beside it what an `asyncio.Queue` would cost by itself."""
    from bucketeer_async import EventKind
    from bucketeer_async._events._bounds import Bounds
    from bucketeer_async._events._ledger import Ledger

    def ignore(*_arguments: object) -> None: ...

    ledger = Ledger(
        Bounds(10 * len(events), 2**30, "drop_newest"),
        lifetime=math.inf,
        on_lost=ignore,
        on_due=ignore,
        on_settled=ignore,
    )
    ledger.open(asyncio.get_running_loop())

    def account() -> None:
        for event in events:
            ledger.try_admit(EventKind.EVALUATION, event)
        while batch := ledger.take(_BATCH, 2**30, 0.0):
            ledger.settle(batch)

    def pass_through() -> None:
        queue: asyncio.Queue[Any] = asyncio.Queue()
        for event in events:
            queue.put_nowait(event)
        while not queue.empty():
            queue.get_nowait()

    return {"ledger": least(account, len(events)), "queue": least(pass_through, len(events))}


async def pushes(users: Sequence[Any], shown: Any, count: int) -> dict[str, float]:
    """Time whole pushes, nowait and awaited."""
    from bucketeer_async import Processor, ProcessorConfig

    config = ProcessorConfig(queue_capacity=100 * count, queue_max_bytes=2**31, drain_timeout=0.0)
    processor = Processor(Silent(), config)
    await processor.start()

    def nowait() -> None:
        for number in range(count):
            processor.push_evaluation_event_nowait(users[number % USERS], shown)

    async def awaited() -> None:
        for number in range(count):
            await processor.push_evaluation_event(users[number % USERS], shown)

    found = {"nowait": least(nowait, count), "awaited": await least_awaited(awaited, count)}
    await processor.aclose()
    return found


async def posts(url: str, bodies: Sequence[bytes], size: int) -> float:
    """Time posts of so many events; return the microseconds of each event."""
    from bucketeer_async import ApiClient

    async with ApiClient(endpoint=url, api_key="key") as api:
        lease = api.lease(random.Random().seed)  # any method: nothing here closes early
        batch = bodies[:size]

        async def post() -> None:
            for _ in range(_POSTS):
                await lease.register_events(batch, timeout=10.0)

        found = await least_awaited(post, _POSTS * size)
        lease.release()
    return found


def imports() -> dict[str, float]:
    """Time the import of the package on top of httpx's, in a process of its own; milliseconds."""
    code = (
        "import time, asyncio, ssl; a = time.perf_counter(); import httpx; b = time.perf_counter(); "
        "import bucketeer_async; c = time.perf_counter(); print([(b - a) * 1e3, (c - b) * 1e3])"
    )
    of_httpx, ours = json.loads(child("-c", code))
    return {"import_httpx_ms": of_httpx, "import_ms": ours}


async def run(url: str, count: int) -> dict[str, float]:
    """Time everything."""
    from bucketeer_async import User
    from bucketeer_async._events._encoder import EventFactory, IdPool
    from bucketeer_async._transport._codec import register_events_body

    new_id, shown = IdPool(), new_evaluation()
    factory = EventFactory(tag="shop", source_id=0, sdk_version="1.0.0")
    users = [User(user_id(number), ATTRIBUTES) for number in range(USERS)]
    events = [factory.evaluation(users[number % USERS], shown) for number in range(count)]

    def encode() -> None:
        for number in range(count):
            factory.evaluation(users[number % USERS], shown)

    def identify() -> None:
        for _ in range(count):
            new_id()

    def join() -> None:
        for start in range(0, count, _BATCH):
            register_events_body(events[start : start + _BATCH], source_id=0, sdk_version="1.0.0")

    found = {"id": least(identify, count), "joining": least(join, count), **ledger_and_queue(events)}
    found["encoding"] = least(encode, count) - found["id"]
    pushed = await pushes(users, shown, count)
    found["post"] = await posts(url, events, _BATCH) - found["joining"]
    found["post_100"] = await posts(url, events, 100) - found["joining"]
    if SPEED:
        sys.path.append(SPEED)
        found["post_speed"] = await posts(url, events, _BATCH) - found["joining"]
    # A push does not take records out, nor settle them; what that costs is small, and counted with the ledger.
    found["layers"] = max(pushed["nowait"] - found["id"] - found["encoding"] - found["ledger"], 0.0)
    found["awaiting"] = max(pushed["awaited"] - pushed["nowait"], 0.0)
    return found | pushed | imports()


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="of a sink")
    parser.add_argument("--events", type=int, default=10_000)
    options = parser.parse_args()
    be_quiet()
    print(json.dumps(asyncio.run(run(options.url, options.events))))


if __name__ == "__main__":
    main()
