"""Counters of events by kind and fate, their sums, and the report of a drain, which is the difference of two readings.

When an event is counted is left to `_ledger.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from bucketeer_async._dataclasses import dataclass
from bucketeer_async._models import EventKind
from bucketeer_async._results import (
    DrainCounts,
    DrainReport,
    DroppedReason,
    EventCounts,
    Fate,
    Outcome,
    RefusedReason,
    SpoolStatistics,
    Statistics,
)


class Counters:
    """The counters of one class, as they change.

    ``pushed`` is not counted: every push is accepted or refused, and so is every recovered event accepted.
    """

    def __init__(self) -> None:
        self.recovered = self.accepted = 0
        self.delivered = self.rejected = self.spooled = self.in_flight = 0
        self.taken = 0  # accepted, and no longer queued: a push counts no more than it must
        self.refused = dict.fromkeys(RefusedReason, 0)
        self.dropped = dict.fromkeys(DroppedReason, 0)

    @property
    def queued(self) -> int:
        """Events that wait."""
        return self.accepted - self.taken

    def settle(self, outcome: Outcome, number: int, *, were_queued: bool) -> None:
        """Count ``number`` events that were queued, or else in flight, and have the same outcome now."""
        if were_queued:
            self.taken += number
        else:
            self.in_flight -= number
        match outcome.fate:
            case Fate.DELIVERED:
                self.delivered += number
            case Fate.REJECTED:
                self.rejected += number
            case Fate.SPOOLED:
                self.spooled += number
            case _:
                self.dropped[DroppedReason(outcome.reason)] += number

    def frozen(self, quarantined: int) -> EventCounts:
        """Return a copy; how many of the queued events are quarantined is not counted here."""
        return EventCounts(
            pushed=self.accepted - self.recovered + sum(self.refused.values()),
            recovered=self.recovered,
            accepted=self.accepted,
            refused_by={reason: count for reason, count in self.refused.items() if count},
            delivered=self.delivered,
            rejected=self.rejected,
            dropped_by={reason: count for reason, count in self.dropped.items() if count},
            spooled=self.spooled,
            queued=self.queued,
            in_flight=self.in_flight,
            quarantined=quarantined,
        )


@dataclass(slots=True)
class PostCounters:
    """The counters of posts, as they change.

    Attributes:
        requests: Requests sent.
        events: Events in those requests.
        anomalies: Ids in responses that were not in the request.
    """

    requests: int = 0
    events: int = 0
    anomalies: int = 0


def total_counts(counts: Iterable[EventCounts]) -> EventCounts:
    """Add up the counters of several classes."""
    counts = list(counts)
    refused: Counter[RefusedReason] = Counter()
    dropped: Counter[DroppedReason] = Counter()
    for each in counts:
        refused.update(each.refused_by)
        dropped.update(each.dropped_by)
    return EventCounts(
        pushed=sum(each.pushed for each in counts),
        recovered=sum(each.recovered for each in counts),
        accepted=sum(each.accepted for each in counts),
        refused_by=dict(refused),
        delivered=sum(each.delivered for each in counts),
        rejected=sum(each.rejected for each in counts),
        dropped_by=dict(dropped),
        spooled=sum(each.spooled for each in counts),
        queued=sum(each.queued for each in counts),
        in_flight=sum(each.in_flight for each in counts),
        quarantined=sum(each.quarantined for each in counts),
    )


def statistics_of(
    counts: Mapping[EventKind, EventCounts],
    held_bytes: int,
    posts: PostCounters,
    circuit: str,
    spool: SpoolStatistics | None,
) -> Statistics:
    """Return the statistics of a processor with these counters."""
    return Statistics(
        **_by_field(counts),
        total=total_counts(counts.values()),
        held_bytes=held_bytes,
        posts=posts.requests,
        posted_events=posts.events,
        protocol_anomalies=posts.anomalies,
        circuit=circuit,
        spool=spool,
    )


def drain_report(
    before: Mapping[EventKind, EventCounts], after: Mapping[EventKind, EventCounts], duration: float
) -> DrainReport:
    """Return the difference of two readings of the counters, ``duration`` seconds apart."""
    none = EventCounts()
    return DrainReport(
        **_by_field({kind: _drained(before.get(kind, none), after[kind]) for kind in EventKind}),
        total=_drained(total_counts(before.values()), total_counts(after.values())),
        duration=duration,
    )


def _drained(before: EventCounts, after: EventCounts) -> DrainCounts:
    def dropped(reason: DroppedReason) -> int:
        return after.dropped_by.get(reason, 0) - before.dropped_by.get(reason, 0)

    return DrainCounts(
        delivered=after.delivered - before.delivered,
        rejected=after.rejected - before.rejected,
        expired=dropped(DroppedReason.EXPIRED),
        undelivered=dropped(DroppedReason.UNDELIVERED),
        unconfirmed=dropped(DroppedReason.UNCONFIRMED),
        spooled=after.spooled - before.spooled,
    )


def _by_field(by_kind: Mapping[EventKind, object]) -> dict[str, Any]:
    """Return what belongs to each class of events by the name of its field in `Statistics` and `DrainReport`."""
    return {kind.value: value for kind, value in by_kind.items()}
