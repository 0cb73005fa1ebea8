"""Readers for the fields of definitions, which are parsed proto3 JSON.

A field that is absent or null has its default. Unknown fields are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from bucketeer_async._evaluation._errors import MalformedError

_T = TypeVar("_T", str, bool, float)
Fields = Mapping[str, Any]


def text(fields: Fields, name: str) -> str:
    """Return a string field."""
    return _scalar(fields, name, str, "")


def boolean(fields: Fields, name: str) -> bool:
    """Return a bool field."""
    return _scalar(fields, name, bool, False)  # noqa: FBT003 - proto3's default


def integer(fields: Fields, name: str) -> int:
    """Return an integer field; proto3 JSON writes an int64 as a string."""
    value = fields.get(name)
    if value is None:
        return 0
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            raise MalformedError(f"{name} is not an integer") from None
    if isinstance(value, bool) or not isinstance(value, int):
        raise MalformedError(f"{name} must be an integer, not {type(value).__name__}")
    return value


def enum_name(fields: Fields, name: str, names: tuple[str, ...]) -> str:
    """Return an enum field as the name of its value, given as a name or a number; "" for an unknown value."""
    value = fields.get(name)
    if value is None:
        return names[0]
    if isinstance(value, int) and not isinstance(value, bool):
        return names[value] if 0 <= value < len(names) else ""
    if not isinstance(value, str):
        raise MalformedError(f"{name} must be the name or number of an enum value, not {type(value).__name__}")
    return value if value in names else ""


def message(fields: Fields, name: str) -> Fields | None:
    """Return a message field, or None if it is absent."""
    value = fields.get(name)
    if value is not None and not isinstance(value, Mapping):
        raise MalformedError(f"{name} must be an object, not {type(value).__name__}")
    return value


def messages(fields: Fields, name: str) -> list[Fields]:
    """Return a repeated message field."""
    return _list(fields, name, Mapping, "objects")


def texts(fields: Fields, name: str) -> list[str]:
    """Return a repeated string field."""
    return _list(fields, name, str, "strings")


def _scalar(fields: Fields, name: str, kind: type[_T], default: _T) -> _T:
    value = fields.get(name)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise MalformedError(f"{name} must be a {kind.__name__}, not {type(value).__name__}")
    return value


def _list(fields: Fields, name: str, kind: type, plural: str) -> list[Any]:
    values = fields.get(name)
    if values is None:
        return []
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        raise MalformedError(f"{name} must be a list of {plural}")
    return values
