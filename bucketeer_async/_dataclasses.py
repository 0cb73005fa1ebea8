"""`dataclass` as in the standard library, but what it adds to a class is generated when it is first looked up.

The standard library compiles up to six functions for each class. For the classes of this package that took half of the
time of an import, and most processes use few of these classes, or use them long after the start.

A class is made at once, with its slots. Each attribute that is to be generated is a descriptor at first. The first lookup
of one has the standard library make a dataclass from the same definition, and its attributes replace the descriptors: at
first those with which objects are made, and the others once one of them is looked up. After that, the class is what
``dataclasses.dataclass(slots=True)`` makes, as type checkers are told.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable
from dataclasses import field
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, TypeVar

__all__ = ["dataclass", "field"]

_C = TypeVar("_C", bound=type)

#: What objects are made with.
_OF_OBJECTS: Final = ("__init__", "__dataclass_fields__", "__match_args__")
_OF_FROZEN_OBJECTS: Final = (*_OF_OBJECTS, "__setattr__", "__delattr__", "__getstate__", "__setstate__")
#: What else there is, whatever the options are.
_OTHERS: Final = ("__dataclass_params__", *(("__replace__",) if sys.version_info >= (3, 13) else ()))


class _Generated:
    """An attribute of a dataclass that is not generated yet.

    Threads that race for the first lookup all generate the attributes, which are alike. A lock would be left locked by a
    fork.

    Args:
        definition: The class as it was written.
        options: Those by which the standard library generates it.
        modules: The modules that the standard library looks up by their names.

    Attributes:
        options: As given. Attributes with the same options are generated together.
    """

    __slots__ = ("_definition", "_modules", "_name", "_owner", "options")

    def __init__(self, definition: type, options: dict[str, bool], modules: dict[str, ModuleType]) -> None:
        self._definition = definition
        self._modules = modules
        self.options = options

    def __set_name__(self, owner: type, name: str) -> None:
        self._owner = owner
        self._name = name

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        if sys.is_finalizing():  # no module can be looked up any more, and a finalizer may be the first to use a class
            sys.modules.update(self._modules)
        made: type = dataclasses.dataclass(**self.options)(_copy(self._definition))  # it changes the class it is given
        for name, each in list(vars(self._owner).items()):
            if isinstance(each, _Generated) and each.options is self.options:
                setattr(self._owner, name, vars(made)[name])
        attribute = vars(self._owner)[self._name]
        return attribute.__get__(instance, owner) if hasattr(attribute, "__get__") else attribute


def _generated(definition: type, options: dict[str, bool]) -> dict[str, _Generated]:
    """Return the attributes that the standard library generates for a class, by name."""
    is_frozen, is_compared = options.get("frozen", False), options.get("eq", True)
    others = [*_OTHERS, *(["__repr__"] if options.get("repr", True) else []), *(["__eq__"] if is_compared else [])]
    others += ["__hash__"] if is_compared and is_frozen else []
    objects = dict.fromkeys(_OF_FROZEN_OBJECTS if is_frozen else _OF_OBJECTS, options | {"repr": False, "eq": False})
    modules = {name: sys.modules[name] for name in ("dataclasses", definition.__module__)}
    return {
        name: _Generated(definition, each, modules)
        for name, each in (objects | dict.fromkeys(others, options)).items()
        if name not in vars(definition)
    }


def _copy(definition: _C, without: Iterable[str] = (), **added: object) -> _C:
    """Return a class with the members of ``definition``, but for those named, and with those that are added."""
    left_out = {"__dict__", "__weakref__", *without}
    members = {name: value for name, value in vars(definition).items() if name not in left_out}
    copy: _C = type(definition)(definition.__name__, definition.__bases__, members | added)
    return copy


def _dataclass_later(**options: bool) -> Callable[[_C], _C]:
    """Return a decorator. The options are those of ``dataclasses.dataclass``, and ``slots`` has to be True."""

    def decorate(definition: _C) -> _C:
        fields = tuple(definition.__annotations__)
        return _copy(definition, fields, __slots__=fields, **_generated(definition, options))

    return decorate


if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    dataclass = _dataclass_later
