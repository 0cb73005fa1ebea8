"""One flag and one segment of the server, as they are cached: made of the JSON that was sent.

Functions named ``holding_*`` work in short steps, so that others can be let in between.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping
from typing import Final, NamedTuple, TypeVar

from bucketeer_async._evaluation import (
    EvaluationCause,
    EvaluationError,
    Flag,
    MalformedError,
    Segment,
    SegmentBuilder,
    compile_flag,
    dependencies,
    segments,
)
from bucketeer_async._evaluation._fields import Fields, texts
from bucketeer_async._transport._json_reader import Reader

_T = TypeVar("_T")
Steps = Generator[None, None, _T]

_USERS_PER_STEP: Final = 200
_LONG: Final = 32 * 1024  # characters of a definition over which a question shall not pay for its compilation
_UNUSABLE: Final = (ValueError, TypeError, RecursionError)  # what one definition may raise; the others go on


class FlagDefinition:
    """A flag as it was sent; compiled when it is first asked for.

    A compiled flag is some hundred objects, and a large environment has thousands of flags, of which one service asks
    for a few: to compile them all would cost seconds, memory, and pauses of the garbage collector of half a second.

    Attributes:
        id: Its id.
        text: Its JSON.
        updated_at: When it was last edited, as it was sent.
        tags: Its tags.
        dependencies: Flags that it depends on.
        segments: Segments that it names.
        problem: What is wrong with it; "" if nothing is, as far as it was looked at.
    """

    __slots__ = ("_flag", "dependencies", "id", "problem", "segments", "tags", "text", "updated_at")

    def __init__(self, feature_id: str, text: str, fields: Fields) -> None:
        self.id = feature_id
        self.text = text
        self.updated_at = str(fields.get("updatedAt") or 0)
        self.tags: tuple[str, ...] = ()
        self.dependencies: tuple[str, ...] = ()
        self.segments: tuple[str, ...] = ()
        self.problem = ""
        self._flag: Flag | None = None
        try:
            self.tags = tuple(texts(fields, "tags"))
            self.dependencies, self.segments = tuple(dependencies(fields)), tuple(segments(fields))
        except MalformedError as error:
            self.problem = str(error)

    @property
    def in_use(self) -> bool:
        """Whether it was asked for."""
        return self._flag is not None or bool(self.problem)

    def compiled(self) -> Flag:
        """Return it compiled.

        Raises:
            EvaluationError: If it cannot be.
        """
        if self._flag is None:
            try:
                self._flag = compile_flag(json.loads(self.text))
            except _UNUSABLE as error:
                self.problem = str(error) or type(error).__name__
                raise EvaluationError(EvaluationCause.MALFORMED, self.id, self.problem) from None
        return self._flag

    def prepare(self) -> None:
        """Compile it now; if it cannot be, those who ask for it are told."""
        try:
            self.compiled()
        except EvaluationError:
            return

    def matches_json(self, fields: Fields, text: str) -> bool:
        """Return whether it is what was sent now. White space may differ, for servers do not agree on it."""
        return self.text == text or json.loads(self.text) == fields


class CompiledFlags(Mapping[str, Flag]):
    """Flags, each compiled when it is first asked for; `EvaluationError` for one that cannot be."""

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


class SegmentDefinition(NamedTuple):
    """A segment, compiled.

    Attributes:
        segment: None if it could not be compiled.
        hash: Of its JSON, which is not kept; 0 if unknown.
        rules: The JSON of its rules.
        problem: Why it could not be compiled.
    """

    segment: Segment | None
    hash: int = 0
    rules: str = "[]"
    problem: str = ""


def parse_flag(text: str, cached: Mapping[str, FlagDefinition]) -> FlagDefinition | None:
    """Hold a flag unless it is held already; None if it cannot even be told which it is."""
    fields = json.loads(text)
    feature_id = fields.get("id")
    if not isinstance(feature_id, str) or not feature_id:
        return None
    before = cached.get(feature_id)
    if before is not None and before.matches_json(fields, text):
        return before
    new = FlagDefinition(feature_id, text, fields)
    if len(text) > _LONG or (before is not None and before.in_use):
        new.prepare()
    return new


def parse_segment(text: str) -> Steps[tuple[str, SegmentDefinition]]:
    """Return the id of a segment, "" if it has none, and the segment, compiled."""
    reader, builder, fields, problem = Reader(text), SegmentBuilder(), {}, ""
    for key in reader.members():
        if key == "users" and reader.peek() == "[":
            for number, _ in enumerate(reader.entries(), 1):
                problem = _add(builder, reader.value()) or problem
                if number % _USERS_PER_STEP == 0:
                    yield
        else:
            fields[key] = reader.value()
    segment, problem = _segment(builder, fields, problem)
    segment_id = fields.get("segmentId")
    rules = json.dumps(fields.get("rules") or [])
    return segment_id if isinstance(segment_id, str) else "", SegmentDefinition(segment, hash(text), rules, problem)


def _add(builder: SegmentBuilder, user: object) -> str:
    """Add a user to a list; return what is wrong with it."""
    if not isinstance(user, Mapping):
        return f"users has an entry that is not an object but {type(user).__name__}"
    try:
        builder.add(user)
    except MalformedError as error:
        return str(error)
    return ""


def _segment(builder: SegmentBuilder, fields: Fields, problem: str) -> tuple[Segment | None, str]:
    if fields.get("users") is not None:
        problem = "users is not a list"
    if problem:
        return None, problem
    try:
        return builder.build(fields), ""
    except _UNUSABLE as error:
        return None, str(error)
