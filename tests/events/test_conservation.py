"""Conservation, after every step of random schedules: push, wait, fail, flush, close, from several sides."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest import mock

import anyio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bucketeer_async import (
    ApiError,
    ConnectionFailedError,
    DecodeError,
    DroppedReason,
    Evaluation,
    Fate,
    Processor,
    ProcessorConfig,
    Reason,
    ReasonType,
    Receipt,
    RequestTimeoutError,
    StatusError,
    User,
)
from bucketeer_async._events import _pipeline
from bucketeer_async._events._batch import Batch, Delivery
from tests.clock import VirtualLoop
from tests.fakes import FakeAnswer, FakeClient, FakeEventError

USER = User("user")
EVALUATION = Evaluation(feature_id="flag", variation_id="on", reason=Reason(ReasonType.DEFAULT))
FAILURES: list[ApiError] = [
    StatusError(503),
    StatusError(400, code=3, detail="proto: no"),
    StatusError(400, code=3, detail="no"),
    StatusError(413),
    StatusError(429, retry_after=3.0),
    StatusError(401),
    RequestTimeoutError("slow"),
    ConnectionFailedError("refused", maybe_sent=False),
    ConnectionFailedError("reset", stale=True),
    DecodeError("HTML"),
]


class WatchedDelivery(Delivery):
    """Notes when a batch is put into the queue for which no flush task is free."""

    delivering = 0
    is_watched = False
    waits = 0

    async def flush_batches(self, batches: asyncio.Queue[Batch]) -> None:
        put = batches.put_nowait

        def watched(batch: Batch) -> None:
            put(batch)
            self.waits += batches.qsize() > self._config.num_flush_workers - self.delivering

        if not self.is_watched:
            self.is_watched = True
            batches.put_nowait = watched  # type: ignore[method-assign]
        await super().flush_batches(batches)

    async def _deliver(self, batch: Batch) -> None:
        self.delivering += 1
        try:
            await super()._deliver(batch)
        finally:
            self.delivering -= 1


class ProcessorMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.mood: Any = "well"
        self.client = FakeClient(self.answer)
        self.receipts: list[Receipt] = []
        self.waiting: list[asyncio.Task[Receipt]] = []
        self.closing: asyncio.Task[Any] | None = None
        self.processor: Processor | None = None

    async def answer(self, events: list[dict[str, Any]]) -> FakeAnswer:
        mood = self.mood
        await asyncio.sleep(0.01)
        if isinstance(mood, ApiError):
            raise mood
        if mood == "hang":
            await asyncio.sleep(1000)
        if mood == "partial":
            ids = [event["id"] for event in events]
            errors = {each: FakeEventError(retriable=True) for each in ids[::3]}
            return FakeAnswer(errors | {each: FakeEventError(retriable=False) for each in ids[1::3]})
        return FakeAnswer()

    def run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)

    @precondition(lambda self: self.processor is None)
    @rule(
        overflow=st.sampled_from(["drop_newest", "drop_oldest", "wait"]),
        capacity=st.integers(5, 40),
        workers=st.integers(1, 4),
    )
    def start(self, overflow: Any, capacity: int, workers: int) -> None:
        config = ProcessorConfig(
            overflow=overflow,
            queue_capacity=capacity,
            flush_size=5,
            max_batch_size=8,
            num_flush_workers=workers,
            flush_interval=2.0,
            event_lifetime=30.0,
            drain_timeout=5.0,
        )
        self.overflow = overflow
        self.processor = Processor(self.client, config)
        with mock.patch.object(_pipeline, "Delivery", WatchedDelivery):
            self.run(self.processor.start())

    @precondition(lambda self: self.processor)
    @rule(count=st.integers(1, 12), kind=st.sampled_from(["goal", "evaluation", "metrics", "bad"]))
    def push(self, count: int, kind: str) -> None:
        assert self.processor is not None
        for _ in range(count):
            match kind:
                case "goal":
                    self.receipts.append(self.processor.push_goal_event_nowait(USER, "goal"))
                case "evaluation":
                    self.receipts.append(self.processor.push_evaluation_event_nowait(USER, EVALUATION))
                case "metrics":
                    self.receipts.append(self.processor.push_internal_error_count_metrics_event_nowait())
                case _:
                    self.receipts.append(self.processor.push_goal_event_nowait(USER, ""))

    @precondition(lambda self: self.processor)
    @rule()
    def push_awaited(self) -> None:
        assert self.processor is not None
        self.waiting.append(self.loop.create_task(self.processor.push_goal_event(USER, "goal")))

    @precondition(lambda self: self.waiting)
    @rule()
    def cancel_a_waiting_push(self) -> None:
        task = self.waiting.pop()
        task.cancel()
        result = self.run(asyncio.gather(task, return_exceptions=True))[0]
        if isinstance(result, Receipt):
            self.receipts.append(result)

    @rule(mood=st.sampled_from(["well", "well", "hang", "partial", *FAILURES]))
    def turn(self, mood: Any) -> None:
        self.mood = mood

    @rule(seconds=st.sampled_from([0.0, 0.005, 0.1, 3.0, 20.0]))
    def wait(self, seconds: float) -> None:
        self.run(anyio.sleep(seconds))

    @precondition(lambda self: self.processor)
    @rule()
    def flush(self) -> None:
        assert self.processor is not None
        self.run(self.processor.flush(1.0))

    @precondition(lambda self: self.processor and self.closing is None)
    @rule()
    def close(self) -> None:
        assert self.processor is not None
        self.closing = self.loop.create_task(self.processor.aclose())

    @invariant()
    def conserved(self) -> None:
        if self.processor is None:
            return
        statistics = self.processor.statistics()
        for counts in (statistics.goal, statistics.evaluation, statistics.metrics, statistics.total):
            ends = counts.delivered + counts.rejected + counts.dropped
            assert counts.pushed == counts.accepted + counts.refused
            assert counts.accepted == ends + counts.queued + counts.in_flight
        ledger = self.processor._pipeline.ledger
        assert ledger.bounds.held == statistics.total.queued + statistics.total.in_flight
        assert ledger.bounds.held <= self.processor._config.queue_capacity
        assert statistics.held_bytes == 0 or ledger.bounds.held

    @invariant()
    def no_batch_waits_for_a_flush_task(self) -> None:
        delivery = self.processor and self.processor._pipeline.delivery
        if delivery:
            assert isinstance(delivery, WatchedDelivery)
            assert not delivery.waits
            assert delivery.delivering <= delivery._config.num_flush_workers

    def teardown(self) -> None:
        try:
            if self.processor is not None:
                self.finish(self.processor)
        finally:
            self.loop.close()

    def finish(self, processor: Processor) -> None:
        self.run(processor.aclose())
        self.receipts += [self.run(task) for task in self.waiting]
        total = processor.statistics().total
        assert total.queued == total.in_flight == 0
        assert processor.statistics().held_bytes == 0
        taken = {receipt.event_id for receipt in self.receipts if receipt.accepted} & self.client.taken.keys()
        assert set(self.client.taken) == taken
        by_fate = dict.fromkeys(Fate, 0)
        for receipt in self.receipts:
            assert receipt.outcome is not None
            by_fate[receipt.outcome.fate] += 1
            if receipt.outcome.fate is Fate.DELIVERED:
                assert receipt.event_id in self.client.taken
            if receipt.outcome.reason == DroppedReason.UNDELIVERED:
                assert receipt.event_id not in self.client.taken
        assert by_fate[Fate.DELIVERED] == total.delivered
        assert by_fate[Fate.REJECTED] == total.rejected
        assert by_fate[Fate.DROPPED] == total.dropped
        assert by_fate[Fate.REFUSED] == total.refused
        assert not asyncio.all_tasks(self.loop)


TestProcessorMachine = ProcessorMachine.TestCase
TestProcessorMachine.settings = settings(max_examples=60, stateful_step_count=30)
