"""The client of the gateway's HTTP API: one coroutine per endpoint, requests in tasks of our own.

What a request looks like is left to `_transport/_codec.py`, how it travels to `_transport/_http.py`, and over what to `_transport/_connections.py`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Final, Self, TypeVar

from bucketeer_async._errors import ConfigurationError, ConnectionFailedError
from bucketeer_async._models import User, check_int32, check_text
from bucketeer_async._options import check_seconds
from bucketeer_async._transport import _codec as _wire
from bucketeer_async._transport._connections import Connections, Lease
from bucketeer_async._transport._endpoint import ApiKey, check_header, normalize_endpoint
from bucketeer_async._transport._http import Answer, HttpClient, Request, new_client
from bucketeer_async._transport._responses import (
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
        make = partial(new_client, ssl_context, proxy, max_connections)
        self._connections = Connections(make, http, max_connections)

    @property
    def source_id(self) -> int:
        """``sourceId`` of events and evaluation requests."""
        return self._source_id

    @property
    def sdk_version(self) -> str:
        """``sdkVersion`` of every request."""
        return self._sdk_version

    def __repr__(self) -> str:
        return f"<ApiClient {self._base} {self._connections.state.value}>"

    # Lifecycle

    async def start(self) -> None:
        """Load certificates and make the connection pool, off the loop; any request does so if need be.

        Raises:
            ClosedError: If it is closing or closed.
            ConfigurationError: If the certificates or the proxy cannot be used.
            WrongLoopError: If it was first used on another event loop.
        """
        await self._connections.start()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Have every processor drain that still runs over the connections, then close them; idempotent.

        So the order in which the two are closed does not matter, nor whether the processor's close was forgotten.
        A cancelled caller stops waiting, and the closing goes on.

        Raises:
            WrongLoopError: If it was first used on another event loop.
        """
        await self._connections.aclose()

    def lease(self, begin_closing: Callable[[], None]) -> Lease:
        """Return a hold on the connections for one processor, whose method `aclose` calls to have it drain."""
        return self._connections.lease(self._post_for, begin_closing)

    # Endpoints

    async def register_events(
        self,
        events: Sequence[bytes],
        *,
        timeout: float | None = None,
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
        body = self._events_body(events)
        return _events_response(await self._send("/register_events", body, timeout=timeout, retry=False))

    async def get_evaluation(
        self,
        user: User,
        feature_id: str,
        *,
        tag: str,
        timeout: float | None = None,
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
        timeout: float | None = None,
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
        timeout: float | None = None,
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
        timeout: float | None = None,
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

    async def ping(self, *, timeout: float | None = None) -> int:
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
        timeout: float | None,
        limit: int = _SMALL,
    ) -> _T:
        """Send a request in a task of its own, and wait for what `decode` makes of the answer."""
        answer = (await self._send(path, body, timeout=timeout, limit=limit)).body
        return decode(answer) if len(answer) <= _PARSED_HERE else await asyncio.to_thread(decode, answer)

    async def _send(
        self,
        path: str,
        body: bytes | None,
        *,
        timeout: float | None,
        limit: int = _SMALL,
        retry: bool = True,
    ) -> Answer:
        await self._connections.start()
        seconds = self._timeout if timeout is None else timeout
        check_seconds("timeout", seconds)
        request = self._request(path, body, limit)
        try:
            return await self._connections.send(request, seconds)
        except ConnectionFailedError as error:
            if not (error.stale and retry):
                raise
            return await self._connections.send(request, seconds)

    async def _post_for(self, events: Sequence[bytes], timeout: float) -> RegisterEventsResponse:
        request = self._request("/register_events", self._events_body(events), _SMALL)
        return _events_response(await self._connections.send_here(request, timeout))


def _events_response(answer: Answer) -> RegisterEventsResponse:
    return replace(_wire.decode_register_events(answer.body), server_time=answer.server_time)


def _configured_source(source_id: object) -> int:
    try:
        return check_int32("ApiClient.source_id", source_id)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(str(error)) from None


def _checked_user(user: object) -> User:
    if not isinstance(user, User):
        raise TypeError(f"user must be a User, not {type(user).__name__}")
    return user
