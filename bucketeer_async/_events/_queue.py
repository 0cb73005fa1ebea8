"""RecordQueue: the records that wait, the oldest first, and a shelf for those that must not be tried again yet.

The ledger uses it under its lock, from any thread; nothing in it waits.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence

from bucketeer_async._events._receipt import Receipt


class RecordQueue:
    """Waiting records.

    Attributes:
        records: The records in the queue, the oldest first; the shelf does not count.
        body_bytes: Bytes of their bodies.
        next_due: Monotonic seconds at which the first records on the shelf are due; infinity if the shelf is empty.
    """

    __slots__ = ("_shelf", "_shelvings", "body_bytes", "next_due", "records")

    def __init__(self) -> None:
        self.records: deque[Receipt] = deque()
        self.body_bytes = 0
        self.next_due = math.inf
        self._shelf: list[tuple[float, int, Sequence[Receipt]]] = []  # a heap: due, tie-breaker, records
        self._shelvings = 0

    def take_oldest(self) -> Receipt:
        """Take the record at the head out.

        Raises:
            IndexError: If the queue is empty.
        """
        record = self.records.popleft()
        size = len(record._body)
        self.body_bytes -= size
        return record

    def take_batch(self, max_records: int, max_bytes: int, pushed_after: float) -> list[Receipt]:
        """Take the oldest records out: at least one if there is any, together at most ``max_bytes`` long.

        All of them but the first were pushed after ``pushed_after``.
        """
        batch: list[Receipt] = []
        records, room = self.records, max_bytes
        while records and len(batch) < max_records:
            record = records.popleft()
            size = len(record._body)
            room -= size
            if batch and (room < 0 or record._pushed_at <= pushed_after):
                records.appendleft(record)
                break
            batch.append(record)
            self.body_bytes -= size
        return batch

    def put_first(self, records: Sequence[Receipt]) -> None:
        """Put records back at the head, in their order."""
        self.records.extendleft(reversed(records))
        size = sum(len(record._body) for record in records)
        self.body_bytes += size

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
