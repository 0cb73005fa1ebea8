"""Every record's fate, every count and bound: the one place where they change.

Pushes come from any thread, so everything here happens under one short lock, the queue's own operations included.
Nothing in here awaits anybody else's work, posts, or knows the wire.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from bucketeer_async._counting import Counts
from bucketeer_async._events import EncodedEvent
from bucketeer_async._models import EventKind
from bucketeer_async._options import Overflow
from bucketeer_async._records import Receipt, RecordQueue
from bucketeer_async._reports import DroppedReason, EventCounts, Fate, Outcome, RefusedReason

_DELIVERED: Final = Outcome(Fate.DELIVERED)
_SPOOLED: Final = Outcome(Fate.SPOOLED)
_ABANDONED: Final = Outcome(Fate.DROPPED, DroppedReason.ABANDONED)
_EXPIRED: Final = Outcome(Fate.DROPPED, DroppedReason.EXPIRED)
_UNCONFIRMED: Final = Outcome(Fate.DROPPED, DroppedReason.UNCONFIRMED)
_UNDELIVERED: Final = Outcome(Fate.DROPPED, DroppedReason.UNDELIVERED)
_RECOVERED_SHARE: Final = 0.5  # of a bound; over it events from the spool wait there
_METRICS_SHARE: Final = 0.9  # of a bound; over it metrics events give way to the others


class Ledger:
    """Admits records, hands them out, takes them back, and settles each of them once.

    A record is queued (in the queue, or on the shelf until its next try), or in flight (handed out by `take`), or
    settled. Invariants, after every call: ``held == queued + in_flight <= capacity``, ``held_bytes`` is the sum of
    their bodies and at most ``max_bytes``, and the equations of `EventCounts` hold.

    Args:
        capacity: Records held at once.
        max_bytes: Bytes of their bodies.
        overflow: What a push does when one of the two would be exceeded.
        lifetime: Seconds after which a record expires.
        on_lost: Hears every refused, rejected and dropped record, on the thread where it happened.
        on_accepted: Called with a record that was accepted and how many wait then, on the thread where it happened.
            Each number is told as it was under the lock, so no push can slip by unseen between two others.
        on_settled: Called with accepted records that were settled, on the thread where it happened.
    """

    def __init__(
        self,
        *,
        capacity: int,
        max_bytes: int,
        overflow: Overflow,
        lifetime: float,
        on_lost: Callable[[Receipt], None],
        on_accepted: Callable[[Receipt, int], None],
        on_settled: Callable[[Sequence[Receipt]], None],
    ) -> None:
        self._capacity = capacity
        self._max_bytes = max_bytes
        self._displaces = overflow == "drop_oldest"
        self._lifetime = lifetime
        self._on_lost = on_lost
        self._on_accepted = on_accepted
        self._on_settled = on_settled
        # Re-entrant: the garbage collector, or a signal, may run a push of the application's while it is held.
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open = False
        self._queue = RecordQueue()
        self._shelf: list[tuple[float, int, list[Receipt]]] = []  # a heap: due, tie-breaker, records
        self._shelvings = 0
        self._handed_out: set[Receipt] = set()  # in flight
        self._counts = {kind: Counts() for kind in EventKind}
        self._epoch = 0  # every record bears the one in which it was accepted
        self._past: OrderedDict[int, int] = OrderedDict()  # held records by epoch, oldest first, but not of this one
        self._held_of_past = 0
        self.held: int = 0
        self.held_bytes: int = 0
        self.delivered: int = 0

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that receipts are awaited on."""
        assert self._loop is not None  # noqa: S101 - a record is only accepted while open
        return self._loop

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Accept pushes from now on."""
        self._loop = loop
        self._open = True

    def close(self) -> None:
        """Refuse every push from now on; what another thread is just pushing is either in or out afterwards."""
        with self._lock:
            self._open = False

    # In

    def try_admit(self, event: EncodedEvent) -> Receipt | None:
        """Accept or refuse an event; None, and nothing counted, if there is no room for it."""
        displaced: list[Receipt] = []
        with self._lock:
            reason = self._refusal(event)
            if reason is RefusedReason.QUEUE_FULL and self._displaces and self._displaceable(len(event.body)):
                displaced = self._displace(len(event.body))
                reason = None
            if reason is RefusedReason.QUEUE_FULL:
                return None
            receipt = self._accept(event) if reason is None else self._refuse(event.kind, reason, "")
            waiting = self._queue.qsize()
        self._tell(displaced)
        if reason is None:
            self._on_accepted(receipt, waiting)
        else:
            self._on_lost(receipt)
        return receipt

    def refuse(self, kind: EventKind, reason: RefusedReason, message: str = "") -> Receipt:
        """Count a push that is not accepted."""
        with self._lock:
            receipt = self._refuse(kind, reason, message)
        self._on_lost(receipt)
        return receipt

    def _refusal(self, event: EncodedEvent) -> RefusedReason | None:
        if not self._open or self.loop.is_closed():
            return RefusedReason.NOT_RUNNING
        held, held_bytes = self.held + 1, self.held_bytes + len(event.body)
        if event.kind is EventKind.METRICS and (
            held > self._capacity * _METRICS_SHARE or held_bytes > self._max_bytes * _METRICS_SHARE
        ):
            return RefusedReason.METRICS_YIELD
        return RefusedReason.QUEUE_FULL if held > self._capacity or held_bytes > self._max_bytes else None

    def _displaceable(self, size: int) -> bool:
        """Whether giving up queued records can make room; if not, none is given up for nothing."""
        fixed, fixed_bytes = self.held - self._queue.qsize(), self.held_bytes - self._queue.body_bytes
        return fixed < self._capacity and fixed_bytes + size <= self._max_bytes

    def _displace(self, size: int) -> list[Receipt]:
        displaced = []
        outcome = Outcome(Fate.DROPPED, DroppedReason.DISPLACED)
        while self.held >= self._capacity or self.held_bytes + size > self._max_bytes:
            record = self._queue.get_nowait()
            self._counts[record.kind].queued -= 1
            self._settle(record, outcome)
            displaced.append(record)
        return displaced

    def _accept(self, event: EncodedEvent) -> Receipt:
        self._counts[event.kind].pushed += 1
        record = self._take_in(event, self.loop.time())
        self._queue.put_nowait(record)
        return record

    def _take_in(self, event: EncodedEvent, pushed_at: float) -> Receipt:
        record = Receipt(event, self.loop, pushed_at, self._epoch)
        counts = self._counts[event.kind]
        counts.accepted += 1
        counts.queued += 1
        self.held += 1
        size = len(event.body)  # by itself: a signal may come at any call, not amid an addition
        self.held_bytes += size
        return record

    def _refuse(self, kind: EventKind, reason: RefusedReason, message: str) -> Receipt:
        receipt = Receipt(EncodedEvent(kind, "", b""), None, 0.0, 0)
        receipt.outcome = Outcome(Fate.REFUSED, reason, message)
        counts = self._counts[kind]
        counts.pushed += 1
        counts.refused[reason] += 1
        return receipt

    def recover(self, event: EncodedEvent, pushed_at: float, spool_row: int) -> bool:
        """Take in an event that an earlier process has left; False, and nothing counted, if there is no room for it.

        There is none after closing. Half of the queue is left to pushes. An event past its lifetime is dropped, and so is one that the bounds could
        never hold.
        """
        size = len(event.body)
        with self._lock:
            expired = pushed_at + self._lifetime <= self.loop.time()
            drop = DroppedReason.EXPIRED if expired else DroppedReason.DISPLACED if size > self._max_bytes else None
            share = _RECOVERED_SHARE if self.held else 1.0
            full = self.held + 1 > self._capacity * share or self.held_bytes + size > self._max_bytes * share
            if not self._open or (full and not drop):
                return False
            self._counts[event.kind].recovered += 1
            record = self._take_in(event, pushed_at)
            record.spool_row, record.tries, record.maybe_stored = spool_row, 1, True
            if drop:
                self._counts[event.kind].queued -= 1
                self._settle(record, Outcome(Fate.DROPPED, drop))
            else:
                self._queue.put_nowait(record)
            waiting = self._queue.qsize()
        if drop:
            self._tell([record])
        else:
            self._on_accepted(record, waiting)
        return True

    # Out and back

    @property
    def waiting(self) -> int:
        """Records in the queue; those on the shelf do not count."""
        return self._queue.qsize()

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the records in the queue."""
        return self._queue.body_bytes

    def is_fuller_than(self, share: float) -> bool:
        """Whether more than ``share`` of one of the bounds is in use."""
        return self.held > self._capacity * share or self.held_bytes > self._max_bytes * share

    def oldest(self) -> Receipt | None:
        """The record that has waited longest in the queue."""
        with self._lock:
            return self._queue.oldest()

    def next_due(self) -> float | None:
        """When the first records on the shelf are due for another try."""
        return self._shelf[0][0] if self._shelf else None

    def take(self, max_events: int, max_bytes: int, now: float) -> list[Receipt]:
        """Hand out the oldest records: at least one if any waits, together at most ``max_bytes`` long.

        None of them is past its lifetime, if the first is not: events from a spool are older than those before them.
        """
        batch: list[Receipt] = []
        with self._lock:
            room = max_bytes
            while len(batch) < max_events and (record := self._queue.oldest()) is not None:
                room -= len(record.body)
                if batch and (room < 0 or record.pushed_at + self._lifetime <= now):
                    break
                batch.append(self._queue.get_nowait())
                counts = self._counts[record.kind]
                counts.queued -= 1
                counts.in_flight += 1
            self._handed_out.update(batch)
        return batch

    def put_back(self, records: Sequence[Receipt]) -> None:
        """Take records back before all others."""
        with self._lock:
            self._queue.put_first(records)
            self._count_as_queued(records)

    def shelve(self, records: list[Receipt], due: float) -> None:
        """Take records back that must not be tried again before ``due``, unless one of them expires earlier."""
        due = min(due, min(record.pushed_at for record in records) + self._lifetime)
        with self._lock:
            self._shelvings += 1
            heapq.heappush(self._shelf, (due, self._shelvings, records))
            self._count_as_queued(records)

    def unshelve(self, now: float) -> None:
        """Put the records whose time has come before all others."""
        with self._lock:
            while self._shelf and self._shelf[0][0] <= now:
                self._queue.put_first(heapq.heappop(self._shelf)[2])

    def _count_as_queued(self, records: Sequence[Receipt]) -> None:
        self._handed_out.difference_update(records)
        for record in records:
            counts = self._counts[record.kind]
            counts.in_flight -= 1
            counts.queued += 1

    # Ends

    def settle(self, records: Sequence[Receipt], outcome: Outcome) -> None:
        """Account for records in flight whose story is over."""
        with self._lock:
            self._handed_out.difference_update(records)
            for record in records:
                self._counts[record.kind].in_flight -= 1
                self._settle(record, outcome)
        self._tell(records)

    def deliver(self, records: Sequence[Receipt]) -> None:
        """Settle records in flight as delivered."""
        self.settle(records, _DELIVERED)

    def expire(self, now: float, limit: int) -> int:
        """Drop at most ``limit`` records from the head of the queue that are past their lifetime; return how many."""
        return self._end_oldest(limit, lambda record: _EXPIRED if record.pushed_at + self._lifetime <= now else None)

    def left(self) -> list[Receipt]:
        """The waiting records, those on the shelf included."""
        self.unshelve(math.inf)
        with self._lock:
            return self._queue.records()

    def write_off(self, limit: int) -> int:
        """End at most ``limit`` waiting records because the drain has ended; return how many."""
        self.unshelve(math.inf)
        return self._end_oldest(limit, _end_of_drain)

    def abandon(self) -> int:
        """Drop every record, those in flight included, because nobody is left to deliver them; return how many."""
        self.close()
        self.unshelve(math.inf)
        with self._lock:
            lost = [*self._handed_out, *self._queue.records()]
            self.take(self.held, self.held_bytes, -math.inf)
            self._handed_out.clear()
            for record in lost:
                self._counts[record.kind].in_flight -= 1
                self._settle(record, _ABANDONED)
        self._tell_lost(lost)
        return len(lost)

    def _end_oldest(self, limit: int, outcome_for: Callable[[Receipt], Outcome | None]) -> int:
        ended: list[Receipt] = []
        with self._lock:
            while len(ended) < limit and (record := self._queue.oldest()) is not None:
                outcome = outcome_for(record)
                if outcome is None:
                    break
                self._queue.get_nowait()
                self._counts[record.kind].queued -= 1
                self._settle(record, outcome)
                ended.append(record)
        self._tell(ended)
        return len(ended)

    def _settle(self, record: Receipt, outcome: Outcome) -> None:
        """The only way out of the ledger, once per record; the lock is held."""
        record.outcome = outcome
        self.held -= 1
        size = len(record.body)  # by itself: a signal may come at any call, not amid a subtraction
        self.held_bytes -= size
        record.body = b""
        self._counts[record.kind].settle(outcome)
        if outcome.fate is Fate.DELIVERED:
            self.delivered += 1
        if record.epoch < self._epoch:
            self._count_down(record.epoch)

    def _count_down(self, epoch: int) -> None:
        self._held_of_past -= 1
        self._past[epoch] -= 1
        if not self._past[epoch]:
            del self._past[epoch]

    def _tell(self, records: Sequence[Receipt]) -> None:
        self._tell_lost(records)
        if records:
            self._on_settled(records)

    def _tell_lost(self, records: Sequence[Receipt]) -> None:
        """Wake who waits for a receipt, and tell of those records that will not be delivered."""
        for record in records:
            record.resolve()
            if record.outcome is not _DELIVERED and record.outcome is not _SPOOLED:
                self._on_lost(record)

    # Watched

    def begin_epoch(self) -> int:
        """Return an epoch that every record accepted so far is older than; see `has_settled_before`."""
        with self._lock:
            held = self.held - self._held_of_past
            if held:  # no call from here on, for a signal's push may come at any, and bears one of the two
                self._held_of_past += held
                self._past[self._epoch] = held
                self._epoch += 1
            return self._epoch

    def has_settled_before(self, epoch: int) -> bool:
        """Whether every record older than the epoch is settled."""
        with self._lock:
            return next(iter(self._past), epoch) >= epoch

    def counts(self) -> dict[EventKind, EventCounts]:
        """A consistent copy of all counters."""
        with self._lock:
            return {kind: counts.frozen() for kind, counts in self._counts.items()}


def _end_of_drain(record: Receipt) -> Outcome:
    """What becomes of a record that the drain has not delivered."""
    if record.spool_row:
        return _SPOOLED
    return _UNCONFIRMED if record.maybe_stored else _UNDELIVERED
