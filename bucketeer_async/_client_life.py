"""The life of a client: its parts start together, and are closed in the order that loses nothing.

All of it runs in one background task, so that it does not matter which tasks start and close it.

States, moved by `start`, `_begin_closing` and the end of the background task alone::

    NEW --start--> RUNNING --aclose--> CLOSING --answers, events and connections are done--> CLOSED
     '----------------------------aclose-----------------------------------------------------^
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from enum import Enum
from types import EllipsisType
from typing import Protocol

import anyio

from bucketeer_async._background import BackgroundTask, load_anyio, require_loop
from bucketeer_async._errors import ClosedError
from bucketeer_async._flags._evaluations import Evaluator
from bucketeer_async._results import DrainReport


class State(Enum):
    """See the module."""

    NEW = "new"
    RUNNING = "running"
    CLOSING = "closing"
    CLOSED = "closed"


class EventsLife(Protocol):
    """What is needed of a `Processor`."""

    async def start(self) -> None: ...
    async def flush(self, timeout: float | None = None) -> bool: ...
    async def aclose(self, timeout: float | EllipsisType | None = ...) -> DrainReport: ...


class ApiLife(Protocol):
    """What is needed of an `ApiClient`, which is started by those who use it."""

    async def aclose(self) -> None: ...


class Lifecycle:
    """Starts and closes an evaluator, a processor, and the API client under both.

    Args:
        events: The processor.
        api: The API client, or None if there is none.
        new_evaluator: Makes an evaluator; called once in each process that uses the client.
    """

    # Made by `start`, for they belong to a loop.
    _open: anyio.CancelScope  # left when closing begins, whether the start is over or not
    _grace: anyio.CancelScope  # in which the last questions are answered

    def __init__(self, events: EventsLife, api: ApiLife | None, new_evaluator: Callable[[], Evaluator]) -> None:
        self._events = events
        self._api = api
        self._new_evaluator = new_evaluator
        self._begin_life()

    def _begin_life(self) -> None:
        self._pid = os.getpid()
        self.state = State.NEW
        self._evaluator = self._new_evaluator()
        self._host: BackgroundTask | None = None
        self._answered = asyncio.Event()
        self._report = DrainReport()

    def _notice_fork(self) -> None:
        """In a forked child, begin anew, as the parts do."""
        if os.getpid() != self._pid:
            self._begin_life()

    def evaluator(self) -> Evaluator:
        """Return the evaluator.

        Raises:
            ClosedError: If the client is not running.
            WrongLoopError: If it was started on another event loop.
        """
        self._notice_fork()
        if self._host is None or self.state is not State.RUNNING:
            raise ClosedError(f"the client is {'not started' if self.state is State.NEW else 'closed'}")
        require_loop(self._host.loop, "client")
        return self._evaluator

    async def start(self) -> None:
        """Start everything, or nothing; no effect while running.

        Raises:
            ClosedError: If it is closing or closed.
            WrongLoopError: If it was started on another event loop.
        """
        self._notice_fork()
        await load_anyio()
        if self.state is State.NEW:
            self.state = State.RUNNING
            self._open, self._grace = anyio.CancelScope(), anyio.CancelScope()
            self._host = BackgroundTask(self._live, name="bucketeer-client", owner="client")
        if self._host is None or self.state is not State.RUNNING:
            raise ClosedError("the client is closed; make a new one")
        try:
            await self._host.ready()
        except asyncio.CancelledError:
            self._begin_closing()  # half started: leave nothing behind
            raise
        if self.state is not State.RUNNING:
            raise ClosedError("the client was closed while it was starting")

    async def flush(self, timeout: float | None) -> bool:
        """Have the processor send what waits; False after ``timeout``.

        Raises:
            ClosedError: If it was never started.
            WrongLoopError: If it was started on another event loop.
        """
        self._notice_fork()
        if self.state is State.NEW:
            raise ClosedError("the client is not started")
        return await self._events.flush(timeout)

    async def aclose(self, timeout: float | EllipsisType | None) -> DrainReport:
        """Take no more questions, wait for the last answers, drain, and close the connections.

        Raises:
            WrongLoopError: If it was started on another event loop.
        """
        self._notice_fork()
        if self._host is None:
            return await self._never_started()
        require_loop(self._host.loop, "client")
        self._begin_closing()
        if timeout is not None and not isinstance(timeout, EllipsisType):
            await self._hurry(timeout)
        await self._host.join()
        return self._report

    async def _never_started(self) -> DrainReport:
        self.state = State.CLOSED
        if self._api is not None:
            await self._api.aclose()
        return await self._events.aclose()

    async def _hurry(self, timeout: float) -> None:
        """Let answers and drain together take at most ``timeout`` seconds."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout
        with anyio.move_on_after(max(timeout, 0.0)):
            await self._answered.wait()
        self._grace.cancel()
        await self._events.aclose(max(deadline - clock(), 0.0))

    def _begin_closing(self) -> None:
        if self.state is State.RUNNING:
            self.state = State.CLOSING
            self._open.cancel()

    async def _live(self, ready: Callable[[], None]) -> None:
        try:
            with self._open:
                await self._events.start()
                await self._evaluator.start()
                ready()
                await anyio.sleep_forever()
        finally:
            await self._end()

    async def _end(self) -> None:
        """Close the parts; the last thing that the background task does."""
        self._begin_closing()  # a start that failed, or a loop that shuts down, come here while running
        try:
            with self._grace:
                await self._evaluator.aclose()
            self._answered.set()
            self._report = await self._events.aclose()
        finally:
            self._answered.set()
            if self._api is not None:
                await self._api.aclose()
            self.state = State.CLOSED
