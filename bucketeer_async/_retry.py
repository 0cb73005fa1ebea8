"""Retry decisions: what to do about a failed request, and when the next request may start.

Plain functions and one state machine, without an event loop. `decide` maps an error to a `Decision`. `Circuit` pauses
all flush tasks together while the gateway is unavailable, so that an outage is detected once.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final

from bucketeer_async._errors import ApiError, ConnectionFailedError, StatusError
from bucketeer_async._options import RetryPolicy

_CONFIGURATION_STATUSES: Final = frozenset({401, 403, 404, 405, 501})
#: Statuses after which the events may have been stored all the same: a proxy or the gateway itself ran out of time.
_UNCLEAR_STATUSES: Final = frozenset({408, 499, 500, 502, 504})
_INVALID_ARGUMENT: Final = 3  # gRPC code in the gateway's error bodies
_RESOURCE_EXHAUSTED: Final = 8  # likewise

CONFIGURATION_PAUSE: Final = 30.0  # seconds between two probes while the API key or the endpoint seems to be wrong
_EARLY: Final = 10.0  # seconds; how long an outage counts as early
_EARLY_STEP: Final = 2.0  # seconds; the longest step early in an outage
_CLOSING_STEP: Final = 1.0  # seconds; the longest step while the processor closes
_RETRY_AFTER_JITTER: Final = 0.2  # longest random addition, as a share of Retry-After


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


def decide(error: ApiError) -> Decision:
    """Return what to do about a request that failed as a whole."""
    return next(row.then(error) for row in _TABLE if row.when(error))


def backoff(policy: RetryPolicy, tries: int, rng: random.Random) -> float:
    """Return the seconds before the next try after ``tries`` failures: full jitter over a step that doubles."""
    return rng.uniform(0, _step(policy, tries))


def _step(policy: RetryPolicy, tries: int) -> float:
    # The exponent is bounded so that a long outage cannot overflow the double.
    return min(policy.maximum, policy.initial * 2.0 ** min(tries - 1, 60))


class CircuitState(StrEnum):
    """The state of a `Circuit`."""

    CLOSED = "closed"
    OPEN = "open"
    PROBING = "probing"


@dataclass(slots=True)
class Permit:
    """Permission to post one batch."""

    generation: int


class Circuit:
    """A circuit breaker: allows or pauses the requests of all flush tasks together.

    States::

        CLOSED  --failed-->  OPEN  --enter, after the pause-->  PROBING  --succeeded-->  CLOSED
                              ^-------------failed---------------'

    Invariants:

    - At most ``limit`` batches are in flight, with ``1 <= limit <= slots``.
    - At most one batch in flight has entered while PROBING.
    - The result of a batch that entered before the circuit last opened is ignored, so that an outage is counted once.

    A successful probe resets ``limit`` to 1. Every successful request, including the probe, adds 1 up to ``slots``. All
    times are readings of one monotonic clock, in seconds.

    Args:
        policy: The steps of the backoff.
        slots: Largest number of batches in flight while the gateway is available.
        rng: Source of the jitter.
    """

    def __init__(self, policy: RetryPolicy, *, slots: int, rng: random.Random) -> None:
        self._policy = policy
        self._slots = slots
        self._rng = rng
        self.state = CircuitState.CLOSED
        self.posting = 0
        self._limit = slots
        self._generation = 0
        self._failures = 0
        self._opened_at = 0.0
        self._next_probe = 0.0
        self._closing = False
        self.not_before = 0.0
        """Time before which a ``Retry-After`` header forbids requests."""

    def wait(self, now: float) -> float | None:
        """Return the seconds until a batch may enter: 0 for now, None if a batch must leave before."""
        if self.state is CircuitState.OPEN:
            return max(0.0, self._next_probe - now)
        full = self.state is CircuitState.PROBING or self.posting >= self._limit
        return None if full else max(0.0, self.not_before - now)

    def enter(self) -> Permit:
        """Begin a batch. Call this when `wait` returns 0, and call `leave` when the batch ends."""
        if self.state is CircuitState.OPEN:
            self.state = CircuitState.PROBING
        self.posting += 1
        return Permit(self._generation)

    def may_go_on(self, permit: Permit, now: float) -> bool:
        """Return whether a batch may send a request: False if the circuit opened since, or ``Retry-After`` forbids it."""
        return permit.generation == self._generation and now >= self.not_before

    def leave(self, permit: Permit, now: float) -> None:
        """End a batch; a probe without a result counts as failed."""
        self.posting -= 1
        if self.state is CircuitState.PROBING and permit.generation == self._generation:
            self.failed(permit, Decision(action=Action.PAUSE), now)

    def succeeded(self, permit: Permit) -> None:
        """Record a successful request."""
        if permit.generation != self._generation:
            return
        if self.state is CircuitState.PROBING:
            self.state = CircuitState.CLOSED
            self._failures = 0
            self._limit = 1
        self._limit = min(self._slots, self._limit + 1)

    def failed(self, permit: Permit, decision: Decision, now: float) -> bool:
        """Record a request whose decision is ``PAUSE``; return whether the closed circuit opened."""
        self._apply_retry_after(decision.retry_after, now)
        if permit.generation != self._generation:
            return False
        opened = self.state is CircuitState.CLOSED
        if opened:
            self._opened_at = now
            self._failures = 0
            self._generation += 1
        self._failures += 1
        self.state = CircuitState.OPEN
        self._next_probe = max(self.not_before, now + self._pause(decision.pause_kind, now))
        return opened

    def _apply_retry_after(self, retry_after: float | None, now: float) -> None:
        if retry_after is None:
            return
        jitter = self._rng.uniform(0, _RETRY_AFTER_JITTER)
        self.not_before = max(self.not_before, now + retry_after * (1 + jitter))
        self._next_probe = max(self._next_probe, self.not_before)

    def _pause(self, pause_kind: PauseKind, now: float) -> float:
        if pause_kind is PauseKind.CONFIGURATION and not self._closing:
            return CONFIGURATION_PAUSE * self._rng.uniform(1.0, 1.1)
        step = _step(self._policy, self._failures)
        if now - self._opened_at < _EARLY:
            step = min(step, _EARLY_STEP)
        return self._rng.uniform(0, min(step, _CLOSING_STEP) if self._closing else step)

    def hurry(self, now: float) -> None:
        """Shorten pauses because the processor closes: one probe at once, then pauses of at most a second.

        A ``Retry-After`` header is still respected.
        """
        self._closing = True
        self._next_probe = max(self.not_before, min(self._next_probe, now))
