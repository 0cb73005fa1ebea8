"""Result types of the public API: outcomes of events, counters, and reports. All are frozen."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from bucketeer_async._dataclasses import dataclass, field
from bucketeer_async._errors import UndeliveredError
from bucketeer_async._models import EventKind


class Fate(StrEnum):
    """How an event was settled."""

    REFUSED = "refused"
    """The push was not accepted. The reason is a `RefusedReason`."""
    DELIVERED = "delivered"
    """The gateway accepted the event."""
    REJECTED = "rejected"
    """The gateway rejected the event. The message is the gateway's."""
    DROPPED = "dropped"
    """The event was accepted and later dropped. The reason is a `DroppedReason`."""
    SPOOLED = "spooled"
    """The event was written to the spool when the drain ended. The next process delivers the event."""


class RefusedReason(StrEnum):
    """Why a push was not accepted."""

    INVALID = "invalid"
    """An argument of the push is invalid."""
    TOO_LARGE = "too_large"
    """The event alone is larger than ``flush_max_bytes``."""
    QUEUE_FULL = "queue_full"
    """The queue is full."""
    METRICS_YIELD = "metrics_yield"
    """The queue is nearly full, and the remaining room is reserved for goal and evaluation events."""
    NOT_RUNNING = "not_running"
    """The processor is not started, is closing, or is closed."""
    UNREPORTED = "unreported"
    """The error has no metrics event: status 401 or 403."""
    DISABLED = "disabled"
    """The client is disabled."""
    DUPLICATE = "duplicate"
    """The evaluation event repeats the user's last one of this flag, within ``evaluation_window``."""


