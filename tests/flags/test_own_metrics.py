"""Metrics of the SDK's own operations: the events, and the limit of waiting errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from bucketeer_async import ApiId, Processor, ProcessorConfig, StatusError, User
from bucketeer_async._flags._own_metrics import OwnMetrics
from tests.clock import VirtualLoop
from tests.fakes import FakeAnswer, FakeClient, as_forked


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


def messages(client: FakeClient) -> list[tuple[str, int]]:
    """Return the name and API id of every metrics event that was delivered."""
    nested = [event["event"]["event"] for batch in client.batches for event in batch]
    return [(each["@type"].rpartition(".")[2], each["apiId"]) for each in nested]


async def test_a_poll_has_a_latency_and_a_size_or_an_error() -> None:
    client = FakeClient()
    async with Processor(client) as processor:
        metrics = OwnMetrics(processor, max_errors=10)

        metrics.completed(ApiId.GET_FEATURE_FLAGS, 0.25, 1234)
        metrics.failed(ApiId.GET_SEGMENT_USERS, TimeoutError())

    assert messages(client) == [
        ("LatencyMetricsEvent", ApiId.GET_FEATURE_FLAGS),
        ("SizeMetricsEvent", ApiId.GET_FEATURE_FLAGS),
        ("TimeoutErrorMetricsEvent", ApiId.GET_SEGMENT_USERS),
    ]
    assert '"sizeByte": 1234' in json.dumps(client.batches)


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_key_is_neither_pushed_nor_told_again(status: int, caplog: pytest.LogCaptureFixture) -> None:
    async with Processor(FakeClient()) as processor:
        OwnMetrics(processor, max_errors=10).failed(ApiId.GET_EVALUATION, StatusError(status))

        assert processor.statistics().metrics.pushed == 0
    assert not caplog.messages


async def test_without_a_processor_nothing_is_pushed() -> None:
    metrics = OwnMetrics(None, max_errors=2)

    metrics.completed(ApiId.GET_EVALUATION, 0.25, 1234)
    metrics.failed(ApiId.GET_EVALUATION, KeyError())


async def test_only_so_many_errors_wait_and_what_is_delivered_makes_room() -> None:
    client = FakeClient()
    async with Processor(client) as processor:
        metrics = OwnMetrics(processor, max_errors=2)

        for _ in range(5):
            metrics.failed(ApiId.GET_EVALUATION, KeyError())
        assert processor.statistics().metrics.pushed == 2
        await processor.flush()
        for _ in range(5):
            metrics.failed(ApiId.GET_EVALUATION, KeyError())

        assert processor.statistics().metrics.pushed == 4


async def test_latency_and_size_are_not_bounded_by_errors() -> None:
    async def never(_events: list[dict[str, Any]]) -> FakeAnswer:
        await asyncio.Event().wait()
        raise AssertionError

    async with Processor(FakeClient(never), ProcessorConfig(drain_timeout=1.0)) as processor:
        metrics = OwnMetrics(processor, max_errors=1)

        metrics.failed(ApiId.GET_EVALUATION, KeyError())
        metrics.failed(ApiId.GET_EVALUATION, KeyError())
        metrics.completed(ApiId.GET_EVALUATION, 0.25)

        assert processor.statistics().metrics.pushed == 2


def test_errors_that_were_refused_do_not_count_as_waiting() -> None:
    processor = Processor(FakeClient())
    metrics = OwnMetrics(processor, max_errors=2)

    for _ in range(5):
        metrics.failed(ApiId.GET_EVALUATION, KeyError())

    assert processor.statistics().metrics.refused == 5


class Waiting:
    """Events that are never settled."""

    def __init__(self) -> None:
        self.outcome = None
        self.errors = 0

    def push_latency_metrics_event_nowait(self, duration: float, api_id: ApiId) -> Waiting:
        raise NotImplementedError  # no test of this file comes here

    def push_size_metrics_event_nowait(self, size_byte: int, api_id: ApiId) -> Waiting:
        raise NotImplementedError  # no test of this file comes here

    def push_error_metrics_event_nowait(self, error: BaseException, api_id: ApiId) -> Waiting:
        self.errors += 1
        return self


def test_what_waits_in_the_parent_does_not_count_in_a_forked_child() -> None:
    events = Waiting()
    metrics = OwnMetrics(events, max_errors=1)
    metrics.failed(ApiId.GET_EVALUATION, KeyError())
    metrics.failed(ApiId.GET_EVALUATION, KeyError())
    assert events.errors == 1

    with as_forked():
        metrics.failed(ApiId.GET_EVALUATION, KeyError())

    assert events.errors == 2


class Interrupted:
    """A settled event; while its outcome is read, another thread or a signal handler reports an error."""

    def __init__(self, report: Callable[[], None]) -> None:
        self._report = report

    @property
    def outcome(self) -> str:
        report, self._report = self._report, lambda: None
        report()
        return "delivered"


@pytest.mark.parametrize("others", [0, 1])
async def test_an_error_may_be_reported_while_another_thread_reports_one(others: int) -> None:
    async with Processor(FakeClient()) as processor:
        metrics = OwnMetrics(processor, max_errors=2)
        waiting = metrics._waiting_errors.get()
        waiting.append(Interrupted(lambda: metrics.failed(ApiId.GET_EVALUATION, KeyError())))
        waiting.extend([await processor.push_goal_event(User("user"), "goal") for _ in range(others)])

        metrics.failed(ApiId.GET_EVALUATION, KeyError())

        assert processor.statistics().metrics.pushed == len(waiting) - others == 2 - others
