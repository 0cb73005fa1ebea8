"""The encoding of events, compared with protobuf's own."""

from __future__ import annotations

import json
import math
import numbers
import re
import threading
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, SupportsFloat
from unittest.mock import Mock

import pytest
from google.protobuf import json_format
from hypothesis import example, given
from hypothesis import strategies as st

from bucketeer_async import (
    ApiId,
    ConnectionFailedError,
    Evaluation,
    Reason,
    ReasonType,
    RequestTimeoutError,
    StatusError,
    User,
)
from bucketeer_async._events._encoder import EVENT_ID, EventFactory, IdPool, TooLargeError, UnreportedError
from bucketeer_async._models import evaluation_of
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
values = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**60), 2**60)
sources = st.integers(-(2**31), 2**31 - 1)


def factory(tag: str = "backend", source_id: int = 1000, sdk_version: str = "1.2.3") -> EventFactory:
    return EventFactory(tag=tag, source_id=source_id, sdk_version=sdk_version, now=lambda: NOW + 0.75)


def as_json(event: pb.EvaluationEvent | pb.GoalEvent | pb.MetricsEvent) -> Any:
    """Return the JSON that protobuf makes of the event, without its envelope."""
    envelope = pb.Event()
    envelope.event.Pack(event)
    return json_format.MessageToDict(envelope, use_integers_for_enums=True, descriptor_pool=POOL)["event"]


def check(encoded: bytes, event: Any) -> None:
    """Check that the encoder's JSON is protobuf's, and is parsed to the same message."""
    parsed = json.loads(encoded)

    assert parsed["event"] == as_json(event)
    assert parsed["id"] == encoded[EVENT_ID].decode()
    envelope = json_format.Parse(encoded, pb.Event(), descriptor_pool=POOL)
    read = type(event)()
    assert envelope.event.Unpack(read)
    assert read == event


def proto_reason(reason: Reason) -> reason_pb2.Reason:
    return reason_pb2.Reason(type=int(reason.type), rule_id=reason.rule_id)  # type: ignore[arg-type]


def proto_user(user: User) -> user_pb2.User:
    return user_pb2.User(id=user.id, data=dict(user.attributes))


@given(texts, sources, texts, users, evaluations)
def test_an_evaluation_is_what_protobuf_makes_of_it(
    tag: str, source: int, version: str, user: User, evaluation: Evaluation
) -> None:
    encoded = factory(tag, source, version).evaluation(user, evaluation)

    check(
        encoded,
        pb.EvaluationEvent(
            timestamp=NOW,
            feature_id=evaluation.feature_id,
            feature_version=evaluation.feature_version,
            user_id=user.id,
            variation_id=evaluation.variation_id,
            user=proto_user(user),
            reason=proto_reason(evaluation.reason),
            tag=tag,
            source_id=source,  # type: ignore[arg-type]
            sdk_version=version,
        ),
    )


@given(st.lists(users, min_size=2, max_size=2, unique_by=lambda user: user.id), evaluations)
def test_what_users_share_of_an_evaluation_is_encoded_for_each_of_them(pair: list[User], shared: Evaluation) -> None:
    events = factory()
    for user in [*pair, *pair]:
        body = json.loads(events.evaluation(user, evaluation_of(shared, user.id)))
        alone = json.loads(events.evaluation(user, replace(shared, user_id=user.id)))

        assert body["event"] == alone["event"]
        assert body["event"]["userId"] == body["event"]["user"]["id"] == user.id


@given(texts, users, ids, st.sampled_from([reason for reason in ReasonType if reason.is_error]))
def test_a_default_evaluation_is_what_protobuf_makes_of_it(
    tag: str, user: User, feature_id: str, reason: ReasonType
) -> None:
    encoded = factory(tag).default_evaluation(user, feature_id, reason)

    check(
        encoded,
        pb.EvaluationEvent(
            timestamp=NOW,
            feature_id=feature_id,
            user_id=user.id,
            user=proto_user(user),
            reason=proto_reason(Reason(reason)),
            tag=tag,
            source_id=1000,  # type: ignore[arg-type]
            sdk_version="1.2.3",
        ),
    )


