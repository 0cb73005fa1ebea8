"""Parsing of JSON text as by the server's tokenizer.

The standard library parses almost every body. A body that the standard library rejects is parsed again without
recursion, because the server accepts 10,000 levels of nesting, and numbers whose exponent has no digits: in unknown
fields, numbers are tokens only. A body with so many brackets that it may have more levels is parsed without recursion
at once, because the standard library's limit of nesting depends on the version of Python.
"""

from __future__ import annotations

import json
import re
from json.decoder import scanstring  # type: ignore[attr-defined] # undocumented, but stable
from typing import Any, Final, NoReturn

MAX_DEPTH: Final = 10_000
_BLANK: Final = re.compile(r"[ \t\n\r]*")

#: A number as the server's tokenizer finds it. The exponent may lack its digits, unless the text ends there.
NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE](?!\Z)(?:[+-](?!\Z))?[0-9]*)?(?![-+.\w])", re.ASCII)
_LITERALS: Final = {"true": True, "false": False, "null": None}
_LITERAL: Final = re.compile(r"(true|false|null)(?![-+.\w])", re.ASCII)
_ESCAPED_BYTE: Final = re.compile("[\udc80-\udcff]")  # a byte that is not UTF-8, decoded with "surrogateescape"


class UndecodableError(ValueError):
    """The body cannot be decoded; the response has status 400 and this message."""

    def __init__(self, text: str) -> None:
        super().__init__(f"proto: {text}")


class UnprintableError(ValueError):
    """A token begins with a byte that is not UTF-8, so that the server fails to encode its own error message."""


class Number(str):
    """A JSON number, as text; its exponent may have no digits."""

    __slots__ = ()


class Object(list[tuple[str, Any]]):
    """A JSON object as a list of pairs, which may contain duplicate names."""

    __slots__ = ()


def parse(body: bytes) -> Any:
    """Parse JSON text, with objects as `Object` and numbers as `Number`.

    Strings that are not valid Unicode are accepted, and left to `check_texts`.

    Raises:
        UndecodableError: If the body is not valid JSON.
        UnprintableError: If a byte outside of strings is not UTF-8.
    """
    text = body.decode(errors="surrogateescape")
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        try:
            return json.loads(
                text, object_pairs_hook=Object, parse_int=Number, parse_float=Number, parse_constant=_reject_constant
            )
        except (json.JSONDecodeError, RecursionError):
            pass
    return _IterativeParser(text).read()


def _reject_constant(constant: str) -> NoReturn:
    raise UndecodableError(f"syntax error: invalid value {constant}")


def check_texts(parsed: Any) -> None:
    """Check that all strings are valid Unicode, including those in unknown fields.

    Raises:
        UndecodableError: If a string contains a lone surrogate or invalid UTF-8.
    """
    todo = [parsed]
    while todo:
        value = todo.pop()
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise UndecodableError("syntax error: invalid UTF-8 or escape in string") from None
        elif isinstance(value, Object):
            for pair in value:
                todo.extend(pair)
        elif isinstance(value, list):
            todo.extend(value)


class _IterativeParser:
    """A parser with an explicit stack instead of recursion."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._index = 0
        self._containers: list[Object | list[Any]] = []
        self._names: list[str] = []

    def read(self) -> Any:
        """Return the single value of the text."""
        result: list[Any] = []
        while not result:
            value, is_open = self._value()
            if is_open:
                continue
            while True:
                if not self._containers:
                    result.append(value)
                    break
                self._add(value)
                if not self._closes():
                    break
                value = self._containers.pop()
        self._skip()
        if self._index < len(self._text):
            self._reject()
        return result[0]

    def _value(self) -> tuple[Any, bool]:
        """Read a value, and return whether it is an open container; of a container, read up to the first value."""
        character = self._next()
        if character in "{[":
            return self._begin(Object() if character == "{" else [])
        if character == '"':
            return self._string(), False
        if match := _LITERAL.match(self._text, self._index):
            self._index = match.end()
            return _LITERALS[match[1]], False
        if match := NUMBER.match(self._text, self._index):
            self._index = match.end()
            return Number(match[0]), False
        return self._reject()

    def _begin(self, container: Object | list[Any]) -> tuple[Any, bool]:
        if len(self._containers) >= MAX_DEPTH:
            raise UndecodableError("exceeded max recursion depth")
        self._index += 1
        if self._next() == ("}" if isinstance(container, Object) else "]"):
            self._index += 1
            return container, False
        self._containers.append(container)
        if isinstance(container, Object):
            self._name()
        return container, True

    def _add(self, value: Any) -> None:
        container = self._containers[-1]
        container.append((self._names.pop(), value) if isinstance(container, Object) else value)

    def _closes(self) -> bool:
        """Read the token after a value: True if the container ends, False if another value follows."""
        container, character = self._containers[-1], self._next()
        self._index += 1
        if character == ("}" if isinstance(container, Object) else "]"):
            return True
        if character != ",":
            self._index -= 1
            self._reject()
        if isinstance(container, Object):
            self._name()
        return False

    def _name(self) -> None:
        if self._next() != '"':
            self._reject()
        self._names.append(self._string())
        if self._next() != ":":
            self._reject()
        self._index += 1

    def _string(self) -> str:
        try:
            text, self._index = scanstring(self._text, self._index + 1, True)  # noqa: FBT003 - takes it by position only
        except json.JSONDecodeError as error:
            raise UndecodableError(f"syntax error (line {error.lineno}:{error.colno}): {error.msg}") from None
        return str(text)

    def _next(self) -> str:
        self._skip()
        return self._text[self._index : self._index + 1]

    def _skip(self) -> None:
        match = _BLANK.match(self._text, self._index)
        assert match is not None  # noqa: S101 - the pattern matches the empty string
        self._index = match.end()

    def _reject(self) -> NoReturn:
        if _ESCAPED_BYTE.match(self._text, self._index):
            raise UnprintableError
        raise UndecodableError(f"syntax error (character {self._index + 1}): unexpected token")
