"""Value types of the public API: frozen, and validated when they are created.

This module has no clock and no event loop. Encoding is left to `_events/_encoder.py` and `_transport/_codec.py`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from enum import IntEnum, StrEnum
from functools import partial
from typing import Final, Generic, NoReturn, TypeVar

from bucketeer_async._dataclasses import dataclass, field

_T_co = TypeVar("_T_co", covariant=True)
_E = TypeVar("_E", bound=IntEnum)

_CONTROL: Final = r"[\x00-\x1f\x7f-\x9f]"  # the characters of Unicode's category Cc
_LONGEST_REPR: Final = 200  # characters, in error messages
_REPAIRED_NAMES: Final = frozenset({"userAttributesUpdated", "user_attributes_updated"})


class ReasonType(IntEnum):
    """Why a variation was chosen, with the names and numbers of ``bucketeer.feature.Reason.Type``."""

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
        """True for ``CLIENT`` and ``ERROR_*``, the reasons for serving the caller's default."""
        return self is ReasonType.CLIENT or self >= ReasonType.ERROR_NO_EVALUATIONS


class ApiId(IntEnum):
    """The operation that a metrics event describes, with the names and numbers of ``bucketeer.event.client.ApiId``."""

    GET_EVALUATION = 1
    GET_EVALUATIONS = 2
    REGISTER_EVENTS = 3
    GET_FEATURE_FLAGS = 4
    GET_SEGMENT_USERS = 5
    SDK_GET_VARIATION = 100


class EventKind(StrEnum):
    """The kinds of events. Each kind has its own counters.

    The value names the field of `Statistics` and of `DrainReport` that has the counters of the kind.
    """

    GOAL = "goal"
    EVALUATION = "evaluation"
    METRICS = "metrics"

    # An Enum hashes its name, by a function in Python; a str hashes in C, and once. Counters are looked up by kind.
    __hash__ = str.__hash__


def shown(value: object) -> str:
    """Return the repr of a value for an error message, shortened; the name of its type if it has no repr."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - an int of more than 4300 digits, or a method of the application's
        return f"{type(value).__name__}(...)"
    return text if len(text) <= _LONGEST_REPR else f"{text[:_LONGEST_REPR]}..."


def check_text(name: str, value: object, *, empty: bool = True) -> str:
    """Return ``value`` if it is a str that the gateway can decode.

    Args:
        name: Name of the value in error messages.
        value: The value to check.
        empty: Whether the empty string is accepted.

    Raises:
        TypeError: If the value is not a str.
        ValueError: If the value is empty and ``empty`` is False, or contains a lone surrogate. A lone surrogate is not
            valid Unicode: the gateway refuses the whole request that contains one.
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


def words_of(error: Exception, argument: str) -> str:
    """Return what is wrong with an argument, by the error that a check of it raised.

    Args:
        error: The error.
        argument: What is said to have raised it if it is none of our checks: a method of the argument, such as a proxy
            whose object is gone. The text of such an error may raise, too.
    """
    if type(error) in {TypeError, ValueError}:
        with contextlib.suppress(Exception):
            return str(error)
    return f"{argument} raised {type(error).__name__}"


def check_tag(name: str, value: object, *, empty: bool = True) -> str:
    """Return ``value`` if it is a tag: text that is neither blank nor has control characters; "" is no tag.

    Args:
        name: Name of the value in error messages.
        value: The value to check.
        empty: Whether the empty string is accepted.

    Raises:
        TypeError: If the value is not a str.
        ValueError: If the value consists of blanks, contains a control character, or is not valid Unicode.
    """
    tag = check_text(name, value, empty=empty)
    if tag and (not tag.strip() or re.search(_CONTROL, tag)):
        raise ValueError(f"{name} must be text without control characters that is not blank, not {shown(tag)}")
    return tag


def check_int32(name: str, value: object, *, minimum: int = -(2**31)) -> int:
    """Return ``value`` if it is an int from ``minimum`` to 2**31 - 1.

    Raises:
        TypeError: If the value is not an int; a bool is not accepted.
        ValueError: If the value is out of range.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if not minimum <= value < 2**31:
        raise ValueError(f"{name} must be from {minimum} to {2**31 - 1}, not {shown(value)}")
    return value


def check_enum(name: str, value: object, kind: type[_E]) -> _E:
    """Return ``value`` if it is a member of ``kind``.

    Raises:
        TypeError: If the value is not a member; a plain int is not accepted.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a member of {kind.__name__}, not {type(value).__name__}")
    return value


class _Attributes(dict[str, str]):
    """Attributes of a user: a dict that cannot be changed, because `dataclasses.asdict` and `json` know only dicts."""

    __slots__ = ()

    def _refuse(self, *_arguments: object, **_named: object) -> NoReturn:
        raise TypeError("User.attributes cannot be changed: make another User, with a copy by dict(user.attributes)")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type[dict[str, str]], tuple[dict[str, str]]]:
        return (dict, (dict(self),))


