"""Dataclasses whose methods are generated when they are first looked up are those of the standard library."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import subprocess
import sys
import threading
import typing
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from bucketeer_async import Fate, Outcome, _dataclasses


class _Base:
    """Has a slot that is not a field."""

    __slots__ = ("cached",)


class Price(_Base):
    """A price."""

    amount: float
    currency: str = dataclasses.field(default="JPY", kw_only=True)
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cached", -self.amount)


class Shown:
    """Has a repr of its own."""

    amount: float = 1.0

    def __repr__(self) -> str:
        return "<Shown>"


OPTIONS: list[dict[str, bool]] = [
    {"frozen": True},
    {"frozen": True, "kw_only": True},
    {"frozen": True, "repr": False},
    {"frozen": True, "eq": False},
    {},
    {"kw_only": True},
    {"eq": False},
    {"repr": False},
]
CASES = [
    pytest.param(each, options, id=f"{each.__name__} {' '.join(options)}")
    for each in (Price, Shown)
    for options in OPTIONS
]

#: What may be looked up first of a class.
USES: dict[str, Callable[[Any], object]] = {
    "init": lambda cls: cls(amount=1.0).amount,
    "signature": inspect.signature,
    "fields": lambda cls: [(each.name, each.type, each.kw_only, each.repr) for each in dataclasses.fields(cls)],
    "is_dataclass": dataclasses.is_dataclass,
    "match_args": lambda cls: cls.__match_args__,
    "repr": lambda cls: repr(_filled(cls)).partition(" object at ")[0],
    "eq": lambda cls: _filled(cls) == _filled(cls),
    "hash": lambda cls: cls.__hash__ and cls.__hash__ is not object.__hash__ and hash(_filled(cls)),
    "setattr": lambda cls: _raised(setattr, _filled(cls), "amount", 3.0),
    "delattr": lambda cls: _raised(delattr, _filled(cls), "amount"),
    "copy": lambda cls: copy.copy(_filled(cls)).amount,
    "replace": lambda cls: dataclasses.replace(_filled(cls), amount=5.0).amount,
    "asdict": lambda cls: dataclasses.asdict(_filled(cls)),
    "match": lambda cls: _matched(cls, _filled(cls)),
    "hints": typing.get_type_hints,
    "a subclass": lambda cls: inspect.signature(_subclass(cls)),
}


def _filled(cls: Any) -> Any:
    """Return an object whose constructor was not called."""
    made = object.__new__(cls)
    for name, value in (("amount", 2.0), ("currency", "EUR"), ("labels", {})):
        if name in cls.__slots__:
            object.__setattr__(made, name, value)
    return made


def _raised(function: Callable[..., object], *args: object) -> str:
    try:
        function(*args)
    except dataclasses.FrozenInstanceError as error:
        return str(error)
    return ""


def _matched(cls: Any, value: object) -> object:
    match value:
        case cls(amount=amount):
            return amount
    return None


def _subclass(cls: Any) -> Any:
    return dataclasses.dataclass(frozen=cls.__dataclass_params__.frozen)(type(cls.__name__, (cls,), {}))


def made_by(decorator: Callable[..., Any], definition: type, options: dict[str, bool]) -> Any:
    """Return the dataclass that a decorator makes of a copy of a definition."""
    members = {name: value for name, value in vars(definition).items() if name not in {"__dict__", "__weakref__"}}
    return decorator(slots=True, **options)(type(definition)(definition.__name__, definition.__bases__, members))


def looks(cls: type) -> dict[str, object]:
    """Return the members of a class: functions by their code, and what is not theirs by its type."""
    return {
        name: (value.__code__.co_code, value.__code__.co_names) if inspect.isfunction(value) else type(value)
        for name, value in vars(cls).items()
        if name not in {"__dataclass_fields__", "__weakref__"}  # the second one is a leftover, and of no use
    } | {"fields": str(dataclasses.fields(cls)), "slots": cls.__slots__}  # type: ignore[attr-defined]


@pytest.mark.parametrize(("definition", "options"), CASES)
@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_whatever_is_used_first_the_class_is_that_of_the_standard_library(
    definition: type, options: dict[str, bool], use: Callable[[Any], object]
) -> None:
    ours, theirs = (made_by(each, definition, options) for each in (_dataclasses.dataclass, dataclasses.dataclass))
    assert "__init__" in vars(ours)
    assert not inspect.isfunction(vars(ours)["__init__"])

    assert use(ours) == use(theirs)
    for name in dir(ours):
        getattr(ours, name)

    assert looks(ours) == looks(theirs)


def test_threads_that_race_for_the_first_use_all_get_a_working_class() -> None:
    cls, ready, made = made_by(_dataclasses.dataclass, Price, {"frozen": True}), threading.Barrier(8), []

    def use() -> None:
        ready.wait()
        made.append(cls(amount=1.0))

    threads = [threading.Thread(target=use) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    assert len(set(made)) == 1
    assert {type(each) for each in made} == {cls}


def test_a_value_can_be_unpickled_where_its_class_was_not_used_before() -> None:
    pickled = pickle.dumps(Outcome(Fate.REJECTED, message="too old"))
    code = f"import pickle; print(pickle.loads({pickled!r}))"

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ran.stdout.strip() == repr(Outcome(Fate.REJECTED, message="too old"))
