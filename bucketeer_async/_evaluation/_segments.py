"""Segments: lists of users, and rules that make other users members. Fetching segments is left to the caller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

from bucketeer_async._dataclasses import dataclass, field
from bucketeer_async._evaluation import _fields
from bucketeer_async._evaluation._clauses import ClauseContext
from bucketeer_async._evaluation._fields import Fields
from bucketeer_async._evaluation._rules import Rule, compile_rule

_STATES: Final = ("INCLUDED", "EXCLUDED")


@dataclass(frozen=True, slots=True)
class Segment:
    """A compiled segment.

    Attributes:
        id: Id of the segment.
        members: Ids of the listed users.
        misfiled_members: Ids of users who are in this segment's list although their entries have another segment's
            id, by that id. For a flag that names this segment, the users are members of the other segment.
        rules: Rules that make other users members.
    """

    id: str
    members: AbstractSet[str] = field(repr=False)
    misfiled_members: Mapping[str, AbstractSet[str]] = field(repr=False)
    rules: Sequence[Rule]


class SegmentBuilder:
    """Builds a segment from its list of users, added one by one because the list may be long."""

    __slots__ = ("_members",)

    def __init__(self) -> None:
        self._members: dict[str, set[str]] = {}

    def add(self, user: Fields) -> None:
        """Add the parsed JSON of a ``bucketeer.feature.SegmentUser``.

        Raises:
            MalformedError: If a field has the wrong type.
        """
        if _fields.enum_name(user, "state", _STATES) == "INCLUDED":
            self._members.setdefault(_fields.text(user, "segmentId"), set()).add(_fields.text(user, "userId"))

    def build(self, fields: Fields) -> Segment:
        """Return the segment that has the added users and these other fields.

        Raises:
            MalformedError: If a field has the wrong type.
        """
        segment_id = _fields.text(fields, "segmentId")
        own = self._members.pop(segment_id, set())
        rules = [compile_rule(rule) for rule in _fields.messages(fields, "rules")]
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
    """A user's membership of segments, for the evaluation of one flag.

    Args:
        segments: All known segments, by id.
        named: Ids of the segments that the flag's rules name.
        user_id: Id of the user.
        attributes: Attributes of the user.
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
        """Return whether the user is a member of any of the segments; an unknown segment has no members."""
        return any(self._is_in(segment_id) for segment_id in segment_ids)

    def _is_in(self, segment_id: str) -> bool:
        segment = self._segments.get(segment_id)
        if segment is not None and self._user_id in segment.members:
            return True
        if self._is_misfiled_member(segment_id):
            return True
        if segment is None or not segment.rules:
            return False
        # The rules of a segment cannot refer to segments or to other flags.
        context = ClauseContext(self._user_id, self._attributes, {}, in_no_segment)
        return any(rule.matches(context) for rule in segment.rules)

    def _is_misfiled_member(self, segment_id: str) -> bool:
        """Return whether another segment that the flag names lists the user with this segment's id."""
        return any(
            self._user_id in other.misfiled_members.get(segment_id, ())
            for named in self._named
            if (other := self._segments.get(named)) is not None and other.misfiled_members
        )


def in_no_segment(_segment_ids: Sequence[str]) -> bool:
    """Return False: the user is not a member of any segment."""
    return False
