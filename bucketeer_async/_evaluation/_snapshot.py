"""Flags and segments as of one moment, with the order in which each flag's dependencies are evaluated.

Computing an order is left to `_prerequisites.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bucketeer_async._evaluation._flags import Flag
from bucketeer_async._evaluation._prerequisites import evaluation_order
from bucketeer_async._evaluation._segments import Segment


class Snapshot:
    """Flags and segments as of one moment. Flags and segments do not change, so any thread may use a snapshot.

    Args:
        flags: The flags by id; the lookup of a malformed flag may raise an `EvaluationError`.
        segments: The segments by id.
    """

    __slots__ = ("_orders", "flags", "segments")

    def __init__(self, flags: Mapping[str, Flag], segments: Mapping[str, Segment]) -> None:
        self.flags: Mapping[str, Flag] = flags
        self.segments: Mapping[str, Segment] = segments
        self._orders: dict[str, Sequence[Flag]] = {}

    def order(self, feature_id: str) -> Sequence[Flag]:
        """Return a flag and its dependencies in the order of their evaluation; computed once per flag.

        Raises:
            EvaluationError: If the flag or a dependency is unknown or malformed, or a flag depends on itself.
        """
        order = self._orders.get(feature_id)
        if order is None:
            order = self._orders[feature_id] = evaluation_order(self.flags, feature_id)
        return order
