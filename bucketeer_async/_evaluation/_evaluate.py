"""The entry point of local evaluation: evaluates a flag's dependencies, such as its prerequisites, and then the flag.

The order of the dependencies is left to `_snapshot.py`, the choice of a variation to `_flags.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from bucketeer_async._evaluation._clauses import UserLike
from bucketeer_async._evaluation._errors import EvaluationCause, EvaluationError
from bucketeer_async._evaluation._flags import Flag, Served
from bucketeer_async._evaluation._snapshot import Snapshot

_NO_DEPENDENCIES: Final[Mapping[str, str]] = MappingProxyType({})


def evaluate(snapshot: Snapshot, user: UserLike, feature_id: str, tag: str = "") -> Served:
    """Return the variation that a flag serves to a user, and the reason.

    Args:
        snapshot: All flags and segments.
        user: The user.
        feature_id: Id of the flag.
        tag: A tag that the flag must have; "" accepts every flag. The flag's dependencies do not need the tag.

    Raises:
        EvaluationError: If the flag serves no variation.
    """
    order = snapshot.order(feature_id)
    flag = order[-1]
    dependency_variations = _NO_DEPENDENCIES if len(order) == 1 else _evaluate_dependencies(snapshot, user, order[:-1])
    served = flag.serve(user, dependency_variations, snapshot.segments)
    if flag.archived:
        raise EvaluationError(EvaluationCause.EVALUATION_NOT_FOUND, feature_id, "archived")
    if tag and tag not in flag.tags:
        raise EvaluationError(EvaluationCause.EVALUATION_NOT_FOUND, feature_id, f"not tagged {tag!r}")
    return served


def _evaluate_dependencies(snapshot: Snapshot, user: UserLike, flags: Sequence[Flag]) -> dict[str, str]:
    """Return the ids of the variations that flags serve, by flag id; each flag may depend on the flags before it."""
    dependency_variations: dict[str, str] = {}
    for flag in flags:
        dependency_variations[flag.id] = flag.serve(user, dependency_variations, snapshot.segments).variation.id
    return dependency_variations
