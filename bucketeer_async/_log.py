"""Logging that cannot harm: a logger that never raises, and rate-limited logging of problems.

A problem is logged once when it begins, and then at most once per interval. The caller keeps API keys, users and
payloads out of the messages.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from bucketeer_async._dataclasses import dataclass

_LOGGER: Final = "bucketeer_async"
_WARNING_INTERVAL: Final = 60.0  # seconds between two warnings about the same topic and detail


class GuardedLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger that never raises: a filter or handler of the application must not end a task or a thread of ours.

    Args:
        logger: The application's logger; None for the package's.
    """

    def __init__(self, logger: logging.Logger | None) -> None:
        super().__init__(logger or logging.getLogger(_LOGGER), {})

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Write a line; whatever a filter or handler raises is ignored, but for Ctrl-C."""
        kwargs.setdefault("stacklevel", 2)
        try:
            self.logger.log(level, msg, *args, **kwargs)
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001, S110 - sys.exit() and CancelledError of a handler included
            pass


@dataclass(slots=True)
class _Problem:
    level: int
    began_at: float
    logged_at: float
    suppressed: int = 0


class RateLimitedLog:
    """A rate-limited view of a logger; usable from any thread.

    A topic names what may go wrong, such as ``"delivery"``. A topic has a problem from the first report until
    `report_recovery`.

    Args:
        logger: The logger that the lines are written to.
        clock: Returns monotonic seconds.
        max_details: Details that are told apart at once, of all topics together.

    Attributes:
        problems: The problems by topic and detail.
    """

    def __init__(
        self, logger: GuardedLogger, clock: Callable[[], float] = time.monotonic, *, max_details: int = 100
    ) -> None:
        self._logger = logger
        self._clock = clock
        self._max_details = max_details
        self._lock = threading.RLock()  # reentrant: the garbage collector may run a push while the lock is held
        self.problems: dict[tuple[str, str], _Problem] = {}

    def report_warning(self, topic: str, message: str, *args: object, detail: str = "") -> None:
        """Log a warning, at most once a minute per topic and detail; the next line has the number of suppressed ones.

        Args:
            topic: What goes wrong.
            message: The line.
            args: Its arguments.
            detail: Tells apart what goes wrong for different reasons. At most ``max_details`` are told apart; all
                further ones count as one.
        """
        self._report(topic, logging.WARNING, _WARNING_INTERVAL, message, args, detail=detail)

    def report_exception(self, topic: str, message: str, *args: object) -> None:
        """Log the exception that is handled, with its traceback, at most once a minute per topic."""
        self._report(topic, logging.ERROR, _WARNING_INTERVAL, message, args, exc_info=True)

    def report(self, topic: str, level: int, interval: float, message: str, *args: object) -> None:
        """Log a problem; while it lasts, log it again only after ``interval`` seconds or at a higher level."""
        self._report(topic, level, interval, message, args)

    def report_recovery(self, topic: str, message: str, *args: object) -> None:
        """Log the end of a topic's problem at INFO; do nothing if the topic has no problem.

        Args:
            topic: What went wrong.
            message: The line. Its first argument is how long the problem lasted, in seconds.
            args: Its further arguments.
        """
        if (topic, "") not in self.problems:
            return
        with self._lock:
            ended = self.problems.pop((topic, ""), None)
        if ended is not None:
            self._logger.info(message, self._clock() - ended.began_at, *args)

    def _report(
        self,
        topic: str,
        level: int,
        interval: float,
        message: str,
        args: tuple[object, ...],
        *,
        detail: str = "",
        exc_info: bool = False,
    ) -> None:
        now = self._clock()
        with self._lock:
            key = self._key(topic, detail, now)
            problem = self.problems.get(key)
            if problem is not None and level <= problem.level and now - problem.logged_at < interval:
                problem.suppressed += 1
                return
            suppressed, began_at = (problem.suppressed, problem.began_at) if problem is not None else (0, now)
            self.problems[key] = _Problem(level, began_at, now)
        if suppressed:
            message += " (and %d more times since the last line)"
            args = (*args, suppressed)
        self._logger.log(level, message, *args, exc_info=exc_info)

    def _key(self, topic: str, detail: str, now: float) -> tuple[str, str]:
        """Return the key of a problem: that of the topic alone if too many details are known already."""
        key = (topic, detail)
        if not detail or key in self.problems:
            return key
        details = [each for each in self.problems if each[1]]
        if len(details) < self._max_details:
            return key
        old = [each for each in details if now - self.problems[each].logged_at >= _WARNING_INTERVAL]
        for each in old:
            del self.problems[each]
        return key if old else (topic, "")
