"""Every record's fate, every count and bound: the one place where they change.

Pushes come from any thread, so everything here happens under one short lock, the queue's own operations included.
Nothing in here awaits anybody else's work, posts, or knows the wire.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Final

from bucketeer_async._events._counters import Counts
from bucketeer_async._events._encoder import EVENT_ID, EncodedEvent
from bucketeer_async._events._receipt import Receipt, RecordQueue, resolve
from bucketeer_async._models import EventKind
from bucketeer_async._options import Overflow
from bucketeer_async._results import DroppedReason, EventCounts, Fate, Outcome, RefusedReason

_DELIVERED: Final = Outcome(Fate.DELIVERED)
_SPOOLED: Final = Outcome(Fate.SPOOLED)
_ABANDONED: Final = Outcome(Fate.DROPPED, DroppedReason.ABANDONED)
_EXPIRED: Final = Outcome(Fate.DROPPED, DroppedReason.EXPIRED)
_UNCONFIRMED: Final = Outcome(Fate.DROPPED, DroppedReason.UNCONFIRMED)
_UNDELIVERED: Final = Outcome(Fate.DROPPED, DroppedReason.UNDELIVERED)
_DISPLACED: Final = Outcome(Fate.DROPPED, DroppedReason.DISPLACED)
_RECOVERED_SHARE: Final = 0.5  # of a bound; over it events from the spool wait there
_METRICS_SHARE: Final = 0.9  # of a bound; over it metrics events give way to the others
_MILLISECOND: Final = 0.001  # seconds

_kind_of: Final = attrgetter("kind")


class Ledger:
    """Admits records, hands them out, takes them back, and settles each of them once.

    A record is queued (in the queue, or on the shelf until its next try), or in flight (handed out by `take`), or
    settled. Invariants, after every call: ``held == queued + in_flight <= capacity``, ``held_bytes`` is the sum of
    their bodies and at most ``max_bytes``, and the equations of `EventCounts` hold. A push that a signal handler makes
    amid another one, on the same thread, may exceed a bound by itself.

    Args:
        capacity: Records held at once.
        max_bytes: Bytes of their bodies.
        overflow: What a push does when one of the two would be exceeded.
        lifetime: Seconds after which a record expires.
        on_lost: Hears every refused, rejected and dropped record, on the thread where it happened.
        on_due: Called when a record came to an empty queue, or so many wait as `watch` says, on the thread where it
            happened. It is decided under the lock, so no push can slip by unseen between two others.
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
        on_due: Callable[[], None],
        on_settled: Callable[[Sequence[Receipt]], None],
    ) -> None:
        self._capacity = capacity
        self._max_bytes = max_bytes
        self._half_capacity, self._half_max_bytes = capacity / 2, max_bytes / 2
        self._metrics_capacity = capacity * _METRICS_SHARE
        self._metrics_max_bytes = max_bytes * _METRICS_SHARE
        self._displaces = overflow == "drop_oldest"
        self._lifetime = lifetime
        self._on_lost = on_lost
        self._on_due = on_due
        self._on_settled = on_settled
        # Re-entrant: the garbage collector, or a signal, may run a push of the application's while it is held.
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._now: Callable[[], float]  # from here on to `_keep` known once it is open
        self._is_over: Callable[[], bool]
        self._keep: Callable[[Receipt], None] | None = None
        self._open = False
        self._watched = self._watched_bytes = math.inf
        self._latest = -math.inf
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

    def open(self, loop: asyncio.AbstractEventLoop, keep: Callable[[Receipt], None] | None = None) -> None:
        """Accept pushes from now on.

        Args:
            loop: The loop that receipts are awaited on.
            keep: Told every record that is accepted, on the thread where it happened.
        """
        self._loop = loop
        self._now, self._is_over = loop.time, loop.is_closed
        self._keep = keep
        self._open = True

    def close(self) -> None:
        """Refuse every push from now on; what another thread is just pushing is either in or out afterwards."""
        with self._lock:
            self._open = False

    # In

    def try_admit(self, event: EncodedEvent) -> Receipt | None:
        """Accept or refuse an event; None, and nothing counted, if there is no room for it."""
        size = len(event.body)
        displaced: Sequence[Receipt] = ()
        with self._lock:
            reason = self._refusal(event.kind, size)
            if reason is RefusedReason.QUEUE_FULL:
                if not self._displaces or not self._displaceable(size):
                    return None
                displaced, reason = self._displace(size), None
            if reason is None:
                receipt = self._accept(event, size, self._time())
                self._counts[event.kind].pushed += 1
                is_due = self._queue_up(receipt)
            else:
                receipt = self._refuse(event.kind, reason, "")
        if reason is not None:
            self._on_lost(receipt)
            return receipt
        if displaced:
            self._tell(displaced)
        if self._keep is not None:
            self._keep(receipt)
        if is_due:
            self._on_due()
        return receipt

    def refuse(self, kind: EventKind, reason: RefusedReason, message: str = "") -> Receipt:
        """Count a push that is not accepted."""
        with self._lock:
            receipt = self._refuse(kind, reason, message)
        self._on_lost(receipt)
        return receipt

    def _refusal(self, kind: EventKind, size: int) -> RefusedReason | None:
        if not self._open or self._is_over():
            return RefusedReason.NOT_RUNNING
        held, held_bytes = self.held + 1, self.held_bytes + size
        if held <= self._metrics_capacity and held_bytes <= self._metrics_max_bytes:
            return None
        if kind is EventKind.METRICS:
            return RefusedReason.METRICS_YIELD
        return RefusedReason.QUEUE_FULL if held > self._capacity or held_bytes > self._max_bytes else None

    def _displaceable(self, size: int) -> bool:
        """Whether giving up queued records can make room; if not, none is given up for nothing."""
        fixed, fixed_bytes = self.held - self._queue.qsize(), self.held_bytes - self._queue.body_bytes
        return fixed < self._capacity and fixed_bytes + size <= self._max_bytes

    def _displace(self, size: int) -> list[Receipt]:
        displaced = []
        held, held_bytes = self.held, self.held_bytes + size
        while held >= self._capacity or held_bytes > self._max_bytes:
            record = self._queue.get_nowait()
            held, held_bytes = held - 1, held_bytes - len(record.body)
            displaced.append(record)
        self._settle(displaced, _DISPLACED, were_queued=True)
        return displaced

    def _accept(self, event: EncodedEvent, size: int, pushed_at: float) -> Receipt:
        # Sizes are taken before: a signal, and a push of its own, may come at any call, but not amid an addition.
        record = Receipt(event, self._loop, pushed_at, self._epoch)
        counts = self._counts[event.kind]
        counts.accepted += 1
        counts.queued += 1
        self.held += 1
        self.held_bytes += size
        return record

    def _time(self) -> float:
        """The time, to the millisecond: events of a burst share one object, for each would weigh 32 bytes."""
        now = self._now()
        if now - self._latest >= _MILLISECOND:
            self._latest = now
        return self._latest

    def _queue_up(self, record: Receipt) -> bool:
        """Put a record behind all others; return whether something is due now."""
        queue = self._queue
        was_empty = not queue.records  # asked before: a signal's push amid this one finds it filled
        queue.put_nowait(record)
        if len(queue.records) >= self._watched or queue.body_bytes >= self._watched_bytes:
            self._watched = self._watched_bytes = math.inf  # who hears of it will look, and say what to watch next
            return True
        return was_empty

    def _refuse(self, kind: EventKind, reason: RefusedReason, message: str) -> Receipt:
        receipt = Receipt(EncodedEvent(kind, b""), None, 0.0, 0)
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
            expired = pushed_at + self._lifetime <= self._now()
            drop = DroppedReason.EXPIRED if expired else DroppedReason.DISPLACED if size > self._max_bytes else None
            share = _RECOVERED_SHARE if self.held else 1.0
            full = self.held + 1 > self._capacity * share or self.held_bytes + size > self._max_bytes * share
            if not self._open or (full and not drop):
                return False
            self._counts[event.kind].recovered += 1
            record = self._accept(event, size, pushed_at)
            record.spool_row, record.tries, record.maybe_stored = spool_row, 1, True
            if drop:
                self._settle([record], Outcome(Fate.DROPPED, drop), were_queued=True)
                is_due = False
            else:
                is_due = self._queue_up(record)
        if drop:
            self._tell([record])
        elif self._keep is not None:
            self._keep(record)
        if is_due:
            self._on_due()
        return True

    # Out and back

    def watch(self, waiting: float, waiting_bytes: float) -> None:
        """Have ``on_due`` called once when so many records wait, or bytes of them."""
        with self._lock:
            self._watched, self._watched_bytes = waiting, waiting_bytes

    @property
    def waiting(self) -> int:
        """Records in the queue; those on the shelf do not count."""
        return self._queue.qsize()

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the records in the queue."""
        return self._queue.body_bytes

    def is_half_full(self) -> bool:
        """Whether more than half of one of the bounds is in use."""
        return self.held > self._half_capacity or self.held_bytes > self._half_max_bytes

    def until_half_full(self) -> int:
        """Records that make it half full, by their number; not above 0 if it is."""
        return int(self._half_capacity) + 1 - self.held

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
        with self._lock:
            batch = self._queue.get_batch(max_events, max_bytes, now - self._lifetime)
            self._handed_out.update(batch)
            for counts, number in self._by_kind(batch):
                counts.queued -= number
                counts.in_flight += number
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
        for counts, number in self._by_kind(records):
            counts.in_flight -= number
            counts.queued += number

    # Ends

    def settle(self, records: Sequence[Receipt], outcome: Outcome) -> None:
        """Account for records in flight whose story is over."""
        with self._lock:
            self._handed_out.difference_update(records)
            self._settle(records, outcome, were_queued=False)
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
            return list(self._queue.records)

    def write_off(self, limit: int) -> int:
        """End at most ``limit`` waiting records because the drain has ended; return how many."""
        self.unshelve(math.inf)
        return self._end_oldest(limit, _end_of_drain)

    def abandon(self) -> int:
        """Drop every record, those in flight included, because nobody is left to deliver them; return how many."""
        self.close()
        self.unshelve(math.inf)
        with self._lock:
            lost = [*self._handed_out, *self._queue.records]
            self.take(self.held, self.held_bytes, -math.inf)
            self._handed_out.clear()
            self._settle(lost, _ABANDONED, were_queued=False)
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
                self._settle([record], outcome, were_queued=True)
                ended.append(record)
        self._tell(ended)
        return len(ended)

    def _settle(self, records: Sequence[Receipt], outcome: Outcome, *, were_queued: bool) -> None:
        """The only way out of the ledger, once per record; the lock is held."""
        size = 0
        for record in records:
            record.outcome = outcome
            size += len(record.body)
            record.body = record.body[: EVENT_ID.stop]
        number = len(records)
        self.held -= number  # no call in an addition, for a signal's push may come at any
        self.held_bytes -= size
        for counts, count in self._by_kind(records):
            counts.settle(outcome, count, were_queued=were_queued)
        if outcome.fate is Fate.DELIVERED:
            self.delivered += number
        if self._past:
            self._count_down(records)

    def _count_down(self, records: Sequence[Receipt]) -> None:
        for record in records:
            if record.epoch < self._epoch:
                self._held_of_past -= 1
                self._past[record.epoch] -= 1
                if not self._past[record.epoch]:
                    del self._past[record.epoch]

    def _by_kind(self, records: Sequence[Receipt]) -> list[tuple[Counts, int]]:
        return [(self._counts[kind], number) for kind, number in Counter(map(_kind_of, records)).items()]

    def _tell(self, records: Sequence[Receipt]) -> None:
        self._tell_lost(records)
        if records:
            self._on_settled(records)

    def _tell_lost(self, records: Sequence[Receipt]) -> None:
        """Wake who waits for a receipt, and tell of those records that will not be delivered."""
        resolve(records)
        for record in records:
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
