"""The story of one batch: post it, read the answer, split it, settle or give back every record.

What an answer means is decided in `_retry.py`; when a batch may leave, and what happens to records that were given
back, is the processor's business.
"""

from __future__ import annotations

import logging
import math
import random
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Final, Protocol

from bucketeer_async._errors import ApiError, StatusError
from bucketeer_async._events._ledger import Ledger
from bucketeer_async._events._receipt import Receipt
from bucketeer_async._log import RateLimitedLog
from bucketeer_async._options import RetryPolicy
from bucketeer_async._results import Fate, Outcome
from bucketeer_async._retry import Action, Circuit, Decision, PauseKind, Permit, backoff, decide

_TOPIC: Final = "delivery"
_AGAIN: Final = 600.0  # seconds between two lines of one spell
_CLOCK_TOPIC: Final = "clock"
_MOST_SKEW: Final = 3600.0  # seconds that the clocks may differ; the gateway takes no event from further ahead
_SMALLEST_LIMIT: Final = 1024  # bytes; a server that refuses even this is not refusing for the size
_SURELY_TAKEN: Final = 64 * 1024  # bytes that any sane limit lets through; what refuses less may refuse everything
_MAX_SUSPECTS: Final = 3  # lone events refused in one batch before the server itself is suspected
_UNDECODABLE: Final = "proto:"  # how the gateway's message begins when it names the event's own fault


class EventError(Protocol):
    """What the gateway says about one event."""

    @property
    def retriable(self) -> bool: ...
    @property
    def message(self) -> str: ...


class RegisterEventsAnswer(Protocol):
    """What a post brings."""

    @property
    def errors(self) -> Mapping[str, EventError]: ...
    @property
    def server_time(self) -> float | None: ...


class EventsApi(Protocol):
    """Posts the JSON of events; raises an `ApiError` if there is no usable answer."""

    async def register_events(self, events: Sequence[bytes], *, timeout: float) -> RegisterEventsAnswer: ...


