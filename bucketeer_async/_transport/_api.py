"""ApiClient: the gateway's HTTP API, one coroutine per endpoint.

The JSON of a request is left to `_codec.py`, the number of requests at once to `_connections.py`, and sending a request
to `_http.py`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Final, NoReturn, Self, TypeVar

from bucketeer_async._background import PerProcess, in_thread
from bucketeer_async._errors import DecodeError, RequestTimeoutError
from bucketeer_async._lifecycle import NO_COPY
from bucketeer_async._models import User, check_int32, check_tag, check_text, check_user
from bucketeer_async._options import as_option, check_int, check_seconds
from bucketeer_async._transport import _codec
from bucketeer_async._transport._connections import Connections
from bucketeer_async._transport._endpoint import ApiKey, check_connecting, check_header, normalize_endpoint
from bucketeer_async._transport._http import Answer, Deadline, HttpClient, Request, client_factory
from bucketeer_async._transport._lease import Lease
from bucketeer_async._transport._responses import (
    GetEvaluationResponse,
    GetEvaluationsResponse,
    GetFeatureFlagsResponse,
    GetSegmentUsersResponse,
    RegisterEventsResponse,
)
from bucketeer_async._version import __version__

_T = TypeVar("_T")

#: ``sourceId`` of events and evaluation requests: UNKNOWN, because the server has no number for this SDK.
EVENTS_SOURCE_ID: Final = 0
#: ``sourceId`` of the polling endpoints, which refuse 0. Another SDK's number would distort the statistics of that SDK;
#: a number far from the assigned ones (1 to 10 and 100 to 106) is accepted, and clashes with none.
POLLING_SOURCE_ID: Final = 1000

_SMALL: Final = 2**20  # bytes; more than any answer about one user's flag, or about a batch
_LARGE: Final = 64 * 2**20  # bytes; the gateway sends at most 4 MiB of protobuf, which may be many times that as JSON
_DECODED_ON_THE_LOOP: Final = 256 * 1024  # bytes; a longer answer is decoded in a thread


class ApiClient:
    """A client of a Bucketeer gateway.

    It belongs to the event loop that first uses it. Requests run in tasks of their own: a cancelled caller stops
    waiting, and the request ends by itself within its timeout.

    Args:
        endpoint: A host (``"api.example.com"``), or a URL without a path. ``http`` is for loopback addresses.
        api_key: The key as the console shows it. Remote evaluation needs a client key, polling a server key; both
            may register events.
        timeout: Seconds that a whole request may take, unless a call says otherwise: waiting for a connection, a
            second try on a fresh connection, and the last byte included.
        source_id: ``SourceId`` sent with every request. 0, the default, is UNKNOWN: the server has no number for this
            SDK. The polling endpoints refuse 0, and get 1000 instead.
        sdk_version: Sent with every request; None for the version of this package.
        allow_http: Whether ``http`` may be used beyond loopback.
        max_connections: Requests under way at once; posts of events have as many connections of their own. With a
            client of your own: what its limits allow, for both.
        ssl_context: For a private certificate authority or client certificates. Verification is always on.
        proxy: URL of a proxy. None: the proxy that ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` name, if any.
        http: An ``httpx.AsyncClient`` or ``httpx2.AsyncClient`` of your own; the client never closes it.

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
        self._key = ApiKey(api_key)
        del api_key  # error trackers keep the variables of a traceback
        self._base = normalize_endpoint(endpoint, allow_http=allow_http)
        check_seconds("ApiClient.timeout", timeout)
        self._timeout = timeout
        self._source_id = as_option(check_int32, "ApiClient.source_id", source_id)
        self._sdk_version = check_header("ApiClient.sdk_version", __version__ if sdk_version is None else sdk_version)
        check_int("ApiClient.max_connections", max_connections)
        check_connecting(ssl_context, proxy, http)
        new_client = client_factory(self._base, ssl_context, proxy)
        self._connections = PerProcess(lambda: Connections(new_client, http, max_connections))

    @property
    def endpoint(self) -> str:
        """The base URL of the gateway: scheme, host and port."""
        return self._base

    @property
    def source_id(self) -> int:
        """``sourceId`` of events and evaluation requests."""
        return self._source_id

    @property
    def sdk_version(self) -> str:
        """``sdkVersion`` of every request."""
        return self._sdk_version

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"an {type(self).__name__} {NO_COPY}")

    def __repr__(self) -> str:
        if not hasattr(self, "_connections"):  # the constructor has raised, and its variables are shown
            return "<ApiClient>"
        return f"<ApiClient {self._base} {self._connections.get().life.state.value}>"

    # Lifecycle

    async def start(self) -> None:
        """Load certificates and make the connection pool, off the loop; the first request does so otherwise.

        Raises:
            ClosedError: If the client is closing or closed.
            ConfigurationError: If the certificates or the proxy cannot be used. A later call tries again.
            WrongLoopError: If the client was first used on another event loop.
        """
        await self._connections.get().open()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Have every processor drain that still runs over the connections, then close the connections; idempotent.

        So processor and client may be closed in any order, also if closing the processor was forgotten. Requests that
        wait or are under way end with a `ClosedError`. A cancelled caller stops waiting, and the closing goes on.

        Raises:
            WrongLoopError: If the client was first used on another event loop.
        """
        await self._connections.get().aclose()

    def lease(self, begin_closing: Callable[[], None]) -> Lease:
        """Return a lease of the connections for one processor, which `aclose` has drain by ``begin_closing()``."""
        return Lease(self._events_request, self._connections.get(), begin_closing)

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
            The events that the gateway did not take. A 200 does not mean that it took all.

        Raises:
            ApiError: If there was no usable answer.
            ClosedError: If the client is closed.
        """
        request = self._events_request(events)
        del events
        answer = await self._connections.get().send(request, self._deadline(timeout))
        return _decoded(answer, partial(_codec.decode_register_events, server_time=answer.server_time))

    async def get_evaluation(
        self,
        user: User,
        feature_id: str,
        *,
        tag: str,
        timeout: float | None = None,
    ) -> GetEvaluationResponse:
        """Have the gateway evaluate one flag for one user; needs a client key.

        Raises:
            TypeError: If an argument has the wrong type.
            ValueError: If the feature id is empty, or the tag is empty or blank.
            ApiError: If there was no usable answer; a `StatusError` with 404 if the flag is unknown.
            ClosedError: If the client is closed.
        """
        return await self.request_evaluation(user, feature_id, tag=tag, deadline=self._deadline(timeout))

    async def request_evaluation(
        self,
        user: User,
        feature_id: str,
        *,
        tag: str,
        deadline: Deadline,
        on_connection: Callable[[], None] | None = None,
    ) -> GetEvaluationResponse:
        """Have the gateway evaluate one flag, as `get_evaluation` and `RemoteEvaluator` do.

        Args:
            user: The user.
            feature_id: The flag.
            tag: The tag of the flag.
            deadline: When the request must be over.
            on_connection: Called when a connection is free, right before the request leaves. Until then, cancelling the
                caller cancels the request.

        Raises: As `get_evaluation`.
        """
        request = self._request(
            "/get_evaluation",
            _codec.get_evaluation_body(
                check_user(user),
                check_text("feature_id", feature_id, empty=False),
                tag=check_tag("tag", tag, empty=False),
                source_id=self._source_id,
                sdk_version=self._sdk_version,
            ),
        )
        return await self._bounded(request, _codec.decode_get_evaluation, deadline, on_connection)

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
        """Have the gateway evaluate all flags of a tag for one user; needs a client key.

        Args:
            user: The user.
            tag: The tag of the flags; not empty.
            user_evaluations_id: From the previous answer; "" for everything.
            evaluated_at: ``created_at`` of the previous answer, in Unix seconds.
            user_attributes_updated: Whether the attributes have changed since then.
            timeout: Seconds that the request may take.

        Raises:
            TypeError: If an argument has the wrong type.
            ValueError: If the tag is empty or blank.
            ApiError: If there was no usable answer.
            ClosedError: If the client is closed.
        """
        return await self.request_evaluations(
            user,
            tag=tag,
            user_evaluations_id=user_evaluations_id,
            evaluated_at=evaluated_at,
            user_attributes_updated=user_attributes_updated,
            deadline=self._deadline(timeout),
        )

    async def request_evaluations(
        self,
        user: User,
        *,
        tag: str,
        user_evaluations_id: str = "",
        evaluated_at: int = 0,
        user_attributes_updated: bool = False,
        deadline: Deadline,
        on_connection: Callable[[], None] | None = None,
    ) -> GetEvaluationsResponse:
        """Have the gateway evaluate all flags of a tag, as `get_evaluations` and `RemoteEvaluator` do.

        Args:
            user: As in `get_evaluations`.
            tag: As in `get_evaluations`.
            user_evaluations_id: As in `get_evaluations`.
            evaluated_at: As in `get_evaluations`.
            user_attributes_updated: As in `get_evaluations`.
            deadline: As in `request_evaluation`.
            on_connection: As in `request_evaluation`.

        Raises: As `get_evaluations`.
        """
        request = self._request(
            "/get_evaluations",
            _codec.get_evaluations_body(
                check_user(user),
                tag=check_tag("tag", tag, empty=False),
                user_evaluations_id=check_text("user_evaluations_id", user_evaluations_id),
                evaluated_at=evaluated_at,
                user_attributes_updated=user_attributes_updated,
                source_id=self._source_id,
                sdk_version=self._sdk_version,
            ),
            _LARGE,
        )
        return await self._bounded(request, _codec.decode_get_evaluations, deadline, on_connection)

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
            ValueError: If the tag is blank.
            ApiError: If there was no usable answer.
            ClosedError: If the client is closed.
        """
        body = _codec.get_feature_flags_body(
            tag=check_tag("tag", tag),
            feature_flags_id=check_text("feature_flags_id", feature_flags_id),
            requested_at=requested_at,
            source_id=self._source_id or POLLING_SOURCE_ID,
            sdk_version=self._sdk_version,
        )
        request = self._request("/get_feature_flags", body, _LARGE)
        return await self._call(request, _codec.decode_get_feature_flags, self._deadline(timeout))

    async def get_segment_users(
        self,
        *,
        segment_ids: Sequence[str] = (),
        requested_at: int = 0,
        timeout: float | None = None,
    ) -> GetSegmentUsersResponse:
        """Poll the members of segments; needs a server key.

        Args:
            segment_ids: The segments that are cached; the answer names those that are gone.
            requested_at: From the previous answer.
            timeout: Seconds that the request may take.

        Raises:
            TypeError: If an argument has the wrong type.
            ApiError: If there was no usable answer.
            ClosedError: If the client is closed.
        """
        body = _codec.get_segment_users_body(
            segment_ids=[check_text("an entry of segment_ids", each) for each in segment_ids],
            requested_at=requested_at,
            source_id=self._source_id or POLLING_SOURCE_ID,
            sdk_version=self._sdk_version,
        )
        request = self._request("/get_segment_users", body, _LARGE)
        return await self._call(request, _codec.decode_get_segment_users, self._deadline(timeout))

    async def ping(self, *, timeout: float | None = None) -> int:
        """Check that the gateway can be reached; needs no valid key.

        Returns:
            The server's time, in Unix seconds.

        Raises:
            ApiError: If there was no usable answer.
            ClosedError: If the client is closed.
        """
        return await self._call(self._request("/ping", None), _codec.decode_ping, self._deadline(timeout))

    async def post_nothing(self, path: str, *, timeout: float | None = None) -> None:
        """Post an empty JSON object to an endpoint, which refuses it (400) only once it has taken the API key.

        Raises:
            ApiError: If the response is not a JSON object with status 200: usually a `StatusError`.
            ClosedError: If the client is closed.
        """
        await self._call(self._request(path, b"{}"), _codec.json_object, self._deadline(timeout))

    # One way for all requests

    # No frame that waits for a request keeps a body in a variable: error trackers keep the variables of a traceback.

    def _request(self, path: str, body: bytes | None, limit: int = _SMALL, *, is_repeatable: bool = True) -> Request:
        headers = {
            "authorization": self._key.reveal(),
            "content-type": "application/json",
            "accept-encoding": "identity",
            "user-agent": f"bucketeer-async/{__version__}",
        }
        method = "GET" if body is None else "POST"
        return Request(
            method=method, url=self._base + path, headers=headers, body=body, limit=limit, is_repeatable=is_repeatable
        )

    def _events_request(self, events: Sequence[bytes]) -> Request:
        body = _codec.register_events_body(events, source_id=self._source_id, sdk_version=self._sdk_version)
        return self._request("/register_events", body, is_repeatable=False)

    async def _bounded(
        self,
        request: Request,
        decode: Callable[[bytes], _T],
        deadline: Deadline,
        on_connection: Callable[[], None] | None,
    ) -> _T:
        """As `_call`; the deadline bounds the decoding of a large answer, too."""
        try:
            async with asyncio.timeout_at(deadline.at):
                return await self._call(request, decode, deadline, on_connection)
        except TimeoutError as error:
            raise RequestTimeoutError(f"the request took longer than {deadline.seconds:g} s") from error

    async def _call(
        self,
        request: Request,
        decode: Callable[[bytes], _T],
        deadline: Deadline,
        on_connection: Callable[[], None] | None = None,
    ) -> _T:
        """Send a request in a task of its own, and return its decoded answer."""
        answer = await self._connections.get().send(request, deadline, on_connection)
        if len(answer.body) <= _DECODED_ON_THE_LOOP:
            return _decoded(answer, decode)
        return await in_thread(_decoded, answer, decode)

    def _deadline(self, timeout: float | None) -> Deadline:
        seconds = self._timeout if timeout is None else timeout
        check_seconds("timeout", seconds)
        return Deadline(asyncio.get_running_loop().time() + seconds, seconds)


def _decoded(answer: Answer, decode: Callable[[bytes], _T]) -> _T:
    try:
        return decode(answer.body)
    except DecodeError as error:
        raise error.with_traceback(None) from None  # the frames of a decoder have the body
