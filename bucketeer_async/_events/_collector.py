"""Makes batches of what waits in the ledger, each when it is due, and hosts the flush tasks that deliver them.

When a batch may leave is asked of the circuit; what becomes of it is left to `_events/_batch.py`.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from typing import Final

import anyio
from anyio.abc import TaskGroup

from bucketeer_async._events._batch import Delivery
from bucketeer_async._events._ledger import Ledger
from bucketeer_async._events._receipt import Receipt
from bucketeer_async._options import ProcessorConfig
from bucketeer_async._retry import Action, Circuit, Decision, Permit

_PER_TURN: Final = 1000  # records handled between two turns of the loop
_AFTER_BUG: Final = 1.0  # seconds before the collector goes on after a bug of ours
_GROWING: Final = 0.05  # seconds; until its first event is so old a full batch may go on growing
_SHORTEST_PAUSE: Final = 0.001  # seconds; a timer may fire a little early, and must not be set again for nothing


class Collector:
    """Takes batches from the ledger, one after the other, while there is something to take.

    Args:
        ledger: Where the records wait.
        circuit: Says when a batch may leave.
        delivery: Delivers a batch.
        config: The processor's options.
        clock: Monotonic seconds.
        on_flushed: Called when a flush task has ended.
        logger: Where bugs of ours are told.
    """

    def __init__(
        self,
        ledger: Ledger,
        circuit: Circuit,
        delivery: Delivery,
        *,
        config: ProcessorConfig,
        clock: Callable[[], float],
        on_flushed: Callable[[], None],
        logger: logging.Logger,
    ) -> None:
        self._ledger = ledger
        self._circuit = circuit
        self._delivery = delivery
        self._config = config
        self._clock = clock
        self._on_flushed = on_flushed
        self._logger = logger
        self._wake = asyncio.Event()
        self._pressed = False
        self._flush_epoch = 0
        self._closing = False
        self._deadline = math.inf

    def look_again(self) -> None:
        """Something has changed: look whether a batch is due. On the loop's own thread."""
        self._wake.set()

    def press(self) -> None:
        """Make what waits leave now, for somebody needs the room."""
        self._pressed = True
        self._wake.set()

    def flush(self, epoch: int) -> None:
        """Make what was accepted before the epoch leave now."""
        self._flush_epoch = epoch

    def close(self) -> None:
        """End once everything is settled, and make everything that waits leave now."""
        self._closing = True

    def end_by(self, deadline: float) -> None:
        """Once closing, do not wait for a gateway that asks to be left alone beyond the deadline."""
        self._deadline = deadline

    async def run(self, flush_tasks: TaskGroup) -> None:
        """Collect until everything is settled after `close`, or nothing can be before the deadline."""
        while not self._is_finished():
            try:
                await self._step(flush_tasks)
            except Exception:
                self._logger.exception("a bug in the collector; it goes on")
                await asyncio.sleep(_AFTER_BUG)

    def _is_finished(self) -> bool:
        if not self._closing:
            return False
        hopeless = self._circuit.not_before > self._deadline and self._circuit.posting == 0
        return self._ledger.held == 0 or hopeless

    async def _step(self, flush_tasks: TaskGroup) -> None:
        """Do what is due; if nothing is, wait for it."""
        self._wake.clear()  # before any look: a signal's push may come at any call, and must not be slept through
        now = self._clock()
        self._watch(now)
        self._ledger.unshelve(now)
        if self._ledger.expire(now, _PER_TURN):
            await asyncio.sleep(0)
            return
        pause = self._pause(now)
        if pause > 0:
            with anyio.move_on_after(pause):
                await self._wake.wait()
            return
        self._pressed = False
        batch = self._ledger.take(self._config.max_batch_size, self._delivery.max_bytes, now)
        if batch:
            flush_tasks.start_soon(self._flush, batch, self._circuit.enter())
        await asyncio.sleep(0)

    def _pause(self, now: float) -> float:
        """Seconds until there is something to do; 0 if a batch may leave now."""
        until_ready = self._circuit.wait(now)
        # What is due when a batch may leave again is looked at then; the end of a post wakes us.
        pause = math.inf if until_ready is None else until_ready or self._until_due(now)
        if pause <= 0:
            return 0.0
        oldest, next_due = self._ledger.oldest(), self._ledger.next_due()
        if oldest is not None:
            pause = min(pause, oldest.pushed_at + self._config.event_lifetime - now)
        if next_due is not None:
            pause = min(pause, next_due - now)
        return max(pause, _SHORTEST_PAUSE)

    def _enough(self) -> int:
        """Waiting records that make a batch leave at once: while others are on their way, as many as one can hold.

        But not when the queue is half full: then pushes may be slowed down or refused, and nothing would grow.
        """
        may_grow = self._circuit.posting > 0 and not self._ledger.is_half_full()
        return self._config.max_batch_size if may_grow else self._config.flush_size

    def _watch(self, now: float) -> None:
        """Be woken when so much waits that it changes what is due; not while no batch may leave anyway."""
        if self._circuit.wait(now) != 0.0:
            self._ledger.watch(math.inf, math.inf)
        else:
            waiting, least = self._ledger.waiting, self._config.flush_size
            until_half = waiting + max(self._ledger.until_half_full(), 1)
            self._ledger.watch(least if waiting < least else min(self._enough(), until_half), self._delivery.max_bytes)

    def _until_due(self, now: float) -> float:
        oldest = self._ledger.oldest()
        if oldest is None:
            return math.inf
        waiting = self._ledger.waiting
        at_once = (
            waiting >= self._enough()
            or self._ledger.waiting_bytes >= self._delivery.max_bytes
            or self._closing
            or self._pressed
            or oldest.epoch < self._flush_epoch
            or oldest.tries > 0
        )
        if at_once:
            return 0.0
        patience = self._config.flush_interval
        if waiting >= self._config.flush_size:
            patience = min(patience, _GROWING)
        return oldest.pushed_at + patience - now

    async def _flush(self, batch: list[Receipt], leave: Permit) -> None:
        try:
            await self._delivery.deliver(batch, leave)
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and _is_cancelled():
                raise
            # A CancelledError that nobody asked for is a bug below; in the task group it would end the whole pipeline.
            self._logger.exception("a bug in a flush task; its events are kept and tried again")
            self._circuit.failed(leave, Decision(action=Action.PAUSE), self._clock())
        finally:
            self._on_flushed()


def _is_cancelled() -> bool:
    """Whether somebody cancels this task."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
