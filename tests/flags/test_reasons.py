"""Every failure of an evaluation has a reason."""

from __future__ import annotations

import pytest

from bucketeer_async import ClosedError, DecodeError, ReasonType, RequestTimeoutError, StatusError
from bucketeer_async._evaluation import EvaluationCause, EvaluationError
from bucketeer_async._flags._conversion import WrongTypeError
from bucketeer_async._flags._reasons import DisabledError, reason_for


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (WrongTypeError("no bool"), ReasonType.ERROR_WRONG_TYPE),
        (StatusError(404), ReasonType.ERROR_FLAG_NOT_FOUND),
        (StatusError(403), ReasonType.ERROR_EXCEPTION),
        (StatusError(500), ReasonType.ERROR_EXCEPTION),
        (RequestTimeoutError("late"), ReasonType.ERROR_EXCEPTION),
        (DecodeError("HTML"), ReasonType.ERROR_EXCEPTION),
        (ClosedError("closed"), ReasonType.ERROR_EXCEPTION),
        (KeyError("a bug"), ReasonType.ERROR_EXCEPTION),
        (DisabledError("disabled"), ReasonType.CLIENT),
        (EvaluationError(EvaluationCause.FLAG_NOT_FOUND, "flag"), ReasonType.ERROR_FLAG_NOT_FOUND),
        (EvaluationError(EvaluationCause.FEATURE_NOT_FOUND, "flag"), ReasonType.ERROR_FLAG_NOT_FOUND),
        (EvaluationError(EvaluationCause.EVALUATION_NOT_FOUND, "flag"), ReasonType.ERROR_FLAG_NOT_FOUND),
        (EvaluationError(EvaluationCause.NOT_READY, "flag"), ReasonType.ERROR_CACHE_NOT_FOUND),
        (EvaluationError(EvaluationCause.CYCLE_EXISTS, "flag"), ReasonType.ERROR_EXCEPTION),
        (EvaluationError(EvaluationCause.MALFORMED, "flag"), ReasonType.ERROR_EXCEPTION),
    ],
)
def test_a_failure_has_a_reason(error: Exception, reason: ReasonType) -> None:
    assert reason_for(error) is reason
