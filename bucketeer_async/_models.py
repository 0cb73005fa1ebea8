"""The values that go in through the public surface: frozen, checked where they are made.

Nothing here knows a clock, a loop or the wire's encoding; `_events/_encoder.py` and `_transport/_codec.py` do the encoding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import IntEnum, StrEnum
from functools import partial
from types import MappingProxyType
from typing import Final, Generic, TypeVar

_T = TypeVar("_T")
_E = TypeVar("_E", bound=IntEnum)

_REPAIRED_NAMES: Final = frozenset({"userAttributesUpdated", "user_attributes_updated"})


class ReasonType(IntEnum):
    """Why a variation was chosen; names and numbers of ``bucketeer.feature.Reason.Type``."""

    TARGET = 0
    RULE = 1
    DEFAULT = 3
    CLIENT = 4
    OFF_VARIATION = 5
    PREREQUISITE = 6
    ERROR_NO_EVALUATIONS = 20
    ERROR_FLAG_NOT_FOUND = 21
    ERROR_WRONG_TYPE = 22
    ERROR_USER_ID_NOT_SPECIFIED = 23
    ERROR_FEATURE_FLAG_ID_NOT_SPECIFIED = 24
    ERROR_EXCEPTION = 25
    ERROR_CACHE_NOT_FOUND = 26

    @property
    def is_error(self) -> bool:
        """True for ``CLIENT`` and ``ERROR_*``: the default was served, so no variation id is needed."""
        return self is ReasonType.CLIENT or self >= ReasonType.ERROR_NO_EVALUATIONS


class ApiId(IntEnum):
    """The operation that a metrics event is about; names and numbers of ``bucketeer.event.client.ApiId``."""

    GET_EVALUATION = 1
    GET_EVALUATIONS = 2
    REGISTER_EVENTS = 3
    GET_FEATURE_FLAGS = 4
    GET_SEGMENT_USERS = 5
    SDK_GET_VARIATION = 100


class EventKind(StrEnum):
    """The classes of events, which are counted apart."""

    GOAL = "goal"
    EVALUATION = "evaluation"
    METRICS = "metrics"


def check_text(name: str, value: object, *, empty: bool = True) -> str:
    """Return ``value`` if it is text the gateway can decode.

    Args:
        name: What an error message calls the value.
        value: Anything.
        empty: Whether ``""`` is accepted.

    Raises:
        TypeError: If it is not a str.
        ValueError: If it is empty though it must not be, or holds a lone surrogate, which is not valid UTF-8:
            one such character makes the gateway refuse the whole request.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    if not empty and not value:
        raise ValueError(f"{name} must not be empty")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{name} has a lone surrogate at index {error.start}; it must be valid Unicode") from None
    return value


def check_int32(name: str, value: object, *, minimum: int = -(2**31)) -> int:
    """Return ``value`` if it is an int from ``minimum`` to 2**31 - 1.

    Raises:
        TypeError: If it is not an int.
        ValueError: If it is out of range.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if not minimum <= value < 2**31:
        raise ValueError(f"{name} must be from {minimum} to {2**31 - 1}")
    return value


def check_enum(name: str, value: object, kind: type[_E]) -> _E:
    """Return ``value`` if it is a member of ``kind``.

    Raises:
        TypeError: If it is anything else, also a plain int.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a member of {kind.__name__}, not {type(value).__name__}")
    return value


def _check_attributes(attributes: object) -> Mapping[str, str]:
    if not isinstance(attributes, Mapping):
        raise TypeError(f"User.attributes must be a mapping of str to str, not {type(attributes).__name__}")
    copy: dict[str, str] = {}
    for key, value in attributes.items():
        check_text("a key of User.attributes", key)
        if key in _REPAIRED_NAMES:
            raise ValueError(
                f"User.attributes must not have the name {key!r}: the gateway turns a value such as 'true' under it "
                "into a boolean, and then refuses the whole request"
            )
        copy[key] = check_text(f"User.attributes[{key!r}]", value)
    return MappingProxyType(copy)


class _Encodable:
    """Keeps what its events say about it, made by `_events/_encoder.py` when it is first needed; no field of anybody's."""

    __slots__ = ("_encoded",)
    _encoded: str


