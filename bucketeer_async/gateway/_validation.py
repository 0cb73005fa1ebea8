"""Validation of decoded requests, in the server's order and with the server's messages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from bucketeer_async._models import EventKind, ReasonType
from bucketeer_async._proto._pool import message_class

OLDEST_EVENT: Final = 744 * 3600  # seconds before now
FURTHEST_EVENT: Final = 3600  # seconds after now

# The server's expression contains the literal | by mistake.
_EVENT_ID: Final = re.compile(r"[a-fA-F0-9]{8}-[a-fA-F0-9]{4}-4[a-fA-F0-9]{3}-[89aAbB|][a-fA-F0-9]{3}-[a-fA-F0-9]{12}")
_CLIENT: Final = "bucketeer.event.client."
_KINDS: Final = {
    f"{_CLIENT}EvaluationEvent": EventKind.EVALUATION,
    f"{_CLIENT}GoalEvent": EventKind.GOAL,
    f"{_CLIENT}MetricsEvent": EventKind.METRICS,
}
_DEFAULT_REASONS: Final = frozenset(int(reason) for reason in ReasonType if reason.is_error)


class RefusedRequestError(Exception):
    """The gateway refuses the whole request.

    Attributes:
        status: HTTP status of the response.
        code: gRPC code of the response.
    """

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def invalid_argument(message: str) -> RefusedRequestError:
    """Return the error for a request with a missing field."""
    return RefusedRequestError(400, 3, message)


@dataclass(frozen=True, slots=True)
class CheckedEvent:
    """A validated event of a request.

    Attributes:
        event_id: Id of the event.
        kind: Kind of the event; None if the message has another type.
        message: The decoded message of the event; None if the message has another type.
        error: Why the event is rejected; "" if it is valid.
    """

    event_id: str
    kind: EventKind | None
    message: Any
    error: str


def check_events(request: Any, now: int) -> list[CheckedEvent]:
    """Validate the events of a ``RegisterEventsRequest``.

    Raises:
        RefusedRequestError: If the request has no events, or an event has no id.
    """
    if not request.events:
        raise invalid_argument("gateway: missing events")
    for event in request.events:
        if not event.id:
            raise invalid_argument("gateway: missing event id")
    return [_check(event, now) for event in request.events]


def _check(event: Any, now: int) -> CheckedEvent:
    name = event.event.type_url.rpartition("/")[2]
    kind = _KINDS.get(name)
    if kind is None:
        return CheckedEvent(event.id, None, None, "Invalid message type")
    message = message_class(name).FromString(event.event.value)
    if not _EVENT_ID.fullmatch(event.id):
        return CheckedEvent(event.id, kind, message, "gateway: invalid event id format")
    return CheckedEvent(event.id, kind, message, _CHECKS[kind](message, now))


def _evaluation_error(event: Any, now: int) -> str:
    if not event.feature_id:
        return "gateway: feature_id is empty"
    if not event.variation_id and event.reason.type not in _DEFAULT_REASONS:
        return "gateway: variation_id is empty"
    if not (event.user_id or event.user.id):
        return "gateway: user_id is empty"
    if not event.HasField("reason"):
        return "gateway: reason is nil"
    return _timestamp_error(event.timestamp, now)


def _goal_error(event: Any, now: int) -> str:
    if not event.goal_id:
        return "gateway: goal_id is empty"
    if not (event.user_id or event.user.id):
        return "gateway: user_id is empty"
    return _timestamp_error(event.timestamp, now)


def _metrics_error(_event: Any, _now: int) -> str:
    return ""


def _timestamp_error(timestamp: int, now: int) -> str:
    in_window = now - OLDEST_EVENT <= timestamp <= now + FURTHEST_EVENT
    return "" if in_window else "gateway: invalid event timestamp"


_CHECKS: Final = {
    EventKind.EVALUATION: _evaluation_error,
    EventKind.GOAL: _goal_error,
    EventKind.METRICS: _metrics_error,
}


def check_user(request: Any) -> None:
    """Check that a request has a user with an id.

    Raises:
        RefusedRequestError: If the user or the id is missing.
    """
    if not request.HasField("user"):
        raise invalid_argument("gateway: user is required")
    if not request.user.id:
        raise invalid_argument("gateway: user id is required")


def check_get_evaluation(request: Any) -> None:
    """Check the required fields of a ``GetEvaluationRequest``.

    Raises:
        RefusedRequestError: If a field is missing.
    """
    if not request.tag:
        raise invalid_argument("gateway: tag is required")
    check_user(request)
    if not request.feature_id:
        raise invalid_argument("gateway: feature id is required")


def check_poll(request: Any) -> None:
    """Check the required fields of a ``GetFeatureFlagsRequest`` or ``GetSegmentUsersRequest``.

    Raises:
        RefusedRequestError: If a field is missing.
    """
    if request.source_id == 0:
        raise invalid_argument("gateway: source id is required")
    if not request.sdk_version:
        raise invalid_argument("gateway: sdk version is required")
