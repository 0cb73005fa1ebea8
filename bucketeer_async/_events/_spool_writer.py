"""Keeps events in a spool while they wait, on a thread of its own. Whatever the disk does, nobody else notices.

The file is left to `_events/_spool_file.py`; which events are left at the end of a drain, and how those of an earlier process come
back, to the pipeline.

The file belongs to the thread: only its frame knows it, so that a forked child, which has not got the thread, can do
nothing to it. What happens to events reaches the thread through two queues, and these invariants keep them straight:

- a record is written only while it has no outcome, and gets its row after the commit;
- a settled record is told after its outcome was set. The thread empties the queue of accepted records first, then that
  of settled ones, deletes, and then writes: so a record that is settled meanwhile is either not written, or deleted
  next time.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from bucketeer_async._background import Progress
from bucketeer_async._events._encoder import EncodedEvent
from bucketeer_async._events._ledger import Ledger
from bucketeer_async._events._receipt import Receipt
from bucketeer_async._events._spool_file import SpooledEvent, SpoolError, SpoolFile, SpoolFullError
from bucketeer_async._log import RateLimitedLog
from bucketeer_async._options import Spool
from bucketeer_async._results import Fate, SpoolStatistics

_T = TypeVar("_T")

_TOPIC: Final = "spool"
_AGAIN: Final = 600.0  # seconds between two lines of one spell
_RETRY: Final = 5.0  # seconds after which a spool that cannot be used is tried again
_PATIENCE: Final = 1.0  # seconds without a sign of life after which a disk is not waited for
_LONGEST: Final = 10  # times that it is waited for so long, if it gives one each time
_ROWS: Final = 1000  # events in one transaction, at most ...
_BYTES: Final = 2**20  # ... and of these many bytes


class Spooler:
    """Writes and reads a spool for one processor.

    Args:
        options: Where, how much, and when.
        clock: Monotonic seconds, as the records have them; from any thread.
        log: Where trouble is told.
        wall: Unix time, in seconds.
    """

    def __init__(
        self, options: Spool, clock: Callable[[], float], log: RateLimitedLog, wall: Callable[[], float] = time.time
    ) -> None:
        self.retry_interval = _RETRY
        self._options = options
        self._clock = clock
        self._log = log
        self._wall = wall
        self._accepted: deque[Receipt] = deque()
        self._settled: deque[Receipt] = deque()
        self._jobs: deque[Callable[[SpoolFile | None], None]] = deque()
        self._wake = threading.Event()  # there is something to write, some time soon
        self._urgent = threading.Event()  # somebody waits
        self._ending = False
        self._late = False  # the disk did not answer in time
        self._commits = 0
        self._ended: Future[None] = Future()
        self._thread = threading.Thread(target=self._work, name="bucketeer-spool", daemon=True)
        self.statistics = SpoolStatistics()

    # From the processor

    async def start(self) -> None:
        """Open the spool; a disk that takes long is not waited for."""
        self._thread.start()
        await self._ask(lambda _file: None)

    def keep(self, record: Receipt) -> None:
        """Write an accepted record soon, if the spool is durable. From any thread, never blocks."""
        if self._options.durable:
            self._accepted.append(record)
            self._wake_up()

    def forget(self, records: Sequence[Receipt]) -> None:
        """Delete settled records soon, unless they are to stay for the next process. From any thread, never blocks."""
        durable = self._options.durable  # then a record may just be on its way into the file
        gone = [record for record in records if (durable or record._spool_row) and not _stays(record)]
        if gone:
            self._settled.extend(gone)
            self._wake_up()

    async def recover(self, ledger: Ledger, progress: Progress) -> None:
        """Bring back what an earlier process has left, as there is room for it.

        Args:
            ledger: Takes the events in.
            progress: Tells when there may be room again.
        """
        last = 0
        while (events := await self._earlier_events(last)) != []:
            if events is None:
                await asyncio.sleep(self.retry_interval)
                continue
            for event in events:
                encoded = EncodedEvent(event.kind, event.body)
                age = max(0.0, self._wall() - event.pushed)
                while not ledger.recover(encoded, self._clock() - age, event.row):
                    await progress.wait()
                last = event.row
            await asyncio.sleep(0)

    async def _earlier_events(self, after: int) -> list[SpooledEvent] | None:
        return await self._ask(lambda file: None if file is None else file.earlier_events(after))

    async def save(self, records: Sequence[Receipt]) -> None:
        """Write what a drain has left; a record that could be written has a row afterwards."""

        def write(file: SpoolFile | None) -> None:
            if file is not None:
                self._insert(file, records)

        await self._ask(write)

    async def aclose(self) -> None:
        """Write what is due and let the file go; a disk that has not answered is not waited for again."""
        self.end()
        if not self._late:
            await self._within_patience(self._ended)

    def end(self) -> None:
        """As `aclose`, without waiting."""
        self._ending = True
        self._urgent.set()
        self._wake.set()

    def _wake_up(self) -> None:
        if not self._wake.is_set():
            self._wake.set()

    async def _ask(self, job: Callable[[SpoolFile | None], _T]) -> _T | None:
        """Have the thread do something at once; None if that fails, or takes too long."""
        future: Future[_T | None] = Future()

        def run(file: SpoolFile | None) -> None:
            if future.set_running_or_notify_cancel():
                future.set_result(self._attempt(lambda: job(file)))

        self._jobs.append(run)
        self._urgent.set()
        self._wake.set()
        return await self._within_patience(future)

    async def _within_patience(self, future: Future[_T | None]) -> _T | None:
        """Wait as long as the disk gets on; None if it does not."""
        answer = asyncio.wrap_future(future)
        try:
            for _ in range(_LONGEST):
                before = self._commits
                self._late = not (await asyncio.wait([answer], timeout=_PATIENCE))[0]
                if not self._late:
                    return answer.result()
                if self._commits == before:
                    break
        finally:
            answer.cancel()
        self._complain(SpoolError("the disk does not answer"))
        return None

    # On the thread

    def _work(self) -> None:
        file: SpoolFile | None = None
        began = 0.0
        while not self._ending:
            if self.statistics.ready:
                self._wake.wait()
                # Counted from the last write, which may have taken longer than that.
                self._urgent.wait(max(0.0, began + self._options.commit_interval - time.monotonic()))
            else:
                self._urgent.wait(self.retry_interval)
            began = time.monotonic()
            self._wake.clear()
            self._urgent.clear()
            if file is None:
                file = self._attempt(self._open)
            if file is not None:
                self._attempt(partial(self._write, file))
            else:
                self._hold(_drain(self._accepted), _drain(self._settled))
            while self._jobs:
                self._jobs.popleft()(file)
        if file is not None:
            self._attempt(partial(self._write, file))
            self._attempt(file.close)
        if self._ended.set_running_or_notify_cancel():
            self._ended.set_result(None)

    def _attempt(self, work: Callable[[], _T]) -> _T | None:
        """Return what ``work`` returns, or None if the disk, or a bug of ours, gets in its way."""
        try:
            return work()
        except Exception as error:  # noqa: BLE001 - it is told, and the thread goes on
            self._complain(error)
            return None

    def _open(self) -> SpoolFile:
        return SpoolFile(Path(self._options.path), self._options.max_bytes)

    def _write(self, file: SpoolFile) -> None:
        accepted, settled = _drain(self._accepted), _drain(self._settled)
        try:
            file.delete([record._spool_row for record in settled if record._spool_row])
            settled = []
            self._insert(file, accepted)
            self._take_stock(file)
        except SpoolError:
            self._hold(accepted, settled)
            raise

    def _hold(self, accepted: Sequence[Receipt], settled: Sequence[Receipt]) -> None:
        """Keep for later what could not be written or deleted now, unless that is needless meanwhile."""
        self._settled.extendleft(record for record in reversed(settled) if record._spool_row)
        self._accepted.extendleft(record for record in reversed(accepted) if not _is_done(record))

    def _insert(self, file: SpoolFile, records: Sequence[Receipt]) -> None:
        # The body first: it is let go after the outcome is set.
        bodies = [(record, record._body) for record in records]
        bodies = [(record, body) for record, body in bodies if not _is_done(record)]
        for part in _parts(bodies):
            self._insert_what_fits(file, part)

    def _insert_what_fits(self, file: SpoolFile, bodies: Sequence[tuple[Receipt, bytes]]) -> None:
        """Write records in one transaction, or as many of them as there is room for, and raise then."""
        behind = self._wall() - self._clock()
        try:
            first = file.insert(
                [(record.kind, record.event_id, record._pushed_at + behind, body) for record, body in bodies]
            )
        except SpoolFullError:
            middle = len(bodies) // 2
            if not middle:
                raise
            self._insert_what_fits(file, bodies[:middle])
            self._insert_what_fits(file, bodies[middle:])
            return
        self._commits += 1
        for row, (record, _) in enumerate(bodies, first):
            record._spool_row = row
        # Told before they had a row: a drain does not wait for a slow disk for ever.
        self._settled.extend(record for record, _ in bodies if record.outcome is not None and not _stays(record))

    def _take_stock(self, file: SpoolFile) -> None:
        if file.corrupt > self.statistics.corrupt:
            self._log.report_warning("corrupt", "the spool was damaged: at least %d events were lost", file.corrupt)
        self.statistics = SpoolStatistics(ready=True, events=len(file), size=file.size, corrupt=file.corrupt)
        self._log.report_recovery(_TOPIC, "the spool can be used again")

    def _complain(self, error: Exception) -> None:
        last = self.statistics
        self.statistics = SpoolStatistics(events=last.events, size=last.size, corrupt=last.corrupt)
        bug = not isinstance(error, SpoolError)
        self._log.report(
            _TOPIC,
            logging.ERROR if bug else logging.WARNING,
            _AGAIN,
            "the spool cannot be used (%s); events are kept in memory alone until it can",
            repr(error) if bug else str(error),
        )


def _drain(records: deque[Receipt]) -> list[Receipt]:
    return [records.popleft() for _ in range(len(records))]


def _parts(bodies: Sequence[tuple[Receipt, bytes]]) -> Iterator[list[tuple[Receipt, bytes]]]:
    part: list[tuple[Receipt, bytes]] = []
    room = _BYTES
    for record, body in bodies:
        if part and (len(part) == _ROWS or len(body) > room):
            yield part
            part, room = [], _BYTES
        part.append((record, body))
        room -= len(body)
    if part:
        yield part


def _stays(record: Receipt) -> bool:
    """Whether a settled record is left in the file, for the next process."""
    return record.outcome is not None and record.outcome.fate is Fate.SPOOLED


def _is_done(record: Receipt) -> bool:
    return record.outcome is not None or record._spool_row != 0
