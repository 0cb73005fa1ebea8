"""Reads the parsed proto3 JSON of definitions: absent, null and the default mean the same, unknown fields nothing."""

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
    """Return an integer field; int64 is text in JSON."""
    value = fields.get(name)
    if value is None:
        return 0
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            raise MalformedError(f"{name} is not an integer") from None
    if isinstance(value, bool) or not isinstance(value, int):
        raise MalformedError(f"{name} is not an integer but {type(value).__name__}")
    return value


def member(fields: Fields, name: str, names: tuple[str, ...]) -> str:
    """Return the name of an enum's member, from its name or number; "" for one that is not known."""
    value = fields.get(name)
    if value is None:
        return names[0]
    if isinstance(value, int) and not isinstance(value, bool):
        return names[value] if 0 <= value < len(names) else ""
    if not isinstance(value, str):
        raise MalformedError(f"{name} is not a name but {type(value).__name__}")
    return value if value in names else ""


def message(fields: Fields, name: str) -> Fields | None:
    """Return a message field, None if it is absent."""
    value = fields.get(name)
    if value is not None and not isinstance(value, Mapping):
        raise MalformedError(f"{name} is not an object but {type(value).__name__}")
    return value


def messages(fields: Fields, name: str) -> list[Fields]:
    """Return a repeated message field."""
    return _list(fields, name, Mapping)


def texts(fields: Fields, name: str) -> list[str]:
    """Return a repeated string field."""
    return _list(fields, name, str)


def _scalar(fields: Fields, name: str, kind: type[_T], default: _T) -> _T:
    value = fields.get(name)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise MalformedError(f"{name} is not {kind.__name__} but {type(value).__name__}")
    return value


def _list(fields: Fields, name: str, kind: type) -> list[Any]:
    values = fields.get(name)
    if values is None:
        return []
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        raise MalformedError(f"{name} is not a list of {kind.__name__}")
    return values