@example("backend", User("user"), "goal", -0.0)
@example("backend", User("user"), "goal", 1e308)
@given(texts, users, ids, values)
def test_a_goal_is_what_protobuf_makes_of_it(tag: str, user: User, goal_id: str, value: float) -> None:
    encoded = factory(tag).goal(user, goal_id, value)

    check(
        encoded,
        pb.GoalEvent(
            timestamp=NOW,
            goal_id=goal_id,
            user_id=user.id,
            value=value,
            user=proto_user(user),
            tag=tag,
            source_id=1000,  # type: ignore[arg-type]
            sdk_version="1.2.3",
        ),
    )
    sent = json.loads(encoded)["event"].get("value", 0.0)
    assert math.copysign(1.0, sent) == math.copysign(1.0, float(value))


@numbers.Real.register
class Scalar:
    """A number as numpy's scalars are: no float, and registered as real."""

    def __float__(self) -> float:
        return 1.5


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        (Scalar(), 1.5),
        (Decimal("49.90"), 49.9),
        (Decimal("1e-400"), None),
        (Fraction(1, 3), 1 / 3),
        (Fraction(-(10**300)), -1e300),
        (2**53 + 1, 2.0**53),
    ],
)
def test_a_goal_may_have_any_real_number(value: SupportsFloat, sent: float | None) -> None:
    assert json.loads(factory().goal(USER, "goal", value))["event"].get("value") == sent


def check_metrics(encoded: bytes, detail: Any) -> None:
    event = pb.MetricsEvent(timestamp=NOW, source_id=1000, sdk_version="1.2.3")  # type: ignore[arg-type]
    event.event.Pack(detail)
    check(encoded, event)


durations = st.floats(0, 1e9)
api_ids = st.sampled_from(ApiId)


@given(texts, durations)
def test_a_seed_latency_is_what_protobuf_makes_of_it(tag: str, duration: float) -> None:
    detail = pb.GetEvaluationLatencyMetricsEvent(labels={"tag": tag, "state": "FULL"})
    nanos = round(duration * 1_000_000_000)
    detail.duration.seconds, detail.duration.nanos = divmod(nanos, 1_000_000_000)

    check_metrics(factory(tag).get_evaluation_latency(duration), detail)


@given(texts, int32s)
def test_a_seed_size_is_what_protobuf_makes_of_it(tag: str, size: int) -> None:
    detail = pb.GetEvaluationSizeMetricsEvent(labels={"tag": tag, "state": "FULL"}, size_byte=size)

    check_metrics(factory(tag).get_evaluation_size(size), detail)


@given(texts)
def test_the_seed_counts_are_what_protobuf_makes_of_them(tag: str) -> None:
    check_metrics(factory(tag).timeout_error_count(), pb.TimeoutErrorCountMetricsEvent(tag=tag))
    check_metrics(factory(tag).internal_error_count(), pb.InternalErrorCountMetricsEvent(tag=tag))


@given(texts, durations.filter(bool), int32s, api_ids)
def test_latency_and_size_are_what_protobuf_makes_of_them(tag: str, duration: float, size: int, api_id: ApiId) -> None:
    latency = pb.LatencyMetricsEvent(api_id=int(api_id), labels={"tag": tag}, latency_second=max(duration, 1e-9))  # type: ignore[arg-type]
    check_metrics(factory(tag).latency(duration, api_id), latency)
    sized = pb.SizeMetricsEvent(api_id=int(api_id), labels={"tag": tag}, size_byte=size)  # type: ignore[arg-type]
    check_metrics(factory(tag).size(size, api_id), sized)


