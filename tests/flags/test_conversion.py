"""The text of a variation as a value: the rules of the Go SDK, and the errors for defaults of the wrong type."""

from __future__ import annotations

import json
import math
from collections import ChainMap, deque
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bucketeer_async._flags._conversion import (
    WrongTypeError,
    check_default,
    check_float_default,
    json_like,
    to_bool,
    to_float,
    to_int,
    to_json,
    to_string,
)

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@pytest.mark.parametrize("text", ["1", "t", "T", "TRUE", "true", "True"])
def test_six_spellings_are_true(text: str) -> None:
    assert to_bool(text) is True


@pytest.mark.parametrize("text", ["0", "f", "F", "FALSE", "false", "False"])
def test_six_spellings_are_false(text: str) -> None:
    assert to_bool(text) is False


@pytest.mark.parametrize("text", ["", "tRUE", "yes", "on", " true", "true\n", "10", "01", "null", '"true"', "ｔ"])
def test_every_other_text_is_no_bool(text: str) -> None:
    with pytest.raises(WrongTypeError):
        to_bool(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("+7", 7),
        ("-7", -7),
        ("007", 7),
        ("1.9", 1),
        ("-1.9", -1),
        ("1e3", 1000),
        (".5", 0),
        ("1_000", 1000),
        ("0x1p4", 16),
        ("9007199254740993", 2**53 + 1),
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
    ],
)
def test_an_int_is_exact_or_cut_off_towards_zero(text: str, value: int) -> None:
    assert to_int(text) == value
    assert type(to_int(text)) is int


@pytest.mark.parametrize(
    "text",
    ["", " 1", "1 ", "1\n", "0x10", "one", "NaN", "Inf", "-infinity", "1e400", "true", "１", "1,5", "1__0", "_1"],
)
def test_every_other_text_is_no_int(text: str) -> None:
    with pytest.raises(WrongTypeError):
        to_int(text)


@pytest.mark.parametrize("text", ["9223372036854775808", "-9223372036854775809", "1e19", "9" * 5000])
def test_an_int_beyond_64_bits_is_none(text: str) -> None:
    with pytest.raises(WrongTypeError):
        to_int(text)


@given(st.integers(-(2**63), 2**63 - 1))
def test_every_int64_survives(value: int) -> None:
    assert to_int(str(value)) == value


@given(st.floats(-(2.0**62), 2.0**62))
def test_a_fraction_is_cut_off(value: float) -> None:
    assert to_int(repr(value)) == math.trunc(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.5", 1.5),
        ("-1", -1.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("1e-3", 0.001),
        ("1E+3", 1000.0),
        ("0x1p4", 16.0),
        ("0X1.8p1", 3.0),
        ("1_23.50_0_0e+1_2", 1.235e14),
        ("5e-324", 5e-324),
        ("1e-400", 0.0),
        ("inf", math.inf),
        ("+Inf", math.inf),
        ("-Infinity", -math.inf),
        ("1.7976931348623157e308", 1.7976931348623157e308),
    ],
)
def test_a_float_is_parsed_as_go_does(text: str, value: float) -> None:
    assert to_float(text) == value


@pytest.mark.parametrize("text", ["nan", "NaN", "NAN"])
def test_nan_has_a_name(text: str) -> None:
    assert math.isnan(to_float(text))


@pytest.mark.parametrize(
    "text", ["", " 1", "1 ", "0x10", "0x1", "1e400", "-1e400", "1e", "e1", ".", "1.5f", "٣", "+nan", "1__0", "infi"]
)
def test_every_other_text_is_no_float(text: str) -> None:
    with pytest.raises(WrongTypeError):
        to_float(text)


@given(st.floats(allow_nan=False))
def test_every_double_survives(value: float) -> None:
    assert to_float(repr(value)) == value


@given(st.text())
def test_a_string_is_served_as_it_is(text: str) -> None:
    assert to_string(text) is text


@given(st.text())
@example("１")
@example("1\n")
def test_a_text_either_means_a_value_or_is_of_the_wrong_type(text: str) -> None:
    for convert in (to_bool, to_int, to_float, to_json):
        try:
            convert(text)
        except WrongTypeError:
            continue