class Delivery:
    """Delivers batches, several at once; what they have learnt is shared.

    Args:
        api: Where to post.
        ledger: Where every record is settled or given back.
        circuit: Told what every post brought.
        policy: Backoff of events that the gateway asks to send again.
        timeout: Seconds that one post may take.
        max_bytes: Bytes of the events in one batch.
        clock: Monotonic seconds.
        rng: Source of the jitter.
        log: Where trouble is told.
    """

    def __init__(
        self,
        api: EventsApi,
        ledger: Ledger,
        circuit: Circuit,
        *,
        policy: RetryPolicy,
        timeout: float,
        max_bytes: int,
        clock: Callable[[], float],
        rng: random.Random,
        log: RateLimitedLog,
    ) -> None:
        self._api = api
        self._ledger = ledger
        self._circuit = circuit
        self._policy = policy
        self._timeout = timeout
        self._clock = clock
        self._rng = rng
        self._log = log
        self.max_bytes = max_bytes
        """What a batch may weigh: configured, or less once the gateway has refused more."""
        self.longest_pause = policy.maximum
        """Longest backoff of single events; the processor lowers it when it closes."""
        self.posts = 0
        self.posted_events = 0
        self.protocol_anomalies = 0

    async def deliver(self, batch: list[Receipt], leave: Permit) -> None:
        """Carry one batch to its end: when this returns, or is cancelled, each record is settled or given back."""
        story = _Story(self, self._ledger, batch, leave)
        try:
            await story.run()
        finally:
            self._ledger.put_back(story.unsettled())
            self._circuit.leave(leave, self._clock())

    def may_post(self, leave: Permit) -> bool:
        """Whether a batch on its way may go on; if not, what is left of it waits with all others."""
        return self._circuit.may_go_on(leave, self._clock())

    async def post(self, part: Sequence[Receipt]) -> RegisterEventsAnswer | ApiError:
        """Post the records; a failure is a value here, because it is a case like others."""
        self.posts += 1
        self.posted_events += len(part)
        try:
            return await self._api.register_events([record.body for record in part], timeout=self._timeout)
        except ApiError as error:
            return error

    def read(self, part: Sequence[Receipt], answer: RegisterEventsAnswer, leave: Permit) -> None:
        """Settle what the gateway took or refused, and keep for later what it wants again."""
        self._circuit.succeeded(leave)
        self._log.report_recovery(_TOPIC, "events are delivered again")
        self._compare_clocks(answer.server_time)
        errors = answer.errors
        if not errors:
            self._ledger.deliver(part)
            return
        delivered, again = [], []
        for record in part:
            error = errors.get(record.event_id)
            if error is None:
                delivered.append(record)
            elif error.retriable:
                again.append(record)
            else:
                self.reject([record], error.message)
        self.protocol_anomalies += len(errors.keys() - {record.event_id for record in part})
        self._ledger.deliver(delivered)
        self._shelve(again)

    def _compare_clocks(self, server_time: float | None) -> None:
        """Warn once per spell if the times of events are far from the gateway's; the events stay as they are."""
        if server_time is None:
            return
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
            record.tries += 1
        pause = backoff(self._policy, max(record.tries for record in records), self._rng)
        self._ledger.shelve(records, self._clock() + min(pause, self.longest_pause))

    def reject(self, records: Sequence[Receipt], message: str) -> None:
        """Settle records that the gateway will never take."""
        for record in records:
            # A message of the decoder may quote the payload; the gateway's own words do not.
            words = message if message.startswith("gateway: ") else "it cannot take this event"
            self._log.report_warning(
                "rejected", "the gateway rejected %s event %s: %s", record.kind, record.event_id, words
            )
        self._ledger.settle(records, Outcome(Fate.REJECTED, message=message))

    def reject_alone(self, records: Sequence[Receipt], message: str, leave: Permit) -> None:
        """Settle a lone record that is itself the cause of the refusal: the gateway is well."""
        self._circuit.succeeded(leave)
        self.reject(records, message)

    def learn_limit(self, size: int) -> None:
        """Remember that the gateway refused ``size`` bytes as too many."""
        self.max_bytes = max(min(self.max_bytes, size // 2), _SMALLEST_LIMIT)

    def forget_limit(self, before: int) -> None:
        """Go back to what a batch might weigh ``before``: it was not the size that was refused."""
        self.max_bytes = max(self.max_bytes, before)

    def pause(self, decision: Decision, error: ApiError, leave: Permit) -> None:
        """Hold back every post."""
        self._circuit.failed(leave, decision, self._clock())
        if decision.pause_kind is PauseKind.CONFIGURATION:
            level, hint = logging.ERROR, "check the API key and the endpoint"
        else:
            level, hint = logging.WARNING, "the gateway is in trouble or out of reach"
        self._log.report(
            _TOPIC,
            level,
            _AGAIN,
            "events cannot be delivered (%s): %s; they are kept and tried again",
            _brief(error),
            hint,
        )


class _Story:
    """One batch on its way: the parts still to post, and the lone events under suspicion.

    Invariant: every unsettled record is in ``parts`` or in ``suspects``, also while a post is awaited, and when a bug
    ends the story: a part is taken off only after its records were settled or shelved.
    """

    def __init__(self, delivery: Delivery, ledger: Ledger, batch: list[Receipt], leave: Permit) -> None:
        self._delivery = delivery
        self._ledger = ledger
        self._leave = leave
        self._parts = [batch]
        self._suspects: list[tuple[Receipt, ApiError]] = []
        self._limit_before = delivery.max_bytes
        self._delivered_before = -1  # the ledger's count when the first part was refused; -1: none was
        self._resent = False

    def unsettled(self) -> list[Receipt]:
        """The suspects last: otherwise the next batch would meet them first again, and blame the gateway again."""
        parts = [record for part in reversed(self._parts) for record in part]
        return [record for record in [*parts, *(suspect for suspect, _ in self._suspects)] if record.outcome is None]

    async def run(self) -> None:
        while self._parts:
            if not self._delivery.may_post(self._leave):
                return
            part = self._parts[-1]
            try:
                answer = await self._delivery.post(part)
                if not isinstance(answer, ApiError):
                    self._resent = False
                    self._delivery.read(part, answer, self._leave)
            except BaseException:
                _mark_maybe_stored(part)
                raise
            if not isinstance(answer, ApiError):
                self._parts.pop()
            elif not self._go_on_after(answer, part):
                return
        self._judge_suspects()

    def _go_on_after(self, error: ApiError, part: list[Receipt]) -> bool:
        """Act on a failed post; return whether there is more to do."""
        decision = decide(error)
        if decision.maybe_stored:
            _mark_maybe_stored(part)
        match decision.action:
            case Action.SPLIT:
                return self._split(part, error)
            case Action.SPLIT_BYTES:
                return self._split_by_bytes(part, error)
            case Action.RESEND if not self._resent:
                self._resent = True
                return True
        self._delivery.pause(decision, error, self._leave)
        return False

    def _split(self, part: list[Receipt], error: ApiError) -> bool:
        """Halve a part that the gateway cannot decode, or decide about a lone event."""
        if len(part) > 1:
            self._halve(part, len(part) // 2)
            return True
        return self._decide_alone(part, error, guilty=_names_the_event(error))

    def _halve(self, part: list[Receipt], middle: int) -> None:
        self._remember_delivered()
        self._parts[-1:] = [part[middle:], part[:middle]]

    def _remember_delivered(self) -> None:
        if self._delivered_before < 0:
            self._delivered_before = self._ledger.delivered

    def _decide_alone(self, part: list[Receipt], error: ApiError, *, guilty: bool) -> bool:
        """Reject a lone record that is to blame for certain, or if the gateway takes others; else suspect it."""
        self._remember_delivered()
        if guilty or self._server_is_well():
            self._delivery.reject_alone(part, _words(error), self._leave)
            self._parts.pop()
        else:
            self._suspects.append((self._parts.pop()[0], error))
        return len(self._suspects) < _MAX_SUSPECTS or self._judge_suspects()

    def _judge_suspects(self) -> bool:
        """Reject the suspects if the gateway takes other events; else blame the gateway, and return False."""
        if not self._suspects:
            return True
        if self._server_is_well():
            suspects = self._suspects
            for record, error in suspects:
                self._delivery.reject([record], _words(error))
            self._suspects = []
            return True
        self._delivery.forget_limit(self._limit_before)
        self._delivery.pause(Decision(action=Action.PAUSE), self._suspects[0][1], self._leave)
        return False

    def _server_is_well(self) -> bool:
        return self._ledger.delivered > self._delivered_before

    def _split_by_bytes(self, part: list[Receipt], error: ApiError) -> bool:
        """Halve a part that is too large, and learn from it, or decide about a lone event."""
        if len(part) == 1:
            return self._decide_alone(part, error, guilty=len(part[0].body) > _SURELY_TAKEN)
        sizes = list(accumulate(len(record.body) for record in part))
        self._delivery.learn_limit(sizes[-1])
        self._halve(part, min(max(bisect_right(sizes, sizes[-1] // 2), 1), len(part) - 1))
        return True


def _mark_maybe_stored(part: Sequence[Receipt]) -> None:
    for record in part:
        record.maybe_stored = True


def _names_the_event(error: ApiError) -> bool:
    return isinstance(error, StatusError) and error.detail.startswith(_UNDECODABLE)


def _words(error: ApiError) -> str:
    return (isinstance(error, StatusError) and error.detail) or str(error)


def _brief(error: ApiError) -> str:
    """What happened, without the words of the server, which may quote the payload."""
    return f"status {error.status_code}" if isinstance(error, StatusError) else str(error)
