"""What the events look like on the wire, against golden files and against protobuf itself."""

from __future__ import annotations

import json
import math
import re
import threading
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from bucketeer_async import ApiId, ConnectionFailedError, Evaluation, Reason, ReasonType, RequestTimeoutError, StatusError, User
from bucketeer_async._events import EncodedEvent, EventFactory, IdPool, UnreportedError
from bucketeer_async._proto._pool import POOL
from bucketeer_async._proto.event.client import event_pb2 as pb
from bucketeer_async._proto.feature import reason_pb2
from bucketeer_async._proto.user import user_pb2

NOW = 1_767_225_600
UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ids = texts.filter(bool)
attribute_names = texts.filter(lambda name: name not in {"userAttributesUpdated", "user_attributes_updated"})
users = st.builds(User, ids, st.dictionaries(attribute_names, texts, max_size=5))
int32s = st.integers(0, 2**31 - 1)
evaluations = st.builds(
    Evaluation,
    feature_id=ids,
    variation_id=ids,
    feature_version=int32s,
    reason=st.builds(Reason, st.sampled_from(ReasonType), texts),
)
numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**60), 2**60)
factories = st.builds(
    EventFactory,
    tag=texts,
    source_id=st.integers(-(2**31), 2**31 - 1),
    sdk_version=texts,
    now=st.just(lambda: NOW + 0.75),
)


def as_json(event: pb.EvaluationEvent | pb.GoalEvent | pb.MetricsEvent) -> Any:
    """The JSON that protobuf itself makes of the event, without its envelope."""
    envelope = pb.Event()
    envelope.event.Pack(event)
    return json_format.MessageToDict(envelope, use_integers_for_enums=True, descriptor_pool=POOL)["event"]


def check(encoded: EncodedEvent, event: Any) -> None:
    """The encoder's JSON is protobuf's, and reads back as the message."""
    parsed = json.loads(encoded.body)

    assert parsed["event"] == as_json(event)
    assert parsed["id"] == encoded.event_id
    envelope = json_format.Parse(encoded.body, pb.Event(), descriptor_pool=POOL)
    read = type(event)()
    assert envelope.event.Unpack(read)
    assert read == event


def proto_user(user: User) -> user_pb2.User:
    return user_pb2.User(id=user.id, data=dict(user.attributes))


@given(factories, texts, st.integers(-(2**31), 2**31 - 1), texts, users, evaluations)
def test_evaluation_is_protobufs(
    _: EventFactory, tag: str, source: int, version: str, user: User, evaluation: Evaluation
) -> None:
    factory = EventFactory(tag=tag, source_id=source, sdk_version=version, now=lambda: NOW + 0.75)

    encoded = factory.evaluation(user, evaluation)

    reason = reason_pb2.Reason(type=int(evaluation.reason.type), rule_id=evaluation.reason.rule_id)  # type: ignore[arg-type]
    check(
        encoded,
        pb.EvaluationEvent(
            timestamp=NOW,
            feature_id=evaluation.feature_id,
            feature_version=evaluation.feature_version,
            user_id=user.id,
            variation_id=evaluation.variation_id,
            user=proto_user(user),
            reason=reason,
            tag=tag,
            source_id=source,  # type: ignore[arg-type]
            sdk_version=version,
        ),
    )
