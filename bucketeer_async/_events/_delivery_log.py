"""DeliveryLog: the log lines about the delivery: outages, rejected events, the quarantine, and clocks that differ.

What happened is decided in `_batch.py`, and how often a line is repeated in `_log.py`. No line has words of the server,
which may quote the payload, unless they are surely its own.
"""

from __future__ import annotations

import logging
import math
from typing import Final

from bucketeer_async._errors import ApiError, StatusError, own_words
from bucketeer_async._events._receipt import Receipt
from bucketeer_async._log import RateLimitedLog
from bucketeer_async._retry import PauseKind

_AGAIN: Final = 600.0  # seconds between two log lines about one outage
_OUTAGE: Final = "delivery"
_QUARANTINE: Final = "quarantine"
_CLOCK: Final = "clock"


class DeliveryLog:
    """Logs what an operator has to know of the delivery of one processor.

    Args:
        log: Where the lines go.
    """

    def __init__(self, log: RateLimitedLog) -> None:
        self._log = log

    def outage(self, error: ApiError, kind: PauseKind) -> None:
        """Log that every post is held back."""
        if kind is PauseKind.CONFIGURATION:
            level, hint = logging.ERROR, "check the API key and the endpoint"
        else:
            level, hint = logging.WARNING, "the gateway is failing or cannot be reached"
        text = "events cannot be delivered (%s): %s; they are kept and tried again"
        self._log.report(_OUTAGE, level, _AGAIN, text, brief(error), hint)

    def accepted(self, waiting: int) -> None:
        """Log the end of an outage, if there was one: the gateway has accepted a post."""
        if self._log.problems:
            text = "events are delivered again after %.1f s; %d events are waiting"
            self._log.report_recovery(_OUTAGE, text, waiting)

    def rejected(self, record: Receipt, message: str) -> None:
        """Log that the gateway will never take an event."""
        words = own_words(message) or "it cannot take this event"
        self._log.report_warning(
            "rejected", "the gateway rejected %s event %s: %s", record.kind, record.event_id, words, detail=words
        )

    def quarantined(self, error: ApiError, held: int) -> None:
        """Log that ``held`` events are in quarantine."""
        text = "%d events are in quarantine, because the gateway takes others and not these (%s); they are tried again"
        self._log.report(_QUARANTINE, logging.WARNING, _AGAIN, text, held, brief(error))

    def clocks_agree(self) -> None:
        """Log that the clock of this host is right again, if it was wrong."""
        self._log.report_recovery(_CLOCK, "the clock of this host agrees with the gateway's again after %.0f s")

    def clocks_differ(self, ahead: float) -> None:
        """Log that the clock of this host is so many seconds ahead of the gateway's, or behind if negative."""
        self._log.report(
            _CLOCK,
            logging.WARNING,
            math.inf,
            "the clock of this host is %.0f seconds %s the gateway's, which refuses goal and evaluation events "
            "more than 1 hour ahead or 744 hours behind; they are sent as they are",
            abs(ahead),
            "ahead of" if ahead > 0 else "behind",
        )


def brief(error: ApiError) -> str:
    """Return what happened, without the words of the server."""
    return f"status {error.status_code}" if isinstance(error, StatusError) else str(error)
