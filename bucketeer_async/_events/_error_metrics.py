"""The metrics message for each class of error. Encoding the message is left to `_encoder.py`.

The table of statuses is the one of Bucketeer's Go SDK.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from bucketeer_async._dataclasses import dataclass, field
from bucketeer_async._errors import ConnectionFailedError, RequestTimeoutError, StatusError
from bucketeer_async._retry import refuses_key

_LONGEST_MESSAGE: Final = 500  # characters; the gateway only logs the message

_BY_STATUS: Final = {
    400: "BadRequestErrorMetricsEvent",
    404: "NotFoundErrorMetricsEvent",
    405: "InternalSdkErrorMetricsEvent",
    408: "TimeoutErrorMetricsEvent",
    413: "PayloadTooLargeExceptionEvent",
    499: "ClientClosedRequestErrorMetricsEvent",
    500: "InternalServerErrorMetricsEvent",
    502: "ServiceUnavailableErrorMetricsEvent",
    503: "ServiceUnavailableErrorMetricsEvent",
    504: "TimeoutErrorMetricsEvent",
}


@dataclass(frozen=True, slots=True)
class ErrorDetail:
    """The name of a message in ``bucketeer.event.client``, and its labels besides ``tag``."""

    message: str
    labels: Mapping[str, str] = field(default_factory=dict)


def error_detail(error: BaseException) -> ErrorDetail | None:
    """Return the metrics message for an error, or None for the statuses 401 and 403, which are only logged."""
    if isinstance(error, StatusError):
        return _status_detail(error)
    if isinstance(error, RequestTimeoutError | TimeoutError):
        return ErrorDetail("TimeoutErrorMetricsEvent")
    if isinstance(error, ConnectionFailedError | OSError):
        return ErrorDetail("NetworkErrorMetricsEvent")
    return ErrorDetail("InternalSdkErrorMetricsEvent", {"error_message": _message(error)})


def _status_detail(error: StatusError) -> ErrorDetail | None:
    status = error.status_code
    if refuses_key(error):
        return None
    if 300 <= status < 400:
        return ErrorDetail("RedirectionRequestExceptionEvent", {"response_code": str(status)})
    message = _BY_STATUS.get(status)
    if message is None:
        return ErrorDetail("UnknownErrorMetricsEvent", {"response_code": str(status), "error_message": _message(error)})
    if message == "InternalSdkErrorMetricsEvent":
        return ErrorDetail(message, {"error_message": _message(error)})
    return ErrorDetail(message)


def _message(error: BaseException) -> str:
    try:
        text = str(error) or type(error).__name__
    except Exception:  # noqa: BLE001 - __str__ of an application's exception may raise anything
        text = type(error).__name__
    return text[:_LONGEST_MESSAGE].encode(errors="replace").decode()
