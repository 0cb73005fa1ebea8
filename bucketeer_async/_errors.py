"""The exception tree. Everything this package raises for a reason of its own is in here.

::

    BucketeerError
    ├── ConfigurationError (also ValueError)   an option is wrong; names the field and the accepted form
    ├── ClosedError                            used before start() or after aclose()
    ├── NotReadyError                          there are no flags to export yet
    ├── WrongLoopError                         awaited on another event loop than the one that started it
    ├── UndeliveredError                       DrainReport.raise_for_undelivered(): events were left behind
    └── ApiError                               a request to the gateway had no usable answer
        ├── ConnectionFailedError              no complete HTTP answer: refused, reset, DNS, TLS
        │   └── RequestTimeoutError            the deadline of the request passed
        ├── StatusError                        an HTTP answer other than 200
        └── DecodeError                        a 200 that cannot be read

Wrong values (a user without an id, a goal value that is not finite) raise the built-in ``TypeError``
and ``ValueError``.
"""

from __future__ import annotations


class BucketeerError(Exception):
    """Base of every exception of this package."""


class ConfigurationError(BucketeerError, ValueError):
    """An option is wrong. The message names the field and the accepted form."""


class ClosedError(BucketeerError):
    """The object is not started yet, is closing, or is closed."""


class NotReadyError(BucketeerError):
    """No flags have arrived yet: await ``wait_ready()`` first."""


class WrongLoopError(BucketeerError):
    """A coroutine was awaited on another event loop than the one its object was started on."""


class UndeliveredError(BucketeerError):
    """A drain ended with events that were not delivered."""


class ApiError(BucketeerError):
    """A request to the gateway had no usable answer."""


class ConnectionFailedError(ApiError):
    """No complete HTTP answer arrived: refused, reset, name not found, TLS refused.

    Attributes:
        maybe_sent: False if it is certain that the server never saw the request.
        stale: True if a reused idle connection turned out to be closed by the server.
    """

    def __init__(self, message: str, *, maybe_sent: bool = True, stale: bool = False) -> None:
        super().__init__(message)
        self.maybe_sent = maybe_sent
        self.stale = stale


class RequestTimeoutError(ConnectionFailedError):
    """The deadline of the request passed before the answer was complete."""


class StatusError(ApiError):
    """The gateway, or something before it, answered with a status other than 200.

    Attributes:
        status_code: The HTTP status, which may be one that ``http.HTTPStatus`` does not know (499).
        code: The gRPC code of the gateway's JSON error body, or None if the body is not the gateway's.
        detail: The ``message`` of that body, or "".
        retry_after: Seconds that the ``Retry-After`` header asks for, or None.
    """

    def __init__(
        self, status_code: int, *, code: int | None = None, detail: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(f"the gateway answered {status_code}" + (f": {detail}" if detail else ""))
        self.status_code = status_code
        self.code = code
        self.detail = detail
        self.retry_after = retry_after


class DecodeError(ApiError):
    """A 200 whose body is not a readable answer: not JSON, wrong types, too long."""
