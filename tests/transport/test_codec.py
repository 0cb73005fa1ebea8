"""The encoders of requests, compared with protobuf's; the decoders of responses."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import example, given
from hypothesis import strategies as st

from bucketeer_async import DecodeError, User
from bucketeer_async._proto.gateway import service_pb2 as pb
from bucketeer_async._transport import _codec as _wire
from tests.flag_server import flags_response, segments_response

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ids = texts.filter(bool)
names = texts.filter(lambda name: name not in {"userAttributesUpdated", "user_attributes_updated"})
users = st.builds(User, ids, st.dictionaries(names, texts, max_size=4))
int64s = st.integers(-(2**63), 2**63 - 1) | st.just(0)
int32s = st.integers(0, 2**31 - 1)


def user_fields(user: User) -> dict[str, Any]:
    return {"id": user.id, "data": dict(user.attributes)}


def assert_same(body: bytes, message: Any) -> None:
    assert json.loads(body) == json_format.MessageToDict(message, use_integers_for_enums=True)
    assert json_format.Parse(body, type(message)()) == message


@given(users, ids, ids, int32s, ids)
def test_a_question_for_one_flag(user: User, feature_id: str, tag: str, source_id: int, version: str) -> None:
    body = _wire.get_evaluation_body(user, feature_id, tag=tag, source_id=source_id, sdk_version=version)

    fields = {"tag": tag, "user": user_fields(user), "feature_id": feature_id}
    assert_same(body, pb.GetEvaluationRequest(**fields, source_id=source_id, sdk_version=version))


@given(users, ids, texts, int64s, st.booleans(), int32s)
@example(User("user"), "tag", "", 0, False, 0)
def test_a_question_for_all_flags(
    user: User, tag: str, evaluations_id: str, evaluated_at: int, updated: bool, source_id: int
) -> None:
    body = _wire.get_evaluations_body(
        user,
        tag=tag,
        user_evaluations_id=evaluations_id,
        evaluated_at=evaluated_at,
        user_attributes_updated=updated,
        source_id=source_id,
        sdk_version="1",
    )

    condition = {"evaluated_at": evaluated_at, "user_attributes_updated": updated}
    fields = {"tag": tag, "user": user_fields(user), "user_evaluations_id": evaluations_id}
    message = pb.GetEvaluationsRequest(
        **fields, user_evaluation_condition=condition, source_id=source_id, sdk_version="1"
    )
    assert_same(body, message)
    assert json_format.Parse(body, pb.GetEvaluationsRequest()).HasField("user_evaluation_condition")


@given(texts, texts, int64s, int32s)
def test_a_poll_of_flags(tag: str, flags_id: str, requested_at: int, source_id: int) -> None:
    fields = {"tag": tag, "feature_flags_id": flags_id, "requested_at": requested_at, "source_id": source_id}

    body = _wire.get_feature_flags_body(**fields, sdk_version="1")  # type: ignore[arg-type]

    assert_same(body, pb.GetFeatureFlagsRequest(**fields, sdk_version="1"))


@given(st.lists(texts, max_size=4), int64s, int32s)
def test_a_poll_of_segments(segment_ids: list[str], requested_at: int, source_id: int) -> None:
    fields = {"segment_ids": segment_ids, "requested_at": requested_at, "source_id": source_id}

    body = _wire.get_segment_users_body(**fields, sdk_version="1")  # type: ignore[arg-type]

    assert_same(body, pb.GetSegmentUsersRequest(**fields, sdk_version="1"))


@pytest.mark.parametrize(
    ("value", "error"), [("5", TypeError), (True, TypeError), (5.0, TypeError), (2**63, ValueError)]
)
def test_a_time_that_is_no_int64_is_refused(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="requested_at must"):
        _wire.get_segment_users_body(segment_ids=[], requested_at=value, source_id=1, sdk_version="1")


def test_whether_attributes_are_new_is_a_bool() -> None:
    with pytest.raises(TypeError, match="user_attributes_updated must be a bool"):
        _wire.get_evaluations_body(
            User("user"),
            tag="tag",
            user_evaluations_id="",
            evaluated_at=0,
            user_attributes_updated="yes",  # type: ignore[arg-type]
            source_id=0,
            sdk_version="1",
        )


def test_asking_does_not_load_protobuf_which_would_hold_the_loop() -> None:
    code = """if True:
        import sys
        from bucketeer_async import User
        from bucketeer_async._transport import _codec
        _codec.get_evaluation_body(User("user"), "flag", tag="tag", source_id=0, sdk_version="1")
        print([name for name in sys.modules if name.startswith("google")])
    """

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert loaded.strip() == "[]"


# Responses to polls

DECODERS = {
    "flags": (_wire.decode_get_feature_flags, flags_response([{"id": "a"}])),
    "segments": (_wire.decode_get_segment_users, segments_response([{"segmentId": "a", "users": [{"userId": "u"}]}])),
}


@pytest.mark.parametrize("what", DECODERS)
@pytest.mark.parametrize("value", ["absent", None])
def test_each_field_of_a_response_to_a_poll_is_required(what: str, value: str | None) -> None:
    decode, whole = DECODERS[what]

    assert decode(json.dumps(whole).encode()).size_byte
    for name in whole:
        lacking = {key: each for key, each in whole.items() if key != name} | ({} if value else {name: None})
        with pytest.raises(DecodeError, match=f"the response lacks {name}$"):
            decode(json.dumps(lacking).encode())
    with pytest.raises(DecodeError, match=r"lacks .*, requestedAt, forceUpdate$"):
        decode(b"{}")


@pytest.mark.parametrize("what", DECODERS)
@pytest.mark.parametrize(
    "time", [2**63, -(2**63) - 1, 2**70, str(2**63), f"-{2**63 + 1}", "9" * 5000, "1_0", " 5", ""], ids=repr
)
def test_a_time_beyond_an_int64_is_refused(what: str, time: Any) -> None:
    decode, whole = DECODERS[what]

    with pytest.raises(DecodeError, match="requestedAt is not a 64-bit integer"):
        decode(json.dumps(whole | {"requestedAt": time}).encode())


@pytest.mark.parametrize("time", [2**63 - 1, -(2**63), str(2**63 - 1), str(-(2**63)), 0], ids=repr)
def test_each_int64_is_a_time(time: Any) -> None:
    body = json.dumps(flags_response([], requestedAt=time)).encode()

    assert _wire.decode_get_feature_flags(body).requested_at == int(time)


PLACES = {
    "flag": lambda text: flags_response([{"id": "fine"}, {"id": text}]),
    "within a flag": lambda text: flags_response([{"id": "a", "rules": [{"clauses": [{"values": ["fine", text]}]}]}]),
    "field of a flag": lambda text: flags_response([{"id": "a", text: 1}]),
    "archived flag": lambda text: flags_response([], archivedFeatureFlagIds=[text]),
    "hash": lambda text: flags_response([], featureFlagsId=text),
    "segment": lambda text: segments_response([{"segmentId": text}]),
    "user": lambda text: segments_response([{"segmentId": "a", "users": [{"userId": "fine"}, {"userId": text}]}]),
    "deleted segment": lambda text: segments_response(deletedSegmentIds=[text]),
    "field": lambda text: segments_response([], **{text: 1}),
}


@pytest.mark.parametrize("text", ["\ud800", "x\udfff", "a\udc00\ud800", "\\\ud800x"], ids=ascii)
@pytest.mark.parametrize("place", PLACES)
def test_half_of_a_surrogate_pair_is_refused_wherever_it_is(place: str, text: str) -> None:
    response = PLACES[place](text)
    decode = _wire.decode_get_feature_flags if "features" in response else _wire.decode_get_segment_users

    with pytest.raises(DecodeError, match="a text that is not valid Unicode"):
        decode(json.dumps(response).encode())


@pytest.mark.parametrize("text", ["\U0001f600", "\\ud800", "\\\\udc00", "\x00\u2028", "é"], ids=ascii)
def test_other_escapes_are_read(text: str) -> None:
    features = [{"id": text, "tags": [text]}]
    body = json.dumps(flags_response(features)).encode()

    assert _wire.decode_get_feature_flags(body).features == features
