"""Retry decisions: what to do about a failed request, and how long to wait before the next try.

Plain functions, without an event loop. `decide` maps an error to a `Decision`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from bucketeer_async._errors import ApiError, ConnectionFailedError, StatusError
from bucketeer_async._options import RetryPolicy

_CONFIGURATION_STATUSES: Final = frozenset({401, 403, 404, 405, 501})
#: Statuses after which the events may have been stored all the same: a proxy or the gateway itself ran out of time.
_UNCLEAR_STATUSES: Final = frozenset({408, 499, 500, 502, 504})
_INVALID_ARGUMENT: Final = 3  # gRPC code in the gateway's error bodies
_RESOURCE_EXHAUSTED: Final = 8  # likewise

CONFIGURATION_PAUSE: Final = 30.0  # seconds between two probes while the API key or the endpoint seems to be wrong


class Action(Enum):
    """What to do with a batch whose request failed as a whole."""

    RESEND = "send the batch again at once"
    SPLIT = "halve the batch to find the event that the gateway cannot decode"
    SPLIT_BYTES = "halve the batch by bytes because it is too large"
    PAUSE = "keep the batch and pause all requests"


class PauseKind(Enum):
    """Why requests are paused."""

    OUTAGE = "outage"
    CONFIGURATION = "configuration"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do about a failed request.

    Attributes:
        action: What to do with the batch.
        pause_kind: With ``PAUSE``: why requests are paused.
        retry_after: With ``PAUSE``: seconds from the gateway's ``Retry-After`` header, or None.
        maybe_stored: Whether the gateway may have stored the events although the request failed.
    """

    action: Action
    pause_kind: PauseKind = PauseKind.OUTAGE
    retry_after: float | None = None
    maybe_stored: bool = False


@dataclass(frozen=True, slots=True)
class _Row:
    when: Callable[[ApiError], bool]
    then: Callable[[ApiError], Decision]


def _is_too_large(error: ApiError) -> bool:
    if not isinstance(error, StatusError):
        return False
    over_limit = error.status_code == 429 and error.code == _RESOURCE_EXHAUSTED and "larger than max" in error.detail
    return error.status_code == 413 or over_limit


def _is_undecodable(error: ApiError) -> bool:
    return isinstance(error, StatusError) and error.status_code == 400 and error.code == _INVALID_ARGUMENT


def _is_configuration(error: ApiError) -> bool:
    if not isinstance(error, StatusError):
        return False
    return error.status_code in _CONFIGURATION_STATUSES or 300 <= error.status_code < 400


def _is_stale(error: ApiError) -> bool:
    return isinstance(error, ConnectionFailedError) and error.stale


def _pause(pause_kind: PauseKind) -> Callable[[ApiError], Decision]:
    def decision(error: ApiError) -> Decision:
        retry_after = error.retry_after if isinstance(error, StatusError) else None
        return Decision(
            action=Action.PAUSE, pause_kind=pause_kind, retry_after=retry_after, maybe_stored=_is_maybe_stored(error)
        )

    return decision


def _is_maybe_stored(error: ApiError) -> bool:
    if isinstance(error, StatusError):
        return error.status_code in _UNCLEAR_STATUSES or error.status_code > 504
    return error.maybe_sent if isinstance(error, ConnectionFailedError) else True


# fmt: off
_TABLE: Final = (
    #    what happened       what to do
    _Row(_is_stale,          lambda _: Decision(action=Action.RESEND, maybe_stored=True)),
    _Row(_is_too_large,      lambda _: Decision(action=Action.SPLIT_BYTES)),
    _Row(_is_undecodable,    lambda _: Decision(action=Action.SPLIT)),
    _Row(_is_configuration,  _pause(PauseKind.CONFIGURATION)),
    _Row(lambda _: True,     _pause(PauseKind.OUTAGE)),
)
# fmt: on


def is_throttled(error: ApiError) -> bool:
    """Whether the gateway asks for fewer requests: it is available, and does not mean the body."""
    return isinstance(error, StatusError) and error.status_code == 429


def decide(error: ApiError) -> Decision:
    """Return what to do about a request that failed as a whole."""
    return next(row.then(error) for row in _TABLE if row.when(error))


def backoff(policy: RetryPolicy, tries: int, rng: random.Random) -> float:
    """Return the seconds before the next try after ``tries`` failures: full jitter over a step that doubles."""
    return rng.uniform(0, backoff_step(policy, tries))


def backoff_step(policy: RetryPolicy, tries: int) -> float:
    """Return the longest pause, in seconds, after ``tries`` failures: a step that doubles."""
    # The exponent is bounded so that a long outage cannot overflow the double.
    return min(policy.maximum, policy.initial * 2.0 ** min(tries - 1, 60))
