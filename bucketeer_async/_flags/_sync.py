"""What is held of the server's flags and segments: what to ask for next, and what an answer makes of it.

Plain functions over frozen values; who asks, and when, is left to `_flags/_poller.py`. Functions named ``applying_*`` work in
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

import math
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Final

from bucketeer_async._evaluation import Snapshot
from bucketeer_async._flags._definitions import CompiledFlags, HeldFlag, HeldSegment, Steps, hold_flag, holding_segment
from bucketeer_async._results import FlagChanges
from bucketeer_async._transport._responses import GetFeatureFlagsResponse, GetSegmentUsersResponse

#: Seconds after which segments are asked for again that the gateway did not have though a flag names them: what its
#: servers know may differ for so long, by their own grace for it.
ASK_AGAIN: Final = 600.0

_FNV_OFFSET: Final = 0xCBF29CE484222325  # FNV-1a, 64 bit
_FNV_PRIME: Final = 0x100000001B3
_MASK: Final = 2**64 - 1
_FLAGS_PER_STEP: Final = 20


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
        each = hold_flag(sent.pop(), held.flags)
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
            known[hash(text)] = yield from holding_segment(text)
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
