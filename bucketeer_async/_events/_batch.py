"""Delivery of batches: post a batch, read the answer, split what was refused, settle or give back every record.

What an answer means is decided in `_retry.py`, when a batch may leave in `_circuit.py`. How batches are formed, and what
happens to records that were given back, is left to `_collector.py` and `_ledger.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import time
import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Any, Final

from bucketeer_async._errors import ApiError, StatusError
from bucketeer_async._events._circuit import Circuit, Permit
from bucketeer_async._events._ledger import Ledger
from bucketeer_async._events._receipt import Receipt
from bucketeer_async._log import RateLimitedLog
from bucketeer_async._options import ProcessorConfig
from bucketeer_async._results import Fate, Outcome
from bucketeer_async._retry import Action, Decision, PauseKind, backoff, decide
from bucketeer_async._transport._api import Lease
from bucketeer_async._transport._responses import RegisterEventsResponse

_TOPIC: Final = "delivery"
_AGAIN: Final = 600.0  # seconds between two log lines about one outage
_CLOCK_TOPIC: Final = "clock"
_MOST_SKEW: Final = 3600.0  # seconds that the clocks may differ; the gateway takes no event from further ahead
_SMALLEST_LIMIT: Final = 1024  # bytes; a server that refuses even this is not refusing for the size
_SURELY_TAKEN: Final = 64 * 1024  # bytes that any sane limit lets through; what refuses less may refuse everything
_MAX_SUSPECTS: Final = 3  # lone events refused in one batch before the gateway itself is suspected
_UNDECODABLE: Final = "proto:"  # how the gateway's message begins when it names the event's own fault


class Batch:
    """One batch that is being delivered: the parts still to post, and the lone events under suspicion.

    Invariant: every unsettled record is in ``parts`` or in ``suspects``, also while a post is awaited, and when a bug
    ends the delivery: a part is taken off only after its records were settled or shelved.

    Args:
        records: The events, the oldest first.
        permit: The circuit's permission to post.
    """

    __slots__ = ("delivered_before", "limit_before", "parts", "permit", "resent", "suspects")

    def __init__(self, records: list[Receipt], permit: Permit) -> None:
        self.permit = permit
        self.parts = [records]
        self.suspects: list[tuple[Receipt, ApiError]] = []
        self.limit_before = 0  # the limit of bytes when the delivery began
        self.delivered_before = -1  # the ledger's count when the first part was refused; -1: none was
        self.resent = False

    def unsettled(self) -> list[Receipt]:
        """Return what goes back to the queue, in its order.

        The suspects come last: otherwise the next batch would meet them first, and blame the gateway again.
        """
        parts = [record for part in reversed(self.parts) for record in part]
        return [record for record in [*parts, *(suspect for suspect, _ in self.suspects)] if record.outcome is None]


class Delivery:
    """Delivers batches, several at once; what one of them has learnt holds for all.

    Args:
        lease: Posts events.
        ledger: Settles records, or takes them back.
        circuit: Is told the result of every post.
        config: The processor's options.
        clock: Monotonic seconds.
        rng: Source of the jitter.
        on_flushed: Called when a flush task is free again.
        logger: Where bugs of this package are logged.
        log: Where outages are logged, once each.

    Attributes:
        max_bytes: Bytes of the events in one batch: as configured, or less once the gateway has refused more.
        longest_pause: Seconds of the longest backoff of single events; lowered when the processor closes.
        posts: Requests sent.
        posted_events: Events in those requests.
        protocol_anomalies: Ids in answers that were not in the request.
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
        logger: logging.Logger,
        log: RateLimitedLog,
    ) -> None:
        self._lease = lease
        self._ledger = ledger
        self._circuit = circuit
        self._config = config
        self._clock = clock
        self._rng = rng
        self._on_flushed = on_flushed
        self._logger = logger
        self._log = log
        self.max_bytes = config.flush_max_bytes
        self.longest_pause = config.retry.maximum
        self._tasks: weakref.WeakSet[Any] = weakref.WeakSet()  # the flush tasks
        self.posts = 0
        self.posted_events = 0
        self.protocol_anomalies = 0

    async def flush_batches(self, batches: asyncio.Queue[Batch]) -> None:
        """Deliver batches from the queue until cancelled: the work of one flush task."""
        self._tasks.add(asyncio.current_task())
        while True:
            batch = await batches.get()
            try:
                await self._deliver(batch)
            except (Exception, asyncio.CancelledError) as error:
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
        for task in list(self._tasks):
            with contextlib.suppress(RuntimeError):  # a finally on the way may need the loop
                task.get_coro().close()

    async def _deliver(self, batch: Batch) -> None:
        """Deliver a batch; when this returns, or is cancelled, each record is settled or back in the queue."""
        batch.limit_before = self.max_bytes
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
                elif not self._goes_on_after(error, batch, part):
                    return
            if batch.suspects:
                self._judge_suspects(batch)
        finally:
            self.give_back(batch)

    def give_back(self, batch: Batch) -> None:
        """End a batch; what is not settled goes back to the queue."""
        if batch.parts or batch.suspects:
            self._ledger.put_back(batch.unsettled())
        self._circuit.leave(batch.permit, self._clock())

    async def _post(self, batch: Batch, part: Sequence[Receipt]) -> ApiError | None:
        """Post a part, and settle its records; return the error of a post that failed as a whole."""
        self.posts += 1
        self.posted_events += len(part)
        try:
            answer = await self._lease.register_events(
                [record._body for record in part], timeout=self._config.request_timeout
            )
            batch.resent = False
            self._read(part, answer, batch.permit)
        except ApiError as error:
            return error
        except BaseException:
            _mark_maybe_stored(part)
            raise
        return None

    # After an answer

    def _read(self, part: Sequence[Receipt], answer: RegisterEventsResponse, permit: Permit) -> None:
        """Settle what the gateway took or rejected, and keep for later what it asks to send again."""
        self._circuit.succeeded(permit)
        self._log.report_recovery(_TOPIC, "events are delivered again")
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
        self.protocol_anomalies += len(errors.keys() - {record.event_id for record in part})
        self._ledger.settle(delivered)
        self._shelve(again)

    def _compare_clocks(self, server_time: float) -> None:
        """Warn if the times of events are far from the gateway's clock; the events stay as they are."""
        ahead = time.time() - server_time
        if abs(ahead) <= _MOST_SKEW:
            self._log.report_recovery(_CLOCK_TOPIC, "the clock of this host agrees with the gateway's again")
            return
        self._log.report(
            _CLOCK_TOPIC,
            logging.WARNING,
            math.inf,
            "the clock of this host is %.0f seconds %s the gateway's, which refuses goal and evaluation events "
            "more than 1 hour ahead or 744 hours behind; they are sent as they are",
            abs(ahead),
            "ahead of" if ahead > 0 else "behind",
        )

    def _shelve(self, records: list[Receipt]) -> None:
        if not records:
            return
        for record in records:
            record._tries += 1
        pause = backoff(self._config.retry, max(record._tries for record in records), self._rng)
        self._ledger.shelve(records, self._clock() + min(pause, self.longest_pause))

    def _reject(self, records: Sequence[Receipt], message: str) -> None:
        """Settle records that the gateway will never take."""
        for record in records:
            # A message of the decoder may quote the payload; the gateway's own words do not.
            words = message if message.startswith("gateway: ") else "it cannot take this event"
            self._log.report_warning(
                "rejected", "the gateway rejected %s event %s: %s", record.kind, record.event_id, words
            )
        self._ledger.settle(records, Outcome(Fate.REJECTED, message=message))

    # After a failed post

    def _goes_on_after(self, error: ApiError, batch: Batch, part: list[Receipt]) -> bool:
        """Act on a failed post; return whether the batch goes on."""
        decision = decide(error)
        if decision.maybe_stored:
            _mark_maybe_stored(part)
        match decision.action:
            case Action.SPLIT:
                return self._split(batch, part, error)
            case Action.SPLIT_BYTES:
                return self._split_by_bytes(batch, part, error)
            case Action.RESEND if not batch.resent:
                batch.resent = True
                return True
        self._pause(decision, error, batch.permit)
        return False

    def _pause(self, decision: Decision, error: ApiError, permit: Permit) -> None:
        """Hold back every post."""
        self._circuit.failed(permit, decision, self._clock())
        if decision.pause_kind is PauseKind.CONFIGURATION:
            level, hint = logging.ERROR, "check the API key and the endpoint"
        else:
            level, hint = logging.WARNING, "the gateway is failing or cannot be reached"
        self._log.report(
            _TOPIC,
            level,
            _AGAIN,
            "events cannot be delivered (%s): %s; they are kept and tried again",
            _brief(error),
            hint,
        )

    def _split(self, batch: Batch, part: list[Receipt], error: ApiError) -> bool:
        """Halve a part that the gateway cannot decode, or decide about a lone event."""
        if len(part) > 1:
            self._halve(batch, part, len(part) // 2)
            return True
        is_guilty = isinstance(error, StatusError) and error.detail.startswith(_UNDECODABLE)
        return self._decide_alone(batch, part, error, is_guilty=is_guilty)

    def _split_by_bytes(self, batch: Batch, part: list[Receipt], error: ApiError) -> bool:
        """Halve a part that is too large, and remember the limit; or decide about a lone event."""
        if len(part) == 1:
            return self._decide_alone(batch, part, error, is_guilty=len(part[0]._body) > _SURELY_TAKEN)
        sizes = list(accumulate(len(record._body) for record in part))
        self.max_bytes = max(min(self.max_bytes, sizes[-1] // 2), _SMALLEST_LIMIT)
        self._halve(batch, part, min(max(bisect_right(sizes, sizes[-1] // 2), 1), len(part) - 1))
        return True

    def _halve(self, batch: Batch, part: list[Receipt], middle: int) -> None:
        self._remember_delivered(batch)
        batch.parts[-1:] = [part[middle:], part[:middle]]

    def _remember_delivered(self, batch: Batch) -> None:
        if batch.delivered_before < 0:
            batch.delivered_before = self._ledger.delivered

    def _decide_alone(self, batch: Batch, part: list[Receipt], error: ApiError, *, is_guilty: bool) -> bool:
        """Reject a lone event that is to blame for certain, or if the gateway takes others; else suspect it."""
        self._remember_delivered(batch)
        if is_guilty or self._gateway_takes_others(batch):
            self._circuit.succeeded(batch.permit)  # the event alone is the cause: the gateway is well
            self._reject(part, _words(error))
            batch.parts.pop()
        else:
            batch.suspects.append((batch.parts.pop()[0], error))
        return len(batch.suspects) < _MAX_SUSPECTS or self._judge_suspects(batch)

    def _judge_suspects(self, batch: Batch) -> bool:
        """Reject the suspects if the gateway takes other events; else blame the gateway, and return False."""
        if self._gateway_takes_others(batch):
            for record, error in batch.suspects:
                self._reject([record], _words(error))
            batch.suspects = []
            return True
        self.max_bytes = max(self.max_bytes, batch.limit_before)  # it was not the size that was refused
        self._pause(Decision(action=Action.PAUSE), batch.suspects[0][1], batch.permit)
        return False

    def _gateway_takes_others(self, batch: Batch) -> bool:
        return self._ledger.delivered > batch.delivered_before


def _mark_maybe_stored(part: Iterable[Receipt]) -> None:
    for record in part:
        record._maybe_stored = True


def _words(error: ApiError) -> str:
    return (isinstance(error, StatusError) and error.detail) or str(error)


def _brief(error: ApiError) -> str:
    """Return what happened, without the words of the server, which may quote the payload."""
    return f"status {error.status_code}" if isinstance(error, StatusError) else str(error)


def _is_cancelled() -> bool:
    """Whether this task was asked to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