class AwkwardError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "message", "labels"),
    [
        (StatusError(302), "RedirectionRequestExceptionEvent", {"response_code": "302"}),
        (StatusError(400), "BadRequestErrorMetricsEvent", {}),
        (StatusError(404), "NotFoundErrorMetricsEvent", {}),
        (StatusError(405), "InternalSdkErrorMetricsEvent", {"error_message": "the gateway answered 405"}),
        (StatusError(408), "TimeoutErrorMetricsEvent", {}),
        (StatusError(413), "PayloadTooLargeExceptionEvent", {}),
        (StatusError(499), "ClientClosedRequestErrorMetricsEvent", {}),
        (StatusError(500), "InternalServerErrorMetricsEvent", {}),
        (StatusError(502), "ServiceUnavailableErrorMetricsEvent", {}),
        (StatusError(503), "ServiceUnavailableErrorMetricsEvent", {}),
        (StatusError(504), "TimeoutErrorMetricsEvent", {}),
        (
            StatusError(429),
            "UnknownErrorMetricsEvent",
            {"response_code": "429", "error_message": "the gateway answered 429"},
        ),
        (RequestTimeoutError("slow"), "TimeoutErrorMetricsEvent", {}),
        (TimeoutError(), "TimeoutErrorMetricsEvent", {}),
        (ConnectionFailedError("refused"), "NetworkErrorMetricsEvent", {}),
        (ConnectionResetError(), "NetworkErrorMetricsEvent", {}),
        (KeyError("x"), "InternalSdkErrorMetricsEvent", {"error_message": "'x'"}),
        (ValueError(), "InternalSdkErrorMetricsEvent", {"error_message": "ValueError"}),
        (ValueError("\ud800"), "InternalSdkErrorMetricsEvent", {"error_message": "?"}),
        (ValueError("x" * 9000), "InternalSdkErrorMetricsEvent", {"error_message": "x" * 500}),
        (AwkwardError(), "InternalSdkErrorMetricsEvent", {"error_message": "AwkwardError"}),
    ],
)
def test_an_error_becomes_the_message_of_its_class(error: Exception, message: str, labels: dict[str, str]) -> None:
    detail = getattr(pb, message)(api_id=3, labels={"tag": "backend", **labels})

    check_metrics(factory().error(error, ApiId.REGISTER_EVENTS), detail)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_has_no_metrics_message(status: int) -> None:
    with pytest.raises(UnreportedError):
        factory().error(StatusError(status), ApiId.REGISTER_EVENTS)


def test_a_latency_of_zero_is_sent_as_a_nanosecond() -> None:
    event = json.loads(factory().latency(0, ApiId.GET_EVALUATION))["event"]["event"]

    assert event["latencySecond"] == 1e-9


@given(st.integers(0, 10**18))
def test_the_latency_of_a_local_evaluation_is_that_of_all_operations(nanoseconds: int) -> None:
    local = json.loads(factory().local_latency(nanoseconds))
    usual = json.loads(factory().latency(nanoseconds / 1e9, ApiId.SDK_GET_VARIATION))

    assert local["event"] == usual["event"]
    assert UUID4.fullmatch(local["id"])


USER = User("user")


