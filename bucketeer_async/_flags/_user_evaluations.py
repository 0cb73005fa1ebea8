"""UserEvaluations: the flags of one user as of one moment, for synchronous code.

Evaluating all flags is left to an `Evaluator` (`_local.py` or `_remote.py`), and the value or the default of one flag to
`_evaluations.py`, which is given the evaluations as an evaluator that never waits.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, Final, TypeVar, overload

from bucketeer_async._errors import WrongLoopError
from bucketeer_async._evaluation import EvaluationCause, EvaluationError
from bucketeer_async._flags._conversion import BOOL, FLOAT, INT, STRING, Json, Kind, json_kind
from bucketeer_async._flags._enums import enum_kind
from bucketeer_async._flags._evaluations import EvaluationEvents, Evaluations, Result, details
from bucketeer_async._flags._user_flags import UserFlags, failed
from bucketeer_async._models import Evaluation, EvaluationDetails, ReasonType, User, check_text

_T = TypeVar("_T")
_E = TypeVar("_E", bound=Enum)
_P = TypeVar("_P")
_D = TypeVar("_D")

_KINDS: Final[dict[type, Kind[Any]]] = {bool: BOOL, int: INT, float: FLOAT, str: STRING}


class UserEvaluations:
    """The flags of one user as of one moment; made by ``await client.evaluate_all(user)``.

    The methods but `refresh` are synchronous, and may be called from any thread. They never raise because a server or a
    network failed: the default is returned, and `details` says why. The first access of each flag pushes one event, as a
    variation does; a flag that nobody accesses has none.
    """

    def __init__(self, evaluations: Evaluations, user: User, only: frozenset[str] | None) -> None:
        self._evaluations = evaluations
        self._user = user
        self._only = only
        self._moment = _Moment(evaluations, failed(EvaluationError(EvaluationCause.NOT_READY, "")), only)

    def __repr__(self) -> str:
        return f"<UserEvaluations of {len(self._moment.flags.evaluations)} flags>"

    def bool(self, feature_id: str, default: builtins.bool) -> builtins.bool:
        """Return a flag's value, as `Client.bool_variation`.

        Args:
            feature_id: The flag.
            default: Returned if there is no value, or the value is not a bool.

        Raises:
            TypeError: If the default is not a bool.
        """
        return self._moment.result(self._user, feature_id, default, BOOL)[0]

    def int(self, feature_id: str, default: builtins.int) -> builtins.int:
        """Return a flag's value, as `Client.int_variation`.

        Args:
            feature_id: The flag.
            default: Returned if there is no value, or the value is not an int64.

        Raises:
            TypeError: If the default is not an int, or is a bool.
        """
        return self._moment.result(self._user, feature_id, default, INT)[0]

    def float(self, feature_id: str, default: builtins.float) -> builtins.float:
        """Return a flag's value, as `Client.float_variation`.

        Args:
            feature_id: The flag.
            default: Returned, as a float, if there is no value, or the value is not a number.

        Raises:
            TypeError: If the default is neither a float nor an int, or is a bool.
        """
        return self._moment.result(self._user, feature_id, default, FLOAT)[0]

    def string(self, feature_id: str, default: str) -> str:
        """Return a flag's value as text, as `Client.string_variation`.

        Args:
            feature_id: The flag.
            default: Returned if there is no value.

        Raises:
            TypeError: If the default is not a str.
        """
        return self._moment.result(self._user, feature_id, default, STRING)[0]

    @overload
    def json(self, feature_id: str, default: None) -> Any: ...
    @overload
    def json(self, feature_id: str, default: Json) -> Json: ...
    @overload
    def json(self, feature_id: str, default: _D, *, parse: Callable[[Any], _P]) -> _P | _D: ...
    def json(self, feature_id: str, default: Any, *, parse: Callable[[Any], Any] | None = None) -> Any:
        """Return a flag's value, parsed as JSON, as `Client.json_variation`.

        Args:
            feature_id: The flag.
            default: Returned, as it is, if there is no value, or the value is not of the default's type. With None, a
                value of any type is returned. With ``parse``, anything may be the default.
            parse: As in `Client.json_variation`.

        Raises:
            TypeError: If the default is not a type of JSON, or ``parse`` is not a function.
        """
        return self._moment.result(self._user, feature_id, default, json_kind(default, parse))[0]

    def enum(self, feature_id: str, default: _E) -> _E:
        """Return a flag's value as a member of the default's enum, as `Client.enum_variation`.

        Args:
            feature_id: The flag.
            default: Returned if there is no value, or no member has the value.

        Raises:
            TypeError: If the default is not a member of an enum, or no member has a value of a type that flags have.
        """
        return self._moment.result(self._user, feature_id, default, enum_kind(default))[0]

    @overload
    def details(self, feature_id: str, default: None) -> EvaluationDetails[Any]: ...
    @overload
    def details(self, feature_id: str, default: _E) -> EvaluationDetails[_E]: ...
    @overload
    def details(self, feature_id: str, default: Json) -> EvaluationDetails[Json]: ...
    def details(self, feature_id: str, default: Any) -> EvaluationDetails[Any]:
        """Return a flag's value with the variation, the reason and the version of the flag.

        Args:
            feature_id: The flag.
            default: Its type decides how the value is read: as by `bool`, `int`, `float` or `string`; as by `enum` for a
                member of an enum; or else as by `json`.

        Raises:
            TypeError: If the default has none of these types.
        """
        kind = _KINDS.get(type(default)) or (enum_kind if isinstance(default, Enum) else json_kind)(default)
        return details(self._user, feature_id, self._moment.result(self._user, feature_id, default, kind))

    def to_dict(self) -> dict[str, dict[str, str]]:
        """Return all flags, for a front end to begin with; pushes no event.

        Returns:
            For each flag, by its id: ``variation_id``, ``value`` (the text of the variation), and ``reason`` (the name of
            a `ReasonType`). Without the user, and without the flags that have no value.
        """
        return {
            feature_id: {
                "variation_id": each.variation_id,
                "value": each.variation_value,
                "reason": each.reason.type.name,
            }
            for feature_id, each in self._moment.flags.evaluations.items()
        }

    async def refresh(self) -> builtins.bool:
        """Evaluate all flags again, and use the new evaluations if there are any, in every thread at once.

        If the flags have changed since, the next access of each flag counts as its first.

        Returns:
            Whether the evaluations are up to date; False if the gateway did not answer, or the client is not running, and
            the evaluations are as they were.

        Raises:
            WrongLoopError: If the client was started on another event loop.
        """
        before = self._moment.flags
        try:
            flags = await self._evaluations.evaluate_all(self._user, self._only, before)
        except WrongLoopError:
            raise
        except Exception as error:  # noqa: BLE001 - the accessors say why
            if before.version is None:
                self._moment = _Moment(self._evaluations, failed(error), self._only)
            return False
        if flags is not before:
            self._moment = _Moment(self._evaluations, flags, self._only)
        return flags.version is not None


async def evaluate_all(evaluations: Evaluations, user: User, only: Iterable[str] | None) -> UserEvaluations:
    """Evaluate all flags of a user.

    Args:
        evaluations: Those of the client.
        user: The user.
        only: The flags that are wanted; None for all.

    Raises:
        TypeError: If ``only`` is a str, or has something else than ids of flags. If the user is not a `User`, and the
            client is strict.
        ValueError: If ``only`` has an empty id.
        WrongLoopError: If the evaluator belongs to another event loop.
    """
    if isinstance(only, str | bytes):
        raise TypeError(f"only must be a collection of flag ids, such as a list, not a single {type(only).__name__}")
    wanted = None if only is None else frozenset(check_text("an entry of only", each, empty=False) for each in only)
    evaluations.check_strictly(user)
    flags = UserEvaluations(evaluations, user, wanted)
    await flags.refresh()
    return flags


class _Moment:
    """The evaluations of one moment, and which of them were accessed."""

    def __init__(self, evaluations: Evaluations, flags: UserFlags, only: frozenset[str] | None) -> None:
        self.flags = flags
        self._only = only
        self._evaluations = evaluations.over(self, _FirstAccesses)

    def result(self, user: User, feature_id: str, default: _T, kind: Kind[_T]) -> Result[_T]:
        """Return a flag's value, or the default; push the event of the first access."""
        return self._evaluations.evaluate_nowait(user, feature_id, default, kind)

    def evaluate_timed(self, _user: User, feature_id: str) -> tuple[Evaluation, int]:
        """Return a flag's evaluation; the second value, a duration, is not used.

        Raises:
            Exception: Whatever prevented the evaluation.
        """
        evaluation = self.flags.evaluations.get(feature_id)
        if evaluation is not None:
            return evaluation, 0
        if self._only is not None and feature_id not in self._only:
            raise EvaluationError(EvaluationCause.EVALUATION_NOT_FOUND, feature_id, "not in only=... of evaluate_all")
        return self.flags.evaluate_other(feature_id), 0


class _FirstAccesses:
    """Pushes one event for each flag, at its first access, from whichever thread; and no metrics events."""

    def __init__(self, events: EvaluationEvents) -> None:
        self._events = events
        self._accesses: dict[str, object] = {}

    def _is_first(self, feature_id: str) -> bool:
        this = object()
        return self._accesses.setdefault(feature_id, this) is this  # one step for all threads

    def push_evaluation_event_nowait(self, user: User, evaluation: Evaluation) -> None:
        if self._is_first(evaluation.feature_id):
            self._events.push_evaluation_event_nowait(user, evaluation)

    def push_default_evaluation_event_nowait(self, user: User, feature_id: str, reason: ReasonType) -> None:
        if self._is_first(feature_id):
            self._events.push_default_evaluation_event_nowait(user, feature_id, reason)

    def _record_latency(self, _nanoseconds: int) -> None:
        """Do nothing: an access has no latency."""

    def _record_local_evaluation(self, user: User, evaluation: Evaluation, _nanoseconds: int) -> None:
        self.push_evaluation_event_nowait(user, evaluation)
