"""The endpoints of the API; the checks that all endpoints share run first, in the server's order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from bucketeer_async._models import EventKind
from bucketeer_async._proto.gateway import service_pb2 as pb
from bucketeer_async.gateway import _evaluations, _polls
from bucketeer_async.gateway import _validation as validation
from bucketeer_async.gateway._decoding import decode
from bucketeer_async.gateway._json import UndecodableError
from bucketeer_async.gateway._polls import JsonObject
from bucketeer_async.gateway._state import Fault, GatewayState, RecordedEvent
from bucketeer_async.gateway._validation import RefusedRequestError, check_events

MAX_MESSAGE: Final = 4 * 2**20  # bytes in binary protobuf


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint of the API.

    Attributes:
        request: Returns an empty request message.
        roles: Roles of the API keys that may use the endpoint.
        respond: Returns the response to a decoded request, or raises a `RefusedRequestError`.
    """

    request: Callable[[], Any]
    roles: frozenset[str]
    respond: Callable[[GatewayState, Any, Fault | None], JsonObject]


def handle(state: GatewayState, endpoint: Endpoint, key: str, body: bytes, fault: Fault | None) -> JsonObject:
    """Return the response to a request.

    The body is decoded, its size is checked, the key is checked, and then the endpoint makes its own checks.

    Raises:
        RefusedRequestError: If the whole request is refused.
    """
    if not key.isascii() or any(character < " " or character == "\x7f" for character in key):
        text = 'header key "authorization" contains value with non-printable ASCII characters'
        raise RefusedRequestError(500, 13, text)
    request = endpoint.request()
    try:
        decode(body, request)
    except UndecodableError as error:
        raise RefusedRequestError(400, 3, str(error)) from None
    if (size := request.ByteSize()) > MAX_MESSAGE:
        raise RefusedRequestError(429, 8, f"grpc: received message larger than max ({size} vs. {MAX_MESSAGE})")
    _check_key(state, key, endpoint.roles)
    return endpoint.respond(state, request, fault)


def _check_key(state: GatewayState, key: str, roles: frozenset[str]) -> None:
    if not key:
        raise RefusedRequestError(401, 16, "gateway: missing APIKey")
    found = state.keys.get(key)
    if found is None:
        raise RefusedRequestError(403, 7, "gateway: invalid APIKey")
    if found.role not in roles:
        raise RefusedRequestError(403, 7, "gateway: bad role")
    if found.environment_disabled or found.disabled:
        raise RefusedRequestError(403, 7, "gateway: disabled APIKey")


def _register_events(state: GatewayState, request: Any, fault: Fault | None) -> JsonObject:
    errors: dict[str, Any] = {}
    accepted = []
    for checked in check_events(request, int(state.now())):
        if checked.error or checked.kind is None:
            errors[checked.event_id] = {"retriable": False, "message": checked.error}
        elif checked.kind is not EventKind.METRICS and fault is not None and state.fails_event(fault):
            errors[checked.event_id] = {"retriable": fault.retriable, "message": fault.message}
        else:
            accepted.append(RecordedEvent(checked.event_id, checked.kind, checked.message))
    state.record(accepted)
    return {"errors": errors}


def _get_evaluation(state: GatewayState, request: Any, _fault: Fault | None) -> JsonObject:
    validation.check_get_evaluation(request)
    return _evaluations.evaluation(state.environment, request, int(state.now()))


def _get_evaluations(state: GatewayState, request: Any, _fault: Fault | None) -> JsonObject:
    validation.check_user(request)
    return _evaluations.evaluations(state.environment, request, int(state.now()))


def _get_feature_flags(state: GatewayState, request: Any, _fault: Fault | None) -> JsonObject:
    validation.check_poll(request)
    return _polls.feature_flags(state.environment, request, int(state.now()))


def _get_segment_users(state: GatewayState, request: Any, _fault: Fault | None) -> JsonObject:
    validation.check_poll(request)
    return _polls.segment_users(state.environment, request, int(state.now()))


_CLIENT: Final = frozenset({"SDK_CLIENT"})
_SERVER: Final = frozenset({"SDK_SERVER"})

#: The POST endpoints by path.
ENDPOINTS: Final[Mapping[str, Endpoint]] = {
    "/register_events": Endpoint(pb.RegisterEventsRequest, _CLIENT | _SERVER, _register_events),
    "/get_evaluation": Endpoint(pb.GetEvaluationRequest, _CLIENT, _get_evaluation),
    "/get_evaluations": Endpoint(pb.GetEvaluationsRequest, _CLIENT, _get_evaluations),
    "/get_feature_flags": Endpoint(pb.GetFeatureFlagsRequest, _SERVER, _get_feature_flags),
    "/get_segment_users": Endpoint(pb.GetSegmentUsersRequest, _SERVER, _get_segment_users),
}
