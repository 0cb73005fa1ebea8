"""Limits of nesting that are the same on every Python: those of its own parsers differ by version, thread and caller."""

from __future__ import annotations

import json
import re
from typing import Any, Final

#: Levels of JSON: fewer than any parser of a supported Python accepts, and far more than the gateway's responses have.
MAX_DEPTH: Final = 500

#: Levels of YAML: PyYAML's parser calls itself for each level.
MAX_YAML_DEPTH: Final = 100

_BRACKET: Final = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


def check_nesting(text: str, start: int = 0, end: int | None = None) -> None:
    """Check that the JSON value at an index is at most `MAX_DEPTH` levels deep; it need not be valid.

    Args:
        text: The JSON.
        start: The index of the value.
        end: The index behind the value; None for the end of the text.

    Raises:
        RecursionError: If it is nested more deeply, as parsers raise it at their own limits.
    """
    end = len(text) if end is None else end
    if text.count("[", start, end) + text.count("{", start, end) <= MAX_DEPTH:
        return
    depth = 0
    for match in _BRACKET.finditer(text, start, end):
        if match[0] in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise too_deep(MAX_DEPTH)
        elif match[0] in "]}":
            depth -= 1
            if depth <= 0:
                return


def parse_json(text: str) -> Any:
    """Parse JSON.

    Raises:
        ValueError: If the text is not JSON.
        RecursionError: If it is nested more than `MAX_DEPTH` levels deep.
    """
    check_nesting(text)
    return json.loads(text)


def too_deep(limit: int) -> RecursionError:
    """Return the error of a text that is nested too deeply."""
    return RecursionError(f"the content is nested more than {limit} levels deep")
