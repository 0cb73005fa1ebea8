"""Rate-limited logging: a problem is logged once when it begins, and then at most once per interval.

The caller keeps API keys, users and payloads out of the messages.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_WARNING_INTERVAL: Final = 60.0  # seconds between two warnings about the same topic


@dataclass(slots=True)
class _Problem:
    level: int
    logged_at: float
    suppressed: int = 0


class RateLimitedLog:
    """A rate-limited view of a logger; usable from any thread.

    A topic names what may go wrong, such as ``"delivery"``. A topic has a problem from the first report until
    `report_recovery`.

    Args:
        logger: The logger that the lines are written to.
        clock: Returns monotonic seconds.
    """

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        self._lock = threading.RLock()  # reentrant: the garbage collector may run a push while the lock is held
        self.problems: dict[str, _Problem] = {}

    def report_warning(self, topic: str, message: str, *args: object) -> None:
        """Log a warning, at most once a minute per topic; the next line has the number of suppressed warnings."""
        self._report(topic, logging.WARNING, _WARNING_INTERVAL, message, args)

    def report(self, topic: str, level: int, interval: float, message: str, *args: object) -> None:
        """Log a problem; while it lasts, log it again only after ``interval`` seconds or at a higher level."""
        self._report(topic, level, interval, message, args)

    def report_recovery(self, topic: str, message: str) -> None:
        """Log the end of a topic's problem at DEBUG; do nothing if the topic has no problem."""
        if topic not in self.problems:
            return
        with self._lock:
            ended = self.problems.pop(topic, None)
        if ended is not None:
            self._write(logging.DEBUG, message)

    def _report(self, topic: str, level: int, interval: float, message: str, args: tuple[object, ...]) -> None:
        now = self._clock()
        with self._lock:
            problem = self.problems.get(topic)
            if problem is not None and level <= problem.level and now - problem.logged_at < interval:
                problem.suppressed += 1
                return
            suppressed = problem.suppressed if problem is not None else 0
            self.problems[topic] = _Problem(level, now)
        if suppressed:
            message += " (and %d more times since the last line)"
            args = (*args, suppressed)
        self._write(level, message, *args)

    def _write(self, level: int, message: str, *args: object) -> None:
        """Write a line; an exception of the application's filter or handler must not interrupt the caller."""
        with contextlib.suppress(Exception):
            self._logger.log(level, message, *args)