@pytest.mark.parametrize(
    ("build", "error", "match"),
    [
        (lambda: factory().goal("user", "goal", 1), TypeError, "user must be a User, not str"),  # type: ignore[arg-type]
        (lambda: factory().goal(USER, "", 1), ValueError, "goal_id must not be empty"),
        (lambda: factory().goal(USER, "g\udfff", 1), ValueError, "goal_id has a lone surrogate at index 1"),
        (lambda: factory().goal(USER, 5, 1), TypeError, "goal_id must be a str, not int"),  # type: ignore[arg-type]
        (lambda: factory().goal(USER, "goal", "1"), TypeError, "value must be a real number, not str"),  # type: ignore[arg-type]
        (lambda: factory().goal(USER, "goal", True), TypeError, "value must be a real number, not bool"),
        (lambda: factory().goal(USER, "goal", math.nan), ValueError, "value must be finite, not nan"),
        (lambda: factory().goal(USER, "goal", -math.inf), ValueError, "value must be finite, not -inf"),
        (lambda: factory().goal(USER, "goal", 10**400), ValueError, "value must be finite and fit into a double"),
        (lambda: factory().goal(USER, "goal", Fraction(10**400)), ValueError, "value must be finite and fit"),
        (lambda: factory().goal(USER, "goal", Decimal("sNaN")), ValueError, "value must be finite and fit into"),
        (lambda: factory().goal(USER, "goal", Decimal("1e400")), ValueError, "value must be finite, not inf"),
        (lambda: factory().goal(USER, "goal", 1j), TypeError, "value must be a real number, not complex"),  # type: ignore[arg-type]
        (lambda: factory().evaluation(USER, None), TypeError, "evaluation must be an Evaluation"),  # type: ignore[arg-type]
        (lambda: factory().default_evaluation(USER, "", ReasonType.CLIENT), ValueError, "feature_id must not be empty"),
        (lambda: factory().default_evaluation(USER, "f", ReasonType.RULE), ValueError, "CLIENT or one of ERROR_"),
        (
            lambda: factory().default_evaluation(USER, "f", 4),
            TypeError,
            "reason must be a member of ReasonType, not int",
        ),  # type: ignore[arg-type]
        (lambda: factory().get_evaluation_latency(-1), ValueError, "duration must be from 0"),
        (lambda: factory().get_evaluation_latency(1e300), ValueError, "to 315576000000 seconds, not 1e"),
        (lambda: factory().get_evaluation_latency(timedelta(1)), TypeError, "duration must be a real number"),  # type: ignore[arg-type]
        (lambda: factory().get_evaluation_size(2**31), ValueError, "size_byte must be from 0 to 2147483647"),
        (lambda: factory().get_evaluation_size(-1), ValueError, "size_byte must be from 0"),
        (lambda: factory().size(1.5, ApiId.GET_EVALUATION), TypeError, "size_byte must be an int, not float"),  # type: ignore[arg-type]
        (lambda: factory().size(1, 1), TypeError, "api_id must be a member of ApiId, not int"),  # type: ignore[arg-type]
        (lambda: factory().error("x", ApiId.GET_EVALUATION), TypeError, "error must be an exception, not str"),  # type: ignore[arg-type]
    ],
)
def test_bad_input_names_the_field_and_the_form(build: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        build()


class Member(User):
    """A user of an application's own class."""


class Proxy:
    """Stands for another object, as a proxy of a request's user does."""

    def __init__(self, target: object) -> None:
        self.target = target

    @property
    def __class__(self) -> Any:
        return type(self.target)

    @__class__.setter
    def __class__(self, _cls: type) -> None: ...

    def __getattr__(self, name: str) -> Any:
        return getattr(self.target, name)


def test_what_stands_for_a_user_or_an_evaluation_is_encoded_by_its_fields() -> None:
    user = User("user", {"plan": "pro"})
    evaluation = Evaluation(feature_id="flag", variation_id="on", reason=Reason(ReasonType.DEFAULT))
    proxies: Any = Proxy(user), Proxy(evaluation)
    plain = json.loads(factory().evaluation(user, evaluation))

    for pair in ((Member("user", {"plan": "pro"}), evaluation), proxies):
        assert json.loads(factory().evaluation(*pair))["event"] == plain["event"]


def mock_of(cls: type) -> Any:
    mock = Mock()
    mock.__class__ = cls  # what a mock with a spec does
    return mock


def test_a_mock_of_a_user_or_an_evaluation_is_neither() -> None:
    with pytest.raises(TypeError, match="user must be a User, not Mock"):
        factory().goal(mock_of(User), "goal", 1.0)
    with pytest.raises(TypeError, match=r"Evaluation\.feature_id must be a str, not Mock"):
        factory().evaluation(User("user"), mock_of(Evaluation))


def test_an_event_that_is_too_large_says_by_how_much() -> None:
    limited = EventFactory(tag="", source_id=0, sdk_version="1.2.3", max_bytes=300)
    user = User("user")
    size = len(limited.goal(user, "g", 0.0))

    assert len(limited.goal(user, "g" * (301 - size), 0.0)) == 300
    with pytest.raises(TooLargeError, match="the event has 301 bytes; flush_max_bytes is 300"):
        limited.goal(user, "g" * (302 - size), 0.0)


def test_many_and_long_goal_ids_do_not_take_up_memory() -> None:
    events = factory()
    for number in range(2_000):
        events.goal(User("user"), f"goal-{number}", 1.0)
    events.goal(User("user"), "g" * 10_000, 1.0)

    assert len(events._goals) == 1_000
    assert json.loads(events.goal(User("user"), "goal-1999", 1.0))["event"]["goalId"] == "goal-1999"


def test_event_ids_are_version_4_and_different_in_every_thread() -> None:
    new_id = IdPool(size=16)
    found: list[str] = []

    def take() -> None:
        found.extend([new_id() for _ in range(5000)])

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(found)) == 40_000
    assert all(UUID4.fullmatch(each) for each in found)


def test_what_happens_to_the_attributes_later_does_not_change_the_event() -> None:
    attributes = {"plan": "pro"}
    user = User("user", attributes)
    before = factory().goal(user, "goal", 1)
    attributes["plan"] = "free"

    assert b'"plan":"pro"' in factory().goal(user, "goal", 1)
    assert b'"plan":"pro"' in before
