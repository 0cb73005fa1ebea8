"""Responses with another status than 200: the gateway's error body, and the headers about times."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final

from bucketeer_async._errors import DecodeError, StatusError
from bucketeer_async._transport._codec import json_object

_LONGEST_RETRY_AFTER: Final = 300.0  # seconds


def status_error(status_code: int, headers: Mapping[str, str], body: bytes) -> StatusError:
    """Return the error that a response means."""
    code, detail = _gateway_error(body)
    retry_after = retry_after_seconds(headers.get("retry-after"), headers.get("date"))
    return StatusError(status_code, code=code, detail=detail, retry_after=retry_after)


def _gateway_error(body: bytes) -> tuple[int | None, str]:
    """Return code and message of the gateway's error body; (None, "") for any other body."""
    try:
        parsed = json_object(body)
    except DecodeError:
        return None, ""
    code, message = parsed.get("code"), parsed.get("message")
    if not isinstance(code, int) or isinstance(code, bool) or not isinstance(message, str):
        return None, ""
    return code, message


def retry_after_seconds(value: str | None, date: str | None) -> float | None:
    """Return the seconds that a ``Retry-After`` asks for, at most 300; None if it is absent, past or garbage.

    Args:
        value: The header: seconds, or an HTTP date.
        date: The answer's ``Date`` header, by which a date is read, so that the clocks need not agree.
    """
    if value is None:
        return None
    try:
        seconds = float(value) if value.strip()[:1].isdigit() else _seconds_until(value, date)
    except (ValueError, TypeError, OverflowError):
        return None
    if not math.isfinite(seconds) or seconds < 0:
        return None
    return min(seconds, _LONGEST_RETRY_AFTER)


@lru_cache(maxsize=16)  # the responses of one second have the same date
def unix_time(date: str) -> float | None:
    """Return the Unix seconds of a ``Date`` header; None if it cannot be read."""
    try:
        moment = parsedate_to_datetime(date)
    except (ValueError, TypeError, OverflowError):
        return None
    return moment.timestamp() if moment.tzinfo else None


def _seconds_until(value: str, date: str | None) -> float:
    now = parsedate_to_datetime(date) if date else datetime.now(UTC)
    return (parsedate_to_datetime(value) - now).total_seconds()
