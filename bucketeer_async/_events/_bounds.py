"""Bounds: how much the ledger may hold, and what a push does where there is no room: the overflow policies.

Rules and counters, and nothing else: the ledger changes the counters, under its lock, and carries out what is decided
here. To add a policy, name it in `Overflow`, add it to `_POLICIES`, and have the ledger carry it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

from bucketeer_async._events._quarantine import Quarantine
from bucketeer_async._events._queue import RecordQueue
from bucketeer_async._models import EventKind
from bucketeer_async._options import Overflow

_RECOVERED_SHARE: Final = 0.5  # of a bound; beyond it events from the spool wait in the spool
_LONE_SHARE: Final = 0.1  # of a bound, which lone suspects may hold
_YIELDING_SHARE: Final = 0.9  # of a bound; beyond it the classes in `_YIELDING` are refused
_YIELDING: Final = frozenset({EventKind.METRICS})  # classes that give way to the others


class Admission(Enum):
    """What becomes of a push."""

    ACCEPT = "it is accepted"
    YIELD = "it is refused, because its class gives way to the others"
    REFUSE = "it is refused, because the queue is full"
    DISPLACE = "it is accepted, and the oldest queued events are dropped"
    WAIT = "it waits for room if it is awaited, and is refused otherwise"


_POLICIES: Final[Mapping[Overflow, Admission]] = {
    "drop_newest": Admission.REFUSE,
    "drop_oldest": Admission.DISPLACE,
    "wait": Admission.WAIT,
}


class Bounds:
    """A queue, and the bounds of what is held: what was ever put into the queue, and is not settled.

    Invariant: ``held <= capacity`` and ``held_bytes <= max_bytes``, but for a push that a signal handler makes amid
    another push on the same thread, which may exceed a bound by itself.

    Args:
        capacity: Events held at once.
        max_bytes: Bytes of their bodies.
        overflow: What a push does when it would exceed one of the two.

    Attributes:
        queue: The queue.
        settled: Events of the queue that were ever settled; counted by the ledger.
        settled_bytes: Bytes of their bodies.
        free_capacity: Events up to which every push is accepted.
        free_max_bytes: Bytes up to which every push is accepted.
        half_capacity: Half of the capacity.
        half_max_bytes: Half of the bytes.
    """

    def __init__(self, capacity: int, max_bytes: int, overflow: Overflow) -> None:
        self._capacity = capacity
        self._max_bytes = max_bytes
        self._when_full = _POLICIES[overflow]
        self.queue = RecordQueue()
        self.settled = 0
        self.settled_bytes = 0
        self.free_capacity, self.free_max_bytes = int(capacity * _YIELDING_SHARE), int(max_bytes * _YIELDING_SHARE)
        self.half_capacity, self.half_max_bytes = capacity / 2, max_bytes / 2

    @property
    def held(self) -> int:
        """Events that are queued or in flight."""
        return self.queue.appended - self.settled

    @property
    def held_bytes(self) -> int:
        """Bytes of their bodies."""
        return self.queue.appended_bytes - self.settled_bytes

    @property
    def room(self) -> int:
        """Events that could still be accepted, by their number."""
        return max(0, self._capacity - self.held)

    def new_quarantine(self) -> Quarantine:
        """Return a quarantine with its share of the bounds."""
        return Quarantine(self._capacity * _LONE_SHARE, self._max_bytes * _LONE_SHARE)

    def admission(self, kind: EventKind, size: int, quarantine: Quarantine) -> Admission:
        """Decide about a push of ``size`` bytes."""
        held, held_bytes = self.held + 1, self.held_bytes + size
        if held <= self.free_capacity and held_bytes <= self.free_max_bytes:
            return Admission.ACCEPT
        if kind in _YIELDING and self.held:  # into an empty queue any event may come: its share is at least one
            return Admission.YIELD
        if held <= self._capacity and held_bytes <= self._max_bytes:
            return Admission.ACCEPT
        if self._when_full is Admission.DISPLACE and not self._can_displace(size, quarantine):
            return Admission.REFUSE
        return self._when_full

    def _can_displace(self, size: int, quarantine: Quarantine) -> bool:
        """Whether dropping queued events can make room; if not, none is dropped in vain."""
        fixed = self.held - len(self.queue.records) - len(quarantine.lone)
        fixed_bytes = self.held_bytes - self.queue.body_bytes - quarantine.lone_bytes
        return fixed < self._capacity and fixed_bytes + size <= self._max_bytes

    def exceeded_by(self, held: int, held_bytes: int) -> bool:
        """Whether so many events, or bytes of them, are more than the bounds allow."""
        return held > self._capacity or held_bytes > self._max_bytes

    def fits(self, size: int) -> bool:
        """Whether an event of so many bytes fits into an empty queue."""
        return size <= self._max_bytes

    def has_room_for_recovered(self, size: int) -> bool:
        """Whether an event from the spool may come in: half of the queue is left to pushes."""
        share = _RECOVERED_SHARE if self.held else 1.0
        return self.held + 1 <= self._capacity * share and self.held_bytes + size <= self._max_bytes * share

    def is_half_full(self) -> bool:
        """Whether more than half of one of the bounds is in use."""
        return self.held > self.half_capacity or self.held_bytes > self.half_max_bytes
