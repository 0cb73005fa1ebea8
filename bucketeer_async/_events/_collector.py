"""Collector: forms batches of the waiting records, and hands each over to a free flush task when it is due.

Whether a batch may be sent is decided in `_circuit.py`, which suspect is next in `_quarantine.py`. Delivering a batch is
left to `_batch.py`.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from typing import Final

import anyio

from bucketeer_async._events._batch import Batch, Delivery
from bucketeer_async._events._circuit import Circuit, CircuitState
from bucketeer_async._events._ledger import Ledger
from bucketeer_async._events._quarantine import Part
from bucketeer_async._events._receipt import Receipt
from bucketeer_async._log import GuardedLogger
from bucketeer_async._options import ProcessorConfig

_PER_TURN: Final = 1000  # records handled between two turns of the loop
_AFTER_BUG: Final = 1.0  # seconds before the collector goes on after a bug of this package
_GROWING: Final = 0.05  # seconds; until its first event is so old a full batch may go on growing
_SHORTEST_PAUSE: Final = 0.001  # seconds; a timer may fire a little early, and must not be set again for nothing


class Collector:
    """Takes batches from the ledger, one after the other, while any waits.

    Args:
        ledger: Where the records wait.
        circuit: Says when a batch may leave.
        delivery: Delivers the batches.
        config: The processor's options.
        clock: Monotonic seconds.
        rng: The source of chance, for probes.
        wake: Set when the collector has to look again, for records that were accepted or settled.
        logger: Where bugs of this package are logged.
    """

    def __init__(
        self,
        ledger: Ledger,
        circuit: Circuit,
        delivery: Delivery,
        *,
        config: ProcessorConfig,
        clock: Callable[[], float],
        rng: random.Random,
        wake: asyncio.Event,
        logger: GuardedLogger,
    ) -> None:
        self._ledger = ledger
        self._circuit = circuit
        self._delivery = delivery
        self._config = config
        self._clock = clock
        self._wake = wake
        self._logger = logger
        self._rng = rng
        self._suspect_tasks = max(1, config.num_flush_workers // 2)
        self._suspects_went = False
        self._at_once = False
        self._flush_epoch = 0
        self._closing = False
        self._deadline = math.inf

    # These change what is due. All of them run on the loop.

    def send_at_once(self) -> None:
        """Make the next batch leave now, because a push waits for its room."""
        self._at_once = True
        self._wake.set()

    def flush(self, epoch: int) -> None:
        """Make what was accepted before the epoch leave now."""
        self._flush_epoch = epoch
        self._wake.set()

    def close(self) -> None:
        """Make everything that waits leave now, and end once everything is settled."""
        self._closing = True
        self._wake.set()

    def end_by(self, deadline: float) -> None:
        """While closing, do not wait for a gateway whose ``Retry-After`` lies beyond the deadline."""
        self._deadline = deadline
        self._wake.set()

    async def run(self, batches: asyncio.Queue[Batch]) -> None:
        """Collect until everything is settled after `close`, or nothing more can be before the deadline."""
        while not (self._closing and self._is_finished()):
            try:
                await self._step(batches)
            except Exception:
                self._logger.exception("a bug in the collector; it goes on")
                await asyncio.sleep(_AFTER_BUG)

    def _is_finished(self) -> bool:
        """Whether closing has nothing left to wait for."""
        hopeless = self._circuit.not_before > self._deadline and self._circuit.posting == 0
        return self._ledger.bounds.held == self._ledger.quarantine.hopeless() or hopeless

    async def _step(self, batches: asyncio.Queue[Batch]) -> None:
        """Do what is due; if nothing is, wait for it."""
        self._wake.clear()  # before any look: what is pushed or settled from here on wakes the collector again
        ledger, now = self._ledger, self._clock()
        if ledger.queue.next_due <= now:
            ledger.unshelve(now)
        try:
            oldest = ledger.queue.records[0]
        except IndexError:  # not asked before: another thread may displace the last record in between
            oldest = None
        if (
            oldest is not None and oldest._origin.pushed_at + self._config.event_lifetime <= now
        ) or ledger.quarantine.oldest + self._config.event_lifetime <= now:
            ledger.expire(now, _PER_TURN)
        elif (pause := self._pause(oldest, now)) > 0:
            with anyio.move_on_after(pause):
                await self._wake.wait()
            return
        elif batch := self._take_batch(oldest, now):
            # A flush task is free, for the circuit lets no more batches enter than there are flush tasks. So nothing
            # waits in this queue, and a record goes from queued to in flight in one step.
            batches.put_nowait(batch)
        await asyncio.sleep(0)

    def _take_batch(self, oldest: Receipt | None, now: float) -> Batch | None:
        """Take the next batch, for which the circuit is ready: a probe, the oldest records, or suspects."""
        ledger, circuit = self._ledger, self._circuit
        if circuit.state is CircuitState.OPEN:
            probe = ledger.take_probe(self._rng, circuit.opening, now)
            return None if probe is None else Batch(probe, circuit.enter(), is_probe=True)
        suspects_may_go = (
            ledger.quarantine.held > 0
            and ledger.quarantine.next_due() <= now
            and self._delivery.suspects_in_flight < self._suspect_tasks
        )
        is_due = self._until_due(oldest, self._enough(), now) <= 0
        if suspects_may_go and (not is_due or (self._config.num_flush_workers == 1 and not self._suspects_went)):
            self._suspects_went = True
            part = ledger.take_suspects(now)
            if part is not None:
                self._delivery.suspects_in_flight += 1
                return Batch(part, circuit.enter())
        self._suspects_went = False
        limit = self._delivery.limit
        max_bytes = limit.allowance(circuit.last_post) if limit.is_learnt else limit.value
        records = ledger.take(self._config.max_batch_size, max_bytes, now)
        if not records:
            return None
        self._at_once = False
        part = Part(records)
        if limit.is_learnt:
            limit.taken(part.size, circuit.last_post)
        return Batch(part, circuit.enter())

    def _pause(self, oldest: Receipt | None, now: float) -> float:
        """Return the seconds until there is something to do; 0 if a batch may leave now.

        What would shorten the pause wakes the collector: the end of a post, and pushes, by the ledger's watch. The
        watch is set before the looks that decide, so that no push goes unseen between the two.
        """
        ledger, bounds, config = self._ledger, self._ledger.bounds, self._config
        until_ready = self._circuit.wait(now)
        if until_ready == 0.0:
            until_half, enough = max(int(bounds.half_capacity) + 1 - bounds.held, 1), self._enough()
            waiting, least = len(ledger.queue.records), config.flush_size
            ledger.intake.watch(
                least if waiting < least else min(enough, waiting + until_half), self._delivery.limit.value
            )
            pause = self._until_due(oldest, enough, now)
            if self._circuit.state is CircuitState.OPEN and (oldest is not None or ledger.quarantine.held):
                return 0.0  # a probe takes whatever waits
            if ledger.quarantine.held and self._delivery.suspects_in_flight < self._suspect_tasks:
                pause = min(pause, ledger.quarantine.next_due() - now)
        else:
            ledger.intake.watch(math.inf, math.inf)  # no batch may leave anyway; the end of a post wakes the collector
            pause = math.inf if until_ready is None else until_ready
        if pause <= 0:
            return 0.0
        if oldest is not None:
            pause = min(pause, oldest._origin.pushed_at + config.event_lifetime - now)
        return max(min(pause, ledger.queue.next_due - now), _SHORTEST_PAUSE)

    def _enough(self) -> int:
        """Return the waiting records that make a batch leave at once.

        While other batches are on their way, it is as many as a batch can hold. But not when the queue is half full:
        pushes may be slowed down or refused then, and no batch would grow.
        """
        may_grow = self._circuit.posting > 0 and not self._ledger.bounds.is_half_full()
        return self._config.max_batch_size if may_grow else self._config.flush_size

    def _until_due(self, oldest: Receipt | None, enough: int, now: float) -> float:
        """Return the seconds until the next batch is due, whether or not it may leave."""
        if oldest is None:
            return math.inf
        queue, config = self._ledger.queue, self._config
        waiting = len(queue.records)
        at_once = (
            waiting >= enough
            or queue.body_bytes >= self._delivery.limit.value
            or self._closing
            or self._at_once
            or oldest._epoch < self._flush_epoch
            or oldest._suspicion is not None  # posted before
            or oldest._maybe_stored
        )
        if at_once:
            return 0.0
        patience = min(config.flush_interval, _GROWING) if waiting >= config.flush_size else config.flush_interval
        return oldest._origin.pushed_at + patience - now
