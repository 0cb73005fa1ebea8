"""An extension of griffe, which reads the package for the reference: it takes our `dataclass` for the standard one."""

from __future__ import annotations

from typing import Any, Final

import griffe

_OURS: Final = "bucketeer_async._dataclasses.dataclass"


class Dataclasses(griffe.Extension):
    """Names the standard library's decorator where the package uses its own, which makes the same classes."""

    def on_package(self, *, pkg: griffe.Module, **_others: Any) -> None:
        """Look at all classes, before griffe makes the constructors of dataclasses."""
        _rename(pkg)


def _rename(parent: griffe.Module | griffe.Class) -> None:
    for member in parent.members.values():
        if member.is_alias or not isinstance(member, griffe.Module | griffe.Class):
            continue
        if isinstance(member, griffe.Class):
            for decorator in member.decorators:
                if isinstance(decorator.value, griffe.ExprCall) and decorator.value.canonical_path == _OURS:
                    decorator.value.function = griffe.ExprName("dataclasses.dataclass")
        _rename(member)
