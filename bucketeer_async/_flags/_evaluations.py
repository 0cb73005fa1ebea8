"""Evaluations: the result of one evaluation: its value or the default, the reason, and the one event that is due.

Evaluating a flag is left to an `Evaluator` (`_local.py` or `_remote.py`), the conversion of its text to
`_conversion.py`, and the reason for a failure to `_reasons.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from bucketeer_async._errors import BucketeerError, StatusError, WrongLoopError
from bucketeer_async._evaluation import EvaluationCause, EvaluationError
from bucketeer_async._flags._conversion import WrongTypeError
from bucketeer_async._flags._reasons import DisabledError, reason_for
from bucketeer_async._log import RateLimitedLog
from bucketeer_async._models import (
    Evaluation,
    EvaluationDetails,
    Reason,
    ReasonType,
    User,
    check_text,
    check_user,
    words_of,
)
from bucketeer_async._retry import refuses_key

_T = TypeVar("_T")

_LOG_INTERVAL: Final = 60.0  # seconds between two lines about bugs of ours
_LONGEST_ID: Final = 200  # characters of a flag's id in a line
_LINE: Final = "the evaluation of flag %s returned the default: %s"


class Evaluator(Protocol):
    """Evaluates flags: over the gateway, in this process, or not at all."""

    async def start(self) -> None: ...
    async def wait_ready(self) -> None: ...
    def try_evaluate(self, user: User, feature_id: str) -> Evaluation | None: ...
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
        error: Why there is no value, in words; "" if there is one, or if the client is disabled.
    """

    value: _T
    source: Evaluation | ReasonType
    user: User
    feature_id: str
    error: str = ""

    def details(self) -> EvaluationDetails[_T]:
        """Return the value with where it comes from."""
        value, source, user, feature_id, error = self
        if isinstance(source, ReasonType):
            try:
                user_id = check_user(user).id
            except TypeError:
                user_id = ""
            return EvaluationDetails(
                feature_id=feature_id if issubclass(type(feature_id), str) else "",
                value=value,
                reason=Reason(source),
                user_id=user_id,
                error=error,
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
        log: Where to log why a default was returned: once a minute for each reason and flag.
        tag: The tag of the flags.
        strict: Whether a user or a flag of the wrong type raises.
    """

    def __init__(
        self,
        evaluator: Callable[[], Evaluator],
        events: EvaluationEvents,
        log: RateLimitedLog,
        *,
        tag: str,
        strict: bool,
    ) -> None:
        self._evaluator = evaluator
        self._events = events
        self._log = log
        self._tag = tag
        self._strict = strict

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
            TypeError: If user or flag have the wrong type, and the client is strict.
            WrongLoopError: If the evaluator belongs to another event loop.
        """
        if type(user) is not User or type(feature_id) is not str or not feature_id or not feature_id.isascii():
            checked = self._check(user, feature_id, default)
            if isinstance(checked, EvaluationResult):
                return checked
            user = checked
        try:
            evaluator = self._evaluator()
            evaluation = evaluator.try_evaluate(user, feature_id) or await evaluator.evaluate(user, feature_id)
            value = convert(evaluation.variation_value)
        except WrongLoopError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller wants to go on
            reason, why = reason_for(error), self._why(error)
            if isinstance(error, BucketeerError | WrongTypeError):
                self._log_default(reason, feature_id, why)
            else:
                self._log.report("bug", logging.ERROR, _LOG_INTERVAL, _LINE, _shown(feature_id), why)
            self._events.push_default_evaluation_event_nowait(user, feature_id, reason)
            return EvaluationResult(default, reason, user, feature_id, why)
        self._events.push_evaluation_event_nowait(user, evaluation)
        return EvaluationResult(value, evaluation, user, feature_id)

    def _check(self, user: User, feature_id: str, default: _T) -> User | EvaluationResult[_T]:
        """Return the user, or the default for arguments with which no flag can be evaluated."""
        reason = ReasonType.ERROR_USER_ID_NOT_SPECIFIED
        try:
            checked = check_user(user)
            reason = ReasonType.ERROR_FEATURE_FLAG_ID_NOT_SPECIFIED
            check_text("feature_id", feature_id, empty=False)
        except Exception as error:
            if self._strict and not isinstance(error, ValueError):
                raise
            why = words_of(error, "feature_id")
            self._log_default(reason, feature_id, why)
            return EvaluationResult(default, reason, user, feature_id, why)
        return checked

    def _why(self, error: Exception) -> str:
        """Return in words why there is no value; without API key, user, and payload."""
        match error:
            case DisabledError():
                return ""
            case StatusError() if refuses_key(error):
                return f"{error} (remote evaluation needs a client key that is enabled)"
            case StatusError(status_code=404, code=None):
                return f"{error} (not by a Bucketeer gateway: is the endpoint right?)"
            case StatusError(status_code=404) | EvaluationError(cause=EvaluationCause.FLAG_NOT_FOUND) if self._tag:
                return f"{error} (no flag with this id has the tag {self._tag!r})"
            case BucketeerError() | WrongTypeError():
                return str(error)
        return f"a bug in bucketeer_async: {type(error).__name__}"

    def _log_default(self, reason: ReasonType, feature_id: object, why: str) -> None:
        if why:
            flag = _shown(feature_id)
            self._log.report_warning(reason.name, _LINE, flag, why, detail=flag)


def _shown(feature_id: object) -> str:
    """Return a flag's id for a line, or the type of what is none; without calling any code of the argument."""
    if issubclass(type(feature_id), str):
        return repr(str.__str__(feature_id)[:_LONGEST_ID])
    return f"of type {type(feature_id).__name__}"
