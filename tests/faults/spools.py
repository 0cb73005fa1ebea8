"""A spool under test: a processor's life with one, and spools as an earlier process has left them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from bucketeer_async import ApiClient, Processor, ProcessorConfig, RetryPolicy, Spool
from bucketeer_async._events._spool_file import SpoolFile
from bucketeer_async._models import EventKind
from tests.faults.world import EVALUATION, KEY, USER, Sky, check_counts

DAY = 86_400.0
CONFIG = ProcessorConfig(
    flush_size=100,
    flush_interval=0.05,
    request_timeout=1.0,
    drain_timeout=0.3,
    retry=RetryPolicy(initial=0.02, maximum=0.1),
)


@contextlib.asynccontextmanager
async def life(sky: Sky, spool: Spool, **options: Any) -> AsyncIterator[Processor]:
    """One processor from start to close; the counts are checked at the end."""
    async with httpx.AsyncClient(transport=sky) as http:
        async with ApiClient(endpoint="http://127.0.0.1", api_key=KEY, http=http) as api_client:
            async with Processor(api_client, replace(CONFIG, spool=spool, **options)) as processor:
                yield processor
                check_counts(processor)
            check_counts(processor)
            assert processor.statistics().total.queued == processor.statistics().total.in_flight == 0


async def until(fact: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not fact():  # noqa: ASYNC110 - the other side is a thread, or another process
            await asyncio.sleep(0.005)


def stored(sky: Sky) -> list[str]:
    return [event.id for event in sky.state.events]


def push(processor: Processor, count: int) -> list[str]:
    pushed = []
    for number in range(count):
        match number % 3:
            case 0:
                receipt = processor.push_goal_event_nowait(USER, f"goal-{number}", 1.5)
            case 1:
                receipt = processor.push_evaluation_event_nowait(USER, EVALUATION)
            case _:
                receipt = processor.push_internal_error_count_metrics_event_nowait()
        pushed.append(receipt.event_id)
    return pushed


def body(event_id: str, timestamp: float, size: int = 0) -> bytes:
    return (
        f'{{"id":"{event_id}","event":{{"@type":"type.googleapis.com/bucketeer.event.client.GoalEvent",'
        f'"timestamp":"{int(timestamp)}","goalId":"goal{"x" * size}","userId":"user"}}}}'
    ).encode()


def fill(directory: Path, count: int, *, age: float = 0.0, size: int = 0) -> list[str]:
    """Write a spool as an earlier process left it."""
    pushed = time.time() - age
    ids = [f"00000000-0000-4000-8000-{number:012x}" for number in range(count)]
    file = SpoolFile(directory, 2**30)
    file.insert([(EventKind.GOAL, each, pushed, body(each, pushed, size)) for each in ids])
    file.close()
    return ids


def events_in(directory: Path) -> int:
    file = SpoolFile(directory, 2**30)
    try:
        return len(file)
    finally:
        file.close()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING
        and record.name != "asyncio"  # whose debug mode names slow tests
        and "spool" in record.getMessage()
        and "the drain" not in record.getMessage()
    ]


def all_recovered(processor: Processor) -> bool:
    statistics = processor.statistics()
    assert statistics.spool is not None
    return statistics.spool.ready and statistics.spool.events == 0 == statistics.total.queued
