"""The server's repair of text booleans, which happens before decoding.

Old SDKs sent ``userAttributesUpdated`` as text. The server looks at that name in every object of the body, maps
included, and turns such a text into a boolean; then it encodes the whole body again, which costs repeated names, lone
surrogates and the precision of large numbers.
"""

from __future__ import annotations

import math
from typing import Any, Final

from bucketeer_async.gateway._json import Number, Object, check_texts

_NAMES: Final = frozenset({"userAttributesUpdated", "user_attributes_updated"})
_BOOLEANS: Final = {"true": True, "1": True, "false": False, "0": False}


class _UnrepairableError(Exception):
    """A number that the repair cannot read: the body stays as it came."""


def repaired(parsed: Any) -> Any:
    """Return the body as the server decodes it: the same one, checked, if there is nothing to repair.

    Raises:
        UndecodableError: If it holds text that is not valid Unicode; a repair replaces it.
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


def _encoded_again(value: Any) -> Any:
    if isinstance(value, Object):
        last = {name: boolean if (boolean := _boolean(name, each)) is not None else each for name, each in value}
        return Object((_text(name), _encoded_again(each)) for name, each in last.items())
    if isinstance(value, list):
        return [_encoded_again(each) for each in value]
    if isinstance(value, Number):
        return _number(value)
    return _text(value) if isinstance(value, str) else value


def _number(value: Number) -> Number:
    """The number as a double; the repair's own parser is stricter than the decoder, and gives up on some."""
    if value[-1] in "eE" or math.isinf(number := float(value)):
        raise _UnrepairableError
    return Number(repr(number))


def _text(text: str) -> str:
    """The text, with U+FFFD for what is not valid Unicode."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
