"""The question that everything else here answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from bucketeer_async._evaluation._clauses import UserLike
from bucketeer_async._evaluation._errors import EvaluationCause, EvaluationError
from bucketeer_async._evaluation._flags import Flag, Served
from bucketeer_async._evaluation._snapshot import Snapshot

_NONE: Final[Mapping[str, str]] = MappingProxyType({})


def evaluate(snapshot: Snapshot, user: UserLike, feature_id: str, tag: str = "") -> Served:
    """Return what a flag gives to a user.

    Args:
        snapshot: All flags and segments.
        user: Who is asked about.
        feature_id: The flag.
        tag: A tag that the flag must have; "" for any. Flags that it depends on need not have it.

    Raises:
        EvaluationError: If the flag gives nothing.
    """
    order = snapshot.order(feature_id)
    flag = order[-1]
    dependency_variations = _NONE if len(order) == 1 else _dependencies(snapshot, user, order[:-1])
    served = flag.serve(user, dependency_variations, snapshot.segments)
    if flag.archived:
        raise EvaluationError(EvaluationCause.EVALUATION_NOT_FOUND, feature_id, "archived")
    if tag and tag not in flag.tags:
        raise EvaluationError(EvaluationCause.EVALUATION_NOT_FOUND, feature_id, f"not tagged {tag!r}")
    return served


def _dependencies(snapshot: Snapshot, user: UserLike, flags: Sequence[Flag]) -> dict[str, str]:
    """Return the variations of flags, each of which may depend on those before."""
    dependency_variations: dict[str, str] = {}
    for flag in flags:
        dependency_variations[flag.id] = flag.serve(user, dependency_variations, snapshot.segments).variation.id
    return dependency_variations
