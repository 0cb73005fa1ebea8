"""EvaluationWindow: refuses evaluation events that repeat the last accepted one of the same user and flag.

What is remembered changes under the ledger's lock; accepting an event is left to `_intake.py`.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from bucketeer_async._events._receipt import Receipt
from bucketeer_async._models import Evaluation, ReasonType, User
from bucketeer_async._results import Fate, Outcome, RefusedReason

_MOST: Final = 100_000  # users and flags that are remembered
_LOST: Final = (Fate.REJECTED, Fate.DROPPED)  # a tuple is searched by identity


class EvaluationWindow:
    """Remembers the last accepted evaluation event of each user and flag; over 100,000 of them, not the oldest.

    An event is remembered by its receipt, which knows when it was pushed, and whether it was lost since.

    Args:
        seconds: How long an event is remembered.
        receipt: The receipt of every duplicate.

    Attributes:
        is_open: Whether anything is refused.
    """

    __slots__ = ("_last", "_now", "_numbers", "_readings", "_receipt", "_seconds", "is_open")

    def __init__(self, seconds: float, receipt: Receipt) -> None:
        self._seconds = seconds
        self._numbers = itertools.count()  # one is taken at once, without a lock
        self._readings = 0
        self._receipt = receipt
        receipt.outcome = Outcome(Fate.REFUSED, RefusedReason.DUPLICATE)
        self._now: Callable[[], float]  # known once it is open
        self.is_open = False
        # The oldest first. A dict would find its oldest key by a search among those that were deleted.
        self._last: OrderedDict[tuple[str, str], tuple[int, str, ReasonType, Receipt]] = OrderedDict()

    def open(self, now: Callable[[], float]) -> None:
        """Begin to refuse duplicates, by a clock."""
        self._now = now
        self.is_open = True

    def refuse(self, user: User, evaluation: Evaluation) -> Receipt | None:
        """Refuse an event that only says what the last one of its user and flag has said; None if it does not.

        It is counted, and not reported to ``on_drop``. From any thread, and with anything for a user and an evaluation.
        """
        if type(user) is not User or type(evaluation) is not Evaluation:
            return None
        last = self._last.get((user.id, evaluation.feature_id))
        if last is None and (last := self._last.get(_key(user, evaluation))) is None:
            return None
        version, variation_id, reason_type, receipt = last
        if (
            not self.is_open
            or variation_id != evaluation.variation_id
            or version != evaluation.feature_version
            or reason_type is not evaluation.reason.type
            or self._now() - receipt._origin.pushed_at >= self._seconds
            or ((outcome := receipt.outcome) is not None and outcome.fate in _LOST)
        ):
            return None
        next(self._numbers)
        return self._receipt

    def refused(self) -> int:
        """Return how many duplicates were refused; the lock is held."""
        refused = next(self._numbers) - self._readings
        self._readings += 1  # a reading takes a number, too
        return refused

    def remember(self, user: User, evaluation: Evaluation, receipt: Receipt) -> None:
        """Remember an accepted event in place of the last one of its user and flag; the lock is held."""
        if evaluation.reason.type.is_error:  # a default
            return
        key, last = _key(user, evaluation), self._last
        last[key] = (evaluation.feature_version, _plain(evaluation.variation_id), evaluation.reason.type, receipt)
        last.move_to_end(key)
        now = receipt._origin.pushed_at
        for _ in range(2):  # one was added, so that twice is enough
            oldest = next(iter(last))
            if len(last) <= _MOST and now - last[oldest][3]._origin.pushed_at < self._seconds:
                break
            del last[oldest]


def _key(user: User, evaluation: Evaluation) -> tuple[str, str]:
    return _plain(user.id), _plain(evaluation.feature_id)


def _plain(text: str) -> str:
    """Return text as a str: a subclass of str, such as a StrEnum, may have a hash of its own."""
    return text if type(text) is str else str.__str__(text)
