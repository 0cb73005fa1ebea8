"""Reads long JSON piece by piece, from left to right.

``json.loads`` makes everything at once: of the flags of a large environment that is a million objects, at which the
garbage collector then looks in one go, for half a second; and it holds the interpreter's lock all the time, also in a
thread. What is read here is made, used and gone before the next piece.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

_SPACE: Final = re.compile(r"[ \t\n\r]*")
_DECODER: Final = json.JSONDecoder()


class Reader:
    """A position in a text.

    Args:
        text: The JSON.
    """

    __slots__ = ("index", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.index = 0

    def value(self) -> Any:
        """Read a whole value.

        Raises:
            ValueError: If there is none.
            RecursionError: If it is nested too deep.
        """
        self.peek()
        value, self.index = _DECODER.raw_decode(self.text, self.index)
        return value

    def members(self) -> Iterator[str]:
        """Go through an object; the caller reads the value after each key."""
        self._take("{")
        for _ in self._separated("}"):
            key = self.value()
            if not isinstance(key, str):
                raise ValueError(f"expected a key before {self.index}")  # noqa: TRY004 - as every error of JSON
            self._take(":")
            yield key

    def entries(self) -> Iterator[None]:
        """Go through a list; the caller reads each entry, which begins at the index."""
        self._take("[")
        for _ in self._separated("]"):
            self.peek()
            yield

    def end(self) -> None:
        """Make sure that there is no more."""
        if self.peek():
            raise ValueError(f"expected the end at {self.index}")

    def peek(self) -> str:
        """Return the next character that is no white space; "" at the end."""
        space = _SPACE.match(self.text, self.index)
        assert space is not None  # noqa: S101 - it matches nothing too
        self.index = space.end()
        return self.text[self.index : self.index + 1]

    def _take(self, character: str) -> None:
        if self.peek() != character:
            raise ValueError(f"expected {character} at {self.index}")
        self.index += 1

    def _separated(self, closing: str) -> Iterator[None]:
        if self._closes(closing):
            return
        while True:
            yield
            if self._closes(closing):
                return
            self._take(",")

    def _closes(self, closing: str) -> bool:
        closes = self.peek() == closing
        self.index += closes
        return closes
