"""Events that the gateway cannot take while it takes all others: in quarantine, these delay no others."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from bucketeer_async import DroppedReason, Receipt
from bucketeer_async._events._circuit import CircuitState
from tests.clock import VirtualLoop
from tests.faults.matrix import FULL
from tests.faults.world import REFERENCE, USER, Way, World, answer, fair, refused, world

Measured = Callable[[str], None]
POISON = b'"goalId":"poison'
HTML = {"content_type": "text/html"}


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


def now() -> float:
    return asyncio.get_running_loop().time()


async def reset(request: httpx.Request, _way: Way) -> httpx.Response:
    raise httpx.ReadError("connection reset", request=request)


async def silence(request: httpx.Request, _way: Way) -> httpx.Response:
    await asyncio.sleep(60)
    raise httpx.ReadTimeout("no answer", request=request)


WAYS = {
    "500": answer(500),
    "403": answer(403, b"<html>blocked by the firewall", **HTML),
    "400": answer(400, b"<html>bad request", **HTML),
    "429": answer(429),
    "503 with Retry-After": answer(503, retry_after="5"),
    "reset": reset,
    "silence": silence,
}


def poisoned(how: Any, *, otherwise: Any = fair, pause: float = 0.02) -> Any:
    """Respond to posts with a bad event by a fault, and to all others as usual, after some time."""

    async def weather(request: httpx.Request, way: Way) -> httpx.Response:
        await asyncio.sleep(pause)
        return await (how if POISON in request.content else otherwise)(request, way)

    return weather


def push_goals(here: World, goal: str, count: int) -> list[Receipt]:
    pushed = [here.processor.push_goal_event_nowait(USER, f"{goal}-{number}") for number in range(count)]
    here.receipts += pushed
    return pushed


async def delivered_by(receipts: list[Receipt]) -> float:
    """Wait until all events are settled; return the time."""
    for receipt in receipts:
        await receipt.settled()
    return now()


@pytest.mark.fault("F71")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("at", ["head", "middle", "tail"])
async def test_one_poison_holds_up_none_of_the_others(way: str, at: str, measured: Measured) -> None:
    config = replace(REFERENCE, flush_interval=1.0, request_timeout=5.0)
    before = {"head": 0, "middle": 1_000, "tail": 1_999}[at]
    async with world(config) as here:
        here.sky.weather = poisoned(WAYS[way])
        good = push_goals(here, "good", before)
        (poison,) = push_goals(here, "poison", 1)
        good += push_goals(here, "good", 1_999 - before)
        seconds = await delivered_by(good)
        quarantined = here.processor.statistics().goal.quarantined
        began = now()
        report = await here.processor.aclose()
        closing = now() - began

    allowed = {"silence": 11 * config.request_timeout, "503 with Retry-After": 12.0}.get(way, 0.0)
    assert all(receipt.outcome is not None and receipt.outcome.fate == "delivered" for receipt in good)
    assert seconds <= 30 + allowed
    assert report.total.undelivered + report.total.unconfirmed == 1
    assert poison.outcome is not None
    assert poison.outcome.reason in {DroppedReason.UNDELIVERED, DroppedReason.UNCONFIRMED}
    assert way == "silence" or closing <= (11.0 if "Retry-After" in way else 5.0)
    measured(
        f"{way}, at the {at}: 1 999 of 2 000 after {seconds:.1f} s, {len(here.sky.posts)} posts, closed in {closing:.1f} s"
    )
    assert quarantined <= 500


@pytest.mark.fault("F72")
@pytest.mark.parametrize("share", [0.3, 0.8])
async def test_random_failures_leave_nothing_in_quarantine(share: float, measured: Measured) -> None:
    dice = random.Random(7)

    async def weather(request: httpx.Request, way: Way) -> httpx.Response:
        await asyncio.sleep(0.02)
        return await (answer(500) if dice.random() < share else fair)(request, way)

    async with world(replace(REFERENCE, flush_interval=1.0)) as here:
        here.sky.weather = weather
        most = 0
        for _ in range(300 if FULL else 60):
            push_goals(here, "good", 100)
            await asyncio.sleep(1.0)
            most = max(most, here.processor.statistics().total.quarantined)
        here.sky.weather = fair
        began = now()
        await delivered_by(here.receipts)
        statistics = here.processor.statistics().total
        measured(
            f"{share:.0%} of posts failed: {len(here.sky.posts)} posts for {statistics.accepted} events, at most {most} in "
            f"quarantine, the last left {now() - began:.1f} s after the failures"
        )

        assert statistics.quarantined == here.lost == 0


@pytest.mark.fault("F73")
async def test_a_true_outage_leaves_nothing_in_quarantine(measured: Measured) -> None:
    async with world(replace(REFERENCE, flush_interval=1.0)) as here:
        here.sky.weather = poisoned(answer(500), pause=0.3)
        push_goals(here, "good", 1_000)
        push_goals(here, "poison", 3)
        for _ in range(20):
            push_goals(here, "good", 10)
            await asyncio.sleep(1.0)
        assert here.processor.statistics().total.quarantined == 3

        push_goals(here, "good", 1_000)
        await asyncio.sleep(0.1)  # batches are on the wire
        here.sky.weather = refused
        for _ in range(120):
            push_goals(here, "good", 10)
            await asyncio.sleep(1.0)
        assert here.processor.statistics().circuit in {CircuitState.OPEN, CircuitState.PROBING}
        here.sky.weather = fair
        began = now()
        await delivered_by(here.receipts)

        assert here.processor.statistics().total.quarantined == here.lost == 0
        measured(f"delivered {now() - began:.1f} s after the return, the suspects too")


@pytest.mark.fault("F73")
async def test_a_gateway_up_and_down_each_second_delivers_everything(measured: Measured) -> None:
    async def weather(request: httpx.Request, way: Way) -> httpx.Response:
        await asyncio.sleep(0.02)
        return await (fair if int(now()) % 2 else answer(503))(request, way)

    async with world(replace(REFERENCE, flush_interval=1.0)) as here:
        here.sky.weather = weather
        for _ in range(60):
            push_goals(here, "good", 50)
            await asyncio.sleep(1.0)
        latest = max([now() - 60.0, *[0.0]])
        await delivered_by(here.receipts)
        measured(
            f"up and down each second: {len(here.sky.posts)} posts, the last event after {now() - 60.0 - latest:.1f} s"
        )

        assert here.lost == 0
        assert here.processor.statistics().total.quarantined == 0


@pytest.mark.fault("F74")
@pytest.mark.parametrize("where", ["before", "behind"])
@pytest.mark.parametrize("workers", [1, 8])
async def test_a_thousand_poisons_hold_up_no_good_event(where: str, workers: int, measured: Measured) -> None:
    config = replace(REFERENCE, flush_interval=1.0, num_flush_workers=workers, queue_capacity=20_000)
    async with world(config) as here:
        here.sky.weather = poisoned(answer(500))
        if where == "before":
            push_goals(here, "poison", 1_000)
        good = push_goals(here, "good", 1_000)
        if where == "behind":
            push_goals(here, "poison", 1_000)
        seconds = await delivered_by(good)
        await here.processor.aclose(1.0)

    assert seconds <= 600
    measured(f"1 000 poisons {where} 1 000 good events, {workers} tasks: good ones after {seconds:.1f} s")


@pytest.mark.fault("F75")
@pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest", "wait"])
async def test_over_a_tenth_of_the_queue_the_worst_suspects_are_dropped(overflow: str, measured: Measured) -> None:
    config = replace(REFERENCE, flush_interval=0.5, queue_capacity=1_000, overflow=overflow)
    async with world(config) as here:
        here.sky.weather = poisoned(answer(500))
        poisons = push_goals(here, "poison", 300)
        good = []
        for _ in range(300):
            good += push_goals(here, "good", 10)
            await asyncio.sleep(1.0)
        await delivered_by(good)
        statistics = here.processor.statistics().total

        assert statistics.quarantined <= 100
        assert statistics.dropped_by[DroppedReason.DISPLACED] == 300 - statistics.quarantined
        assert all(receipt.outcome is None or receipt.outcome.reason == "displaced" for receipt in poisons)
        assert all(receipt.outcome is not None and receipt.outcome.fate == "delivered" for receipt in good)
        measured(
            f"{overflow}: {statistics.quarantined} poisons kept, {300 - statistics.quarantined} displaced, 0 good ones"
        )
        await here.processor.aclose(1.0)


@pytest.mark.fault("F79")
def test_replicas_that_refuse_everything_for_a_while_have_nothing_rejected(measured: Measured) -> None:
    runs = 200 if FULL else 20

    async def run(seed: int) -> int:
        dice = random.Random(seed)
        undecodable = answer(400, {"code": 3, "message": "unknown event type"}, content_type="application/json")

        async def weather(request: httpx.Request, way: Way) -> httpx.Response:
            await asyncio.sleep(0.02)
            bad = now() < 10.0 and dice.random() < 1 / 3
            return await (undecodable if bad else fair)(request, way)

        async with world(replace(REFERENCE, flush_interval=0.2)) as here:
            here.sky.weather = weather
            for _ in range(20):
                push_goals(here, "good", 100)
                await asyncio.sleep(0.5)
            await delivered_by(here.receipts)
            return here.processor.statistics().total.rejected

    rejected = 0
    for seed in range(runs):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            rejected += runner.run(run(seed))

    assert rejected == 0
    measured(f"0 of {runs * 2_000} rejected in {runs} runs")


async def test_a_flush_does_not_wait_for_a_suspect_that_has_failed_again() -> None:
    async with world(replace(REFERENCE, flush_interval=1.0)) as here:
        here.sky.weather = poisoned(answer(500))
        push_goals(here, "poison", 1)
        good = push_goals(here, "good", 100)

        assert await here.processor.flush(60.0) is False
        assert now() < 10.0
        assert all(receipt.outcome is not None for receipt in good)

        began = now()
        assert await here.processor.flush(60.0) is False
        assert now() - began < 2.0
        here.sky.weather = fair
        assert await here.processor.flush(60.0) is True


async def test_a_suspect_expires_like_any_other() -> None:
    async with world(replace(REFERENCE, flush_interval=1.0, event_lifetime=30.0)) as here:
        here.sky.weather = poisoned(answer(500))
        push_goals(here, "good", 100)
        (poison,) = push_goals(here, "poison", 1)

        assert (await poison.settled()).reason == DroppedReason.EXPIRED
        assert 30.0 <= now() <= 32.0


@pytest.mark.fault("F77")
async def test_a_proxy_that_resets_large_bodies_teaches_a_limit(measured: Measured) -> None:
    async def weather(request: httpx.Request, way: Way) -> httpx.Response:
        await asyncio.sleep(0.02)
        return await (reset if len(request.content) > 20_000 else fair)(request, way)

    async with world(replace(REFERENCE, flush_interval=1.0)) as here:
        here.sky.weather = weather
        push_goals(here, "good", 2_000)
        seconds = await delivered_by(here.receipts)
        before = len(here.sky.posts)
        for _ in range(20):
            push_goals(here, "good", 100)
            await asyncio.sleep(1.0)
        await delivered_by(here.receipts)
        large = sum(size > 20_000 for _, _, size in here.sky.posts[before:])

        assert here.lost == here.processor.statistics().total.quarantined == 0
        assert seconds <= 30
        assert large <= 6  # whether the limit may grow back
        measured(
            f"2 000 of 2 000 after {seconds:.1f} s; {large} of {len(here.sky.posts) - before} later posts too large"
        )


@pytest.mark.fault("F78")
async def test_a_limit_that_was_learnt_in_a_moment_grows_back(measured: Measured) -> None:
    async with world(replace(REFERENCE, flush_interval=0.1)) as here:
        here.sky.weather = answer(413)
        for _ in range(6):
            push_goals(here, "good", 300)
            await asyncio.sleep(0.1)
        here.sky.weather = fair
        await delivered_by(here.receipts)
        before = len(here.sky.posts)
        for _ in range(100):
            push_goals(here, "good", 300)
            await asyncio.sleep(0.2)
        sizes = [len(ids) for _, ids, _ in here.sky.posts[before:]]
        grown = next((number for number, size in enumerate(sizes) if size == 100), len(sizes))

        assert here.lost == here.processor.statistics().total.rejected == 0
        assert grown <= 60
        measured(f"batches of the configured size again after {grown} accepted posts")
