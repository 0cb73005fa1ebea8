"""The server's repair of string booleans, which runs before decoding.

Old SDKs sent ``userAttributesUpdated`` as a string. The server looks for this name in every object of the body,
including maps, and replaces such a string by a boolean. Then it encodes the whole body again, which drops duplicate
names, replaces lone surrogates, and rounds large numbers.
"""

from __future__ import annotations

import math
from typing import Any, Final

from bucketeer_async.gateway._json import Number, Object, check_texts

_NAMES: Final = frozenset({"userAttributesUpdated", "user_attributes_updated"})
_BOOLEANS: Final = {"true": True, "1": True, "false": False, "0": False}


class _UnrepairableError(Exception):
    """The repair cannot parse a number, so the body remains unchanged."""


def repaired(parsed: Any) -> Any:
    """Return the repaired body, or the unchanged body if it needs no repair.

    Raises:
        UndecodableError: If a body that needs no repair contains a string that is not valid Unicode.
    """
    if _needs_repair(parsed):
        try:
            return _encoded_again(parsed)
        except _UnrepairableError:
            pass
    check_texts(parsed)
    return parsed


def _boolean(name: str, value: Any) -> bool | None:
    if name not in _NAMES or not isinstance(value, str) or isinstance(value, Number):
        return None
    return _BOOLEANS.get(value.strip().lower())


def _needs_repair(parsed: Any) -> bool:
    todo = [parsed]
    while todo:
        value = todo.pop()
        if isinstance(value, Object):
            for name, each in value:
                if _boolean(name, each) is not None:
                    return True
                if isinstance(each, list):
                    todo.append(each)
        elif isinstance(value, list):
            todo.extend(each for each in value if isinstance(each, list))
    return False


def _encoded_again(parsed: Any) -> Any:
    todo: list[tuple[Any, Any]] = []  # containers and their copies, which are filled later: nesting needs no recursion

    def copied(value: Any) -> Any:
        if isinstance(value, list):
            todo.append((value, type(value)()))
            return todo[-1][1]
        if isinstance(value, Number):
            return _number(value)
        return _text(value) if isinstance(value, str) else value

    result = copied(parsed)
    while todo:
        container, copy = todo.pop()
        if isinstance(container, Object):
            last = {name: each if (boolean := _boolean(name, each)) is None else boolean for name, each in container}
            copy.extend((_text(name), copied(each)) for name, each in last.items())
        else:
            copy.extend(copied(each) for each in container)
    return result


def _number(value: Number) -> Number:
    """Return a number rounded to a double. The repair's parser rejects some numbers that the decoder accepts."""
    if value[-1] in "eE+-" or math.isinf(number := float(value)):
        raise _UnrepairableError
    return Number(repr(number))


def _text(text: str) -> str:
    """Return the text with U+FFFD in place of lone surrogates."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
