"""The generated messages: their names and numbers, and other copies of them in the same process."""

from __future__ import annotations

import pickle

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

from bucketeer_async import ApiId, ReasonType
from bucketeer_async._proto._pool import POOL, message_class
from bucketeer_async._proto.event.client import event_pb2
from bucketeer_async._proto.gateway import service_pb2

ERRORS = {"api_id": 1, "labels": 2}
FIELDS = {
    "bucketeer.user.User": {"id": 1, "data": 2, "tagged_data": 3, "last_seen": 4, "created_at": 5},
    "bucketeer.feature.Reason": {"type": 1, "rule_id": 2},
    "bucketeer.event.client.Event": {"id": 1, "event": 2, "environment_id": 4},
    "bucketeer.event.client.EvaluationEvent": {
        "timestamp": 1,
        "feature_id": 2,
        "feature_version": 3,
        "user_id": 4,
        "variation_id": 5,
        "user": 6,
        "reason": 7,
        "tag": 8,
        "source_id": 9,
        "sdk_version": 10,
        "metadata": 11,
    },
    "bucketeer.event.client.GoalEvent": {
        "timestamp": 1,
        "goal_id": 2,
        "user_id": 3,
        "value": 4,
        "user": 5,
        "evaluations": 6,
        "tag": 7,
        "source_id": 8,
        "sdk_version": 9,
        "metadata": 10,
    },
    "bucketeer.event.client.MetricsEvent": {
        "timestamp": 1,
        "event": 2,
        "source_id": 3,
        "sdk_version": 4,
        "metadata": 5,
    },
    "bucketeer.event.client.LatencyMetricsEvent": ERRORS | {"duration": 3, "latency_second": 4},
    "bucketeer.event.client.SizeMetricsEvent": ERRORS | {"size_byte": 3},
    "bucketeer.event.client.GetEvaluationLatencyMetricsEvent": {"labels": 1, "duration": 2},
    "bucketeer.event.client.GetEvaluationSizeMetricsEvent": {"labels": 1, "size_byte": 2},
    "bucketeer.event.client.TimeoutErrorCountMetricsEvent": {"tag": 1},
    "bucketeer.event.client.InternalErrorCountMetricsEvent": {"tag": 1},
    "bucketeer.gateway.RegisterEventsRequest": {"events": 1, "sdk_version": 2, "source_id": 3},
    "bucketeer.gateway.GetEvaluationRequest": {
        "tag": 1,
        "user": 2,
        "feature_id": 3,
        "source_id": 4,
        "sdk_version": 5,
    },
    "bucketeer.gateway.GetFeatureFlagsRequest": {
        "tag": 1,
        "feature_flags_id": 2,
        "requested_at": 3,
        "source_id": 4,
        "sdk_version": 5,
    },
    "bucketeer.gateway.GetSegmentUsersRequest": {
        "segment_ids": 1,
        "requested_at": 2,
        "source_id": 3,
        "sdk_version": 4,
    },
} | {
    f"bucketeer.event.client.{name}": ERRORS
    for name in (
        "RedirectionRequestExceptionEvent",
        "BadRequestErrorMetricsEvent",
        "UnauthorizedErrorMetricsEvent",
        "ForbiddenErrorMetricsEvent",
        "NotFoundErrorMetricsEvent",
        "PayloadTooLargeExceptionEvent",
        "ClientClosedRequestErrorMetricsEvent",
        "InternalServerErrorMetricsEvent",
        "ServiceUnavailableErrorMetricsEvent",
        "TimeoutErrorMetricsEvent",
        "InternalErrorMetricsEvent",
        "NetworkErrorMetricsEvent",
        "InternalSdkErrorMetricsEvent",
        "UnknownErrorMetricsEvent",
    )
}


@pytest.mark.parametrize("name", FIELDS)
def test_fields_have_the_numbers_of_the_wire(name: str) -> None:
    descriptor = POOL.FindMessageTypeByName(name)

    assert {field.name: field.number for field in descriptor.fields} == FIELDS[name]


def test_enums_of_the_sdk_are_those_of_the_wire() -> None:
    reasons = POOL.FindEnumTypeByName("bucketeer.feature.Reason.Type")
    api_ids = POOL.FindEnumTypeByName("bucketeer.event.client.ApiId")

    assert {value.name: value.number for value in reasons.values} == {each.name: each.value for each in ReasonType}
    assert {value.name: value.number for value in api_ids.values} == {"UNKNOWN_API": 0} | {
        each.name: each.value for each in ApiId
    }


def test_an_any_travels_through_json() -> None:
    event = event_pb2.Event(id="1")
    event.event.Pack(event_pb2.GoalEvent(goal_id="goal"))

    text = json_format.MessageToJson(event, descriptor_pool=POOL)

    assert "type.googleapis.com/bucketeer.event.client.GoalEvent" in text
    assert json_format.Parse(text, event_pb2.Event(), descriptor_pool=POOL) == event


def test_another_copy_of_the_messages_may_live_in_the_same_process() -> None:
    file = descriptor_pb2.FileDescriptorProto(name="proto/user/user.proto", package="bucketeer.user", syntax="proto3")
    field = file.message_type.add(name="User").field.add(name="something_else", number=1)
    field.type, field.label = field.TYPE_STRING, field.LABEL_OPTIONAL
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    other = message_factory.GetMessageClass(pool.FindMessageTypeByName("bucketeer.user.User"))

    assert (
        other(something_else="x").SerializeToString()
        == message_class("bucketeer.user.User")(id="x").SerializeToString()
    )


def test_messages_can_be_pickled() -> None:
    request = service_pb2.RegisterEventsRequest(sdk_version="1")

    assert pickle.loads(pickle.dumps(request)) == request
