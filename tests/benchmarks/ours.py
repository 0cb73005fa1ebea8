"""Measures this SDK, by its public API: ``python -m tests.benchmarks.ours ROLE ...`` is a contestant."""

from __future__ import annotations

import asyncio
import gc
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import httpx

from bucketeer_async import (
    ApiClient,
    Client,
    Evaluation,
    LocalEvaluation,
    Processor,
    ProcessorConfig,
    Reason,
    ReasonType,
    Receipt,
    Spool,
    User,
)
from tests.benchmarks.flags import KINDS, PAGE, REMOTE, RULE_ATTRIBUTES
from tests.benchmarks.measuring import (
    ATTRIBUTES,
    HOUR,
    SLICE,
    USERS,
    Heart,
    Rounds,
    arrived,
    cpu_us,
    main,
    paced,
    prepared_event,
    repeated,
    resident,
    user_id,
)

_ROOM: Final[dict[str, Any]] = {"queue_capacity": 2_000_000, "queue_max_bytes": 2**31}
#: An event with it is about 450 bytes long.
_EVALUATION: Final = Evaluation(
    feature_id="new-checkout",
    feature_version=12,
    variation_id="8d0c2a5e-3f3b-4a7b-9b6e-0f9d5c1a2b3c",
    reason=Reason(ReasonType.RULE, "0b1f6d2c-7a7e-4a55-8f0e-5d9a3c4b2e1f"),
)


