"""Spooler: keeps the events of one processor in a spool, on a thread of its own, so that no disk delays a push or a post.

The file is left to `_spool_file.py`. Which events are left at the end of a drain is decided by the pipeline, and whether
there is room for recovered ones by the ledger.

The file belongs to the thread: only the thread's frame knows it, so that a forked child, which has no such thread, cannot
touch it. Accepted and settled records reach the thread through two queues. These invariants keep the two straight:

- A record is written only while it has no outcome, and gets its row after the commit.
- A settled record is queued after its outcome was set. The thread empties the queue of accepted records first, the queue
  of settled records second, deletes, and then writes: so a record that is settled in between is either not written, or
  deleted the next time.
- Row numbers are those of the present file. If a file is lost while it is in use, the rows that are known are given up,
  and their records written again; the next file gives larger numbers, so that a row that is found later differs
  from its own.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from bucketeer_async._background import Progress, start_thread
from bucketeer_async._events._ledger import Ledger
from bucketeer_async._events._receipt import Receipt
from bucketeer_async._events._spool_access import SpoolDamagedError, SpoolError, SpoolFullError, SpoolLostError
from bucketeer_async._events._spool_file import SpoolFile
from bucketeer_async._events._spool_rows import SpooledEvent, in_parts, insert_what_fits
from bucketeer_async._log import RateLimitedLog
from bucketeer_async._models import EventKind
from bucketeer_async._options import Spool
from bucketeer_async._results import Fate, SpoolStatistics

_T = TypeVar("_T")

_TOPIC: Final = "spool"
_LOG_INTERVAL: Final = 600.0  # seconds between two log lines about one outage of the disk
_RETRY: Final = 5.0  # seconds between two tries to open a spool that cannot be used
_PATIENCE: Final = 1.0  # seconds without a commit after which a disk is no longer waited for
_MOST_WAITS: Final = 10  # waits of that length, at most, for a disk that commits in each of them


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
        self._directory = Path(options.path)
        self._clock = clock
        self._log = log
        self._wall = wall
        self._accepted: deque[Receipt] = deque()
        self._settled: deque[Receipt] = deque()
        self._suspects: deque[Receipt] = deque()
        self._in_file: set[Receipt] = set()  # records with a row
        self._first_row = 1  # of the present file; smaller numbers in records are those of files that were lost
        self._lost_ids: set[str] = set()  # events with a row in a lost file, which the present file may have taken over
        self._earlier = 0  # events of earlier processes in the file that was lost last
        self._corrupt = 0  # events that were lost with files before the present one
        self._is_lost = False  # the file cannot be used any more
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
        if self._options.durable or record._spool_row:  # a recovered one is in the file, and is to stay there
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
                while not ledger.intake.recover(
                    EventKind(event.kind), event.body, self._clock() - age, event.row, is_suspect=event.is_suspect
                ):
                    await progress.wait()
                last = event.row
            await asyncio.sleep(0)

    async def _earlier_events(self, after: int) -> list[SpooledEvent] | None:
        return await self._run_on_thread(lambda file: None if file is None else file.earlier_events(after))

    async def save(self, records: Sequence[Receipt]) -> None:
        """Write the records that a drain has left; a written record has a row afterwards."""
        losses = 0

        def write(file: SpoolFile | None) -> None:
            nonlocal losses
            if file is None:
                return
            try:
                self._insert(file, records)
                file.mark_suspects([record._spool_row for record in records if _is_suspect(record)])
                file.check_in_place()
            except (SpoolLostError, SpoolDamagedError):
                losses += 1
                raise

        for tries in (1, 2):  # if the file is lost meanwhile, the next one gets the events
            await self._run_on_thread(write)
            if losses < tries:
                return
        for record in records:
            record._spool_row = 0

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
                self._wake.wait(self.retry_interval)  # also if nothing happens: the file may be lost
                # Measured from the start of the last write, which may have taken longer than the interval.
                self._urgent.wait(max(0.0, began + self._options.commit_interval - time.monotonic()))
            else:
                self._urgent.wait(self.retry_interval)
            began = time.monotonic()
            self._wake.clear()
            self._urgent.clear()
            file = self._write_what_is_due(file)
            while self._jobs:
                self._jobs.popleft()(file)
                if self._is_lost:  # the next job needs another file
                    file = self._write_what_is_due(file)
        if file is not None and (file := self._write_what_is_due(file)) is not None:
            self._attempt(file.close)
        if self._ended.set_running_or_notify_cancel():
            self._ended.set_result(None)

    def _write_what_is_due(self, file: SpoolFile | None) -> SpoolFile | None:
        """Write to the file, or to a new one if there is none or it is lost; return the file, None if it cannot be used."""
        for _ in range(2):
            if file is not None and self._is_lost:
                self._give_up(file)
                file = None
            if file is None:
                file = self._attempt(self._open)
            self._is_lost = False
            if file is None:
                self._requeue(_drain(self._accepted), _drain(self._settled))
                return None
            self._attempt(partial(self._write, file))
            if not self._is_lost:
                break
        return file

    def _attempt(self, work: Callable[[], _T]) -> _T | None:
        """Return the result of ``work``, or None if an error of the disk, or a bug of this package, is logged."""
        try:
            return work()
        except Exception as error:  # noqa: BLE001 - it is logged, and the thread goes on
            self._is_lost |= isinstance(error, SpoolLostError | SpoolDamagedError)
            self._log_problem(error)
            return None

    def _open(self) -> SpoolFile:
        file = SpoolFile(self._directory, self._options.max_bytes, first_row=self._first_row)
        self._directory = file.directory  # which is absolute: the application may change its working directory
        return file

    def _write(self, file: SpoolFile) -> None:
        accepted, settled = _drain(self._accepted), _drain(self._settled)
        try:
            self._give_up_rows([*accepted, *settled])
            self._in_file.update(record for record in accepted if record._spool_row)
            file.check_in_place()
            if self._lost_ids or self._earlier:
                self._delete_lost(file)
            file.delete([record._spool_row for record in settled if record._spool_row])
            self._in_file.difference_update(settled)
            settled = []
            self._insert(file, accepted)
            if suspects := [record._spool_row for record in _drain(self._suspects) if _is_suspect(record)]:
                file.mark_suspects(suspects)
            file.check_in_place()
            self._update_statistics(file)
        except SpoolError:
            self._requeue(accepted, settled)
            raise

    def _give_up(self, file: SpoolFile) -> None:
        """Close a lost file, and queue again what is known to be in it."""
        accepted = _drain(self._accepted)
        self._in_file.update(record for record in accepted if record._spool_row)
        records = sorted(self._in_file, key=lambda record: record._spool_row)
        self._earlier = max(0, len(file) - len(records))
        self._corrupt += file.corrupt
        self._first_row = file.next_row
        self._requeue(accepted, ())
        self._suspects.extend(record for record in records if _is_suspect(record))
        self._give_up_rows(records)
        self._requeue(records, ())
        self._attempt(file.close)

    def _give_up_rows(self, records: Iterable[Receipt]) -> None:
        """Forget the rows in files that were lost."""
        for record in records:
            if 0 < record._spool_row < self._first_row:
                self._lost_ids.add(record.event_id)
                self._in_file.discard(record)
                record._spool_row = 0

    def _delete_lost(self, file: SpoolFile) -> None:
        """Delete the events that are written again: the file may have taken them over from the lost one."""
        file.delete_events(self._lost_ids)
        self._lost_ids.clear()
        if not file.corrupt:  # which counts them, if the file was damaged
            self._corrupt += max(0, self._earlier - len(file))
        self._earlier = 0

    def _requeue(self, accepted: Sequence[Receipt], settled: Sequence[Receipt]) -> None:
        """Queue again what could not be written or deleted, unless that has become needless."""
        self._settled.extendleft(record for record in reversed(settled) if record._spool_row)
        self._accepted.extendleft(record for record in reversed(accepted) if not _is_done(record))

    def _insert(self, file: SpoolFile, records: Sequence[Receipt]) -> None:
        # The body is read first: it is cut off after the outcome is set.
        bodies = [(record, record._body) for record in records]
        bodies = [(record, body) for record, body in bodies if not _is_done(record)]
        full: SpoolFullError | None = None
        for part in in_parts(bodies, _size_of):
            _, reason = insert_what_fits(part, _size_of, partial(self._insert_part, file))
            full = reason or full
        if full is not None:
            raise full

    def _insert_part(self, file: SpoolFile, bodies: Sequence[tuple[Receipt, bytes]]) -> None:
        behind = self._wall() - self._clock()
        first = file.insert(
            [(record.kind, record.event_id, record._pushed_at + behind, body) for record, body in bodies]
        )
        self._commits += 1
        for row, (record, _) in enumerate(bodies, first):
            record._spool_row = row
            self._in_file.add(record)
        # Settled before they had a row: a drain does not wait for a slow disk for ever.
        self._settled.extend(record for record, _ in bodies if record.outcome is not None and not _stays(record))

    def _update_statistics(self, file: SpoolFile) -> None:
        corrupt = self._corrupt + file.corrupt
        if corrupt > self.statistics.corrupt:
            self._log.report_warning(
                "corrupt", "the spool was damaged or removed: at least %d events were lost", corrupt
            )
        if file.left > self.statistics.left:
            self._log.report_warning(
                "left",
                "%d events of a damaged file did not fit into the spool: python -m bucketeer_async.spool %s salvage",
                file.left,
                self._directory,
            )
        self.statistics = SpoolStatistics(
            ready=True, events=len(file), size=file.size, corrupt=corrupt, unknown=file.unknown, left=file.left
        )
        self._log.report_recovery(_TOPIC, "the spool can be used again after %.1f s")

    def _log_problem(self, error: Exception) -> None:
        self.statistics = replace(self.statistics, ready=False)
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


def _size_of(record_and_body: tuple[Receipt, bytes]) -> int:
    return len(record_and_body[1])


def _is_suspect(record: Receipt) -> bool:
    """Whether a record in the file has failed alone."""
    return record._spool_row != 0 and record._suspicion is not None and record._suspicion.failures > 0


def _stays(record: Receipt) -> bool:
    """Whether a settled record stays in the file for the next process."""
    return record.outcome is not None and record.outcome.fate is Fate.SPOOLED


def _is_done(record: Receipt) -> bool:
    return record.outcome is not None or record._spool_row != 0
