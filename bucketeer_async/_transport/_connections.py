"""The connections of an API client: made off the loop, lent to processors, closed when the last one is done.

Every request runs in a task of our own: a request that is cancelled inside httpx's pool costs a connection for good.

States, moved by `start`, `aclose` and the end of the closing alone::

    NEW --start--> STARTED --aclose--> CLOSING --every lease released--> CLOSED
     '-------------aclose-----------------------------------------------^
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any
from weakref import WeakMethod

import anyio

from bucketeer_async._background import BackgroundTask, Progress, load_anyio, require_loop
from bucketeer_async._errors import ClosedError, ConfigurationError, ConnectionFailedError, RequestTimeoutError
from bucketeer_async._transport._http import Answer, HttpClient, Request, exchange
from bucketeer_async._transport._responses import RegisterEventsResponse


class State(Enum):
    """See the module."""

    NEW = "new"
    STARTED = "started"
    CLOSING = "closing"
    CLOSED = "closed"


class Lease:
    """One processor's hold on the connections.

    Its requests run in the task that asks, so cancelling that task cancels the request; the processor does so in one
    place, at the end of its drain.

    Args:
        post: Posts events: ``post(events, timeout)``.
        begin_closing: A method that has the processor drain; held weakly, so that a processor nobody closed can go.
        on_release: Told when the processor is done.
    """

    def __init__(
        self, post: Callable[..., Any], begin_closing: Callable[[], None], on_release: Callable[[Lease], None]
    ) -> None:
        self._post = post
        self._begin_closing = WeakMethod(begin_closing)
        self._on_release = on_release
        self.connections = asyncio.Semaphore(10**9)

    async def register_events(self, events: Sequence[bytes], *, timeout: float) -> RegisterEventsResponse:
        """Post the JSON of events; as `ApiClient.register_events`."""
        response: RegisterEventsResponse = await self._post(events, timeout)
        return response

    def end(self) -> None:
        """Have the processor drain, which releases the lease in the end; a processor that is gone releases it now."""
        begin_closing = self._begin_closing()
        if begin_closing is None:
            self.release()
        else:
            begin_closing()

    def release(self) -> None:
        """Give the connections up."""
        self._on_release(self)


class Connections:
    """The HTTP client behind an `ApiClient`, and what runs over it.

    Args:
        new_client: Makes an HTTP client of our own; slow, called off the loop.
        borrowed: A client of the application's, used instead and never closed.
        max_connections: Requests under way at once.
    """

    def __init__(self, new_client: Callable[[], HttpClient], borrowed: HttpClient | None, max_connections: int) -> None:
        self._new_client = new_client
        self._borrowed = borrowed
        self._max_connections = max_connections
        self._begin_life()

    def _begin_life(self) -> None:
        self._pid = os.getpid()
        self.state = State.NEW
        self._http = self._borrowed
        self._opening: BackgroundTask | None = None
        self._closing: BackgroundTask | None = None
        self._slots = asyncio.Semaphore(self._max_connections)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._scopes: set[anyio.CancelScope] = set()
        self._leases: set[Lease] = set()
        self._released = Progress()

    def _notice_fork(self) -> None:
        """In a forked child, begin anew: the parent's connections are not ours."""
        if os.getpid() != self._pid:
            self._begin_life()

    async def start(self) -> None:
        """Load certificates and make the connection pool, off the loop; any request does so if need be.

        Raises:
            ClosedError: If it is closing or closed.
            ConfigurationError: If the certificates or the proxy cannot be used.
            WrongLoopError: If it was first used on another event loop.
        """
        self._notice_fork()
        if self.state is State.NEW:
            self.state = State.STARTED
            self._opening = BackgroundTask(self._open, name="bucketeer-api-start", owner="API client")
        if self._opening is None:
            raise ClosedError("the API client is closed")
        require_loop(self._opening.loop, "API client")
        if self.state is not State.STARTED:
            raise ClosedError("the API client is closed")
        if self._http is None:
            await self._opening.ready()

    async def _open(self, ready: Callable[[], None]) -> None:
        await load_anyio()
        if self._http is None:
            try:
                self._http = await asyncio.to_thread(self._new_client)
            except (OSError, ValueError, ImportError) as error:
                raise ConfigurationError(f"the HTTP client cannot be made: {error}") from error
        ready()

    async def aclose(self) -> None:
        """Have every processor drain that still runs over the connections, then close them; idempotent.

        A cancelled caller stops waiting, and the closing goes on.

        Raises:
            WrongLoopError: If it was first used on another event loop.
        """
        if self._opening is None:
            self.state = State.CLOSED
            return
        require_loop(self._opening.loop, "API client")
        if self._closing is None:
            self.state = State.CLOSING
            self._closing = BackgroundTask(self._close, name="bucketeer-api-close", owner="API client")
        await self._closing.join()

    async def _close(self, ready: Callable[[], None]) -> None:
        ready()
        for lease in list(self._leases):
            lease.end()
        while self._leases:
            await self._released.wait()
        for scope in self._scopes:
            scope.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._http is not None and self._borrowed is None:
            await self._http.aclose()
        self.state = State.CLOSED

    def lease(self, post: Callable[..., Any], begin_closing: Callable[[], None]) -> Lease:
        """Return a hold on the connections for one processor, which `aclose` ends by ``begin_closing()``."""
        self._notice_fork()
        lease = Lease(post, begin_closing, self._end_lease)
        self._leases.add(lease)
        return lease

    def _end_lease(self, lease: Lease) -> None:
        self._leases.discard(lease)
        self._released.notify()

    async def send(self, request: Request, timeout: float) -> Answer:
        """Send a request in a task of its own, and return the answer, if it is a 200.

        Raises:
            ApiError: If there was no usable answer.
            ClosedError: If the connections were closed meanwhile.
        """
        await self._take_slot(timeout)
        # Nothing is awaited between the slot and the task that gives it back.
        task = asyncio.get_running_loop().create_task(self._under_scope(request, timeout), name="bucketeer-request")
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    async def send_here(self, request: Request, timeout: float) -> Answer:
        """Send a request of a processor in the task that asks; as `send` otherwise."""
        if self._http is None or self.state is State.CLOSED:
            raise ConnectionFailedError("the API client is closed", maybe_sent=False)
        await self._take_slot(timeout)
        try:
            return await self._exchange(request, timeout)
        finally:
            self._slots.release()

    async def _take_slot(self, timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                await self._slots.acquire()
        except TimeoutError:
            raise RequestTimeoutError("no connection was free in time", maybe_sent=False) from None

    def _forget(self, task: asyncio.Task[Answer]) -> None:
        self._tasks.discard(task)
        self._slots.release()
        if not task.cancelled():
            task.exception()  # marks it as seen: the caller may be gone

    async def _under_scope(self, request: Request, timeout: float) -> Answer:
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                return await self._exchange(request, timeout)
            finally:
                self._scopes.discard(scope)
        raise ClosedError("the API client was closed while the request was under way")

    async def _exchange(self, request: Request, timeout: float) -> Answer:
        assert self._http is not None  # noqa: S101 - set when start() has returned
        return await exchange(self._http, request, timeout=timeout)
