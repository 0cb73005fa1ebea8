"""Synchronization with the gateway's flags and segments: what to request next, and what a response changes.

Plain functions over frozen values; sending the requests is left to `_poller.py`. A function that returns `Steps`
is a generator that does long work in short steps.

The gateway responds with what has changed, but its responses omit some changes. All workarounds are in this module:

====================================================== ==============================================================
omitted change                                         workaround
====================================================== ==============================================================
a flag lost the tag, was deleted, or was switched off  the gateway's id of its flags is a hash, which is computed in
and has no off variation                               this process too: if the hashes differ, all flags are
                                                       requested at once
the last flag of the tag is gone                       an empty id removes all cached flags
a flag names a segment that was last edited long ago   all segments are requested when a flag names a segment that
                                                       is not cached
an edit of a segment that the gateway's caches did not each poll requests segments from `SEGMENT_GRACE` seconds
have yet when the gateway responded                    before the cursor, see below
any other change                                       everything is requested once per ``full_refresh_interval``
====================================================== ==============================================================

The cursor of segments. Flags have a hash, so that a missed change is noticed. Segments have none: the gateway sends
those with ``updatedAt >= requestedAt``, from caches that may lag a minute behind an edit. An edit during this lag is
dated before the ``requestedAt`` of the response that lacks it, so a poll that echoed this time would never get the
edit. These invariants hold:

- The cursor is the greatest ``requestedAt`` of the responses about segments since the last one with all segments.
  A response without changes repeats the time that was requested, which lies before the cursor: the cursor never moves
  back.
- A response with all segments sets the cursor, even to an earlier time: the gateway's clock may have been corrected.
- A poll requests from ``cursor - SEGMENT_GRACE``, and never from a time below 1: 0 requests all segments.
- For `SEGMENT_GRACE` seconds after an edit, the gateway therefore sends the segment with each poll. A segment with the
  content of the cached one leaves the cached one in place, so that no new snapshot is published.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Final

from bucketeer_async._dataclasses import dataclass, field
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

#: Seconds after which all segments are requested again if a flag names a segment that the gateway did not have. The
#: caches of the gateway's servers may differ for this long.
ABSENT_RETRY_INTERVAL: Final = 600.0

#: Seconds before the cursor from which segments are requested. The gateway grants the same time for changes of flags.
SEGMENT_GRACE: Final = 600

_FNV_OFFSET: Final = 0xCBF29CE484222325  # FNV-1a, 64 bit
_FNV_PRIME: Final = 0x100000001B3
_MASK: Final = 2**64 - 1
_FLAGS_PER_STEP: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedFlags:
    """All cached flags.

    Attributes:
        flags: The definitions by id.
        id: The gateway's id of this set of flags; "" before the first response.
        requested_at: Time of the last response by the gateway's clock, in Unix seconds.
        verifiable: Whether ``id`` equals the result of `hash_flags`; False for a gateway that computes another hash.
        out_of_sync: Whether the gateway is known to have other flags.
        refreshed_at: Time of the last response with all flags, in seconds of the poller's clock.
    """

    flags: Mapping[str, FlagDefinition] = field(default_factory=dict)
    id: str = ""
    requested_at: int = 0
    verifiable: bool = False
    out_of_sync: bool = False
    refreshed_at: float = -math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedSegments:
    """All cached segments.

    Attributes:
        segments: The definitions by id.
        hashes: Hash of each segment's JSON as it was last sent, by id; segments from a bootstrap have none.
        cursor: Time up to which the gateway has sent changes, by the gateway's clock, in Unix seconds.
        absent: Ids of segments that flags name and the last response with all segments did not contain.
        refreshed_at: Time of the last response with all segments, in seconds of the poller's clock.
    """

    segments: Mapping[str, SegmentDefinition] = field(default_factory=dict)
    hashes: Mapping[str, int] = field(default_factory=dict)
    cursor: int = 0
    absent: AbstractSet[str] = frozenset()
    refreshed_at: float = -math.inf


# Flags


def flags_request(cached: CachedFlags, now: float, full_refresh_interval: float) -> tuple[str, int]:
    """Return the ``feature_flags_id`` and ``requested_at`` of the next request; ("", 0) requests all flags."""
    if cached.out_of_sync or now - cached.refreshed_at >= full_refresh_interval:
        return "", 0
    return cached.id, cached.requested_at


def apply_flags(
    cached: CachedFlags, response: GetFeatureFlagsResponse, now: float, *, requested_all: bool
) -> Steps[CachedFlags]:
    """Return the cached flags after a response, in short steps that remove the flags from the response."""
    is_full = response.force_update or requested_all or not response.feature_flags_id
    if not is_full and response.feature_flags_id == cached.id:
        return replace(cached, requested_at=response.requested_at)
    flags = {} if is_full else dict(cached.flags)
    sent = response.features.texts
    sent.reverse()
    while sent:
        each = parse_flag(sent.pop(), cached.flags)
        if each is not None:
            flags[each.id] = each
        yield
    for feature_id in response.archived_feature_flag_ids:
        flags.pop(feature_id, None)
    hashes_match = (yield from hash_flags(flags.values())) == response.feature_flags_id
    return CachedFlags(
        flags=cached.flags if _is_same(flags, cached.flags) else flags,
        id=response.feature_flags_id,
        requested_at=response.requested_at,
        verifiable=hashes_match if is_full else cached.verifiable,
        out_of_sync=not is_full and cached.verifiable and not hashes_match,
        refreshed_at=now if is_full else cached.refreshed_at,
    )


def _is_same(new: Mapping[str, object], old: Mapping[str, object]) -> bool:
    return len(new) == len(old) and all(old.get(key) is value for key, value in new.items())


def hash_flags(flags: Iterable[FlagDefinition]) -> Steps[str]:
    """Return the gateway's id of a set of flags, a hash of ids and times of the last edits; in short steps."""
    ordered = sorted((each.id.encode(errors="replace"), each.updated_at) for each in flags)
    value = _FNV_OFFSET
    for number, (feature_id, updated_at) in enumerate(ordered):
        for byte in feature_id + b":" + updated_at.encode(errors="replace"):
            value = (value ^ byte) * _FNV_PRIME & _MASK
        if number % _FLAGS_PER_STEP == 0:
            yield
    return str(value)


