"""Deep nesting and long numbers: what is refused does not depend on the limits of the interpreter."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from bucketeer_async import ApiClient, DecodeError, StatusError
from bucketeer_async._evaluation._yaml import to_json as yaml_to_json
from bucketeer_async._flags._conversion import WrongTypeError, to_json
from bucketeer_async._go_numbers import integer
from bucketeer_async._nesting import MAX_DEPTH, MAX_YAML_DEPTH, check_nesting
from bucketeer_async._transport._codec import (
    decode_get_evaluation,
    decode_get_feature_flags,
    decode_get_segment_users,
    decode_register_events,
)

pytestmark = pytest.mark.usefixtures("recursion_limit")

DEPTH = MAX_DEPTH - 2  # of a value in a list, or in an object, within a response


def lists(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    "text",
    [
        lists(MAX_DEPTH),
        '{"a":' * MAX_DEPTH + "1" + "}" * MAX_DEPTH,
        "[" * MAX_DEPTH,
        "[" + ",".join([lists(MAX_DEPTH - 1)] * 3) + "]",
        json.dumps(["[" * 1_000, '"' + "[" * 1_000, "\\" + "{" * 1_000]),
        '"' + "[" * 1_000,
        "[]" + lists(MAX_DEPTH + 1),
    ],
    ids=["lists", "objects", "open", "beside", "texts", "open text", "after the value"],
)
def test_up_to_the_limit_nesting_is_accepted(text: str) -> None:
    check_nesting(text)


@pytest.mark.parametrize(
    ("text", "start"),
    [
        (lists(MAX_DEPTH + 1), 0),
        ('{"a":' * (MAX_DEPTH + 1), 0),
        ("[[]," + '{"a]]]]":[' * MAX_DEPTH, 0),
        ("[]" + "[" * 1_000_000, 2),
    ],
    ids=["lists", "objects", "both", "from an index"],
)
def test_beyond_the_limit_nesting_is_refused(text: str, start: int) -> None:
    with pytest.raises(RecursionError, match=f"nested more than {MAX_DEPTH} levels deep"):
        check_nesting(text, start)


def test_the_limit_of_json_values() -> None:
    assert to_json(lists(MAX_DEPTH)) == json.loads(lists(MAX_DEPTH))
    for text in (lists(MAX_DEPTH + 1), lists(10_000), "[" * 200_000):
        with pytest.raises(WrongTypeError):
            to_json(text)


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_the_limit_of_yaml_values(opening: str, closing: str) -> None:
    pytest.importorskip("yaml")
    deepest, too_deep = (
        (opening + " ") * depth + "1" + closing * depth for depth in (MAX_YAML_DEPTH, MAX_YAML_DEPTH + 1)
    )

    assert yaml_to_json(deepest) == deepest.replace(" ", "")
    assert yaml_to_json(too_deep) == too_deep


def test_aliases_of_yaml_make_no_document_of_many_megabytes() -> None:
    pytest.importorskip("yaml")
    lists = [f"l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * 9)}]" for level in range(1, 9)]
    bomb = "\n".join(["l0: &l0 [x, x, x, x, x, x, x, x, x]", *lists])
    long = f"a: &a {'x' * 50_000}\nb: [{', '.join(['*a'] * 100)}]"
    harmless = "a: &a {b: [1, 2]}\nc: [*a, *a]"

    assert yaml_to_json(bomb) == bomb
    assert yaml_to_json(long) == long
    assert yaml_to_json(harmless) == '{"a":{"b":[1,2]},"c":[{"b":[1,2]},{"b":[1,2]}]}'


POLLED = '"requestedAt":"1","forceUpdate":false'
RESPONSES: list[Any] = [
    pytest.param(decode_register_events, '{{"errors":{{}},"new":[{}]}}', id="events"),
    pytest.param(decode_get_evaluation, '{{"evaluation":null,"new":[{}]}}', id="evaluation"),
    pytest.param(
        decode_get_feature_flags,
        f'{{{{"featureFlagsId":"","features":[],"archivedFeatureFlagIds":[],{POLLED},"new":[{{}}]}}}}',
        id="flags",
    ),
    pytest.param(
        decode_get_segment_users,
        f'{{{{"segmentUsers":[],"deletedSegmentIds":[],{POLLED},"new":[{{}}]}}}}',
        id="segments",
    ),
]


@pytest.mark.parametrize(("decode", "form"), RESPONSES)
def test_the_limit_of_responses(decode: Callable[[bytes], object], form: str) -> None:
    decode(form.format(lists(DEPTH)).encode())
    for text in (lists(MAX_DEPTH), lists(10_000), "[" * 100_000):
        with pytest.raises(DecodeError, match="the response is not JSON: RecursionError"):
            decode(form.format(text).encode())


def test_the_limit_of_definitions_in_responses() -> None:
    def flags(depth: int) -> bytes:
        flag = f'{{"id":"a","new":[{lists(depth)}]}}'
        fields = f'"featureFlagsId":"","archivedFeatureFlagIds":[],{POLLED}'
        return f'{{{fields},"features":[{{"id":"b"}},{flag}]}}'.encode()

    assert decode_get_feature_flags(flags(DEPTH)).features[1]["id"] == "a"
    for depth in (MAX_DEPTH, 10_000):
        with pytest.raises(DecodeError, match="the response is not JSON: RecursionError"):
            decode_get_feature_flags(flags(depth))


@pytest.mark.parametrize(("depth", "code"), [(DEPTH, 3), (10_000, None)])
async def test_the_limit_of_error_bodies(depth: int, code: int | None) -> None:
    body = f'{{"code":3,"message":"m","details":[{lists(depth)}]}}'
    transport = httpx.MockTransport(lambda _: httpx.Response(400, text=body))
    async with (
        httpx.AsyncClient(transport=transport) as http,
        ApiClient(endpoint="https://localhost", api_key="key", http=http) as api_client,
    ):
        with pytest.raises(StatusError) as caught:
            await api_client.ping()

    assert caught.value.code == code


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0" * 5_000 + "12", 12),
        ("-" + "0" * 5_000 + "12", -12),
        ("+" + "0" * 5_000, 0),
        ("-" + "0" * 5_000, 0),
        ("1" * 5_000, None),
    ],
    ids=["zeros", "minus", "zero", "minus zero", "ones"],
)
def test_integers_have_any_number_of_leading_zeros(text: str, value: int | None) -> None:
    assert integer(text) == value


@pytest.mark.parametrize("digits", [310, 4_000, 5_000])
def test_a_json_integer_beyond_a_double_is_no_json(digits: int) -> None:
    assert to_json("9" * 308) == 10**308 - 1
    with pytest.raises(WrongTypeError):
        to_json(f'{{"a": [{"9" * digits}]}}')
