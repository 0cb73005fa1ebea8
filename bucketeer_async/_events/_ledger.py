"""Ledger: the waiting records, the fate of every record, and every count: the one place where they change.

Pushes come from any thread, so all of it happens under one short lock. Nothing in the ledger waits, posts, or knows the
gateway. How records come in is left to `_intake.py`, how much may be held to `_bounds.py`, which suspect is next to
`_quarantine.py`, and which flush waits for which record to `_epochs.py`.
"""

from __future__ import annotations

import math
import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Final

from bucketeer_async._events._bounds import Bounds
from bucketeer_async._events._counters import Counters, PostCounters, statistics_of
from bucketeer_async._events._encoder import EVENT_ID
from bucketeer_async._events._epochs import Epochs
from bucketeer_async._events._intake import DISPLACED, EXPIRED, Intake
from bucketeer_async._events._quarantine import ANY_OPENING, Part
from bucketeer_async._events._receipt import Origin, Receipt, wake_waiter
from bucketeer_async._events._window import EvaluationWindow
from bucketeer_async._models import EventKind
from bucketeer_async._results import (
    DroppedReason,
    EventCounts,
    Fate,
    Outcome,
    RefusedReason,
    SpoolStatistics,
    Statistics,
)

_DELIVERED: Final = Outcome(Fate.DELIVERED)
_SPOOLED: Final = Outcome(Fate.SPOOLED)
_ABANDONED: Final = Outcome(Fate.DROPPED, DroppedReason.ABANDONED)
_UNCONFIRMED: Final = Outcome(Fate.DROPPED, DroppedReason.UNCONFIRMED)
_UNDELIVERED: Final = Outcome(Fate.DROPPED, DroppedReason.UNDELIVERED)
_UP_TO_ID: Final = slice(EVENT_ID.stop)

_origin_of: Final = attrgetter("_origin")


