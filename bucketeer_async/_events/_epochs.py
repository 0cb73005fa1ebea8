"""Epochs: tell a flush when every event that was accepted before it is settled.

A flush begins an epoch. Every record has the epoch in which it was accepted, and the records of past epochs are counted
until none is left. A flush costs nothing per event, and a thousand flushes at once cost as much as one.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable
from operator import attrgetter
from typing import Final

from bucketeer_async._events._receipt import Receipt

_origin_of: Final = attrgetter("_origin")


class Epochs:
    """How many records of each past epoch are not settled. Used under the ledger's lock.

    Attributes:
        current: The epoch of records that are accepted now.
    """

    def __init__(self) -> None:
        self.current = 0
        self.past: OrderedDict[int, int] = OrderedDict()  # unsettled records by past epoch, the oldest first
        self._past_records = 0

    def begin(self, held: int) -> int:
        """Begin an epoch if there is anything to tell apart; return one that all ``held`` records are older than."""
        current = held - self._past_records
        if current:  # no call from here on: a signal's push may come at any, and bears one epoch or the other
            self._past_records += current
            self.past[self.current] = current
            self.current += 1
        return self.current

    def settle(self, records: Iterable[Receipt]) -> None:
        """Count settled records down; only needed while there is a past epoch."""
        for origin, number in Counter(map(_origin_of, records)).items():
            epoch = origin.epoch
            if epoch < self.current:
                self._past_records -= number
                self.past[epoch] -= number
                if not self.past[epoch]:
                    del self.past[epoch]

    def has_settled_before(self, epoch: int) -> bool:
        """Whether every record older than the epoch is settled."""
        return next(iter(self.past), epoch) >= epoch
