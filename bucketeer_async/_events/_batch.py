"""Delivery of batches: post a batch, read the response, split what was refused, settle or give back every record.

What an error means is decided in `_retry.py`, when a batch may be sent in `_circuit.py`. Forming batches is left to
`_collector.py`, keeping records that were given back to `_ledger.py` and `_quarantine.py`, the largest size of a batch to
`_limits.py`, and log lines to `_delivery_log.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Any, Final

from bucketeer_async._errors import ApiError, StatusError
from bucketeer_async._events._circuit import Circuit, Permit
from bucketeer_async._events._delivery_log import DeliveryLog, brief
from bucketeer_async._events._ledger import Ledger
from bucketeer_async._events._limits import ByteLimit
from bucketeer_async._events._quarantine import Part, suspicion_of
from bucketeer_async._events._receipt import Receipt
from bucketeer_async._log import GuardedLogger, RateLimitedLog
from bucketeer_async._options import ProcessorConfig
from bucketeer_async._results import Fate, Outcome
from bucketeer_async._retry import Action, Decision, backoff, decide, is_throttled
from bucketeer_async._transport._http import NeverSentError
from bucketeer_async._transport._lease import Lease
from bucketeer_async._transport._responses import RegisterEventsResponse

_MOST_SKEW: Final = 3600.0  # seconds that the clocks may differ; the gateway takes no event from further ahead
_SURELY_TAKEN: Final = 64 * 1024  # bytes that any sane limit lets through; what refuses less may refuse everything
_MAX_LONE_REFUSALS: Final = 3  # lone events refused, with nothing accepted since, before the gateway is suspected
_UNDECODABLE: Final = "proto:"  # how the gateway's message begins when it names the event's own fault


class Batch:
    """One batch that is being delivered: the parts still to post.

    Invariant: every unsettled record is in ``parts``, also while a post is awaited, and when a bug ends the delivery: a
    part is taken off only after its records were settled, shelved, or put in quarantine.

    Args:
        part: The events.
        permit: The circuit's permission to post.
        is_probe: Whether the batch probes whether the gateway is available again.
    """

    __slots__ = ("is_probe", "is_suspect", "parts", "permit", "resent", "unclear")

    def __init__(self, part: Part, permit: Permit, *, is_probe: bool = False) -> None:
        self.permit = permit
        self.is_probe = is_probe
        self.is_suspect = part.is_suspect
        self.parts = [part]
        self.resent = False
        self.unclear = 0  # parts that failed in a row, with no sign of whether the gateway is available


class Delivery:
    """Delivers batches, several at once; what one of them has learnt holds for all.

    Args:
        lease: Posts events.
        ledger: Settles records, or takes them back.
        circuit: Learns the result of every post.
        config: The processor's options.
        clock: Monotonic seconds.
        rng: Source of the jitter.
        on_flushed: Called when a flush task is free again.
        on_suspect: Called with every record that has failed alone although the gateway was available.
        logger: Where bugs of this package are logged.
        log: Where outages are logged, once each.

    Attributes:
        limit: Bytes of the events in one batch.
        longest_pause: Seconds of the longest backoff of single events; lowered when the processor closes.
        last_error: Error of the latest post that failed as a whole, without the words of the server.
        suspects_in_flight: Batches from the quarantine that are being delivered.
    """

    def __init__(
        self,
        lease: Lease,
        ledger: Ledger,
        circuit: Circuit,
        *,
        config: ProcessorConfig,
        clock: Callable[[], float],
        rng: random.Random,
        on_flushed: Callable[[], None],
        on_suspect: Callable[[Receipt], None],
        logger: GuardedLogger,
        log: RateLimitedLog,
    ) -> None:
        self._lease = lease
        self._ledger = ledger
        self._circuit = circuit
        self._config = config
        self._clock = clock
        self._rng = rng
        self._on_flushed = on_flushed
        self._on_suspect = on_suspect
        self._logger = logger
        self._log = DeliveryLog(log)
        self.limit = ByteLimit(config.flush_max_bytes)
        self.longest_pause = config.retry.maximum
        self._tasks: weakref.WeakSet[Any] = weakref.WeakSet()  # the flush tasks
        self.suspects_in_flight = 0
        self.last_error = ""
        self._lone_refusals = 0
        self._is_abandoned = False

    async def flush_batches(self, batches: asyncio.Queue[Batch]) -> None:
        """Deliver batches from the queue until cancelled: the work of one flush task."""
        self._tasks.add(asyncio.current_task())
        while True:
            batch = await batches.get()
            try:
                await self._deliver(batch)
            except (Exception, asyncio.CancelledError) as error:
                if self._is_abandoned:
                    raise  # what a request says that is ended without its loop is no bug
                if isinstance(error, asyncio.CancelledError) and _is_cancelled():
                    raise
                # A CancelledError that no caller asked for is a bug below; it would end the whole task group.
                self._logger.exception("a bug in a flush task; its events are kept and tried again")
                self._circuit.failed(batch.permit, Decision(action=Action.PAUSE), self._clock())
            finally:
                self._on_flushed()

    def abandon(self) -> None:
        """End the flush tasks of a loop that is closed, which would never run again.

        Left to the garbage collector, a task that waits in ``asyncio.Queue.get`` crashes some versions of CPython: it
        cancels a future there that may be cleared already.
        """
        self._is_abandoned = True
        for task in list(self._tasks):
            with contextlib.suppress(RuntimeError):  # a finally on the way may need the loop
                task.get_coro().close()

    async def _deliver(self, batch: Batch) -> None:
        """Deliver a batch; when this returns, or is cancelled, each record is settled or waits again."""
        try:
            while batch.parts:
                part = batch.parts[-1]
                # Waiting for a connection of this client's own pool is no failure of the gateway: it is not bounded by
                # a timeout, counts as no post, and a record that is cancelled meanwhile was never sent.
                async with self._lease.slots:
                    if not self._circuit.may_go_on(batch.permit, self._clock()):
                        return
                    error = await self._post(batch, part)
                if error is None:
                    batch.parts.pop()
                elif not await self._goes_on_after(error, batch, part):
                    return
        finally:
            self.give_back(batch)

    def give_back(self, batch: Batch) -> None:
        """End a batch; what is not settled waits again: suspects in quarantine, all others at the head of the queue."""
        for part in batch.parts:  # the last one is the next to be posted, so it comes to the head last
            records = [record for record in part.records if record.outcome is None]
            if not records:
                continue
            if not part.is_suspect and part.place is not None:
                self._ledger.put_at(records[0], part.place)
            elif not part.is_suspect:
                self._ledger.put_back(records)
            elif len(records) == 1 and records[0]._suspicion is not None and records[0]._suspicion.failures:
                self._ledger.put_alone(records[0])
            else:
                part.records = records
                self._ledger.put_in_quarantine(part)
        self.suspects_in_flight -= batch.is_suspect
        self._circuit.leave(batch.permit, self._clock())

    async def _post(self, batch: Batch, part: Part) -> ApiError | None:
        """Post a part, and settle its records; return the error of a post that failed as a whole."""
        records = part.records
        self._circuit.last_post += 1
        part.post = number = self._circuit.last_post
        with self._ledger.lock:  # statistics are consistent from any thread
            self._ledger.posts.requests += 1
            self._ledger.posts.events += len(records)
        try:
            # Not in a variable, which error trackers would keep.
            answer = await self._lease.register_events(
                [record._body for record in records], timeout=self._config.request_timeout
            )
            batch.resent = False
            self._circuit.succeeded(batch.permit, number)
            self._lone_refusals = 0
            if self._ledger.quarantine.is_postponed:
                self._ledger.quarantine.resume()
            if part.whole is not None or self.limit.is_learnt:
                self._note_size(part, part.size, number)
            self._read(records, answer)
        except ApiError as error:
            self.last_error = brief(error)
            return error
        except NeverSentError:
            raise  # the drain has ended, say, while the connection was being made
        except BaseException:
            _mark_maybe_stored(records)
            raise
        return None

    def _note_size(self, part: Part, size: int, number: int) -> None:
        """Learn from the size of an accepted part."""
        whole = part.whole
        if whole is not None:
            whole.taken += 1
            if whole.taken == 2 and not whole.failed:
                self.limit.refused(whole.size, number, self._circuit.last_post)
                return
        self.limit.accepted(size, number)

    # After an answer

    def _read(self, part: Sequence[Receipt], answer: RegisterEventsResponse) -> None:
        """Settle what the gateway took or rejected, and keep for later what it asks to send again."""
        self._log.accepted(self._ledger.bounds.held)
        if answer.server_time is not None:
            self._compare_clocks(answer.server_time)
        errors = answer.errors
        if not errors:
            self._ledger.settle(part)
            return
        delivered, again = [], []
        for record in part:
            error = errors.get(record.event_id)
            if error is None:
                delivered.append(record)
            elif error.retriable:
                again.append(record)
            else:
                self._reject([record], error.message)
        anomalies = len(errors.keys() - {record.event_id for record in part})
        with self._ledger.lock:
            self._ledger.posts.anomalies += anomalies
        self._ledger.settle(delivered)
        self._shelve(again)

    def _compare_clocks(self, server_time: float) -> None:
        """Warn if the times of events are far from the gateway's clock; the events stay as they are."""
        ahead = time.time() - server_time
        if abs(ahead) <= _MOST_SKEW:
            self._log.clocks_agree()
        else:
            self._log.clocks_differ(ahead)

    def _shelve(self, records: list[Receipt]) -> None:
        if not records:
            return
        suspicions = [suspicion_of(record, 0) for record in records]
        for suspicion in suspicions:
            suspicion.requests += 1
        pause = backoff(self._config.retry, max(each.requests for each in suspicions), self._rng)
        self._ledger.shelve(records, self._clock() + min(pause, self.longest_pause))

    def _reject(self, records: Sequence[Receipt], message: str) -> None:
        """Settle records that the gateway will never take."""
        for record in records:
            self._log.rejected(record, message)
        self._ledger.settle(records, Outcome(Fate.REJECTED, message=message))

    # After a failed post

    async def _goes_on_after(self, error: ApiError, batch: Batch, part: Part) -> bool:
        """Act on a failed post; return whether the batch goes on."""
        decision = decide(error)
        if decision.maybe_stored:
            _mark_maybe_stored(part.records)
        match decision.action:
            case Action.RESEND if not batch.resent:
                batch.resent = True
                return True
            case Action.SPLIT if len(part.records) > 1:
                self._split(batch, part, len(part.records) // 2)
                return True
            case Action.SPLIT_BYTES if len(part.records) > 1:
                self._split_by_bytes(batch, part)
                return True
            case Action.SPLIT | Action.SPLIT_BYTES:
                return self._refused_alone(error, batch, part)
        return await self._goes_on_after_outage(error, decision, batch, part)

    def _split(self, batch: Batch, part: Part, middle: int) -> None:
        """Halve a part, to find the event that the gateway refuses."""
        batch.parts[-1:] = part.cut(middle)

    def _split_by_bytes(self, batch: Batch, part: Part) -> None:
        """Halve a part that is too large, and remember the limit."""
        sizes = list(accumulate(len(record._body) for record in part.records))
        self.limit.refused(sizes[-1], part.post, self._circuit.last_post)
        middle = bisect_right(sizes, sizes[-1] // 2)
        self._split(batch, part, min(max(middle, 1), len(part.records) - 1))

    def _refused_alone(self, error: ApiError, batch: Batch, part: Part) -> bool:
        """Act on a bad request with one event: reject the event if it is surely the cause, else suspect it.

        A gateway that accepts nothing at all rejects nothing: after a few lone refusals the circuit opens.
        """
        record, now = part.records[0], self._clock()
        names_the_event = isinstance(error, StatusError) and error.detail.startswith(_UNDECODABLE)
        is_too_large = decide(error).action is Action.SPLIT_BYTES and len(record._body) > _SURELY_TAKEN
        suspicion = suspicion_of(record, self._circuit.last_post)
        self._ledger.quarantine.refused_alone(suspicion, self._circuit.last_post, now)
        if names_the_event or is_too_large:
            self._circuit.succeeded(batch.permit, 0)  # the gateway is well, though no post was accepted
            self._lone_refusals = 0
        elif not self._ledger.quarantine.is_guilty(suspicion, self._circuit.last_accepted, now):
            suspicion.opening = self._circuit.opening
            self._lone_refusals += 1
            part.is_suspect = True
            if batch.is_probe or self._lone_refusals >= _MAX_LONE_REFUSALS:
                self._pause(Decision(action=Action.PAUSE), error, batch.permit)
                return False
            self._put_alone(batch.parts.pop(), error)
            return True
        self._reject([record], (isinstance(error, StatusError) and error.detail) or str(error))
        batch.parts.pop()
        return True

    async def _goes_on_after_outage(self, error: ApiError, decision: Decision, batch: Batch, part: Part) -> bool:
        """Act on an outage, or on what looks like one: find out whether it is the gateway or the body."""
        before, part.failure = part.failure, self._circuit.last_post
        if not part.is_suspect:
            before = self._first_failure(part)
        is_well = bool(before) and self._circuit.last_accepted > before
        if batch.is_probe or decision.retry_after is not None or is_throttled(error):
            is_well = is_well and not batch.is_probe
            if not is_well:
                self._note_probe(part)
                self._pause(decision, error, batch.permit)
                return False
        if not is_well:
            if not self._circuit.may_check(batch.permit):
                return False  # another batch has found out, or is just finding out
            if part.is_suspect and len(part.records) == 1:
                is_well = True  # tried again after a pause in any case, it holds up nothing: no check is worth a post
            else:
                is_well = await self._check(error, decision, batch, part)
        if is_well:
            self._suspect(error, batch, part)
            batch.unclear = 0
            return True
        return part.is_suspect and self._circuit.may_go_on(batch.permit, self._clock()) and self._leave_unclear(batch)

    def _first_failure(self, part: Part) -> int:
        """Note that a part has failed; return the number of the latest post when it first failed, 0 if it had not."""
        first = 0
        for record in part.records:
            if record._suspicion is not None and record._suspicion.first_failure:
                first = max(first, record._suspicion.first_failure)
            suspicion_of(record, part.failure)
        return first

    def _note_probe(self, part: Part) -> None:
        """Note that records have failed during this opening of the circuit; a lone suspect may have had its last try."""
        for record in part.records:
            suspicion = suspicion_of(record, part.failure)
            suspicion.opening = self._circuit.opening
            if part.is_suspect and len(part.records) == 1:
                self._ledger.quarantine.note_try(suspicion)

    async def _check(self, error: ApiError, decision: Decision, batch: Batch, part: Part) -> bool:
        """Post one other record alone; return whether the gateway takes it. If not, the circuit opens.

        But not if a suspect part has to bear witness for itself, because no other record waits: a part of bad records
        alone says nothing about the gateway.
        """
        witness = self._ledger.take_witness(self._rng, self._clock())
        opens = witness is not None or not part.is_suspect
        index = -1
        if witness is None:
            if len(part.records) == 1:
                self._pause(decision, error, batch.permit)
                return False
            index = self._rng.randrange(len(part.records))
            witness = Part([part.records.pop(index)], is_suspect=part.is_suspect, failure=part.failure)
        batch.parts.append(witness)
        self._circuit.begin_check(batch.permit)
        async with self._lease.slots:
            failure = await self._post(batch, witness)
        if failure is None or self._names_the_event(failure, witness.records[0]):
            batch.parts.pop()
            self._circuit.end_check(batch.permit)
            return True
        if decide(failure).maybe_stored:
            _mark_maybe_stored(witness.records)
        witness.failure = self._circuit.last_post
        self._first_failure(witness)
        if opens:
            self._pause(decision, error, batch.permit)
            self._note_probe(witness)
        else:
            self._circuit.end_check(batch.permit)
        if index >= 0:
            batch.parts.pop()
            part.records.insert(index, witness.records[0])
        return False

    def _leave_unclear(self, batch: Batch) -> bool:
        """Go on with the other parts of a batch, which may show that the gateway is available; False if none is left."""
        batch.unclear += 1
        if batch.unclear < len(batch.parts):
            batch.parts.insert(0, batch.parts.pop())
            return True
        self._ledger.quarantine.postpone(self._clock())
        return False

    def _names_the_event(self, error: ApiError, record: Receipt) -> bool:
        """Reject a record whose own fault the gateway names; return whether it does."""
        if not (isinstance(error, StatusError) and error.detail.startswith(_UNDECODABLE)):
            return False
        if decide(error).action is not Action.SPLIT:
            return False
        self._reject([record], error.detail)
        return True

    def _suspect(self, error: ApiError, batch: Batch, part: Part) -> None:
        """Put a part that failed although the gateway is well in quarantine, or halve it there."""
        if not part.is_suspect:
            batch.parts.pop()
            self._ledger.put_in_quarantine(part)  # it is posted once more as it is: it may have failed for a moment
            self._log.quarantined(error, self._ledger.quarantine.held)
        elif len(part.records) > 1:
            self._split(batch, part, len(part.records) // 2)
        else:
            suspicion = suspicion_of(part.records[0], part.failure)
            self._ledger.quarantine.failed_alone(suspicion, part.failure, self._clock())
            self._put_alone(batch.parts.pop(), error)

    def _put_alone(self, part: Part, error: ApiError) -> None:
        self._ledger.put_alone(part.records[0])
        self._on_suspect(part.records[0])
        self._log.quarantined(error, self._ledger.quarantine.held)

    def _pause(self, decision: Decision, error: ApiError, permit: Permit) -> None:
        """Hold back every post."""
        self._circuit.failed(permit, decision, self._clock())
        self._log.outage(error, decision.pause_kind)


def _mark_maybe_stored(part: Iterable[Receipt]) -> None:
    for record in part:
        record._maybe_stored = True


def _is_cancelled() -> bool:
    """Whether this task was asked to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
