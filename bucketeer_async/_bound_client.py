"""BoundClient: a client for one user; what becomes of an evaluation is left to `_flags/_evaluations.py`."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, Protocol, SupportsFloat, TypeVar, overload

from bucketeer_async._events._receipt import Receipt
from bucketeer_async._flags._conversion import BOOL, FLOAT, INT, STRING, Json, Kind, json_kind
from bucketeer_async._flags._enums import enum_kind
from bucketeer_async._flags._evaluations import Evaluations, Result, details
from bucketeer_async._flags._user_evaluations import UserEvaluations, evaluate_all
from bucketeer_async._models import EvaluationDetails, User

_T = TypeVar("_T")
_E = TypeVar("_E", bound=Enum)
_P = TypeVar("_P")
_D = TypeVar("_D")


class Goals(Protocol):
    """The push of a `Processor` that is used here."""

    async def push_goal_event(self, user: User, goal_id: str, value: SupportsFloat) -> Receipt: ...


class BoundClient:
    """The flags and goals of one user; made by ``client.for_user(user)``.

    It costs nothing to make, and lives no longer than the client. Every method does what the client's does for the user:
    `bool` is `Client.bool_variation`, `bool_details` is `Client.bool_variation_details`, and so on.

    Attributes:
        user: The user.
    """

    def __init__(self, user: User, evaluations: Callable[[], Evaluations], goals: Goals) -> None:
        self.user = user
        self._evaluations = evaluations
        self._goals = goals

    def __repr__(self) -> str:
        return f"<BoundClient of a {type(self.user).__name__}>"

    async def _result(self, feature_id: str, default: _T, kind: Kind[_T]) -> Result[_T]:
        evaluations = self._evaluations()
        result = evaluations.try_evaluate(self.user, feature_id, default, kind)
        return result or await evaluations.evaluate(self.user, feature_id, default, kind)

    async def bool(self, feature_id: str, default: builtins.bool) -> builtins.bool:
        """As `Client.bool_variation`."""
        return (await self._result(feature_id, default, BOOL))[0]

    async def bool_details(self, feature_id: str, default: builtins.bool) -> EvaluationDetails[builtins.bool]:
        """As `Client.bool_variation_details`."""
        return details(self.user, feature_id, await self._result(feature_id, default, BOOL))

    async def int(self, feature_id: str, default: builtins.int) -> builtins.int:
        """As `Client.int_variation`."""
        return (await self._result(feature_id, default, INT))[0]

    async def int_details(self, feature_id: str, default: builtins.int) -> EvaluationDetails[builtins.int]:
        """As `Client.int_variation_details`."""
        return details(self.user, feature_id, await self._result(feature_id, default, INT))

    async def float(self, feature_id: str, default: builtins.float) -> builtins.float:
        """As `Client.float_variation`."""
        return (await self._result(feature_id, default, FLOAT))[0]

    async def float_details(self, feature_id: str, default: builtins.float) -> EvaluationDetails[builtins.float]:
        """As `Client.float_variation_details`."""
        return details(self.user, feature_id, await self._result(feature_id, default, FLOAT))

    async def string(self, feature_id: str, default: str) -> str:
        """As `Client.string_variation`."""
        return (await self._result(feature_id, default, STRING))[0]

    async def string_details(self, feature_id: str, default: str) -> EvaluationDetails[str]:
        """As `Client.string_variation_details`."""
        return details(self.user, feature_id, await self._result(feature_id, default, STRING))

    @overload
    async def json(self, feature_id: str, default: None) -> Any: ...
    @overload
    async def json(self, feature_id: str, default: Json) -> Json: ...
    @overload
    async def json(self, feature_id: str, default: _D, *, parse: Callable[[Any], _P]) -> _P | _D: ...
    async def json(self, feature_id: str, default: Any, *, parse: Callable[[Any], Any] | None = None) -> Any:
        """As `Client.json_variation`."""
        return (await self._result(feature_id, default, json_kind(default, parse)))[0]

    @overload
    async def json_details(self, feature_id: str, default: None) -> EvaluationDetails[Any]: ...
    @overload
    async def json_details(self, feature_id: str, default: Json) -> EvaluationDetails[Json]: ...
    @overload
    async def json_details(
        self, feature_id: str, default: _D, *, parse: Callable[[Any], _P]
    ) -> EvaluationDetails[_P | _D]: ...
    async def json_details(
        self, feature_id: str, default: Any, *, parse: Callable[[Any], Any] | None = None
    ) -> EvaluationDetails[Any]:
        """As `Client.json_variation_details`."""
        return details(self.user, feature_id, await self._result(feature_id, default, json_kind(default, parse)))

    async def enum(self, feature_id: str, default: _E) -> _E:
        """As `Client.enum_variation`."""
        return (await self._result(feature_id, default, enum_kind(default)))[0]

    async def enum_details(self, feature_id: str, default: _E) -> EvaluationDetails[_E]:
        """As `Client.enum_variation_details`."""
        return details(self.user, feature_id, await self._result(feature_id, default, enum_kind(default)))

    async def evaluate_all(self, only: Iterable[str] | None = None) -> UserEvaluations:
        """As `Client.evaluate_all`."""
        return await evaluate_all(self._evaluations(), self.user, only)

    async def track(self, goal_id: str, *, value: SupportsFloat = 0.0) -> Receipt:
        """As `Client.track`."""
        return await self._goals.push_goal_event(self.user, goal_id, value)
