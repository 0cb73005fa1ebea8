"""Parsers of numbers that accept the same texts as Go's ``strconv``: ASCII only, and without trimming."""

from __future__ import annotations

import math
import re
from typing import Final

_DIGITS: Final = r"[0-9](?:_?[0-9])*"
_HEX: Final = r"[0-9a-fA-F](?:_?[0-9a-fA-F])*"
_DECIMAL: Final = rf"[+-]?(?:{_DIGITS}(?:\.(?:{_DIGITS})?)?|\.{_DIGITS})(?:[eE][+-]?{_DIGITS})?"
_HEXADECIMAL: Final = rf"[+-]?0[xX](?:_?{_HEX}(?:\.(?:{_HEX})?)?|\.{_HEX})[pP][+-]?{_DIGITS}"
_NOT_FINITE: Final = frozenset({"inf", "+inf", "-inf", "infinity", "+infinity", "-infinity", "nan"})
_INTEGER: Final = re.compile(r"[+-]?[0-9]+")


def number(text: str) -> float | None:
    """Return the nearest double, including NaN; None if the text is not a number or is out of a double's range."""
    if re.fullmatch(_DECIMAL, text):  # compiled when it is first met, as the next one
        value = float(text)
    elif re.fullmatch(_HEXADECIMAL, text):
        value = _from_hex(text)
    elif text.isascii() and text.lower() in _NOT_FINITE:
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
    """Return a 64-bit integer; None if the text is not one."""
    if not _INTEGER.fullmatch(text) or len(digits := text.lstrip("+-0")) > 19:
        return None
    value = int(f"-{digits}" if text[0] == "-" and digits else digits or "0")  # int() limits leading zeros, too
    return value if -(2**63) <= value < 2**63 else None
