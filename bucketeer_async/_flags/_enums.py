"""Conversion of a variation's text to a member of an enum of the application, by the member's value."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from enum import Enum
from typing import Final, TypeVar

from bucketeer_async._flags._conversion import Kind, WrongTypeError, to_bool, to_float, to_string
from bucketeer_async._go_numbers import integer

_E = TypeVar("_E", bound=Enum)


def _to_int(text: str) -> int:
    value = integer(text)
    if value is None:
        raise WrongTypeError("the value is not a 64-bit integer")
    return value


#: How a text becomes the value of a member, by the type of the value; bool before int, because it is an int.
_VALUES: Final[dict[type, Callable[[str], object]]] = {str: to_string, bool: to_bool, int: _to_int, float: to_float}


def enum_kind(default: _E) -> Kind[_E]:
    """Return the kind of values that are members of the default's enum.

    Raises:
        TypeError: If the default is not a member of an enum, or no member has a value of a type that flags have.
    """
    if not isinstance(default, Enum):
        raise TypeError(f"default must be a member of an Enum, not of type {type(default).__name__}")
    members = type(default)
    found = {_value_type(member.value) for member in members} | {_value_type(default.value)}
    conversions = [convert for type_, convert in _VALUES.items() if type_ in found]
    if not conversions:
        names = ", ".join(each.__name__ for each in _VALUES)
        raise TypeError(
            f"default must be a member of an Enum with values of the types {names}, not of {members.__name__}"
        )

    def convert(text: str) -> _E:
        for conversion in conversions:
            with contextlib.suppress(Exception):  # no such member; the enum may have a `_missing_` of its own
                member = members(conversion(text))
                if isinstance(member, members):  # else a flag with the boundary EJECT
                    return member
        raise WrongTypeError(f"the value is not the value of a member of {members.__name__}")

    return Kind(members, lambda _: default, convert)


def _value_type(value: object) -> type | None:
    return next((each for each in _VALUES if isinstance(value, each)), None)
