"""Segments: lists of users, and rules for those who are not listed."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from bucketeer_async._evaluation import _fields
from bucketeer_async._evaluation._clauses import Condition, Question
from bucketeer_async._evaluation._fields import Fields
from bucketeer_async._evaluation._rules import compile_conditions

_STATES: Final = ("INCLUDED", "EXCLUDED")
_USERS_PER_STEP: Final = 500


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment, compiled.

    Attributes:
        id: Its id.
        members: The listed users.
        strays: Users in its list whose entry bears another segment's id, by that id: they are members there, for
            flags that name both.
        rules: Conditions that make other users members.
    """

    id: str
    members: AbstractSet[str]
    strays: Mapping[str, AbstractSet[str]]
    rules: Sequence[Condition]


def compile_segment(fields: Fields) -> Segment:
    """Compile the parsed JSON of ``bucketeer.feature.SegmentUsers``.

    Raises:
        MalformedError: If a field has the wrong type.
    """
    users = fields.get("users")
    steps = compiling_segment({**fields, "users": list(users)} if isinstance(users, list) else fields)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            segment: Segment = end.value
            return segment


def compiling_segment(fields: Fields) -> Generator[None, None, Segment]:
    """As `compile_segment`, in steps that each take about a millisecond, so that others can be let in between.

    The list of users is emptied on the way: to free a long one at once would be a long step of its own.
    """
    segment_id = _fields.text(fields, "segmentId")
    members: dict[str, set[str]] = {}
    for users in _fields.taken(fields, "users", _USERS_PER_STEP):
        for user in users:
            if _fields.member(user, "state", _STATES) == "INCLUDED":
                members.setdefault(_fields.text(user, "segmentId"), set()).add(_fields.text(user, "userId"))
        yield
    own = members.pop(segment_id, set())
    rules = [compile_conditions(rule) for rule in _fields.messages(fields, "rules")]
    return Segment(segment_id, own, members, rules)


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
        if self._is_stray(segment_id):
            return True
        if segment is None or not segment.rules:
            return False
        # Within a segment's rules there are no segments, and no other flags.
        question = Question(self._user_id, self._attributes, {}, _in_none)
        return any(rule(question) for rule in segment.rules)

    def _is_stray(self, segment_id: str) -> bool:
        """Return whether an entry in the list of another segment that the flag names bears this segment's id."""
        return any(
            self._user_id in other.strays.get(segment_id, ())
            for named in self._named
            if (other := self._segments.get(named)) is not None and other.strays
        )


def _in_none(_segment_ids: Sequence[str]) -> bool:
    return False
