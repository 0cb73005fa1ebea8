"""Definitions of flags and segments, made from the JSON that the gateway sends.

A function that returns `Steps` is a generator that does long work in short steps: its caller decides whether other
tasks run between two steps.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping
from typing import Final, TypeVar

from bucketeer_async._dataclasses import dataclass, field
from bucketeer_async._evaluation import (
    EvaluationCause,
    EvaluationError,
    Flag,
    MalformedError,
    Segment,
    SegmentBuilder,
    compile_flag,
    dependencies,
    lacks_yaml,
    segments,
)
from bucketeer_async._evaluation._fields import Fields, texts
from bucketeer_async._transport._json_reader import Reader

_T = TypeVar("_T")
Steps = Generator[None, None, _T]

_USERS_PER_STEP: Final = 200
_LONG: Final = 32 * 1024  # characters; a longer definition is compiled on arrival, because it would delay an evaluation
_COMPILE_ERRORS: Final = (ValueError, TypeError, RecursionError)  # what a malformed definition may raise


class FlagDefinition:
    """A flag's definition as the gateway sent it, compiled on first use; a failure is kept like a compiled flag.

    A compiled flag consists of some hundred objects. A large environment has thousands of flags, of which one service
    evaluates a few. Compiling all flags would cost seconds, memory, and garbage collector pauses of half a second.

    Attributes:
        id: Id of the flag.
        text: The definition as JSON.
        updated_at: Time of the last edit, in the gateway's form.
        tags: Tags of the flag.
        dependencies: Ids of the flags that the flag depends on.
        segments: Ids of the segments that the flag's rules name.
        problem: Why the definition is malformed; "" while no problem is known.
        lacks_yaml: Whether the values are YAML, and the extra ``yaml`` is not installed.
    """

    __slots__ = ("_flag", "dependencies", "id", "lacks_yaml", "problem", "segments", "tags", "text", "updated_at")

    def __init__(self, feature_id: str, text: str, fields: Fields) -> None:
        self.id = feature_id
        self.text = text
        self.updated_at = str(fields.get("updatedAt") or 0)
        self.tags: tuple[str, ...] = ()
        self.dependencies: tuple[str, ...] = ()
        self.segments: tuple[str, ...] = ()
        self.problem = ""
        self.lacks_yaml = lacks_yaml(fields)
        self._flag: Flag | None = None
        try:
            self.tags = tuple(texts(fields, "tags"))
            self.dependencies, self.segments = tuple(dependencies(fields)), tuple(segments(fields))
        except MalformedError as error:
            self.problem = str(error)

    @property
    def unusable(self) -> bool:
        """Whether evaluations of the flag are known to fail."""
        return self.lacks_yaml or bool(self.problem)

    @property
    def in_use(self) -> bool:
        """Whether the flag was compiled, or is known to be malformed."""
        return self._flag is not None or bool(self.problem)

    def compiled(self) -> Flag:
        """Return the compiled flag.

        Raises:
            EvaluationError: If the definition is malformed.
        """
        if self._flag is None and not self.problem:
            try:
                self._flag = compile_flag(json.loads(self.text))
            except _COMPILE_ERRORS as error:
                self.problem = str(error) or type(error).__name__
        if self._flag is None:
            raise EvaluationError(EvaluationCause.MALFORMED, self.id, self.problem)
        return self._flag

    def prepare(self) -> None:
        """Compile the flag now; an error is raised again by `compiled`."""
        try:
            self.compiled()
        except EvaluationError:
            return

    def matches_json(self, fields: Fields, text: str) -> bool:
        """Return whether ``text``, parsed as ``fields``, is the same definition; servers may differ in white space."""
        return self.text == text or json.loads(self.text) == fields


class CompiledFlags(Mapping[str, Flag]):
    """Compiled flags by id. Each flag is compiled on first lookup; a malformed flag raises an `EvaluationError`."""

    __slots__ = ("_definitions",)

    def __init__(self, definitions: Mapping[str, FlagDefinition]) -> None:
        self._definitions = definitions

    def __getitem__(self, feature_id: str) -> Flag:
        return self._definitions[feature_id].compiled()

    def __contains__(self, feature_id: object) -> bool:
        return feature_id in self._definitions

    def __iter__(self) -> Iterator[str]:
        return iter(self._definitions)

    def __len__(self) -> int:
        return len(self._definitions)


@dataclass(frozen=True, slots=True)
class SegmentDefinition:
    """A segment's definition, compiled on arrival.

    Attributes:
        segment: The compiled segment; None if the definition is malformed.
        rules: The segment's rules, as `rules_json` returns them.
        problem: Why the definition is malformed; "" if it is not.
    """

    segment: Segment | None
    rules: str = field(default="[]", repr=False)  # may name users
    problem: str = ""

    def has_content_of(self, other: SegmentDefinition) -> bool:
        """Return whether two definitions have the same members and rules; compiled rules cannot be compared."""
        mine, theirs = self.segment, other.segment
        if mine is None or theirs is None:
            return mine is theirs and self.problem == other.problem
        return (self.rules, mine.members, mine.misfiled_members) == (
            other.rules,
            theirs.members,
            theirs.misfiled_members,
        )


def rules_json(rules: object) -> str:
    """Return the rules of a segment as JSON, which is the same for the same rules."""
    return json.dumps(rules or [], sort_keys=True)


def parse_flag(text: str, cached: Mapping[str, FlagDefinition]) -> FlagDefinition | None:
    """Return a flag's definition: the cached one if it is the same, else a new one; None if the JSON has no id."""
    fields = json.loads(text)
    feature_id = fields.get("id")
    if not isinstance(feature_id, str) or not feature_id:
        return None
    previous = cached.get(feature_id)
    if previous is not None and previous.matches_json(fields, text):
        return previous
    definition = FlagDefinition(feature_id, text, fields)
    if len(text) > _LONG or (previous is not None and previous.in_use):
        definition.prepare()
    return definition


def parse_segment(text: str) -> Steps[tuple[str, SegmentDefinition]]:
    """Return the id of a segment, or "" if the JSON has none, and the segment's definition; in short steps."""
    reader, builder, fields, problem = Reader(text), SegmentBuilder(), {}, ""
    for key in reader.members():
        if key == "users" and reader.peek() == "[":
            for number, _ in enumerate(reader.entries(), 1):
                problem = _add_user(builder, reader.value()) or problem
                if number % _USERS_PER_STEP == 0:
                    yield
        else:
            fields[key] = reader.value()
    segment, problem = _build_segment(builder, fields, problem)
    segment_id = fields.get("segmentId")
    definition = SegmentDefinition(segment, rules_json(fields.get("rules")), problem)
    return segment_id if isinstance(segment_id, str) else "", definition


def _add_user(builder: SegmentBuilder, user: object) -> str:
    """Add a user to a segment; return why the user is malformed, or ""."""
    if not isinstance(user, Mapping):
        return f"an entry of users must be an object, not {type(user).__name__}"
    try:
        builder.add(user)
    except MalformedError as error:
        return str(error)
    return ""


def _build_segment(builder: SegmentBuilder, fields: Fields, problem: str) -> tuple[Segment | None, str]:
    if fields.get("users") is not None:
        problem = "users must be a list"
    if problem:
        return None, problem
    try:
        return builder.build(fields), ""
    except _COMPILE_ERRORS as error:
        return None, str(error)