class _Silent(httpx.AsyncBaseTransport):
    """A gateway that never responds."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError(request)


def _users(attributes: dict[str, str] = ATTRIBUTES) -> list[User]:
    return [User(user_id(number), attributes) for number in range(USERS)]


@asynccontextmanager
async def _waiting(users: Sequence[User], window: float | None = None) -> AsyncGenerator[Processor, None]:
    """Provide a processor that keeps what is pushed: its only flush worker already waits for a response."""
    options = _ROOM if window is None else {**_ROOM, "evaluation_window": window}
    config = ProcessorConfig(tag="shop", num_flush_workers=1, flush_interval=HOUR, drain_timeout=0.0, **options)
    http = httpx.AsyncClient(transport=_Silent())
    async with ApiClient(endpoint="http://127.0.0.1:9", api_key="key", http=http) as api:
        processor = Processor(api, config)
        await processor.start()
        for user in users:
            processor.push_evaluation_event_nowait(user, _EVALUATION)
        while not processor.statistics().total.in_flight:  # noqa: ASYNC110 - there is nothing to wait for
            await asyncio.sleep(0.001)
        yield processor
        await processor.aclose(0)


async def _goals(processor: Processor, users: Sequence[User]) -> None:
    push = processor.push_goal_event_nowait
    for user in users:
        push(user, "purchase", 49.9)


async def _evaluations(processor: Processor, users: Sequence[User]) -> None:
    push = processor.push_evaluation_event_nowait
    for user in users:
        push(user, _EVALUATION)


async def _awaited_goals(processor: Processor, users: Sequence[User]) -> None:
    push = processor.push_goal_event
    for user in users:
        await push(user, "purchase", 49.9)


async def _awaited_evaluations(processor: Processor, users: Sequence[User]) -> None:
    push = processor.push_evaluation_event
    for user in users:
        await push(user, _EVALUATION)


async def _goals_of_new_users(processor: Processor, users: Sequence[User]) -> None:
    push = processor.push_goal_event_nowait
    for number in range(len(users)):
        push(User(user_id(number), ATTRIBUTES), "purchase", 49.9)


_PUSHES: Final[dict[str, Callable[[Processor, Sequence[User]], Awaitable[None]]]] = {
    "goal": _goals,
    "evaluation": _evaluations,
    "awaited goal": _awaited_goals,
    "awaited evaluation": _awaited_evaluations,
    "goal of a new user": _goals_of_new_users,
}


async def pushes(count: str) -> Rounds:
    """Measure pushes alone, of so many events of each kind."""
    users = repeated(_users(), int(count))
    while True:
        async with _waiting(users[:USERS]) as processor:
            before = processor.statistics().total.accepted
            figures = {
                name: await cpu_us(len(users), partial(push, processor, users)) for name, push in _PUSHES.items()
            }
            counts = processor.statistics().total
            assert counts.accepted - before == len(_PUSHES) * len(users), counts
            assert not counts.delivered, counts
        yield figures | await _duplicates(users)


async def _duplicates(users: list[User]) -> dict[str, float]:
    """Measure pushes that a window refuses; an earlier revision has no window."""
    if not hasattr(ProcessorConfig, "evaluation_window"):
        return {}
    async with _waiting(users[:USERS], HOUR) as processor:
        figures = {"duplicate": await cpu_us(len(users), partial(_evaluations, processor, users))}
        assert processor.statistics().evaluation.refused == len(users)
        return figures


async def burst(url: str, count: str, variant: str) -> Rounds:
    """Measure a burst of so many events, from the first push to the end of the close: default settings, but room."""
    users = repeated(_users(), int(count))
    while True:
        unique, posts = arrived(url)
        with tempfile.TemporaryDirectory() as folder:
            options: dict[str, Any] = {"spool": Spool(folder, durable=True)} if variant == "spool" else {}
            api = ApiClient(endpoint=url, api_key="key")
            processor = Processor(api, ProcessorConfig(tag="shop", **_ROOM, **options))
            await processor.start()

            async def whole() -> None:
                receipts = await _push_burst(processor, users, variant)
                if receipts:
                    await processor.flush()
                for receipt in receipts:
                    assert (await receipt.settled()).fate == "delivered"
                await processor.aclose()
                await api.aclose()

            used = await cpu_us(len(users), whole)
        unique_now, posts_now = arrived(url)
        lost = len(users) - (unique_now - unique)
        assert not lost, f"{lost} events lost ({variant})"
        yield {"cpu": used, "lost": lost, "posts": posts_now - posts}


async def _push_burst(processor: Processor, users: Sequence[User], variant: str) -> list[Receipt]:
    """Push, with a turn of the loop now and then; return the receipts that are awaited later."""
    receipts = []
    for number, user in enumerate(users):
        if variant == "nowait":
            processor.push_evaluation_event_nowait(user, _EVALUATION)
        else:
            receipt = await processor.push_evaluation_event(user, _EVALUATION)
            if variant == "receipts":
                receipts.append(receipt)
        if number % SLICE == SLICE - 1:
            await asyncio.sleep(0)
    return receipts


async def evaluations(url: str, count: str) -> Rounds:
    """Measure local evaluations, so many of each kind of flag: default settings, but room."""
    client = Client(
        endpoint=url,
        api_key="key",
        tag="",
        local_evaluation=LocalEvaluation(polling_interval=HOUR, full_refresh_interval=HOUR),
        events=ProcessorConfig(queue_capacity=1_000_000),
    )
    about = dict.fromkeys(KINDS, repeated(_users(), int(count)))
    about["rules"] = repeated(_users(RULE_ATTRIBUTES), int(count))
    async with client:
        await client.wait_ready()
        for flag, users in about.items():
            values = [await client.bool_variation(user, flag, False) for user in users]
            assert all(values) or (flag == "rollout" and any(values)), flag
        await client.flush()
        while True:
            figures: dict[str, float] = {}
            for flag, users in about.items():

                async def on_the_caller(flag: str = flag, users: list[User] = users) -> None:
                    for user in users:
                        await client.bool_variation(user, flag, False)

                before = client.statistics().total
                caller = await cpu_us(len(users), on_the_caller)
                delivery = await cpu_us(len(users), client.flush)
                counts = client.statistics().total
                assert counts.delivered - before.delivered == 2 * len(users), counts
                figures |= {f"{flag}, on the caller": caller, f"{flag}, in all": caller + delivery}
            figures |= await _without_awaiting(client, about["fixed"])
            yield figures | await _all_flags(client, about["fixed"][:: len(PAGE)])


async def _all_flags(client: Client, users: list[User]) -> dict[str, float]:
    """Measure the evaluation of all flags of a page, with an access of each; an earlier revision cannot do it at once."""
    if not hasattr(client, "evaluate_all"):
        return {}

    async def at_once() -> None:
        for user in users:
            flags = await client.evaluate_all(user, only=PAGE)
            for flag in PAGE:
                flags.bool(flag, False)

    async def one_by_one() -> None:
        for user in users:
            for flag in PAGE:
                await client.bool_variation(user, flag, False)

    figures = {"a page at once": await cpu_us(len(users), at_once)}
    figures["a page one by one"] = await cpu_us(len(users), one_by_one)
    await client.flush()
    return figures


async def _without_awaiting(client: Client, users: list[User]) -> dict[str, float]:
    """Measure evaluations of the flag ``fixed`` without awaiting; an earlier revision has none."""
    if not hasattr(client, "bool_variation_nowait"):
        return {}

    async def on_the_caller() -> None:
        for user in users:
            client.bool_variation_nowait(user, "fixed", False)

    caller = await cpu_us(len(users), on_the_caller)
    await client.flush()
    return {"fixed, without awaiting": caller}


async def remote(url: str, waves: str) -> Rounds:
    """Measure remote evaluations, 10 and 100 at once; each client has connections of its own."""
    events = ProcessorConfig(flush_interval=HOUR, flush_size=1_000, max_batch_size=1_000)
    users = [User(user_id(number), ATTRIBUTES) for number in range(100)]
    clients = {at_once: Client(endpoint=url, api_key="key", tag="shop", events=events) for at_once in (10, 100)}

    async def evaluate(client: Client, at_once: int, defaults: list[bool]) -> None:
        for first in range(0, len(users), at_once):
            group = users[first : first + at_once]
            values = await asyncio.gather(*(client.bool_variation(user, REMOTE, False) for user in group))
            defaults.extend(value for value in values if not value)

    async with clients[10], clients[100]:
        for at_once, client in clients.items():
            await evaluate(client, at_once, [])  # makes the connections
        while True:
            figures: dict[str, float] = {}
            for at_once, client in clients.items():
                defaults: list[bool] = []

                async def some(
                    client: Client = client, at_once: int = at_once, defaults: list[bool] = defaults
                ) -> None:
                    for _ in range(int(waves)):
                        await evaluate(client, at_once, defaults)

                await client.flush()
                figures[str(at_once)] = await cpu_us(int(waves) * len(users), some)
                figures[f"{at_once}, defaults"] = len(defaults)
            yield figures


async def memory(count: str) -> Rounds:
    """Measure the memory of so many waiting events; a process for each round."""
    users = _users()
    async with _waiting(users) as processor:
        before, held = resident(), processor.statistics().held_bytes
        for user in repeated(users, int(count)):
            processor.push_evaluation_event_nowait(user, _EVALUATION)
        grown, bodies = resident() - before, processor.statistics().held_bytes - held
        yield {"bytes": grown / int(count), "body": bodies / int(count)}


async def posts(url: str, posts: str, events: str) -> Rounds:
    """Measure so many posts of so many events, without the events' own cost."""
    batch = [prepared_event()] * int(events)
    async with ApiClient(endpoint=url, api_key="key") as api:

        async def post() -> None:
            for _ in range(int(posts)):
                await api.register_events(batch, timeout=10.0)

        await post()  # makes the connection
        while True:
            yield {"post": await cpu_us(int(posts), post)}


