"""Fakes: an API client that responds by a script, without a network, a logger that fails, and a forked child."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from bucketeer_async._process_id import known


@dataclass(frozen=True)
class FakeEventError:
    retriable: bool
    message: str = "gateway: no"


@dataclass(frozen=True)
class FakeAnswer:
    errors: Mapping[str, FakeEventError] = field(default_factory=dict)
    server_time: float | None = None


Script = Callable[[list[dict[str, Any]]], Awaitable[FakeAnswer]]


async def accept(_events: list[dict[str, Any]]) -> FakeAnswer:
    return FakeAnswer()


def failing_logger(error: type[BaseException]) -> logging.Logger:
    """Return a logger with a filter of the application's that raises."""

    def fail(_record: logging.LogRecord) -> bool:
        raise error

    logger = logging.Logger("failing")  # noqa: LOG001 - one of its own for each call
    logger.addFilter(fail)
    return logger


@contextlib.contextmanager
def as_forked(pid: int = -1) -> Iterator[None]:
    """Let the process look like a forked child: it has another id, and the kernel has cleared the one that was known."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "getpid", lambda: pid)
        known[0] = 0
        yield
    known[0] = 0


class FakeLease:
    def __init__(self, client: FakeClient, begin_closing: Callable[[], None]) -> None:
        self._client = client
        self.begin_closing = begin_closing
        self.released = False
        self.slots = asyncio.Semaphore(1000)

    async def register_events(self, events: Sequence[bytes], *, timeout: float) -> FakeAnswer:
        return await self._client.answer(events, timeout)

    def release(self) -> None:
        self.released = True


class FakeClient:
    """An API client that responds to posts by `script`, and records the accepted events.

    As with the real gateway, an event is accepted if the errors of the response do not name it.
    """

    endpoint = "https://gateway.test"

    def __init__(self, script: Script = accept, *, source_id: int = 0) -> None:
        self.script = script
        self.source_id = source_id
        self.sdk_version = "0.0.0"
        self.batches: list[list[dict[str, Any]]] = []
        self.post_times: list[float] = []
        self.taken: Counter[str] = Counter()
        self.leases: list[FakeLease] = []
        self.started = 0
        self.under_way = self.most_under_way = 0

    async def start(self) -> None:
        self.started += 1

    def lease(self, begin_closing: Callable[[], None]) -> FakeLease:
        self.leases.append(FakeLease(self, begin_closing))
        return self.leases[-1]

    async def answer(self, bodies: Sequence[bytes], timeout: float) -> FakeAnswer:
        assert timeout > 0
        events = [json.loads(body) for body in bodies]
        self.batches.append(events)
        self.post_times.append(asyncio.get_running_loop().time())
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            answer = await self.script(events)
        finally:
            self.under_way -= 1
        self.taken.update(event["id"] for event in events if event["id"] not in answer.errors)
        return answer

    @property
    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]