def has_unknown_dependency(flags: Mapping[str, FlagDefinition]) -> bool:
    """Return whether a flag depends on a flag that is not cached."""
    return any(dependency not in flags for each in flags.values() for dependency in each.dependencies)


# Segments


def named_segments(flags: Mapping[str, FlagDefinition]) -> set[str]:
    """Return the ids of the segments that flags name."""
    return {segment_id for each in flags.values() for segment_id in each.segments}


def missing_segments(cached: CachedSegments, named: AbstractSet[str]) -> AbstractSet[str]:
    """Return the ids of the named segments that are not cached, without those that the gateway did not have."""
    return named - cached.segments.keys() - cached.absent


def segments_request(cached: CachedSegments, named: AbstractSet[str], now: float, full_refresh_interval: float) -> int:
    """Return the ``requested_at`` of the next request; 0 requests all segments."""
    age = now - cached.refreshed_at
    absent = not named <= cached.segments.keys()
    if age >= full_refresh_interval or missing_segments(cached, named) or (absent and age >= ABSENT_RETRY_INTERVAL):
        return 0
    return max(1, cached.cursor - SEGMENT_GRACE)


def apply_segments(
    cached: CachedSegments,
    response: GetSegmentUsersResponse,
    named: AbstractSet[str],
    now: float,
    *,
    requested_all: bool,
) -> Steps[CachedSegments]:
    """Return the cached segments after a response, in short steps that remove the segments from the response."""
    is_full = response.force_update or requested_all
    sent, hashes = yield from _parse_segments(cached, response.segment_users.texts)
    removed = cached.segments.keys() if is_full else response.deleted_segment_ids
    kept = {key: each for key, each in cached.segments.items() if key not in removed}
    segments = kept | sent
    return CachedSegments(
        segments=cached.segments if _is_same(segments, cached.segments) else segments,
        hashes={key: each for key, each in {**cached.hashes, **hashes}.items() if key in segments},
        cursor=response.requested_at if is_full else max(cached.cursor, response.requested_at),
        absent=named - segments.keys() if is_full else cached.absent,
        refreshed_at=now if is_full else cached.refreshed_at,
    )


def _parse_segments(
    cached: CachedSegments, texts: list[str]
) -> Steps[tuple[dict[str, SegmentDefinition], dict[str, int]]]:
    """Return the definitions of the sent segments and the hashes of their JSON, both by id; empty the list of texts."""
    known = {text_hash: (segment_id, cached.segments[segment_id]) for segment_id, text_hash in cached.hashes.items()}
    sent: dict[str, SegmentDefinition] = {}
    hashes: dict[str, int] = {}
    texts.reverse()
    while texts:
        text = texts.pop()
        text_hash = hash(text)
        if text_hash not in known:  # the gateway sends a segment once for every flag that names it
            segment_id, parsed = yield from parse_segment(text)
            before = cached.segments.get(segment_id, parsed)
            known[text_hash] = segment_id, before if before.has_content_of(parsed) else parsed
        segment_id, definition = known[text_hash]
        if segment_id:
            sent[segment_id], hashes[segment_id] = definition, text_hash
        yield
    return sent, hashes


# Both


def snapshot_of(flags: Mapping[str, FlagDefinition], segments: Mapping[str, SegmentDefinition]) -> Snapshot:
    """Return a snapshot for the evaluator; malformed segments are left out."""
    return Snapshot(
        CompiledFlags(flags), {segment_id: each.segment for segment_id, each in segments.items() if each.segment}
    )


def changes(old: Mapping[str, FlagDefinition], new: Mapping[str, FlagDefinition], tag: str) -> FlagChanges:
    """Return how the flags of a tag differ. A flag that got or lost the tag counts as added or removed."""
    before = {feature_id: each for feature_id, each in old.items() if not tag or tag in each.tags}
    after = {feature_id: each for feature_id, each in new.items() if not tag or tag in each.tags}
    return FlagChanges(
        added=frozenset(after.keys() - before.keys()),
        changed=frozenset(each for each in after.keys() & before.keys() if after[each] is not before[each]),
        removed=frozenset(before.keys() - after.keys()),
    )
