"""Parsing JSON in parts gives the same value, or the same error, as parsing it at once."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketeer_async import DecodeError, Definitions
from bucketeer_async._transport._codec import decode_get_feature_flags, decode_get_segment_users
from bucketeer_async._transport._json_reader import Reader
from tests.flag_server import flags_response, segments_response

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def read(text: str) -> Any:
    """Parse a value by the steps of the reader only."""
    reader = Reader(text)
    value = step(reader)
    reader.end()
    return value


def step(reader: Reader) -> Any:
    match reader.peek():
        case "{":
            return {key: step(reader) for key in reader.members()}
        case "[":
            return [step(reader) for _ in reader.entries()]
    return reader.value()


@given(VALUES, st.sampled_from([None, 1, "\t"]), st.booleans())
def test_any_value_is_read_as_json_reads_it(value: Any, indent: int | str | None, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)

    assert read(f" \n{text}\r\n") == value


@given(VALUES, st.data())
def test_what_is_no_json_is_refused(value: Any, data: st.DataObject) -> None:
    text = json.dumps(value)
    at = data.draw(st.integers(0, len(text)))
    broken = text[:at] + data.draw(st.sampled_from(["", "}", "]", ",", ":", '"', "x", " "])) + text[at + 1 :]
    try:
        expected = json.loads(broken)
    except ValueError:
        with pytest.raises(ValueError, match=r"xpect|nterminated|nvalid|xtra"):
            read(broken)
    else:
        assert read(broken) == expected


@pytest.mark.parametrize(
    "text", ["", "{", "[", "[1", "[1 2]", "[1,]", '{"a"}', '{"a":1,}', "{1:2}", "1 2", '{"a":1 "b"']
)
def test_a_text_that_ends_or_goes_on_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="xpect"):
        read(text)


SEGMENT = {"segmentId": "s", "users": [{"userId": "u", "data": [1, {"users": []}]}, {"userId": "v"}], "rules": [{}]}


@pytest.mark.parametrize("indent", [None, 2])
def test_definitions_are_cut_out_and_parsed_when_they_are_asked_for(indent: int | None) -> None:
    flags = [{"id": "a", "features": [{"id": "x"}]}, {"id": "b"}]
    fields = flags_response(flags, featureFlagsId="5", requestedAt="7", archivedFeatureFlagIds=["c"])
    answer = decode_get_feature_flags(json.dumps(fields, indent=indent).encode())
    segments = decode_get_segment_users(json.dumps(segments_response([SEGMENT, SEGMENT]), indent=indent).encode())

    assert answer.features == flags
    assert (answer.feature_flags_id, answer.requested_at, answer.archived_feature_flag_ids) == ("5", 7, ["c"])
    assert segments.segment_users == [SEGMENT, SEGMENT]


def test_definitions_are_a_sequence() -> None:
    definitions = Definitions(['{"id": "a"}', '{"id": "b"}'])

    assert definitions[1] == {"id": "b"}
    assert definitions[:1] == [{"id": "a"}]
    assert {"id": "a"} in definitions
    assert definitions != 5
    assert repr(definitions) == "<2 definitions>"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[]", "not a JSON object but list"),
        (b"\xff", "not JSON: UnicodeDecodeError"),
        (b'{"segmentUsers": [', "not JSON: JSONDecodeError"),
        (b'{"segmentUsers": [{"users": [}', "not JSON: JSONDecodeError"),
        (b'{"segmentUsers": []} x', "not JSON: ValueError"),
        (b'{"segmentUsers": [5]}', "segmentUsers has an entry that is not dict"),
        (b'{"segmentUsers": {}}', "segmentUsers is not list"),
        (b'{"segmentUsers": [{"users": ' + 100_000 * b"[", "not JSON: RecursionError"),
    ],
    ids=["list", "bytes", "short", "users", "more", "entry", "object", "deep"],
)
def test_an_answer_that_cannot_be_cut_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        decode_get_segment_users(body)