@given(JSON_VALUES)
def test_json_survives(value: Any) -> None:
    assert to_json(json.dumps(value)) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("null", None),
        ("true", True),
        ("1", 1),
        ('"a"', "a"),
        (' {"a": 1}\n', {"a": 1}),
        ('{"a": 1, "a": 2}', {"a": 2}),
        ("[1, [2]]", [1, [2]]),
    ],
)
def test_json_is_any_kind_of_it(text: str, value: Any) -> None:
    assert to_json(text) == value


@pytest.mark.parametrize(
    "text", ["", " ", "{", "a: 1", "NaN", "[Infinity]", "-Infinity", "1e400", "{'a': 1}", "[1,]", "1 2", "9" * 5000]
)
def test_every_other_text_is_no_json(text: str) -> None:
    with pytest.raises(WrongTypeError):
        to_json(text)


def test_json_that_is_nested_too_deep_is_no_json() -> None:
    with pytest.raises(WrongTypeError):
        to_json("[" * 200_000)


@pytest.mark.parametrize(
    ("default", "text", "value"),
    [
        ({}, '{"a": [1]}', {"a": [1]}),
        ([], "[1]", [1]),
        ("", '"a"', "a"),
        (False, "true", True),
        (0, "5", 5),
        (0.0, "5.5", 5.5),
        (0.0, "5", 5.0),
        (None, "{}", {}),
        (None, "null", None),
        (MappingProxyType({"a": 1}), '{"a": [1]}', {"a": [1]}),
        (ChainMap({}), "{}", {}),
        ((1, 2), "[1]", [1]),
        (deque([1]), "[]", []),
        (range(3), "[1]", [1]),
    ],
)
def test_json_is_of_the_default_s_kind(default: Any, text: str, value: Any) -> None:
    found = json_like(default)(text)

    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("default", "text"),
    [
        ({}, "[]"),
        ({}, "null"),
        ([], "{}"),
        ("", "1"),
        (False, "1"),
        (0, "true"),
        (0, "1.5"),
        (0.0, "true"),
        (0.0, "1" * 400),
        (0, '"1"'),
        ((), "{}"),
        ((), '"a"'),
        (MappingProxyType({}), "[]"),
    ],
)
def test_json_of_another_kind_than_the_default_is_of_the_wrong_type(default: Any, text: str) -> None:
    with pytest.raises(WrongTypeError):
        json_like(default)(text)


@pytest.mark.parametrize("default", [{1}, b"", bytearray(), memoryview(b""), object(), 1j])
def test_a_default_that_json_cannot_be_is_a_type_error(default: Any) -> None:
    with pytest.raises(TypeError, match="default must be of a JSON type"):
        json_like(default)


@pytest.mark.parametrize(("default", "kind"), [(1, bool), (True, int), (None, str), (b"", str), ("1", int), (1.0, int)])
def test_a_default_of_another_type_is_a_type_error(default: Any, kind: type) -> None:
    with pytest.raises(TypeError, match=f"default must be of type {kind.__name__}, not {type(default).__name__}"):
        check_default(default, kind)


def test_the_default_of_a_float_is_a_float() -> None:
    assert check_float_default(1.5) == 1.5
    assert type(check_float_default(1)) is float


@pytest.mark.parametrize("default", [True, None, "1.5"])
def test_the_default_of_a_float_is_no_bool(default: Any) -> None:
    with pytest.raises(TypeError, match="default must be of type float"):
        check_float_default(default)


def test_the_default_of_a_float_must_fit() -> None:
    with pytest.raises(ValueError, match="default must fit into a float"):
        check_float_default(10**400)


@pytest.mark.parametrize("convert", [to_bool, to_int, to_float, to_json, json_like({})])
def test_the_value_is_not_shown(convert: Callable[[str], object]) -> None:
    with pytest.raises(WrongTypeError) as caught:
        convert("of-somebody")

    assert "of-somebody" not in str(caught.value)
