"""Decides what an answer means and when the next post may leave. Plain functions and one state machine; no loop.

`decide` is the table from what happened to what to do. `Circuit` holds back all flush tasks together while the
gateway is in trouble, so that an outage is noticed once.
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
#: Answers after which the events may have been stored all the same: something gave up waiting on the way.
_UNCLEAR_STATUSES: Final = frozenset({408, 499, 500, 502, 504})
_INVALID_ARGUMENT: Final = 3  # gRPC codes, as the gateway's error bodies carry them
_RESOURCE_EXHAUSTED: Final = 8

CONFIGURATION_PAUSE: Final = 30.0  # seconds between two probes when the key or the URL looks wrong
_EARLY: Final = 10.0  # seconds of an outage during which ...
_EARLY_STEP: Final = 2.0  # ... a step is at most this long
_CLOSING_STEP: Final = 1.0  # seconds; the longest step once the processor closes
_RETRY_AFTER_JITTER: Final = 0.2  # share of Retry-After that is added at random


class Action(Enum):
    """What to do with a batch whose post failed as a whole."""

    RESEND = "send it again at once"
    SPLIT = "halve it to find the event that the gateway cannot decode"
    SPLIT_BYTES = "halve it by bytes, it is too large"
    PAUSE = "keep it, and hold back every post"


class PauseKind(Enum):
    """Why posts are held back."""

    OUTAGE = "outage"
    CONFIGURATION = "configuration"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do about a failed post.

    Attributes:
        action: What becomes of the batch.
        pause_kind: With ``PAUSE``: the kind of pause.
        retry_after: With ``PAUSE``: seconds that the gateway asked for.
        maybe_stored: Whether the gateway may have stored the events although the post failed.
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
    """Return what to do about a post that failed as a whole."""
    return next(row.then(error) for row in _TABLE if row.when(error))


def backoff(policy: RetryPolicy, tries: int, rng: random.Random) -> float:
    """Return the seconds before the next try of events that failed ``tries`` times: full jitter over a doubling step."""
    return rng.uniform(0, _step(policy, tries))


def _step(policy: RetryPolicy, tries: int) -> float:
    # The exponent is bounded so that a long outage cannot overflow the double.
    return min(policy.maximum, policy.initial * 2.0 ** min(tries - 1, 60))


class CircuitState(StrEnum):
    """See `Circuit`."""

    CLOSED = "closed"
    OPEN = "open"
    PROBING = "probing"


@dataclass(slots=True)
class Permit:
    """Permission to post one batch."""

    generation: int


class Circuit:
    """Lets posts through, or holds them back, for all flush tasks together.

    States::

        CLOSED  --failed-->  OPEN  --enter, after the pause-->  PROBING  --succeeded-->  CLOSED
                              ^-------------failed---------------'

    Invariants: at most ``limit`` posts are under way, ``1 <= limit <= slots``; one at most that began while PROBING;
    what a post from before the last opening brings does not count, so one outage is noticed once. After a probe that
    succeeded, ``limit`` grows by one with every answered post. Every time is a reading of the same monotonic clock.

    Args:
        policy: The steps of the backoff.
        slots: Posts under way at once while the gateway is well.
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
        """Until when a ``Retry-After`` forbids posts."""

    def wait(self, now: float) -> float | None:
        """Return the seconds until a batch may leave: 0 for now, None for when a post has ended."""
        if self.state is CircuitState.OPEN:
            return max(0.0, self._next_probe - now)
        full = self.state is CircuitState.PROBING or self.posting >= self._limit
        return None if full else max(0.0, self.not_before - now)

    def enter(self) -> Permit:
        """Begin a batch; the caller has seen ``wait() == 0``, and calls `leave` in the end."""
        if self.state is CircuitState.OPEN:
            self.state = CircuitState.PROBING
        self.posting += 1
        return Permit(self._generation)

    def may_go_on(self, permit: Permit, now: float) -> bool:
        """Return whether a batch on its way may post (again): not if posts are held back since it began."""
        return permit.generation == self._generation and now >= self.not_before

    def leave(self, permit: Permit, now: float) -> None:
        """End a batch; a probe that brought neither success nor failure failed."""
        self.posting -= 1
        if self.state is CircuitState.PROBING and permit.generation == self._generation:
            self.failed(permit, Decision(action=Action.PAUSE), now)

    def succeeded(self, permit: Permit) -> None:
        """Note that the gateway answered a post as it should."""
        if permit.generation != self._generation:
            return
        if self.state is CircuitState.PROBING:
            self.state = CircuitState.CLOSED
            self._failures = 0
            self._limit = 1
        self._limit = min(self._slots, self._limit + 1)

    def failed(self, permit: Permit, decision: Decision, now: float) -> bool:
        """Note that posts must be held back; return whether this opened the circuit."""
        self._heed(decision.retry_after, now)
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

    def _heed(self, retry_after: float | None, now: float) -> None:
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
        """The processor closes: one attempt at once, later pauses of at most a second; ``Retry-After`` still holds."""
        self._closing = True
        self._next_probe = max(self.not_before, min(self._next_probe, now))
