"""The order in which a flag and its dependencies are evaluated: its prerequisites, and the flags that its rules name.

Evaluating the dependencies is left to `_evaluate.py`, comparing a prerequisite with its variation to `_flags.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bucketeer_async._evaluation._errors import EvaluationCause, EvaluationError
from bucketeer_async._evaluation._flags import Flag


def evaluation_order(flags: Mapping[str, Flag], feature_id: str) -> Sequence[Flag]:
    """Return a flag and its direct and indirect dependencies: dependencies first, the flag itself last.

    The search is depth-first. It does not recurse, because a chain of dependencies may be long.

    Raises:
        EvaluationError: If the flag is unknown (``FLAG_NOT_FOUND``), a dependency is unknown (``FEATURE_NOT_FOUND``),
            or a flag depends on itself (``CYCLE_EXISTS``); the first problem that the search meets.
    """
    if feature_id not in flags:
        raise EvaluationError(EvaluationCause.FLAG_NOT_FOUND, feature_id)
    order: dict[str, Flag] = {}
    path = {feature_id: iter(flags[feature_id].dependencies)}  # in progress, outermost first
    while path:
        current, dependencies = next(reversed(path.items()))
        for dependency in dependencies:
            if dependency in order:
                continue
            if dependency not in flags:
                raise EvaluationError(EvaluationCause.FEATURE_NOT_FOUND, dependency, f"{current!r} depends on it")
            if dependency in path:
                raise EvaluationError(EvaluationCause.CYCLE_EXISTS, dependency)
            path[dependency] = iter(flags[dependency].dependencies)
            break
        else:
            del path[current]
            order[current] = flags[current]
    return tuple(order.values())