class Ledger:
    """Lets records in, hands them out, takes them back, and settles each of them once.

    A record is queued (in the queue, or on its shelf until the next try), in flight (handed out by `take`), or settled.
    Invariants, after every call: ``bounds.held == queued + in_flight``, ``bounds.held_bytes`` is the sum of their
    bodies, both are within the bounds, and the equations of `EventCounts` hold.

    Args:
        bounds: How much may be held.
        lifetime: Seconds after which a record expires.
        window: Seconds in which evaluation events that repeat the last one are refused; None for no window.
        on_lost: Called with every refused, rejected and dropped record, on the thread where that happened.
        on_due: Called when a record comes to an empty queue, or when so many wait as `watch` says, on the thread where
            that happened. It is decided under the lock, so no push goes unseen between two others.
        on_settled: Called with accepted records that were settled, on the thread where that happened.
        not_started: The message of the refusals before the ledger is open.

    Attributes:
        intake: Accepts or refuses events.
        lock: Held while anything changes, the counters of posts included.
        posts: The counters of posts; whoever posts counts, under the lock.
        bounds: How much is held; for reading.
        queue: The queue of ``bounds``, with the waiting records; for reading their number, bytes and next time due.
        window: Refuses evaluation events that repeat the last one; None if none are.
        quarantine: The waiting suspects; for reading when the next of them is due.
    """

    def __init__(
        self,
        bounds: Bounds,
        *,
        lifetime: float,
        window: float | None = None,
        on_lost: Callable[[Receipt], None],
        on_due: Callable[[], None],
        on_settled: Callable[[Sequence[Receipt]], None],
        not_started: str = "",
    ) -> None:
        self.bounds = bounds
        self.queue = bounds.queue
        self.quarantine = bounds.new_quarantine()
        self._lifetime = lifetime
        self._on_lost = on_lost
        self._on_settled = on_settled
        self.posts = PostCounters()
        # Re-entrant: the garbage collector, or a signal, may run a push of the application's while the lock is held.
        self.lock = threading.RLock()
        self._in_flight: set[Receipt] = set()
        self._counters = {kind: Counters() for kind in EventKind}
        self.window: EvaluationWindow | None = None
        if window is not None:
            duplicate = Receipt(Origin(EventKind.EVALUATION, None, -math.inf, 0), b"")
            self.window = EvaluationWindow(window, duplicate)
        self._epochs = Epochs()
        self.intake = Intake(
            bounds,
            self.quarantine,
            self._counters,
            self._epochs,
            self.lock,
            lifetime=lifetime,
            displace=self._displace,
            report=self._report,
            on_lost=on_lost,
            on_due=on_due,
            not_started=not_started,
            window=self.window,
        )

    # In

    def _displace(self, size: int) -> list[Receipt]:
        """Drop as many queued records as make room for one of ``size`` bytes: lone suspects first, then the oldest."""
        displaced: list[Receipt] = []
        held, held_bytes = self.bounds.held + 1, self.bounds.held_bytes + size
        while self.bounds.exceeded_by(held, held_bytes):
            record = self.quarantine.take_worst() if self.quarantine.lone else self.queue.take_oldest()
            held, held_bytes = held - 1, held_bytes - len(record._body)
            displaced.append(record)
        self._settle(displaced, DISPLACED, were_queued=True)
        return displaced

    # Out and back

    def take(self, max_events: int, max_bytes: int, now: float) -> list[Receipt]:
        """Hand out the oldest records: at least one if any waits, together at most ``max_bytes`` long.

        None of them is past its lifetime, if the first is not: events from a spool are older than those before them.
        """
        with self.lock:
            batch = self.queue.take_batch(max_events, max_bytes, now - self._lifetime)
            self._hand_out(batch)
        return batch

    def take_witness(self, rng: random.Random, now: float) -> Part | None:
        """Hand out one record of the queue at random, to check whether the gateway is available."""
        with self.lock:
            return self._hand_out_random(rng, ANY_OPENING, now)

    def _hand_out_random(self, rng: random.Random, opening: int, now: float) -> Part | None:
        taken = self.queue.take_random(rng, opening, now - self._lifetime)
        if taken is None:
            return None
        record, place = taken
        self._hand_out([record])
        return Part([record], place=place)

    def take_probe(self, rng: random.Random, opening: int, now: float) -> Part | None:
        """Hand out one record at random, to probe whether the gateway is available again.

        Records that have not failed as a probe during this opening of the circuit come first, and suspects after others.
        """
        with self.lock:
            for since in (opening, ANY_OPENING):
                if (part := self._hand_out_random(rng, since, now)) is not None:
                    return part
                if (record := self.quarantine.take_probe(since)) is not None:
                    self._hand_out([record])
                    return Part([record], is_suspect=True)
        return None

    def _hand_out(self, records: Sequence[Receipt]) -> None:
        """Count records as in flight; the lock is held."""
        self._in_flight.update(records)
        for counters, number in self._by_kind(records):
            counters.taken += number
            counters.in_flight += number
        self.intake.look_closely()

    def take_suspects(self, now: float) -> Part | None:
        """Hand out the next part of the quarantine, or a lone suspect, if one is due."""
        with self.lock:
            part = self.quarantine.take(now)
            if part is not None:
                self._hand_out(part.records)
        return part

    def put_in_quarantine(self, part: Part, *, first: bool = False) -> None:
        """Take back, as suspects, records that failed together although the gateway was well."""
        with self.lock:
            self._count_as_queued(part.records)
            self.quarantine.add(part, first=first)

    def put_alone(self, record: Receipt) -> None:
        """Take back, as a lone suspect, a record that has failed alone; over the bounds, drop the worst of them."""
        dropped: list[Receipt] = []
        with self.lock:
            self._count_as_queued([record])
            self.quarantine.add_lone(record)
            while (worst := self.quarantine.excess()) is not None:
                self._settle([worst], DISPLACED, were_queued=True)
                dropped.append(worst)
        self._report(dropped)

    def try_suspects_at_once(self) -> None:
        """Have every lone suspect tried as soon as a flush task is free."""
        with self.lock:
            self.quarantine.try_at_once()

    def put_at(self, record: Receipt, place: int) -> None:
        """Take one record back to its place in the queue."""
        with self.lock:
            self._count_as_queued([record])
            self.queue.put_at(record, place)

    def put_back(self, records: Sequence[Receipt]) -> None:
        """Take records back, at the head of the queue."""
        with self.lock:
            self.queue.put_first(records)
            self._count_as_queued(records)

    def shelve(self, records: Sequence[Receipt], due: float) -> None:
        """Take records back that must not be tried again before ``due``, unless one of them expires earlier."""
        due = min(due, min(record._pushed_at for record in records) + self._lifetime)
        with self.lock:
            self.queue.shelve(records, due)
            self._count_as_queued(records)

    def unshelve(self, now: float) -> None:
        """Put the records that are due at the head of the queue."""
        with self.lock:
            self.queue.unshelve(now)
            self.intake.look_closely()

    def _count_as_queued(self, records: Sequence[Receipt]) -> None:
        self._in_flight.difference_update(records)
        for counters, number in self._by_kind(records):
            counters.taken -= number
            counters.in_flight -= number
        self.intake.look_closely()

    # Ends

    def settle(self, records: Sequence[Receipt], outcome: Outcome = _DELIVERED) -> None:
        """Settle records in flight; as delivered, unless told otherwise."""
        with self.lock:
            self._in_flight.difference_update(records)
            self._settle(records, outcome, were_queued=False)
        self._report(records)

    def expire(self, now: float, limit: int) -> int:
        """Drop the suspects, and at most ``limit`` records from the head of the queue, that are past their lifetime."""
        with self.lock:
            suspects = self.quarantine.take_expired(now, self._lifetime)
            self._settle(suspects, EXPIRED, were_queued=True)
        self._report(suspects)
        return len(suspects) + self._end_oldest(
            limit, lambda record: EXPIRED if record._pushed_at + self._lifetime <= now else None
        )

    def left(self) -> list[Receipt]:
        """Return the waiting records, those on the shelf and in quarantine included."""
        self._gather()
        with self.lock:
            return list(self.queue.records)

    def write_off(self, limit: int) -> int:
        """Settle at most ``limit`` waiting records because the drain has ended; return how many."""
        self._gather()
        return self._end_oldest(limit, _outcome_after_drain)

    def abandon(self) -> int:
        """Drop every record, those in flight included, because the loop is gone; return how many."""
        self.intake.close()
        self._gather()
        with self.lock:
            queued = list(self.queue.records)
            lost = [*self._in_flight, *queued]
            self.queue.clear()
            self._count_as_queued(list(self._in_flight))
            self._settle(lost, _ABANDONED, were_queued=True)
        self._report(lost, tell_owner=False)
        return len(lost)

    def _gather(self) -> None:
        """Put every waiting record into the queue, for the end."""
        with self.lock:
            self.queue.unshelve(math.inf)
            if self.quarantine.held:
                self.queue.put_first(self.quarantine.take_all())

    def _end_oldest(self, limit: int, outcome_for: Callable[[Receipt], Outcome | None]) -> int:
        ended: list[Receipt] = []
        with self.lock:
            while len(ended) < limit and self.queue.records:
                record = self.queue.records[0]
                outcome = outcome_for(record)
                if outcome is None:
                    break
                self.queue.take_oldest()
                self._settle([record], outcome, were_queued=True)
                ended.append(record)
        self._report(ended)
        return len(ended)

    def _settle(self, records: Sequence[Receipt], outcome: Outcome, *, were_queued: bool) -> None:
        """Give records their outcome: the only way out of the ledger, once per record. The lock is held."""
        size = 0
        for record in records:
            body = record._body
            size += len(body)
            record.outcome = outcome
            record._body = body[_UP_TO_ID]
        number = len(records)
        self.bounds.settled += number
        self.bounds.settled_bytes += size
        for counters, count in self._by_kind(records):
            counters.settle(outcome, count, were_queued=were_queued)
        if self._epochs.past:
            self._epochs.settle(records)
        self.intake.look_closely()

    def _by_kind(self, records: Sequence[Receipt]) -> list[tuple[Counters, int]]:
        """Return the counters of each kind with the number of records; by origins first, which are fewer."""
        numbers: Counter[EventKind] = Counter()
        for origin, number in Counter(map(_origin_of, records)).items():
            numbers[origin.kind] += number
        return [(self._counters[kind], number) for kind, number in numbers.items()]

    def _report(self, records: Sequence[Receipt], *, tell_owner: bool = True) -> None:
        """Wake the callers that await receipts, report lost events, and tell the ledger's owner; without the lock."""
        for record in records:
            if record._history is not None and record._history.waiter is not None:
                wake_waiter(record._history.waiter)
            if record.outcome is not _DELIVERED and record.outcome is not _SPOOLED:
                self._on_lost(record)
        if records and tell_owner:
            self._on_settled(records)

    # Watched

    def begin_epoch(self) -> int:
        """Return an epoch that every record accepted so far is older than; see `has_settled_before`."""
        with self.lock:
            return self._epochs.begin(self.bounds.held)

    def has_settled_before(self, epoch: int) -> bool:
        """Whether every record older than the epoch is settled."""
        with self.lock:
            return self._epochs.has_settled_before(epoch)

    def only_suspects_left_before(self, epoch: int, post: int) -> bool:
        """Whether each unsettled record older than the epoch has failed alone after the post with that number."""
        with self.lock:
            left = sum(number for past, number in self._epochs.past.items() if past < epoch)
            return left == self.quarantine.failed_since(post, epoch)

    def counts(self) -> dict[EventKind, EventCounts]:
        """Return a consistent copy of all counters."""
        with self.lock:
            if self.window is not None:
                self._counters[EventKind.EVALUATION].refused[RefusedReason.DUPLICATE] = self.window.refused()
            return {kind: counters.frozen(self.quarantine.counts[kind]) for kind, counters in self._counters.items()}

    def statistics(self, circuit: str = "closed", spool: SpoolStatistics | None = None) -> Statistics:
        """Return a consistent copy of all counters, those of posts included, with the state of circuit and spool."""
        with self.lock:
            counts, held_bytes, posts = self.counts(), self.bounds.held_bytes, replace(self.posts)
        return statistics_of(counts, held_bytes, posts, circuit, spool)


def _outcome_after_drain(record: Receipt) -> Outcome:
    """Return the outcome of a record that the drain has not delivered."""
    if record._spool_row:
        return _SPOOLED
    return _UNCONFIRMED if record._maybe_stored else _UNDELIVERED
