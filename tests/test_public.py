"""The public surface: complete, sorted, documented."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
import subprocess
import sys
import typing
from collections.abc import Callable
from enum import Enum
from types import ModuleType

import pytest

import bucketeer_async
import bucketeer_async.api
import bucketeer_async.blocking
import bucketeer_async.gateway
from bucketeer_async import DrainReport, EventKind, Statistics

MODULES = [bucketeer_async, bucketeer_async.api, bucketeer_async.blocking, bucketeer_async.gateway]

#: Names that have moved and can still be imported from the root, until 1.0.
MOVED = set(bucketeer_async.api.__all__)

#: Public classes that show the module where they are defined: `typing.get_type_hints` looks their annotations up there.
SHOWN_WHERE_DEFINED = {
    "CheckReport",
    "EvaluationDetails",
    "EventCounts",
    "GetEvaluationResponse",
    "GetEvaluationsResponse",
    "LocalEvaluation",
    "ProcessorConfig",
    "RegisterEventsResponse",
    "Spool",
    "User",
}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_all_is_sorted_and_complete(module: ModuleType) -> None:
    public = {name for name, value in vars(module).items() if not name.startswith("_") and not inspect.ismodule(value)}

    assert sorted(module.__all__) == sorted(set(module.__all__))
    assert public - (MOVED - {*module.__all__}) == {name for name in module.__all__ if not name.startswith("__")}


def test_what_has_moved_is_the_same_under_its_old_path() -> None:
    for name in MOVED:
        assert getattr(bucketeer_async, name) is getattr(bucketeer_async.api, name)
    assert not MOVED & {*bucketeer_async.__all__}


def classes() -> dict[str, tuple[type, str]]:
    """All public classes of the root and of `api`, with the module that each is public in."""
    return {
        name: (value, module.__name__)
        for module in (bucketeer_async, bucketeer_async.api)
        for name in module.__all__
        if inspect.isclass(value := getattr(module, name))
    }


def vars_of(cls: type) -> dict[str, object]:
    """The members of a class, with those that it inherits from classes of the package."""
    bases = [each for each in reversed(cls.__mro__) if each.__module__.startswith("bucketeer_async")]
    return {name: member for base in bases for name, member in vars(base).items()}


@pytest.mark.parametrize("name", classes())
def test_type_hints_of_public_classes_can_be_resolved(name: str) -> None:
    cls, _ = classes()[name]

    typing.get_type_hints(cls)
    for member in vars_of(cls).values():
        if inspect.isfunction(member) and not member.__name__.startswith("_"):
            typing.get_type_hints(member)


@pytest.mark.parametrize("name", classes())
def test_public_classes_show_their_public_module(name: str) -> None:
    cls, public = classes()[name]

    if name in SHOWN_WHERE_DEFINED:
        assert cls.__module__.startswith("bucketeer_async._")
    else:
        assert cls.__module__ == public
    assert pickle.loads(pickle.dumps(cls)) is cls


def test_a_class_is_shown_where_it_is_defined_only_if_its_hints_need_that(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SHOWN_WHERE_DEFINED:
        cls, public = classes()[name]
        with monkeypatch.context() as patch:
            patch.setattr(cls, "__module__", public)
            with pytest.raises(NameError):
                typing.get_type_hints(cls)


def test_every_kind_of_events_has_its_counters() -> None:
    for result in (Statistics, DrainReport):
        fields = typing.get_type_hints(result)
        assert {fields[kind.value] for kind in EventKind} == {fields["total"]}
    assert issubclass(EventKind, Enum)
    assert {EventKind.GOAL: 1}["goal"] == 1


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_public_name_has_a_docstring(module: ModuleType) -> None:
    bare = []
    for name in module.__all__:
        value = getattr(module, name)
        if not inspect.isclass(value):
            continue
        members = [member for key, member in vars_of(value).items() if not key.startswith("_")]
        functions = [member.fget if isinstance(member, property) else member for member in members]
        bare += [each for each in [value, *functions] if callable(each) and not inspect.getdoc(each)]

    assert not bare


def test_every_option_is_in_the_readme() -> None:
    readme = bucketeer_async.__path__[0] + "/../README.md"
    with open(readme) as file:  # noqa: PTH123
        text = file.read()

    missing = [name for name in bucketeer_async.ProcessorConfig.__dataclass_fields__ if f"| `{name}` |" not in text]

    assert not missing


@pytest.mark.parametrize(
    ("module", "missing", "words"),
    [
        ("gateway", "starlette.applications", 'needs starlette, which .*: pip install "bucketeer-async[gateway]"'),
        ("gateway", "uvicorn", 'needs uvicorn, which is not installed: pip install "bucketeer-async[gateway]"'),
        ("spool", "_sqlite3", "a spool needs sqlite3, and this Python was built without it"),
    ],
)
def test_a_command_says_what_to_install(module: str, missing: str, words: str) -> None:
    run = f"runpy.run_module('bucketeer_async.{module}', run_name='__main__', alter_sys=True)"
    code = f"import runpy, sys; sys.modules[{missing!r}] = None; {run}"

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert ran.returncode == 1
    assert re.search(words.replace("[", r"\["), ran.stderr.splitlines()[-1])


@pytest.mark.parametrize("copying", [copy.copy, copy.deepcopy, pickle.dumps], ids=["copy", "deepcopy", "pickle"])
@pytest.mark.parametrize("name", ["a Client", "a Processor", "an ApiClient"])
def test_what_has_a_life_says_what_to_do_instead_of_a_copy(name: str, copying: Callable[[object], object]) -> None:
    api = bucketeer_async.ApiClient(endpoint="api.example.com", api_key="key")
    made = {
        "a Client": bucketeer_async.Client(endpoint="api.example.com", api_key="key", tag="shop"),
        "a Processor": bucketeer_async.Processor(api),
        "an ApiClient": api,
    }

    with pytest.raises(TypeError, match=f"^{name} cannot be copied or pickled: use the same object, or make another"):
        copying(made[name])
