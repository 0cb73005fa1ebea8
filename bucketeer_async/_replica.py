"""What is held of the server's flags and segments: what to ask for next, and what an answer makes of it.

Plain functions over frozen values; who asks, and when, is left to `_polling.py`. Functions named ``applying_*`` work in
short steps, so that others can be let in between.

The gateway answers with what has changed, and leaves some changes out. The remedies are all here:

====================================================== ==============================================================
a change that the gateway does not tell                what is done
====================================================== ==============================================================
a flag lost the tag, was deleted, or went off without  the gateway's id of its flags is a hash that is computed here
an off variation                                       too: if they differ, everything is asked for at once
the last flag of the tag is gone                       an empty id empties what is held
a flag names a segment that was last edited long ago   all segments are asked for when one is named that is not held
anything else                                          everything is asked for once per ``full_refresh_interval``
====================================================== ==============================================================
"""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple, TypeVar

from bucketeer_async._evaluation import (
    EvaluationCause,
    EvaluationError,
    Flag,
    Listed,
    MalformedError,
    Segment,
    Snapshot,
    compile_flag,
    dependencies,
    segments,
)
from bucketeer_async._evaluation._fields import Fields, texts
from bucketeer_async._reader import Reader
from bucketeer_async._reports import FlagChanges
from bucketeer_async._responses import GetFeatureFlagsResponse, GetSegmentUsersResponse

_T = TypeVar("_T")
Steps = Generator[None, None, _T]

#: Seconds after which segments are asked for again that the gateway did not have though a flag names them: what its
#: servers know may differ for so long, by their own grace for it.
ASK_AGAIN: Final = 600.0

_FNV_OFFSET: Final = 0xCBF29CE484222325  # FNV-1a, 64 bit
_FNV_PRIME: Final = 0x100000001B3
_MASK: Final = 2**64 - 1
_FLAGS_PER_STEP: Final = 20
_USERS_PER_STEP: Final = 200
_LONG: Final = 32 * 1024  # characters of a definition over which a question shall not pay for its compilation
_UNUSABLE: Final = (ValueError, TypeError, RecursionError)  # what one definition may raise; the others go on


