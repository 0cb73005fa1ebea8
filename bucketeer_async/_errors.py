"""The exceptions of this package.

::

    BucketeerError
    ├── ConfigurationError (also ValueError)   an option is invalid; the message names it and what is accepted
    ├── ClosedError                            the object is used before start() or after aclose()
    ├── NotReadyError                          no flags have been received yet
    ├── WrongLoopError                         awaited on another event loop than the object was started on
    ├── UndeliveredError                       events were left when a drain ended
    └── ApiError                               a request to the gateway failed
        ├── ConnectionFailedError              no complete HTTP response: refused, reset, DNS, TLS
        │   └── RequestTimeoutError            the request timed out
        ├── StatusError                        an HTTP status other than 200
        └── DecodeError                        a response that cannot be decoded

Invalid arguments (a user without an id, a goal value that is not finite) raise the built-in ``TypeError`` or
``ValueError``.
"""

from __future__ import annotations

import re
from typing import Final

_OWN_WORDS: Final = r"gateway: [A-Za-z_ ]{1,100}"


class BucketeerError(Exception):
    """Base class of the exceptions of this package."""


class ConfigurationError(BucketeerError, ValueError):
    """An option is invalid. The message names the option and what is accepted."""


class ClosedError(BucketeerError):
    """An object was used before it was started, or after it began to close."""


class NotReadyError(BucketeerError):
    """No flags have been received yet. Await ``wait_ready()`` first."""


class WrongLoopError(BucketeerError):
    """A coroutine was awaited on another event loop than its object was started on."""


class UndeliveredError(BucketeerError):
    """A drain ended before all events were delivered. Raised by ``DrainReport.raise_for_undelivered()``."""


class ApiError(BucketeerError):
    """A request to the gateway failed."""


class ConnectionFailedError(ApiError):
    """No complete HTTP response was received, for example because the connection was refused or reset.

    Failures of DNS and TLS raise this error too.

    Attributes:
        maybe_sent: False if the gateway certainly did not receive the request.
        stale: True if the request failed because the gateway had closed an idle connection that was reused.
    """

    def __init__(self, message: str, *, maybe_sent: bool = True, stale: bool = False) -> None:
        super().__init__(message)
        self.maybe_sent = maybe_sent
        self.stale = stale


class RequestTimeoutError(ConnectionFailedError):
    """The request timed out before the response was complete."""


class StatusError(ApiError):
    """The gateway, or a proxy before it, responded with an HTTP status other than 200.

    The text of the error has the message of the response only if the message is in the gateway's own words: any other
    one may quote the request, and with it the API key or the user.

    Attributes:
        status_code: The HTTP status. It may be unknown to ``http.HTTPStatus``, for example 499.
        code: gRPC code in the gateway's JSON error body; None if the body is not from the gateway.
        detail: Message in the gateway's JSON error body; "" if the body is not from the gateway.
        retry_after: Seconds from the ``Retry-After`` header; None if the response has no such header.
    """

    def __init__(
        self, status_code: int, *, code: int | None = None, detail: str = "", retry_after: float | None = None
    ) -> None:
        words = own_words(detail)
        super().__init__(f"the gateway answered {status_code}" + (f": {words}" if words else ""))
        self.status_code = status_code
        self.code = code
        self.detail = detail
        self.retry_after = retry_after


class DecodeError(ApiError):
    """A response with status 200 cannot be decoded: not JSON, a field is missing or of the wrong type, or too long."""


def own_words(message: str) -> str:
    """Return a message of the gateway if it is in its own words, which quote nothing of a request; "" otherwise."""
    return message if re.fullmatch(_OWN_WORDS, message) else ""
