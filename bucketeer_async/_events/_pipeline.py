"""Pipeline: the parts that take records from the ledger to the gateway, their start, and the drain.

All of it runs in the host task of a `Lifecycle`: a task group of one collector, which forms batches, an `asyncio.Queue`
of batches, and ``num_flush_workers`` flush tasks, which post them. The fate of a record is left to `_ledger.py`,
batches to `_collector.py` and `_batch.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio

from bucketeer_async._background import load_anyio
from bucketeer_async._errors import ClosedError, ConfigurationError
from bucketeer_async._events._batch import Batch, Delivery
from bucketeer_async._events._bounds import Bounds
from bucketeer_async._events._circuit import Circuit, CircuitState
from bucketeer_async._events._collector import Collector
from bucketeer_async._events._counters import drain_report
from bucketeer_async._events._ledger import Ledger
from bucketeer_async._events._losses import LossReporter
from bucketeer_async._events._receipt import Receipt
from bucketeer_async._events._wakeups import Wakeups
from bucketeer_async._lifecycle import Lifecycle, State
from bucketeer_async._log import GuardedLogger, RateLimitedLog
from bucketeer_async._models import EventKind
from bucketeer_async._options import ProcessorConfig, Spool
from bucketeer_async._results import DrainReport, EventCounts
from bucketeer_async._transport._api import ApiClient
from bucketeer_async._transport._lease import Lease

if TYPE_CHECKING:
    from bucketeer_async._events._spool_writer import Spooler

_PER_TURN: Final = 1000  # records settled between two turns of the loop
_CLOSING_PAUSE: Final = 1.0  # seconds; longest backoff of single events while closing


class Pipeline:
    """The delivery of one processor's events, in one process.

    Args:
        client: Where the connections come from.
        config: The processor's options.
        rng: Source of all jitter.
        mode: How the client that the processor is a part of evaluates flags; "" for a processor by itself.
        inherited: The lives of the processor in the processes from which this one was forked.
        on_circuit: Called with the latest error, in words, when the circuit opens, and with "" when it is closed again.

    Attributes:
        life: State, start and end.
        ledger: The records.
        circuit: Lets batches leave, or holds them back.
        spooler: Keeps events on disk; None without a spool, and before the start.
        delivery: Posts batches; None before the start.
    """

    def __init__(
        self,
        client: ApiClient,
        config: ProcessorConfig,
        rng: random.Random,
        mode: str = "",
        inherited: Iterable[Lifecycle] = (),
        *,
        on_circuit: Callable[[str], None] | None = None,
    ) -> None:
        self._client: ApiClient | None = client  # None once the pipeline is abandoned
        self._config = config
        self._rng = rng
        self._mode = mode
        self._owner = "client" if mode else "processor"
        self._on_circuit = on_circuit
        self._logger = GuardedLogger(config.logger)
        self._log = RateLimitedLog(self._logger)
        self._losses = LossReporter(config.on_drop, self._logger, self._log)
        self._wakeups = Wakeups(self._room)
        self.life = Lifecycle(
            "processor",
            task_name="bucketeer-processor",
            prepare=self._prepare,
            run=self._pump,
            finish=self._finish,
            conclude=self._conclude,
            on_closing=self._begin_drain,
            inherited=inherited,
        )
        self.ledger = Ledger(
            Bounds(config.queue_capacity, config.queue_max_bytes, config.overflow),
            lifetime=config.event_lifetime,
            window=config.evaluation_window,
            on_lost=self._losses.report,
            on_due=self._wakeups.due,
            on_settled=self._on_settled,
            not_started=self.life.not_started,
        )
        self.circuit = Circuit(config.retry, slots=config.num_flush_workers, rng=rng, on_change=self._on_circuit_change)
        self._new_spooler = _spooler_for(config.spool, self._log) if config.spool else None
        self.spooler: Spooler | None = None
        self.delivery: Delivery | None = None
        self._collector: Collector | None = None
        self._lease: Lease | None = None
        self._clock: Callable[[], float] = lambda: 0.0
        self._scope: anyio.CancelScope | None = None
        self._is_pumped = False
        self._is_concluded = False
        self._deadline = math.inf
        self._closing_since = 0.0
        self._counts_at_closing: Mapping[EventKind, EventCounts] = {}
        self._report: DrainReport | None = None

    # Life

    async def start(self) -> None:
        """Begin to accept and deliver; no effect while running.

        Raises:
            ClosedError: If it is closing or closed.
            WrongLoopError: If it was started on another event loop.
        """
        if self.life.state is State.NEW:
            self._clock = asyncio.get_running_loop().time
        await self.life.start()

    def limit_drain(self, timeout: float | None) -> None:
        """Let the drain take at most ``timeout`` seconds from now on, once there is one; it only ever gets shorter."""
        if timeout is None:
            return
        self._deadline = min(self._deadline, self._clock() + timeout)
        if self.life.state is State.CLOSING:
            self._set_deadline()

    def _set_deadline(self) -> None:
        if self._collector is not None:
            self._collector.end_by(self._deadline)
        if self._scope is not None:
            self._scope.deadline = self._deadline

    async def closed(self) -> DrainReport:
        """Wait for the end of the drain; a cancelled caller only stops waiting."""
        await self.life.closed()
        self._report = self._report or DrainReport()
        return self._report

    async def _prepare(self) -> None:
        """Make the parts that need the loop and the connections, and open the ledger for pushes."""
        loop, config, client = asyncio.get_running_loop(), self._config, self._client
        assert client is not None  # noqa: S101 - an abandoned pipeline is closed
        self._wakeups.bind(loop)
        self._lease = client.lease(self.life.begin_closing)
        await load_anyio()
        if self._new_spooler is not None:
            self.spooler = self._new_spooler(clock=self._clock)
            try:
                await self.spooler.start()
            except ClosedError:
                self.spooler = None  # it has no thread
                raise
        await client.start()
        self.delivery = Delivery(
            self._lease,
            self.ledger,
            self.circuit,
            config=config,
            clock=self._clock,
            rng=self._rng,
            on_flushed=self._wakeups.notify,
            on_suspect=self.spooler.suspect if self.spooler else lambda _record: None,
            logger=self._logger,
            log=self._log,
        )
        self._collector = Collector(
            self.ledger,
            self.circuit,
            self.delivery,
            config=config,
            clock=self._clock,
            rng=self._rng,
            wake=self._wakeups.collector,
            logger=self._logger,
        )
        self.ledger.intake.open(loop, self.spooler.keep if self.spooler else None)
        mode = f"; {self._mode}" if self._mode else ""
        self._logger.info("the %s has started: %s, tag %r%s", self._owner, client.endpoint, config.tag, mode)

    async def _pump(self) -> None:
        """Deliver until everything is settled after closing began, or until the deadline."""
        if self._collector is None or self.delivery is None or self._is_pumped:
            return  # closed while starting, or done before
        batches: asyncio.Queue[Batch] = asyncio.Queue()
        deadline = self._deadline if self.life.state is State.CLOSING else math.inf
        try:
            with anyio.CancelScope(deadline=deadline) as self._scope:
                async with anyio.create_task_group() as tasks:
                    for _ in range(self._config.num_flush_workers):
                        tasks.start_soon(self.delivery.flush_batches, batches)
                    if self.spooler is not None:
                        tasks.start_soon(self.spooler.recover, self.ledger, self._wakeups.progress)
                    await self._collector.run(batches)
                    tasks.cancel_scope.cancel()
            self._is_pumped = True
        finally:
            while not batches.empty():  # cancelled between a batch's way in and its flush task's next step
                self.delivery.give_back(batches.get_nowait())

    def _begin_drain(self) -> None:
        """Refuse pushes, and have everything that waits leave; called once, when closing begins."""
        self.ledger.intake.close()
        self._counts_at_closing = self.ledger.counts()
        self._closing_since = self._clock()
        self.circuit.hurry(self._closing_since)
        self.ledger.unshelve(math.inf)
        self.ledger.quarantine.close()
        if self.delivery is not None:
            self.delivery.longest_pause = _CLOSING_PAUSE
        if self._collector is not None:
            self._collector.close()
        self.limit_drain(self._config.drain_timeout)
        self._set_deadline()
        self._wakeups.notify()

    async def _finish(self) -> None:
        """Account for what is left; the last thing that the host task does."""
        await self._pump()  # not done yet if the host was cancelled, as asyncio.run() does in the end
        if self.spooler is not None:
            await self.spooler.save(self.ledger.left())
        while self.ledger.write_off(_PER_TURN):  # noqa: ASYNC110 - work in slices, not waiting
            await asyncio.sleep(0)
        self._conclude()
        if self.spooler is not None:
            await self.spooler.aclose()
        await self._losses.aclose()

    def _conclude(self) -> None:
        """Settle whatever is still left, make the report, and let the connections go; no effect the second time."""
        if self._is_concluded:
            return
        self._is_concluded = True
        try:
            while self.ledger.write_off(_PER_TURN):
                pass
            duration = self._clock() - self._closing_since
            self._report = drain_report(self._counts_at_closing, self.ledger.counts(), duration)
            if self.spooler is not None:
                self.spooler.end()
        finally:
            if self._lease is not None:
                self._lease.release()  # the API client waits for it
            self._wakeups.notify()
        if self.delivery is not None:
            self._losses.report_drain(self._report, self._owner)

    def _on_circuit_change(self) -> None:
        if self._on_circuit is None or self.delivery is None:
            return
        is_closed = self.circuit.state is CircuitState.CLOSED
        self._on_circuit("" if is_closed else self.delivery.last_error or "a post has failed")

    # What callers wait for

    def _room(self) -> int | None:
        return self.ledger.bounds.room if self.life.state is State.RUNNING else None

    def _on_settled(self, records: Sequence[Receipt]) -> None:
        if self.spooler is not None:
            self.spooler.forget(records)
        self._wakeups.changed()

    async def flush(self, timeout: float | None) -> bool:
        """Send what waits, and wait until everything accepted before the call is settled; False after ``timeout``."""
        epoch, post = self.ledger.begin_epoch(), self.circuit.last_post
        self.ledger.try_suspects_at_once()
        if self._collector is not None:
            self._collector.flush(epoch)
        with anyio.move_on_after(timeout):
            while not self.ledger.has_settled_before(epoch):
                if self.ledger.only_suspects_left_before(epoch, post):
                    break  # each of them has failed alone since the call: it would not be the last time
                await self._wakeups.progress.wait()
        return self.ledger.has_settled_before(epoch)

    async def wait_for_room(self) -> None:
        """Send what waits, and wait until there may be room for one more event, or closing has begun."""
        if self._collector is not None:
            self._collector.send_at_once()
        await self._wakeups.wait_for_room()

    def leave_room(self) -> None:
        """Have the next waiting push look for room, because one that waited was refused."""
        self._wakeups.leave_room()

    def is_behind(self) -> bool:
        """Whether batches are on their way to a gateway that is well: if much waits, pushes are faster than it."""
        return self.circuit.posting > 0 and self.circuit.state is CircuitState.CLOSED

    async def progress(self, timeout: float) -> None:
        """Wait until something was settled, at most ``timeout`` seconds."""
        with anyio.move_on_after(timeout):
            await self._wakeups.progress.wait()

    # A loop that is gone

    def notice_lost_loop(self) -> None:
        """Account for the records if the loop was closed before the pipeline."""
        loop = self.life.loop
        if loop is not None and loop.is_closed() and self.life.is_under_way():
            self._abandon()

    def _abandon(self) -> None:
        """Account for the records of a pipeline that will never run again, and let everything go."""
        lost = self.ledger.abandon()
        if self.spooler is not None:
            self.spooler.end()
        self._losses.close()
        if self.delivery is not None:
            self.delivery.abandon()
        if self._lease is not None:
            with contextlib.suppress(RuntimeError):  # a caller may wait for it on the loop that is gone
                self._lease.release()
        self._client = self._lease = self.delivery = self._collector = self._on_circuit = None
        self.life.abandon()
        if lost:
            self._logger.warning("a processor went away without aclose(): %d events were abandoned", lost)
            warnings.warn(
                f"a processor went away without aclose(): {lost} events were abandoned", ResourceWarning, stacklevel=2
            )

    def __del__(self) -> None:
        life = getattr(self, "life", None)  # there is none if the constructor has raised
        if life is not None and life.is_under_way():
            self._abandon()


def _spooler_for(spool: Spool, log: RateLimitedLog) -> Callable[..., Spooler]:
    try:
        from bucketeer_async._events._spool_writer import Spooler  # noqa: PLC0415 - loads SQLite, which few need
    except ImportError as error:
        raise ConfigurationError("ProcessorConfig.spool needs sqlite3, and this Python was built without it") from error
    return partial(Spooler, spool, log=log)
