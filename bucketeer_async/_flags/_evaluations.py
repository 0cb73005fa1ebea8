"""Evaluations: the result of one evaluation: its value or the default, the reason, and the one event that is due.

Evaluating a flag is left to an `Evaluator` (`_local.py` or `_remote.py`), the conversion of its text to
`_conversion.py`, and the reason for a failure to `_reasons.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from bucketeer_async._errors import BucketeerError, StatusError, WrongLoopError
from bucketeer_async._flags._conversion import WrongTypeError
from bucketeer_async._flags._reasons import DisabledError, reason_for
from bucketeer_async._log import RateLimitedLog
from bucketeer_async._models import Evaluation, EvaluationDetails, Reason, ReasonType, User, check_text

_T = TypeVar("_T")

_LOG_INTERVAL: Final = 60.0  # seconds between two lines about bugs of ours


class Evaluator(Protocol):
    """Evaluates flags: over the gateway, in this process, or not at all."""

    async def start(self) -> None: ...
    async def wait_ready(self) -> None: ...
    async def evaluate(self, user: User, feature_id: str) -> Evaluation: ...
    async def aclose(self) -> None: ...


class EvaluationEvents(Protocol):
    """The pushes of a `Processor` that are used here."""

    def push_evaluation_event_nowait(self, user: User, evaluation: Evaluation) -> object: ...
    def push_default_evaluation_event_nowait(self, user: User, feature_id: str, reason: ReasonType) -> object: ...


class EvaluationResult(NamedTuple, Generic[_T]):
    """The result of one evaluation, of which most callers want the value alone.

    Attributes:
        value: The variation's value, or the default.
        source: The evaluation that the value comes from, or the reason for the default.
        user: The user, as given.
        feature_id: The flag, as given.
    """

    value: _T
    source: Evaluation | ReasonType
    user: User
    feature_id: str

    def details(self) -> EvaluationDetails[_T]:
        """Return the value with where it comes from."""
        value, source, user, feature_id = self
        if isinstance(source, ReasonType):
            return EvaluationDetails(
                feature_id=feature_id if isinstance(feature_id, str) else "",
                value=value,
                reason=Reason(source),
                user_id=user.id if isinstance(user, User) else "",
            )
        return EvaluationDetails(
            feature_id=source.feature_id,
            value=value,
            reason=source.reason,
            user_id=user.id,
            feature_version=source.feature_version,
            variation_id=source.variation_id,
            variation_name=source.variation_name,
        )


class Evaluations:
    """Evaluates flags, and returns the default where there is no value.

    Args:
        evaluator: Returns the evaluator, or raises why flags cannot be evaluated.
        events: The processor of the evaluation events.
        log: Where to log the reasons of defaults.
    """

    def __init__(self, evaluator: Callable[[], Evaluator], events: EvaluationEvents, log: RateLimitedLog) -> None:
        self._evaluator = evaluator
        self._events = events
        self._log = log

    async def evaluate(
        self, user: User, feature_id: str, default: _T, convert: Callable[[str], _T]
    ) -> EvaluationResult[_T]:
        """Return a flag's value for a user, or the default with the reason; push the event that is due.

        Args:
            user: The user. Anything but a `User` results in the default, and in no event.
            feature_id: The flag. Anything but an id results in the default, and in no event.
            default: The default.
            convert: From the text of a variation to its value; raises a `WrongTypeError`.

        Raises:
            WrongLoopError: If the evaluator belongs to another event loop.
        """
        is_plain = isinstance(user, User) and isinstance(feature_id, str) and feature_id and feature_id.isascii()
        if not is_plain and (reason := _reason_to_refuse(user, feature_id)) is not None:
            self._log.report_warning(reason.name, "an evaluation returned the default: %s", reason.name)
            return EvaluationResult(default, reason, user, feature_id)
        try:
            evaluation = await self._evaluator().evaluate(user, feature_id)
            value = convert(evaluation.variation_value)
        except WrongLoopError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller wants to go on
            reason = reason_for(error)
            self._log_default(feature_id, error, reason)
            self._events.push_default_evaluation_event_nowait(user, feature_id, reason)
            return EvaluationResult(default, reason, user, feature_id)
        self._events.push_evaluation_event_nowait(user, evaluation)
        return EvaluationResult(value, evaluation, user, feature_id)

    def _log_default(self, feature_id: str, error: Exception, reason: ReasonType) -> None:
        if isinstance(error, DisabledError):
            return
        if isinstance(error, BucketeerError | WrongTypeError):
            text = "the evaluation of flag %r returned the default: %s%s"
            self._log.report_warning(reason.name, text, feature_id, error, _hint(error))
        else:
            text = "a bug in bucketeer_async: the evaluation of flag %r returned the default because of a %s"
            self._log.report("bug", logging.ERROR, _LOG_INTERVAL, text, feature_id, type(error).__name__)


def _reason_to_refuse(user: object, feature_id: object) -> ReasonType | None:
    """Return why a flag cannot be evaluated, or None if the arguments are valid; a `User` always has an id."""
    if not isinstance(user, User):
        return ReasonType.ERROR_USER_ID_NOT_SPECIFIED
    try:
        check_text("feature_id", feature_id, empty=False)
    except (TypeError, ValueError):
        return ReasonType.ERROR_FEATURE_FLAG_ID_NOT_SPECIFIED
    return None


def _hint(error: Exception) -> str:
    if isinstance(error, StatusError) and error.status_code in {401, 403}:
        return " (remote evaluation needs a client key that is enabled)"
    return ""
