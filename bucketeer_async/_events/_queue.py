"""RecordQueue: the waiting records, the oldest first, and a shelf for records that must not be sent again yet.

The ledger uses it under its lock, from any thread; nothing in it waits. Suspect records are left to `_quarantine.py`.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Sequence
from operator import attrgetter
from typing import Final

from bucketeer_async._events._quarantine import has_failed_during
from bucketeer_async._events._receipt import Receipt

_RANDOM_TRIES: Final = 20  # before every record is looked at


_body_of: Final = attrgetter("_body")
_pushed_at_of: Final = attrgetter("_origin.pushed_at")


def _end_of_batch(records: Sequence[Receipt], max_bytes: int, pushed_after: float) -> tuple[int, int]:
    """Return how many of the records make a batch, at least one, and the bytes of their bodies."""
    size = 0
    for number, record in enumerate(records):
        grown = size + len(record._body)
        if number and (grown > max_bytes or record._origin.pushed_at <= pushed_after):
            return number, size
        size = grown
    return len(records), size


def _is_fit(record: Receipt, opening: int, pushed_after: float) -> bool:
    return record._origin.pushed_at > pushed_after and not has_failed_during(record, opening)


class RecordQueue:
    """Waiting records.

    Attributes:
        records: The records in the queue, the oldest first; the shelf does not count.
        appended: Records that were ever put at the end; counted by the ledger, which puts them there.
        appended_bytes: Bytes of their bodies; likewise.
        next_due: Monotonic seconds at which the first records on the shelf are due; infinity if the shelf is empty.
    """

    __slots__ = ("_shelf", "_shelvings", "_taken_bytes", "appended", "appended_bytes", "next_due", "records")

    def __init__(self) -> None:
        self.records: deque[Receipt] = deque()
        self.appended = 0
        self.appended_bytes = 0
        self._taken_bytes = 0  # of records that were appended, and are not in the queue
        self.next_due = math.inf
        self._shelf: list[tuple[float, int, Sequence[Receipt]]] = []  # a heap: due, tie-breaker, records
        self._shelvings = 0

    @property
    def body_bytes(self) -> int:
        """Bytes of the bodies in the queue."""
        return self.appended_bytes - self._taken_bytes

    def clear(self) -> None:
        """Forget all records, those on the shelf included."""
        self.records.clear()
        self._shelf.clear()
        self.next_due = math.inf
        self._taken_bytes = self.appended_bytes

    def take_oldest(self) -> Receipt:
        """Take the record at the head out.

        Raises:
            IndexError: If the queue is empty.
        """
        record = self.records.popleft()
        size = len(record._body)
        self._taken_bytes += size
        return record

    def take_batch(self, max_records: int, max_bytes: int, pushed_after: float) -> list[Receipt]:
        """Take the oldest records out: at least one if there is any, together at most ``max_bytes`` long.

        All of them but the first were pushed after ``pushed_after``.
        """
        records = self.records
        batch = [records.popleft() for _ in range(min(max_records, len(records)))]
        size = sum(map(len, map(_body_of, batch)))
        if size > max_bytes or min(map(_pushed_at_of, batch), default=math.inf) <= pushed_after:
            end, size = _end_of_batch(batch, max_bytes, pushed_after)
            records.extendleft(reversed(batch[end:]))
            del batch[end:]
        self._taken_bytes += size
        return batch

    def remove_newest(self) -> None:
        """Take the record at the end out."""
        record = self.records.pop()
        size = len(record._body)
        self._taken_bytes += size

    def take_random(self, rng: random.Random, opening: int, pushed_after: float) -> tuple[Receipt, int] | None:
        """Take out a record at random, but none that has failed as a probe during this opening of the circuit.

        Args:
            rng: The source of chance.
            opening: The opening.
            pushed_after: Monotonic seconds; records that were pushed earlier are past their lifetime.

        Returns:
            The record, and its place for `put_at`: a number that stays true while others come and go at both ends.
        """
        records = self.records
        for _ in range(min(len(records), _RANDOM_TRIES)):
            index = rng.randrange(len(records))
            if _is_fit(records[index], opening, pushed_after):
                return self._take_at(index)
        # Unlucky, or few are left: look at each.
        fresh = [index for index, record in enumerate(records) if _is_fit(record, opening, pushed_after)]
        return self._take_at(rng.choice(fresh)) if fresh else None

    def _take_at(self, index: int) -> tuple[Receipt, int]:
        record = self.records[index]
        del self.records[index]
        size = len(record._body)
        self._taken_bytes += size
        return record, self.appended - (len(self.records) - index)

    def put_at(self, record: Receipt, place: int) -> None:
        """Put a record back to the place that `take_random` has returned."""
        self.records.insert(max(0, len(self.records) - (self.appended - place)), record)
        size = len(record._body)
        self._taken_bytes -= size

    def put_first(self, records: Sequence[Receipt]) -> None:
        """Put records back at the head, in their order."""
        self.records.extendleft(reversed(records))
        size = sum(len(record._body) for record in records)
        self._taken_bytes -= size

    def shelve(self, records: Sequence[Receipt], due: float) -> None:
        """Keep records off the queue until ``due``, in monotonic seconds."""
        self._shelvings += 1
        heapq.heappush(self._shelf, (due, self._shelvings, records))
        self.next_due = self._shelf[0][0]

    def unshelve(self, now: float) -> None:
        """Put the records that are due at the head of the queue."""
        while self._shelf and self._shelf[0][0] <= now:
            self.put_first(heapq.heappop(self._shelf)[2])
        self.next_due = self._shelf[0][0] if self._shelf else math.inf
