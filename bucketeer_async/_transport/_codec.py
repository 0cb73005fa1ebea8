"""The gateway's JSON: an encoder of requests and a decoder of responses for each endpoint.

Requests are encoded as proto3 JSON without protobuf, because loading protobuf would block the event loop for 100 ms.
The tests compare the encoders with protobuf's. In responses, unknown fields are ignored, an int64 may be a string, and
a field of the wrong type raises a `DecodeError`.

The response to a poll replaces or empties what is cached, so less of it is tolerated. Servers of all versions write all
of its fields, empty or not. If a field is missing, the body is not from the gateway, or not whole: an ``{}`` must not be
read as "no flags". Such a body raises a `DecodeError`, as do texts that are not valid Unicode.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from json.encoder import encode_basestring
from typing import Any, Final, TypeVar

from bucketeer_async._errors import DecodeError
from bucketeer_async._go_numbers import integer
from bucketeer_async._models import Evaluation, Reason, ReasonType, User, shown
from bucketeer_async._nesting import MAX_DEPTH, check_nesting
from bucketeer_async._transport._json_reader import UnicodeReader
from bucketeer_async._transport._responses import (
    Definitions,
    EventError,
    GetEvaluationResponse,
    GetEvaluationsResponse,
    GetFeatureFlagsResponse,
    GetSegmentUsersResponse,
    RegisterEventsResponse,
)

_T = TypeVar("_T")

_REASONS: Final = {reason.name: reason for reason in ReasonType}

_NO_ERRORS: Final = {b'{"errors":{}}', b"{}", b""}  # the usual responses to posts of events, which need no parsing

# The fields of responses to polls, as in the first server that had the endpoints; none has come since.
_FLAGS_FIELDS: Final = ("featureFlagsId", "features", "archivedFeatureFlagIds", "requestedAt", "forceUpdate")
_SEGMENTS_FIELDS: Final = ("segmentUsers", "deletedSegmentIds", "requestedAt", "forceUpdate")


# Requests


def register_events_body(events: Sequence[bytes], *, source_id: int, sdk_version: str) -> bytes:
    """Return a ``RegisterEventsRequest`` of encoded events, which are not encoded again, and copied only once."""
    parts = list(events) or [b""]
    parts[0] = b'{"events":[' + parts[0]
    parts[-1] += f'],"sdkVersion":{encode_basestring(sdk_version)},"sourceId":{source_id:d}}}'.encode()
    return b",".join(parts)


def _encode(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


def _present(**fields: Any) -> dict[str, Any]:
    """Return the fields that do not have their default, as proto3 JSON does."""
    return {name: value for name, value in fields.items() if value}


def _user(user: User) -> dict[str, Any]:
    return _present(id=user.id, data=dict(user.attributes))


def _int64(name: str, value: object) -> str:
    """Return an int64 in proto3 JSON, a string; "" for the default.

    Raises:
        TypeError: If the value is not an int.
        ValueError: If the value is out of range.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{name} must be a signed 64-bit integer, not {shown(value)}")
    return str(value) if value else ""


def get_evaluation_body(user: User, feature_id: str, *, tag: str, source_id: int, sdk_version: str) -> bytes:
    """Return a ``GetEvaluationRequest``."""
    fields = _present(tag=tag, user=_user(user), featureId=feature_id, sourceId=source_id, sdkVersion=sdk_version)
    return _encode(fields)


def get_evaluations_body(
    user: User,
    *,
    tag: str,
    user_evaluations_id: str,
    evaluated_at: int,
    user_attributes_updated: bool,
    source_id: int,
    sdk_version: str,
) -> bytes:
    """Return a ``GetEvaluationsRequest``."""
    if not isinstance(user_attributes_updated, bool):
        raise TypeError(f"user_attributes_updated must be a bool, not {type(user_attributes_updated).__name__}")
    fields = _present(
        tag=tag,
        user=_user(user),
        userEvaluationsId=user_evaluations_id,
        sourceId=source_id,
        sdkVersion=sdk_version,
    )
    # Sent even if it is empty: without this field, the gateway always responds with all evaluations.
    fields["userEvaluationCondition"] = _present(
        evaluatedAt=_int64("evaluated_at", evaluated_at), userAttributesUpdated=user_attributes_updated
    )
    return _encode(fields)


