"""Variations: the methods of a client that evaluate a flag, one for each type of values, and one more with details.

What becomes of an evaluation is left to `_flags/_evaluations.py`, the types of values to `_flags/_conversion.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, TypeVar, overload

from bucketeer_async._flags._conversion import BOOL, FLOAT, INT, STRING, Json, json_kind
from bucketeer_async._flags._enums import enum_kind
from bucketeer_async._flags._evaluations import Evaluations, details
from bucketeer_async._models import EvaluationDetails, User

_D = TypeVar("_D")
_P = TypeVar("_P")
_E = TypeVar("_E", bound=Enum)


class Variations:
    """The variation methods of a `Client`, which is made by its subclass."""

    _evaluations: Evaluations

    async def bool_variation(self, user: User, feature_id: str, default: bool) -> bool:  # noqa: FBT001
        """Evaluate a flag for a user, and return its value.

        Args:
            user: The user.
            feature_id: The flag.
            default: Returned if there is no value, or the value is not a bool.

        Raises:
            TypeError: If the default is not a bool.
            WrongLoopError: If the client was started on another event loop.
        """
        evaluations = self._evaluations
        result = evaluations.try_evaluate(user, feature_id, default, BOOL)
        return (result or await evaluations.evaluate(user, feature_id, default, BOOL))[0]

    async def bool_variation_details(
        self,
        user: User,
        feature_id: str,
        default: bool,  # noqa: FBT001
    ) -> EvaluationDetails[bool]:
        """As `bool_variation`, with the variation, the reason and the version of the flag."""
        evaluations = self._evaluations
        result = evaluations.try_evaluate(user, feature_id, default, BOOL)
        result = result or await evaluations.evaluate(user, feature_id, default, BOOL)
        return details(user, feature_id, result)

    async def int_variation(self, user: User, feature_id: str, default: int) -> int:
        """Evaluate a flag for a user, and return its value: an int64, truncated towards zero if it has a fraction.

        Args:
            user: The user.
            feature_id: The flag.
            default: Returned if there is no value, or the value is not an int64.

        Raises:
            TypeError: If the default is not an int, or is a bool.
            WrongLoopError: If the client was started on another event loop.
        """
        evaluations = self._evaluations
        result = evaluations.try_evaluate(user, feature_id, default, INT)
        return (result or await evaluations.evaluate(user, feature_id, default, INT))[0]

    async def int_variation_details(self, user: User, feature_id: str, default: int) -> EvaluationDetails[int]:
        """As `int_variation`, with the variation, the reason and the version of the flag."""
        evaluations = self._evaluations
        result = evaluations.try_evaluate(user, feature_id, default, INT)
        result = result or await evaluations.evaluate(user, feature_id, default, INT)
        return details(user, feature_id, result)

    async def float_variation(self, user: User, feature_id: str, default: float) -> float:
        """Evaluate a flag for a user, and return its value: a double, which may be infinite or NaN if the flag's is.

        Args:
            user: The user.
            feature_id: The flag.
            default: Returned, as a float, if there is no value, or the value is not a number.

        Raises:
            TypeError: If the default is neither a float nor an int, or is a bool.
            WrongLoopError: If the client was started on another event loop.
        """
        evaluations = self._evaluations
        result = evaluations.try_evaluate(user, feature_id, default, FLOAT)
        return (result or await evaluations.evaluate(user, feature_id, default, FLOAT))[0]

    async def float_variation_details(self, user: User, feature_id: str, default: float) -> EvaluationDetails[float]:
        """As `float_variation`, with the variation, the reason and the version of the flag."""
        evaluations = self._evaluations
        result = evaluations.try_evaluate(user, feature_id, default, FLOAT)
        result = result or await evaluations.evaluate(user, feature_id, default, FLOAT)
        return details(user, feature_id, result)

    async def string_variation(self, user: User, feature_id: str, default: str) -> str:
        """Evaluate a flag for a user, and return its value as text.

        Args:
            user: The user.
            feature_id: The flag.
            default: Returned if there is no value; the gateway cannot return an empty one.

        Raises:
            TypeError: If the default is not a str.
            WrongLoopError: If the client was started on another event loop.
        """
        evaluations = self._evaluations
        result = evaluations.try_evaluate(user, feature_id, default, STRING)
        return (result or await evaluations.evaluate(user, feature_id, default, STRING))[0]

    async def string_variation_details(self, user: User, feature_id: str, default: str) -> EvaluationDetails[str]:
        """As `string_variation`, with the variation, the reason and the version of the flag."""
        evaluations = self._evaluations
        result = evaluations.try_evaluate(user, feature_id, default, STRING)
        result = result or await evaluations.evaluate(user, feature_id, default, STRING)
        return details(user, feature_id, result)

    async def enum_variation(self, user: User, feature_id: str, default: _E) -> _E:
        """Evaluate a flag for a user, and return the member of the default's enum that has the flag's value.

        Text must be equal to the value of a member that is a str; for members with numbers or bools, it is read as by
        `float_variation` and `bool_variation`, or as an int64 without a fraction.

        Args:
            user: The user.
            feature_id: The flag.
            default: A member of an enum with values of type str, bool, int or float. Returned if there is no value, or
                no member has the value.

        Raises:
            TypeError: If the default is not a member of such an enum.
            WrongLoopError: If the client was started on another event loop.
        """
        evaluations, kind = self._evaluations, enum_kind(default)
        result = evaluations.try_evaluate(user, feature_id, default, kind)
        return (result or await evaluations.evaluate(user, feature_id, default, kind))[0]

    async def enum_variation_details(self, user: User, feature_id: str, default: _E) -> EvaluationDetails[_E]:
        """As `enum_variation`, with the variation, the reason and the version of the flag."""
        evaluations, kind = self._evaluations, enum_kind(default)
        result = evaluations.try_evaluate(user, feature_id, default, kind)
        result = result or await evaluations.evaluate(user, feature_id, default, kind)
        return details(user, feature_id, result)

    @overload
    async def json_variation(self, user: User, feature_id: str, default: None) -> Any: ...
    @overload
    async def json_variation(self, user: User, feature_id: str, default: Json) -> Json: ...
    @overload
    async def json_variation(
        self, user: User, feature_id: str, default: _D, *, parse: Callable[[Any], _P]
    ) -> _P | _D: ...
    async def json_variation(
        self, user: User, feature_id: str, default: Any, *, parse: Callable[[Any], Any] | None = None
    ) -> Any:
        """Evaluate a flag for a user, and return its value, parsed as JSON; a YAML flag has its value as JSON, too.

        Args:
            user: The user.
            feature_id: The flag.
            default: Returned, as it is, if there is no value, or the value is not of the default's type: an object, which
                is a dict, for a mapping; a list for a sequence; a str, bool, int, or float, for which an int is fine,
                too. With None, a value of any type is returned. With ``parse``, anything may be the default.
            parse: Makes of the JSON what is returned, for example ``Model.model_validate`` of pydantic, or a function
                that checks it. If it raises an exception, the default is returned, with the reason
                ``ERROR_WRONG_TYPE``, and with the text of the exception in the details. It must be short.

        Raises:
            TypeError: If the default is not a type of JSON, or ``parse`` is not a function.
            WrongLoopError: If the client was started on another event loop.
        """
        evaluations, kind = self._evaluations, json_kind(default, parse)
        result = evaluations.try_evaluate(user, feature_id, default, kind)
        return (result or await evaluations.evaluate(user, feature_id, default, kind))[0]

    @overload
    async def json_variation_details(self, user: User, feature_id: str, default: None) -> EvaluationDetails[Any]: ...
    @overload
    async def json_variation_details(self, user: User, feature_id: str, default: Json) -> EvaluationDetails[Json]: ...
    @overload
    async def json_variation_details(
        self, user: User, feature_id: str, default: _D, *, parse: Callable[[Any], _P]
    ) -> EvaluationDetails[_P | _D]: ...
    async def json_variation_details(
        self, user: User, feature_id: str, default: Any, *, parse: Callable[[Any], Any] | None = None
    ) -> EvaluationDetails[Any]:
        """As `json_variation`, with the variation, the reason and the version of the flag."""
        evaluations, kind = self._evaluations, json_kind(default, parse)
        result = evaluations.try_evaluate(user, feature_id, default, kind)
        result = result or await evaluations.evaluate(user, feature_id, default, kind)
        return details(user, feature_id, result)
