"""The client of the gateway's HTTP API: one coroutine per endpoint, requests in tasks of our own.

What a request looks like is left to `_wire.py`, how it travels to `_http.py`; this file holds the connections, the
deadlines and the lifecycle.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import anyio

from bucketeer_async import _wire
from bucketeer_async._background import BackgroundTask, Progress, require_loop
from bucketeer_async._endpoint import ApiKey, check_header, normalize_endpoint
from bucketeer_async._errors import ClosedError, ConfigurationError, ConnectionFailedError, RequestTimeoutError
from bucketeer_async._http import HttpClient, Request, exchange, new_client
from bucketeer_async._models import User, check_int32, check_text
from bucketeer_async._options import check_seconds
from bucketeer_async._responses import (
    GetEvaluationResponse,
    GetEvaluationsResponse,
    GetFeatureFlagsResponse,
    GetSegmentUsersResponse,
    RegisterEventsResponse,
)
from bucketeer_async._version import __version__

_T = TypeVar("_T")

#: ``sourceId`` of events and evaluation requests: UNKNOWN, for the server has no number for Python yet.
EVENTS_SOURCE_ID: Final = 0
#: ``sourceId`` of the polling endpoints, which refuse 0. Another SDK's number would pollute its statistics; a number
#: that is assigned to nobody, far from those that are (1 to 10 and 100 to 106), is accepted and clashes with nobody.
POLLING_SOURCE_ID: Final = 1000

_SMALL: Final = 2**20  # bytes; what an answer about one user's flag, or about a batch, never reaches
_LARGE: Final = 64 * 2**20  # bytes; the gateway sends at most 4 MiB of protobuf, which may be many times that as JSON
_PARSED_HERE: Final = 256 * 1024  # bytes; a longer answer is parsed off the loop


class _State(Enum):
    NEW = "new"
    STARTED = "started"
    CLOSING = "closing"
    CLOSED = "closed"


class Lease:
    """One processor's hold on the connections.

    Its requests run in the task that asks, so cancelling that task cancels the request; the processor does so in one
    place, at the end of its drain.

    Attributes:
        draining: Whether ``ApiClient.aclose()`` waits for `release`.
    """

    def __init__(self, post: Callable[..., Any], on_release: Callable[[Lease], None]) -> None:
        self._post = post
        self._on_release = on_release
        self.draining = False

    async def register_events(self, events: Sequence[bytes], *, timeout: float) -> RegisterEventsResponse:  # noqa: ASYNC109
        """Post the JSON of events; as `ApiClient.register_events`."""
        response: RegisterEventsResponse = await self._post(self, events, timeout)
        return response

    def release(self) -> None:
        """Give the connections up."""
        self._on_release(self)


class ApiClient:
    """A client of a Bucketeer gateway.

    It belongs to the event loop that first uses it. Requests run in tasks of their own: a cancelled caller stops
    waiting, and the request ends by itself within its timeout.

    Args:
        endpoint: A host (``"api.example.com"``), or a URL without a path. ``http`` is for loopback addresses.
        api_key: The key as the console shows it. Remote evaluation needs a client key, polling a server key; both
            may register events.
        timeout: Seconds that a whole request may take, unless a call says otherwise.
        source_id: ``SourceId`` sent with everything. 0, the default, is UNKNOWN: there is no number for Python yet.
            The polling endpoints refuse 0 and get 1000 then.
        sdk_version: Sent with everything; the version of this package if None.
        allow_http: Whether ``http`` may be used beyond loopback.
        max_connections: Requests under way at once. With a client of your own: what its limits allow.
        ssl_context: For a private certificate authority or client certificates. Verification is always on.
        proxy: URL of a proxy. Without it the environment is asked, as httpx does.
        http: An ``httpx.AsyncClient`` or ``httpx2.AsyncClient`` of your own; it is never closed here.

    Raises:
        ConfigurationError: If an argument is wrong; the message names it and the accepted form.
    """

    def __init__(
        self,
        *,
        endpoint: str,
        api_key: str,
        timeout: float = 5.0,
        source_id: int = EVENTS_SOURCE_ID,
        sdk_version: str | None = None,
        allow_http: bool = False,
        max_connections: int = 100,
        ssl_context: ssl.SSLContext | None = None,
        proxy: str | None = None,
        http: HttpClient | None = None,
    ) -> None:
        self._base = normalize_endpoint(endpoint, allow_http=allow_http)
        self._key = ApiKey(api_key)
        check_seconds("ApiClient.timeout", timeout)
        self._timeout = timeout
        self._source_id = _configured_source(source_id)
        self._sdk_version = check_header("ApiClient.sdk_version", __version__ if sdk_version is None else sdk_version)
        if not isinstance(max_connections, int) or isinstance(max_connections, bool) or max_connections < 1:
            raise ConfigurationError(f"ApiClient.max_connections must be an int of at least 1, not {max_connections!r}")
        if http is not None and (ssl_context is not None or proxy is not None):
            raise ConfigurationError(
                "ApiClient.ssl_context and proxy belong to the client given as http: set them there"
            )
        self._max_connections = max_connections
        self._new_client = partial(new_client, ssl_context, proxy, max_connections)
        self._borrowed = http
        self._begin_life()

    def _begin_life(self) -> None:
        self._pid = os.getpid()
        self._state = _State.NEW
        self._http = self._borrowed
        self._opening: BackgroundTask | None = None
        self._closing: BackgroundTask | None = None
        self._slots = asyncio.Semaphore(self._max_connections)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._scopes: set[anyio.CancelScope] = set()
        self._leases: set[Lease] = set()
        self._released = Progress()

    @property
    def source_id(self) -> int:
        """``sourceId`` of events and evaluation requests."""
        return self._source_id

    @property
    def sdk_version(self) -> str:
        """``sdkVersion`` of every request."""
        return self._sdk_version

    def __repr__(self) -> str:
        return f"<ApiClient {self._base} {self._state.value}>"

    # Lifecycle

    async def start(self) -> None:
        """Load certificates and make the connection pool, off the loop; any request does so if need be.

        Raises:
            ClosedError: If it is closing or closed.
            ConfigurationError: If the certificates or the proxy cannot be used.
            WrongLoopError: If it was first used on another event loop.
        """
        if os.getpid() != self._pid:
            self._begin_life()  # in a forked child: the parent's connections are not ours
        if self._state is _State.NEW:
            self._state = _State.STARTED
            self._opening = BackgroundTask(self._open, name="bucketeer-api-start", owner="API client")
        if self._opening is None:
            raise ClosedError("the API client is closed")
        require_loop(self._opening.loop, "API client")
        if self._state is not _State.STARTED:
            raise ClosedError("the API client is closed")
        if self._http is None:
            await self._opening.ready()

    async def _open(self, ready: Callable[[], None]) -> None:
        if self._http is None:
            try:
                self._http = await asyncio.to_thread(self._new_client)
            except (OSError, ValueError, ImportError) as error:
                raise ConfigurationError(f"the HTTP client cannot be made: {error}") from error
        ready()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections, after the processors that still drain over them; idempotent.

        A cancelled caller stops waiting, and the closing goes on.

        Raises:
            WrongLoopError: If it was first used on another event loop.
        """
        if self._opening is None:
            self._state = _State.CLOSED
            return
        require_loop(self._opening.loop, "API client")
        if self._closing is None:
            self._state = _State.CLOSING
            self._closing = BackgroundTask(self._close, name="bucketeer-api-close", owner="API client")
        await self._closing.join()

    async def _close(self, ready: Callable[[], None]) -> None:
        ready()
        while any(lease.draining for lease in self._leases):
            await self._released.wait()
        for scope in self._scopes:
            scope.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._http is not None and self._borrowed is None:
            await self._http.aclose()
        self._state = _State.CLOSED

    def lease(self) -> Lease:
        """Return a hold on the connections for one processor."""
        lease = Lease(self._post_for, self._end_lease)
        self._leases.add(lease)
        return lease

    def _end_lease(self, lease: Lease) -> None:
        self._leases.discard(lease)
        self._released.notify()

    # Endpoints

    async def register_events(
        self,
        events: Sequence[bytes],
        *,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> RegisterEventsResponse:
        """Post events.

        Args:
            events: The JSON of each ``bucketeer.event.client.Event``; at least one.
            timeout: Seconds that the request may take.

        Returns:
            Which of them were not taken. A 200 does not mean that all were.

        Raises:
            ApiError: If there was no usable answer.
            ClosedError: If the client is closed.
        """
        return await self._call(
            "/register_events", self._events_body(events), _wire.decode_register_events, timeout=timeout, retry=False
        )

    async def get_evaluation(
        self,
        user: User,
        feature_id: str,
        *,
        tag: str,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> GetEvaluationResponse:
        """Ask the gateway for one user's variation of one flag; needs a client key.

        Raises:
            TypeError: If an argument has the wrong type.
            ValueError: If the feature id or the tag is empty.
            ApiError: If there was no usable answer; a `StatusError` with 404 if the flag is unknown.
            ClosedError: If the client is closed.
        """
        body = _wire.get_evaluation_body(
            _checked_user(user),
            check_text("feature_id", feature_id, empty=False),
            tag=check_text("tag", tag, empty=False),
            source_id=self._source_id,
            sdk_version=self._sdk_version,
        )
        return await self._call("/get_evaluation", body, _wire.decode_get_evaluation, timeout=timeout)

    async def get_evaluations(
        self,
        user: User,
        *,
        tag: str,
        user_evaluations_id: str = "",
        evaluated_at: int = 0,
        user_attributes_updated: bool = False,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> GetEvaluationsResponse:
        """Ask the gateway for one user's variations of all flags of a tag; needs a client key.

        Args:
            user: Who is asked for.
            tag: The tag of the flags; not empty.
            user_evaluations_id: From the previous answer; "" for everything.
            evaluated_at: ``created_at`` of the previous answer, in Unix seconds.
            user_attributes_updated: Whether the attributes have changed since then.
            timeout: Seconds that the request may take.

        Raises:
            TypeError: If an argument has the wrong type.
            ValueError: If the tag is empty.
            ApiError: If there was no usable answer.
            ClosedError: If the client is closed.
        """
        body = _wire.get_evaluations_body(
            _checked_user(user),
            tag=check_text("tag", tag, empty=False),
            user_evaluations_id=check_text("user_evaluations_id", user_evaluations_id),
            evaluated_at=evaluated_at,
            user_attributes_updated=user_attributes_updated,
            source_id=self._source_id,
            sdk_version=self._sdk_version,
        )
        return await self._call("/get_evaluations", body, _wire.decode_get_evaluations, timeout=timeout, limit=_LARGE)

    async def get_feature_flags(
        self,
        *,
        tag: str = "",
        feature_flags_id: str = "",
        requested_at: int = 0,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> GetFeatureFlagsResponse:
        """Poll flag definitions; needs a server key.

        Args:
            tag: The tag of the flags; "" for all of the environment.
            feature_flags_id: From the previous answer; "" for everything.
            requested_at: From the previous answer.
            timeout: Seconds that the request may take.

        Raises:
            TypeError: If an argument has the wrong type.
            ApiError: If there was no usable answer.
            ClosedError: If the client is closed.
        """
        body = _wire.get_feature_flags_body(
            tag=check_text("tag", tag),
            feature_flags_id=check_text("feature_flags_id", feature_flags_id),
            requested_at=requested_at,
            source_id=self._source_id or POLLING_SOURCE_ID,
            sdk_version=self._sdk_version,
        )
        return await self._call(
            "/get_feature_flags", body, _wire.decode_get_feature_flags, timeout=timeout, limit=_LARGE
        )

    async def get_segment_users(
        self,
        *,
        segment_ids: Sequence[str] = (),
        requested_at: int = 0,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> GetSegmentUsersResponse:
        """Poll the members of segments; needs a server key.

        Args:
            segment_ids: The segments held so far; the answer names those that are gone.
            requested_at: From the previous answer.
            timeout: Seconds that the request may take.

        Raises:
            TypeError: If an argument has the wrong type.
            ApiError: If there was no usable answer.
            ClosedError: If the client is closed.
        """
        body = _wire.get_segment_users_body(
            segment_ids=[check_text("an entry of segment_ids", each) for each in segment_ids],
            requested_at=requested_at,
            source_id=self._source_id or POLLING_SOURCE_ID,
            sdk_version=self._sdk_version,
        )
        return await self._call(
            "/get_segment_users", body, _wire.decode_get_segment_users, timeout=timeout, limit=_LARGE
        )

    async def ping(self, *, timeout: float | None = None) -> int:  # noqa: ASYNC109
        """Ask whether the gateway is there; it needs no valid key.

        Returns:
            The server's time, in Unix seconds.

        Raises:
            ApiError: If there was no usable answer.
            ClosedError: If the client is closed.
        """
        return await self._call("/ping", None, _wire.decode_ping, timeout=timeout)

    # How a request goes

    def _events_body(self, events: Sequence[bytes]) -> bytes:
        return _wire.register_events_body(events, source_id=self._source_id, sdk_version=self._sdk_version)

    def _request(self, path: str, body: bytes | None, limit: int) -> Request:
        headers = {
            "authorization": self._key.reveal(),
            "content-type": "application/json",
            "accept-encoding": "identity",
            "user-agent": f"bucketeer-async/{__version__}",
        }
        method = "GET" if body is None else "POST"
        return Request(method=method, url=self._base + path, headers=headers, body=body, limit=limit)

    async def _call(
        self,
        path: str,
        body: bytes | None,
        decode: Callable[[bytes], _T],
        *,
        timeout: float | None,  # noqa: ASYNC109
        limit: int = _SMALL,
        retry: bool = True,
    ) -> _T:
        """Send a request in a task of its own, and wait for what `decode` makes of the answer."""
        await self.start()
        seconds = self._timeout if timeout is None else timeout
        check_seconds("timeout", seconds)
        request = self._request(path, body, limit)
        try:
            answer = await self._in_own_task(request, seconds)
        except ConnectionFailedError as error:
            if not (error.stale and retry):
                raise
            answer = await self._in_own_task(request, seconds)
        return decode(answer) if len(answer) <= _PARSED_HERE else await asyncio.to_thread(decode, answer)

    async def _in_own_task(self, request: Request, timeout: float) -> bytes:  # noqa: ASYNC109
        await self._take_slot(timeout)
        # Nothing is awaited between the slot and the task that gives it back.
        task = asyncio.get_running_loop().create_task(self._under_scope(request, timeout), name="bucketeer-request")
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    async def _take_slot(self, timeout: float) -> None:  # noqa: ASYNC109
        try:
            async with asyncio.timeout(timeout):
                await self._slots.acquire()
        except TimeoutError:
            raise RequestTimeoutError("no connection was free in time", maybe_sent=False) from None

    def _forget(self, task: asyncio.Task[bytes]) -> None:
        self._tasks.discard(task)
        self._slots.release()
        if not task.cancelled():
            task.exception()  # marks it as seen: the caller may be gone

    async def _under_scope(self, request: Request, timeout: float) -> bytes:  # noqa: ASYNC109
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                return await self._bounded(request, timeout)
            finally:
                self._scopes.discard(scope)
        raise ClosedError("the API client was closed while the request was under way")

    async def _bounded(self, request: Request, timeout: float) -> bytes:  # noqa: ASYNC109
        """Bound the whole exchange: httpx's own timeouts are per phase, and an answer may drip for ever."""
        assert self._http is not None  # noqa: S101 - set when start() has returned
        try:
            with anyio.fail_after(timeout):
                return await exchange(self._http, request, timeout=timeout)
        except TimeoutError as error:
            raise RequestTimeoutError(f"the request took longer than {timeout:g} s") from error

    async def _post_for(self, lease: Lease, events: Sequence[bytes], timeout: float) -> RegisterEventsResponse:  # noqa: ASYNC109
        if self._http is None or self._state is _State.CLOSED or (self._state is _State.CLOSING and not lease.draining):
            raise ConnectionFailedError("the API client is closed", maybe_sent=False)
        await self._take_slot(timeout)
        try:
            answer = await self._bounded(self._request("/register_events", self._events_body(events), _SMALL), timeout)
        finally:
            self._slots.release()
        return _wire.decode_register_events(answer)


def _configured_source(source_id: object) -> int:
    try:
        return check_int32("ApiClient.source_id", source_id)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(str(error)) from None


def _checked_user(user: object) -> User:
    if not isinstance(user, User):
        raise TypeError(f"user must be a User, not {type(user).__name__}")
    return user
