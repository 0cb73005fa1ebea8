"""Segments: lists of users, and rules for those who are not listed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from bucketeer_async._evaluation import _fields
from bucketeer_async._evaluation._clauses import ClauseContext, Condition
from bucketeer_async._evaluation._fields import Fields
from bucketeer_async._evaluation._rules import compile_conditions

_STATES: Final = ("INCLUDED", "EXCLUDED")


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment, compiled.

    Attributes:
        id: Its id.
        members: The listed users.
        misfiled_members: Users in its list whose entry bears another segment's id, by that id: they are members there, for
            flags that name both.
        rules: Conditions that make other users members.
    """

    id: str
    members: AbstractSet[str]
    misfiled_members: Mapping[str, AbstractSet[str]]
    rules: Sequence[Condition]


class SegmentBuilder:
    """The users that the list of a segment names, read one by one, for lists may be long."""

    __slots__ = ("_members",)

    def __init__(self) -> None:
        self._members: dict[str, set[str]] = {}

    def add(self, user: Fields) -> None:
        """Read the parsed JSON of a ``bucketeer.feature.SegmentUser``.

        Raises:
            MalformedError: If a field has the wrong type.
        """
        if _fields.member(user, "state", _STATES) == "INCLUDED":
            self._members.setdefault(_fields.text(user, "segmentId"), set()).add(_fields.text(user, "userId"))

    def build(self, fields: Fields) -> Segment:
        """Return the segment, whose other fields are read here.

        Raises:
            MalformedError: If a field has the wrong type.
        """
        segment_id = _fields.text(fields, "segmentId")
        own = self._members.pop(segment_id, set())
        rules = [compile_conditions(rule) for rule in _fields.messages(fields, "rules")]
        return Segment(segment_id, own, self._members, rules)


def compile_segment(fields: Fields) -> Segment:
    """Compile the parsed JSON of ``bucketeer.feature.SegmentUsers``.

    Raises:
        MalformedError: If a field has the wrong type.
    """
    builder = SegmentBuilder()
    for user in _fields.messages(fields, "users"):
        builder.add(user)
    return builder.build(fields)


class Membership:
    """Answers whether one user is in segments, on behalf of one flag.

    Args:
        segments: All that are known, by id.
        named: Those that the flag's rules name.
        user_id: The user.
        attributes: The user's.
    """

    __slots__ = ("_attributes", "_named", "_segments", "_user_id")

    def __init__(
        self, segments: Mapping[str, Segment], named: Sequence[str], user_id: str, attributes: Mapping[str, str]
    ) -> None:
        self._segments = segments
        self._named = named
        self._user_id = user_id
        self._attributes = attributes

    def __call__(self, segment_ids: Sequence[str]) -> bool:
        """Return whether the user is in any of them; one that is not known has no members."""
        return any(self._is_in(segment_id) for segment_id in segment_ids)

    def _is_in(self, segment_id: str) -> bool:
        segment = self._segments.get(segment_id)
        if segment is not None and self._user_id in segment.members:
            return True
        if self._is_misfiled_member(segment_id):
            return True
        if segment is None or not segment.rules:
            return False
        # Within a segment's rules there are no segments, and no other flags.
        context = ClauseContext(self._user_id, self._attributes, {}, in_no_segment)
        return any(rule(context) for rule in segment.rules)

    def _is_misfiled_member(self, segment_id: str) -> bool:
        """Return whether an entry in the list of another segment that the flag names bears this segment's id."""
        return any(
            self._user_id in other.misfiled_members.get(segment_id, ())
            for named in self._named
            if (other := self._segments.get(named)) is not None and other.misfiled_members
        )


def in_no_segment(_segment_ids: Sequence[str]) -> bool:
    """Return that a user is in none of some segments."""
    return False
