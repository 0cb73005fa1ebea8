"""Shapes: a schema of the server's JSON, whose parts validate a value and complete its omitted fields.

A completed value is what the server would send: it has every field, a 64-bit integer is a string, and an enum value is
its name.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from bucketeer_async._errors import ConfigurationError
from bucketeer_async._models import check_int32, check_text, shown

_LONGEST_SECONDS: Final = 19  # digits of the largest int64


class Shape(NamedTuple):
    """The shape of a value.

    Attributes:
        complete: Takes a value and its path; returns the completed value, or raises a `ConfigurationError`.
        absent: Returns the value of an omitted field.
    """

    complete: Callable[[Any, str], Any]
    absent: Callable[[], Any]


def _text(value: Any, path: str) -> str:
    try:
        return check_text(path, value)
    except TypeError as error:
        raise ConfigurationError(f"{error}; quote it") from None
    except ValueError as error:
        raise ConfigurationError(str(error)) from None


def _boolean(value: Any, path: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(f"{path} must be true or false, not {shown(value)}")
    return value


def _int32(value: Any, path: str) -> int:
    try:
        return check_int32(path, value, minimum=0)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(str(error)) from None


def _seconds(value: Any, path: str) -> str:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= _LONGEST_SECONDS:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise ConfigurationError(f"{path} must be Unix seconds, a whole number, not {shown(value)}")
    return str(value)


def _anything(value: Any, _path: str) -> Any:
    return value


TEXT: Final = Shape(_text, str)
BOOLEAN: Final = Shape(_boolean, bool)
INT32: Final = Shape(_int32, int)
SECONDS: Final = Shape(_seconds, lambda: "0")
ANYTHING: Final = Shape(_anything, lambda: None)


def enum(*names: str) -> Shape:
    """Return the shape of an enum value, given as a name or a number; a number without a name is kept."""

    def complete(value: Any, path: str) -> str | int:
        if isinstance(value, str) and value in names:
            return value
        if isinstance(value, int) and not isinstance(value, bool) and -(2**31) <= value < 2**31:
            return names[value] if 0 <= value < len(names) else value
        raise ConfigurationError(f"{path} must be one of {', '.join(names)}, not {shown(value)}")

    return Shape(complete, lambda: names[0])


def repeated(shape: Shape) -> Shape:
    """Return the shape of a list."""

    def complete(value: Any, path: str) -> list[Any]:
        if not isinstance(value, list | tuple):
            raise ConfigurationError(f"{path} must be a list, not {type(value).__name__}")
        return [shape.complete(each, f"{path}[{index}]") for index, each in enumerate(value)]

    return Shape(complete, list)


def message(**fields: Shape) -> Shape:
    """Return the shape of an object; a field that is null counts as omitted."""

    def complete(value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise ConfigurationError(f"{path or 'the content'} must be an object, not {type(value).__name__}")
        prefix = f"{path}." if path else ""
        for name in value:
            if name not in fields:
                raise ConfigurationError(f"{prefix}{name} is not a field{_suggestion(name, fields)}")
        return {
            name: shape.absent() if value.get(name) is None else shape.complete(value[name], prefix + name)
            for name, shape in fields.items()
        }

    return Shape(complete, lambda: None)


def _suggestion(name: object, fields: Mapping[str, Shape]) -> str:
    close = difflib.get_close_matches(str(name), fields, 1)
    return f"; did you mean {close[0]}?" if close else f"; the fields are {', '.join(fields)}"