def get_feature_flags_body(
    *, tag: str, feature_flags_id: str, requested_at: int, source_id: int, sdk_version: str
) -> bytes:
    """Return a ``GetFeatureFlagsRequest``."""
    fields = _present(
        tag=tag,
        featureFlagsId=feature_flags_id,
        requestedAt=_int64("requested_at", requested_at),
        sourceId=source_id,
        sdkVersion=sdk_version,
    )
    return _encode(fields)


def get_segment_users_body(*, segment_ids: Sequence[str], requested_at: int, source_id: int, sdk_version: str) -> bytes:
    """Return a ``GetSegmentUsersRequest``."""
    fields = _present(
        segmentIds=list(segment_ids),
        requestedAt=_int64("requested_at", requested_at),
        sourceId=source_id,
        sdkVersion=sdk_version,
    )
    return _encode(fields)


# Responses


def json_object(body: bytes) -> dict[str, Any]:
    """Parse the body of a response.

    Raises:
        DecodeError: If the body is not a JSON object.
    """
    try:
        parsed = json.loads(body)
        if body.count(b"[") + body.count(b"{") > MAX_DEPTH:
            check_nesting(body.decode())
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"the response is not JSON: {type(error).__name__}") from None
    if not isinstance(parsed, dict):
        raise DecodeError(f"the response is not a JSON object but {type(parsed).__name__}")
    return parsed


def _field(fields: dict[str, Any], name: str, kind: type[_T], default: _T) -> _T:
    value = fields.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise DecodeError(f"{name} is not {kind.__name__} but {type(value).__name__}")
    return value


def _integer(fields: dict[str, Any], name: str) -> int:
    value = fields.get(name)
    number = integer(value) if isinstance(value, str) else _field(fields, name, int, 0)
    if number is None or not -(2**63) <= number < 2**63:
        raise DecodeError(f"{name} is not a 64-bit integer")
    return number


def _list(fields: dict[str, Any], name: str, kind: type[_T]) -> list[_T]:
    values: list[_T] = _field(fields, name, list, [])
    if not all(isinstance(value, kind) for value in values):
        raise DecodeError(f"{name} has an entry that is not {kind.__name__}")
    return values


def decode_register_events(body: bytes, server_time: float | None = None) -> RegisterEventsResponse:
    """Decode a ``RegisterEventsResponse``; an empty body means that all events were accepted."""
    if body.strip() in _NO_ERRORS:
        return RegisterEventsResponse(errors={}, server_time=server_time)
    errors: dict[str, Any] = _field(json_object(body), "errors", dict, {})
    return RegisterEventsResponse(
        errors={event_id: _event_error(error) for event_id, error in errors.items()}, server_time=server_time
    )


def _event_error(error: object) -> EventError:
    if not isinstance(error, dict):
        raise DecodeError(f"an entry of errors is not an object but {type(error).__name__}")
    return EventError(_field(error, "retriable", bool, False), _field(error, "message", str, ""))  # noqa: FBT003


def _evaluation(fields: dict[str, Any]) -> Evaluation:
    reason: dict[str, Any] = _field(fields, "reason", dict, {})
    try:
        return Evaluation(
            feature_id=_field(fields, "featureId", str, ""),
            variation_id=_field(fields, "variationId", str, ""),
            feature_version=_integer(fields, "featureVersion"),
            user_id=_field(fields, "userId", str, ""),
            variation_name=_field(fields, "variationName", str, ""),
            variation_value=_field(fields, "variationValue", str, ""),
            reason=Reason(_reason_type(reason.get("type")), _field(reason, "ruleId", str, "")),
        )
    except (TypeError, ValueError) as error:
        raise DecodeError(f"the evaluation cannot be used: {error}") from None  # the frames of the cause have the user


def _reason_type(value: object) -> ReasonType:
    """Decode a reason type, given as a name or a number; absent is TARGET, and an unknown type is DEFAULT."""
    if value is None:
        return ReasonType.TARGET
    if isinstance(value, str):
        return _REASONS.get(value, ReasonType.DEFAULT)
    return next((reason for reason in ReasonType if reason == value), ReasonType.DEFAULT)