@dataclass(frozen=True, slots=True)
class User(_Encodable):
    """Who a flag is asked for.

    Args:
        id: Identifies the user; not empty.
        attributes: Names and values for targeting; all of them str, nothing is coerced. They are copied:
            what happens to the mapping afterwards does not change the user.

    Raises:
        TypeError: If the id, the mapping, a name or a value has the wrong type.
        ValueError: If the id is empty, a text holds a lone surrogate, or an attribute is named
            ``userAttributesUpdated`` (or ``user_attributes_updated``).
    """

    id: str
    attributes: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_encoded", "")
        check_text("User.id", self.id, empty=False)
        object.__setattr__(self, "attributes", _check_attributes(self.attributes))

    def __reduce__(self) -> tuple[type[User], tuple[str, dict[str, str]]]:
        return (User, (self.id, dict(self.attributes)))


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a variation was chosen.

    Args:
        type: The kind of reason.
        rule_id: The rule that matched, with ``ReasonType.RULE``.

    Raises:
        TypeError: If a field has the wrong type.
        ValueError: If ``rule_id`` holds a lone surrogate.
    """

    type: ReasonType
    rule_id: str = ""

    def __post_init__(self) -> None:
        check_enum("Reason.type", self.type, ReasonType)
        check_text("Reason.rule_id", self.rule_id)


class _Copied(_Encodable):
    """Knows the one that it was made of for another user, which keeps what their events say alike."""

    __slots__ = ("_prototype",)
    _prototype: Evaluation | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation(_Copied):
    """The variation that a flag gave to a user, as the gateway or a local evaluation answered.

    Args:
        feature_id: The flag; not empty.
        variation_id: The variation; empty only with a reason for which a default is served.
        feature_version: Version of the flag, a non-negative int32.
        user_id: The user that was asked for.
        variation_name: Name of the variation.
        variation_value: Its value, always as text.
        reason: Why it was chosen.

    Raises:
        TypeError: If a field has the wrong type.
        ValueError: If an id is empty, the version is out of range, or a text holds a lone surrogate.
    """

    feature_id: str
    variation_id: str
    reason: Reason
    feature_version: int = 0
    user_id: str = ""
    variation_name: str = ""
    variation_value: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_encoded", "")
        object.__setattr__(self, "_prototype", None)
        check_text("Evaluation.feature_id", self.feature_id, empty=False)
        if not isinstance(self.reason, Reason):
            raise TypeError(f"Evaluation.reason must be a Reason, not {type(self.reason).__name__}")
        check_text("Evaluation.variation_id", self.variation_id, empty=self.reason.type.is_error)
        check_int32("Evaluation.feature_version", self.feature_version, minimum=0)
        for name in ("user_id", "variation_name", "variation_value"):
            check_text(f"Evaluation.{name}", getattr(self, name))

    def __reduce__(self) -> tuple[Callable[[], Evaluation], tuple[()]]:
        return (partial(Evaluation, **{each.name: getattr(self, each.name) for each in fields(self)}), ())


_set_feature_id = Evaluation.__dict__["feature_id"].__set__
_set_variation_id = Evaluation.__dict__["variation_id"].__set__
_set_reason = Evaluation.__dict__["reason"].__set__
_set_feature_version = Evaluation.__dict__["feature_version"].__set__
_set_user_id = Evaluation.__dict__["user_id"].__set__
_set_variation_name = Evaluation.__dict__["variation_name"].__set__
_set_variation_value = Evaluation.__dict__["variation_value"].__set__
_set_encoded = _Encodable.__dict__["_encoded"].__set__
_set_prototype = _Copied.__dict__["_prototype"].__set__


def evaluation_of(prototype: Evaluation, user_id: str) -> Evaluation:
    """Return ``prototype`` for another user, whose id was checked before: in a fifth of the constructor's time."""
    evaluation = object.__new__(Evaluation)
    _set_feature_id(evaluation, prototype.feature_id)
    _set_variation_id(evaluation, prototype.variation_id)
    _set_reason(evaluation, prototype.reason)
    _set_feature_version(evaluation, prototype.feature_version)
    _set_user_id(evaluation, user_id)
    _set_variation_name(evaluation, prototype.variation_name)
    _set_variation_value(evaluation, prototype.variation_value)
    _set_encoded(evaluation, "")
    _set_prototype(evaluation, prototype)
    return evaluation


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationDetails(Generic[_T]):
    """The answer to a question, and where it comes from.

    Attributes:
        feature_id: The flag that was asked for.
        value: The variation's value, or the default.
        reason: Why it is that; ``reason.type.is_error`` tells that it is the default.
        user_id: The user that was asked for; "" if that was no valid user.
        feature_version: Version of the flag; 0 with the default.
        variation_id: The variation; "" with the default.
        variation_name: Its name; "" with the default.
    """

    feature_id: str
    value: _T
    reason: Reason
    user_id: str = ""
    feature_version: int = 0
    variation_id: str = ""
    variation_name: str = ""
