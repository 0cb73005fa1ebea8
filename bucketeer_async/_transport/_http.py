"""One HTTP request: the only place that knows httpx, whose errors become errors of this package.

httpx and httpx2 have the same surface and unrelated classes, so both are used by name: a client is a `Protocol`, and an
exception is recognized by the names in its ancestry, in `_trace.py`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import anyio

from bucketeer_async._dataclasses import dataclass, field
from bucketeer_async._errors import ApiError, ConfigurationError, DecodeError, RequestTimeoutError
from bucketeer_async._log import GuardedLogger
from bucketeer_async._transport import _network_env
from bucketeer_async._transport._error_responses import status_error, unix_time
from bucketeer_async._transport._trace import Trace, shown_cause, translate, without_frames

if TYPE_CHECKING:
    import httpx

KEEPALIVE_EXPIRY: Final = 45.0  # seconds; the gateway closes an idle connection after 60
_LONGEST_ERROR_BODY: Final = 64 * 1024  # bytes; the gateway's error bodies are far shorter

_CHUNKS_PER_TURN: Final = 100  # of a response
_NO_HEADERS: Final[Mapping[str, str]] = {}
_DEFAULT_HEADERS: Final = {"Accept": "*/*", "Connection": "keep-alive"}  # httpx's, but for those of each request
_LONGEST_COOKIES: Final = 4 * 1024  # bytes of names and values; more than those of several load balancers


class HttpClient(Protocol):
    """The part of ``httpx.AsyncClient`` and ``httpx2.AsyncClient`` that this package uses."""

    @property
    def build_request(self) -> Callable[..., Any]: ...
    @property
    def send(self) -> Callable[..., Awaitable[Any]]: ...
    async def aclose(self) -> None: ...


class NeverSentError(asyncio.CancelledError):
    """The task was cancelled before anything of its request was sent."""


def client_factory(endpoint: str, ssl_context: ssl.SSLContext | None, proxy: str | None) -> Callable[[int], HttpClient]:
    """Return a function that makes HTTP clients for one endpoint, each with at most so many connections.

    Its first call takes a while (certificates, imports), so make that one off the loop.

    Args:
        endpoint: The base URL of the gateway.
        ssl_context: None for the default authorities, or those that the environment names.
        proxy: None for the proxy that the environment names, if any.
    """

    @cache  # which keeps nothing that has raised: the next call tries again
    def chosen_proxy() -> str | None:
        return _environment_proxy(endpoint) if proxy is None else proxy

    def new_client(max_connections: int) -> HttpClient:
        import httpx  # noqa: PLC0415 - 100 ms that an application without a client need not pay

        context, via = ssl_context or _default_ssl_context(endpoint), chosen_proxy()
        limits = httpx.Limits(
            max_connections=max_connections,
            max_keepalive_connections=max_connections,
            keepalive_expiry=KEEPALIVE_EXPIRY,
        )
        try:
            return _OwnClient(httpx.AsyncHTTPTransport(verify=context, proxy=via, limits=limits))
        except (ValueError, httpx.InvalidURL):
            # What the library says about a URL quotes it, and with it the password.
            raise ConfigurationError(
                "ApiClient.proxy, or the one that the environment names, must be a URL such as "
                "'http://name:password@proxy.example.com:3128'; special characters in it must be percent-encoded"
            ) from None

    return new_client


def _default_ssl_context(endpoint: str) -> ssl.SSLContext:
    import httpx  # noqa: PLC0415 - likewise

    if endpoint.startswith("http:"):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # which is not used, and trusts no authority
    origin = _network_env.certificates()
    try:
        return _shared_ssl_context(httpx.create_ssl_context, origin, _network_env.certificates_changed_at())
    except OSError as error:
        raise ConfigurationError(f"the certificates of {origin or 'certifi'} cannot be loaded: {error}") from error


@lru_cache(maxsize=4)
def _shared_ssl_context(create: Callable[[], ssl.SSLContext], *_certificates: object) -> ssl.SSLContext:
    """Return one context for all clients of the process with the same certificates, which take 20 ms to load."""
    context = create()
    context.minimum_version = max(context.minimum_version, ssl.TLSVersion.TLSv1_2)
    return context


def _environment_proxy(endpoint: str) -> str | None:
    proxy, unreadable = _network_env.proxy_for(endpoint)
    if unreadable:
        GuardedLogger(None).warning("NO_PROXY has entries that cannot be read and are ignored: %s", unreadable)
    return proxy


class _OwnClient:
    """An HTTP client of this package's own, which sends what ``httpx.AsyncClient`` would send, and logs no requests.

    That one merges each request with options of its own. This one has none: neither authentication nor redirects, and no
    timeouts but the deadline of the whole request. It keeps cookies, as load balancers want them.

    Attributes:
        is_closed: Whether it is closed.
        is_worn: Whether it may have lost a connection for good: the library neither uses nor closes one whose handshake
            behind a proxy failed, or whose request was cancelled between the handshake and the first byte.
    """

    def __init__(self, transport: httpx.AsyncHTTPTransport) -> None:
        import httpx  # noqa: PLC0415 - likewise

        self.is_closed = False
        self.is_worn = False
        self._transport = transport
        self._cookies = httpx.Cookies()
        self._parsed = cache(httpx.URL)  # of a handful of endpoints

    async def aclose(self) -> None:
        self.is_closed = True
        await self._transport.aclose()

    def build_request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] = _NO_HEADERS,
        content: bytes | None = None,
        extensions: dict[str, Any] | None = None,
        **_timeout: object,
    ) -> httpx.Request:
        import httpx  # noqa: PLC0415 - likewise

        parsed = self._parsed(url)
        length = _NO_HEADERS if content is None else {"Content-Length": str(len(content))}
        request = httpx.Request(
            method,
            parsed,
            headers={"Host": parsed.netloc.decode(), **_DEFAULT_HEADERS, **headers, **length},
            stream=httpx.ByteStream(content or b""),
            extensions=extensions,
        )
        if self._cookies:
            self._cookies.set_cookie_header(request)
        return request

    async def send(self, request: httpx.Request, **_options: object) -> httpx.Response:
        if self.is_closed:
            raise RuntimeError("the HTTP client is closed")
        try:
            response = await self._transport.handle_async_request(request)
        except BaseException:
            self.is_worn = self.is_worn or request.extensions["trace"].stream is not None
            raise
        if "set-cookie" in response.headers:
            response.request = request
            self._keep_cookies(response)
        return response

    def _keep_cookies(self, response: httpx.Response) -> None:
        self._cookies.extract_cookies(response)
        if sum(len(each.name) + len(each.value or "") for each in self._cookies.jar) > _LONGEST_COOKIES:
            self._cookies.clear()  # servers refuse requests with long headers


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """An HTTP request.

    Attributes:
        method: GET or POST.
        url: The whole URL.
        headers: All headers besides Host and Content-Length; with the API key, so not in the repr.
        body: JSON, or None for a GET; with ids and attributes of users, so not in the repr.
        limit: Bytes of the answer that are read at most.
        is_repeatable: Whether the gateway may get it twice: it is then sent again when a connection turns out stale.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(repr=False)
    limit: int
    is_repeatable: bool = True


