"""LossReporter: reports events that will not be delivered: a rate-limited log line, and the application's ``on_drop``.

Calling ``on_drop`` is left to `_drop_listener.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from bucketeer_async._events._drop_listener import DropListener
from bucketeer_async._events._receipt import Receipt
from bucketeer_async._log import GuardedLogger, RateLimitedLog
from bucketeer_async._results import DrainReport, Drop, DroppedReason, Fate

_ON_DROP_PATIENCE: Final = 0.2  # seconds that the end of the drain waits for the last calls of on_drop
#: Reasons for which all events are reported together, in one log line.
_REPORTED_TOGETHER: Final = frozenset({DroppedReason.UNDELIVERED, DroppedReason.UNCONFIRMED, DroppedReason.ABANDONED})


class LossReporter:
    """Reports lost events; usable from any thread, never blocks.

    Args:
        on_drop: The application's callback, called on a thread of its own.
        logger: Where errors of the callback are logged, and the end of the drain.
        log: Where lost events are logged.
    """

    def __init__(self, on_drop: Callable[[Drop], None] | None, logger: GuardedLogger, log: RateLimitedLog) -> None:
        self._listener = DropListener(on_drop, logger) if on_drop else None
        self._logger = logger
        self._log = log

    def report(self, record: Receipt) -> None:
        """Report a refused, rejected or dropped event. The delivery logs rejected ones itself, with their status."""
        outcome = record.outcome
        assert outcome is not None  # noqa: S101 - a lost event is settled
        reason = outcome.reason or "rejected"
        if outcome.fate is Fate.REFUSED:
            article = "an" if record.kind[0] in "aeiou" else "a"
            self._log.report_warning(
                reason,
                "%s %s event was refused (%s) %s",
                article,
                record.kind,
                reason,
                outcome.message,
                detail=outcome.message,
            )
        elif outcome.fate is Fate.DROPPED and reason not in _REPORTED_TOGETHER:
            self._log.report_warning(reason, "%s event %s was dropped (%s)", record.kind, record.event_id, reason)
        if self._listener is not None:
            self._listener.put(Drop(record.kind, reason, record.event_id, outcome.message))

    def report_drain(self, report: DrainReport, owner: str) -> None:
        """Log what became of the events in a drain: at WARNING if any were left."""
        total = report.total
        is_left = total.undelivered or total.unconfirmed or total.spooled
        self._logger.log(
            logging.WARNING if is_left else logging.INFO,
            "the %s is closed; the drain took %.1f s: %d events were delivered, %d rejected, %d expired, "
            "%d not delivered, %d not confirmed, %d spooled",
            owner,
            report.duration,
            total.delivered,
            total.rejected,
            total.expired,
            total.undelivered,
            total.unconfirmed,
            total.spooled,
        )

    def close(self) -> None:
        """Report nothing more, once all that was reported before has reached ``on_drop``."""
        if self._listener is not None:
            self._listener.close()

    async def aclose(self) -> None:
        """Close, and wait a moment for the last calls of ``on_drop``."""
        if self._listener is not None:
            await self._listener.aclose(_ON_DROP_PATIENCE)
