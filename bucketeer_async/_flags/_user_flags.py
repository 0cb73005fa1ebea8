"""UserFlags: the evaluations of one user as of one moment, as an evaluator returns them for `UserEvaluations`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NoReturn

from bucketeer_async._dataclasses import dataclass
from bucketeer_async._errors import DecodeError
from bucketeer_async._evaluation import EvaluationCause, EvaluationError
from bucketeer_async._models import Evaluation
from bucketeer_async._transport._responses import GetEvaluationsResponse


@dataclass(frozen=True, slots=True, eq=False)
class UserFlags:
    """The evaluations of one user as of one moment. They do not change, so any thread may use them.

    Attributes:
        evaluations: The evaluations by the id of the flag.
        evaluate_other: Called with the id of any other flag; raises why the flag has no evaluation.
        version: Equal if an evaluator would return the same again; None if there are no evaluations.
    """

    evaluations: Mapping[str, Evaluation]
    evaluate_other: Callable[[str], Evaluation]
    version: object = None


def failed(error: Exception) -> UserFlags:
    """Return what is known if no flag could be evaluated because of an error."""

    def raise_it(_feature_id: str) -> NoReturn:
        raise error.with_traceback(None)  # otherwise each access of a flag makes the traceback longer

    return UserFlags({}, raise_it)


def received(response: GetEvaluationsResponse, only: frozenset[str] | None) -> UserFlags:
    """Return the evaluations in a response with all of them.

    Args:
        response: The response.
        only: The flags that are wanted; None for all.
    """
    evaluations: dict[str, Evaluation] = {}
    empty: set[str] = set()
    for each in response.evaluations:
        if only is not None and each.feature_id not in only:
            continue
        if each.variation_value:
            evaluations[each.feature_id] = each
        else:
            empty.add(each.feature_id)

    def raise_why(feature_id: str) -> NoReturn:
        if feature_id in empty:  # as for one flag
            raise DecodeError("the gateway answered with an empty value")
        raise EvaluationError(EvaluationCause.FLAG_NOT_FOUND, feature_id)

    return UserFlags(evaluations, raise_why, response.user_evaluations_id)
