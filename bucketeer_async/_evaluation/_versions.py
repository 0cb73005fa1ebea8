"""Semantic versions, parsed as on the server: ASCII only, and without trimming."""

from __future__ import annotations

import re
from typing import Final

_NUM: Final = r"0|[1-9][0-9]*"
_ID: Final = rf"(?:{_NUM}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_VERSION: Final = re.compile(
    rf"v?({_NUM})\.({_NUM})\.({_NUM})(?:-({_ID}(?:\.{_ID})*))?(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?"
)
_LARGEST: Final = 2**64 - 1  # the largest number that a version may contain

#: The sort key of a version.
Precedence = tuple[int, int, int, bool, tuple[tuple[bool, int, str], ...]]


def version(text: str) -> Precedence | None:
    """Return the sort key of a SemVer 2.0.0 version, which may begin with ``v``; None if the text is not a version."""
    match = _VERSION.fullmatch(text)
    if match is None:
        return None
    major, minor, patch, prerelease = match.groups()
    identifiers = tuple(_identifier(each) for each in prerelease.split(".")) if prerelease else ()
    if any(len(each) > 20 for each in (major, minor, patch)):
        return None
    numbers = (int(major), int(minor), int(patch))
    if max(numbers) > _LARGEST or any(value > _LARGEST for _, value, _ in identifiers):
        return None
    return (*numbers, not identifiers, identifiers)


def _identifier(text: str) -> tuple[bool, int, str]:
    """Return the sort key of a prerelease identifier; numbers sort before words. Long numbers exceed ``_LARGEST``."""
    if not text.isdigit():
        return (True, 0, text)
    return (False, int(text) if len(text) <= 20 else _LARGEST + 1, "")