class DroppedReason(StrEnum):
    """Why an accepted event was dropped."""

    DISPLACED = "displaced"
    """A newer event took its place, with ``overflow="drop_oldest"``; or a spooled event is too large for the queue."""
    EXPIRED = "expired"
    """The event was older than ``event_lifetime``."""
    UNDELIVERED = "undelivered"
    """The drain ended, and the event was not sent, or is known not to be stored."""
    UNCONFIRMED = "unconfirmed"
    """The drain ended, and the event was sent with an unknown result."""
    ABANDONED = "abandoned"
    """The processor, or its event loop, ended without ``aclose()``."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How and why an event was settled.

    Attributes:
        fate: How the event was settled.
        reason: A `RefusedReason` with ``REFUSED``, a `DroppedReason` with ``DROPPED``; otherwise "".
        message: The gateway's message with ``REJECTED``; details of some refusals, such as ``INVALID``; otherwise "".
    """

    fate: Fate
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Drop:
    """An event that will not be delivered; the argument of the ``on_drop`` callback.

    Attributes:
        kind: Kind of the event.
        reason: A `RefusedReason`, a `DroppedReason`, or ``"rejected"``.
        event_id: Id of the event; "" if the push was refused.
        message: The gateway's message with ``"rejected"``; details of some refusals, such as ``INVALID``; otherwise "".
    """

    kind: EventKind
    reason: str
    event_id: str
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventCounts:
    """Counters of one kind of events.

    At any time, these equations hold exactly:
    ``pushed + recovered == accepted + refused`` and
    ``accepted == delivered + rejected + dropped + spooled + queued + in_flight``.

    Attributes:
        pushed: Calls of ``push_*``.
        recovered: Events that an earlier process left in the spool and this process took over.
        accepted: Events that were accepted, including the recovered ones.
        refused_by: Pushes that were not accepted, by reason.
        delivered: Events that the gateway accepted.
        rejected: Events that the gateway rejected.
        dropped_by: Accepted events that were dropped, by reason.
        spooled: Events that were written to the spool when the drain ended.
        queued: Events that wait to be sent, for the first time or again.
        in_flight: Events in a request that has no result yet.
        quarantined: Queued events that failed although the gateway was available. They are sent apart from the others,
            so that they delay none.
    """

    pushed: int = 0
    recovered: int = 0
    accepted: int = 0
    refused_by: Mapping[RefusedReason, int] = field(default_factory=dict)
    delivered: int = 0
    rejected: int = 0
    dropped_by: Mapping[DroppedReason, int] = field(default_factory=dict)
    spooled: int = 0
    queued: int = 0
    in_flight: int = 0
    quarantined: int = 0

    @property
    def refused(self) -> int:
        """Pushes that were not accepted, for any reason."""
        return sum(self.refused_by.values())

    @property
    def dropped(self) -> int:
        """Accepted events that were dropped, for any reason."""
        return sum(self.dropped_by.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolStatistics:
    """The state of a spool.

    Attributes:
        ready: Whether the spool can be written. Events stay in memory while this is False.
        events: Number of events in the file that this version of the package can deliver.
        size: Size of the used part of the file, in bytes.
        corrupt: Number of events that are known to be lost because the file was damaged, or removed while in use.
        unknown: Number of events in the file of classes that this version does not know. They wait for a version that
            knows them.
        left: Number of events in damaged files that can be read but did not fit into the spool.
            ``python -m bucketeer_async.spool PATH salvage`` moves them there.
    """

    ready: bool = False
    events: int = 0
    size: int = 0
    corrupt: int = 0
    unknown: int = 0
    left: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Counters of a processor since its start, all of the same moment.

    Attributes:
        goal: Counters of the goal events.
        evaluation: Counters of the evaluation events.
        metrics: Counters of the metrics events.
        total: Sums of the three.
        held_bytes: Size of the events that are queued or in flight, in bytes.
        posts: Requests to ``/register_events``, including retries.
        posted_events: Events in these requests; ``posted_events / posts`` is the mean size of a batch.
        protocol_anomalies: Event ids in responses that were not in the request.
        circuit: State of the circuit breaker. ``"closed"``: batches are sent. ``"checking"``: after a failure,
            one event tests whether the gateway is available. ``"open"``: requests are paused because it is not.
            ``"probing"``: one event tests whether it is available again.
        spool: State of the spool as of its last write; None without a spool.
        local_evaluation: State of local evaluation; None unless a client evaluates flags locally.
        remote_evaluation: Counters of evaluations by the gateway; None unless a client has the gateway evaluate flags.
        callback_errors: Exceptions that callbacks of a client's hooks have raised: of ``on_evaluation``, ``on_status``
            and ``on_change``.
    """

    goal: EventCounts
    evaluation: EventCounts
    metrics: EventCounts
    total: EventCounts
    held_bytes: int
    posts: int
    posted_events: int
    protocol_anomalies: int
    circuit: str
    spool: SpoolStatistics | None = None
    local_evaluation: LocalEvaluationStatistics | None = None
    remote_evaluation: RemoteEvaluationStatistics | None = None
    callback_errors: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainCounts:
    """Counters of the events of one kind that were not settled when a drain began.

    Attributes:
        delivered: Events that the gateway accepted.
        rejected: Events that the gateway rejected.
        expired: Events that were older than ``event_lifetime``.
        undelivered: Events that were dropped, and were not sent or are known not to be stored.
        unconfirmed: Events that were dropped, and were sent with an unknown result.
        spooled: Events that were written to the spool, for the next process to deliver.
    """

    delivered: int = 0
    rejected: int = 0
    expired: int = 0
    undelivered: int = 0
    unconfirmed: int = 0
    spooled: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainReport:
    """The result of a drain. Every call of ``aclose()`` returns the same report.

    Attributes:
        goal: Counters of the goal events.
        evaluation: Counters of the evaluation events.
        metrics: Counters of the metrics events.
        total: Sums of the three.
        duration: Seconds from the call of ``aclose()`` to the end of the drain.
    """

    goal: DrainCounts = field(default_factory=DrainCounts)
    evaluation: DrainCounts = field(default_factory=DrainCounts)
    metrics: DrainCounts = field(default_factory=DrainCounts)
    total: DrainCounts = field(default_factory=DrainCounts)
    duration: float = 0.0

    @property
    def complete(self) -> bool:
        """True if every event was delivered, rejected, expired or spooled."""
        return not self.total.undelivered and not self.total.unconfirmed

    def raise_for_undelivered(self) -> None:
        """Raise an exception if the drain is not `complete`.

        Raises:
            UndeliveredError: If the drain ended with undelivered or unconfirmed events.
        """
        if not self.complete:
            raise UndeliveredError(
                f"{self.total.undelivered} events were not delivered and {self.total.unconfirmed} not confirmed "
                f"when the drain ended after {self.duration:.1f} s"
            )


class SnapshotSource(StrEnum):
    """The source of the flags that are evaluated locally."""

    BOOTSTRAP = "bootstrap"
    """The snapshot given as ``bootstrap``; no poll has succeeded yet."""
    POLLED = "polled"
    """The gateway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalEvaluationStatistics:
    """The state of local evaluation.

    Attributes:
        source: Source of the flags; None if no flags have been received yet.
        flags: Number of cached flags.
        segments: Number of cached segments.
        unusable: Number of cached flags and segments that cannot be evaluated because the definition is malformed, or
            because a flag's values are YAML and the extra ``yaml`` is not installed.
        age: Seconds since the gateway last confirmed that flags and segments are up to date, possibly to an earlier
            process; None if no flags have been received yet.
        polls: Number of completed polls; a poll updates flags and segments.
        failed_polls: Number of polls in which a request failed.
        last_error: Error of the last poll; "" if the last poll succeeded.
    """

    source: SnapshotSource | None = None
    flags: int = 0
    segments: int = 0
    unusable: int = 0
    age: float | None = None
    polls: int = 0
    failed_polls: int = 0
    last_error: str = ""

    @property
    def ready(self) -> bool:
        """Whether flags can be evaluated."""
        return self.source is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteEvaluationStatistics:
    """Counters of the evaluations that the gateway was asked for.

    Attributes:
        second_tries: Evaluations that were tried once more, because the first try had failed.
        given_up: Evaluations that were given up while no request was on the wire, because all their callers were gone.
    """

    second_tries: int = 0
    given_up: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FlagChanges:
    """The flags whose definitions a poll has changed. Changes of dependencies and segments are not included.

    Attributes:
        added: Ids of flags that were created, or got the tag.
        changed: Ids of flags whose definition changed.
        removed: Ids of flags that were deleted or archived, or lost the tag.
    """

    added: frozenset[str] = frozenset()
    changed: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        """Return whether any flag changed."""
        return bool(self.added or self.changed or self.removed)