def _check_attributes(attributes: object) -> Mapping[str, str]:
    if not isinstance(attributes, Mapping):
        raise TypeError(f"User.attributes must be a mapping of str to str, not {type(attributes).__name__}")
    copy: dict[str, str] = {}
    for key, value in attributes.items():
        check_text("a key of User.attributes", key)
        if key in _REPAIRED_NAMES:
            raise ValueError(
                f"User.attributes must not have the name {key!r}: the gateway would turn a value such as 'true' "
                "into a boolean, and refuse the whole request"
            )
        copy[key] = check_text(f"User.attributes[{key!r}]", value)
    return _Attributes(copy)


class _Encodable:
    """Has a slot in which `_events/_encoder.py` caches the object's JSON. The slot is not a dataclass field."""

    __slots__ = ("_encoded",)
    _encoded: str


@dataclass(frozen=True, slots=True, repr=False)
class User(_Encodable):
    """The user for whom flags are evaluated.

    The repr contains neither the id nor the attributes, because error trackers keep it with the variables of a traceback.

    Args:
        id: Id of the user; not empty.
        attributes: Attributes for targeting, by name. Names and values must be str and are not coerced. The mapping is
            copied, so later changes to it do not change the user.

    Raises:
        TypeError: If the id, the mapping, a name or a value has the wrong type.
        ValueError: If the id is empty, a str contains a lone surrogate, or an attribute is named
            ``userAttributesUpdated`` or ``user_attributes_updated``.
    """

    id: str
    attributes: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_encoded", "")
        check_text("User.id", self.id, empty=False)
        object.__setattr__(self, "attributes", _check_attributes(self.attributes))

    def __repr__(self) -> str:
        if not isinstance(self.attributes, _Attributes):  # the constructor has raised, and its variables are shown
            return "<User>"
        return f"<User with {len(self.attributes)} attributes>"

    def __reduce__(self) -> tuple[type[User], tuple[str, dict[str, str]]]:
        return (User, (self.id, dict(self.attributes)))


def check_user(user: object) -> User:
    """Return ``user`` if it is a `User`; a copy of a subclass, or of a proxy of one, of which only the fields are trusted.

    Raises:
        TypeError: If it is anything else, such as a mock, or cannot even say what it is, as a proxy whose object is gone.
    """
    try:
        if isinstance(user, User):
            return user if type(user) is User else User(user.id, user.attributes)
    except Exception:  # noqa: BLE001, S110 - whatever the argument's own code raises
        pass
    raise TypeError(f"user must be a User, not {type(user).__name__}")


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a variation was chosen.

    Args:
        type: The type of the reason.
        rule_id: Id of the rule that matched, with ``ReasonType.RULE``; otherwise "".

    Raises:
        TypeError: If a field has the wrong type.
        ValueError: If ``rule_id`` contains a lone surrogate.
    """

    type: ReasonType
    rule_id: str = ""

    def __post_init__(self) -> None:
        check_enum("Reason.type", self.type, ReasonType)
        check_text("Reason.rule_id", self.rule_id)


class _Copied(_Encodable):
    """Has a slot for the evaluation of which this one is a copy for another user; the two share the cached JSON."""

    __slots__ = ("_prototype",)
    _prototype: Evaluation | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation(_Copied):
    """The variation that a flag serves to a user, from the gateway or from local evaluation.

    Args:
        feature_id: Id of the flag; not empty.
        variation_id: Id of the variation; may be empty only if ``reason.type.is_error``.
        feature_version: Version of the flag, from 0 to 2**31 - 1.
        user_id: Id of the user; not in the repr.
        variation_name: Name of the variation.
        variation_value: Value of the variation, as text.
        reason: Why the variation was chosen.

    Raises:
        TypeError: If a field has the wrong type.
        ValueError: If ``feature_id`` or ``variation_id`` is empty, the version is out of range, or a str contains a
            lone surrogate.
    """

    feature_id: str
    variation_id: str
    reason: Reason
    feature_version: int = 0
    user_id: str = field(default="", repr=False)
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
    """Return a copy of ``prototype`` for another user; the id is not checked, which saves four fifths of the time."""
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
class EvaluationDetails(Generic[_T_co]):
    """The value of a flag for a user, with the reason.

    Attributes:
        feature_id: Id of the flag.
        value: The variation's value, or the caller's default.
        reason: Why this value was chosen.
        user_id: Id of the user; "" if the argument was not a `User`. Not in the repr.
        feature_version: Version of the flag; 0 if the value is the default.
        variation_id: Id of the variation; "" if the value is the default.
        variation_name: Name of the variation; "" if the value is the default.
        error: Why the value is the default, in words; "" if nothing failed. It contains no API key, user or payload, but
            for the text of what ``parse`` has raised, which may show the value of the flag, and is not logged.
    """

    feature_id: str
    value: _T_co
    reason: Reason
    user_id: str = field(default="", repr=False)
    feature_version: int = 0
    variation_id: str = ""
    variation_name: str = ""
    error: str = ""

    @property
    def is_default(self) -> bool:
        """Whether the value is the caller's default; ``error`` says why, and is "" if the client is disabled."""
        return self.reason.type.is_error