class HeldFlag:
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
        trouble: What is wrong with it; "" if nothing is, as far as it was looked at.
    """

    __slots__ = ("_flag", "dependencies", "id", "segments", "tags", "text", "trouble", "updated_at")

    def __init__(self, feature_id: str, text: str, fields: Fields) -> None:
        self.id = feature_id
        self.text = text
        self.updated_at = str(fields.get("updatedAt") or 0)
        self.tags: tuple[str, ...] = ()
        self.dependencies: tuple[str, ...] = ()
        self.segments: tuple[str, ...] = ()
        self.trouble = ""
        self._flag: Flag | None = None
        try:
            self.tags = tuple(texts(fields, "tags"))
            self.dependencies, self.segments = tuple(dependencies(fields)), tuple(segments(fields))
        except MalformedError as error:
            self.trouble = str(error)

    @property
    def in_use(self) -> bool:
        """Whether it was asked for."""
        return self._flag is not None or bool(self.trouble)

    def compiled(self) -> Flag:
        """Return it compiled.

        Raises:
            EvaluationError: If it cannot be.
        """
        if self._flag is None:
            try:
                self._flag = compile_flag(json.loads(self.text))
            except _UNUSABLE as error:
                self.trouble = str(error) or type(error).__name__
                raise EvaluationError(EvaluationCause.MALFORMED, self.id, self.trouble) from None
        return self._flag

    def prepare(self) -> None:
        """Compile it now; if it cannot be, those who ask for it are told."""
        try:
            self.compiled()
        except EvaluationError:
            return

    def means(self, fields: Fields, text: str) -> bool:
        """Return whether it is what was sent now. White space may differ, for servers do not agree on it."""
        return self.text == text or json.loads(self.text) == fields


class CompiledFlags(Mapping[str, Flag]):
    """Flags, each compiled when it is first asked for; `EvaluationError` for one that cannot be."""

    __slots__ = ("_held",)

    def __init__(self, held: Mapping[str, HeldFlag]) -> None:
        self._held = held

    def __getitem__(self, feature_id: str) -> Flag:
        return self._held[feature_id].compiled()

    def __contains__(self, feature_id: object) -> bool:
        return feature_id in self._held

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)


class HeldSegment(NamedTuple):
    """A segment, compiled.

    Attributes:
        segment: None if it could not be compiled.
        hash: Of its JSON, which is not kept; 0 if unknown.
        rules: The JSON of its rules.
        trouble: Why it could not be compiled.
    """

    segment: Segment | None
    hash: int = 0
    rules: str = "[]"
    trouble: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldFlags:
    """All flags that are held.

    Attributes:
        flags: By id.
        id: The gateway's name for this set of flags; "" before the first answer.
        requested_at: The gateway's time of it.
        verifiable: Whether ``id`` is the hash that we compute; false for a gateway that computes another.
        doubted: Whether the gateway holds other flags than we do.
        full_at: When everything was last sent, by the clock of the poller.
    """

    flags: Mapping[str, HeldFlag] = field(default_factory=dict)
    id: str = ""
    requested_at: int = 0
    verifiable: bool = False
    doubted: bool = False
    full_at: float = -math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldSegments:
    """All segments that are held.

    Attributes:
        segments: By id.
        requested_at: The gateway's time of them.
        absent: Segments that flags name, and that the gateway did not have when everything was last sent.
        full_at: When that was, by the clock of the poller.
    """

    segments: Mapping[str, HeldSegment] = field(default_factory=dict)
    requested_at: int = 0
    absent: AbstractSet[str] = frozenset()
    full_at: float = -math.inf


# Flags


def flags_request(held: HeldFlags, now: float, full_refresh_interval: float) -> tuple[str, int]:
    """Return the id and the time to poll flags with; ("", 0) asks for everything."""
    if held.doubted or now - held.full_at >= full_refresh_interval:
        return "", 0
    return held.id, held.requested_at


def applying_flags(
    held: HeldFlags, answer: GetFeatureFlagsResponse, now: float, *, asked_for_all: bool
) -> Steps[HeldFlags]:
    """Return what is held after an answer, whose flags are taken out on the way."""
    whole = answer.force_update or asked_for_all or not answer.feature_flags_id
    if not whole and answer.feature_flags_id == held.id:
        return replace(held, requested_at=answer.requested_at)
    flags = {} if whole else dict(held.flags)
    sent = answer.features.texts
    sent.reverse()
    while sent:
        each = _hold_flag(sent.pop(), held.flags)
        if each is not None:
            flags[each.id] = each
        yield
    for feature_id in answer.archived_feature_flag_ids:
        flags.pop(feature_id, None)
    same = (yield from hashing_flags(flags.values())) == answer.feature_flags_id
    return HeldFlags(
        flags=held.flags if _is_same(flags, held.flags) else flags,
        id=answer.feature_flags_id,
        requested_at=answer.requested_at,
        verifiable=same if whole else held.verifiable,
        doubted=not whole and held.verifiable and not same,
        full_at=now if whole else held.full_at,
    )


def _hold_flag(text: str, held: Mapping[str, HeldFlag]) -> HeldFlag | None:
    """Hold a flag unless it is held already; None if it cannot even be told which it is."""
    fields = json.loads(text)
    feature_id = fields.get("id")
    if not isinstance(feature_id, str) or not feature_id:
        return None
    before = held.get(feature_id)
    if before is not None and before.means(fields, text):
        return before
    new = HeldFlag(feature_id, text, fields)
    if len(text) > _LONG or (before is not None and before.in_use):
        new.prepare()
    return new


def _is_same(new: Mapping[str, object], old: Mapping[str, object]) -> bool:
    return len(new) == len(old) and all(old.get(key) is value for key, value in new.items())


def hashing_flags(flags: Iterable[HeldFlag]) -> Steps[str]:
    """Return the gateway's name for a set of flags: a hash of their ids and of when they were last edited."""
    ordered = sorted((each.id.encode(errors="replace"), each.updated_at) for each in flags)
    value = _FNV_OFFSET
    for number, (feature_id, updated_at) in enumerate(ordered):
        for byte in feature_id + b":" + updated_at.encode(errors="replace"):
            value = (value ^ byte) * _FNV_PRIME & _MASK
        if number % _FLAGS_PER_STEP == 0:
            yield
    return str(value)


def names_unknown_flag(flags: Mapping[str, HeldFlag]) -> bool:
    """Return whether a flag depends on one that is not held."""
    return any(dependency not in flags for each in flags.values() for dependency in each.dependencies)


