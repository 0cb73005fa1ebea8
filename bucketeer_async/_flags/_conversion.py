"""The text of a variation as a bool, int, float, str or JSON, by the rules of Bucketeer's Go SDK.

Nothing is trimmed or guessed: a text that does not mean a value of the type that was asked for is a `WrongTypeError`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any, Final, NoReturn, TypeVar

from bucketeer_async._go_numbers import integer, number

_T = TypeVar("_T")

#: What the default of `Client.json_variation` may be for a type checker; at run time it is what ``json.loads`` makes.
Json = TypeVar("Json", bound=Mapping[str, Any] | list[Any] | str | float | bool)

_BOOLS: Final = dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True) | dict.fromkeys(
    ("0", "f", "F", "FALSE", "false", "False"), False
)
_JSON_KINDS: Final = (bool, int, float, str, list, dict, NoneType)  # bool first: it is an int


class WrongTypeError(ValueError):
    """The value of a variation is not of the type that was asked for. The message never shows it."""


# Defaults


def check_default(default: object, kind: type[_T]) -> _T:
    """Return the default of a question if it has the type of the answer.

    Raises:
        TypeError: If it has another one; True is no int.
    """
    if not isinstance(default, kind) or (isinstance(default, bool) and kind is not bool):
        raise TypeError(f"default must be of type {kind.__name__}, not {type(default).__name__}")
    return default


def check_float_default(default: object) -> float:
    """Return the default as a float.

    Raises:
        TypeError: If it is neither a float nor an int.
        ValueError: If it is an int beyond the range of a float.
    """
    if isinstance(default, float):
        return default
    try:
        return float(check_default(default, int))
    except TypeError:
        raise TypeError(f"default must be of type float, not {type(default).__name__}") from None
    except OverflowError:
        raise ValueError("default must fit into a float") from None


# Conversions


def to_bool(text: str) -> bool:
    """Return what Go's ``ParseBool`` does: six spellings of true, six of false, and no others."""
    try:
        return _BOOLS[text]
    except KeyError:
        raise WrongTypeError("the value is no bool") from None


def to_int(text: str) -> int:
    """Return an int64: exact if it is written as an integer, otherwise the number without its fraction."""
    exact = integer(text)
    if exact is not None:
        return exact
    value = number(text)
    if value is None or not abs(value) < 2**63:  # NaN neither
        raise WrongTypeError("the value is no integer of 64 bits")
    return int(value)


def to_float(text: str) -> float:
    """Return what Go's ``ParseFloat`` does: decimal or hexadecimal, infinities and NaN by name, no overflow."""
    value = number(text)
    if value is None:
        raise WrongTypeError("the value is no number in the range of a double")
    return value


def to_string(text: str) -> str:
    """Return the text."""
    return text


def json_like(default: object) -> Callable[[str], Any]:
    """Return a conversion to JSON of the same kind as the default; of any kind if that is None.

    Raises:
        TypeError: If the default is nothing that JSON can be.
    """
    kind = next((kind for kind in _JSON_KINDS if isinstance(default, kind)), None)
    if kind is None:
        names = ", ".join(each.__name__ for each in _JSON_KINDS[:-1])
        raise TypeError(f"default must be what JSON can be ({names} or None), not {type(default).__name__}")
    return lambda text: _of_kind(to_json(text), kind)


def _of_kind(value: Any, kind: type) -> Any:
    if kind is float and type(value) is int:
        value = _as_float(value)
    if kind is not NoneType and type(value) is not kind:
        raise WrongTypeError(f"the value is JSON, but a {type(value).__name__}, and the default is a {kind.__name__}")
    return value


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        raise WrongTypeError("the value is no number in the range of a double") from None


def to_json(text: str) -> Any:
    """Return what the JSON means: any kind of it; of keys that are there twice, the last counts."""
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError):
        raise WrongTypeError("the value is no JSON") from None


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError("beyond the range of a double")
    return value


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"JSON has no {name}")


_DECODER: Final = json.JSONDecoder(parse_float=_finite, parse_constant=_refuse)
