"""The values that come out of a processor: what became of events, and how many. Frozen; nothing is computed here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from bucketeer_async._errors import UndeliveredError
from bucketeer_async._models import EventKind


class Fate(StrEnum):
    """How the story of an event ends."""

    REFUSED = "refused"
    """Never accepted; the reason is a `RefusedReason`."""
    DELIVERED = "delivered"
    """The gateway took it."""
    REJECTED = "rejected"
    """The gateway said no for good; the message has its words."""
    DROPPED = "dropped"
    """Accepted, then given up; the reason is a `DroppedReason`."""
    SPOOLED = "spooled"
    """Written to the spool when the drain ended; the next process delivers it."""


class RefusedReason(StrEnum):
    """Why a push was not accepted."""

    INVALID = "invalid"
    TOO_LARGE = "too_large"
    QUEUE_FULL = "queue_full"
    METRICS_YIELD = "metrics_yield"
    NOT_RUNNING = "not_running"
    UNREPORTED = "unreported"
    """An error that has no metrics message: 401 and 403."""
    DISABLED = "disabled"
    """The client is switched off."""


class DroppedReason(StrEnum):
    """Why an accepted event was given up."""

    DISPLACED = "displaced"
    """Pushed out by a newer event, with ``overflow="drop_oldest"``; or from a spool, and larger than the queue."""
    EXPIRED = "expired"
    """Older than ``event_lifetime``."""
    UNDELIVERED = "undelivered"
    """The drain ended; never sent, or known not to be stored."""
    UNCONFIRMED = "unconfirmed"
    """The drain ended; sent, but the answer is unknown."""
    ABANDONED = "abandoned"
    """The processor or its loop went away without a close."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of one event's story.

    Attributes:
        fate: Which end it was.
        reason: A `RefusedReason` or `DroppedReason`; "" with the other fates.
        message: What was wrong: the gateway's words with ``REJECTED``, ours with a refused bad input.
    """

    fate: Fate
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Drop:
    """What ``on_drop`` hears: one event that will not be delivered.

    Attributes:
        kind: Class of the event.
        reason: A `RefusedReason`, a `DroppedReason`, or ``"rejected"``.
        event_id: Its id; "" if it was refused.
        message: The gateway's words with ``"rejected"``, ours with a refused bad input.
    """

    kind: EventKind
    reason: str
    event_id: str
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventCounts:
    """Counters of one class of events; exact at every instant.

    ``pushed + recovered == accepted + refused`` and
    ``accepted == delivered + rejected + dropped + spooled + queued + in_flight``.

    Attributes:
        pushed: Calls of ``push_*``.
        recovered: Events that an earlier process has left in the spool.
        accepted: Events that were taken in.
        refused_by: Pushes that were not accepted, by reason.
        delivered: Events that the gateway took.
        rejected: Events that the gateway refused for good.
        dropped_by: Events that were accepted and then given up, by reason.
        spooled: Events that were written to the spool when the drain ended.
        queued: Events that wait for their first or for another try.
        in_flight: Events in a request under way.
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

    @property
    def refused(self) -> int:
        """Pushes that were not accepted, whatever the reason."""
        return sum(self.refused_by.values())

    @property
    def dropped(self) -> int:
        """Events that were accepted and then given up, whatever the reason."""
        return sum(self.dropped_by.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolStatistics:
    """What is known of a spool.

    Attributes:
        ready: Whether it can be written; if not, events are kept in memory alone until it can.
        events: Events in the file.
        size: Bytes of the file that are in use.
        corrupt: Events that were lost because the file was damaged, as far as is known.
    """

    ready: bool = False
    events: int = 0
    size: int = 0
    corrupt: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What a processor, or a client's, has done since its start, to the event.

    Attributes:
        goal: Counters of the goal events.
        evaluation: Counters of the evaluation events.
        metrics: Counters of the metrics events.
        total: The three of them added up.
        held_bytes: Bytes of the events that are queued or in flight.
        posts: Requests sent to ``/register_events``, repeated ones included.
        posted_events: Events in those requests; ``posted_events / posts`` is the mean batch.
        protocol_anomalies: Ids in answers that were not in the request.
        circuit: ``"closed"`` if posts flow, ``"open"`` while they wait out trouble, ``"probing"`` while one
            batch tries whether it is over.
        spool: The spool's, as of its last write; None without a spool.
        local_evaluation: How fresh the flags of a client are; None unless it evaluates them itself.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainCounts:
    """What became of the events of one class that were waiting when a drain began.

    Attributes:
        delivered: The gateway took them.
        rejected: The gateway refused them for good.
        expired: They were older than ``event_lifetime``.
        undelivered: Left behind; never sent, or known not to be stored.
        unconfirmed: Left behind; sent, but the answer is unknown.
        spooled: Written to the spool, for the next process to deliver.
    """

    delivered: int = 0
    rejected: int = 0
    expired: int = 0
    undelivered: int = 0
    unconfirmed: int = 0
    spooled: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainReport:
    """How a drain ended; every caller of ``aclose()`` gets the same one.

    Attributes:
        goal: What became of the goal events.
        evaluation: What became of the evaluation events.
        metrics: What became of the metrics events.
        total: The three of them added up.
        duration: Seconds from the call of ``aclose()`` to the end of the drain.
    """

    goal: DrainCounts = DrainCounts()
    evaluation: DrainCounts = DrainCounts()
    metrics: DrainCounts = DrainCounts()
    total: DrainCounts = DrainCounts()
    duration: float = 0.0

    @property
    def complete(self) -> bool:
        """True if no event was lost: each is delivered, rejected, expired or spooled."""
        return not self.total.undelivered and not self.total.unconfirmed

    def raise_for_undelivered(self) -> None:
        """Do nothing if the drain was complete.

        Raises:
            UndeliveredError: If events were left behind.
        """
        if not self.complete:
            raise UndeliveredError(
                f"{self.total.undelivered} events were not delivered and {self.total.unconfirmed} not confirmed "
                f"when the drain ended after {self.duration:.1f} s"
            )


class SnapshotSource(StrEnum):
    """Where the flags come from that are evaluated locally."""

    BOOTSTRAP = "bootstrap"
    """From what an earlier process has saved; no poll has succeeded yet."""
    POLLED = "polled"
    """From the gateway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalEvaluationStatistics:
    """How fresh the flags are that are evaluated locally.

    Attributes:
        source: Where they come from; None if there are none yet.
        flags: Flags that are held.
        segments: Segments that are held.
        unusable: Flags and segments among them that cannot be evaluated, for their definition is malformed.
        age: Seconds since the gateway has last said that both are up to date; None if there are none yet.
        polls: Polls that ended, each of flags and of segments.
        failed_polls: Those of them in which a request failed.
        last_error: What went wrong in the last poll; "" if nothing did.
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
class FlagChanges:
    """Which definitions a poll has changed. What a flag depends on is not looked at.

    Attributes:
        added: Flags that are new, or have got the tag.
        changed: Flags with another definition.
        removed: Flags that are gone, archived, or have lost the tag.
    """

    added: frozenset[str] = frozenset()
    changed: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self.added or self.changed or self.removed)
