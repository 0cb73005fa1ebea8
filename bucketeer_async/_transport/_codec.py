"""The gateway's JSON: one encoder of the request and one decoder of the answer per endpoint.

Requests are written as proto3 JSON, which the tests prove equal to protobuf's own; loading protobuf for them would hold
the loop for a tenth of a second. Answers are read from their JSON: fields that we do not know are ignored, int64 may be
text, and what has the wrong type is a `DecodeError`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from json.encoder import encode_basestring
from typing import Any, Final, TypeVar

from bucketeer_async._errors import DecodeError
from bucketeer_async._models import Evaluation, Reason, ReasonType, User
from bucketeer_async._transport._json_reader import Reader
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


# Requests


def register_events_body(events: Sequence[bytes], *, source_id: int, sdk_version: str) -> bytes:
    """Join the JSON of events to a request; nothing is encoded again."""
    end = f'],"sdkVersion":{encode_basestring(sdk_version)},"sourceId":{source_id:d}}}'
    return b'{"events":[' + b",".join(events) + end.encode()


def _encode(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


def _present(**fields: Any) -> dict[str, Any]:
    """Leave out what is at its default, as proto3 JSON does."""
    return {name: value for name, value in fields.items() if value}


def _user(user: User) -> dict[str, Any]:
    return _present(id=user.id, data=dict(user.attributes))


def _int64(name: str, value: object) -> str:
    """Return the form that an int64 has in proto3 JSON; "" for its default.

    Raises:
        TypeError: If it is not an int.
        ValueError: If it is out of range.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{name} must fit into 64 bits")
    return str(value) if value else ""


def get_evaluation_body(user: User, feature_id: str, *, tag: str, source_id: int, sdk_version: str) -> bytes:
    """Encode the question for one flag."""
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
    """Encode the question for all flags of a tag."""
    if not isinstance(user_attributes_updated, bool):
        raise TypeError(f"user_attributes_updated must be a bool, not {type(user_attributes_updated).__name__}")
    fields = _present(
        tag=tag,
        user=_user(user),
        userEvaluationsId=user_evaluations_id,
        sourceId=source_id,
        sdkVersion=sdk_version,
    )
    # There even if it is empty: without it the gateway never answers with a difference.
    fields["userEvaluationCondition"] = _present(
        evaluatedAt=_int64("evaluated_at", evaluated_at), userAttributesUpdated=user_attributes_updated
    )
    return _encode(fields)


def get_feature_flags_body(
    *, tag: str, feature_flags_id: str, requested_at: int, source_id: int, sdk_version: str
) -> bytes:
    """Encode a poll of flag definitions."""
    fields = _present(
        tag=tag,
        featureFlagsId=feature_flags_id,
        requestedAt=_int64("requested_at", requested_at),
        sourceId=source_id,
        sdkVersion=sdk_version,
    )
    return _encode(fields)


def get_segment_users_body(*, segment_ids: Sequence[str], requested_at: int, source_id: int, sdk_version: str) -> bytes:
    """Encode a poll of segment members."""
    fields = _present(
        segmentIds=list(segment_ids),
        requestedAt=_int64("requested_at", requested_at),
        sourceId=source_id,
        sdkVersion=sdk_version,
    )
    return _encode(fields)


# Answers


def json_object(body: bytes) -> dict[str, Any]:
    """Parse an answer.

    Raises:
        DecodeError: If it is not one JSON object.
    """
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"the answer is not JSON: {type(error).__name__}") from None
    if not isinstance(parsed, dict):
        raise DecodeError(f"the answer is not a JSON object but {type(parsed).__name__}")
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
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            raise DecodeError(f"{name} is not an integer") from None
    return _field(fields, name, int, 0)


def _list(fields: dict[str, Any], name: str, kind: type[_T]) -> list[_T]:
    values: list[_T] = _field(fields, name, list, [])
    if not all(isinstance(value, kind) for value in values):
        raise DecodeError(f"{name} has an entry that is not {kind.__name__}")
    return values


def decode_register_events(body: bytes) -> RegisterEventsResponse:
    """Read which events were not taken; an empty body means that all were."""
    fields = json_object(body) if body.strip() else {}
    errors: dict[str, Any] = _field(fields, "errors", dict, {})
    return RegisterEventsResponse(errors={event_id: _event_error(error) for event_id, error in errors.items()})


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
        raise DecodeError(f"the evaluation cannot be used: {error}") from error


def _reason_type(value: object) -> ReasonType:
    """A name or number of the wire; absent is TARGET, one that we do not know yet is DEFAULT."""
    if value is None:
        return ReasonType.TARGET
    if isinstance(value, str):
        return _REASONS.get(value, ReasonType.DEFAULT)
    return next((reason for reason in ReasonType if reason == value), ReasonType.DEFAULT)


def decode_get_evaluation(body: bytes) -> GetEvaluationResponse:
    """Read the variation of one flag."""
    evaluation: dict[str, Any] = _field(json_object(body), "evaluation", dict, {})
    return GetEvaluationResponse(evaluation=_evaluation(evaluation) if evaluation else None, size_byte=len(body))


def decode_get_evaluations(body: bytes) -> GetEvaluationsResponse:
    """Read the variations of all flags of a tag."""
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
    """Read flag definitions, and leave them as texts."""
    fields, features = _cut(body, "features")
    return GetFeatureFlagsResponse(
        features=features,
        archived_feature_flag_ids=_list(fields, "archivedFeatureFlagIds", str),
        feature_flags_id=_field(fields, "featureFlagsId", str, ""),
        requested_at=_integer(fields, "requestedAt"),
        force_update=_field(fields, "forceUpdate", bool, False),  # noqa: FBT003
        size_byte=len(body),
    )


def decode_get_segment_users(body: bytes) -> GetSegmentUsersResponse:
    """Read segment members, and leave them as texts."""
    fields, segment_users = _cut(body, "segmentUsers", within="users")
    return GetSegmentUsersResponse(
        segment_users=segment_users,
        deleted_segment_ids=_list(fields, "deletedSegmentIds", str),
        requested_at=_integer(fields, "requestedAt"),
        force_update=_field(fields, "forceUpdate", bool, False),  # noqa: FBT003
        size_byte=len(body),
    )


def _cut(body: bytes, name: str, *, within: str = "") -> tuple[dict[str, Any], Definitions]:
    """Parse an answer, but leave the entries of one list as texts.

    Args:
        body: The answer.
        name: The list.
        within: A list in each of its entries that may be long, and is not made at once either.
    """
    try:
        return _cut_object(Reader(body.decode()), name, within)
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"the answer is not JSON: {type(error).__name__}") from None


def _cut_object(reader: Reader, name: str, within: str) -> tuple[dict[str, Any], Definitions]:
    if reader.peek() != "{":
        raise DecodeError(f"the answer is not a JSON object but {type(reader.value()).__name__}")
    fields: dict[str, Any] = {}
    texts: list[str] = []
    for key in reader.members():
        if key == name and reader.peek() == "[":
            texts += [_object_text(reader, name, within) for _ in reader.entries()]
        else:
            fields[key] = reader.value()
    reader.end()
    _list(fields, name, dict)  # if it is no list, it must be absent
    return fields, Definitions(texts)


def _object_text(reader: Reader, name: str, within: str) -> str:
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
    """Read the server's time, in Unix seconds."""
    return _integer(json_object(body), "time")


Decoder = Callable[[bytes], _T]
