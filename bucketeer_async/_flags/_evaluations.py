"""Evaluations: the result of one evaluation: its value or the default, the reason, and the one event that is due.

Evaluating a flag is left to an `Evaluator` (`_local.py` or `_remote.py`), the conversion of its text to
`_conversion.py`, and the reason for a failure to `_reasons.py`.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from bucketeer_async._errors import BucketeerError, ConfigurationError, StatusError, WrongLoopError
from bucketeer_async._evaluation import EvaluationCause, EvaluationError
from bucketeer_async._flags._conversion import Kind, ParseError, WrongTypeError
from bucketeer_async._flags._reasons import DisabledError, reason_for
from bucketeer_async._flags._user_flags import UserFlags
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
_NO_LOCAL_EVALUATION: Final = (
    "a variation without awaiting needs local evaluation, and Client.local_evaluation is not set: the gateway evaluates"
    " the flags, which takes a request. Set local_evaluation=LocalEvaluation(), with a server key, or await the variation"
)


def _nothing() -> None: ...


class Evaluator(Protocol):
    """Evaluates flags: over the gateway, in this process, or not at all.

    ``try_evaluate`` returns None if an evaluation has to be awaited, or else the evaluation, and the nanoseconds that
    it took. All other metrics events are pushed by the evaluator. ``evaluate_all`` returns what it is given if
    nothing has changed since.
    """

    async def start(self) -> None: ...
    async def wait_ready(self) -> None: ...
    def try_evaluate(self, user: User, feature_id: str) -> tuple[Evaluation, int] | None: ...
    async def evaluate(self, user: User, feature_id: str) -> Evaluation: ...
    async def evaluate_all(self, user: User, only: frozenset[str] | None, before: UserFlags) -> UserFlags: ...
    async def aclose(self) -> None: ...


class NowaitEvaluator(Protocol):
    """Evaluates flags in this process: from any thread, without waiting."""

    def evaluate_timed(self, user: User, feature_id: str) -> tuple[Evaluation, int]: ...


class EvaluationEvents(Protocol):
    """The pushes of a `Processor` that are used here."""

    def push_evaluation_event_nowait(self, user: User, evaluation: Evaluation) -> object: ...
    def push_default_evaluation_event_nowait(self, user: User, feature_id: str, reason: ReasonType) -> object: ...
    def _record_latency(self, nanoseconds: int) -> None: ...
    def _record_local_evaluation(self, user: User, evaluation: Evaluation, nanoseconds: int) -> None: ...


#: The result of one evaluation, of which most callers want the value alone: the value; the evaluation that it comes
#: from, or the reason for the default; and in words why there is no value, "" if there is one, or if the client is
#: disabled. A plain tuple is made ten times as fast as any object with names.
Result = tuple[_T, Evaluation | ReasonType, str]


def details(user: User, feature_id: str, result: Result[_T]) -> EvaluationDetails[_T]:
    """Return the value of a result with where it comes from.

    Args:
        user: The user of the evaluation, as given.
        feature_id: The flag of the evaluation, as given.
        result: The result.
    """
    value, source, error = result
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
        user_id=check_user(user).id,
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
        local: Evaluates flags without waiting; None if an evaluation takes a request.
        require_running: Raises a `ClosedError` if flags cannot be evaluated now; called from any thread.
    """

    def __init__(
        self,
        evaluator: Callable[[], Evaluator],
        events: EvaluationEvents,
        log: RateLimitedLog,
        *,
        tag: str,
        strict: bool,
        local: NowaitEvaluator | None = None,
        require_running: Callable[[], None] = _nothing,
    ) -> None:
        self._evaluator = evaluator
        self._events = events
        self._log = log
        self._tag = tag
        self._strict = strict
        self._local = local
        self._require_running = require_running

    def try_evaluate(
        self, user: User, feature_id: str, default: _T, kind: Kind[_T], local: NowaitEvaluator | None = None
    ) -> Result[_T] | None:
        """Return a flag's value for a user, or the default with the reason; push the event that is due.

        None, and no event, if the value has to be awaited: `evaluate`.

        Args:
            user: The user. Anything but a `User` results in the default, and in no event.
            feature_id: The flag. Anything but an id results in the default, and in no event.
            default: The default.
            kind: The kind of the value.
            local: Evaluates the flag instead of the evaluator, so that there is nothing to await.

        Raises:
            TypeError: If the default is not of the kind. If user or flag have the wrong type, and the client is strict.
            ValueError: If the default is out of range.
            WrongLoopError: If the evaluator belongs to another event loop.
        """
        if type(default) is not kind.type:
            default = kind.check(default)
        if type(user) is not User or type(feature_id) is not str or not feature_id or not feature_id.isascii():
            checked = self._check(user, feature_id, default)
            if isinstance(checked, tuple):
                return checked
            user = checked
        found = None
        try:
            if local is None:
                found = self._evaluator().try_evaluate(user, feature_id)
                if found is None:
                    return None
            else:
                self._require_running()
                found = local.evaluate_timed(user, feature_id)
            evaluation, nanoseconds = found
            value = kind.convert(evaluation.variation_value)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller wants to go on
            if found is not None:
                self._events._record_latency(found[1])
            return self._default(user, feature_id, default, error)
        self._events._record_local_evaluation(user, evaluation, nanoseconds)
        return value, evaluation, ""

    async def evaluate(self, user: User, feature_id: str, default: _T, kind: Kind[_T]) -> Result[_T]:
        """As `try_evaluate`, which has returned None."""
        if type(default) is not kind.type:
            default = kind.check(default)
        user = check_user(user)
        try:
            evaluation = await self._evaluator().evaluate(user, feature_id)
            value = kind.convert(evaluation.variation_value)
        except Exception as error:  # noqa: BLE001 - likewise
            return self._default(user, feature_id, default, error)
        self._events.push_evaluation_event_nowait(user, evaluation)
        return value, evaluation, ""

    def evaluate_nowait(self, user: User, feature_id: str, default: _T, kind: Kind[_T]) -> Result[_T]:
        """As `try_evaluate`, from any thread: with nothing to await, and without a turn of the loop.

        Raises:
            ConfigurationError: If an evaluation takes a request.
        """
        if self._local is None:
            raise ConfigurationError(_NO_LOCAL_EVALUATION)
        result = self.try_evaluate(user, feature_id, default, kind, self._local)
        assert result is not None  # noqa: S101 - there is nothing to await
        return result

    # All flags of a user

    def check_strictly(self, user: User) -> None:
        """Do nothing if the user is a `User`, or the client is not strict.

        Raises:
            TypeError: Otherwise.
        """
        if self._strict:
            check_user(user)

    async def evaluate_all(self, user: User, only: frozenset[str] | None, before: UserFlags) -> UserFlags:
        """Return all flags of a user; pushes no event of an evaluation.

        Args:
            user: The user.
            only: The flags that are wanted; None for all.
            before: The last evaluations of the same user; returned if they are still up to date.

        Raises:
            TypeError: If the user is not a `User`.
            Exception: Whatever prevented the evaluation.
        """
        return await self._evaluator().evaluate_all(check_user(user), only, before)

    def over(self, evaluator: NowaitEvaluator, events: Callable[[EvaluationEvents], EvaluationEvents]) -> Evaluations:
        """Return evaluations for `evaluate_nowait` by another evaluator, which are logged and checked as these.

        Args:
            evaluator: The other evaluator; whether the client runs does not matter to it.
            events: Called with the processor of these evaluations; returns the one of the others.
        """
        other = copy.copy(self)
        other._local, other._require_running = evaluator, _nothing  # noqa: SLF001 - of this class
        other._events = events(self._events)  # noqa: SLF001 - likewise
        return other

    # Defaults

    def _default(self, user: User, feature_id: str, default: _T, error: Exception) -> Result[_T]:
        """Return the default because of an error; push the event that is due, and log why.

        Raises:
            WrongLoopError: The error, if it is one.
        """
        if isinstance(error, WrongLoopError):
            raise error
        reason, why = reason_for(error), self._why(error)
        if isinstance(error, BucketeerError | WrongTypeError):
            self._log_default(reason, feature_id, why)
        else:
            self._log.report("bug", logging.ERROR, _LOG_INTERVAL, _LINE, _shown(feature_id), why)
        self._events.push_default_evaluation_event_nowait(user, feature_id, reason)
        return default, reason, error.text if isinstance(error, ParseError) else why

    def _check(self, user: User, feature_id: str, default: _T) -> User | Result[_T]:
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
            return default, reason, why
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
