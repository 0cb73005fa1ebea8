"""Says trouble once, not once per event: one line when a spell begins, then at most one per interval.

No line carries a key, a user or a payload.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_AGAIN: Final = 60.0  # seconds between two lines about the same topic, within one spell


@dataclass(slots=True)
class _Spell:
    level: int
    told_at: float
    untold: int = 0


class RateLimitedLog:
    """A rate-limited view of a logger; usable from any thread.

    Args:
        logger: Where the lines go.
        clock: Monotonic seconds.
    """

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        self._lock = threading.RLock()  # the garbage collector may run a push inside
        self._spells: dict[str, _Spell] = {}

    def report_warning(self, topic: str, message: str, *args: object) -> None:
        """Tell of lost data: at once, then at most once a minute per topic, with the number of untold ones."""
        self._tell(topic, logging.WARNING, _AGAIN, message, args)

    def report(self, topic: str, level: int, interval: float, message: str, *args: object) -> None:
        """Tell that a spell of trouble began; within the spell only every ``again`` seconds, or when it gets worse."""
        self._tell(topic, level, interval, message, args)

    def report_recovery(self, topic: str, message: str) -> None:
        """Tell that a spell ended."""
        if topic not in self._spells:
            return
        with self._lock:
            ended = self._spells.pop(topic, None)
        if ended is not None:
            self._write(logging.DEBUG, message)

    def _tell(self, topic: str, level: int, interval: float, message: str, args: tuple[object, ...]) -> None:
        now = self._clock()
        with self._lock:
            spell = self._spells.get(topic)
            if spell is not None and level <= spell.level and now - spell.told_at < interval:
                spell.untold += 1
                return
            untold = spell.untold if spell is not None else 0
            self._spells[topic] = _Spell(level, now)
        if untold:
            message += " (and %d more times since the last line)"
            args = (*args, untold)
        self._write(level, message, *args)

    def _write(self, level: int, message: str, *args: object) -> None:
        """Log; a filter or handler of the application's that raises must not end what is going on here."""
        with contextlib.suppress(Exception):
            self._logger.log(level, message, *args)
