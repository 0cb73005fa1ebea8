"""Intake: accepts or refuses events, pushed or recovered: what a push runs through once it is encoded.

What becomes of accepted records is left to `_ledger.py`, and how much may be held to `_bounds.py`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from threading import RLock
from typing import Final

from bucketeer_async._background import clock_of
from bucketeer_async._events._bounds import Admission, Bounds
from bucketeer_async._events._counters import Counters
from bucketeer_async._events._epochs import Epochs
from bucketeer_async._events._quarantine import Quarantine, suspicion_of
from bucketeer_async._events._receipt import Origin, Receipt
from bucketeer_async._events._window import EvaluationWindow
from bucketeer_async._models import Evaluation, EventKind, User
from bucketeer_async._results import DroppedReason, Fate, Outcome, RefusedReason

DISPLACED: Final = Outcome(Fate.DROPPED, DroppedReason.DISPLACED)
EXPIRED: Final = Outcome(Fate.DROPPED, DroppedReason.EXPIRED)
_REFUSALS: Final = {
    Admission.YIELD: RefusedReason.METRICS_YIELD,
    Admission.REFUSE: RefusedReason.QUEUE_FULL,
}
_AT_ONCE: Final = -1
_MILLISECOND: Final = 0.001  # seconds


class Intake:
    """Accepts or refuses events, from any thread.

    A usual push runs through `try_admit` alone, which looks at two limits. They are lower than the bounds where a push
    has to look closely: the intake is not open, the queue is empty, so many wait as `watch` says, a bound is near, or a
    spool takes the records. Whatever may have made them too high calls `look_closely` afterwards, under the lock; the
    next push looks closely, and raises them again.

    No call stands between two counters that belong together: a signal, and with it a push by the signal's handler, may
    come at any call, on the thread that holds the lock.

    Args:
        bounds: How much may be held, with the queue of accepted records.
        quarantine: The suspects among them.
        counters: The counters of each kind.
        epochs: Tells when a record was accepted.
        lock: Held while anything changes.
        lifetime: Seconds after which a record expires.
        displace: Drops queued records to make room for so many bytes, and returns them; called under the lock.
        report: Called with dropped records, without the lock.
        on_lost: Called with every refused record.
        on_due: See `Ledger`.
        not_started: The message of the refusals before the intake is open.
        window: Refuses evaluation events that repeat the last one; None if none are.
    """

    def __init__(
        self,
        bounds: Bounds,
        quarantine: Quarantine,
        counters: Mapping[EventKind, Counters],
        epochs: Epochs,
        lock: RLock,
        *,
        lifetime: float,
        displace: Callable[[int], Sequence[Receipt]],
        report: Callable[[Sequence[Receipt]], None],
        on_lost: Callable[[Receipt], None],
        on_due: Callable[[], None],
        not_started: str,
        window: EvaluationWindow | None,
    ) -> None:
        self._bounds = bounds
        self._queue = bounds.queue
        self._quarantine = quarantine
        self._counters = counters
        self._epochs = epochs
        self._lock = lock
        self._lifetime = lifetime
        self._displace = displace
        self._report = report
        self._on_lost = on_lost
        self._on_due = on_due
        self._loop: asyncio.AbstractEventLoop | None = None
        self._now: Callable[[], float]  # this and the next one are known once the intake is open
        self._is_over: Callable[[], bool]
        self._keep: Callable[[Receipt], None] | None = None
        self._is_open = False
        self._why_closed = not_started
        self._window = window
        self._watched = self._watched_bytes = math.inf
        self._look_at: float = _AT_ONCE  # of what was ever appended: a push beyond one of the two looks closely
        self._look_at_bytes: float = _AT_ONCE
        self._unaccepted = {kind: Origin(kind, None, -math.inf, 0) for kind in EventKind}
        self._origins = dict(self._unaccepted)

    def open(self, loop: asyncio.AbstractEventLoop, keep: Callable[[Receipt], None] | None = None) -> None:
        """Accept pushes from now on.

        Args:
            loop: The loop that receipts are awaited on.
            keep: Called with every record that is accepted, on the thread where that happened.
        """
        self._loop = loop
        self._now, self._is_over = clock_of(loop), loop.is_closed
        self._keep = keep
        self._is_open = True
        if self._window is not None:
            self._window.open(self._now)
        self._why_closed = ""

    def close(self) -> None:
        """Refuse every push from now on; what another thread is pushing meanwhile is either in or out afterwards."""
        with self._lock:
            self._is_open = False
            if self._window is not None:
                self._window.is_open = False
            self._look_at = _AT_ONCE

    def watch(self, waiting: float, waiting_bytes: float) -> None:
        """Have ``on_due`` called once when so many records wait, or bytes of them."""
        with self._lock:
            self._watched, self._watched_bytes = waiting, waiting_bytes
            self._look_at = _AT_ONCE

    def look_closely(self) -> None:
        """Have the next push look closely; called under the lock."""
        self._look_at = _AT_ONCE

    # Pushes

    def try_admit(self, kind: EventKind, body: bytes) -> Receipt | None:
        """Accept or refuse an event; None, and nothing counted, if an awaited push has to wait for room."""
        size, queue = len(body), self._queue
        with self._lock:
            if (
                queue.appended < self._look_at
                and queue.appended_bytes + size <= self._look_at_bytes
                and not self._is_over()
            ):
                now, origin = self._now(), self._origins[kind]
                if now - origin.pushed_at >= _MILLISECOND or origin.epoch != self._epochs.current:
                    origin = self._origin(kind, now)
                receipt = Receipt(origin, body)
                self._counters[kind].accepted += 1
                queue.appended += 1
                queue.appended_bytes += size
                queue.records.append(receipt)
                return receipt
        return self._admit_closely(kind, body)

    def admit_both(self, first_kind: EventKind, first: bytes, second_kind: EventKind, second: bytes) -> None:
        """Accept or refuse two events of one moment, in this order; the same as two calls of `try_admit`."""
        size, queue = len(first) + len(second), self._queue
        with self._lock:
            if (
                queue.appended + 1 < self._look_at
                and queue.appended_bytes + size <= self._look_at_bytes
                and not self._is_over()
            ):
                now, epoch = self._now(), self._epochs.current
                first_origin, second_origin = self._origins[first_kind], self._origins[second_kind]
                if now - first_origin.pushed_at >= _MILLISECOND or first_origin.epoch != epoch:
                    first_origin = self._origin(first_kind, now)
                if now - second_origin.pushed_at >= _MILLISECOND or second_origin.epoch != epoch:
                    second_origin = self._origin(second_kind, now)
                records = (Receipt(first_origin, first), Receipt(second_origin, second))
                self._counters[first_kind].accepted += 1
                self._counters[second_kind].accepted += 1
                queue.appended += 2
                queue.appended_bytes += size
                queue.records.extend(records)
                return
        for kind, body in ((first_kind, first), (second_kind, second)):
            if self.try_admit(kind, body) is None:
                self.refuse(kind, RefusedReason.QUEUE_FULL)

    def try_admit_evaluation(self, user: User, evaluation: Evaluation, body: bytes) -> Receipt | None:
        """As `try_admit`, for an evaluation event that is refused if it repeats the last one, or else remembered."""
        return self._admit_closely(EventKind.EVALUATION, body, (user, evaluation))

    def _admit_closely(
        self, kind: EventKind, body: bytes, said: tuple[User, Evaluation] | None = None
    ) -> Receipt | None:
        """As `try_admit`, where something may be out of the ordinary; with what an evaluation event says."""
        size = len(body)
        displaced: Sequence[Receipt] = ()
        refused: RefusedReason | None = RefusedReason.NOT_RUNNING
        with self._lock:
            if said is not None and self._window is not None and (duplicate := self._window.refuse(*said)) is not None:
                return duplicate
            if self._is_open and not self._is_over():
                admission = self._bounds.admission(kind, size, self._quarantine)
                if admission is Admission.WAIT:
                    return None
                if admission is Admission.DISPLACE:
                    displaced = self._displace(size)
                refused = _REFUSALS.get(admission)
            if refused is None:
                receipt = Receipt(self._origin(kind, self._now()), body)
                is_due = self._enqueue(kind, receipt, size)
                if said is not None and self._window is not None:
                    self._window.remember(*said, receipt)
        if refused is not None:
            return self.refuse(kind, refused, self._why_closed)
        self._report(displaced)
        self._tell_admitted(receipt, is_due=is_due)
        return receipt

    def _tell_admitted(self, record: Receipt, *, is_due: bool) -> None:
        """Have an accepted record kept, and sent if something is due; without the lock."""
        if self._keep is not None:
            self._keep(record)
        if is_due:
            self._on_due()

    def _origin(self, kind: EventKind, now: float) -> Origin:
        """Return the origin of a push; pushes of a burst share one."""
        origin = self._origins[kind]
        if now - origin.pushed_at >= _MILLISECOND or origin.epoch != self._epochs.current:
            origin = self._origins[kind] = Origin(kind, self._loop, now, self._epochs.current)
        return origin

    def _enqueue(self, kind: EventKind, record: Receipt, size: int) -> bool:
        """Count an accepted record, and put it behind all others; return whether something is due now."""
        bounds, counters, queue = self._bounds, self._counters[kind], self._queue
        was_empty = not queue.records  # read before: a push amid this one finds the queue filled
        counters.accepted += 1
        queue.appended += 1
        queue.appended_bytes += size
        queue.records.append(record)
        if len(queue.records) >= self._watched or queue.body_bytes >= self._watched_bytes:
            self._watched = self._watched_bytes = math.inf  # the collector will look, and say what to watch next
            return True
        if self._keep is None:
            # The next pushes are usual up to the bounds, or up to what is watched. What was appended is read first, so
            # that a push amid this counts twice rather than not at all.
            appended, appended_bytes = queue.appended, queue.appended_bytes
            self._look_at = appended + min(bounds.free_capacity - bounds.held, self._watched - len(queue.records) - 1)
            self._look_at_bytes = appended_bytes + min(
                bounds.free_max_bytes - bounds.held_bytes, self._watched_bytes - queue.body_bytes - 1
            )
        return was_empty

    def refuse(self, kind: EventKind, reason: RefusedReason, message: str = "") -> Receipt:
        """Count a push that is not accepted."""
        receipt = Receipt(self._unaccepted[kind], b"")
        receipt.outcome = Outcome(Fate.REFUSED, reason, message)
        with self._lock:
            self._counters[kind].refused[reason] += 1
        self._on_lost(receipt)
        return receipt

    # The spool

    def recover(
        self, kind: EventKind, body: bytes, pushed_at: float, spool_row: int, *, is_suspect: bool = False
    ) -> bool:
        """Take in an event that an earlier process has left; False, and nothing counted, if there is no room for it.

        After closing there is no room. An event past its lifetime is dropped, and so is one that the bounds could
        never hold. One that has failed alone in the earlier process begins in quarantine.
        """
        size, counters = len(body), self._counters[kind]
        is_due = False
        with self._lock:
            expired = pushed_at + self._lifetime <= self._now()
            dropped = EXPIRED if expired else None if self._bounds.fits(size) else DISPLACED
            if not self._is_open or not (dropped or self._bounds.has_room_for_recovered(size)):
                return False
            record = Receipt(Origin(kind, self._loop, pushed_at, self._epochs.current), body)
            record._spool_row, record._maybe_stored = spool_row, True
            counters.recovered += 1
            if dropped:  # accepted and dropped at once, never held
                record.outcome = dropped
                counters.accepted += 1
                counters.settle(dropped, 1, were_queued=True)
            else:
                is_due = self._enqueue(kind, record, size)
                if is_suspect:
                    self._queue.remove_newest()
                    suspicion_of(record, 0).failures = 1
                    self._quarantine.add_lone(record)
                    self._look_at = _AT_ONCE
        if dropped:
            self._report([record])
        else:
            self._tell_admitted(record, is_due=is_due)
        return True
