"""`dataclass` as in the standard library, but what it adds to a class is generated when it is first looked up.

The standard library compiles up to six functions for each class. For the classes of this package that took half of the
time of an import, and most processes use few of these classes, or use them long after the start.

A class is made at once, with its slots. Each attribute that is to be generated is a descriptor at first. The first lookup
of any of them has the standard library make the whole dataclass from the same definition, and its attributes replace the
descriptors. From then on the class is what ``dataclasses.dataclass(slots=True)`` makes, as type checkers are told.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable
from dataclasses import field
from typing import TYPE_CHECKING, Any, Final, TypeVar

__all__ = ["dataclass", "field"]

_C = TypeVar("_C", bound=type)

_ALWAYS: Final = (
    *("__init__", "__dataclass_fields__", "__dataclass_params__", "__match_args__"),
    *(("__replace__",) if sys.version_info >= (3, 13) else ()),
)
_IF_FROZEN: Final = ("__setattr__", "__delattr__", "__getstate__", "__setstate__")


class _Generated:
    """An attribute of a dataclass that is not generated yet.

    Threads that race for the first lookup all generate the attributes, which are alike. A lock would be left locked by a
    fork.

    Args:
        definition: The class as it was written.
        options: The arguments of the decorator.
    """

    __slots__ = ("_definition", "_name", "_options", "_owner")

    def __init__(self, definition: type, options: dict[str, bool]) -> None:
        self._definition = definition
        self._options = options

    def __set_name__(self, owner: type, name: str) -> None:
        self._owner = owner
        self._name = name

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        made: type = dataclasses.dataclass(**self._options)(
            _copy(self._definition)
        )  # a copy, because it changes the class
        for name in _generated_names(self._definition, self._options):
            setattr(self._owner, name, made.__dict__[name])
        attribute = self._owner.__dict__[self._name]
        return attribute.__get__(instance, owner) if hasattr(attribute, "__get__") else attribute


def _generated_names(definition: type, options: dict[str, bool]) -> list[str]:
    """Return the names of all attributes that the standard library generates for a class."""
    is_frozen, is_compared = options.get("frozen", False), options.get("eq", True)
    names = [*_ALWAYS, *(_IF_FROZEN if is_frozen else ())]
    names += ["__repr__"] if options.get("repr", True) else []
    names += ["__eq__"] if is_compared else []
    names += ["__hash__"] if is_compared and is_frozen else []
    return [name for name in names if name not in definition.__dict__]


def _copy(definition: _C, without: Iterable[str] = (), **added: object) -> _C:
    """Return a class with the members of ``definition``, but for those named, and with those that are added."""
    left_out = {"__dict__", "__weakref__", *without}
    members = {name: value for name, value in definition.__dict__.items() if name not in left_out}
    copy: _C = type(definition)(definition.__name__, definition.__bases__, members | added)
    return copy


def _dataclass_later(**options: bool) -> Callable[[_C], _C]:
    """Return a decorator. The options are those of ``dataclasses.dataclass``, and ``slots`` has to be True."""

    def decorate(definition: _C) -> _C:
        fields = tuple(definition.__annotations__)
        generated = {name: _Generated(definition, options) for name in _generated_names(definition, options)}
        return _copy(definition, fields, __slots__=fields, **generated)

    return decorate


if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    dataclass = _dataclass_later
