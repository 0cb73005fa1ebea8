"""The start and the end of a client: its parts start together, and are closed in the order that loses no event.

Evaluations end first, because each of them pushes events. Next, the events are drained. Last, the connections close.
All of this runs in the host task of a `Lifecycle`, one per process. Making the parts is left to `_composition.py`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from functools import partial
from threading import get_ident
from types import EllipsisType
from typing import Protocol

import anyio

from bucketeer_async._background import PerProcess
from bucketeer_async._flags._evaluations import Evaluator
from bucketeer_async._lifecycle import Lifecycle, State
from bucketeer_async._options import check_timeout
from bucketeer_async._process_id import known
from bucketeer_async._results import DrainReport
from bucketeer_async._transport._api import ApiClient


class EventsLife(Protocol):
    """The lifecycle of a `Processor`, or of the one of a disabled client."""

    async def start(self) -> None: ...
    async def flush(self, timeout: float | None = None) -> bool: ...
    async def aclose(self, timeout: float | EllipsisType | None = ...) -> DrainReport: ...
    def _limit_drain(self, timeout: float | None) -> None: ...


class ClientLife:
    """Starts and closes an evaluator, a processor, and the API client under both; in a forked child anew.

    Args:
        events: The processor.
        api: The API client; None if there is none.
        evaluator: The evaluator.
        on_state: Called with each new state, on the event loop.
    """

    def __init__(
        self,
        events: EventsLife,
        api: ApiClient | None,
        evaluator: Evaluator,
        on_state: Callable[[State], None] = lambda _: None,
    ) -> None:
        self._on_state = on_state
        self._events = events
        self._api = api
        self._evaluator = evaluator
        self._life = PerProcess(self._new_life)
        self._lives = self._life.values

    def _new_life(self) -> _Life:
        inherited = [life.lifecycle for life in self._life.inherited()]
        return _Life(self._events, self._api, self._evaluator, self._on_state, inherited)

    @property
    def state(self) -> State:
        """The state of the client in this process."""
        return self._life.get().lifecycle.state

    def evaluator(self) -> Evaluator:
        """Return the evaluator.

        Raises:
            ClosedError: If the client is not running.
            WrongLoopError: If the client was started on another event loop.
        """
        lifecycle = (self._lives.get(known[0]) or self._life.get()).lifecycle
        if get_ident() != lifecycle.thread or not lifecycle.is_loop_running():
            lifecycle.require_running()
        return self._evaluator

    def require_running(self) -> None:
        """Do nothing while the client runs; from any thread.

        Raises:
            ClosedError: If the client is not running.
        """
        (self._lives.get(known[0]) or self._life.get()).lifecycle.require_running_on_any_loop()

    async def start(self) -> None:
        """Start everything, or nothing; no effect while running.

        Raises:
            ClosedError: If the client is closing or closed, or is closed before it runs.
            WrongLoopError: If the client was started on another event loop.
        """
        await self._life.get().lifecycle.start()

    async def flush(self, timeout: float | None) -> bool:
        """Have the processor send what waits; return False after ``timeout``.

        Raises:
            TypeError: If the timeout is neither a number nor None.
            ValueError: If the timeout is NaN.
            ClosedError: If the client was never started.
            WrongLoopError: If the client was started on another event loop.
        """
        timeout = check_timeout(timeout)
        lifecycle = self._life.get().lifecycle
        if lifecycle.state is State.NEW:
            lifecycle.require_started()
        return await self._events.flush(timeout)

    async def aclose(self, timeout: float | EllipsisType | None) -> DrainReport:
        """End the evaluations, drain the events, and close the connections, within ``timeout`` seconds.

        Raises:
            TypeError: If the timeout is neither a number nor None.
            ValueError: If the timeout is NaN.
            WrongLoopError: If the client was started on another event loop.
        """
        limit = None if isinstance(timeout, EllipsisType) else check_timeout(timeout)
        life = self._life.get()
        life.lifecycle.require_loop()
        if life.lifecycle.state is State.NEW:
            life.lifecycle.begin_closing()
            if self._api is not None:
                await self._api.aclose()
            report = await self._events.aclose()
            self._on_state(State.CLOSED)
            return report
        if limit is not None:
            life.limit(limit)
        life.lifecycle.begin_closing()
        await life.lifecycle.closed()
        life.report = life.report or DrainReport()
        return life.report


class _Life:
    """The part of a client's life that belongs to one process."""

    def __init__(
        self,
        events: EventsLife,
        api: ApiClient | None,
        evaluator: Evaluator,
        on_state: Callable[[State], None],
        inherited: Iterable[Lifecycle],
    ) -> None:
        self._on_state = on_state
        self._events = events
        self._api = api
        self._evaluator = evaluator
        self._deadline = math.inf
        self._last_evaluations: anyio.CancelScope | None = None
        self.report: DrainReport | None = None
        self.lifecycle = Lifecycle(
            "client",
            task_name="bucketeer-client",
            prepare=self._prepare,
            run=self._run,
            finish=self._finish,
            conclude=partial(on_state, State.CLOSED),
            on_closing=partial(on_state, State.CLOSING),
            inherited=inherited,
        )

    def limit(self, timeout: float) -> None:
        """Let the last evaluations and the drain together take at most ``timeout`` seconds from now on.

        The limit is the host's, so that it holds even if the caller of `ClientLife.aclose` is cancelled.
        """
        self._deadline = min(self._deadline, asyncio.get_running_loop().time() + timeout)
        if self._last_evaluations is not None:
            self._last_evaluations.deadline = self._deadline
        self._events._limit_drain(timeout)

    async def _prepare(self) -> None:
        self._on_state(State.STARTING)
        await self._events.start()
        await self._evaluator.start()

    async def _run(self) -> None:
        self._on_state(State.RUNNING)
        await self.lifecycle.until_closing()

    async def _finish(self) -> None:
        try:
            if self._api is not None:  # a disabled client has no evaluations to wait for, and has not loaded anyio
                with anyio.CancelScope(deadline=self._deadline) as self._last_evaluations:
                    await self._evaluator.aclose()
            self.report = await self._events.aclose()
        finally:
            if self._api is not None:
                await self._api.aclose()
