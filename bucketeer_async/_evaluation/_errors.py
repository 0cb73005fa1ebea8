"""Why a flag has no variation for a user."""

from __future__ import annotations

from enum import StrEnum

from bucketeer_async._errors import BucketeerError


class EvaluationCause(StrEnum):
    """The names of the causes; the server's words for them differ."""

    FLAG_NOT_FOUND = "FLAG_NOT_FOUND"
    """The flag that was asked for is not known."""
    EVALUATION_NOT_FOUND = "EVALUATION_NOT_FOUND"
    """It is archived, or not of the tag."""
    FEATURE_NOT_FOUND = "FEATURE_NOT_FOUND"
    """A flag that it depends on is not known."""
    CYCLE_EXISTS = "CYCLE_EXISTS"
    """It depends on itself, directly or not."""
    VARIATION_NOT_FOUND = "VARIATION_NOT_FOUND"
    """The chosen variation does not exist, or a rollout chose none."""
    DEFAULT_STRATEGY_NOT_FOUND = "DEFAULT_STRATEGY_NOT_FOUND"
    """Nothing applies, and there is no default strategy."""
    UNSUPPORTED_STRATEGY = "UNSUPPORTED_STRATEGY"
    """The strategy is of a kind that this version does not know."""
    NOT_READY = "NOT_READY"
    """No flags have arrived yet."""
    MALFORMED = "MALFORMED"
    """The definition cannot be used: a part is missing, or has the wrong type."""


class EvaluationError(BucketeerError):
    """A flag has no variation for a user.

    Attributes:
        cause: Why.
        feature_id: The flag that is at fault; it may be one that the other depends on.
    """

    def __init__(self, cause: EvaluationCause, feature_id: str, detail: str = "") -> None:
        super().__init__(f"flag {feature_id!r}: {cause.value}{f' ({detail})' if detail else ''}")
        self.cause = cause
        self.feature_id = feature_id


class MalformedError(ValueError):
    """A part of a definition has the wrong type."""
