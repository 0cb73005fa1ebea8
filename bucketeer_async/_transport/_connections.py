"""Connections: the HTTP client behind an `ApiClient` in one process, its slots for requests, and the processors using it.

Every request but those of processors runs in a task of its own, which is made when a slot is free: a request that is
cancelled inside httpx's pool costs a connection for good. Sending a request is left to `_http.py`.

The connections have a `Lifecycle`, which the first request begins without waiting for it. Loading anyio and certificates
takes time: all requests wait for one shared attempt, and the next request makes another one if it has failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from weakref import WeakMethod

import anyio

from bucketeer_async._background import Progress, load_anyio
from bucketeer_async._errors import ClosedError, ConfigurationError, ConnectionFailedError, RequestTimeoutError
from bucketeer_async._lifecycle import Lifecycle, State
from bucketeer_async._transport._http import Answer, Deadline, HttpClient, Request, send_request


class Hold:
    """One processor's hold on the connections, which are not closed before it is released.

    Args:
        begin_closing: A method that has the processor drain. It is the one call from the connections upwards, because
            only they know of every processor that has to drain before they close. It is kept weakly, so that a
            processor that is never closed can be collected.
        on_release: Called when the processor is done.
    """

    def __init__(self, begin_closing: Callable[[], None], on_release: Callable[[Hold], None]) -> None:
        self._begin_closing = WeakMethod(begin_closing)
        self._on_release = on_release

    def end(self) -> None:
        """Have the processor drain, which releases the hold in the end; release that of a processor that is gone."""
        (self._begin_closing() or self.release)()

    def release(self) -> None:
        """Give the connections up."""
        self._on_release(self)


class Connections:
    """The HTTP client, and what runs over it, in one process.

    Args:
        new_client: Makes an HTTP client of our own; slow, called off the loop.
        borrowed: A client of the application's, used instead and never closed.
        max_connections: Requests under way at once.

    Attributes:
        life: State, start and end.
        slots: One for each request under way.
    """

    def __init__(self, new_client: Callable[[], HttpClient], borrowed: HttpClient | None, max_connections: int) -> None:
        self.life: Lifecycle = Lifecycle(
            "API client", task_name="bucketeer-api", finish=self._finish, on_closing=self._interrupt_waiting
        )
        self.slots: asyncio.Semaphore = asyncio.Semaphore(max_connections)
        self._new_client = new_client
        self._is_borrowed = borrowed is not None
        self._http = borrowed
        self._is_open = False
        self._opening: asyncio.Task[None] | None = None
        self._waiting: set[anyio.CancelScope] = set()
        self._tasks: set[asyncio.Task[Answer]] = set()
        self._under_way: set[anyio.CancelScope] = set()
        self._holds: set[Hold] = set()
        self._released = Progress()

    async def open(self) -> None:
        """Load certificates and make the connection pool, off the loop; no effect if that was done.

        Raises:
            ClosedError: If the API client is closing or closed, or is closed meanwhile.
            ConfigurationError: If the certificates or the proxy cannot be used.
            WrongLoopError: If the API client was first used on another event loop.
        """
        self.life.require_loop()  # on another loop this says more than that the end of the first one has closed it
        self.life.begin()
        if self._is_open:
            return
        opening = self._opening
        if opening is None:
            opening = self._opening = asyncio.get_running_loop().create_task(
                self._open(), name="bucketeer-api-open", context=Context()
            )
            opening.add_done_callback(self._end_opening)
        # Not a shield: a cancelled caller only stops waiting, and one whose attempt was cancelled learns why.
        await asyncio.wait([opening])
        if opening.cancelled():
            raise ClosedError("the API client was closed while it was starting")
        opening.result()

    async def _open(self) -> None:
        await load_anyio()
        if self._http is None:
            try:
                self._http = await asyncio.to_thread(self._new_client)
            except (OSError, ValueError, ImportError) as error:
                raise ConfigurationError(f"the HTTP client cannot be made: {error}") from error
        self._is_open = True

    def _end_opening(self, opening: asyncio.Task[None]) -> None:
        """Forget an attempt, so that the next request makes another one if it has failed."""
        self._opening = None
        if not opening.cancelled():
            opening.exception()  # marks the exception as retrieved: every waiting caller may be gone

    async def aclose(self) -> None:
        """Have every processor drain that holds the connections, then close them; idempotent.

        A cancelled caller stops waiting, and the closing goes on.

        Raises:
            WrongLoopError: If the API client was first used on another event loop.
        """
        self.life.require_loop()
        self.life.begin_closing()
        await self.life.closed()

    def _interrupt_waiting(self) -> None:
        """End every request that waits for the client or for room in it."""
        if self._opening is not None:
            self._opening.cancel()
        for scope in self._waiting:
            scope.cancel()

    async def _finish(self) -> None:
        for hold in list(self._holds):
            hold.end()
        while self._holds:
            await self._released.wait()
        for scope in self._under_way:
            scope.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._http is not None and not self._is_borrowed:
            await self._http.aclose()

    def hold(self, begin_closing: Callable[[], None]) -> Hold:
        """Return a hold for one processor, which `aclose` has drain by ``begin_closing()``."""
        hold = Hold(begin_closing, self._release)
        self._holds.add(hold)
        return hold

    def _release(self, hold: Hold) -> None:
        self._holds.discard(hold)
        self._released.notify()

    async def send(self, request: Request, deadline: Deadline) -> Answer:
        """Send a request in a task of its own, and return the answer, if it is a 200.

        Raises:
            ApiError: If there was no usable answer before the deadline.
            ClosedError: If the API client is closed, or was closed meanwhile.
            ConfigurationError: If the HTTP client cannot be made.
            WrongLoopError: If the API client was first used on another event loop.
        """
        try:
            async with asyncio.timeout_at(deadline.at):
                await self.open()
        except TimeoutError:
            raise RequestTimeoutError("no connection was ready in time", maybe_sent=False) from None
        await self._take_slot(deadline)
        # Nothing is awaited between the slot and the task that gives it back.
        task = asyncio.get_running_loop().create_task(self._send(request, deadline), name="bucketeer-request")
        self._tasks.add(task)
        task.add_done_callback(self._end_task)
        return await asyncio.shield(task)

    async def _take_slot(self, deadline: Deadline) -> None:
        if self.slots.locked():
            with anyio.CancelScope(deadline=deadline.at) as scope:
                self._waiting.add(scope)
                try:
                    await self.slots.acquire()
                finally:
                    self._waiting.discard(scope)
            if scope.cancelled_caught:
                if self._is_closing():
                    raise ClosedError("the API client was closed while the request waited for a connection")
                raise RequestTimeoutError("no connection was free in time", maybe_sent=False)
        else:
            await self.slots.acquire()
        if self._is_closing():
            self.slots.release()
            raise ClosedError("the API client was closed while the request waited for a connection")

    def _is_closing(self) -> bool:
        return self.life.state in {State.CLOSING, State.CLOSED}

    async def _send(self, request: Request, deadline: Deadline) -> Answer:
        assert self._http is not None  # noqa: S101 - made by `open`
        with anyio.CancelScope() as scope:
            self._under_way.add(scope)
            try:
                return await send_request(self._http, request, deadline)
            finally:
                self._under_way.discard(scope)
        raise ClosedError("the API client was closed while the request was under way")

    def _end_task(self, task: asyncio.Task[Answer]) -> None:
        self._tasks.discard(task)
        self.slots.release()
        if not task.cancelled():
            task.exception()  # marks the exception as retrieved: the caller may be gone

    async def send_for_hold(self, request: Request, deadline: Deadline) -> Answer:
        """Send a request of a processor in the calling task, which has taken a slot; otherwise as `send`.

        Cancelling the task cancels the request. The processor does so in one place, at the end of its drain.
        """
        if self._http is None or self.life.state is State.CLOSED:
            raise ConnectionFailedError("the API client is closed", maybe_sent=False)
        return await send_request(self._http, request, deadline)
