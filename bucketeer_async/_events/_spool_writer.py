"""Spooler: keeps the events of one processor in a spool, on a thread of its own, so that no disk delays a push or a post.

The file is left to `_spool_file.py`. Which events are left at the end of a drain is decided by the pipeline, and whether
there is room for recovered ones by the ledger.

The file belongs to the thread: only the thread's frame knows it, so that a forked child, which has no such thread, cannot
touch it. Accepted and settled records reach the thread through two queues. These invariants keep the two straight:

- A record is written only while it has no outcome, and gets its row after the commit.
- A settled record is queued after its outcome was set. The thread empties the queue of accepted records first, the queue
  of settled records second, deletes, and then writes: so a record that is settled in between is either not written, or
  deleted the next time.
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

from bucketeer_async._background import Progress, start_thread
from bucketeer_async._events._ledger import Ledger
from bucketeer_async._events._receipt import Receipt
from bucketeer_async._events._spool_file import SpooledEvent, SpoolError, SpoolFile, SpoolFullError
from bucketeer_async._log import RateLimitedLog
from bucketeer_async._options import Spool
from bucketeer_async._results import Fate, SpoolStatistics

_T = TypeVar("_T")

_TOPIC: Final = "spool"
_LOG_INTERVAL: Final = 600.0  # seconds between two log lines about one outage of the disk
_RETRY: Final = 5.0  # seconds between two tries to open a spool that cannot be used
_PATIENCE: Final = 1.0  # seconds without a commit after which a disk is no longer waited for
_MOST_WAITS: Final = 10  # waits of that length, at most, for a disk that commits in each of them
_ROWS: Final = 1000  # events in one transaction, at most ...
_BYTES: Final = 2**20  # ... and of so many bytes


class Spooler:
    """Writes and reads a spool for one processor.

    Args:
        options: The spool.
        clock: Monotonic seconds, the clock of the records; callable from any thread.
        log: Where outages of the disk are logged, once each.
        wall: Unix time, in seconds.

    Attributes:
        retry_interval: Seconds between two tries to open a spool that cannot be used.
        statistics: State of the spool as of the last write.
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
        self._suspects: deque[Receipt] = deque()
        self._jobs: deque[Callable[[SpoolFile | None], None]] = deque()
        self._wake = threading.Event()  # something is to be written soon
        self._urgent = threading.Event()  # a caller waits
        self._ending = False
        self._late = False  # the disk did not respond in time
        self._commits = 0
        self._ended: Future[None] = Future()
        self._thread = threading.Thread(target=self._work, name="bucketeer-spool", daemon=True)
        self.statistics = SpoolStatistics()

    # From the processor

    async def start(self) -> None:
        """Open the spool; a slow disk is waited for only a moment."""
        start_thread(self._thread)
        await self._run_on_thread(lambda _file: None)

    def keep(self, record: Receipt) -> None:
        """Have an accepted record written soon, if the spool is durable. From any thread, never blocks."""
        if self._options.durable:
            self._accepted.append(record)
            self._wake_up()

    def suspect(self, record: Receipt) -> None:
        """Have the file remember soon that a record has failed alone. From any thread, never blocks."""
        if self._options.durable:
            self._suspects.append(record)
            self._wake_up()

    def forget(self, records: Sequence[Receipt]) -> None:
        """Have settled records deleted soon, but for those left to the next process. From any thread, never blocks."""
        durable = self._options.durable  # a record without a row may be on its way into the file
        gone = [record for record in records if (durable or record._spool_row) and not _stays(record)]
        if gone:
            self._settled.extend(gone)
            self._wake_up()

    async def recover(self, ledger: Ledger, progress: Progress) -> None:
        """Hand the events that an earlier process has left to the ledger, as it has room for them.

        Args:
            ledger: Accepts the events.
            progress: Notified when the ledger may have room again.
        """
        last = 0
        while (events := await self._earlier_events(last)) != []:
            if events is None:
                await asyncio.sleep(self.retry_interval)
                continue
            for event in events:
                age = max(0.0, self._wall() - event.pushed)
                while not ledger.recover(
                    event.kind, event.body, self._clock() - age, event.row, is_suspect=event.is_suspect
                ):
                    await progress.wait()
                last = event.row
            await asyncio.sleep(0)

    async def _earlier_events(self, after: int) -> list[SpooledEvent] | None:
        return await self._run_on_thread(lambda file: None if file is None else file.earlier_events(after))

    async def save(self, records: Sequence[Receipt]) -> None:
        """Write the records that a drain has left; a written record has a row afterwards."""

        def write(file: SpoolFile | None) -> None:
            if file is not None:
                self._insert(file, records)
                file.mark_suspects([record._spool_row for record in records if _is_suspect(record)])

        await self._run_on_thread(write)

    async def aclose(self) -> None:
        """Write what is due and close the file; a disk that did not respond before is not waited for."""
        self.end()
        if not self._late:
            await self._within_patience(self._ended)

    def end(self) -> None:
        """As `aclose`, but do not wait."""
        self._ending = True
        self._urgent.set()
        self._wake.set()

    def _wake_up(self) -> None:
        if not self._wake.is_set():
            self._wake.set()

    async def _run_on_thread(self, job: Callable[[SpoolFile | None], _T]) -> _T | None:
        """Have the thread do a job at once, and return its result; None if it fails, or takes too long."""
        future: Future[_T | None] = Future()

        def run(file: SpoolFile | None) -> None:
            if future.set_running_or_notify_cancel():
                future.set_result(self._attempt(lambda: job(file)))

        self._jobs.append(run)
        self._urgent.set()
        self._wake.set()
        return await self._within_patience(future)

    async def _within_patience(self, future: Future[_T | None]) -> _T | None:
        """Return the result of a job, waiting for as long as the disk commits; None if it does not."""
        waited = asyncio.wrap_future(future)
        try:
            for _ in range(_MOST_WAITS):
                before = self._commits
                self._late = not (await asyncio.wait([waited], timeout=_PATIENCE))[0]
                if not self._late:
                    return waited.result()
                if self._commits == before:
                    break
        finally:
            waited.cancel()
        self._log_problem(SpoolError("the disk does not respond"))
        return None

    # On the thread

    def _work(self) -> None:
        file: SpoolFile | None = None
        began = 0.0
        while not self._ending:
            if self.statistics.ready:
                self._wake.wait()
                # Measured from the start of the last write, which may have taken longer than the interval.
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
                self._requeue(_drain(self._accepted), _drain(self._settled))
            while self._jobs:
                self._jobs.popleft()(file)
        if file is not None:
            self._attempt(partial(self._write, file))
            self._attempt(file.close)
        if self._ended.set_running_or_notify_cancel():
            self._ended.set_result(None)

    def _attempt(self, work: Callable[[], _T]) -> _T | None:
        """Return the result of ``work``, or None if an error of the disk, or a bug of this package, is logged."""
        try:
            return work()
        except Exception as error:  # noqa: BLE001 - it is logged, and the thread goes on
            self._log_problem(error)
            return None

    def _open(self) -> SpoolFile:
        return SpoolFile(Path(self._options.path), self._options.max_bytes)

    def _write(self, file: SpoolFile) -> None:
        accepted, settled = _drain(self._accepted), _drain(self._settled)
        try:
            file.delete([record._spool_row for record in settled if record._spool_row])
            settled = []
            self._insert(file, accepted)
            if suspects := [record._spool_row for record in _drain(self._suspects) if _is_suspect(record)]:
                file.mark_suspects(suspects)
            self._update_statistics(file)
        except SpoolError:
            self._requeue(accepted, settled)
            raise

    def _requeue(self, accepted: Sequence[Receipt], settled: Sequence[Receipt]) -> None:
        """Queue again what could not be written or deleted, unless that has become needless."""
        self._settled.extendleft(record for record in reversed(settled) if record._spool_row)
        self._accepted.extendleft(record for record in reversed(accepted) if not _is_done(record))

    def _insert(self, file: SpoolFile, records: Sequence[Receipt]) -> None:
        # The body is read first: it is cut off after the outcome is set.
        bodies = [(record, record._body) for record in records]
        bodies = [(record, body) for record, body in bodies if not _is_done(record)]
        for part in _parts(bodies):
            self._insert_what_fits(file, part)

    def _insert_what_fits(self, file: SpoolFile, bodies: Sequence[tuple[Receipt, bytes]]) -> None:
        """Write records in one transaction; if the file is full, write as many as fit, and raise."""
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
        # Settled before they had a row: a drain does not wait for a slow disk for ever.
        self._settled.extend(record for record, _ in bodies if record.outcome is not None and not _stays(record))

    def _update_statistics(self, file: SpoolFile) -> None:
        if file.corrupt > self.statistics.corrupt:
            self._log.report_warning("corrupt", "the spool was damaged: at least %d events were lost", file.corrupt)
        self.statistics = SpoolStatistics(ready=True, events=len(file), size=file.size, corrupt=file.corrupt)
        self._log.report_recovery(_TOPIC, "the spool can be used again after %.1f s")

    def _log_problem(self, error: Exception) -> None:
        last = self.statistics
        self.statistics = SpoolStatistics(events=last.events, size=last.size, corrupt=last.corrupt)
        bug = not isinstance(error, SpoolError)
        self._log.report(
            _TOPIC,
            logging.ERROR if bug else logging.WARNING,
            _LOG_INTERVAL,
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


def _is_suspect(record: Receipt) -> bool:
    """Whether a record in the file has failed alone."""
    return record._spool_row != 0 and record._suspicion is not None and record._suspicion.failures > 0


def _stays(record: Receipt) -> bool:
    """Whether a settled record stays in the file for the next process."""
    return record.outcome is not None and record.outcome.fate is Fate.SPOOLED


def _is_done(record: Receipt) -> bool:
    return record.outcome is not None or record._spool_row != 0
