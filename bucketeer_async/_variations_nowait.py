"""Variations without awaiting: the methods of a client that evaluate a flag in this process, from any thread.

They share everything but the waiting with those in `_variations.py`: the values, the defaults, and the events.
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


class NowaitVariations:
    """The variation methods of a `Client` that need local evaluation, and can be called from any thread."""

    _evaluations: Evaluations

    def bool_variation_nowait(self, user: User, feature_id: str, default: bool) -> bool:  # noqa: FBT001
        """As `bool_variation`, with local evaluation: returns the value at once, from any thread.

        Flags are evaluated in this process, so nothing waits: the call may be made from any thread, and from synchronous
        code on the event loop. The same events are pushed. Before the client has started, after it was closed, and in a
        forked child in which it was not started, the default is returned.

        The event loop gets no turn, so a long series of evaluations on the loop is better awaited.

        Args:
            user: The user.
            feature_id: The flag.
            default: As of `bool_variation`.

        Raises:
            ConfigurationError: If the client has no local evaluation: the gateway evaluates, which takes a request.
            TypeError: If the default is not a bool.
        """
        return self._evaluations.evaluate_nowait(user, feature_id, default, BOOL)[0]

    def bool_variation_details_nowait(
        self,
        user: User,
        feature_id: str,
        default: bool,  # noqa: FBT001
    ) -> EvaluationDetails[bool]:
        """As `bool_variation_nowait`, with the variation, the reason and the version of the flag."""
        return details(user, feature_id, self._evaluations.evaluate_nowait(user, feature_id, default, BOOL))

    def int_variation_nowait(self, user: User, feature_id: str, default: int) -> int:
        """As `int_variation`, with local evaluation: returns the value at once, from any thread.

        Raises:
            ConfigurationError: If the client has no local evaluation.
            TypeError: If the default is not an int, or is a bool.
        """
        return self._evaluations.evaluate_nowait(user, feature_id, default, INT)[0]

    def int_variation_details_nowait(self, user: User, feature_id: str, default: int) -> EvaluationDetails[int]:
        """As `int_variation_nowait`, with the variation, the reason and the version of the flag."""
        return details(user, feature_id, self._evaluations.evaluate_nowait(user, feature_id, default, INT))

    def float_variation_nowait(self, user: User, feature_id: str, default: float) -> float:
        """As `float_variation`, with local evaluation: returns the value at once, from any thread.

        Raises:
            ConfigurationError: If the client has no local evaluation.
            TypeError: If the default is neither a float nor an int, or is a bool.
        """
        return self._evaluations.evaluate_nowait(user, feature_id, default, FLOAT)[0]

    def float_variation_details_nowait(self, user: User, feature_id: str, default: float) -> EvaluationDetails[float]:
        """As `float_variation_nowait`, with the variation, the reason and the version of the flag."""
        return details(user, feature_id, self._evaluations.evaluate_nowait(user, feature_id, default, FLOAT))

    def string_variation_nowait(self, user: User, feature_id: str, default: str) -> str:
        """As `string_variation`, with local evaluation: returns the value at once, from any thread.

        Raises:
            ConfigurationError: If the client has no local evaluation.
            TypeError: If the default is not a str.
        """
        return self._evaluations.evaluate_nowait(user, feature_id, default, STRING)[0]

    def string_variation_details_nowait(self, user: User, feature_id: str, default: str) -> EvaluationDetails[str]:
        """As `string_variation_nowait`, with the variation, the reason and the version of the flag."""
        return details(user, feature_id, self._evaluations.evaluate_nowait(user, feature_id, default, STRING))

    def enum_variation_nowait(self, user: User, feature_id: str, default: _E) -> _E:
        """As `enum_variation`, with local evaluation: returns the value at once, from any thread.

        Raises:
            ConfigurationError: If the client has no local evaluation.
            TypeError: If the default is not a member of an enum with values of type str, bool, int or float.
        """
        return self._evaluations.evaluate_nowait(user, feature_id, default, enum_kind(default))[0]

    def enum_variation_details_nowait(self, user: User, feature_id: str, default: _E) -> EvaluationDetails[_E]:
        """As `enum_variation_nowait`, with the variation, the reason and the version of the flag."""
        return details(
            user, feature_id, self._evaluations.evaluate_nowait(user, feature_id, default, enum_kind(default))
        )

    @overload
    def json_variation_nowait(self, user: User, feature_id: str, default: None) -> Any: ...
    @overload
    def json_variation_nowait(self, user: User, feature_id: str, default: Json) -> Json: ...
    @overload
    def json_variation_nowait(
        self, user: User, feature_id: str, default: _D, *, parse: Callable[[Any], _P]
    ) -> _P | _D: ...
    def json_variation_nowait(
        self, user: User, feature_id: str, default: Any, *, parse: Callable[[Any], Any] | None = None
    ) -> Any:
        """As `json_variation`, with local evaluation: returns the value at once, from any thread.

        Raises:
            ConfigurationError: If the client has no local evaluation.
            TypeError: If the default is not a type of JSON, or ``parse`` is not a function.
        """
        return self._evaluations.evaluate_nowait(user, feature_id, default, json_kind(default, parse))[0]

    @overload
    def json_variation_details_nowait(self, user: User, feature_id: str, default: None) -> EvaluationDetails[Any]: ...
    @overload
    def json_variation_details_nowait(self, user: User, feature_id: str, default: Json) -> EvaluationDetails[Json]: ...
    @overload
    def json_variation_details_nowait(
        self, user: User, feature_id: str, default: _D, *, parse: Callable[[Any], _P]
    ) -> EvaluationDetails[_P | _D]: ...
    def json_variation_details_nowait(
        self, user: User, feature_id: str, default: Any, *, parse: Callable[[Any], Any] | None = None
    ) -> EvaluationDetails[Any]:
        """As `json_variation_nowait`, with the variation, the reason and the version of the flag."""
        kind = json_kind(default, parse)
        return details(user, feature_id, self._evaluations.evaluate_nowait(user, feature_id, default, kind))
