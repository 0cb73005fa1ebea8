"""The records of pushed events, which are their receipts, and the queue that holds them.

What becomes of a record is decided elsewhere; a receipt only tells it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence

from bucketeer_async._background import require_loop
from bucketeer_async._events._encoder import EVENT_ID, EncodedEvent
from bucketeer_async._models import EventKind
from bucketeer_async._results import Outcome


class Receipt:
    """One pushed event: the record in the queue itself, so it costs nothing unless it is awaited.

    Attributes:
        kind: Class of the event.
        outcome: How its story ended, or None while it is under way.
    """

    __slots__ = (
        "_loop",
        "_waiter",
        "body",
        "epoch",
        "kind",
        "maybe_stored",
        "outcome",
        "pushed_at",
        "spool_row",
        "tries",
    )

    kind: EventKind
    body: bytes
    outcome: Outcome | None
    pushed_at: float
    epoch: int
    tries: int
    maybe_stored: bool
    spool_row: int

    def __init__(
        self, event: EncodedEvent, loop: asyncio.AbstractEventLoop | None, pushed_at: float, epoch: int
    ) -> None:
        self.kind, self.body = event
        self.outcome = None
        self.pushed_at = pushed_at
        self.epoch = epoch
        self.tries = 0
        self.maybe_stored = False
        self.spool_row = 0  # 0: not in the spool
        self._loop = loop
        self._waiter: asyncio.Future[None] | None = None

    @property
    def event_id(self) -> str:
        """UUID v4 of the event; "" if the push was refused."""
        return self.body[EVENT_ID].decode()

    @property
    def accepted(self) -> bool:
        """False if the push was refused."""
        return self.body != b""

    async def settled(self) -> Outcome:
        """Wait until the event's story has ended, and return how.

        Raises:
            WrongLoopError: If awaited on another event loop than the processor's.
        """
        if self.outcome is None:
            assert self._loop is not None  # noqa: S101 - only an accepted event is under way
            require_loop(self._loop, "receipt")
            if self._waiter is None:
                self._waiter = self._loop.create_future()
            # Looked at again after the waiter is in place: another thread may have displaced the event meanwhile.
            if self.outcome is None:
                await asyncio.shield(self._waiter)
        outcome: Outcome | None = self.outcome
        assert outcome is not None  # noqa: S101 - the waiter is resolved after the outcome is set
        return outcome

    def __repr__(self) -> str:
        return f"<Receipt {self.kind} {self.event_id or '-'} {self.outcome.fate if self.outcome else 'under way'}>"


def resolve(records: Sequence[Receipt]) -> None:
    """Wake whoever awaits that one of them is settled; from any thread."""
    for record in records:
        waiter = record._waiter  # noqa: SLF001 - of this module
        if waiter is not None:
            # If the loop is closed, so is everybody who waited.
            with contextlib.suppress(RuntimeError):
                waiter.get_loop().call_soon_threadsafe(_finish, waiter)


def _finish(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class RecordQueue(asyncio.Queue[Receipt]):
    """The queue of records. Nobody awaits ``get()`` or ``put()``: the ledger uses it under its lock, from any thread.

    Attributes:
        records: What waits, the oldest first.
        body_bytes: Bytes of their bodies.
    """

    _queue: deque[Receipt]
    records: deque[Receipt]
    body_bytes: int

    def _init(self, maxsize: int) -> None:  # noqa: ARG002 - the signature is asyncio's
        self.records = deque()
        self._queue = self.records  # where the methods of asyncio's look
        self.body_bytes = 0

    def put_nowait(self, item: Receipt) -> None:
        """Put a record behind all others; there is always room, and nobody to wake."""
        self.records.append(item)
        size = len(item.body)  # by itself: a signal may come at any call, not amid an addition
        self.body_bytes += size

    def get_nowait(self) -> Receipt:
        """Take the oldest record out.

        Raises:
            IndexError: If there is none.
        """
        record = self.records.popleft()
        size = len(record.body)
        self.body_bytes -= size
        return record

    def get_batch(self, max_records: int, max_bytes: int, born_after: float) -> list[Receipt]:
        """Take the oldest records out: at least one if there is any, together at most ``max_bytes`` long.

        All of them but the first were pushed after ``born_after``.
        """
        batch: list[Receipt] = []
        queue, room = self.records, max_bytes
        while queue and len(batch) < max_records:
            record = queue.popleft()
            size = len(record.body)
            room -= size
            if batch and (room < 0 or record.pushed_at <= born_after):
                queue.appendleft(record)
                break
            batch.append(record)
            self.body_bytes -= size
        return batch

    def put_first(self, records: Sequence[Receipt]) -> None:
        """Put records back before all others, in their order."""
        self.records.extendleft(reversed(records))
        size = sum(len(record.body) for record in records)
        self.body_bytes += size

    def oldest(self) -> Receipt | None:
        """The record that `get_nowait` would return."""
        return self.records[0] if self.records else None
