"""The processor against a scripted client, in virtual time: lifecycle, batching, bounds, responses, closing."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import logging
import math
import re
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import FrameType
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

import bucketeer_async
from bucketeer_async import (
    ApiError,
    ApiId,
    ClosedError,
    ConfigurationError,
    ConnectionFailedError,
    DecodeError,
    DrainReport,
    Drop,
    DroppedReason,
    Evaluation,
    EventKind,
    Fate,
    Processor,
    ProcessorConfig,
    Reason,
    ReasonType,
    Receipt,
    RefusedReason,
    RequestTimeoutError,
    RetryPolicy,
    Spool,
    StatusError,
    UndeliveredError,
    User,
    WrongLoopError,
)
from bucketeer_async._events._batch import Delivery
from bucketeer_async._events._collector import Collector
from bucketeer_async._events._intake import Intake
from bucketeer_async._lifecycle import State
from tests.clock import VirtualLoop
from tests.fakes import FakeAnswer, FakeClient, FakeEventError, accept, failing_logger

USER = User("user-1", {"plan": "pro"})
EVALUATION = Evaluation(feature_id="flag", variation_id="on", reason=Reason(ReasonType.DEFAULT))
Events = list[dict[str, Any]]
PACKAGE = str(Path(bucketeer_async.__file__).parent)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


def now() -> float:
    return asyncio.get_running_loop().time()


def answers(*script: ApiError | FakeAnswer) -> Callable[[Events], Awaitable[FakeAnswer]]:
    """Return a script of these responses in order; afterwards, all events are accepted."""
    left = list(script)

    async def answer(_events: Events) -> FakeAnswer:
        reply = left.pop(0) if left else FakeAnswer()
        if isinstance(reply, ApiError):
            raise reply
        return reply

    return answer


async def always(error: ApiError) -> FakeAnswer:
    raise error


def answers_after(seconds: float) -> Callable[[Events], Awaitable[FakeAnswer]]:
    """Return a script that accepts all events, slowly."""

    async def answer(_events: Events) -> FakeAnswer:
        await anyio.sleep(seconds)
        return FakeAnswer()

    return answer


async def hang(_events: Events) -> FakeAnswer:
    await asyncio.Event().wait()
    raise AssertionError


def assert_conserved(processor: Processor) -> None:
    statistics = processor.statistics()
    for counts in (statistics.goal, statistics.evaluation, statistics.metrics, statistics.total):
        assert counts.pushed == counts.accepted + counts.refused
        ends = counts.delivered + counts.rejected + counts.dropped
        assert counts.accepted == ends + counts.queued + counts.in_flight


async def push_many(processor: Processor, count: int) -> list[Any]:
    return [await processor.push_goal_event(USER, f"goal-{number}") for number in range(count)]


# Batching


async def test_a_full_batch_leaves_at_once() -> None:
    client = FakeClient()
    async with Processor(client, ProcessorConfig(flush_size=10)) as processor:
        await push_many(processor, 10)
        await anyio.wait_all_tasks_blocked()

        assert client.sizes == [10]
        assert client.post_times[-1] < 0.001


async def test_a_batch_leaves_after_the_interval_since_its_first_event() -> None:
    client = FakeClient()
    async with Processor(client, ProcessorConfig(flush_interval=30.0)) as processor:
        await anyio.sleep(100)
        await push_many(processor, 1)
        await anyio.sleep(20)
        await push_many(processor, 2)
        await anyio.sleep(9.99)
        assert client.sizes == []

        await anyio.sleep(0.02)

        assert client.sizes == [3]


async def test_low_traffic_makes_few_posts_however_many_workers() -> None:
    client = FakeClient()
    async with Processor(client, ProcessorConfig(num_flush_workers=50, flush_interval=30.0)) as processor:
        for _ in range(300):
            await push_many(processor, 1)
            await anyio.sleep(1.0)

    assert max(client.sizes) <= 31
    assert len(client.sizes) <= 11


async def test_batches_grow_under_a_backlog() -> None:
    client = FakeClient(answers_after(1.0))
    config = ProcessorConfig(flush_size=100, max_batch_size=500, num_flush_workers=1)
    async with Processor(client, config) as processor:
        for _ in range(2000):
            processor.push_goal_event_nowait(USER, "goal")
        await processor.flush()

    assert client.sizes == [500, 500, 500, 500]


async def test_a_full_batch_grows_while_another_is_on_its_way_but_not_for_long() -> None:
    client = FakeClient(answers_after(1.0))
    async with Processor(client, ProcessorConfig(flush_size=10, max_batch_size=50)) as processor:
        await push_many(processor, 10)
        await anyio.wait_all_tasks_blocked()
        assert client.sizes == [10]

        await push_many(processor, 10)
        await anyio.sleep(0.04)
        assert client.sizes == [10]
        await push_many(processor, 5)
        await anyio.sleep(0.02)
        assert client.sizes == [10, 15]

        await push_many(processor, 50)
        await anyio.wait_all_tasks_blocked()
        assert client.sizes == [10, 15, 50]


async def test_a_full_batch_leaves_as_soon_as_no_other_is_on_its_way() -> None:
    client = FakeClient(answers_after(0.01))
    async with Processor(client, ProcessorConfig(flush_size=10)) as processor:
        await push_many(processor, 10)
        await anyio.wait_all_tasks_blocked()
        await push_many(processor, 10)
        await anyio.sleep(0.011)

        assert client.sizes == [10, 10]


async def test_a_full_batch_does_not_grow_when_the_queue_is_half_full() -> None:
    client = FakeClient(hang)
    config = ProcessorConfig(flush_size=10, max_batch_size=40, queue_capacity=40, drain_timeout=0.0)
    async with Processor(client, config) as processor:
        await push_many(processor, 10)
        await anyio.wait_all_tasks_blocked()
        await push_many(processor, 10)
        await anyio.sleep(0.01)
        assert client.sizes == [10]

        await push_many(processor, 1)
        await anyio.wait_all_tasks_blocked()

        assert client.sizes == [10, 11]


@contextlib.contextmanager
def amid_call(number: int, act: Callable[[], None]) -> Iterator[None]:
    """Act once, within the package's ``number``-th call, as a signal handler may."""
    calls = 0

    def look(frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        if event in {"call", "c_call"} and frame.f_code.co_filename.startswith(PACKAGE):
            calls += 1
            if calls == number:
                act()

    sys.setprofile(look)
    try:
        yield
    finally:
        sys.setprofile(None)


async def test_a_push_amid_the_collectors_look_is_not_slept_through() -> None:
    pushed: list[Receipt] = []
    async with Processor(FakeClient(), ProcessorConfig(flush_size=2, flush_interval=1.0)) as processor:
        for number in itertools.count(1):
            before = len(pushed)
            await push_many(processor, 2)  # sent at once; the collector runs before and afterwards
            with amid_call(number, lambda: pushed.append(processor.push_goal_event_nowait(USER, "goal"))):
                await anyio.wait_all_tasks_blocked()
            await anyio.sleep(2.0)
            if len(pushed) == before:
                break

            assert pushed[-1].outcome is not None, f"pushed amid call {number} of the package"

    assert len(pushed) > 50


async def test_batches_are_cut_by_bytes() -> None:
    client = FakeClient()
    config = ProcessorConfig(flush_max_bytes=2000, max_batch_size=500)
    async with Processor(client, config) as processor:
        receipts = await push_many(processor, 20)
        size = len(receipts[0]._body)
        await processor.flush()

    assert sum(client.sizes) == 20
    assert max(client.sizes) == 2000 // size


async def test_at_most_num_flush_workers_posts_at_once() -> None:
    client = FakeClient(hang)
    config = ProcessorConfig(num_flush_workers=3, flush_size=1, max_batch_size=1, drain_timeout=0.0)
    async with Processor(client, config) as processor:
        await push_many(processor, 10)
        await anyio.wait_all_tasks_blocked()

        assert client.most_under_way == 3
        assert processor.statistics().goal.in_flight == 3
        assert processor.statistics().goal.queued == 7


async def test_no_turn_of_the_loop_handles_more_than_1000_records() -> None:
    client = FakeClient()
    config = ProcessorConfig(max_batch_size=1000, num_flush_workers=8, queue_capacity=20_000)
    processor = Processor(client, config)
    async with processor:
        for _ in range(20_000):
            processor.push_goal_event_nowait(USER, "goal")
        handled = []
        before = processor.statistics().total.queued
        while processor.statistics().total.queued:
            await asyncio.sleep(0)
            after = processor.statistics().total.queued
            handled.append(before - after)
            before = after

    assert max(handled) <= 1000


# Responses


async def test_retriable_events_are_sent_again_with_their_ids_and_no_others() -> None:
    client = FakeClient()
    again: list[str] = []

    async def partly(events: Events) -> FakeAnswer:
        if not again:
            again.extend(event["id"] for event in events[:3])
            return FakeAnswer(dict.fromkeys(again, FakeEventError(retriable=True)))
        return FakeAnswer()

    client.script = partly
    async with Processor(client, ProcessorConfig(flush_size=10)) as processor:
        await push_many(processor, 10)
        await processor.flush()

    assert [[event["id"] for event in batch] for batch in client.batches[1:]] == [again]
    assert set(client.taken.values()) == {1}
    assert processor.statistics().goal.delivered == 10


async def test_a_non_retriable_event_is_rejected_with_the_message(caplog: pytest.LogCaptureFixture) -> None:
    client = FakeClient()

    async def refuse_first(events: Events) -> FakeAnswer:
        return FakeAnswer({events[0]["id"]: FakeEventError(retriable=False, message="gateway: goal_id is empty")})

    client.script = refuse_first
    async with Processor(client, ProcessorConfig(flush_size=10)) as processor:
        receipts = await push_many(processor, 10)
        outcome = await receipts[0].settled()

    assert (outcome.fate, outcome.message) == (Fate.REJECTED, "gateway: goal_id is empty")
    assert processor.statistics().goal.delivered == 9
    assert processor.statistics().goal.rejected == 1
    assert "goal_id is empty" in caplog.text


async def test_unknown_ids_in_an_answer_are_counted_and_change_nothing() -> None:
    client = FakeClient(answers(FakeAnswer({"nobody": FakeEventError(retriable=False)})))
    async with Processor(client, ProcessorConfig(flush_size=2)) as processor:
        await push_many(processor, 2)
        await processor.flush()

        assert processor.statistics().protocol_anomalies == 1
        assert processor.statistics().goal.delivered == 2


@pytest.mark.parametrize(
    "error",
    [
        StatusError(503),
        StatusError(429, retry_after=5.0),
        StatusError(400),
        ConnectionFailedError("refused", maybe_sent=False),
        RequestTimeoutError("slow"),
        DecodeError("HTML"),
        StatusError(401),
        StatusError(404),
        StatusError(302),
    ],
)
async def test_an_outage_loses_nothing_and_is_told_once(error: ApiError, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="bucketeer_async")
    client = FakeClient(answers(*[error] * 5))
    async with Processor(client, ProcessorConfig(flush_size=10)) as processor:
        receipts = await push_many(processor, 25)
        await processor.flush()

    assert set(client.taken) == {receipt.event_id for receipt in receipts}
    assert processor.statistics().goal.delivered == 25
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1
    assert "user-1" not in caplog.text
    assert "pro" not in caplog.text.replace("processor", "")


async def test_an_outage_costs_one_probe_at_a_time() -> None:
    client = FakeClient(lambda _: always(StatusError(503)))
    config = ProcessorConfig(flush_size=1, max_batch_size=1, num_flush_workers=4, drain_timeout=0.0)
    async with Processor(client, config) as processor:
        await push_many(processor, 50)
        await anyio.wait_all_tasks_blocked()
        in_first_moment = len(client.batches)
        await anyio.sleep(600)

        assert in_first_moment <= 4
        assert len(client.batches) < 80
        assert processor.statistics().circuit == "open"
        assert processor.statistics().goal.queued == 50


async def test_retry_after_is_waited_for() -> None:
    client = FakeClient(answers(StatusError(429, retry_after=5.0)))
    async with Processor(client, ProcessorConfig(flush_size=1)) as processor:
        await push_many(processor, 1)
        await processor.flush()

    assert 5.0 <= client.post_times[1] - client.post_times[0] <= 6.0


async def test_a_wrong_key_is_probed_every_30_seconds_with_a_hint(caplog: pytest.LogCaptureFixture) -> None:
    client = FakeClient(lambda _: always(StatusError(403, code=7, detail="gateway: invalid APIKey")))
    async with Processor(client, ProcessorConfig(flush_size=1, drain_timeout=0.0)) as processor:
        await push_many(processor, 20)
        await anyio.sleep(300)

    assert len(client.batches) <= 4 + 10  # at once, its check, after 1 s, after 5 s, and one every 30 s
    assert [record.levelname for record in caplog.records].count("ERROR") == 1
    assert "check the API key" in caplog.text


async def test_a_stale_connection_is_tried_again_at_once_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    client = FakeClient(answers(ConnectionFailedError("reset", stale=True)))
    async with Processor(client, ProcessorConfig(flush_size=1)) as processor:
        await push_many(processor, 1)
        await anyio.wait_all_tasks_blocked()

        assert client.sizes == [1, 1]
        assert client.post_times[-1] < 0.001
    assert not caplog.records


def poison(*goals: str, detail: str = "proto: invalid value") -> Callable[[Events], Awaitable[FakeAnswer]]:
    """Return a script that responds 400 to every request with one of these goals."""

    async def answer(events: Events) -> FakeAnswer:
        if any(event["event"]["goalId"] in goals for event in events):
            raise StatusError(400, code=3, detail=detail)
        return FakeAnswer()

    return answer


@pytest.mark.parametrize("detail", ["proto: invalid value", "something else"])
@pytest.mark.parametrize("guilty", [0, 37, 99])
async def test_one_poisoned_event_costs_one_event(detail: str, guilty: int) -> None:
    client = FakeClient(poison(f"goal-{guilty}", detail=detail))
    async with Processor(client, ProcessorConfig(flush_size=100)) as processor:
        receipts = await push_many(processor, 100)
        is_named = detail.startswith("proto:")
        assert await processor.flush() is is_named
        assert processor.statistics().goal.delivered == 99
        assert len(client.batches) <= 16 + (not is_named)
        began = now()
        await anyio.sleep(1.0)
        await push_many(processor, 1)  # something accepted in between shows that the gateway is well
        outcome = await receipts[guilty].settled()

        assert outcome.fate is Fate.REJECTED
        assert outcome.message == detail
        assert is_named or 60.0 <= now() - began <= 120.0, "an event that is not named is refused alone three times"


async def test_a_server_that_refuses_everything_opens_the_circuit_and_loses_nothing() -> None:
    healthy = False

    async def broken(_events: Events) -> FakeAnswer:
        if not healthy:
            raise StatusError(400, code=3, detail="broken")
        return FakeAnswer()

    client = FakeClient(broken)
    async with Processor(client, ProcessorConfig(flush_size=100)) as processor:
        await push_many(processor, 400)
        await anyio.wait_all_tasks_blocked()
        assert len(client.batches) <= 64
        assert processor.statistics().circuit == "open"
        assert processor.statistics().goal.rejected == 0

        healthy = True
        await processor.flush()

    assert processor.statistics().goal.delivered == 400


@pytest.mark.parametrize(
    "error",
    [StatusError(413), StatusError(429, code=8, detail="grpc: received message larger than max (9 vs. 8)")],
    ids=["413", "429"],
)
async def test_too_large_batches_are_split_and_the_limit_is_learnt(error: StatusError) -> None:
    async def small_only(events: Events) -> FakeAnswer:
        if len(events) > 12:
            raise error
        return FakeAnswer()

    client = FakeClient(small_only)
    async with Processor(client, ProcessorConfig(flush_size=100)) as processor:
        await push_many(processor, 100)
        await processor.flush()
        posts = len(client.batches)
        await push_many(processor, 100)
        await processor.flush()

    assert processor.statistics().goal.delivered == 200
    assert max(client.sizes[posts:]) <= 12
    assert now() < 0.1


async def test_a_lone_event_that_is_too_large_is_rejected() -> None:
    client = FakeClient(lambda _: always(StatusError(413)))
    large = User("user-1", {"attribute": "x" * 70_000})
    async with Processor(client, ProcessorConfig(flush_size=4)) as processor:
        for _ in range(4):
            await processor.push_goal_event(large, "goal")
        await processor.flush()

        assert processor.statistics().goal.rejected == 4


async def test_a_server_that_finds_everything_too_large_is_waited_for() -> None:
    client = FakeClient(lambda _: always(StatusError(413)))
    async with Processor(client, ProcessorConfig(flush_size=100, drain_timeout=0.0)) as processor:
        await push_many(processor, 1_000)
        assert await processor.flush(5.0) is False
        assert processor.statistics().goal.rejected == 0
        assert len(client.batches) < 500  # jitter decides how many probes there are; one by one it would be 1 699

        client.script = accept
        await processor.flush()
        assert processor.statistics().goal.delivered == 1_000
        await push_many(processor, 2_000)
        await processor.flush()
        assert max(client.sizes[-5:]) >= 100, "what was learnt from it is forgotten"


async def test_small_events_that_are_too_large_are_rejected_once_others_are_taken() -> None:
    async def picky(events: Events) -> FakeAnswer:
        if any(event["event"]["userId"] == "large" for event in events):
            raise StatusError(413)
        return FakeAnswer()

    client = FakeClient(picky)
    async with Processor(client, ProcessorConfig(flush_size=10)) as processor:
        bad = [await processor.push_goal_event(User("large"), "goal") for _ in range(5)]
        good = await push_many(processor, 20)
        assert not await processor.flush()
        assert {receipt.outcome.fate for receipt in good} == {Fate.DELIVERED}

        assert {(await receipt.settled()).fate for receipt in bad} == {Fate.REJECTED}


async def test_what_is_left_of_a_batch_returns_to_the_queue_in_order() -> None:
    posts: list[list[int]] = []

    async def answer(events: Events) -> FakeAnswer:
        posts.append([int(event["event"]["goalId"]) for event in events])
        if posts[-1] == [2, 3]:
            raise StatusError(503, retry_after=1.0)
        if len(posts) < 6:
            raise StatusError(400, code=3, detail="broken")
        return FakeAnswer()

    config = ProcessorConfig(flush_size=8, max_batch_size=8)
    async with Processor(FakeClient(answer), config) as processor:
        for number in range(8):
            await processor.push_goal_event(USER, str(number))
        await processor.flush()

    assert posts[:6] == [
        [0, 1, 2, 3, 4, 5, 6, 7],
        [0, 1, 2, 3],
        [0, 1],
        [0],  # suspected, and so is the next one: the gateway has taken none yet
        [1],
        [2, 3],  # here posting stops
    ]
    (probe,) = posts[6]
    assert posts[7] == [number for number in range(2, 8) if number != probe]
    assert sorted(posts[8:]) == [[0], [1]]


@pytest.mark.parametrize("bad", [1, 3, 10, 40])
async def test_bad_events_at_the_head_hold_up_nothing(bad: int) -> None:
    async def picky(events: Events) -> FakeAnswer:
        if any(event["event"]["userId"] == "bad" for event in events):
            raise StatusError(400, code=3, detail="it is bad")
        return FakeAnswer()

    client = FakeClient(picky)
    async with Processor(client, ProcessorConfig(flush_size=100)) as processor:
        refused = [await processor.push_goal_event(User("bad"), "goal") for _ in range(bad)]
        await push_many(processor, 100 - bad)
        assert not await processor.flush(600.0)
        assert processor.statistics().goal.delivered == 100 - bad

        await anyio.sleep(1.0)
        await push_many(processor, 10)  # something accepted in between shows that the gateway is well
        assert {(await receipt.settled()).fate for receipt in refused} == {Fate.REJECTED}


async def test_events_past_their_lifetime_expire_and_no_others() -> None:
    client = FakeClient(lambda _: always(StatusError(503)))
    async with Processor(client, ProcessorConfig(event_lifetime=60.0, flush_size=5)) as processor:
        old = await push_many(processor, 5)
        await anyio.sleep(50)
        young = await push_many(processor, 5)
        await anyio.sleep(10.5)
        client.script = accept
        await processor.flush()

    assert {receipt.outcome.reason for receipt in old} == {DroppedReason.EXPIRED}
    assert {receipt.outcome.fate for receipt in young} == {Fate.DELIVERED}


async def test_an_event_that_is_retriable_for_ever_expires_and_holds_nobody_up() -> None:
    stubborn: list[str] = []

    async def never_that_one(events: Events) -> FakeAnswer:
        if not stubborn:
            stubborn.append(events[0]["id"])
        return FakeAnswer({each: FakeEventError(retriable=True) for each in stubborn})

    client = FakeClient(never_that_one)
    async with Processor(client, ProcessorConfig(event_lifetime=600.0, flush_size=2, num_flush_workers=1)) as processor:
        first = await push_many(processor, 2)
        later = await push_many(processor, 100)
        assert await processor.flush(599.0) is False
        assert all(receipt.outcome.fate is Fate.DELIVERED for receipt in later)
        assert await processor.flush(2.0)

    assert first[0].outcome.reason == DroppedReason.EXPIRED


async def test_a_bug_in_a_flush_task_loses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    calls = 0

    async def buggy(_events: Events) -> FakeAnswer:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("a bug")
        return FakeAnswer()

    client = FakeClient(buggy)
    async with Processor(client, ProcessorConfig(flush_size=10)) as processor:
        await push_many(processor, 10)
        await processor.flush()

        assert processor.statistics().goal.delivered == 10
    assert "a bug in a flush task" in caplog.text


async def test_a_bug_after_the_answer_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    bugs = [RuntimeError("a bug")]

    def compare(*_: object) -> None:
        if bugs:
            raise bugs.pop()

    monkeypatch.setattr(Delivery, "_compare_clocks", compare)
    client = FakeClient(answers(FakeAnswer(server_time=0.0)))
    async with Processor(client, ProcessorConfig(flush_size=10)) as processor:
        receipts = await push_many(processor, 10)
        await processor.flush()

        assert bugs == []
        assert {receipt.outcome.fate for receipt in receipts} == {Fate.DELIVERED}
        assert processor.statistics().goal.in_flight == 0


@pytest.mark.parametrize("error", [RuntimeError, SystemExit, asyncio.CancelledError])
async def test_a_log_filter_that_raises_loses_nothing(error: type[BaseException]) -> None:
    logger = failing_logger(error)
    async with Processor(
        FakeClient(answers(StatusError(400, code=3, detail="proto: bad"))), ProcessorConfig(logger=logger)
    ) as processor:
        receipts = await push_many(processor, 1)
        await processor.flush()

        assert receipts[0].outcome.fate is Fate.REJECTED
        assert processor.statistics().goal.in_flight == 0


@pytest.mark.parametrize("error", [RuntimeError, SystemExit, asyncio.CancelledError])
async def test_a_log_filter_that_raises_ends_no_task(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    bugs = [RuntimeError("in a flush task"), RuntimeError("in the collector")]

    def buggy(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            if bugs:
                raise bugs.pop()
            return method(*args)

        return call

    monkeypatch.setattr(Collector, "_pause", buggy(Collector._pause))
    monkeypatch.setattr(Delivery, "_compare_clocks", buggy(Delivery._compare_clocks))
    config = ProcessorConfig(num_flush_workers=1, drain_timeout=60.0, logger=failing_logger(error))
    async with Processor(FakeClient(answers(FakeAnswer(server_time=0.0))), config) as processor:
        receipts = await push_many(processor, 10)

    assert bugs == []
    assert {receipt.outcome.fate for receipt in receipts} == {Fate.DELIVERED}


async def test_a_finalizer_that_pushes_amid_a_push_is_no_deadlock() -> None:
    async with Processor(FakeClient()) as processor:
        ledger = processor._pipeline.ledger
        with ledger.lock:
            receipt = processor.push_goal_event_nowait(USER, "goal")
        await processor.flush()

        assert receipt.outcome.fate is Fate.DELIVERED


# Bounds


async def test_drop_newest_refuses_the_new_event() -> None:
    client = FakeClient(hang)
    config = ProcessorConfig(queue_capacity=10, flush_size=10, drain_timeout=0.0)
    async with Processor(client, config) as processor:
        receipts = await push_many(processor, 12)

        assert [receipt.accepted for receipt in receipts] == [True] * 10 + [False] * 2
        assert receipts[-1].outcome.reason == RefusedReason.QUEUE_FULL
        assert receipts[-1].event_id == ""
        assert await receipts[-1].settled() is receipts[-1].outcome
        assert_conserved(processor)


async def test_drop_oldest_gives_up_the_oldest_queued_event() -> None:
    client = FakeClient(lambda _: always(StatusError(503)))
    config = ProcessorConfig(queue_capacity=10, flush_size=10, overflow="drop_oldest", drain_timeout=0.0)
    async with Processor(client, config) as processor:
        receipts = await push_many(processor, 10)
        await anyio.wait_all_tasks_blocked()
        receipts += await push_many(processor, 2)

        assert [receipt.accepted for receipt in receipts] == [True] * 12
        assert {receipt.outcome.reason for receipt in receipts[:2]} == {DroppedReason.DISPLACED}
        assert await receipts[0].settled() is receipts[0].outcome
        assert receipts[2].outcome is None
        assert_conserved(processor)


async def test_drop_oldest_refuses_when_everything_is_on_the_way() -> None:
    client = FakeClient(hang)
    config = ProcessorConfig(queue_capacity=10, flush_size=10, overflow="drop_oldest", drain_timeout=0.0)
    async with Processor(client, config) as processor:
        await push_many(processor, 10)
        await anyio.wait_all_tasks_blocked()

        receipt = await processor.push_goal_event(USER, "goal")

        assert receipt.outcome is not None
        assert receipt.outcome.reason == RefusedReason.QUEUE_FULL


async def test_wait_makes_an_awaited_push_wait_for_room_and_a_nowait_push_fail() -> None:
    release = asyncio.Event()

    async def gated(_events: Events) -> FakeAnswer:
        await release.wait()
        return FakeAnswer()

    client = FakeClient(gated)
    config = ProcessorConfig(queue_capacity=10, flush_size=10, overflow="wait")
    async with Processor(client, config) as processor, anyio.create_task_group() as tasks:
        await push_many(processor, 10)
        tasks.start_soon(push_many, processor, 25)
        await anyio.wait_all_tasks_blocked()
        assert processor.statistics().goal.accepted == 10
        assert not processor.push_goal_event_nowait(USER, "goal").accepted

        release.set()

    assert processor.statistics().goal.delivered == 35


async def test_waiting_pushes_are_woken_as_there_is_room_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = 0
    try_admit = Intake.try_admit

    def counted(intake: Intake, kind: EventKind, body: bytes) -> Receipt | None:
        nonlocal attempts
        attempts += 1
        return try_admit(intake, kind, body)

    async def briskly(_events: Events) -> FakeAnswer:
        await asyncio.sleep(0.01)
        return FakeAnswer()

    monkeypatch.setattr(Intake, "try_admit", counted)
    config = ProcessorConfig(queue_capacity=100, flush_size=10, max_batch_size=10, overflow="wait")
    async with Processor(FakeClient(briskly), config) as processor:
        pushes = [asyncio.create_task(processor.push_goal_event(USER, "goal")) for _ in range(3_000)]
        await asyncio.sleep(0.05)
        for push in pushes[500:2_500:3]:
            push.cancel()
        done = await asyncio.gather(*pushes, return_exceptions=True)
        await processor.flush()

        accepted = [receipt for receipt in done if isinstance(receipt, Receipt)]
        assert len(accepted) >= 3_000 - 667
        assert processor.statistics().goal.delivered == len(accepted)
    assert attempts < 10_000, "not everybody is woken for every place"


async def test_a_cancelled_wait_pushes_nothing() -> None:
    client = FakeClient(hang)
    config = ProcessorConfig(queue_capacity=10, flush_size=10, overflow="wait", drain_timeout=0.0)
    async with Processor(client, config) as processor:
        await push_many(processor, 10)
        with anyio.move_on_after(5):
            await processor.push_goal_event(USER, "goal")

        assert processor.statistics().goal.pushed == 10


@pytest.mark.parametrize("turns", range(10))
async def test_a_push_that_is_cancelled_before_it_takes_its_room_leaves_it_to_the_next(turns: int) -> None:
    full = asyncio.Event()

    async def gated(_events: Events) -> FakeAnswer:
        await full.wait()
        return FakeAnswer()

    config = ProcessorConfig(queue_capacity=1, flush_size=1, overflow="wait")
    async with Processor(FakeClient(gated), config) as processor:
        await processor.push_goal_event(USER, "goal")
        first, second = (asyncio.create_task(processor.push_goal_event(USER, "goal")) for _ in range(2))
        await anyio.wait_all_tasks_blocked()
        full.set()
        for _ in range(turns):  # in one case the first push was woken, and has not run yet
            await checkpoint()
        first.cancel()

        async with asyncio.timeout(1.0):
            assert (await second).accepted


async def test_waiting_pushes_are_refused_when_closing_begins() -> None:
    client = FakeClient(hang)
    config = ProcessorConfig(queue_capacity=10, flush_size=10, overflow="wait", drain_timeout=1.0)
    processor = Processor(client, config)
    await processor.start()
    await push_many(processor, 10)
    waiting = asyncio.create_task(processor.push_goal_event(USER, "goal"))
    await anyio.wait_all_tasks_blocked()

    await processor.aclose()

    receipt = await waiting
    assert receipt.outcome is not None
    assert receipt.outcome.reason == RefusedReason.NOT_RUNNING


async def test_the_byte_bound_holds() -> None:
    client = FakeClient(hang)
    config = ProcessorConfig(queue_max_bytes=4096, flush_max_bytes=4096, flush_size=100, drain_timeout=0.0)
    async with Processor(client, config) as processor:
        receipts = await push_many(processor, 50)

        assert processor.statistics().held_bytes <= 4096
        assert [receipt.accepted for receipt in receipts].count(False) > 0
        assert_conserved(processor)


async def test_metrics_events_give_way_above_90_percent() -> None:
    client = FakeClient(hang)
    config = ProcessorConfig(queue_capacity=100, flush_size=100, drain_timeout=0.0)
    async with Processor(client, config) as processor:
        await push_many(processor, 90)

        refused = await processor.push_internal_error_count_metrics_event()
        accepted = await processor.push_goal_event(USER, "goal")

        assert refused.outcome is not None
        assert refused.outcome.reason == RefusedReason.METRICS_YIELD
        assert accepted.accepted


async def test_an_empty_queue_has_room_for_a_metrics_event_however_small_it_is() -> None:
    client = FakeClient()
    async with Processor(client, ProcessorConfig(queue_capacity=1, flush_size=1)) as processor:
        first = await processor.push_internal_error_count_metrics_event()
        second = await processor.push_internal_error_count_metrics_event()

        assert (await first.settled()).fate is Fate.DELIVERED
        assert second.outcome is not None
        assert second.outcome.reason == RefusedReason.METRICS_YIELD


async def test_the_largest_bounds_work() -> None:
    config = ProcessorConfig(queue_capacity=10**7, queue_max_bytes=2**40, num_flush_workers=1000)
    async with Processor(FakeClient(), config) as processor:
        receipt = await processor.push_goal_event(USER, "goal")

    assert (await receipt.settled()).fate is Fate.DELIVERED


async def test_a_tight_loop_of_pushes_lets_the_loop_turn() -> None:
    turns = 0

    def count() -> None:
        nonlocal turns
        turns += 1
        loop.call_soon(count)

    loop = asyncio.get_running_loop()
    client = FakeClient()
    async with Processor(client) as processor:
        loop.call_soon(count)
        await push_many(processor, 1000)
        in_loop = turns
        loop.call_soon = lambda *_args, **_kwargs: None  # type: ignore[method-assign, assignment]
        del loop.call_soon

    assert in_loop >= 10


async def test_a_tight_loop_of_pushes_does_not_overflow_a_healthy_backend() -> None:
    async def briskly(_events: Events) -> FakeAnswer:
        await anyio.sleep(0.01)
        return FakeAnswer()

    client = FakeClient(briskly)
    async with Processor(client, ProcessorConfig(queue_capacity=1000, num_flush_workers=2)) as processor:
        await push_many(processor, 10_000)
        await processor.flush()

        assert processor.statistics().goal.delivered == 10_000


# Lifecycle


async def test_pushes_before_start_and_after_close_are_refused() -> None:
    processor = Processor(FakeClient())
    before = await processor.push_goal_event(USER, "goal")
    await processor.start()
    await processor.start()
    await processor.aclose()
    after = processor.push_goal_event_nowait(USER, "goal")

    for receipt in (before, after):
        assert receipt.outcome is not None
        assert receipt.outcome.reason == RefusedReason.NOT_RUNNING
    assert processor.statistics().goal.pushed == 2
    with pytest.raises(ClosedError):
        await processor.start()


async def test_flush_says_closed_before_start_and_true_after_close() -> None:
    processor = Processor(FakeClient())
    with pytest.raises(ClosedError):
        await processor.flush()

    await processor.start()
    await processor.aclose()

    assert await processor.flush()


async def test_close_before_start_gives_an_empty_report() -> None:
    processor = Processor(FakeClient())

    report = await processor.aclose()

    assert report.complete
    assert report is await processor.aclose()
    with pytest.raises(ClosedError):
        await processor.start()


async def test_close_delivers_everything_accepted() -> None:
    client = FakeClient()
    processor = Processor(client)
    await processor.start()
    receipts = await push_many(processor, 1234)

    report = await processor.aclose()

    assert report.goal.delivered == report.total.delivered
    assert report.complete
    report.raise_for_undelivered()
    assert set(client.taken) == {receipt.event_id for receipt in receipts}
    assert client.leases[0].released


async def test_start_and_close_come_from_different_finished_tasks() -> None:
    client = FakeClient()
    processor = Processor(client)
    await asyncio.create_task(processor.start())
    await asyncio.create_task(push_many(processor, 10))

    report = await asyncio.create_task(processor.aclose())

    assert report.goal.delivered == 10


async def test_fifty_closers_share_one_drain() -> None:
    client = FakeClient()
    processor = Processor(client)
    await processor.start()
    await push_many(processor, 10)

    reports = await asyncio.gather(*[processor.aclose() for _ in range(50)])

    assert len({id(report) for report in reports}) == 1
    assert client.sizes == [10]


async def test_a_cancelled_closer_stops_waiting_and_the_drain_goes_on() -> None:
    async def slowly(_events: Events) -> FakeAnswer:
        await anyio.sleep(5)
        return FakeAnswer()

    processor = Processor(FakeClient(slowly))
    await processor.start()
    await push_many(processor, 10)
    with anyio.move_on_after(1):
        await processor.aclose()
    assert now() == pytest.approx(1)

    report = await processor.aclose()

    assert report.goal.delivered == 10


async def test_a_natively_cancelled_closer_stops_waiting_and_the_drain_goes_on() -> None:
    async def slowly(_events: Events) -> FakeAnswer:
        await anyio.sleep(5)
        return FakeAnswer()

    processor = Processor(FakeClient(slowly))
    await processor.start()
    await push_many(processor, 10)
    closer = asyncio.create_task(processor.aclose())
    await anyio.wait_all_tasks_blocked()
    closer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closer

    assert (await processor.aclose()).goal.delivered == 10


async def test_the_drain_ends_at_its_deadline_and_says_what_is_left(caplog: pytest.LogCaptureFixture) -> None:
    client = FakeClient(hang)
    config = ProcessorConfig(flush_size=10, max_batch_size=10, num_flush_workers=2, drain_timeout=10.0)
    processor = Processor(client, config)
    await processor.start()
    receipts = await push_many(processor, 50)

    report = await processor.aclose(2.0)

    assert now() == pytest.approx(2.0, abs=0.25)
    assert report.goal.unconfirmed == 20
    assert report.goal.undelivered == 30
    assert report.duration == pytest.approx(2.0)
    assert not report.complete
    with pytest.raises(UndeliveredError, match="30 events were not delivered and 20 not confirmed"):
        report.raise_for_undelivered()
    assert {receipt.outcome.reason for receipt in receipts} == {"undelivered", "unconfirmed"}
    assert len([record for record in caplog.records if "30 not delivered" in record.getMessage()]) == 1
    assert_conserved(processor)


async def test_a_later_closer_can_only_shorten_the_drain() -> None:
    processor = Processor(FakeClient(hang), ProcessorConfig(flush_size=1, drain_timeout=10.0))
    await processor.start()
    await push_many(processor, 1)
    first = asyncio.create_task(processor.aclose())
    await anyio.sleep(1)

    await processor.aclose(None)

    assert now() == pytest.approx(10.0, abs=0.25)
    assert (await first) is await processor.aclose(5.0)


@pytest.mark.parametrize("timeout", [0, -1.5, -(10**400)], ids=["0", "-1.5", "-10**400"])
async def test_close_with_no_time_left_is_immediate(timeout: float) -> None:
    processor = Processor(FakeClient(hang), ProcessorConfig(flush_size=1))
    await processor.start()
    await push_many(processor, 5000)

    report = await processor.aclose(timeout)

    assert now() <= 0.05
    assert report.total.undelivered + report.total.unconfirmed == 5000


@pytest.mark.parametrize("timeout", ["1", True, math.nan, [1]], ids=repr)
async def test_a_wrong_timeout_is_refused_before_anything_happens(timeout: Any) -> None:
    async with Processor(FakeClient()) as processor:
        for call in (processor.aclose, processor.flush):
            with pytest.raises((TypeError, ValueError), match="timeout must be a number of seconds or None, not "):
                await call(timeout)

        assert (await processor.push_goal_event(USER, "goal")).accepted
        assert await processor.flush()


@pytest.mark.parametrize("timeout", [math.inf, 10**400, None, ...], ids=["inf", "10**400", "None", "..."])
async def test_an_endless_timeout_leaves_the_drain_its_own(timeout: Any) -> None:
    processor = Processor(FakeClient(hang), ProcessorConfig(flush_size=1, drain_timeout=10.0))
    await processor.start()
    await push_many(processor, 1)

    report = await processor.aclose(timeout)

    assert report.total.unconfirmed == 1
    assert now() == pytest.approx(10.0, abs=0.1)


async def cancel_all(before: set[asyncio.Task[Any]]) -> None:
    """Cancel all tasks but those from before, as code that ends a loop does; let a second pass."""
    for task in asyncio.all_tasks() - before:
        task.cancel()
    await anyio.sleep(1)


@pytest.mark.parametrize("times", [1, 2, 5])
async def test_a_drain_whose_tasks_are_cancelled_again_and_again_delivers(times: int) -> None:
    before = asyncio.all_tasks()
    client = FakeClient(lambda _: always(StatusError(503)))
    processor = Processor(client, ProcessorConfig(flush_size=10, drain_timeout=20.0))
    await processor.start()
    receipts = await push_many(processor, 25)
    for _ in range(times):
        await cancel_all(before)
    client.script = accept
    report = await processor.aclose()

    assert {receipt.outcome.fate for receipt in receipts} == {Fate.DELIVERED}
    assert report.total.delivered == 25
    assert now() <= times + 2
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("times", [1, 2, 5])
async def test_a_drain_whose_tasks_are_cancelled_again_and_again_keeps_its_deadline(times: int) -> None:
    before = asyncio.all_tasks()
    processor = Processor(FakeClient(hang), ProcessorConfig(flush_size=10, drain_timeout=20.0))
    await processor.start()
    await push_many(processor, 25)
    for _ in range(times):
        await cancel_all(before)
    report = await processor.aclose()

    assert now() == pytest.approx(20.0, abs=0.1)
    assert (report.total.unconfirmed, report.total.undelivered) == (25, 0)
    assert asyncio.all_tasks() == before


async def test_a_bug_at_the_end_of_a_drain_lets_the_connections_go(monkeypatch: pytest.MonkeyPatch) -> None:
    def buggy(*_: object) -> DrainReport:
        raise RuntimeError("a bug")

    client = FakeClient()
    processor = Processor(client)
    await processor.start()
    monkeypatch.setattr("bucketeer_async._events._pipeline.drain_report", buggy)

    with pytest.raises(RuntimeError, match="a bug"):
        await processor.aclose()
    assert client.leases[0].released
    assert processor._pipeline.life.state is State.CLOSED


async def test_close_during_an_outage_tries_at_once_and_then_every_second() -> None:
    client = FakeClient(lambda _: always(StatusError(503)))
    processor = Processor(client, ProcessorConfig(flush_size=10, drain_timeout=10.0, retry=RetryPolicy(initial=30.0)))
    await processor.start()
    await push_many(processor, 10)
    await anyio.sleep(0.0)
    await anyio.sleep(0.0)
    posts = len(client.batches)
    assert posts <= 2  # the batch, and the check that one other event is not taken either

    report = await processor.aclose()

    assert client.post_times[posts] < 0.001
    assert report.goal.undelivered == 10
    assert len(client.batches) >= posts + 10


async def test_a_retry_after_beyond_the_deadline_ends_the_drain_early() -> None:
    client = FakeClient(answers(StatusError(429, retry_after=300.0)))
    processor = Processor(client, ProcessorConfig(flush_size=1, drain_timeout=10.0))
    await processor.start()
    await push_many(processor, 1)
    await anyio.wait_all_tasks_blocked()

    report = await processor.aclose()

    assert now() < 1.0
    assert report.goal.undelivered == 1


async def test_a_body_that_raised_keeps_its_exception_and_the_drain_runs() -> None:
    client = FakeClient()

    with pytest.raises(ValueError, match=r"^mine$"):  # noqa: PT012 - the body is the point
        async with Processor(client) as processor:
            await push_many(processor, 10)
            raise ValueError("mine")

    assert len(client.taken) == 10


async def test_a_client_that_cannot_start_raises_at_start_and_leaves_nothing() -> None:
    class Broken(FakeClient):
        async def start(self) -> None:
            raise ConfigurationError("no TLS here")

    processor = Processor(Broken())

    with pytest.raises(ConfigurationError, match="no TLS here"):
        await processor.start()

    assert (await processor.aclose()).complete
    assert not processor.push_goal_event_nowait(USER, "goal").accepted


async def test_a_start_that_is_cancelled_leaves_nothing_behind() -> None:
    class Slow(FakeClient):
        async def start(self) -> None:
            await anyio.sleep(1)

    before = asyncio.all_tasks()
    client = Slow()
    processor = Processor(client)
    with anyio.move_on_after(0.5):
        await processor.start()
    receipt = processor.push_goal_event_nowait(USER, "goal")
    await anyio.sleep(1)

    assert asyncio.all_tasks() == before
    assert [lease.released for lease in client.leases] == [True]
    assert receipt.outcome is not None
    assert receipt.outcome.reason == RefusedReason.NOT_RUNNING
    with pytest.raises(ClosedError):
        await processor.start()
    assert (await processor.aclose()).complete


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["real-time"])
async def test_a_start_that_is_cancelled_leaves_no_thread_behind(tmp_path: Path) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    class Slow(FakeClient):
        async def start(self) -> None:
            begun.set()
            await go_on.wait()

    tasks, earlier = asyncio.all_tasks(), threads()
    processor = Processor(Slow(), ProcessorConfig(spool=Spool(tmp_path, durable=True), on_drop=lambda _: None))
    starting = asyncio.create_task(processor.start())
    await begun.wait()
    starting.cancel()
    await asyncio.wait([starting])
    receipt = processor.push_goal_event_nowait(USER, "goal")  # refused: on_drop is called with it, on a thread
    started = threads() - earlier
    go_on.set()

    async with asyncio.timeout(20):
        while asyncio.all_tasks() != tasks or threads() - earlier:  # noqa: ASYNC110 - a thread ends without a word
            await asyncio.sleep(0.001)
    assert starting.cancelled()
    assert not receipt.accepted
    assert len(started) == 2


def threads() -> set[threading.Thread]:
    """Return the running threads, except for those of the loop's executor."""
    return {thread for thread in threading.enumerate() if not thread.name.startswith("asyncio_")}


async def test_a_receipt_tells_the_outcome_to_everybody_who_waits() -> None:
    client = FakeClient()
    async with Processor(client, ProcessorConfig(flush_interval=1.0)) as processor:
        receipt = await processor.push_goal_event(USER, "goal")
        assert receipt.outcome is None
        assert receipt.accepted

        outcomes = await asyncio.gather(receipt.settled(), receipt.settled())

        assert {outcome.fate for outcome in outcomes} == {Fate.DELIVERED}
        assert receipt._body == f'{{"id":"{receipt.event_id}'.encode()  # only the id is kept
        assert re.fullmatch(r"<Receipt goal [0-9a-f-]{36} delivered>", repr(receipt))


async def test_flush_counts_only_what_was_accepted_before_it() -> None:
    client = FakeClient()
    async with Processor(client) as processor:
        await push_many(processor, 5)
        flushing = asyncio.create_task(processor.flush())
        await checkpoint()
        await push_many(processor, 1)

        assert await flushing
        assert processor.statistics().goal.delivered >= 5


async def test_flush_does_not_count_later_events_for_earlier_ones() -> None:
    first: list[str] = []

    async def not_the_first(events: Events) -> FakeAnswer:
        if not first:
            first.append(events[0]["id"])
        held = now() < 20 and first[0] in {event["id"] for event in events}
        return FakeAnswer({first[0]: FakeEventError(retriable=True)} if held else {})

    client = FakeClient(not_the_first)
    async with Processor(client, ProcessorConfig(flush_size=1)) as processor:
        await push_many(processor, 1)
        await anyio.sleep(0.001)
        flushing = asyncio.create_task(processor.flush())
        await anyio.sleep(0.001)
        await push_many(processor, 10)
        await anyio.sleep(5)
        assert processor.statistics().goal.delivered == 10
        assert not flushing.done()

        assert await flushing
        assert now() >= 20


async def test_a_retriable_event_does_not_wait_for_the_interval_again() -> None:
    client = FakeClient()

    async def once(events: Events) -> FakeAnswer:
        again = {events[0]["id"]: FakeEventError(retriable=True)} if len(client.batches) == 1 else {}
        return FakeAnswer(again)

    client.script = once
    async with Processor(client, ProcessorConfig(flush_size=2, flush_interval=300.0)) as processor:
        receipts = await push_many(processor, 2)
        await receipts[0].settled()

    assert now() < 1.0


async def test_events_keep_their_order_over_an_outage() -> None:
    client = FakeClient(answers(StatusError(503), StatusError(503)))
    async with Processor(client, ProcessorConfig(flush_size=10, max_batch_size=10, num_flush_workers=1)) as processor:
        receipts = await push_many(processor, 30)
        await processor.flush()

    (probe, *others) = client.batches[2:]
    delivered = [event["id"] for batch in others for event in batch]
    assert len(probe) == 1
    assert delivered == [each.event_id for each in receipts if each.event_id != probe[0]["id"]]


async def test_waiting_for_room_does_not_wait_for_the_interval() -> None:
    client = FakeClient()
    config = ProcessorConfig(overflow="wait", queue_max_bytes=2000, flush_max_bytes=2000, flush_interval=300.0)
    async with Processor(client, config) as processor:
        await push_many(processor, 50)

        assert now() < 1.0


async def test_flush_says_false_when_the_time_runs_out() -> None:
    async with Processor(FakeClient(hang), ProcessorConfig(drain_timeout=0.0)) as processor:
        await push_many(processor, 1)

        assert await processor.flush(3.0) is False
        assert now() == pytest.approx(3.0)


# Input


async def test_bad_input_is_refused_and_counted() -> None:
    async with Processor(FakeClient()) as processor:
        receipts = [
            await processor.push_goal_event(USER, ""),
            await processor.push_goal_event(USER, "\ud800"),
            await processor.push_goal_event(USER, "goal", float("nan")),
            await processor.push_goal_event(USER, "goal", float("inf")),
            await processor.push_goal_event(USER, "goal", 10**400),
            await processor.push_goal_event(USER, "goal", Fraction(10**400)),
            await processor.push_goal_event(None, "goal"),  # type: ignore[arg-type]
            await processor.push_goal_event(USER, b"goal"),  # type: ignore[arg-type]
        ]

        assert all(receipt.outcome.reason == RefusedReason.INVALID for receipt in receipts if receipt.outcome)
        assert all(receipt.outcome and receipt.outcome.message for receipt in receipts)
        assert processor.statistics().goal.refused_by == {RefusedReason.INVALID: 8}


async def test_strict_raises_for_bad_input() -> None:
    async with Processor(FakeClient(), ProcessorConfig(strict=True, flush_max_bytes=1024)) as processor:
        with pytest.raises(ValueError, match="goal_id must not be empty"):
            await processor.push_goal_event(USER, "")
        with pytest.raises(ValueError, match="value must be finite and fit into a double"):
            await processor.push_goal_event(USER, "goal", Fraction(10**400))
        with pytest.raises(ValueError, match="flush_max_bytes"):
            processor.push_goal_event_nowait(User("u", {"big": "x" * 2000}), "goal")

        assert processor.statistics().total.pushed == 0


async def test_an_event_over_the_size_of_a_batch_is_refused() -> None:
    async with Processor(FakeClient(), ProcessorConfig(flush_max_bytes=1024)) as processor:
        receipt = await processor.push_goal_event(User("u", {"big": "x" * 2000}), "goal")

        assert receipt.outcome is not None
        assert receipt.outcome.reason == RefusedReason.TOO_LARGE


async def test_an_error_without_a_metrics_message_is_refused_also_when_strict() -> None:
    async with Processor(FakeClient(), ProcessorConfig(strict=True)) as processor:
        receipt = await processor.push_error_metrics_event(StatusError(401), ApiId.GET_EVALUATION)

        assert receipt.outcome is not None
        assert receipt.outcome.reason == RefusedReason.UNREPORTED


def test_a_config_of_the_wrong_type_is_told() -> None:
    with pytest.raises(ConfigurationError, match="api_client must be an ApiClient, not 'api'"):
        Processor("api")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"config must be a ProcessorConfig, not \{\}"):
        Processor(FakeClient(), {})  # type: ignore[arg-type]


# Event loops


def test_another_loop_gets_a_wrong_loop_error() -> None:
    processor = Processor(FakeClient())

    async def first() -> Any:
        await processor.start()
        receipt = await processor.push_goal_event(USER, "goal")
        with pytest.raises(WrongLoopError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, elsewhere(receipt))
        await processor.aclose()

    async def elsewhere(receipt: Any) -> None:
        assert processor.push_goal_event_nowait(USER, "goal").accepted
        for call in (processor.start, processor.flush, processor.aclose):
            with pytest.raises(WrongLoopError):
                await call()
        with pytest.raises(WrongLoopError):
            await processor.push_goal_event(USER, "goal")
        await receipt.settled()

    asyncio.run(first())
    assert processor.statistics().goal.delivered == 2


def test_a_forgotten_close_is_drained_when_the_loop_shuts_down() -> None:
    client = FakeClient()
    processor = Processor(client)

    async def main() -> None:
        await processor.start()
        await push_many(processor, 10)

    asyncio.run(main())

    assert len(client.taken) == 10
    assert processor.statistics().goal.delivered == 10


def test_a_forgotten_close_with_a_post_under_way_is_drained_too() -> None:
    async def slowly(_events: Events) -> FakeAnswer:
        await asyncio.sleep(0.05)
        return FakeAnswer()

    client = FakeClient(slowly)
    processor = Processor(client, ProcessorConfig(flush_size=5))

    async def main() -> None:
        await processor.start()
        await push_many(processor, 13)
        await asyncio.sleep(0.01)

    asyncio.run(main())

    assert processor.statistics().goal.delivered == 13
    assert_conserved(processor)


def test_events_in_flight_are_abandoned_with_the_others_and_told() -> None:
    heard: list[Drop] = []
    told = threading.Event()

    def on_drop(drop: Drop) -> None:
        heard.append(drop)
        if len(heard) == 15:
            told.set()

    async def live() -> tuple[Processor, list[Receipt]]:
        processor = Processor(FakeClient(hang), ProcessorConfig(flush_size=10, on_drop=on_drop))
        await processor.start()
        receipts = await push_many(processor, 10)
        await asyncio.sleep(0.01)
        receipts += await push_many(processor, 5)
        left_behind.extend(asyncio.all_tasks())
        assert processor.statistics().goal.in_flight == 10
        return processor, receipts

    left_behind: list[asyncio.Task[Any]] = []
    loop = asyncio.new_event_loop()
    processor, receipts = loop.run_until_complete(live())
    loop.close()
    with pytest.warns(ResourceWarning, match="15 events were abandoned"):
        all_statistics = processor.statistics()
    statistics = all_statistics.goal

    assert (all_statistics.posts, all_statistics.posted_events, all_statistics.held_bytes) == (1, 10, 0)
    assert {receipt.outcome.reason for receipt in receipts if receipt.outcome} == {DroppedReason.ABANDONED}
    assert all(receipt.outcome for receipt in receipts)
    assert statistics.dropped_by == {DroppedReason.ABANDONED: 15}
    assert (statistics.queued, statistics.in_flight) == (0, 0)
    assert told.wait(10)
    for task in left_behind:
        task._log_destroy_pending = False  # type: ignore[attr-defined]


def test_a_loop_that_is_closed_under_the_processor_abandons_its_events() -> None:
    loop = asyncio.new_event_loop()
    processor = Processor(FakeClient())
    loop.run_until_complete(processor.start())
    receipt = loop.run_until_complete(processor.push_goal_event(USER, "goal"))
    tasks = asyncio.all_tasks(loop)
    loop.close()

    assert not processor.push_goal_event_nowait(USER, "goal").accepted
    with pytest.warns(ResourceWarning, match="1 events were abandoned"):
        statistics = processor.statistics()

    assert statistics.goal.dropped_by == {DroppedReason.ABANDONED: 1}
    assert receipt.outcome is not None
    for task in tasks:  # silenced: the task of a closed loop can never end
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    del tasks, processor
    gc.collect()
