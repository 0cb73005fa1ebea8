"""ObservedEvaluations: evaluations of which each is reported to callbacks, with its duration.

They take the place of the plain `Evaluations` when the first callback is registered, so that a client without callbacks
has nothing to look at.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TypeVar, cast

from bucketeer_async._flags._conversion import Kind
from bucketeer_async._flags._evaluations import Evaluations, NowaitEvaluator, Result, details
from bucketeer_async._hooks import Hook
from bucketeer_async._models import EvaluationDetails, User, check_user
from bucketeer_async._notices import FlagEvaluation

_T = TypeVar("_T")


class ObservedEvaluations(Evaluations):
    """As the evaluations that they are made of; each evaluation that returns a value is reported.

    Args:
        evaluations: The evaluations, whose parts are shared.
        hook: The callbacks. They are called where the evaluation ends: on the event loop, or in the thread of a call
            that does not wait.
        clock: Monotonic seconds, fine enough for microseconds.
    """

    def __init__(
        self,
        evaluations: Evaluations,
        hook: Hook[FlagEvaluation],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        vars(self).update(vars(evaluations))
        self._hook = hook
        self._clock = clock

    def try_evaluate(
        self, user: User, feature_id: str, default: _T, kind: Kind[_T], local: NowaitEvaluator | None = None
    ) -> Result[_T] | None:
        """As of `Evaluations`."""
        began = self._clock()
        result = super().try_evaluate(user, feature_id, default, kind, local)
        if result is not None:
            self._report(user, feature_id, default, result, began)
        return result

    async def evaluate(self, user: User, feature_id: str, default: _T, kind: Kind[_T]) -> Result[_T]:
        """As of `Evaluations`."""
        began = self._clock()
        result = await super().evaluate(user, feature_id, default, kind)
        self._report(user, feature_id, default, result, began)
        return result

    def _report(self, user: User, feature_id: str, default: object, result: Result[_T], began: float) -> None:
        if not self._hook.is_used:
            return
        duration, found = self._clock() - began, details(user, feature_id, result)
        checked: User | None = None
        with contextlib.suppress(TypeError):
            checked = check_user(user)
        self._hook.call(
            FlagEvaluation(
                user=checked,
                feature_id=found.feature_id,
                details=cast("EvaluationDetails[object]", found),
                default=default,
                duration=duration,
            )
        )