# Segments


def named_segments(flags: Mapping[str, HeldFlag]) -> set[str]:
    """Return the segments that flags name."""
    return {segment_id for each in flags.values() for segment_id in each.segments}


def missing_segments(held: HeldSegments, named: AbstractSet[str]) -> AbstractSet[str]:
    """Return the named segments that are not held, but for those that the gateway did not have either."""
    return named - held.segments.keys() - held.absent


def segments_request(held: HeldSegments, named: AbstractSet[str], now: float, full_refresh_interval: float) -> int:
    """Return the time to poll segments with; 0 asks for everything."""
    age = now - held.full_at
    absent = not named <= held.segments.keys()
    if age >= full_refresh_interval or missing_segments(held, named) or (absent and age >= ASK_AGAIN):
        return 0
    return held.requested_at


def applying_segments(
    held: HeldSegments, answer: GetSegmentUsersResponse, named: AbstractSet[str], now: float, *, asked_for_all: bool
) -> Steps[HeldSegments]:
    """Return what is held after an answer, whose segments are taken out on the way."""
    whole = answer.force_update or asked_for_all
    known = {each.hash: (segment_id, each) for segment_id, each in held.segments.items() if each.hash}
    sent: dict[str, HeldSegment] = {}
    answer.segment_users.texts.reverse()
    while answer.segment_users.texts:
        text = answer.segment_users.texts.pop()
        if hash(text) not in known:  # it is sent once for every flag that names it
            known[hash(text)] = yield from _holding_segment(text)
        segment_id, each = known[hash(text)]
        if segment_id:
            sent[segment_id] = each
        yield
    kept = {} if whole else {key: each for key, each in held.segments.items() if key not in answer.deleted_segment_ids}
    segments = kept | sent
    return HeldSegments(
        segments=held.segments if _is_same(segments, held.segments) else segments,
        requested_at=answer.requested_at,
        absent=named - segments.keys() if whole else held.absent,
        full_at=now if whole else held.full_at,
    )


def _holding_segment(text: str) -> Steps[tuple[str, HeldSegment]]:
    """Return the id of a segment, "" if it has none, and the segment, compiled."""
    reader, listed, fields, trouble = Reader(text), Listed(), {}, ""
    for key in reader.members():
        if key == "users" and reader.peek() == "[":
            for number, _ in enumerate(reader.entries(), 1):
                trouble = _add(listed, reader.value()) or trouble
                if number % _USERS_PER_STEP == 0:
                    yield
        else:
            fields[key] = reader.value()
    segment, trouble = _segment(listed, fields, trouble)
    segment_id = fields.get("segmentId")
    rules = json.dumps(fields.get("rules") or [])
    return segment_id if isinstance(segment_id, str) else "", HeldSegment(segment, hash(text), rules, trouble)


def _add(listed: Listed, user: object) -> str:
    """Add a user to a list; return what is wrong with it."""
    if not isinstance(user, Mapping):
        return f"users has an entry that is not an object but {type(user).__name__}"
    try:
        listed.add(user)
    except MalformedError as error:
        return str(error)
    return ""


def _segment(listed: Listed, fields: Fields, trouble: str) -> tuple[Segment | None, str]:
    if fields.get("users") is not None:
        trouble = "users is not a list"
    if trouble:
        return None, trouble
    try:
        return listed.segment(fields), ""
    except _UNUSABLE as error:
        return None, str(error)


# Both


def snapshot_of(flags: Mapping[str, HeldFlag], segments: Mapping[str, HeldSegment]) -> Snapshot:
    """Return what questions are put to."""
    return Snapshot(
        CompiledFlags(flags), {segment_id: each.segment for segment_id, each in segments.items() if each.segment}
    )


def changes(old: Mapping[str, HeldFlag], new: Mapping[str, HeldFlag], tag: str) -> FlagChanges:
    """Return how the flags of a tag differ; those that came and went with the tag are added and removed."""
    before = {feature_id: each for feature_id, each in old.items() if not tag or tag in each.tags}
    after = {feature_id: each for feature_id, each in new.items() if not tag or tag in each.tags}
    return FlagChanges(
        added=frozenset(after.keys() - before.keys()),
        changed=frozenset(each for each in after.keys() & before.keys() if after[each] is not before[each]),
        removed=frozenset(before.keys() - after.keys()),
    )
