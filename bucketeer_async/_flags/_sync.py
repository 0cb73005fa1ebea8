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
from bucketeer_async._flags._definitions import (
    CompiledFlags,
    FlagDefinition,
    SegmentDefinition,
    Steps,
    parse_flag,
    parse_segment,
)
from bucketeer_async._results import FlagChanges
from bucketeer_async._transport._responses import GetFeatureFlagsResponse, GetSegmentUsersResponse

#: Seconds after which segments are asked for again that the gateway did not have though a flag names them: what its
#: servers know may differ for so long, by their own grace for it.
ABSENT_RETRY_INTERVAL: Final = 600.0

_FNV_OFFSET: Final = 0xCBF29CE484222325  # FNV-1a, 64 bit
_FNV_PRIME: Final = 0x100000001B3
_MASK: Final = 2**64 - 1
_FLAGS_PER_STEP: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedFlags:
    """All flags that are held.

    Attributes:
        flags: By id.
        id: The gateway's name for this set of flags; "" before the first answer.
        requested_at: The gateway's time of it.
        verifiable: Whether ``id`` is the hash that we compute; false for a gateway that computes another.
        out_of_sync: Whether the gateway holds other flags than we do.
        refreshed_at: When everything was last sent, by the clock of the poller.
    """

    flags: Mapping[str, FlagDefinition] = field(default_factory=dict)
    id: str = ""
    requested_at: int = 0
    verifiable: bool = False
    out_of_sync: bool = False
    refreshed_at: float = -math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedSegments:
    """All segments that are held.

    Attributes:
        segments: By id.
        requested_at: The gateway's time of them.
        absent: Segments that flags name, and that the gateway did not have when everything was last sent.
        refreshed_at: When that was, by the clock of the poller.
    """

    segments: Mapping[str, SegmentDefinition] = field(default_factory=dict)
    requested_at: int = 0
    absent: AbstractSet[str] = frozenset()
    refreshed_at: float = -math.inf


# Flags


def flags_request(cached: CachedFlags, now: float, full_refresh_interval: float) -> tuple[str, int]:
    """Return the id and the time to poll flags with; ("", 0) asks for everything."""
    if cached.out_of_sync or now - cached.refreshed_at >= full_refresh_interval:
        return "", 0
    return cached.id, cached.requested_at


def apply_flags(
    cached: CachedFlags, answer: GetFeatureFlagsResponse, now: float, *, requested_all: bool
) -> Steps[CachedFlags]:
    """Return what is held after an answer, whose flags are taken out on the way."""
    whole = answer.force_update or requested_all or not answer.feature_flags_id
    if not whole and answer.feature_flags_id == cached.id:
        return replace(cached, requested_at=answer.requested_at)
    flags = {} if whole else dict(cached.flags)
    sent = answer.features.texts
    sent.reverse()
    while sent:
        each = parse_flag(sent.pop(), cached.flags)
        if each is not None:
            flags[each.id] = each
        yield
    for feature_id in answer.archived_feature_flag_ids:
        flags.pop(feature_id, None)
    same = (yield from hash_flags(flags.values())) == answer.feature_flags_id
    return CachedFlags(
        flags=cached.flags if _is_same(flags, cached.flags) else flags,
        id=answer.feature_flags_id,
        requested_at=answer.requested_at,
        verifiable=same if whole else cached.verifiable,
        out_of_sync=not whole and cached.verifiable and not same,
        refreshed_at=now if whole else cached.refreshed_at,
    )


def _is_same(new: Mapping[str, object], old: Mapping[str, object]) -> bool:
    return len(new) == len(old) and all(old.get(key) is value for key, value in new.items())


def hash_flags(flags: Iterable[FlagDefinition]) -> Steps[str]:
    """Return the gateway's name for a set of flags: a hash of their ids and of when they were last edited."""
    ordered = sorted((each.id.encode(errors="replace"), each.updated_at) for each in flags)
    value = _FNV_OFFSET
    for number, (feature_id, updated_at) in enumerate(ordered):
        for byte in feature_id + b":" + updated_at.encode(errors="replace"):
            value = (value ^ byte) * _FNV_PRIME & _MASK
        if number % _FLAGS_PER_STEP == 0:
            yield
    return str(value)


def has_unknown_dependency(flags: Mapping[str, FlagDefinition]) -> bool:
    """Return whether a flag depends on one that is not cached."""
    return any(dependency not in flags for each in flags.values() for dependency in each.dependencies)


# Segments


def named_segments(flags: Mapping[str, FlagDefinition]) -> set[str]:
    """Return the segments that flags name."""
    return {segment_id for each in flags.values() for segment_id in each.segments}


def missing_segments(cached: CachedSegments, named: AbstractSet[str]) -> AbstractSet[str]:
    """Return the named segments that are not cached, but for those that the gateway did not have either."""
    return named - cached.segments.keys() - cached.absent


def segments_request(cached: CachedSegments, named: AbstractSet[str], now: float, full_refresh_interval: float) -> int:
    """Return the time to poll segments with; 0 asks for everything."""
    age = now - cached.refreshed_at
    absent = not named <= cached.segments.keys()
    if age >= full_refresh_interval or missing_segments(cached, named) or (absent and age >= ABSENT_RETRY_INTERVAL):
        return 0
    return cached.requested_at


def apply_segments(
    cached: CachedSegments, answer: GetSegmentUsersResponse, named: AbstractSet[str], now: float, *, requested_all: bool
) -> Steps[CachedSegments]:
    """Return what is held after an answer, whose segments are taken out on the way."""
    whole = answer.force_update or requested_all
    known = {each.hash: (segment_id, each) for segment_id, each in cached.segments.items() if each.hash}
    sent: dict[str, SegmentDefinition] = {}
    answer.segment_users.texts.reverse()
    while answer.segment_users.texts:
        text = answer.segment_users.texts.pop()
        if hash(text) not in known:  # it is sent once for every flag that names it
            known[hash(text)] = yield from parse_segment(text)
        segment_id, each = known[hash(text)]
        if segment_id:
            sent[segment_id] = each
        yield
    kept = (
        {} if whole else {key: each for key, each in cached.segments.items() if key not in answer.deleted_segment_ids}
    )
    segments = kept | sent
    return CachedSegments(
        segments=cached.segments if _is_same(segments, cached.segments) else segments,
        requested_at=answer.requested_at,
        absent=named - segments.keys() if whole else cached.absent,
        refreshed_at=now if whole else cached.refreshed_at,
    )


# Both


def snapshot_of(flags: Mapping[str, FlagDefinition], segments: Mapping[str, SegmentDefinition]) -> Snapshot:
    """Return what questions are put to."""
    return Snapshot(
        CompiledFlags(flags), {segment_id: each.segment for segment_id, each in segments.items() if each.segment}
    )


def changes(old: Mapping[str, FlagDefinition], new: Mapping[str, FlagDefinition], tag: str) -> FlagChanges:
    """Return how the flags of a tag differ; those that came and went with the tag are added and removed."""
    before = {feature_id: each for feature_id, each in old.items() if not tag or tag in each.tags}
    after = {feature_id: each for feature_id, each in new.items() if not tag or tag in each.tags}
    return FlagChanges(
        added=frozenset(after.keys() - before.keys()),
        changed=frozenset(each for each in after.keys() & before.keys() if after[each] is not before[each]),
        removed=frozenset(before.keys() - after.keys()),
    )
