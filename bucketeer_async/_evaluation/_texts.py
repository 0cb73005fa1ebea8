"""What a text means as a number, an integer or a version: ASCII only, nothing trimmed, as the server reads them."""

from __future__ import annotations

import math
import re
from typing import Final

_DIGITS: Final = r"[0-9](?:_?[0-9])*"
_HEX: Final = r"[0-9a-fA-F](?:_?[0-9a-fA-F])*"
_DECIMAL: Final = re.compile(rf"[+-]?(?:{_DIGITS}(?:\.(?:{_DIGITS})?)?|\.{_DIGITS})(?:[eE][+-]?{_DIGITS})?")
_HEXADECIMAL: Final = re.compile(rf"[+-]?0[xX](?:_?{_HEX}(?:\.(?:{_HEX})?)?|\.{_HEX})[pP][+-]?{_DIGITS}")
_INFINITY: Final = re.compile(r"[+-]?inf(?:inity)?", re.IGNORECASE | re.ASCII)
_NAN: Final = re.compile(r"nan", re.IGNORECASE | re.ASCII)
_INTEGER: Final = re.compile(r"[+-]?[0-9]+")

_NUM: Final = r"0|[1-9][0-9]*"
_ID: Final = rf"(?:{_NUM}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_VERSION: Final = re.compile(
    rf"v?({_NUM})\.({_NUM})\.({_NUM})(?:-({_ID}(?:\.{_ID})*))?(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?"
)
_LARGEST: Final = 2**64 - 1  # of the numbers in a version

#: What versions are compared by.
Precedence = tuple[int, int, int, bool, tuple[tuple[bool, int, str], ...]]


def number(text: str) -> float | None:
    """Return the nearest double, NaN included; None if the text is no number, or beyond the range of doubles."""
    if _DECIMAL.fullmatch(text):
        value = float(text)
    elif _HEXADECIMAL.fullmatch(text):
        value = _from_hex(text)
    elif _INFINITY.fullmatch(text) or _NAN.fullmatch(text):
        return float(text)
    else:
        return None
    return None if math.isinf(value) else value


def _from_hex(text: str) -> float:
    try:
        return float.fromhex(text.replace("_", ""))
    except OverflowError:
        return math.inf


def integer(text: str) -> int | None:
    """Return the int64; None if the text is none."""
    if not _INTEGER.fullmatch(text) or len(text.lstrip("+-0")) > 19:
        return None
    value = int(text)
    return value if -(2**63) <= value < 2**63 else None


def version(text: str) -> Precedence | None:
    """Return what a SemVer 2.0.0 version is compared by, one leading ``v`` allowed; None if the text is none."""
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
    """Numbers come before words; over the largest number, the text is neither."""
    if not text.isdigit():
        return (True, 0, text)
    return (False, int(text) if len(text) <= 20 else _LARGEST + 1, "")
