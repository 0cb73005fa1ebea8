"""Reads JSON text as the server's tokenizer does.

Almost every body is read by the standard library. What that refuses is read again here, without recursion, because
the server takes nesting 10 000 levels deep, and numbers with an exponent that has no digits.
"""

from __future__ import annotations

import json
import re
from json.decoder import scanstring  # type: ignore[attr-defined] # the decoder's own, undocumented but stable
from typing import Any, Final, NoReturn

MAX_DEPTH: Final = 10_000
_BLANK: Final = re.compile(r"[ \t\n\r]*")
_TOKEN: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE]([+-]?[0-9]+|(?![+-])))?(?![-+.\w])", re.ASCII)
_LITERALS: Final = {"true": True, "false": False, "null": None}
_LITERAL: Final = re.compile(r"(true|false|null)(?![-+.\w])", re.ASCII)
_ESCAPED_BYTE: Final = re.compile("[\udc80-\udcff]")  # how "surrogateescape" shows a byte that is not UTF-8


class UndecodableError(ValueError):
    """The body cannot be decoded; the whole request is a 400 with this text."""

    def __init__(self, text: str) -> None:
        super().__init__(f"proto: {text}")


class UnprintableError(ValueError):
    """A byte that is no UTF-8 stands where a token should begin: even the error text cannot be encoded."""


class Number(str):
    """A JSON number, as the text that stood there."""

    __slots__ = ()


class Object(list[tuple[str, Any]]):
    """A JSON object, with its repeated names."""

    __slots__ = ()


def parse(body: bytes) -> Any:
    """Return what stands in ``body``: objects as `Object`, numbers as `Number`.

    Raises:
        UndecodableError: If it is no JSON. Text that is not valid Unicode is left to `check_texts`.
        UnprintableError: If a byte that is no UTF-8 stands outside of strings.
    """
    text = body.decode(errors="surrogateescape")
    try:
        return json.loads(
            text, object_pairs_hook=Object, parse_int=Number, parse_float=Number, parse_constant=_refuse_constant
        )
    except (json.JSONDecodeError, RecursionError):
        return _Reader(text).read()


def _refuse_constant(constant: str) -> NoReturn:
    raise UndecodableError(f"syntax error: invalid value {constant}")


def check_texts(parsed: Any) -> None:
    """Refuse lone surrogates and invalid UTF-8 anywhere, also in what is ignored.

    Raises:
        UndecodableError: If there are any.
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


class _Reader:
    """One pass over a text, with a stack of its own."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._open: list[Object | list[Any]] = []
        self._names: list[str] = []

    def read(self) -> Any:
        """Return the one value of the text."""
        result: list[Any] = []
        while not result:
            value, is_open = self._value()
            if is_open:
                continue
            while True:
                if not self._open:
                    result.append(value)
                    break
                self._add(value)
                if not self._closes():
                    break
                value = self._open.pop()
        self._skip()
        if self._at < len(self._text):
            self._refuse()
        return result[0]

    def _value(self) -> tuple[Any, bool]:
        """Read a value; of an object or list that is not empty, only what stands before its first value."""
        character = self._next()
        if character in "{[":
            return self._begin(Object() if character == "{" else [])
        if character == '"':
            return self._string(), False
        if match := _LITERAL.match(self._text, self._at):
            self._at = match.end()
            return _LITERALS[match[1]], False
        if match := _TOKEN.match(self._text, self._at):
            self._at = match.end()
            return Number(match[0]), False
        return self._refuse()

    def _begin(self, container: Object | list[Any]) -> tuple[Any, bool]:
        if len(self._open) >= MAX_DEPTH:
            raise UndecodableError("exceeded max recursion depth")
        self._at += 1
        if self._next() == ("}" if isinstance(container, Object) else "]"):
            self._at += 1
            return container, False
        self._open.append(container)
        if isinstance(container, Object):
            self._name()
        return container, True

    def _add(self, value: Any) -> None:
        container = self._open[-1]
        container.append((self._names.pop(), value) if isinstance(container, Object) else value)

    def _closes(self) -> bool:
        """Read what follows a value: True for the end of its container, False if there is another value."""
        container, character = self._open[-1], self._next()
        self._at += 1
        if character == ("}" if isinstance(container, Object) else "]"):
            return True
        if character != ",":
            self._at -= 1
            self._refuse()
        if isinstance(container, Object):
            self._name()
        return False

    def _name(self) -> None:
        if self._next() != '"':
            self._refuse()
        self._names.append(self._string())
        if self._next() != ":":
            self._refuse()
        self._at += 1

    def _string(self) -> str:
        try:
            text, self._at = scanstring(self._text, self._at + 1, True)  # noqa: FBT003 - takes it by position only
        except json.JSONDecodeError as error:
            raise UndecodableError(f"syntax error (line {error.lineno}:{error.colno}): {error.msg}") from None
        return str(text)

    def _next(self) -> str:
        self._skip()
        return self._text[self._at : self._at + 1]

    def _skip(self) -> None:
        match = _BLANK.match(self._text, self._at)
        assert match is not None  # noqa: S101 - it matches nothing, too
        self._at = match.end()

    def _refuse(self) -> NoReturn:
        if _ESCAPED_BYTE.match(self._text, self._at):
            raise UnprintableError
        raise UndecodableError(f"syntax error (character {self._at + 1}): unexpected token")
