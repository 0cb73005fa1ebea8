"""Clauses of rules: each clause is a condition on a user, compiled to a function that has its values already parsed.

Joining the clauses of a rule is left to `_rules.py`, the membership of segments to `_segments.py`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from bucketeer_async import _go_numbers as _numbers
from bucketeer_async._dataclasses import dataclass
from bucketeer_async._evaluation import _fields, _versions
from bucketeer_async._evaluation._fields import Fields

OPERATORS: Final = (
    "EQUALS",
    "IN",
    "ENDS_WITH",
    "STARTS_WITH",
    "SEGMENT",
    "GREATER",
    "GREATER_OR_EQUAL",
    "LESS",
    "LESS_OR_EQUAL",
    "BEFORE",
    "AFTER",
    "FEATURE_FLAG",
    "PARTIALLY_MATCH",
    "NOT_EQUALS",
)


class UserLike(Protocol):
    """A `User`, or any other object with an id and attributes."""

    @property
    def id(self) -> str: ...
    @property
    def attributes(self) -> Mapping[str, str]: ...


@dataclass(slots=True, repr=False)
class ClauseContext:
    """The input of a condition.

    Attributes:
        user_id: Id of the user.
        attributes: Attributes of the user.
        dependency_variations: Ids of the variations that the flag's dependencies serve to the user, by flag id.
        is_member: Returns whether the user is a member of any of the given segments.
    """

    user_id: str
    attributes: Mapping[str, str]
    dependency_variations: Mapping[str, str]
    is_member: Callable[[Sequence[str]], bool]


Condition = Callable[[ClauseContext], bool]
_TextTest = Callable[[str], bool]
_Comparison = Callable[[Any, Any], bool]

_ORDER: Final[Mapping[str, _Comparison]] = {
    "GREATER": operator.gt,
    "GREATER_OR_EQUAL": operator.ge,
    "LESS": operator.lt,
    "LESS_OR_EQUAL": operator.le,
}


@dataclass(slots=True, repr=False, eq=False)
class Clause:
    """A compiled clause; without a repr, because the values may be the ids of users.

    Attributes:
        matches: The condition.
        attribute: Name of the user's attribute, "id" for the user's id; with ``FEATURE_FLAG`` the id of a flag.
        operator: Name of the operator; as given if this version does not know the operator.
        values: The values, as given.
    """

    matches: Condition
    attribute: str
    operator: str
    values: Sequence[str]

    def subject(self, context: ClauseContext) -> str | None:
        """Return what is compared with the values; None if the user does not have the attribute, and with ``SEGMENT``."""
        if self.operator == "SEGMENT":
            return None
        if self.operator == "FEATURE_FLAG":
            return context.dependency_variations.get(self.attribute)
        return context.user_id if self.attribute == "id" else context.attributes.get(self.attribute)


def never(_context: ClauseContext) -> bool:
    """Match no user; the condition of an operator that this version does not know."""
    return False


def compile_clause(fields: Fields) -> Clause:
    """Compile the parsed JSON of ``bucketeer.feature.Clause``.

    Raises:
        MalformedError: If a field has the wrong type.
    """
    kind = _fields.enum_name(fields, "operator", OPERATORS)
    attribute = _fields.text(fields, "attribute")
    values = _fields.texts(fields, "values")
    return Clause(_condition(kind, attribute, values), attribute, kind or str(fields.get("operator")), values)


def _condition(kind: str, attribute: str, values: Sequence[str]) -> Condition:
    if kind == "SEGMENT":
        return lambda context: context.is_member(values)
    if kind == "FEATURE_FLAG":
        variations = frozenset(values)
        return lambda context: context.dependency_variations.get(attribute) in variations
    make = _TESTS.get(kind)
    return never if make is None else _attribute_condition(attribute, make(values))


def _attribute_condition(attribute: str, test: _TextTest) -> Condition:
    """Return a condition on the user's id or on an attribute; a missing attribute counts as the empty string."""
    if attribute == "id":
        return lambda context: test(context.user_id)
    return lambda context: test(context.attributes.get(attribute, ""))


def _equals(values: Sequence[str]) -> _TextTest:
    texts = frozenset(values)
    versions = frozenset(version for value in values if (version := _versions.version(value)) is not None)
    if not versions:
        return texts.__contains__  # no value is a version, so a subject that is a version equals none of them

    def test(subject: str) -> bool:
        version = _versions.version(subject)
        return subject in texts if version is None else version in versions

    return test


def _not_equals(values: Sequence[str]) -> _TextTest:
    equals = _equals(values)
    return lambda subject: not equals(subject)


def _starts_with(values: Sequence[str]) -> _TextTest:
    prefixes = tuple(values)
    return lambda subject: subject.startswith(prefixes)


def _ends_with(values: Sequence[str]) -> _TextTest:
    suffixes = tuple(values)
    return lambda subject: subject.endswith(suffixes)


def _partially_match(values: Sequence[str]) -> _TextTest:
    return lambda subject: any(value in subject for value in values)


def _ordering(kind: str) -> Callable[[Sequence[str]], _TextTest]:
    """Compare numbers if the subject is a number, versions if the subject is a version, and strings otherwise."""
    compare = _ORDER[kind]

    def make(values: Sequence[str]) -> _TextTest:
        numbers = [number for value in values if (number := _numbers.number(value)) is not None]
        versions = [version for value in values if (version := _versions.version(value)) is not None]

        def test(subject: str) -> bool:
            number = _numbers.number(subject)
            if number is not None:
                return any(compare(number, each) for each in numbers)
            version = _versions.version(subject)
            if version is not None:
                return any(compare(version, each) for each in versions)
            return any(compare(subject, each) for each in values)

        return test

    return make


def _time(compare: _Comparison) -> Callable[[Sequence[str]], _TextTest]:
    """Compare integers, by convention Unix seconds; a subject that is not an integer does not match."""

    def make(values: Sequence[str]) -> _TextTest:
        times = [time for value in values if (time := _numbers.integer(value)) is not None]

        def test(subject: str) -> bool:
            time = _numbers.integer(subject)
            return time is not None and any(compare(time, each) for each in times)

        return test

    return make


_TESTS: Final[Mapping[str, Callable[[Sequence[str]], _TextTest]]] = {
    "EQUALS": _equals,
    "IN": _equals,
    "NOT_EQUALS": _not_equals,
    "STARTS_WITH": _starts_with,
    "ENDS_WITH": _ends_with,
    "PARTIALLY_MATCH": _partially_match,
    **{kind: _ordering(kind) for kind in _ORDER},
    "BEFORE": _time(operator.lt),
    "AFTER": _time(operator.gt),
}
