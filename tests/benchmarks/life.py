"""Measures the life of a client, from the start on: ``python -m tests.benchmarks.life ROLE SDK ...`` is a contestant.

Nothing is imported before the start but what an application imports: the client. A process measures one round.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from tests.benchmarks.measuring import ATTRIBUTES, SLICE, USERS, Rounds, main, repeated, stalls, user_id


def _bucketeer(url: str) -> Any:
    from bucketeer_async import Client

    return Client(endpoint=url, api_key="key", tag="shop")


def _launchdarkly(url: str) -> Any:
    from ldclient.async_client import AsyncLDClient
    from ldclient.async_config import AsyncConfig

    config = AsyncConfig("key", events_uri=url, use_ldd=True, diagnostic_opt_out=True, events_max_pending=1_000_000)
    return AsyncLDClient(config)


async def start(sdk: str) -> Rounds:
    """Measure the import and the start of a client while nothing listens, in milliseconds."""
    used_before = time.process_time()
    client = {"bucketeer_async": _bucketeer, "launchdarkly": _launchdarkly}[sdk]("http://127.0.0.1:9")
    began, used = time.perf_counter(), time.process_time()
    await client.start()
    now, used_now = time.perf_counter(), time.process_time()
    yield {
        "cpu": (used_now - used) * 1e3,
        "wall": (now - began) * 1e3,
        "with import": (used_now - used_before) * 1e3,
    }
    await (client.aclose() if sdk == "bucketeer_async" else client.close())


async def stall(sdk: str, url: str, count: str) -> Rounds:
    """Measure the stalls of the event loop in a start, a burst of so many events, and the close."""
    if sdk == "bucketeer_async":
        yield await _stall_of_bucketeer(url, int(count))
    else:
        yield await _stall_of_launchdarkly(url, int(count))


async def _stall_of_bucketeer(url: str, count: int) -> dict[str, float]:
    from bucketeer_async import User

    client = _bucketeer(url)
    users = repeated([User(user_id(number), ATTRIBUTES) for number in range(USERS)], count)

    async def burst() -> None:
        for user in users:
            await client.track(user, "purchase", value=49.9)

    return await stalls(start=client.start, burst=burst, close=client.aclose)


async def _stall_of_launchdarkly(url: str, count: int) -> dict[str, float]:
    from tests.benchmarks.launchdarkly import contexts_of_users

    client, contexts = _launchdarkly(url), repeated(contexts_of_users(), count)

    async def burst() -> None:
        for number, context in enumerate(contexts):
            client.track("purchase", context, None, 49.9)
            if number % SLICE == SLICE - 1:
                await client.flush()
                await asyncio.sleep(0)

    return await stalls(start=client.start, burst=burst, close=client.close)


if __name__ == "__main__":
    main({"start": start, "stall": stall})
