"""Incremental parsing of long JSON, from left to right.

``json.loads`` parses a whole text at once, and holds the interpreter's lock all the time, even in a thread. A large
environment's flags become a million objects, which the garbage collector then scans for half a second. With `Reader`,
the objects of one part can be freed before the next part is parsed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from bucketeer_async._nesting import check_nesting

_SPACE: Final = re.compile(r"[ \t\n\r]*")
_DECODER: Final = json.JSONDecoder()


class Reader:
    """A position in a JSON text.

    Args:
        text: The JSON text.
    """

    __slots__ = ("index", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.index = 0

    def value(self) -> Any:
        """Parse the next value.

        Raises:
            ValueError: If the text is not valid JSON.
            RecursionError: If the value is nested too deeply.
        """
        self.peek()
        start = self.index
        try:
            value, self.index = _DECODER.raw_decode(self.text, start)
        except (ValueError, RecursionError):
            check_nesting(self.text, start)
            raise
        check_nesting(self.text, start, self.index)
        return value

    def members(self) -> Iterator[str]:
        """Iterate over the keys of an object; the caller must read the value after each key."""
        self._take("{")
        for _ in self._separated("}"):
            key = self.value()
            if not isinstance(key, str):
                raise ValueError(f"expected a key before index {self.index}")  # noqa: TRY004 - as json.loads
            self._take(":")
            yield key

    def entries(self) -> Iterator[None]:
        """Iterate over the entries of a list; the caller must read each entry, which begins at `index`."""
        self._take("[")
        for _ in self._separated("]"):
            self.peek()
            yield

    def end(self) -> None:
        """Check that no text is left.

        Raises:
            ValueError: If text other than white space is left.
        """
        if self.peek():
            raise ValueError(f"expected the end of the text at index {self.index}")

    def peek(self) -> str:
        """Skip white space, and return the next character; "" at the end of the text."""
        space = _SPACE.match(self.text, self.index)
        assert space is not None  # noqa: S101 - the pattern matches the empty string
        self.index = space.end()
        return self.text[self.index : self.index + 1]

    def _take(self, character: str) -> None:
        if self.peek() != character:
            raise ValueError(f"expected {character} at index {self.index}")
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


class UnicodeReader(Reader):
    """A reader that accepts only valid Unicode: JSON may escape half of a surrogate pair, which is no character."""

    __slots__ = ()

    def value(self) -> Any:
        """Parse the next value.

        Raises:
            UnicodeEncodeError: If a text in the value contains a lone surrogate.
            ValueError: If the text is not valid JSON.
            RecursionError: If the value is nested too deeply.
        """
        start = self.index
        value = super().value()
        if self.text.find("\\u", start, self.index) >= 0:  # the server escapes few characters, and seldom
            json.dumps(value, ensure_ascii=False).encode()
        return value
