"""Trace: how far one request has come, and with that, what an error of the HTTP library means."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import anyio

from bucketeer_async._errors import ApiError, ConnectionFailedError, DecodeError, RequestTimeoutError
from bucketeer_async._transport._endpoint import is_loopback

_LONGEST_WORDS: Final = 200  # characters of an error of the library; a proxy's may be of any length
_QUOTE: Final = re.compile(r":? *\b(?:bytearray\()?b['\"].*", re.DOTALL)  # of bytes that were received

_NOT_CONNECTED: Final = frozenset(
    {"ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol", "InvalidURL"}
)
_LIBRARIES: Final = frozenset({"httpx", "httpcore", "httpx2", "httpcore2"})


class Trace:
    """How far one request has come, by the transport's trace events.

    Attributes:
        connected: Whether a new connection was begun for the request.
        sending: Whether the request itself may have left.
        answered: Whether the headers of an answer have arrived.
        has_events: Whether there was any event at all: a transport of the application's may not trace.
        stream: A connection over which nothing was sent yet.
        scope: Ends the request at its deadline.
        deadline: The loop's clock, in seconds.
    """

    __slots__ = ("answered", "connected", "deadline", "has_events", "scope", "sending", "stream")

    def __init__(self) -> None:
        self.connected = False
        self.sending = False
        self.answered = False
        self.has_events = False
        self.stream: Any = None
        self.scope: anyio.CancelScope | None = None
        self.deadline = math.inf

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        self.has_events = True
        is_connecting = self.connected and not self.sending
        if event.endswith("connect_tcp.started"):
            self.connected = True
        elif event.endswith("connect_tcp.complete"):
            self.stream = info.get("return_value")
        elif event.endswith("send_request_headers.started") and not _is_for_proxy(info.get("request")):
            self.sending = True
            self.stream = None
        elif event.endswith("receive_response_headers.complete"):
            self.answered = True
        if is_connecting:
            self._guard(is_ready=event.endswith(("connect_tcp.complete", "start_tls.complete")))

    def _guard(self, *, is_ready: bool) -> None:
        """Suspend the deadline from the end of a handshake to the next event, between which nothing takes time.

        The library neither uses nor closes a connection whose request is cancelled there. It closes one whose trace
        raises.
        """
        assert self.scope is not None  # noqa: S101 - there is one before the request begins
        if is_ready and self.scope.cancel_called:
            raise TimeoutError
        self.scope.deadline = math.inf if is_ready else self.deadline

    @property
    def maybe_sent(self) -> bool:
        """Whether the request itself may have left, as far as is known."""
        return self.sending or not self.has_events

    async def close_unused(self) -> None:
        """Close a connection that was never used, as a cancelled TLS handshake leaves it."""
        with anyio.CancelScope(shield=True):
            await self.stream.aclose()


def _is_for_proxy(request: object) -> bool:
    """Whether a request only asks a proxy for a tunnel, which the gateway does not see."""
    return getattr(request, "method", b"") == b"CONNECT"


def without_frames(error: Exception) -> Exception:
    """Return an error whose causes have no frames: those of the HTTP library hold headers and bodies in variables."""
    cause: BaseException | None = error
    while cause is not None:
        cause.__traceback__ = None
        cause = cause.__cause__
    return error


def shown_cause(error: Exception) -> Exception | None:
    """Return an error without frames, or None if it quotes bytes that were received."""
    return None if _QUOTE.search(str(error)) else without_frames(error)


def translate(error: Exception, trace: Trace, url: str) -> ApiError | None:
    """Return this package's error for one of the HTTP library or of the socket; None for any other."""
    names = {cls.__name__ for cls in type(error).__mro__}
    library = any(cls.__module__.partition(".")[0] in _LIBRARIES for cls in type(error).__mro__)
    # Of a client that is closed, or of a thread for the resolver that cannot be started because the process ends.
    closed = isinstance(error, RuntimeError) and ("closed" in str(error) or "shutdown" in str(error))
    if not library and not closed and not isinstance(error, OSError | UnicodeError):
        return None
    text = _words(error)
    sent = trace.sending if trace.has_events else not (names & _NOT_CONNECTED or closed)
    if "TimeoutException" in names:
        return RequestTimeoutError(f"the gateway did not answer in time ({text})", maybe_sent=sent)
    if "DecodingError" in names:
        return DecodeError(f"the response cannot be decoded ({text})")
    stale = trace.has_events and not trace.connected and not trace.answered
    text = f"the gateway cannot be reached ({text}){_hint(text, url)}"
    return ConnectionFailedError(text, maybe_sent=sent, stale=stale and sent)


def _hint(text: str, url: str) -> str:
    """Return what to do about a server of this host that has no TLS: an endpoint without a scheme means ``https``."""
    host = urlsplit(url)
    if "[SSL: " not in text or "CERTIFICATE_VERIFY_FAILED" in text or not is_loopback(host.hostname or ""):
        return ""
    return f"; if it has no TLS, the endpoint is 'http://{host.netloc}'"


def _words(error: Exception) -> str:
    """Return the name of an error and its message, or else the message of the first cause that has one.

    What the library quotes of a response is left out: the server may have repeated the API key or the user.
    """
    name, cause = type(error).__name__, error
    while not str(cause):
        further = cause.__cause__ or cause.__context__
        if not isinstance(further, Exception):
            return name
        cause = further
    return f"{name}: {_QUOTE.sub('', str(cause))[:_LONGEST_WORDS]}"
