"""One life of the event pipeline: the collector that makes batches, the flush tasks under it, and the drain.

All of it runs in one background task, so that it does not matter which tasks start and close it. What becomes of a
record is left to `_ledger.py`, what an answer means to `_delivery.py` and `_retry.py`.

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
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Final, Protocol

import anyio
from anyio.abc import TaskGroup

from bucketeer_async._background import BackgroundTask, Progress, require_loop
from bucketeer_async._counting import drain_report
from bucketeer_async._delivery import Delivery, EventsApi
from bucketeer_async._errors import ClosedError
from bucketeer_async._ledger import Ledger
from bucketeer_async._listener import DropListener
from bucketeer_async._models import DrainReport, Drop, DroppedReason, EventCounts, EventKind, Fate
from bucketeer_async._options import ProcessorConfig
from bucketeer_async._records import Receipt
from bucketeer_async._retry import Action, Circuit, CircuitState, Decision, Pass
from bucketeer_async._trouble import TroubleLog

_PER_TURN: Final = 1000  # records handled between two turns of the loop
_CLOSING_PAUSE: Final = 1.0  # seconds; longest backoff of single events while closing
_TOLD_WITHIN: Final = 0.2  # seconds that the end of the drain waits for on_drop to have heard everything
_AFTER_BUG: Final = 1.0  # seconds before the collector goes on after a bug of ours
_SHORTEST_PAUSE: Final = 0.001  # seconds; a timer may fire a little early, and must not be set again for nothing
_LEFT: Final = frozenset({DroppedReason.UNDELIVERED, DroppedReason.UNCONFIRMED})


class EventsLease(EventsApi, Protocol):
    """A hold on the connections of an `EventsClient`."""

    def release(self) -> None: ...


class EventsClient(Protocol):
    """What the pipeline needs of an API client."""

    async def start(self) -> None: ...
    def lease(self, begin_closing: Callable[[], None]) -> EventsLease: ...


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
        self._log = TroubleLog(self._logger)
        self._listener = DropListener(config.on_drop, self._logger) if config.on_drop else None
        self.ledger = Ledger(
            capacity=config.queue_capacity,
            max_bytes=config.queue_max_bytes,
            overflow=config.overflow,
            lifetime=config.event_lifetime,
            on_lost=self._on_lost,
            on_accepted=self._on_accepted,
            on_settled=self._on_settled,
        )
        self.circuit = Circuit(config.retry, slots=config.num_flush_workers, rng=rng)
        self.state = State.NEW
        self.delivery: Delivery | None = None
        self._host: BackgroundTask | None = None
        self._thread = 0
        self._clock: Callable[[], float] = lambda: 0.0
        self._lease: EventsLease | None = None
        self._wake = asyncio.Event()
        self._progress = Progress()
        self._nudged = False
        self._flush_epoch = 0
        self._pressed = False
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
            self.ledger.open(loop)
            self._host = BackgroundTask(self._live, name="bucketeer-processor", owner="processor")
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
        if self._host is not None:
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
        self.circuit.hurry(now)
        self.ledger.unshelve(math.inf)
        self.limit_drain(self._config.drain_timeout)
        self._nudge()

    def limit_drain(self, timeout: float | None) -> None:
        """Let the drain take at most ``timeout`` seconds from now on; it only ever gets shorter."""
        if timeout is None:
            return
        self._deadline = min(self._deadline, self._clock() + timeout)
        if self._scope is not None:
            self._scope.deadline = self._deadline

    async def closed(self) -> DrainReport:
        """Wait for the end of the drain; a cancelled caller only stops waiting."""
        if self._host is not None:
            await self._host.join()
        return self._report

    async def _live(self, ready: Callable[[], None]) -> None:
        try:
            await self._open_connections()
            ready()
            try:
                await self._pump()
            except asyncio.CancelledError:
                # The loop is shutting down: asyncio.run() cancels every task once, and waits for it.
                self.begin_closing()
                await self._pump()
                raise
        finally:
            await self._end()

    async def _open_connections(self) -> None:
        await self._client.start()
        self._lease = self._client.lease(self.begin_closing)
        config = self._config
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

    async def _pump(self) -> None:
        """Deliver until everything is settled after closing began, or until the deadline."""
        with anyio.CancelScope(deadline=self._deadline) as self._scope:
            async with anyio.create_task_group() as flush_tasks:
                await self._collect(flush_tasks)
                flush_tasks.cancel_scope.cancel()

    async def _end(self) -> None:
        """Account for what is left; the last thing that the background task does."""
        self.begin_closing()  # a bug of ours, or connections that cannot be opened, come here while running
        try:
            while self.ledger.write_off(_PER_TURN):  # noqa: ASYNC110 - work in slices, not waiting
                await asyncio.sleep(0)
        finally:
            while self.ledger.write_off(_PER_TURN):
                pass
            self._report = drain_report(
                self._counts_at_closing, self.ledger.counts(), self._clock() - self._closing_since
            )
            self.state = State.CLOSED
            if self._lease is not None:
                self._lease.release()
            self._progress.notify()
        if not self._report.complete:
            left = self._report.total
            self._logger.warning(
                "the drain ended after %.1f s: %d events were not delivered, %d not confirmed",
                self._report.duration,
                left.undelivered,
                left.unconfirmed,
            )
        if self._listener is not None:
            await self._listener.aclose(_TOLD_WITHIN)

    # Collecting

    async def _collect(self, flush_tasks: TaskGroup) -> None:
        while not self._is_finished():
            try:
                await self._step(flush_tasks)
            except Exception:
                self._logger.exception("a bug in the collector; it goes on")
                await asyncio.sleep(_AFTER_BUG)

    def _is_finished(self) -> bool:
        if self.state is not State.CLOSING:
            return False
        hopeless = self.circuit.not_before > self._deadline and self.circuit.posting == 0
        return self.ledger.held == 0 or hopeless

    async def _step(self, flush_tasks: TaskGroup) -> None:
        """Do what is due; if nothing is, wait for it."""
        now = self._clock()
        self.ledger.unshelve(now)
        if self.ledger.expire(now, _PER_TURN):
            await asyncio.sleep(0)
            return
        pause = self._pause(now)
        if pause > 0:
            self._wake.clear()
            with anyio.move_on_after(pause):
                await self._wake.wait()
            return
        self._pressed = False
        assert self.delivery is not None  # noqa: S101 - made before the collector runs
        batch = self.ledger.take(self._config.max_batch_size, self.delivery.max_bytes)
        if batch:
            flush_tasks.start_soon(self._flush, self.delivery, batch, self.circuit.enter())
        await asyncio.sleep(0)

    def _pause(self, now: float) -> float:
        """Seconds until there is something to do; 0 if a batch may leave now."""
        until_due, until_ready = self._until_due(now), self.circuit.wait(now)
        pause = max(until_due, math.inf if until_ready is None else until_ready)
        if pause <= 0:
            return 0.0
        oldest, next_due = self.ledger.oldest(), self.ledger.next_due()
        if oldest is not None:
            pause = min(pause, oldest.pushed_at + self._config.event_lifetime - now)
        if next_due is not None:
            pause = min(pause, next_due - now)
        return max(pause, _SHORTEST_PAUSE)

    def _until_due(self, now: float) -> float:
        oldest = self.ledger.oldest()
        if oldest is None:
            return math.inf
        at_once = (
            self.ledger.waiting >= self._config.flush_size
            or self._is_heavy()
            or self.state is State.CLOSING
            or self._pressed
            or oldest.epoch < self._flush_epoch
            or oldest.tries > 0
        )
        return 0.0 if at_once else oldest.pushed_at + self._config.flush_interval - now

    def _is_heavy(self) -> bool:
        limit = self._config.flush_max_bytes if self.delivery is None else self.delivery.max_bytes
        return self.ledger.waiting_bytes >= limit

    async def _flush(self, delivery: Delivery, batch: list[Receipt], leave: Pass) -> None:
        try:
            await delivery.deliver(batch, leave)
        except Exception:
            self._logger.exception("a bug in a flush task; its events are kept and tried again")
            self.circuit.failed(leave, Decision(action=Action.PAUSE), self._clock())
        finally:
            self._nudge()

    # Watching

    def _on_accepted(self, waiting: int) -> None:
        """Wake the collector if a record that was accepted changes what is due. From any thread."""
        if waiting == 1 or waiting >= self._config.flush_size or self._is_heavy():
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
        self._wake.set()
        self._progress.notify()

    def _on_settled(self) -> None:
        self._nudge()

    def _on_lost(self, record: Receipt) -> None:
        outcome = record.outcome
        assert outcome is not None  # noqa: S101 - a lost record is settled
        reason = outcome.reason or "rejected"
        if outcome.fate is Fate.REFUSED:
            self._log.lost(reason, "a %s event was refused (%s) %s", record.kind, reason, outcome.message)
        elif outcome.fate is Fate.DROPPED and reason not in _LEFT:
            self._log.lost(reason, "%s event %s was dropped (%s)", record.kind, record.event_id, reason)
        if self._listener is not None:
            self._listener.hear(Drop(record.kind, reason, record.event_id, outcome.message))

    async def flush(self, timeout: float | None) -> bool:  # noqa: ASYNC109 - running out is an answer here
        """Send what waits, and wait until everything accepted before the call is settled; False after ``timeout``."""
        mark = self.ledger.mark()
        self._flush_epoch = mark.epoch
        self._nudge()
        try:
            with anyio.move_on_after(timeout):
                while mark.remaining > 0:
                    await self._progress.wait()
            return mark.remaining <= 0
        finally:
            self.ledger.unmark(mark)

    async def room(self) -> None:
        """Send what waits, and wait until something was settled or closing began."""
        self._pressed = True
        self._wake.set()
        await self._progress.wait()

    async def progress(self, timeout: float) -> None:  # noqa: ASYNC109 - running out is no error here
        """Wait until something was settled, at most ``timeout`` seconds."""
        with anyio.move_on_after(timeout):
            await self._progress.wait()

    def is_delivering(self) -> bool:
        """Whether batches are on the way to a gateway that is well."""
        return self.circuit.posting > 0 and self.circuit.state is CircuitState.CLOSED

    def notice_lost_loop(self) -> None:
        """Account for the records if the loop was closed before the pipeline."""
        if self._host is not None and self._host.loop.is_closed() and self.state is not State.CLOSED:
            self.abandon()

    def abandon(self) -> None:
        """Account for the records of a pipeline whose loop is gone."""
        lost = self.ledger.abandon()
        if lost:
            self.state = State.CLOSED
            warnings.warn(
                f"a processor went away without aclose(): {lost} events were abandoned", ResourceWarning, stacklevel=2
            )

    def __del__(self) -> None:
        if getattr(self, "state", State.CLOSED) in {State.RUNNING, State.CLOSING}:
            self.abandon()