class Deadline(NamedTuple):
    """When a request must be over.

    Attributes:
        at: The loop's clock, in seconds.
        seconds: The configured timeout, for error messages.
    """

    at: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer with the status 200.

    Attributes:
        body: The body; with ids of users, so not in the repr.
        server_time: The ``Date`` header, in Unix seconds; None if it is missing or cannot be read.
    """

    body: bytes = field(repr=False)
    server_time: float | None


async def send_request(client: HttpClient, request: Request, deadline: Deadline) -> Answer:
    """Send a request and return the answer, if it is a 200. Redirects are not followed.

    Args:
        client: The HTTP client.
        request: The request.
        deadline: When the whole must be over: httpx's timeouts are per phase, and an answer may drip for ever.

    Raises:
        NeverSentError: If the task is cancelled before anything was sent.
        ConnectionFailedError: If no complete answer arrived.
        RequestTimeoutError: If the deadline passed.
        StatusError: If the status is not 200.
        DecodeError: If the body of a 200 is too long, cut off, compressed, or not JSON by its own account.
    """
    trace = Trace()
    seconds = max(0.0, deadline.at - asyncio.get_running_loop().time())
    try:
        with anyio.fail_after(seconds) as trace.scope:
            trace.deadline = trace.scope.deadline
            built = client.build_request(
                request.method,
                request.url,
                headers=request.headers,
                content=request.body,
                timeout=seconds,
                extensions={"trace": trace},
            )
            response = await client.send(built, stream=True, auth=None, follow_redirects=False)
            try:
                return await _read_answer(response, request.limit)
            finally:
                await response.aclose()
    except ApiError:
        raise
    except TimeoutError as error:
        text = f"the request took longer than {deadline.seconds:g} s"
        raise RequestTimeoutError(text, maybe_sent=trace.maybe_sent) from without_frames(error)
    except asyncio.CancelledError as error:
        if trace.maybe_sent:
            raise
        raise NeverSentError(*error.args) from error
    except Exception as error:
        translated = translate(error, trace, request.url)
        if translated is None:
            raise
        raise translated from shown_cause(error)
    finally:
        if trace.stream is not None:
            await trace.close_unused()


async def _read_answer(response: Any, limit: int) -> Answer:
    """Read a 200, or raise what another answer means."""
    headers = response.headers
    if response.status_code != 200:
        raise status_error(response.status_code, headers, await _read_body(response, _LONGEST_ERROR_BODY) or b"")
    if headers.get("content-encoding", "identity").strip().lower() not in {"", "identity"}:
        raise DecodeError("the response is compressed, though identity was requested")
    # No type is fine; an empty page of another server's is no answer of the gateway.
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type and not media_type.endswith(("/json", "+json")):
        raise DecodeError("the response is not JSON, by its Content-Type")
    body = await _read_body(response, limit)
    if body is None:
        raise DecodeError(f"the response is longer than {limit} bytes")
    if not body and _ends_with_connection(response):
        raise DecodeError("the response ends before its body")
    date = headers.get("date")
    return Answer(body, unix_time(date) if date else None)


def _ends_with_connection(response: Any) -> bool:
    """Whether nothing but the end of the connection ends a response, so that one that was cut off looks complete."""
    is_http1: bool = response.extensions.get("http_version", b"").startswith(b"HTTP/1")
    return is_http1 and not any(name in response.headers for name in ("content-length", "transfer-encoding"))


async def _read_body(response: Any, limit: int) -> bytes | None:
    """Return the body, or None if it is longer than ``limit``; what is beyond is not read."""
    if response.is_stream_consumed:  # a mock transport's response may have been read before
        return response.content if len(response.content) <= limit else None
    body, chunks = bytearray(), 0
    async for chunk in response.stream:
        body += chunk
        if len(body) > limit:
            return None
        chunks += 1
        if chunks % _CHUNKS_PER_TURN == 0:
            await asyncio.sleep(0)  # thousands of tiny chunks may have arrived at once
    return bytes(body)
