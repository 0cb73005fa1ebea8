"""Conversion of a variation's text to a bool, int, float, str or JSON, by the rules of Bucketeer's Go SDK.

Text is neither trimmed nor coerced: a text that is not a value of the requested type raises a `WrongTypeError`.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import NoneType
from typing import Any, Final, Generic, NoReturn, TypeVar

from bucketeer_async._go_numbers import integer, number
from bucketeer_async._models import shown
from bucketeer_async._nesting import check_nesting
from bucketeer_async._options import is_callback

_T = TypeVar("_T")

#: For type checkers, the type of a default of `Client.json_variation`, and of the value: the first that fits. A value
#: has no more than the outer type in common with the default.
Json = TypeVar("Json", bool, int, float, str, dict[str, Any], list[Any], Mapping[str, Any], Sequence[Any])

_BOOLS: Final = dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True) | dict.fromkeys(
    ("0", "f", "F", "FALSE", "false", "False"), False
)
#: The types of defaults, with the type of JSON that the value must have; bool first, because it is an int.
_JSON_TYPES: Final[dict[type, type]] = {
    bool: bool,
    int: int,
    float: float,
    str: str,
    list: list,
    dict: dict,
    NoneType: NoneType,
    Mapping: dict,
    Sequence: list,
}
_NO_JSON: Final = (bytes, bytearray, memoryview)  # sequences that are none of JSON's


class WrongTypeError(ValueError):
    """The value of a variation does not have the requested type. The message never contains the value."""


class ParseError(WrongTypeError):
    """What ``parse`` has raised. The message does not contain the text of the error, which may contain the value.

    Attributes:
        text: The message and the text of the error, for the caller alone.
    """

    def __init__(self, error: Exception) -> None:
        message = f"parse raised {type(error).__name__}"
        super().__init__(message)
        self.text = message
        with contextlib.suppress(Exception):  # an error of the application may have a method of its own for the text
            self.text = f"{message}: {error}"


class Kind(Generic[_T]):
    """A kind of values.

    Attributes:
        type: The type of most defaults, of which none has to be checked.
        check: Returns any other default as a value of the kind, or raises an error that says what a default may be.
        convert: Returns the text of a variation as a value of the kind, or raises a `WrongTypeError`.
    """

    __slots__ = ("check", "convert", "type")

    def __init__(self, type_: type, check: Callable[[object], _T], convert: Callable[[str], _T]) -> None:
        self.type: type = type_
        self.check: Callable[[object], _T] = check
        self.convert: Callable[[str], _T] = convert


# Defaults


def check_default(default: object, kind: type[_T]) -> _T:
    """Return the default if it has the requested type.

    Raises:
        TypeError: If the default has another type; a bool is not accepted as an int.
    """
    if not isinstance(default, kind) or (isinstance(default, bool) and kind is not bool):
        raise TypeError(f"default must be of type {kind.__name__}, not {type(default).__name__}")
    return default


def check_float_default(default: object) -> float:
    """Return the default as a float.

    Raises:
        TypeError: If the default is neither a float nor an int.
        ValueError: If the default is an int beyond the range of a float.
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
    """Parse a bool as Go's ``ParseBool`` does: six spellings of true, six of false, and no others."""
    try:
        return _BOOLS[text]
    except KeyError:
        raise WrongTypeError("the value is not a bool") from None


def to_int(text: str) -> int:
    """Parse a 64-bit integer; the fraction of another number is cut off."""
    exact = integer(text)
    if exact is not None:
        return exact
    value = number(text)
    if value is None or not abs(value) < 2**63:  # also false for NaN
        raise WrongTypeError("the value is not a 64-bit integer")
    return int(value)


def to_float(text: str) -> float:
    """Parse a float as Go's ``ParseFloat`` does: decimal, hexadecimal, infinity or NaN; an overflow is an error."""
    value = number(text)
    if value is None:
        raise WrongTypeError("the value is not a number in the range of a double")
    return value


def to_string(text: str) -> str:
    """Return the text unchanged."""
    return text


def json_kind(default: object, parse: Callable[[Any], Any] | None = None) -> Kind[Any]:
    """Return the kind of values of `json_like`, or of those that an application's function makes of JSON.

    Args:
        default: The default; of any type if there is a function.
        parse: The function; None for JSON.

    Raises:
        TypeError: As in `json_like`, or if ``parse`` cannot be called.
    """
    return Kind(type(default), lambda same: same, json_like(default) if parse is None else parsed_by(parse))


def json_like(default: object) -> Callable[[str], Any]:
    """Return a conversion to JSON of the default's type, or to JSON of any type if the default is None.

    An object is a dict, and a list is a list, whichever mapping or sequence the default is.

    Raises:
        TypeError: If the default does not have a JSON type.
    """
    type_ = next((of_json for each, of_json in _JSON_TYPES.items() if isinstance(default, each)), None)
    if type_ is None or isinstance(default, _NO_JSON):
        names = ", ".join(each.__name__ for each in _JSON_TYPES if each is not NoneType)
        raise TypeError(f"default must be of a JSON type ({names} or None), not {type(default).__name__}")
    return lambda text: _check_type(to_json(text), type_)


def parsed_by(parse: Callable[[Any], Any]) -> Callable[[str], Any]:
    """Return a conversion to what ``parse`` makes of JSON.

    Raises:
        TypeError: If ``parse`` is not callable, or is a coroutine function.
    """
    if not is_callback(parse):
        raise TypeError(f"parse must be a function of the JSON value, and no coroutine function, not {shown(parse)}")

    def convert(text: str) -> Any:
        value = to_json(text)
        try:
            return parse(value)
        except Exception as error:  # noqa: BLE001 - whatever it is, the value is not what the application expects
            raise ParseError(error) from None

    return convert


def _check_type(value: Any, type_: type) -> Any:
    if type_ is float and type(value) is int:
        value = _as_float(value)
    if type_ is not NoneType and type(value) is not type_:
        raise WrongTypeError(
            f"the value is JSON of type {type(value).__name__}, but the default is of type {type_.__name__}"
        )
    return value


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        raise WrongTypeError("the value is not a number in the range of a double") from None


def to_json(text: str) -> Any:
    """Parse JSON of any type; of duplicate keys, the last one wins."""
    try:
        check_nesting(text)
        return _DECODER.decode(text)
    except (ValueError, RecursionError):
        raise WrongTypeError("the value is not valid JSON") from None


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError("the number is beyond the range of a double")
    return value


def _whole(digits: str) -> int:
    _finite(digits)  # also keeps away from the interpreter's limit of digits
    return int(digits)


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not valid JSON")


_DECODER: Final = json.JSONDecoder(parse_float=_finite, parse_int=_whole, parse_constant=_reject_constant)

BOOL: Final = Kind(bool, partial(check_default, kind=bool), to_bool)
INT: Final = Kind(int, partial(check_default, kind=int), to_int)
FLOAT: Final = Kind(float, check_float_default, to_float)
STRING: Final = Kind(str, partial(check_default, kind=str), to_string)
