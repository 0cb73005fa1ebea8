"""Connections: the HTTP clients behind an `ApiClient` in one process, and the processors that use them.

Posts of processors have pools of their own, so that neither they nor the other requests starve the other. Every request
but those of processors runs in a task of its own, which is made when a slot is free: a request that is cancelled inside
httpx's pool costs a connection for good. The clients and slots are left to `_pools.py`, sending a request to `_http.py`.

The connections have a `Lifecycle`, which the first request begins without waiting for it. Loading anyio and certificates
takes time: all requests wait for one shared attempt, and the next request makes another one if it has failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from weakref import WeakMethod

import anyio

from bucketeer_async._background import Progress, in_thread, load_anyio
from bucketeer_async._errors import ClosedError, ConfigurationError, ConnectionFailedError, RequestTimeoutError
from bucketeer_async._lifecycle import Lifecycle, State
from bucketeer_async._transport._http import Answer, Deadline, HttpClient, Request, send_request
from bucketeer_async._transport._pools import Pools


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
    """The HTTP clients, and what runs over them, in one process.

    Args:
        new_client: Makes an HTTP client with at most so many connections; the first call is slow.
        borrowed: A client of the application's, used for everything instead and never closed.
        max_connections: Posts of processors under way at once; also the other requests under way at once, or, with a
            borrowed client, both together.

    Attributes:
        life: State, start and end.
        event_pools: For the posts of processors, each of which runs in its flush task: cancelling that cancels the post.
            Processors do so in one place, at the end of the drain.
    """

    def __init__(
        self, new_client: Callable[[int], HttpClient], borrowed: HttpClient | None, max_connections: int
    ) -> None:
        self.life: Lifecycle = Lifecycle(
            "API client", task_name="bucketeer-api", finish=self._finish, on_closing=self._interrupt_waiting
        )
        self._pools = Pools(new_client, max_connections, borrowed)
        self.event_pools: Pools = self._pools if borrowed is not None else Pools(new_client, max_connections, None)
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
        if self._pools.is_empty:
            try:
                await in_thread(self._pools.add)
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
        await self._pools.aclose()
        await self.event_pools.aclose()

    def hold(self, begin_closing: Callable[[], None]) -> Hold:
        """Return a hold for one processor, which `aclose` has drain by ``begin_closing()``."""
        hold = Hold(begin_closing, self._release)
        self._holds.add(hold)
        return hold

    def _release(self, hold: Hold) -> None:
        self._holds.discard(hold)
        self._released.notify()

    async def send(
        self, request: Request, deadline: Deadline, on_connection: Callable[[], None] | None = None
    ) -> Answer:
        """Send a request in a task of its own, and return the answer, if it is a 200.

        A repeatable request that fails on a stale connection is sent again, in the same slot.

        Args:
            request: The request.
            deadline: When all of this must be over.
            on_connection: Called when a connection is free, right before the request leaves. Until then, cancelling the
                caller cancels the request.

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
        if on_connection is not None:
            on_connection()
        task = asyncio.get_running_loop().create_task(self._send(request, deadline), name="bucketeer-request")
        self._tasks.add(task)
        task.add_done_callback(self._end_task)
        # Not a shield, which reports a failure that nobody waits for any more to the loop, from Python 3.14 on.
        await asyncio.wait([task])
        return task.result()

    async def _take_slot(self, deadline: Deadline) -> None:
        if self._pools.slots.locked():
            with anyio.CancelScope(deadline=deadline.at) as scope:
                self._waiting.add(scope)
                try:
                    await self._pools.slots.acquire()
                finally:
                    self._waiting.discard(scope)
            if scope.cancelled_caught:
                if self._is_closing():
                    raise ClosedError("the API client was closed while the request waited for a connection")
                raise RequestTimeoutError("no connection was free in time", maybe_sent=False)
        else:
            await self._pools.slots.acquire()
        if self._is_closing():
            self._pools.slots.release()
            raise ClosedError("the API client was closed while the request waited for a connection")

    def _is_closing(self) -> bool:
        return self.life.state in {State.CLOSING, State.CLOSED}

    async def _send(self, request: Request, deadline: Deadline) -> Answer:
        with anyio.CancelScope() as scope, self._pools.client() as http:
            self._under_way.add(scope)
            try:
                return await send_request(http, request, deadline)
            except ConnectionFailedError as error:
                if not error.stale or not request.is_repeatable:
                    raise
                return await send_request(http, request, deadline)
            finally:
                self._under_way.discard(scope)
        raise ClosedError("the API client was closed while the request was under way")

    def _end_task(self, task: asyncio.Task[Answer]) -> None:
        self._tasks.discard(task)
        self._pools.slots.release()
        if not task.cancelled():
            task.exception()  # marks the exception as retrieved: the caller may be gone