async def growth(url: str, depth: str, collector: str) -> Rounds:
    """Measure events when so many wait at once: all are pushed before the first one is sent, and then delivered.

    A process measures one round, so that each round takes new memory from the system. The garbage collector is "on" or
    "off".
    """
    if collector == "off":
        gc.disable()
    users = _users()
    config = ProcessorConfig(tag="shop", flush_interval=HOUR, **_ROOM)
    async with ApiClient(endpoint=url, api_key="key") as api, Processor(api, config) as processor:

        async def push() -> None:
            for user in about:
                processor.push_evaluation_event_nowait(user, _EVALUATION)

        about = users
        await push()  # the users are encoded, and a connection is made
        await processor.flush()
        about, (before, _) = repeated(users, int(depth)), arrived(url)
        figures = {"push": await cpu_us(len(about), push), "delivery": await cpu_us(len(about), processor.flush)}
        yield figures | {"lost": len(about) - (arrived(url)[0] - before)}


async def traffic(url: str, count: str, rate: str) -> Rounds:
    """Measure steady traffic, or a burst if the rate is 0: room for all; a process for each round."""
    users = repeated(_users(), int(count))
    api = ApiClient(endpoint=url, api_key="key")
    processor = Processor(api, ProcessorConfig(tag="shop", **_ROOM))
    await processor.start()

    async def push(number: int) -> None:
        await processor.push_evaluation_event(users[number], _EVALUATION)

    async def whole() -> None:
        await paced(int(count), float(rate), push)
        await processor.aclose()
        await api.aclose()

    used = await cpu_us(int(count), whole)
    unique, sent = arrived(url)
    yield {"cpu": used, "lost": int(count) - unique, "posts": sent}


async def environment(url: str, flags: str, interval: str) -> Rounds:
    """Measure a large environment until it is ready, and during three polls that bring all of it again."""
    client = Client(
        endpoint=url,
        api_key="key",
        tag="",
        local_evaluation=LocalEvaluation(polling_interval=float(interval), full_refresh_interval=HOUR),
    )
    heart, before = Heart(), resident()
    await heart.take()
    began = time.perf_counter()
    await client.start()
    await client.wait_ready()
    ready = time.perf_counter() - began
    ready_stall, _ = await heart.take()
    held = resident() - before
    user = User("user-0-000005")

    async def evaluate_all() -> None:
        for number in range(int(flags)):
            await client.bool_variation(user, f"flag-{number}", False)

    first, later = [await cpu_us(int(flags), evaluate_all) for _ in range(2)]
    await client.flush()
    await heart.take()
    polls = client.statistics().local_evaluation
    assert polls is not None
    await asyncio.sleep(3 * (float(interval) * 1.1 + ready))
    poll_stall, _ = await heart.take()
    heart.stop()
    yield {
        "ready": ready,
        "memory": held / 2**20,
        "stall until ready": ready_stall,
        "stall of polls": poll_stall,
        "first": first,
        "later": later,
    }
    await client.aclose()


if __name__ == "__main__":
    main(
        {
            "pushes": pushes,
            "burst": burst,
            "evaluations": evaluations,
            "remote": remote,
            "memory": memory,
            "posts": posts,
            "growth": growth,
            "traffic": traffic,
            "environment": environment,
        }
    )
