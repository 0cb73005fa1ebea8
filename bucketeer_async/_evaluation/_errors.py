"""Errors of flag evaluation, each with its cause and the reason of the default that is returned instead."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from bucketeer_async._errors import BucketeerError
from bucketeer_async._models import ReasonType


class EvaluationCause(StrEnum):
    """Why an evaluation failed. The server has other names for the same causes."""

    FLAG_NOT_FOUND = "FLAG_NOT_FOUND"
    """The requested flag is unknown."""
    EVALUATION_NOT_FOUND = "EVALUATION_NOT_FOUND"
    """The flag is archived, or does not have the requested tag."""
    FEATURE_NOT_FOUND = "FEATURE_NOT_FOUND"
    """A flag that the requested flag depends on is unknown."""
    CYCLE_EXISTS = "CYCLE_EXISTS"
    """A flag depends on itself, directly or through other flags."""
    VARIATION_NOT_FOUND = "VARIATION_NOT_FOUND"
    """The chosen variation does not exist, or the rollout chose no variation."""
    DEFAULT_STRATEGY_NOT_FOUND = "DEFAULT_STRATEGY_NOT_FOUND"
    """No target and no rule matches, and the flag has no default strategy."""
    UNSUPPORTED_STRATEGY = "UNSUPPORTED_STRATEGY"
    """The strategy has a type that this version does not know."""
    NOT_READY = "NOT_READY"
    """No flags have been received yet."""
    MALFORMED = "MALFORMED"
    """The flag's definition is malformed: a field is missing or has the wrong type."""
    YAML_NOT_INSTALLED = "YAML_NOT_INSTALLED"
    """The flag's values are YAML, and the extra ``yaml`` is not installed. Flags that depend on it can be evaluated."""


_REASONS: Final = {
    EvaluationCause.FLAG_NOT_FOUND: ReasonType.ERROR_FLAG_NOT_FOUND,
    EvaluationCause.EVALUATION_NOT_FOUND: ReasonType.ERROR_FLAG_NOT_FOUND,
    EvaluationCause.FEATURE_NOT_FOUND: ReasonType.ERROR_FLAG_NOT_FOUND,
    EvaluationCause.NOT_READY: ReasonType.ERROR_CACHE_NOT_FOUND,
}


class EvaluationError(BucketeerError):
    """A flag could not be evaluated for a user.

    Attributes:
        cause: Why the evaluation failed.
        feature_id: Id of the flag that caused the failure, which may be a dependency of the requested flag.
    """

    def __init__(self, cause: EvaluationCause, feature_id: str, detail: str = "") -> None:
        super().__init__(f"flag {feature_id!r}: {cause.value}{f' ({detail})' if detail else ''}")
        self.cause = cause
        self.feature_id = feature_id

    @property
    def reason(self) -> ReasonType:
        """The reason of the default that is returned because of the error."""
        return _REASONS.get(self.cause, ReasonType.ERROR_EXCEPTION)


class MalformedError(ValueError):
    """A field of a definition is missing or has the wrong type."""
