"""Loader for the server's YAML dialect: YAML 1.1 with ``y`` and ``n``, numbers as in 1.2, dates and times as text."""

from __future__ import annotations

import json
import math
import re
from itertools import chain
from typing import Any, Final

import yaml

from bucketeer_async._nesting import MAX_YAML_DEPTH, too_deep

_LARGEST_DOCUMENT: Final = 4 * 2**20  # characters, and nodes; the server can send no longer value
_TRUE: Final = frozenset({"y", "yes", "true", "on"})
_LARGEST: Final = 2**64 - 1  # largest integer; a larger number becomes a double
_SMALLEST: Final = -(2**63)  # smallest integer; a smaller number becomes a double

#: Tags of plain scalars: the tag, the pattern of the whole text, and the possible first characters.
_PLAIN: Final = [
    (
        "bool",
        r"y|Y|yes|Yes|YES|n|N|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF",
        list("yYnNtTfFoO"),
    ),
    ("int", r"[-+]?(?:0b[01_]+|0o[0-7_]+|0[0-7_]+|0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+0123456789."),
    ),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", ["<"]),
]


class LimitedLoader(yaml.SafeLoader):
    """PyYAML's safe loader, with a limit of nesting."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Return the next node.

        Raises:
            RecursionError: If it is a collection that is nested too deeply.
        """
        if self._depth >= MAX_YAML_DEPTH and self.check_event(yaml.CollectionStartEvent):
            raise too_deep(MAX_YAML_DEPTH)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


class Loader(LimitedLoader):
    """PyYAML's safe loader with the server's dialect; mapping keys become strings, as in JSON."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 - declared so by the base class

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._sizes: dict[Any, int] = {}  # of nodes, with what their aliases repeat

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Return the next node.

        Raises:
            RecursionError: If it is a collection that is nested too deeply.
            ValueError: If it is too large, because aliases repeat parts of it.
        """
        node = super().compose_node(parent, index)
        if node not in self._sizes:
            self._sizes[node] = self._size(node)
        return node

    def _size(self, node: Any) -> int:
        if isinstance(node, yaml.ScalarNode):
            return 1 + len(node.value)
        parts = chain.from_iterable(node.value) if isinstance(node, yaml.MappingNode) else node.value
        size = 1 + sum(self._sizes.get(part, 1) for part in parts)  # a part that has no size yet contains this one
        if size > _LARGEST_DOCUMENT:
            raise ValueError("aliases make the document too large")
        return size

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - as the base class
        """Return a mapping; of duplicate keys, the last one wins."""
        del deep
        self.flatten_mapping(node)
        return {
            _key(self.construct_object(key, deep=True)): self.construct_object(value, deep=True)
            for key, value in node.value
        }


def _key(key: object) -> str:
    if isinstance(key, str):
        return key
    if key is None:
        return "<nil>"
    if isinstance(key, bool | int | float):
        return json.dumps(key, allow_nan=False)
    raise TypeError(f"a {type(key).__name__} cannot be a key in JSON")


def _integer(loader: Loader, node: Any) -> int | float:
    text = str(loader.construct_scalar(node)).replace("_", "")
    digits = text.lstrip("+-")
    octal = len(digits) > 1 and digits[0] == "0" and digits[1].isdigit()
    value = int(digits, 8 if octal else 0) * (-1 if text.startswith("-") else 1)
    return value if _SMALLEST <= value <= _LARGEST else float(value)


def _float(loader: Loader, node: Any) -> float | str:
    text = str(loader.construct_scalar(node))
    if text.endswith(("f", "F", "n", "N")):
        return float(text.replace(".", ""))  # infinity or NaN, which JSON does not have
    value = float(text.replace("_", ""))
    return text if math.isinf(value) else value


def _boolean(loader: Loader, node: Any) -> bool:
    return str(loader.construct_scalar(node)).lower() in _TRUE


def _binary(loader: Loader, node: Any) -> str:
    return loader.construct_yaml_binary(node).decode()


def _text(loader: Loader, node: Any) -> str:
    return str(loader.construct_scalar(node))


def _ignore_tag(loader: Loader, _suffix: str, node: Any) -> Any:
    """Construct a node whose tag is unknown, as if it had no tag."""
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node)


for _tag, _pattern, _first in _PLAIN:
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), _first)
Loader.add_constructor("tag:yaml.org,2002:int", _integer)
Loader.add_constructor("tag:yaml.org,2002:float", _float)
Loader.add_constructor("tag:yaml.org,2002:bool", _boolean)
Loader.add_constructor("tag:yaml.org,2002:binary", _binary)
Loader.add_constructor("tag:yaml.org,2002:timestamp", _text)
Loader.add_multi_constructor("", _ignore_tag)
