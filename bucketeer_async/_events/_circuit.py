"""Circuit: pauses all flush tasks together while the gateway is unavailable, so that an outage is detected once.

One state machine over monotonic times, without an event loop. What an error means is decided in `_retry.py`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from bucketeer_async._dataclasses import dataclass
from bucketeer_async._options import RetryPolicy
from bucketeer_async._retry import CONFIGURATION_PAUSE, Action, Decision, PauseKind, backoff_step

_CONFIGURATION_PAUSES: Final = (1.0, 5.0)  # seconds before the first probes; a key may just have been made
_EARLY: Final = 10.0  # seconds; how long an outage counts as early
_EARLY_STEP: Final = 2.0  # seconds; the longest step early in an outage
_CLOSING_STEP: Final = 1.0  # seconds; the longest step while the processor closes
_RETRY_AFTER_JITTER: Final = 0.2  # longest random addition, as a share of Retry-After


class CircuitState(StrEnum):
    """The state of a `Circuit`."""

    CLOSED = "closed"
    CHECKING = "checking"
    OPEN = "open"
    PROBING = "probing"


@dataclass(slots=True)
class Permit:
    """Permission to post one batch.

    Attributes:
        opening: Number of times that the circuit had opened when the batch entered.
        is_checking: Whether the batch checks whether the gateway is available.
    """

    opening: int
    is_checking: bool = False


class Circuit:
    """A circuit breaker: allows or pauses the requests of all flush tasks together.

    States::

        CLOSED  --failed-->  OPEN  --enter, after the pause-->  PROBING  --succeeded-->  CLOSED
         |  ^                ^  ^-------------failed---------------'
    begin_check  end_check   |
         v  |                |
        CHECKING ---failed---'

    Invariants:

    - At most ``slots`` batches are in flight, and none enters while ``limit`` are, with ``1 <= limit <= slots``, but for
      the probe.
    - At most one batch in flight has entered while PROBING.
    - While CHECKING, no batch enters or posts but the one that checks.
    - The result of a batch that entered before the circuit last opened is ignored, so that an outage is counted once.

    A successful probe resets ``limit`` to 1. Every successful request, including the probe, adds 1 up to ``slots``. All
    times are readings of one monotonic clock, in seconds.

    Args:
        policy: The steps of the backoff.
        slots: Largest number of batches in flight while the gateway is available.
        rng: Source of the jitter.
        on_change: Called when the circuit opens, and when it is closed again after that.

    Attributes:
        state: The state; for reading.
        posting: Batches in flight.
        opening: Number of times that the circuit has opened.
        last_post: Number of the latest post; whoever begins a post counts it up.
        last_accepted: Number of the latest post that was accepted.
        not_before: Time before which a ``Retry-After`` header forbids requests.
    """

    def __init__(
        self, policy: RetryPolicy, *, slots: int, rng: random.Random, on_change: Callable[[], None] = lambda: None
    ) -> None:
        self._policy = policy
        self._slots = slots
        self._rng = rng
        self._on_change = on_change
        self.state = CircuitState.CLOSED
        self.posting = 0
        self.opening = 0
        self.last_post = 0
        self.last_accepted = 0
        self._limit = slots
        self._failures = 0
        self._opened_at = 0.0
        self._next_probe = 0.0
        self._closing = False
        self.not_before = 0.0

    def wait(self, now: float) -> float | None:
        """Return the seconds until a batch may enter: 0 for now, None if a batch must leave before."""
        if self.posting >= self._slots:
            return None
        if self.state is CircuitState.OPEN:
            return max(0.0, self._next_probe - now)
        full = self.state is not CircuitState.CLOSED or self.posting >= self._limit
        return None if full else max(0.0, self.not_before - now)

    def enter(self) -> Permit:
        """Begin a batch. Call this when `wait` returns 0, and call `leave` when the batch ends."""
        if self.state is CircuitState.OPEN:
            self.state = CircuitState.PROBING
        self.posting += 1
        return Permit(self.opening)

    def may_go_on(self, permit: Permit, now: float) -> bool:
        """Return whether a batch may send a request: False if the circuit opened since, or ``Retry-After`` forbids it."""
        if self.state is CircuitState.CHECKING and not permit.is_checking:
            return False
        return permit.opening == self.opening and now >= self.not_before

    def may_check(self, permit: Permit) -> bool:
        """Whether a failed batch may check if the gateway is available: no batch has found out since it entered."""
        return self.state is CircuitState.CLOSED and permit.opening == self.opening

    def begin_check(self, permit: Permit) -> None:
        """Hold back all other posts while a batch checks whether the gateway is available."""
        self.state = CircuitState.CHECKING
        permit.is_checking = True

    def end_check(self, permit: Permit) -> None:
        """Let posts through again, because the gateway is available."""
        permit.is_checking = False
        self.state = CircuitState.CLOSED

    def leave(self, permit: Permit, now: float) -> None:
        """End a batch; a probe without a result counts as failed."""
        self.posting -= 1
        is_unclear = permit.is_checking or (self.state is CircuitState.PROBING and permit.opening == self.opening)
        if is_unclear:
            self.failed(permit, Decision(action=Action.PAUSE), now)

    def succeeded(self, permit: Permit, post: int) -> None:
        """Record a successful request, by its number."""
        self.last_accepted = max(self.last_accepted, post)
        if permit.opening != self.opening:
            return
        if self.state is CircuitState.PROBING:
            self.state = CircuitState.CLOSED
            self._failures = 0
            self._limit = 1
            self._on_change()
        self._limit = min(self._slots, self._limit + 1)

    def failed(self, permit: Permit, decision: Decision, now: float) -> bool:
        """Record a request whose decision is ``PAUSE``; return whether the closed circuit opened."""
        self._apply_retry_after(decision.retry_after, now)
        if permit.opening != self.opening:
            return False
        opened = self.state in {CircuitState.CLOSED, CircuitState.CHECKING}
        permit.is_checking = False
        if opened:
            self._opened_at = now
            self._failures = 0
            self.opening += 1
        self._failures += 1
        self.state = CircuitState.OPEN
        self._next_probe = max(self.not_before, now + self._pause(decision.pause_kind, now))
        if opened:
            self._on_change()
        return opened

    def _apply_retry_after(self, retry_after: float | None, now: float) -> None:
        if retry_after is None:
            return
        jitter = self._rng.uniform(0, _RETRY_AFTER_JITTER)
        self.not_before = max(self.not_before, now + retry_after * (1 + jitter))
        self._next_probe = max(self._next_probe, self.not_before)

    def _pause(self, pause_kind: PauseKind, now: float) -> float:
        if pause_kind is PauseKind.CONFIGURATION and not self._closing:
            early = _CONFIGURATION_PAUSES[self._failures - 1 : self._failures]
            return (early[0] if early else CONFIGURATION_PAUSE) * self._rng.uniform(1.0, 1.1)
        step = backoff_step(self._policy, self._failures)
        if now - self._opened_at < _EARLY:
            step = min(step, _EARLY_STEP)
        return self._rng.uniform(0, min(step, _CLOSING_STEP) if self._closing else step)

    def hurry(self, now: float) -> None:
        """Shorten pauses because the processor closes: one probe at once, then pauses of at most a second.

        A ``Retry-After`` header is still respected.
        """
        self._closing = True
        self._next_probe = max(self.not_before, min(self._next_probe, now))
