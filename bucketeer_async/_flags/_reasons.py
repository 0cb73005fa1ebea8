"""The reason for a default, by the error that prevented an evaluation."""

from __future__ import annotations

from bucketeer_async._errors import BucketeerError, StatusError
from bucketeer_async._evaluation import EvaluationError
from bucketeer_async._flags._conversion import WrongTypeError
from bucketeer_async._models import ReasonType


class DisabledError(BucketeerError):
    """No flag is evaluated, because the client is switched off."""


def reason_for(error: Exception) -> ReasonType:
    """Return the reason of the default that is returned because of ``error``.

    A 404 means that the flag is unknown. Bucketeer's Go SDK is meant to do the same, but returns ``ERROR_EXCEPTION``
    by mistake.
    """
    match error:
        case WrongTypeError():
            return ReasonType.ERROR_WRONG_TYPE
        case StatusError(status_code=404):
            return ReasonType.ERROR_FLAG_NOT_FOUND
        case EvaluationError():
            return error.reason
        case DisabledError():
            return ReasonType.CLIENT
    return ReasonType.ERROR_EXCEPTION
