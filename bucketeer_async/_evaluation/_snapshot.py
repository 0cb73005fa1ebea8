"""All flags and segments at one moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bucketeer_async._evaluation._flags import Flag
from bucketeer_async._evaluation._prerequisites import evaluation_order
from bucketeer_async._evaluation._segments import Segment


class Snapshot:
    """Flags and segments that belong together; not changed once it is made, so that any thread may ask it.

    Args:
        flags: The flags by id; one that cannot be had raises its `EvaluationError` when it is needed.
        segments: The segments by id.
    """

    __slots__ = ("_orders", "flags", "segments")

    def __init__(self, flags: Mapping[str, Flag], segments: Mapping[str, Segment]) -> None:
        self.flags: Mapping[str, Flag] = flags
        self.segments: Mapping[str, Segment] = segments
        self._orders: dict[str, Sequence[Flag]] = {}

    def order(self, feature_id: str) -> Sequence[Flag]:
        """Return the flag and all that it depends on, in the order of their evaluation; computed once.

        Raises:
            EvaluationError: If the flag is not known, or what it depends on cannot be evaluated.
        """
        order = self._orders.get(feature_id)
        if order is None:
            order = self._orders[feature_id] = evaluation_order(self.flags, feature_id)
        return order