def decode_get_evaluation(body: bytes) -> GetEvaluationResponse:
    """Decode a ``GetEvaluationResponse``."""
    evaluation: dict[str, Any] = _field(json_object(body), "evaluation", dict, {})
    return GetEvaluationResponse(evaluation=_evaluation(evaluation) if evaluation else None, size_byte=len(body))


def decode_get_evaluations(body: bytes) -> GetEvaluationsResponse:
    """Decode a ``GetEvaluationsResponse``."""
    fields = json_object(body)
    evaluations: dict[str, Any] = _field(fields, "evaluations", dict, {})
    return GetEvaluationsResponse(
        evaluations=[_evaluation(each) for each in _list(evaluations, "evaluations", dict)],
        archived_feature_ids=_list(evaluations, "archivedFeatureIds", str),
        user_evaluations_id=_field(fields, "userEvaluationsId", str, ""),
        created_at=_integer(evaluations, "createdAt"),
        force_update=_field(evaluations, "forceUpdate", bool, False),  # noqa: FBT003
        size_byte=len(body),
    )


def decode_get_feature_flags(body: bytes) -> GetFeatureFlagsResponse:
    """Decode a ``GetFeatureFlagsResponse``, without parsing the flag definitions."""
    fields, features = _split_definitions(body, "features")
    _require(fields, _FLAGS_FIELDS)
    return GetFeatureFlagsResponse(
        features=features,
        archived_feature_flag_ids=_list(fields, "archivedFeatureFlagIds", str),
        feature_flags_id=_field(fields, "featureFlagsId", str, ""),
        requested_at=_integer(fields, "requestedAt"),
        force_update=_field(fields, "forceUpdate", bool, False),  # noqa: FBT003
        size_byte=len(body),
    )


def decode_get_segment_users(body: bytes) -> GetSegmentUsersResponse:
    """Decode a ``GetSegmentUsersResponse``, without parsing the segments."""
    fields, segment_users = _split_definitions(body, "segmentUsers", within="users")
    _require(fields, _SEGMENTS_FIELDS)
    return GetSegmentUsersResponse(
        segment_users=segment_users,
        deleted_segment_ids=_list(fields, "deletedSegmentIds", str),
        requested_at=_integer(fields, "requestedAt"),
        force_update=_field(fields, "forceUpdate", bool, False),  # noqa: FBT003
        size_byte=len(body),
    )


def _require(fields: dict[str, Any], names: Sequence[str]) -> None:
    missing = [name for name in names if fields.get(name) is None]
    if missing:
        raise DecodeError(f"the response lacks {', '.join(missing)}")


def _split_definitions(body: bytes, name: str, *, within: str = "") -> tuple[dict[str, Any], Definitions]:
    """Parse the body of a response, except for the entries of one list, which remain text.

    Args:
        body: The body.
        name: Name of the list.
        within: Name of a long list in each entry; only one of its items is in memory at a time.
    """
    try:
        return _split_object(UnicodeReader(body.decode()), name, within)
    except UnicodeEncodeError:
        raise DecodeError("the response has a text that is not valid Unicode") from None
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"the response is not JSON: {type(error).__name__}") from None


def _split_object(reader: UnicodeReader, name: str, within: str) -> tuple[dict[str, Any], Definitions]:
    if reader.peek() != "{":
        raise DecodeError(f"the response is not a JSON object but {type(reader.value()).__name__}")
    fields: dict[str, Any] = {}
    texts: list[str] = []
    for key in reader.members():
        if key == name and reader.peek() == "[":
            texts += [_object_text(reader, name, within) for _ in reader.entries()]
            fields[key] = []
        else:
            fields[key] = reader.value()
    reader.end()
    _list(fields, name, dict)  # raises if the field is present and not a list
    return fields, Definitions(texts)


def _object_text(reader: UnicodeReader, name: str, within: str) -> str:
    if reader.peek() != "{":
        reader.value()
        raise DecodeError(f"{name} has an entry that is not dict")
    start = reader.index
    for key in reader.members():
        if key == within and reader.peek() == "[":
            for _ in reader.entries():
                reader.value()
        else:
            reader.value()
    return reader.text[start : reader.index]


def decode_ping(body: bytes) -> int:
    """Decode a ``PingResponse``; return the server's time in Unix seconds."""
    return _integer(json_object(body), "time")


Decoder = Callable[[bytes], _T]
