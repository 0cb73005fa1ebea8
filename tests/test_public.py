"""The public surface: complete, sorted, documented."""

from __future__ import annotations

import inspect
from types import ModuleType

import pytest

import bucketeer_async
import bucketeer_async.gateway

MODULES = [bucketeer_async, bucketeer_async.gateway]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_all_is_sorted_and_complete(module: ModuleType) -> None:
    public = {name for name, value in vars(module).items() if not name.startswith("_") and not inspect.ismodule(value)}

    assert sorted(module.__all__) == sorted(set(module.__all__))
    assert public == {name for name in module.__all__ if not name.startswith("__")}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_public_name_has_a_docstring(module: ModuleType) -> None:
    bare = []
    for name in module.__all__:
        value = getattr(module, name)
        if not inspect.isclass(value):
            continue
        members = [member for key, member in vars(value).items() if not key.startswith("_")]
        functions = [member.fget if isinstance(member, property) else member for member in members]
        bare += [each for each in [value, *functions] if callable(each) and not inspect.getdoc(each)]

    assert not bare


def test_every_option_is_in_the_readme() -> None:
    readme = bucketeer_async.__path__[0] + "/../README.md"
    with open(readme) as file:  # noqa: PTH123
        text = file.read()

    missing = [name for name in bucketeer_async.ProcessorConfig.__dataclass_fields__ if f"| `{name}` |" not in text]

    assert not missing
