"""Measures LaunchDarkly's async client: ``python -m tests.benchmarks.launchdarkly ROLE ...`` is a contestant.

Its `track` and `variation` leave an event to a task of the same loop, by way of an inbox. Where the figure is that of
the caller, the work of this task is included, because this SDK's calls do that work themselves.
"""

from __future__ import annotations

import asyncio
import os
from functools import partial
from typing import Any, Final

from ldclient import Context
from ldclient.async_client import AsyncLDClient
from ldclient.async_config import AsyncConfig
from ldclient.async_feature_store import AsyncInMemoryFeatureStore
from ldclient.versioned_data_kind import FEATURES, SEGMENTS

from tests.benchmarks.flags import KINDS, RULE_ATTRIBUTES, launchdarkly
from tests.benchmarks.measuring import (
    ATTRIBUTES,
    HOUR,
    SLICE,
    USERS,
    Rounds,
    arrived,
    cpu_us,
    main,
    paced,
    repeated,
    resident,
    user_id,
)

_ROOM: Final = 2_000_000
_CLOSED_PORT: Final = "http://127.0.0.1:9"
#: The sink tells events apart by it; the process id keeps the events of two processes apart.
_DATA: Final = f"seq-{os.getpid() % 10**7:07d}{{:07d}}"


def _client(url: str, **options: Any) -> AsyncLDClient:
    """Return a client with room for everything."""
    options = {"events_max_pending": _ROOM, "use_ldd": True, **options}
    return AsyncLDClient(AsyncConfig("key", events_uri=url, diagnostic_opt_out=True, **options))


def _context(key: str, attributes: dict[str, str] = ATTRIBUTES) -> Context:
    builder = Context.builder(key)
    for name, value in attributes.items():
        builder.set(name, value)
    return builder.build()


def contexts_of_users(attributes: dict[str, str] = ATTRIBUTES) -> list[Context]:
    """Return the users, in LaunchDarkly's words."""
    return [_context(user_id(number), attributes) for number in range(USERS)]


async def _empty_inbox(client: AsyncLDClient) -> None:
    inbox = client._event_processor._inbox
    while not inbox.empty():  # noqa: ASYNC110 - there is nothing to wait for
        await asyncio.sleep(0)
    await asyncio.sleep(0)


async def _abandon(client: AsyncLDClient) -> None:
    """Close without sending."""
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await asyncio.sleep(0)
    await client._session.close()


async def pushes(count: str) -> Rounds:
    """Measure `track` alone, of so many events."""
    contexts = repeated(contexts_of_users(), int(count))
    while True:
        client = _client(_CLOSED_PORT, flush_interval=HOUR)
        await client.start()

        async def track() -> None:
            for context in contexts:
                client.track("purchase", context, None, 49.9)

        async def track_new_contexts() -> None:
            for number in range(len(contexts)):
                client.track("purchase", _context(user_id(number)), None, 49.9)

        figures = {}
        works = (("track", track), ("track", track), ("track, new context", track_new_contexts))
        for name, work in works:  # the first time warms up
            figures[f"{name}, call"] = await cpu_us(len(contexts), work)
            figures[name] = figures[f"{name}, call"] + await cpu_us(len(contexts), partial(_empty_inbox, client))
        await _abandon(client)
        yield figures


async def burst(url: str, count: str) -> Rounds:
    """Measure a burst, flushed after every hundred events, from the first event to the end of the close."""
    contexts, sequence = repeated(contexts_of_users(), int(count)), 0
    while True:
        unique, posts = arrived(url)
        client = _client(url)
        await client.start()

        async def whole() -> None:
            nonlocal sequence
            for number, context in enumerate(contexts):
                client.track("purchase", context, {"seq": _DATA.format(sequence)}, 49.9)
                sequence += 1
                if number % SLICE == SLICE - 1:
                    await client.flush()
                    await asyncio.sleep(0)
            await client.close()

        used = await cpu_us(len(contexts), whole)
        unique_now, posts_now = arrived(url)
        yield {"cpu": used, "lost": len(contexts) - (unique_now - unique), "posts": posts_now - posts}


async def evaluations(url: str, count: str) -> Rounds:
    """Measure evaluations over its own store in memory; each one makes an event, and a round's are sent in one post."""
    store = AsyncInMemoryFeatureStore()
    await store.init({FEATURES: {flag["key"]: flag for flag in launchdarkly()}, SEGMENTS: {}})
    client = _client(url, feature_store=store, flush_interval=HOUR)
    await client.start()
    about = dict.fromkeys(KINDS, repeated(contexts_of_users(), int(count)))
    about["rules"] = repeated(contexts_of_users(RULE_ATTRIBUTES), int(count))
    for flag, contexts in about.items():
        values = [await client.variation(flag, context, None) for context in contexts]
        assert all(values) or (flag == "rollout" and any(values)), flag
    await client.flush_and_wait(10.0)
    while True:
        figures: dict[str, float] = {}
        for flag, contexts in about.items():

            async def on_the_caller(flag: str = flag, contexts: list[Context] = contexts) -> None:
                for number, context in enumerate(contexts):
                    await client.variation(flag, context, False)
                    if number % SLICE == SLICE - 1:
                        await asyncio.sleep(0)
                await _empty_inbox(client)

            async def deliver() -> None:
                assert await client.flush_and_wait(10.0)

            caller = await cpu_us(len(contexts), on_the_caller)
            in_all = caller + await cpu_us(len(contexts), deliver)
            figures |= {f"{flag}, on the caller": caller, f"{flag}, in all": in_all}
        yield figures


async def memory(count: str) -> Rounds:
    """Measure the memory of so many waiting events; a process for each round."""
    contexts, client = contexts_of_users(), _client(_CLOSED_PORT, flush_interval=HOUR)
    await client.start()
    for context in contexts:
        client.track("purchase", context, None, 49.9)
    await _empty_inbox(client)
    before = resident()
    for context in repeated(contexts, int(count)):
        client.track("purchase", context, None, 49.9)
    await _empty_inbox(client)
    yield {"bytes": (resident() - before) / int(count)}
    await _abandon(client)


async def traffic(url: str, count: str, rate: str) -> Rounds:
    """Measure steady traffic, flushed after every hundred events; a process for each round."""
    contexts, client = repeated(contexts_of_users(), int(count)), _client(url)
    await client.start()

    async def push(number: int) -> None:
        client.track("purchase", contexts[number], {"seq": _DATA.format(number)}, 49.9)
        if number % SLICE == SLICE - 1:
            await client.flush()

    async def whole() -> None:
        await paced(int(count), float(rate), push)
        await client.close()

    used = await cpu_us(int(count), whole)
    unique, sent = arrived(url)
    yield {"cpu": used, "lost": int(count) - unique, "posts": sent}


if __name__ == "__main__":
    main(
        {
            "pushes": pushes,
            "burst": burst,
            "evaluations": evaluations,
            "memory": memory,
            "traffic": traffic,
        }
    )
