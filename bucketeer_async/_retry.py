"""Retry decisions: what to do about a failed request, and how long to wait before the next try.

All without an event loop. `decide` maps the error of a post of events to a `Decision`; `SecondTries` decides whether an
evaluation by the gateway is tried once more.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import Callable
from enum import Enum
from typing import Final

from bucketeer_async._dataclasses import dataclass
from bucketeer_async._errors import ApiError, ConnectionFailedError, RequestTimeoutError, StatusError
from bucketeer_async._options import RetryPolicy

_KEY_STATUSES: Final = frozenset({401, 403})
_CONFIGURATION_STATUSES: Final = _KEY_STATUSES | {404, 405, 501}
#: Statuses after which the events may have been stored all the same: a proxy or the gateway itself ran out of time.
_UNCLEAR_STATUSES: Final = frozenset({408, 499, 500, 502, 504})
_INVALID_ARGUMENT: Final = 3  # gRPC code in the gateway's error bodies
_RESOURCE_EXHAUSTED: Final = 8  # likewise

CONFIGURATION_PAUSE: Final = 30.0  # seconds between two probes while the API key or the endpoint seems to be wrong

_MAX_TOKENS: Final = 10.0  # this and the next two: as in gRPC's throttling of retries (its proposal A6)
_FEWEST_TOKENS: Final = 5.0
_TOKENS_PER_SUCCESS: Final = 0.1
_LONGEST_PAUSE: Final = 0.2  # seconds before a second try; a caller waits for it
_PAUSE_SHARE: Final = 0.25  # of the time that is left, which the pause may take


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


def _is_too_large(error: ApiError) -> bool:
    if not isinstance(error, StatusError):
        return False
    over_limit = error.status_code == 429 and error.code == _RESOURCE_EXHAUSTED and "larger than max" in error.detail
    return error.status_code == 413 or over_limit


def refuses_body(error: ApiError) -> bool:
    """Whether the gateway refused the body of the request; it had taken the API key before, or could not decode it."""
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
        status = error.status_code
        return status in _UNCLEAR_STATUSES or status < 300 or status > 504  # a 202 or 204 may be a proxy's yes
    return error.maybe_sent if isinstance(error, ConnectionFailedError) else True


# fmt: off
_TABLE: Final[tuple[tuple[Callable[[ApiError], bool], Callable[[ApiError], Decision]], ...]] = (
    # what happened      what to do
    (_is_stale,          lambda _: Decision(action=Action.RESEND, maybe_stored=True)),
    (_is_too_large,      lambda _: Decision(action=Action.SPLIT_BYTES)),
    (refuses_body,       lambda _: Decision(action=Action.SPLIT)),
    (_is_configuration,  _pause(PauseKind.CONFIGURATION)),
    (lambda _: True,     _pause(PauseKind.OUTAGE)),
)
# fmt: on


def refuses_key(error: BaseException) -> bool:
    """Return whether the gateway refused the API key. No metrics event reports this: it is an error of configuration."""
    return isinstance(error, StatusError) and error.status_code in _KEY_STATUSES


def is_throttled(error: ApiError) -> bool:
    """Whether the gateway asks for fewer requests: it is available, and does not mean the body."""
    return isinstance(error, StatusError) and error.status_code == 429


def decide(error: ApiError) -> Decision:
    """Return what to do about a request that failed as a whole."""
    return next(then(error) for when, then in _TABLE if when(error))


def backoff(policy: RetryPolicy, tries: int, rng: random.Random) -> float:
    """Return the seconds before the next try after ``tries`` failures: full jitter over a step that doubles."""
    return rng.uniform(0, backoff_step(policy, tries))


def backoff_step(policy: RetryPolicy, tries: int) -> float:
    """Return the longest pause, in seconds, after ``tries`` failures: a step that doubles."""
    # The exponent is bounded so that a long outage cannot overflow the double.
    return min(policy.maximum, policy.initial * 2.0 ** min(tries - 1, 60))


class SecondTries:
    """Second tries of evaluations: which failures are worth one, and how many the gateway can bear.

    Throttled as in gRPC: a failure that another try may mend takes a token of ten, an answer gives a tenth of one back,
    and at five tokens or fewer nothing is tried again. So a gateway that fails every request gets no more of them.

    Args:
        rng: Source of the jitter.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._tokens = _MAX_TOKENS

    def note_answer(self) -> None:
        """Note that the gateway has answered a try."""
        self._tokens = min(self._tokens + _TOKENS_PER_SUCCESS, _MAX_TOKENS)

    def note_failure(self, error: ApiError) -> None:
        """Note that the gateway has failed a try."""
        if _is_transient(error):
            self._tokens = max(self._tokens - 1.0, 0.0)

    def pause_after(self, error: ApiError, seconds: float) -> float | None:
        """Return the pause, in seconds, before a second try; None if there is none.

        Args:
            error: How the first try has failed; noted already.
            seconds: The time left for the pause and the second try.
        """
        retry_after = error.retry_after or 0.0 if isinstance(error, StatusError) else 0.0
        rest = seconds - retry_after
        if not _is_transient(error) or isinstance(error, RequestTimeoutError) or rest <= 0:
            return None
        if self._tokens <= _FEWEST_TOKENS:
            return None
        return retry_after + self._rng.uniform(0.0, min(_LONGEST_PAUSE, rest * _PAUSE_SHARE))


def _is_transient(error: ApiError) -> bool:
    """Whether the same request may succeed a moment later."""
    if isinstance(error, StatusError):
        return error.status_code in {429, 499} or (error.status_code >= 500 and error.status_code != 501)
    return isinstance(error, ConnectionFailedError) and not _is_of_tls(error)


def _is_of_tls(error: BaseException) -> bool:
    """Whether TLS failed, by the causes that the HTTP library kept: a certificate is as wrong at the next try."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    return cause is not None
