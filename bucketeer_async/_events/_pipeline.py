"""One life of the event pipeline: its start, the task group that everything runs under, and the drain.

All of it runs in one background task, so that it does not matter which tasks start and close it. What becomes of a
record is left to `_events/_ledger.py`, batches to `_events/_collector.py` and `_events/_batch.py`.

States, moved by `start`, `begin_closing` and the end of the background task alone::

    NEW --start--> RUNNING --begin_closing--> CLOSING --all settled, or the deadline--> CLOSED
     '-----------------------------begin_closing----------------------------------------^
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import anyio

from bucketeer_async._background import BackgroundTask, Progress, require_loop
from bucketeer_async._errors import ClosedError, ConfigurationError
from bucketeer_async._events._batch import Delivery, EventsApi
from bucketeer_async._events._collector import Collector
from bucketeer_async._events._counters import drain_report
from bucketeer_async._events._drop_listener import DropListener
from bucketeer_async._events._ledger import Ledger
from bucketeer_async._events._receipt import Receipt
from bucketeer_async._log import RateLimitedLog
from bucketeer_async._models import EventKind
from bucketeer_async._options import ProcessorConfig, Spool
from bucketeer_async._results import DrainReport, Drop, DroppedReason, EventCounts, Fate
from bucketeer_async._retry import Circuit, CircuitState

if TYPE_CHECKING:
    from bucketeer_async._events._spool_writer import Spooler

_PER_TURN: Final = 1000  # records settled between two turns of the loop
_CLOSING_PAUSE: Final = 1.0  # seconds; longest backoff of single events while closing
_TOLD_WITHIN: Final = 0.2  # seconds that the end of the drain waits for on_drop to have heard everything
#: Said in one line for all of them, or in a ResourceWarning.
_LEFT: Final = frozenset({DroppedReason.UNDELIVERED, DroppedReason.UNCONFIRMED, DroppedReason.ABANDONED})


class EventsLease(EventsApi, Protocol):
    """A hold on the connections of an `EventsClient`."""

    def release(self) -> None: ...


class EventsClient(Protocol):
    """What the pipeline needs of an API client."""

    async def start(self) -> None: ...
    def lease(self, begin_closing: Callable[[], None]) -> EventsLease: ...


def _spooler_for(spool: Spool, log: RateLimitedLog) -> Callable[..., Spooler]:
    try:
        from bucketeer_async._events._spool_writer import Spooler  # noqa: PLC0415 - loads SQLite, which most processes do not need
    except ImportError as error:
        raise ConfigurationError("ProcessorConfig.spool needs sqlite3, and this Python was built without it") from error
    return partial(Spooler, spool, log=log)


class State(Enum):
    """See the module."""

    NEW = "new"
    RUNNING = "running"
    CLOSING = "closing"
    CLOSED = "closed"


class Pipeline:
    """Takes records from the ledger to the gateway.

    Args:
        client: Where the connections come from.
        config: The processor's options.
        rng: Source of all jitter.
    """

    def __init__(self, client: EventsClient, config: ProcessorConfig, rng: random.Random) -> None:
        self._client = client
        self._config = config
        self._rng = rng
        self._logger = config.logger or logging.getLogger("bucketeer_async")
        self._log = RateLimitedLog(self._logger)
        self._listener = DropListener(config.on_drop, self._logger) if config.on_drop else None
        self.ledger = Ledger(
            capacity=config.queue_capacity,
            max_bytes=config.queue_max_bytes,
            overflow=config.overflow,
            lifetime=config.event_lifetime,
            on_lost=self._on_lost,
            on_due=self._on_due,
            on_settled=self._on_settled,
        )
        self.circuit = Circuit(config.retry, slots=config.num_flush_workers, rng=rng)
        self._new_spooler = _spooler_for(config.spool, self._log) if config.spool else None
        self.spooler: Spooler | None = None
        self.state = State.NEW
        self.delivery: Delivery | None = None
        self._collector: Collector | None = None
        self._host: BackgroundTask | None = None
        self._thread = 0
        self._clock: Callable[[], float] = lambda: 0.0
        self._lease: EventsLease | None = None
        self._progress = Progress()
        self._room = Progress()
        self._nudged = False
        self._scope: anyio.CancelScope | None = None
        self._deadline = math.inf
        self._closing_since = 0.0
        self._counts_at_closing: Mapping[EventKind, EventCounts] = {}
        self._report = DrainReport()

    # Life

    async def start(self) -> None:
        """Begin to accept and deliver; no effect while running.

        Raises:
            ClosedError: If it is closing or closed.
            WrongLoopError: If it was started on another event loop.
        """
        if self.state is State.NEW:
            self.state = State.RUNNING
            self._thread = threading.get_ident()
            loop = asyncio.get_running_loop()
            self._clock = loop.time
            collector = self._assemble()
            self.ledger.open(loop, self.spooler.keep if self.spooler else None)
            self._host = BackgroundTask(partial(self._live, collector), name="bucketeer-processor", owner="processor")
        if self._host is None or self.state is not State.RUNNING:
            raise ClosedError("the processor is closed; make a new one")
        try:
            await self._host.ready()
        except asyncio.CancelledError:
            self.begin_closing()  # half started: leave nothing behind
            raise

    def require_loop(self) -> None:
        """Do nothing on the loop that started the pipeline, or before that.

        Raises:
            WrongLoopError: On another loop.
        """
        if self._host is not None and asyncio.get_running_loop() is not self._host.loop:
            require_loop(self._host.loop, "processor")

    def begin_closing(self) -> None:
        """Refuse pushes and drain; no effect while closing or closed."""
        if self.state is State.NEW:
            self.state = State.CLOSED
        if self.state is not State.RUNNING:
            return
        self.state = State.CLOSING
        self.ledger.close()
        self._counts_at_closing = self.ledger.counts()
        now = self._closing_since = self._clock()
        if self.delivery is not None:
            self.delivery.longest_pause = _CLOSING_PAUSE
        if self._collector is not None:
            self._collector.close()
        self.circuit.hurry(now)
        self.ledger.unshelve(math.inf)
        self.limit_drain(self._config.drain_timeout)
        self._nudge()

    def limit_drain(self, timeout: float | None) -> None:
        """Let the drain take at most ``timeout`` seconds from now on; it only ever gets shorter."""
        if timeout is None:
            return
        self._deadline = min(self._deadline, self._clock() + timeout)
        if self._collector is not None:
            self._collector.end_by(self._deadline)
        if self._scope is not None:
            self._scope.deadline = self._deadline

    async def closed(self) -> DrainReport:
        """Wait for the end of the drain; a cancelled caller only stops waiting."""
        if self._host is not None:
            await self._host.join()
        return self._report

    async def _live(self, collector: Collector, ready: Callable[[], None]) -> None:
        try:
            if self.spooler is not None:
                await self.spooler.start()
            await self._client.start()
            ready()
            try:
                await self._pump(collector)
            except asyncio.CancelledError:
                # The loop is shutting down: asyncio.run() cancels every task once, and waits for it.
                self.begin_closing()
                await self._pump(collector)
                raise
        finally:
            await self._end()

    def _assemble(self) -> Collector:
        """Make the parts that need to know the loop and the connections."""
        config = self._config
        if self._new_spooler is not None:
            self.spooler = self._new_spooler(clock=self._clock)
        self._lease = self._client.lease(self.begin_closing)
        self.delivery = Delivery(
            self._lease,
            self.ledger,
            self.circuit,
            policy=config.retry,
            timeout=config.request_timeout,
            max_bytes=config.flush_max_bytes,
            clock=self._clock,
            rng=self._rng,
            log=self._log,
        )
        self._collector = Collector(
            self.ledger,
            self.circuit,
            self.delivery,
            config=config,
            clock=self._clock,
            on_flushed=self._nudge,
            logger=self._logger,
        )
        return self._collector

    async def _pump(self, collector: Collector) -> None:
        """Deliver until everything is settled after closing began, or until the deadline."""
        with anyio.CancelScope(deadline=self._deadline) as self._scope:
            async with anyio.create_task_group() as flush_tasks:
                if self.spooler is not None:
                    flush_tasks.start_soon(self.spooler.recover, self.ledger, self._progress)
                await collector.run(flush_tasks)
                flush_tasks.cancel_scope.cancel()

    async def _end(self) -> None:
        """Account for what is left; the last thing that the background task does."""
        self.begin_closing()  # a bug of ours, or connections that cannot be opened, come here while running
        try:
            if self.spooler is not None:
                await self.spooler.save(self.ledger.left())
            while self.ledger.write_off(_PER_TURN):  # noqa: ASYNC110 - work in slices, not waiting
                await asyncio.sleep(0)
        finally:
            self._conclude()
        if self.spooler is not None:
            await self.spooler.aclose()
        if self._listener is not None:
            await self._listener.aclose(_TOLD_WITHIN)

    def _conclude(self) -> None:
        """Settle whatever is still left, say so, and let everything go."""
        while self.ledger.write_off(_PER_TURN):
            pass
        self._report = drain_report(self._counts_at_closing, self.ledger.counts(), self._clock() - self._closing_since)
        self.state = State.CLOSED
        if self.spooler is not None:
            self.spooler.end()
        if self._lease is not None:
            self._lease.release()
        self._progress.notify()
        self._room.notify()
        left = self._report.total
        if left.undelivered or left.unconfirmed or left.spooled:
            self._logger.warning(
                "the drain ended after %.1f s: %d events were not delivered, %d not confirmed, %d spooled",
                self._report.duration,
                left.undelivered,
                left.unconfirmed,
                left.spooled,
            )

    # Watching

    def _on_due(self) -> None:
        """Wake the collector for records that were accepted. From any thread."""
        if self._collector is not None and threading.get_ident() == self._thread:
            self._collector.look_again()  # nobody else: a push settles nothing, and makes no room
        else:
            self._nudge()

    def _nudge(self) -> None:
        """Have the collector, and everybody who waits for progress, look again. From any thread."""
        if threading.get_ident() == self._thread:
            self._look_again()
        elif not self._nudged:
            self._nudged = True
            try:
                self.ledger.loop.call_soon_threadsafe(self._look_again)
            except RuntimeError:
                return  # the loop is closed: nobody is left to look

    def _look_again(self) -> None:
        self._nudged = False
        if self._collector is not None:
            self._collector.look_again()
        self._progress.notify()
        self._tell_of_room()

    def _tell_of_room(self) -> None:
        """Wake as many waiting pushes as there is room for; all of them at the end, to be refused."""
        running = self.state is State.RUNNING
        self._room.notify(max(0, self._config.queue_capacity - self.ledger.held) if running else None)

    def _on_settled(self, records: Sequence[Receipt]) -> None:
        if self.spooler is not None:
            self.spooler.forget(records)
        self._nudge()

    def _on_lost(self, record: Receipt) -> None:
        outcome = record.outcome
        assert outcome is not None  # noqa: S101 - a lost record is settled
        reason = outcome.reason or "rejected"
        if outcome.fate is Fate.REFUSED:
            self._log.report_warning(reason, "a %s event was refused (%s) %s", record.kind, reason, outcome.message)
        elif outcome.fate is Fate.DROPPED and reason not in _LEFT:
            self._log.report_warning(reason, "%s event %s was dropped (%s)", record.kind, record.event_id, reason)
        if self._listener is not None:
            self._listener.hear(Drop(record.kind, reason, record.event_id, outcome.message))

    async def flush(self, timeout: float | None) -> bool:
        """Send what waits, and wait until everything accepted before the call is settled; False after ``timeout``."""
        epoch = self.ledger.begin_epoch()
        if self._collector is not None:
            self._collector.flush(epoch)
        self._nudge()
        with anyio.move_on_after(timeout):
            while not self.ledger.has_settled_before(epoch):
                await self._progress.wait()
        return self.ledger.has_settled_before(epoch)

    async def room(self) -> None:
        """Send what waits, and wait until something was settled or closing began."""
        if self._collector is not None:
            self._collector.press()
        try:
            await self._room.wait()
        except asyncio.CancelledError:
            self._tell_of_room()  # it may have been woken for room that it does not take
            raise

    async def progress(self, timeout: float) -> None:
        """Wait until something was settled, at most ``timeout`` seconds."""
        with anyio.move_on_after(timeout):
            await self._progress.wait()

    def is_behind(self) -> bool:
        """Whether much waits though batches are on the way to a gateway that is well: pushes are faster than it."""
        return self.ledger.is_half_full() and self.circuit.posting > 0 and self.circuit.state is CircuitState.CLOSED

    def notice_lost_loop(self) -> None:
        """Account for the records if the loop was closed before the pipeline."""
        if self._host is not None and self._host.loop.is_closed() and self.state is not State.CLOSED:
            self.abandon()

    def abandon(self) -> None:
        """Account for the records of a pipeline whose loop is gone."""
        lost = self.ledger.abandon()
        if self.spooler is not None:
            self.spooler.end()
        if self._listener is not None:
            self._listener.close()
        if lost:
            self.state = State.CLOSED
            warnings.warn(
                f"a processor went away without aclose(): {lost} events were abandoned", ResourceWarning, stacklevel=2
            )

    def __del__(self) -> None:
        if getattr(self, "state", State.CLOSED) in {State.RUNNING, State.CLOSING}:
            self.abandon()
